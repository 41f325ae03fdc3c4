"""What a run shows while it goes: a live panel on a terminal, lines that `grep` can read anywhere else.

All displays have the same five methods, so the loop knows neither. `tick` is one assignment and may be called every
step; `update` gets the numbers of a step, by their TensorBoard tags, whenever there are any.
"""

import contextlib
import itertools
import math
import os
import sys
import textwrap
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol, TextIO

from trainer.errors import printable
from trainer.monitor.tags import spread
from trainer.system import shell
from trainer.system.terminal import is_terminal

if TYPE_CHECKING:
    from rich.console import Console, ConsoleRenderable
    from rich.text import Text

    from trainer.monitor.diagnosis import Finding

Rows = Sequence[Sequence[str]]
Points = Sequence[tuple[int, float]]  # (step, number)
Curves = Callable[[], Mapping[str, Points]]


class Display(Protocol):
    """What the loop and the run know of a display."""

    def start(self, title: Sequence[str]) -> None:
        """Show what is about to be trained, a string per line."""

    def tick(self, step: int) -> None:
        """Step `step` is done. Costs next to nothing."""

    def update(self, step: int, numbers: Mapping[str, float]) -> None:
        """Numbers of a step, by tag: `train/loss`, `val/accuracy`, `lr`, `grad_norm/<parameter>` ..."""

    def note(self, line: str) -> None:
        """A message that stays."""

    def stop(self, rows: Rows = ()) -> None:
        """End the display and show a table. Stopping twice is stopping once."""


def open_display(
    max_steps: int, steps_per_epoch: int, every: int, first_step: int = 0, before: Curves | None = None
) -> "Terminal | Lines":
    """A `Terminal` where stdout is one that can move its cursor, else `Lines`.

    Args:
        max_steps: the last step.
        steps_per_epoch: for the count of epochs.
        every: steps between two lines where stdout is not a terminal.
        first_step: the step that a run goes on from.
        before: gives the points of the losses up to that step, by tag; is called for a terminal alone.
    """
    if is_terminal(sys.stdout):
        return Terminal(max_steps, steps_per_epoch, first_step, before() if before is not None else {})
    return Lines(every, max_steps)


def short(number: float) -> str:
    """Four significant digits: `0.1234`, `12.30`, `3.001e+07`, `nan`; and `0`."""
    if number == 0 or not math.isfinite(number):
        return f"{number:.0f}"
    if not 1e-3 <= abs(number) < 1e6:
        return f"{number:.3e}"
    return f"{number:.{max(0, 3 - math.floor(math.log10(abs(number))))}f}"


def duration(seconds: float) -> str:
    """`0:07`, `12:34`, `1:02:03`, `3d 4:05:06`."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    clock = f"{hours}:{minutes:02}:{seconds:02}" if hours or days else f"{minutes}:{seconds:02}"
    return f"{days}d {clock}" if days else clock


def summary_rows(
    result: Mapping[str, Any], findings: "Sequence[Finding]", folder: Path, has_events: bool
) -> list[tuple[str, str]]:
    """What a run came to.

    Args:
        result: what `result.json` holds.
        has_events: it can be looked at in TensorBoard.
    """
    splits = ("train/loss", "val/", "test/")  # in this order; terms of a loss have another / in their tags
    tags = [tag for split in splits for tag in result if tag.startswith(split) and is_summed_up(tag)]
    found = [(finding.where, f"step {finding.step}: {finding.what_to_do}") for finding in findings]
    return [
        *((tag, short(result[tag])) for tag in tags if tag in result),
        *([("overfit", result["overfit"])] if "overfit" in result else []),
        *tested_row(result),
        *([("worst class", headline(result["per_class"]))] if result.get("per_class") else []),
        *([("ended", result["ended"])] if "ended" in result else []),
        *(found or [("diagnosis", "nothing is amiss")]),
        ("parameters", f"{result['num_parameters']:,}, {result['num_trainable']:,} of them trained"),
        ("time", f"{result['seconds']:.1f} s for {result['steps']} steps"),
        ("run folder", str(folder)),
        *([("look at it", f"train board {shell.quote(str(folder))}")] if has_events else []),
    ]


def is_summed_up(tag: str) -> bool:
    """`val/f1`, `test/average/f1`; not `val/loss/<term>`, not `test/last/f1`."""
    return tag.count("/") == 1 or (tag.split("/")[1] == "average" and tag.count("/") == 2)


def headline(rows: Sequence[Mapping[str, Any]]) -> str:
    """The class that is told the worst, see `trainer.monitor.classes`."""
    worst = min((row for row in rows if row["support"]), key=lambda row: row["F1"])
    numbers = ", ".join(f"{key} {short(worst[key])}" for key in ("F1", "precision", "recall"))
    return f"{worst['name']}: {numbers}, {worst['support']:,} sample{'s' * (worst['support'] != 1)}"


def tested_row(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Of which weights `test/...` is, and what the others came to; nothing where the best are the last."""
    other = "last" if result.get("tested") == "best" else "best"
    prefix = f"test/{other}/"
    numbers = {tag.removeprefix(prefix): number for tag, number in result.items() if tag.startswith(prefix)}
    if not numbers:
        return []
    steps = {"best": result["best_step"], "last": result["steps"]}
    shown = ", ".join(f"{name} {short(number)}" for name, number in numbers.items() if "/" not in name)
    return [
        ("tested", f"the {result['tested']}, step {steps[result['tested']]}; the {other}, step {steps[other]}: {shown}")
    ]


def summary_table(rows: Rows, stream: TextIO | None = None) -> None:
    """Print a table whose columns stand under each other: coloured on a terminal, plain anywhere else."""
    stream = stream or sys.stdout
    if rows and is_terminal(stream):
        from rich.console import Console

        console = Console(file=stream)
        console.print(_coloured_table(rows, console.width), soft_wrap=True)
    else:
        for line in _plain_table(rows):
            print(_encodable(line, stream), file=stream)


def _plain_table(rows: Rows) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _coloured_table(rows: Rows, width: int) -> "Text":
    """The table in so many columns. No word of it is broken: what has no room beside its name stands below it, whole if
    it can, as a path or a command is to be copied; prose is broken between words.
    """
    from rich.text import Text

    name_width = max(len(name) for name, *_ in rows)
    lines = []
    for name, *values in rows:
        value, room = printable("  ".join(values)), width - name_width - 2
        if len(value) <= room:
            first, rest = value, []
        elif len(value) <= width - 2:
            first, rest = "", [f"  {value}"]
        else:
            first, *rest = textwrap.wrap(value, max(20, room), break_long_words=False, break_on_hyphens=False)
            rest = [" " * (name_width + 2) + line for line in rest]
        lines += [Text.assemble((printable(name).ljust(name_width), "cyan"), "  ", first), *map(Text, rest)]
    return Text("\n").join(lines)


def _encodable(text: str, stream: IO[str]) -> str:
    """The text without what the stream's encoding has no sign for, and without what a terminal would obey."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return printable(text).encode(encoding, "replace").decode(encoding)


class Silent:
    """The display of a process that leaves speaking to another."""

    def start(self, title: Sequence[str]) -> None: ...

    def tick(self, step: int) -> None: ...

    def update(self, step: int, numbers: Mapping[str, float]) -> None: ...

    def note(self, line: str) -> None: ...

    def stop(self, rows: Rows = ()) -> None: ...


class Lines:
    """A line per `every` steps, `step=500 train/loss=0.1234 lr=0.1000 ...`, and one for each evaluation.

    When stdout is closed under it (`train | head -3`), it falls silent and the training goes on.

    Args:
        every: steps between two lines; 0 for evaluations alone.
        max_steps: the last step, which always has its line.
        stream: stdout if None.
    """

    def __init__(self, every: int, max_steps: int, stream: TextIO | None = None) -> None:
        self._every = every
        self._max_steps = max_steps
        self._stream: TextIO | None = stream or sys.stdout
        self._last = -1  # the step of the last line
        self._is_stopped = False

    def start(self, title: Sequence[str]) -> None:
        for line in title:
            self.note(line)

    def tick(self, step: int) -> None:
        pass

    def update(self, step: int, numbers: Mapping[str, float]) -> None:
        is_due = self._every > 0 and (step // self._every > self._last // self._every or step == self._max_steps)
        is_evaluation = any(tag.startswith(("val/", "test/")) for tag in numbers)
        if is_due or is_evaluation:
            shown = [f"{tag}={short(number)}" for tag, number in numbers.items() if _belongs_in_a_line(tag)]
            if shown:
                self.note(f"step={step} {' '.join(shown)}")
        if is_due:
            self._last = step

    def note(self, line: str) -> None:
        if self._stream is None:
            return
        try:
            print(_encodable(line, self._stream), file=self._stream, flush=True)
        except (OSError, ValueError):  # nobody reads on; ValueError: the stream was closed on our side
            self._fall_silent()

    def stop(self, rows: Rows = ()) -> None:
        if not self._is_stopped:
            self._is_stopped = True
            for line in _plain_table(rows):
                self.note(line)

    def _fall_silent(self) -> None:
        stream, self._stream = self._stream, None
        if stream is sys.stdout:
            # Python flushes stdout once more when it exits, and would turn exit code 0 into 120.
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _belongs_in_a_line(tag: str) -> bool:
    return tag.startswith(("train/", "val/", "test/")) or tag in (
        "lr",
        "grad_norm",
        "time/samples_per_second",
        "device/memory_mb",
    )


class Terminal:
    """A panel that is drawn again up to ten times a second: progress, loss curve, last numbers, gradients per layer.

    A thread of its own draws it, from numbers that are on the host already. It rests 40 times as long as drawing took,
    so that it never takes more than a fortieth of the interpreter from the training.

    Args:
        max_steps: the last step.
        steps_per_epoch: for the count of epochs.
        first_step: the step that a run goes on from.
        before: the points of the losses up to that step, by tag.
        console: rich's, made for stdout if None.
    """

    def __init__(
        self,
        max_steps: int,
        steps_per_epoch: int,
        first_step: int = 0,
        before: Mapping[str, Points] | None = None,
        console: "Console | None" = None,
    ) -> None:
        from rich.console import Console
        from rich.live import Live

        self._max_steps = max_steps
        self._steps_per_epoch = steps_per_epoch
        self._step = first_step
        self._console = console or Console(highlight=False)
        self._is_ascii = self._console.options.ascii_only
        self._lock = threading.Lock()  # held while numbers come in or are read
        self._numbers: dict[str, float] = {}
        self._changes: dict[str, float] = {}
        known = before or {}
        self._curves = {tag: list(known.get(tag, ())) for tag in ("train/loss", "val/loss")}
        self._passed: deque[tuple[float, int]] = deque([(time.perf_counter(), first_step)], maxlen=50)
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._draw, name="terminal", daemon=True)
        self._live = Live(get_renderable=self._panel, console=self._console, auto_refresh=False)  # draws at once

    def start(self, title: Sequence[str]) -> None:
        for line in title:
            self.note(line)
        self._passed[0] = time.perf_counter(), self._step
        with contextlib.suppress(OSError):
            self._live.start()
        self._thread.start()

    def tick(self, step: int) -> None:
        self._step = step

    def update(self, step: int, numbers: Mapping[str, float]) -> None:
        with self._lock:
            for tag, number in numbers.items():
                if tag in self._numbers:
                    self._changes[tag] = number - self._numbers[tag]
                if tag in self._curves and math.isfinite(number):
                    self._curves[tag].append((step, number))
                    while len(self._curves[tag]) > 4000:  # more than any terminal has columns
                        del self._curves[tag][1:-1:2]
                self._numbers[tag] = number

    def note(self, line: str) -> None:
        from rich.text import Text

        with contextlib.suppress(OSError):
            self._notice_width()
            self._console.print(Text(_encodable(line, self._console.file)))  # above the panel

    def stop(self, rows: Rows = ()) -> None:
        if self._is_over.is_set():
            return
        self._is_over.set()
        if self._thread.is_alive():
            self._thread.join()
        with contextlib.suppress(OSError):
            self._notice_width()
            self._live.stop()
            if rows:
                self._console.print(_coloured_table(rows, self._console.width), soft_wrap=True)

    def _draw(self) -> None:
        pause = 0.1
        while not self._is_over.wait(pause):
            began = time.thread_time()
            try:
                self._notice_width()
                self._live.refresh()
            except (OSError, ValueError):  # the terminal is gone, or lacks a sign
                return
            pause = min(1.0, max(0.1, 40 * (time.thread_time() - began)))

    def _notice_width(self) -> None:
        """Before something is drawn: the panel that stands there is erased as high as it is by now.

        A terminal that has become narrower has broken the panel's lines, and rich goes up as many as it wrote.
        """
        drawn = self._live._live_render
        if drawn._shape is not None and (width := self._console.size.width) < drawn._shape[0]:
            drawn._shape = width, drawn._shape[1] * -(-drawn._shape[0] // width)

    def _panel(self) -> "ConsoleRenderable":
        from rich.panel import Panel
        from rich.text import Text

        width, height = self._console.size
        # The frame and a space on both sides. Two columns stay free: the terminal itself writes ^C behind the panel,
        # and in a full line that would move all of it.
        inner = min(width - 2, 100) - 4
        with self._lock:
            lines = [self._progress(inner), self._status(inner)]
            free = height - 4 - 2 - len(lines)  # without some lines of what stands above, and without the frame
            layers = _layers(self._numbers)
            num_bars = min(len(layers), max(0, (free - 6) // 2))
            lines += self._curve_and_numbers(inner, min(15, free - (num_bars + 2 if num_bars else 0)))
            if num_bars:
                lines += [Text(), *_bars(layers, num_bars, inner, self._is_ascii)]
        text = Text("\n", no_wrap=True, overflow="crop").join(lines)
        return Panel(text, width=inner + 4, border_style="dim")

    def _progress(self, width: int) -> "Text":
        from rich.text import Text

        done = min(1.0, self._step / self._max_steps) if self._max_steps else 1.0
        label = f" {int(100 * done):3} %"
        full = int(done * (width - len(label)))
        on, off = "=-" if self._is_ascii else "━─"
        return Text.assemble((on * full, "green"), (off * (width - len(label) - full), "dim"), label)

    def _status(self, width: int) -> "Text":
        """`step 512/2,000  epoch 4.1  850 steps/s  0:12 left`, without the epoch where it has no room."""
        from rich.text import Text

        step, now = self._step, time.perf_counter()
        if step > self._passed[-1][1]:
            self._passed.append((now, step))
        (began, first), (ended, last) = self._passed[0], self._passed[-1]
        rate = (last - first) / (ended - began) if last > first else 0.0
        parts = [f"step {step:,}/{self._max_steps:,}"]
        if self._steps_per_epoch > 1:
            parts.append(f"epoch {step / self._steps_per_epoch:.1f}")
        if rate:
            parts.append(
                f"{rate:,.0f} steps/s"
                if rate >= 10
                else f"{rate:.1f} steps/s"
                if rate >= 1
                else f"{1 / rate:.1f} s/step"
            )
            parts.append(f"{duration((self._max_steps - step) / rate)} left")
        if len(parts) == 4 and len("  ".join(parts)) > width:
            del parts[1]
        return Text("  ".join(parts))

    def _curve_and_numbers(self, width: int, num_rows: int) -> "list[Text]":
        """The loss curve on the left, the last numbers and their change on the right."""
        from rich.text import Text

        tags = [tag for tag in self._numbers if tag != "time/samples_per_second" and _belongs_in_a_line(tag)]
        tags = tags[: max(0, num_rows)]
        # No name is cut while there is room for a chart, and no chart is narrower than its numbers for it.
        name_width = max(12, min(max(map(len, tags), default=0), width - 18 - _LEAST_CHART))
        table_width = name_width + 18
        table = []
        for tag in tags:
            change = self._changes.get(tag, 0.0)
            table.append(
                Text.assemble(
                    (_cut(tag, name_width).ljust(name_width + 1), "cyan"),
                    (short(self._numbers[tag])[:9].rjust(9), "bold"),
                    (f"{change:+.1g}" if change else "").rjust(8),
                )
            )
        chart_width = width - table_width - 1
        if num_rows < 5 or chart_width < _LEAST_CHART - 1:
            return table
        chart = _chart(self._curves["train/loss"], self._curves["val/loss"], chart_width, num_rows, self._is_ascii)
        table += [Text()] * (num_rows - len(table))
        return [Text.assemble(left, " ", right) for left, right in zip(chart, table, strict=True)]


_BRAILLE = (
    (0x01, 0x08),
    (0x02, 0x10),
    (0x04, 0x20),
    (0x40, 0x80),
)  # the dots of a sign, [row][column] (Unicode U+2800)
_LABEL = 8  # columns for the numbers beside the chart
_LEAST_CHART = 21  # columns, with the one between it and the numbers
_DECADES = 4  # that bars span at most


def _cut(name: str, width: int) -> str:
    """A name with its end, by which names are told apart, where it has no room."""
    return name if len(name) <= width else f"..{name[2 - width :]}"


def _chart(train: Points, val: Points, width: int, height: int, is_ascii: bool) -> "list[Text]":
    """`height` lines of `width` columns: the training loss as a curve, the validation loss as marks on it.

    The scale is logarithmic where the numbers are positive and span more than a factor of 50. A column of dots shows
    the mean of the points that fall into it.
    """
    from rich.text import Text

    if not train and not val:
        return [Text(" " * width)] * height
    columns, rows = width - _LABEL - 1, height - 2
    across, down = (1, 1) if is_ascii else (2, 4)  # dots in a character
    every = [*train, *val]
    low, high = min(y for _, y in every), max(y for _, y in every)
    first, last = min(x for x, _ in every), max(x for x, _ in every)
    is_log = low > 0 and high / low > 50

    def dot_column(step: int) -> int:
        return round((step - first) / max(1, last - first) * (columns * across - 1))

    def dot_row(number: float) -> int:
        a, b, y = (math.log(v) if is_log else v for v in (low, high, number))
        return round((b - y) / ((b - a) or 1.0) * (rows * down - 1))

    means: dict[int, list[float]] = {}
    for step, number in train:
        means.setdefault(dot_column(step), []).append(number)
    grid = [[0] * columns for _ in range(rows)]  # bits of a braille sign
    ys = {x: dot_row(sum(numbers) / len(numbers)) for x, numbers in sorted(means.items())}
    known = list(ys)
    for x0, x1 in itertools.pairwise([*known[:1], *known]):
        for x in range(x0, x1 + 1):  # a straight line from point to point
            share = (x - x0) / (x1 - x0) if x1 > x0 else 1.0
            y = round(ys[x0] + share * (ys[x1] - ys[x0]))
            before = round(ys[x0] + max(0.0, share - 1 / max(1, x1 - x0)) * (ys[x1] - ys[x0]))
            for dot in range(min(before, y), max(before, y) + 1):
                grid[dot // down][x // across] |= _BRAILLE[dot % down][x % across]
    marks = {(dot_row(number) // down, dot_column(step) // across) for step, number in val}

    lines = []
    for i, bits in enumerate(grid):
        label = f"{high:.3g}" if i == 0 else f"{low:.3g}" if i == rows - 1 else ""
        line = Text(label[:_LABEL].rjust(_LABEL) + " ", style="dim")
        for j, bit in enumerate(bits):
            if (i, j) in marks:
                line.append("o" if is_ascii else "●", "not dim magenta")
            else:
                line.append(" " if not bit else "." if is_ascii else chr(0x2800 + bit), "not dim yellow")
        lines.append(line)
    legend = Text.assemble("loss ", ("." if is_ascii else "⠒", "not dim yellow"), " train", style="dim")
    if val:
        legend.append(" ").append("o" if is_ascii else "●", "not dim magenta").append(" val")
    legend.append(", log" if is_log else "")
    legend.truncate(width, pad=True)
    axis = f"{first:,}" + f"{last:,}".rjust(columns - len(f"{first:,}"))
    return [legend, *lines, Text(" " * (_LABEL + 1) + axis, style="dim")]


def _layers(numbers: Mapping[str, float]) -> dict[str, float]:
    """The gradient norm of each layer, in the model's order: of `conv1.weight` and `conv1.bias` together."""
    squares: dict[str, float] = {}
    for tag, number in numbers.items():
        if tag.startswith("grad_norm/"):
            parameter = tag.removeprefix("grad_norm/")
            layer = parameter.rpartition(".")[0] or parameter
            squares[layer] = squares.get(layer, 0.0) + number * number
    return {layer: math.sqrt(square) for layer, square in squares.items()}


def _bars(layers: Mapping[str, float], num_bars: int, width: int, is_ascii: bool) -> "list[Text]":
    """A heading and a bar per layer; of too many layers every so many-th, the first and the last among them."""
    from rich.text import Text

    names = spread(list(layers), num_bars)
    largest = max((layers[name] for name in layers if math.isfinite(layers[name])), default=0.0)
    some = "" if len(names) == len(layers) else f" ({len(names)} of {len(layers)})"
    # As few decades as hold all of them: over four, 0.29 looks like 1.09.
    depth = max((math.log10(largest / x) for x in layers.values() if 0 < x < math.inf), default=0.0)
    decades = min(_DECADES, math.floor(depth) + 1)
    unit = "decade" if decades == 1 else "decades"
    lines = [Text(f"gradient norm per layer{some}, log scale, {decades} {unit}", style="dim")]
    name_width = min(24, max(map(len, names)))
    room = width - name_width - 12
    for name in names:
        norm = layers[name]
        share = max(0.0, 1 + math.log10(norm / largest) / decades) if 0 < norm < math.inf else 0.0
        eighths = round(8 * room * share)
        bar = "#" * round(eighths / 8) if is_ascii else "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()
        lines.append(
            Text.assemble(
                (_cut(name, name_width).ljust(name_width), "cyan"),
                " ",
                (bar.ljust(room), "blue"),
                " ",
                short(norm).rjust(10),
            )
        )
    return lines
