"""Lines that grep can read, and a panel that fits its terminal, whatever the terminal can show."""

import contextlib
import io
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from rich.console import Console

from trainer.monitor.console import Lines, Terminal, open_display
from trainer.monitor.panel import _bars, _chart, _layers
from trainer.monitor.readable import duration, short
from trainer.monitor.summary import coloured_table, summary_table

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


def numbers_of(step: int) -> dict[str, float]:
    loss = 2.3 * math.exp(-step / 300)
    layers = {f"grad_norm/{layer}.{kind}": loss for layer in ("conv1", "conv2", "fc1") for kind in ("weight", "bias")}
    return {"train/loss": loss, "lr": 0.1, "grad_norm": 3 * loss, "time/samples_per_second": 12345.6, **layers}


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (0.0, "0"),
        (1.0, "1.000"),
        (0.97, "0.9700"),
        (12.3456, "12.35"),
        (12345.6, "12346"),
        (0.001, "0.001000"),
        (-0.5, "-0.5000"),
        (3.0012e7, "3.001e+07"),
        (1e-6, "1.000e-06"),
        (math.nan, "nan"),
        (-math.inf, "-inf"),
    ],
)
def test_short_numbers(number: float, expected: str) -> None:
    assert short(number) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"), [(7.4, "0:07"), (59.6, "1:00"), (754, "12:34"), (3723, "1:02:03"), (273906, "3d 4:05:06")]
)
def test_durations(seconds: float, expected: str) -> None:
    assert duration(seconds) == expected


# --- lines ------------------------------------------------------------------------------------------------------------


def lines_of(every: int, max_steps: int, updates: Mapping[int, dict[str, float]]) -> list[str]:
    stream = io.StringIO()
    display = Lines(every, max_steps, stream)
    for step in range(1, max_steps + 1):
        display.tick(step)
        if step in updates:
            display.update(step, updates[step])
    display.stop()
    return stream.getvalue().splitlines()


def test_a_line_holds_what_a_person_compares() -> None:
    everything = {
        **numbers_of(500),
        "weight_norm/fc1.weight": 1.0,
        "update_ratio/fc1.weight": 1.0,
        "nonfinite_gradients": 0,
    }
    assert lines_of(500, 1000, {500: everything}) == [
        "step=500 train/loss=0.4344 lr=0.1000 grad_norm=1.303 time/samples_per_second=12346"
    ]


def test_lines_are_as_far_apart_as_asked() -> None:
    """Numbers come every 30 steps: a line at the first step that has some after each 100, and at the last step."""
    updates = {step: {"train/loss": 1.0} for step in [*range(30, 400, 30), 400]}
    steps = [int(re.match(r"step=(\d+) ", line)[1]) for line in lines_of(100, 400, updates)]  # type: ignore[index]
    assert steps == [30, 120, 210, 300, 400]
    assert [line.split()[0] for line in lines_of(1, 3, {step: {"lr": 1.0} for step in (1, 2, 3)})] == [
        "step=1",
        "step=2",
        "step=3",
    ]


def test_every_evaluation_has_its_line() -> None:
    lines = lines_of(
        0, 100, {10: {"train/loss": 1.0}, 20: {"val/loss": 0.5, "val/accuracy": 0.875}, 100: {"test/loss": 0.4}}
    )
    assert lines == ["step=20 val/loss=0.5000 val/accuracy=0.8750", "step=100 test/loss=0.4000"]


def test_lines_in_an_encoding_without_their_signs() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    display = Lines(1, 2, stream)
    display.start(["größe · 3"])
    display.stop([("ä", "1")])
    stream.flush()
    assert stream.buffer.getvalue() == b"gr??e ? 3\n?  1\n"  # type: ignore[attr-defined]


def test_the_final_table_is_aligned_and_shown_once() -> None:
    stream = io.StringIO()
    display = Lines(1, 2, stream)
    rows = [("test/accuracy", "0.9812"), ("run", "runs/try1")]
    display.stop(rows)
    display.stop(rows)
    assert stream.getvalue() == "test/accuracy  0.9812\nrun            runs/try1\n"
    alone = io.StringIO()
    summary_table(rows, alone)
    assert alone.getvalue() == stream.getvalue()


def test_training_goes_on_when_nobody_reads() -> None:
    """`train | head -1`: silence, and exit code 0. And lines need no rich."""
    program = """if True:
        import sys
        from trainer.monitor.console import open_display
        display = open_display(100_000, 10, every=1)
        display.start(["title"])
        for step in range(1, 100_001):
            display.tick(step)
            display.update(step, {"train/loss": 1 / step})
        display.note("note")
        display.stop([("a", "b")])
        assert "rich" not in sys.modules
        print("all steps done", file=sys.stderr)
    """
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(), text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "title\n"
        process.stdout.close()
        assert process.stderr.read() == "all steps done\n"
        assert process.wait() == 0


def test_a_stream_closed_on_our_side() -> None:
    stream = io.StringIO()
    display = Lines(1, 2, stream)
    stream.close()
    display.update(1, {"train/loss": 1.0})
    display.stop()


# --- the panel --------------------------------------------------------------------------------------------------------


def environment(**extra: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **extra}


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests do not depend on the terminal that they are started from."""
    monkeypatch.setenv("TERM", "xterm-256color")
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)


class Screen:
    """A terminal of some size, and what was written to it."""

    def __init__(self, width: int, height: int, encoding: str = "utf-8") -> None:
        self.bytes = io.BytesIO()
        self.file = io.TextIOWrapper(self.bytes, encoding=encoding, write_through=True)
        self.console = Console(file=self.file, force_terminal=True, width=width, height=height, highlight=False)

    def raw(self) -> str:
        return self.bytes.getvalue().decode(self.file.encoding)

    def lines(self) -> list[str]:
        """Every panel that was drawn, one under the other: each begins with the cursor going back up."""
        return ESCAPE.sub("", self.raw().replace("\r", "\n")).split("\n")


def train_on(screen: Screen, steps: int = 300, max_steps: int = 600) -> Terminal:
    """A run that got half-way; the last panel stays on the screen."""
    display = Terminal(max_steps, 50, console=screen.console)
    display.start(["LeNet on digits"])
    for step in range(1, steps + 1):
        display.tick(step)
        if step % 20 == 0:
            display.update(step, numbers_of(step))
        if step % 100 == 0:
            display.update(step, {"val/loss": 2.0, "val/accuracy": step / 600})
    return display


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize(("width", "height"), [(80, 24), (60, 24), (60, 20), (200, 60)])
def test_the_panel_shows_everything_and_fits(width: int, height: int, encoding: str) -> None:
    screen = Screen(width, height, encoding)
    display = train_on(screen)
    display.note("warning: the learning rate may be too small")
    display.stop([("test/accuracy", "0.9812")])
    lines = screen.lines()
    assert max(map(len, lines)) <= width
    top = max(i for i, line in enumerate(lines) if line.startswith(("╭", "+--")) and "50 %" in lines[i + 1])
    bottom = next(i for i in range(top + 1, len(lines)) if lines[i].startswith(("╰", "+--")))
    assert bottom - top + 1 <= height - 1, "the panel alone never fills the terminal"
    panel = "\n".join(lines[top : bottom + 1])
    for words in (
        "step 300/600  epoch 6.0",
        " left",
        f"train/loss {short(numbers_of(300)['train/loss'])}",
        "val/loss",
        "2.000",
        "val/accuracy",
        "0.5000 +0.2",
        "lr",
        "gradient norm per layer",
        "conv1",
        short(math.sqrt(2) * numbers_of(300)["train/loss"]),
    ):
        assert re.search(re.sub(r"\\? +", r"\\s+", re.escape(words)), panel), (words, panel)
    assert "grad_norm/conv1" not in panel
    assert "warning: the learning rate may be too small" in lines[:top] + lines[top:]
    assert lines[0] == "LeNet on digits"
    assert re.fullmatch(r"test/accuracy +0.9812 *", lines[-2])
    assert screen.raw().count("\x1b[?25h") == 1, "the cursor is back"


@pytest.mark.parametrize(("width", "rows"), [(79, 1), (78, 1), (60, 2), (30, 3)])
def test_a_terminal_that_becomes_narrower_keeps_nothing_of_the_old_panel(width: int, rows: int) -> None:
    """It has broken each line of the old panel into so many rows: the cursor goes up as many."""
    screen = Screen(80, 24)
    display = Terminal(600, 50, console=screen.console)
    display._live.start(refresh=True)
    height = screen.raw().count("\n") + 1
    screen.console.width = width
    drawn = len(screen.raw())
    display.note("a line")
    assert screen.raw()[drawn:].count("\x1b[1A") == height * rows - 1
    display._live.stop()


def test_a_full_line_of_the_terminal_stays_free_for_what_it_writes_itself() -> None:
    """^C, behind the panel: in a full line it would move the panel by a row."""
    for width in (40, 80, 101):
        lines = [line for line in train_stopped(Screen(width, 24)).lines() if "\u2570" in line]
        assert lines
        assert max(map(len, lines)) <= width - 2


def train_stopped(screen: Screen) -> Screen:
    train_on(screen).stop()
    return screen


def test_long_names_are_whole_where_there_is_room() -> None:
    screen = Screen(80, 24)
    display = Terminal(600, 50, console=screen.console)
    display.start([])
    display.update(
        1, {"train/loss": 1.0, "train/loss/cross_entropy": 0.75, "val/loss/a_name_that_is_far_too_long_for_it": 2.0}
    )
    display.stop()
    text = "\n".join(screen.lines())
    assert re.search(r"train/loss/cross_entropy +0.7500", text)
    assert re.search(r"\.\.\S+far_too_long_for_it +2.000", text), "its end tells it apart"


@pytest.mark.parametrize("width", [60, 80, 200])
def test_no_word_of_the_summary_is_broken(width: int) -> None:
    folder = "runs/two_layer-random_regression/2026-11-26_055404-07bf"
    advice = "step 200: Random targets can only be learnt so. Else look whether each input has its own target."
    rows = [("nothing carries over", advice), ("run folder", folder), ("look at it", f"train board {folder}")]
    lines = coloured_table(rows, width).plain.split("\n")
    assert " ".join(" ".join(lines).split()) == " ".join(" ".join(row) for row in rows)
    assert max(map(len, lines)) <= max(width, len(folder) + 22)
    if width >= 70:
        assert any(line.strip().endswith(f"train board {folder}") for line in lines), "to be copied"


@pytest.mark.parametrize(("width", "height"), [(40, 12), (20, 5), (10, 3), (1, 1)])
def test_small_terminals_are_survived(width: int, height: int) -> None:
    screen = Screen(width, height)
    train_on(screen).stop([("a", "b")])
    assert "\x1b[?25h" in screen.raw()


def test_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    coloured = Screen(80, 24)
    train_on(coloured).stop()
    monkeypatch.setenv("NO_COLOR", "1")
    plain = Screen(80, 24)
    train_on(plain).stop()
    colours = re.compile(r"\x1b\[([0-9;]*;)?(3[0-8]|9[0-7])[;m]")
    assert colours.search(coloured.raw())
    assert not colours.search(plain.raw())


def test_the_panel_redraws_itself_but_not_too_often() -> None:
    screen = Screen(80, 24)
    display = Terminal(1000, 10, console=screen.console)
    display.start([])
    display.tick(123)  # nobody calls update
    time.sleep(0.5)
    drawn = screen.raw()
    display.stop()
    assert "123/1,000" in drawn
    assert 2 <= drawn.count("╭") <= 7, "the first, and at most ten a second"


def test_updates_while_the_panel_is_drawn() -> None:
    screen = Screen(80, 24)
    display = Terminal(10**6, 10, console=screen.console)
    display.start([])
    until, step = time.monotonic() + 0.4, 0
    while time.monotonic() < until or step <= 5000:
        step += 1
        display.update(step, {"train/loss": 1 / step, f"val/{step % 50}": 1.0})
    display.stop()
    assert len(display._panel._curves["train/loss"]) <= 4000, "the curve was thinned out"
    assert [display._panel._curves["train/loss"][i][0] for i in (0, -1)] == [1, step]


def test_the_terminal_may_go_away() -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(5, "Input/output error")

    display = Terminal(10, 10, console=Console(file=Gone(), force_terminal=True, width=80, height=24))
    display.start(["title"])
    time.sleep(0.15)
    display.update(1, {"train/loss": 1.0})
    display.note("note")
    display.stop([("a", "b")])


def test_on_a_real_terminal() -> None:
    """The display that stdout asks for: a panel on a pseudo-terminal, with what the user prints above it."""
    program = """if True:
        import time
        from trainer.monitor.console import open_display
        display = open_display(20, 5, every=1)
        display.start(["title"])
        for step in range(1, 21):
            time.sleep(0.01)
            display.tick(step)
            display.update(step, {"train/loss": 1 / step})
        print("from the model")
        display.stop([("test/accuracy", "0.9812")])
    """
    for terminal, is_panel in (("xterm", True), ("dumb", False)):
        pty = pytest.importorskip("pty")
        main, other = pty.openpty()
        env = environment(TERM=terminal, PYTHONIOENCODING="utf-8", COLUMNS="80", LINES="24")
        with subprocess.Popen([sys.executable, "-c", program], stdout=other, stderr=other, env=env) as process:
            os.close(other)
            shown = b""
            with open(main, "rb", buffering=0) as reader:
                try:
                    while piece := reader.read(65536):
                        shown += piece
                except OSError:  # how a pseudo-terminal says that its other side is closed
                    pass
            assert process.wait() == 0
        text = ESCAPE.sub("", shown.decode())
        assert "from the model" in text
        assert re.search(r"test/accuracy +0.9812", text)
        assert ("╭" in text) == is_panel
        assert ("step=20 train/loss=0.05000" in text) == (not is_panel)


@pytest.mark.slow
def test_the_curve_of_a_run_that_goes_on_begins_with_what_was_before(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "trainer", "model=two_layer", "name=run", "monitor=off", "monitor.every=10"]
    subprocess.run([*words, "max_steps=60"], cwd=tmp_path, env=environment(), check=True, capture_output=True)
    pty = pytest.importorskip("pty")
    main, other = pty.openpty()
    env = environment(TERM="xterm", PYTHONIOENCODING="utf-8", COLUMNS="80", LINES="24")
    with subprocess.Popen([*words, "max_steps=90"], cwd=tmp_path, stdout=other, stderr=other, env=env):
        os.close(other)
        shown = b""
        with open(main, "rb", buffering=0) as reader, contextlib.suppress(OSError):  # as the other side is closed
            while piece := reader.read(65536):
                shown += piece
    text = ESCAPE.sub("", shown.decode())
    axes = re.findall(r"\u2502 +(\d+) +(\d+) .*\u2502", text)
    assert {first for first, _ in axes} == {"1"}
    assert axes[-1] == ("1", "90")


def test_not_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert isinstance(open_display(10, 1, 1), Lines)


# --- its parts --------------------------------------------------------------------------------------------------------


def read_curve(lines: list[str], label: int = 9) -> dict[int, float]:
    """The mean height of the dots in each column of dots, 0 at the bottom and 1 at the top."""
    rows = [line[label:] for line in lines]
    found: dict[int, list[float]] = {}
    bits = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
    for i, row in enumerate(rows):
        for j, sign in enumerate(row):
            for y in range(4):
                for x in range(2):
                    if "\u2800" <= sign <= "\u28ff" and ord(sign) - 0x2800 & bits[y][x]:
                        found.setdefault(2 * j + x, []).append(1 - (4 * i + y) / (4 * len(rows) - 1))
    return {x: sum(heights) / len(heights) for x, heights in found.items()}


@pytest.mark.parametrize("num_points", [2, 7, 300])
@pytest.mark.parametrize("decades", [1, 9])
def test_the_loss_can_be_read_off_the_curve(num_points: int, decades: int) -> None:
    """Drawn, read back from the dots, compared: a straight line, on a logarithmic scale if it spans decades."""
    shares = [i / (num_points - 1) for i in range(num_points)]
    losses = [10 ** (decades * (1 - share)) if decades > 1 else 10 - 9 * share for share in shares]
    chart = [text.plain for text in _chart([(100 * i, y) for i, y in enumerate(losses)], [], 60, 12, False)]
    assert {len(line) for line in chart[:-1]} == {60}
    assert ("log" in chart[0]) == (decades > 1)
    heights = read_curve(chart[1:-1])
    columns = 2 * (60 - 9)
    assert sorted(heights) == list(range(columns)), "a dot in every column"
    for column, height in heights.items():
        assert height == pytest.approx(1 - column / (columns - 1), abs=1.5 / 39)
    assert float(chart[1].split()[0]) == pytest.approx(losses[0], rel=0.01)
    assert float(chart[-2].split()[0]) == pytest.approx(losses[-1], rel=0.01)
    assert chart[-1].split() == ["0", f"{100 * (num_points - 1):,}"]


def test_curves_of_nothing_and_of_one_number() -> None:
    assert len(_chart([], [], 40, 8, False)) == 8
    assert sum(sign > "\u2800" for line in _chart([(1, 0.5)], [], 40, 8, False)[1:] for sign in line.plain) == 1
    assert sum("o" in line.plain for line in _chart([], [(1, -0.5)], 40, 8, True)[1:]) == 1


def test_gradients_of_a_layer_are_taken_together() -> None:
    layers = _layers({"grad_norm": 9.0, "grad_norm/conv.weight": 3.0, "grad_norm/conv.bias": 4.0, "grad_norm/w1": 1.0})
    assert layers == {"conv": 5.0, "w1": 1.0}


def test_bars_tell_norms_apart() -> None:
    """The scale spans as few decades as hold all norms."""
    lines = [text.plain for text in _bars({"conv1": 0.29, "fc1": 1.09, "fc2": 0.9}, 3, 60, is_ascii=True)]
    assert lines[0].endswith("log scale, 1 decade")
    lengths = [line.count("#") for line in lines[1:]]
    assert lengths[0] < 0.5 * lengths[1]
    assert lengths[2] < lengths[1]
    assert "2 decades" in _bars({"a": 1.0, "b": 0.1}, 2, 60, is_ascii=True)[0].plain, "none is without a bar"


def test_a_bar_is_shorter_by_a_quarter_per_decade() -> None:
    norms = {"a": 1.0, "b": 0.1, "c": 1e-2, "d": 1e-4, "e": 0.0, "f": math.nan}
    lines = [text.plain for text in _bars(norms, 6, 60, is_ascii=True)]
    assert [line.count("#") for line in lines[1:]] == [47, 35, 24, 0, 0, 0]
    assert [line.split()[-1] for line in lines[1:]] == ["1.000", "0.1000", "0.01000", "1.000e-04", "0", "nan"]


def test_of_many_layers_the_first_and_the_last_are_shown() -> None:
    lines = [text.plain for text in _bars({f"layer{i}": 1.0 for i in range(50)}, 4, 60, is_ascii=False)]
    assert "(4 of 50)" in lines[0]
    assert [line.split()[0] for line in lines[1:]] == ["layer0", "layer16", "layer33", "layer49"]
