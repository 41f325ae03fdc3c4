"""`train compare` of a sweep: its table, which key mattered, why jobs failed, a picture; and the HPARAMS tab."""

import csv
import io
import itertools
import json
import math
import random
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trainer.command.verbs import run_verb
from trainer.config.request import Request
from trainer.errors import UserError
from trainer.sweep import importance as importances
from trainer.sweep import picture
from trainer.sweep.compare import read_rows
from trainer.sweep.importance import importance, importance_line
from trainer.sweep.picture import Scale, axis
from trainer.sweep.plan import Job
from trainer.sweep.results import Row, read_failures, settings
from trainer.use.find import best_of_sweep

Swept = dict[str, str]
Said = Callable[..., str]


def grid(**values: str) -> list[Swept]:
    """`grid(a="1,2", b="x,y")`: every combination."""
    return [
        dict(zip(values, words, strict=True)) for words in itertools.product(*(v.split(",") for v in values.values()))
    ]


def write(folder: Path, jobs: list[Swept], number: Callable[[Swept], float | None], metric: str = "accuracy") -> Path:
    """`results.json` as a sweep writes it. A job without a number has failed."""
    folder.mkdir(parents=True)
    records = []
    for swept in jobs:
        value = number(swept)
        status, reason = ("finished", "") if value is not None else ("stopped", "train/loss=nan at step 10.")
        record = {"name": ",".join(f"{k}={v}" for k, v in swept.items()), "status": status, "reason": reason, **swept}
        if value is not None:
            record |= {f"best/val/{metric}": value, "best/val/loss": value, f"test/{metric}": value / 2}
        records.append(record)
    (folder / "results.json").write_text(json.dumps(records))
    return folder


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Said:
    """`said("compare", "s")` is what the verb prints; nothing may stand on stderr."""
    monkeypatch.chdir(tmp_path)
    for name in ("FORCE_COLOR", "NO_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)

    def run(*argv: str) -> str:
        assert run_verb(argv) == 0
        out, err = capfd.readouterr()
        assert err == ""
        return out

    return run


# --- which key mattered -----------------------------------------------------------------------------------------------


@pytest.fixture
def optuna() -> None:
    pytest.importorskip("optuna")
    pytest.importorskip("sklearn")


def variance_ratios(points: list[tuple[Swept, float]]) -> dict[str, float]:
    """The part of the variance that each key explains by itself: of a whole grid, the variance of its values' means."""
    found = {}
    for key in points[0][0]:
        means = [
            statistics.fmean(n for words, n in points if words[key] == value)
            for value in {words[key] for words, _ in points}
        ]
        found[key] = statistics.pvariance(means)
    total = statistics.pvariance([n for _, n in points])
    return {key: ratio / total for key, ratio in found.items()}


@pytest.mark.usefixtures("optuna")
def test_importance_is_the_part_of_the_variance() -> None:
    """Where keys act independently of each other, the forest's shares are those of an analysis of variance."""
    effects = {"a": {"1": 0.0, "2": 0.4, "3": 0.8}, "b": {"x": 0.0, "y": 0.5}, "c": {"u": 0.1, "v": 0.1}}
    points = [
        (words, sum(effects[key][value] for key, value in words.items()))
        for words in grid(a="1,2,3", b="x,y", c="u,v")
        for _ in range(5)
    ]
    expected = variance_ratios(points)
    found = importance(points)
    assert math.isclose(sum(found.values()), 1)
    assert found == pytest.approx(expected, abs=0.06)
    assert list(found) == ["a", "b", "c"]  # the largest first
    shuffled = random.Random(0).sample(points, len(points))
    assert importance(shuffled) == pytest.approx(found, abs=0.06)


@pytest.mark.usefixtures("optuna")
@pytest.mark.parametrize(("scale", "shift"), [(1e299, 0.0), (-1e-200, 0.0), (1e-6, 1.0)])
def test_importance_knows_no_unit(scale: float, shift: float) -> None:
    points = [(words, float(words["a"]) + 0.1 * float(words["b"])) for words in grid(a="1,2,3", b="1,2")]
    scaled = [(words, shift + scale * n) for words, n in points]
    assert importance(scaled) == pytest.approx(importance(points), abs=0.06)


@pytest.mark.usefixtures("optuna")
def test_what_only_two_keys_together_explain_counts_for_both() -> None:
    points = [(words, float(words["a"] == words["b"])) for words in grid(a="0,1", b="0,1", c="0,1") for _ in range(3)]
    found = importance(points)
    assert found["c"] < 0.15
    assert min(found["a"], found["b"]) > 0.3


@pytest.mark.usefixtures("optuna")
def test_a_random_search_has_importances() -> None:
    """No value comes twice, and each is a kind of its own unless they are taken together."""
    draw = random.Random(0)
    points = []
    for _ in range(40):
        lr, dropout = 10 ** draw.uniform(-4, -1), draw.uniform(0, 0.5)
        points.append(({"optimizer.lr": repr(lr), "model.dropout": repr(dropout)}, -abs(math.log10(lr) + 2)))
    assert importance(points)["optimizer.lr"] > 0.75


@pytest.mark.parametrize(
    "points",
    [
        [],
        [(words, float(words["a"])) for words in grid(a="1,2,3", b="1")],  # three jobs
        [(words, float(words["a"])) for words in grid(a="1,2,3,4,5")],  # one key
        [(words, float(words["a"])) for words in grid(a="1,2,3,4,5", b="1")],  # one that differs
        [(words, 0.5) for words in grid(a="1,2", b="1,2")],
        [(words, 0.0) for words in grid(a="1,2", b="1,2")],
        [({}, 0.1 * i) for i in range(5)],
    ],
)
def test_where_there_is_nothing_to_tell_apart_nothing_is_said(
    points: list[tuple[Swept, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)  # nor is anybody told to install it
    assert importance_line(points, "val/loss") is None


@pytest.mark.parametrize("missing", ["optuna", "sklearn"])
def test_what_is_missing_can_be_installed(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if missing == "sklearn":
        pytest.importorskip("optuna")
    monkeypatch.setitem(sys.modules, missing, None)
    line = importance_line([(words, float(words["a"])) for words in grid(a="1,2", b="1,2")], "val/loss")
    assert line is not None
    assert line.plain.endswith("pip install optuna scikit-learn")
    assert line.style == "dim"


# --- the table and what stands below it -------------------------------------------------------------------------------


def accuracy(swept: Swept) -> float | None:
    """lr matters most, the optimizer a little; the largest lr diverges with sgd, but for one seed."""
    if swept["optimizer.lr"] == "1" and swept["optimizer"] == "sgd" and swept["seed"] != "0":
        return None
    by_lr = {"0.01": 0.5, "0.1": 0.9, "1": 0.2}[swept["optimizer.lr"]]
    return by_lr + (0.05 if swept["optimizer"] == "adam" else 0.0) + 0.01 * int(swept["seed"])


SWEEP = grid(optimizer="sgd,adam", **{"optimizer.lr": "0.01,0.1,1"}, seed="0,1,2")


def test_compare_tells_all_of_a_sweep(said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importances, "importance", lambda points: {"optimizer.lr": 0.964, "optimizer": 0.036})
    write(Path("runs/s"), SWEEP, accuracy)
    text = said("compare", "s")
    assert text == said("compare", "runs/s/")
    table, _, rest = text.partition("what mattered for best/val/accuracy: ")
    heading, *rows = (line.split() for line in table.splitlines())
    assert heading[:4] == ["optimizer", "optimizer.lr", "seeds", "best/val/accuracy"]
    assert [row[:3] for row in rows[:2]] == [["adam", "0.1", "3"], ["sgd", "0.1", "3"]]
    assert rows[0][3:6] == ["0.9600", "±", "0.01000"]
    assert [row[1:3] + row[-1:] for row in rows if row[0] == "sgd"][-1] == ["1", "1", "2"]  # one of three, two failed
    share, *failed = rest.splitlines()
    assert share == "optimizer.lr 96 %, optimizer 4 %"
    assert failed[1:] == ["failed, see log.txt in the folder of each"] + [
        f"  optimizer=sgd,optimizer.lr=1,seed={seed} stopped: train/loss=nan at step 10." for seed in (1, 2)
    ]


def test_the_means_over_seeds_are_had_as_a_csv(said: Said) -> None:
    write(Path("s"), SWEEP, accuracy)
    rows = list(csv.DictReader(io.StringIO(said("compare", "s", "--csv", "sweep.metric=test/accuracy"))))
    assert [row["optimizer"] + row["optimizer.lr"] for row in rows[:2]] == ["adam0.1", "sgd0.1"]
    for row in rows:
        mine = [swept for swept in SWEEP if all(swept[key] == row[key] for key in ("optimizer", "optimizer.lr"))]
        numbers = [n / 2 for swept in mine if (n := accuracy(swept)) is not None]
        assert (int(row["seeds"]), int(row["failed"])) == (len(numbers), 3 - len(numbers))
        assert float(row["test/accuracy"]) == pytest.approx(statistics.fmean(numbers), rel=1e-12)
        deviation = f"{statistics.stdev(numbers):.9g}" if len(numbers) > 1 else ""
        assert (row["test/accuracy std"] and f"{float(row['test/accuracy std']):.9g}") == deviation
    with pytest.raises(UserError, match="Of runs type train runs --csv"):
        run_verb(["compare", "a", "b", "--csv"])


@pytest.mark.usefixtures("optuna")
def test_the_importance_is_that_of_the_finished_jobs(said: Said) -> None:
    """And Optuna itself says nothing, on neither stream."""
    write(Path("s"), SWEEP, accuracy)
    line = said("compare", "s").splitlines()[7]
    assert line.startswith("what mattered for best/val/accuracy: optimizer.lr ")
    numbers = [({k: v for k, v in swept.items() if k != "seed"}, accuracy(swept)) for swept in SWEEP]
    found = importance([(swept, n) for swept, n in numbers if n is not None])
    assert line.partition(": ")[2] == ", ".join(f"{key} {100 * share:.0f} %" for key, share in found.items())


def test_the_metric_is_the_one_that_the_sweep_was_told(said: Said) -> None:
    write(Path("s"), grid(lr="1,2,3"), lambda swept: float(swept["lr"]))

    def first(*words: str) -> list[str]:
        return said("compare", "s", *words).splitlines()[1].split()[:2]

    assert first() == ["3", "3.000"]  # the accuracy
    Path("s/sweep.yaml").write_text("command: [--multirun, 'lr=1,2,3', sweep.metric=val/loss, name=s]\njobs: []\n")
    assert first() == ["1", "1.000"]
    assert first("sweep.metric=test/accuracy") == ["3", "1.500"]
    Path("s/sweep.yaml").write_text("command: [sweep.metric=null")
    assert first() == ["3", "3.000"]
    Path("s/sweep.yaml").write_text("command: [--multirun, 'sweep.metric=${oc.env:M}']\nmetric: val/loss\njobs: []\n")
    assert first() == ["1", "1.000"]
    Path("s/sweep.yaml").write_text("command: [--multirun, 'sweep.metric=${oc.env:M}']\nmetric: null\njobs: []\n")
    assert first() == ["3", "3.000"]


METRIC = """
def sure(outputs, targets):
    return outputs.softmax(1).amax(1).mean()
"""


@pytest.mark.slow
def test_a_metric_of_ones_own_ranks_in_its_direction_afterwards_too(
    train: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the table again, and where a sweep's folder means its best run: a larger rate makes it surer here."""
    Path("suremetric.py").write_text(METRIC)
    monkeypatch.setenv("M", "val/sure")
    metric = ("metric.sure._target_=suremetric.sure", "metric.sure.larger_is_better=true", "trust=[suremetric]")
    small = ("model=two_layer", "data.limit=60", "max_steps=20", "monitor=off")
    train("--multirun", *small, *metric, "sweep.metric=${oc.env:M}", "optimizer.lr=0.0001,0.1,0.001", "name=s")
    monkeypatch.delenv("M")
    at_the_end = capsys.readouterr().out.partition("sweep folder")[0].splitlines()[-4:]
    assert [line.split()[0] for line in at_the_end] == ["optimizer.lr", "0.1", "0.001", "0.0001"]
    assert run_verb(["compare", "s"]) == 0
    assert capsys.readouterr().out.splitlines() == at_the_end
    assert best_of_sweep(Path("runs/s")).name == "lr=0.1"


def test_a_job_that_was_never_validated_does_not_choose_the_metric(said: Said) -> None:
    """One that diverged at once has a result, too, and no accuracy in it."""
    folder = write(Path("s"), grid(lr="1,2,3"), lambda swept: None if swept["lr"] == "3" else float(swept["lr"]))
    records = json.loads((folder / "results.json").read_text())
    records[-1] |= {"train/loss": 2.3, "steps": 1}
    (folder / "results.json").write_text(json.dumps(records))
    assert said("compare", "s").split()[1] == "best/val/accuracy"


def test_it_fits_a_terminal(said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    write(Path("s"), SWEEP, accuracy)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "70")
    text = importances.Text.from_ansi(said("compare", "s")).plain
    assert "no room for best/val/loss, test/accuracy\n" in text
    assert max(len(line) for line in text.splitlines()[:8]) <= 70


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("compare nothing", "train compare takes two runs or more, or one sweep."),
        ("compare begun", "begun: none of its jobs has ended. train runs begun shows those that go on."),
        ("compare s sweep.metric=val/acuracy", "sweep.metric=val/acuracy: no job has it. Did you mean"),
        ("compare s s sweep.metric=val/loss", "sweep.metric: ranks the settings of a sweep."),
        ("compare s --png no/such.png", "--png no/such.png: can't be written: No such file or directory."),
        ("compare seeds --png a.png", "--png a.png: the jobs differ in the seed alone."),
        ("compare bad --png a.png", "--png a.png: no job has best/val/loss."),
        ("compare many --png a.png", "--png a.png: 30 keys are swept; up to 24 can be drawn."),
    ],
)
def test_a_mistake_is_one_line(
    words: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("begun").mkdir()
    Path("begun/sweep.yaml").write_text("command: []\n")
    write(Path("s"), grid(lr="1,2"), lambda swept: float(swept["lr"]))
    write(Path("seeds"), grid(seed="1,2"), lambda swept: float(swept["seed"]))
    write(Path("bad"), grid(lr="1,2"), lambda swept: None)
    write(Path("many"), [{f"key{i}": str(j) for i in range(30)} for j in range(2)], lambda swept: 1.0)
    if "no/such" in words:
        pytest.importorskip("matplotlib")
    with pytest.raises(UserError) as error:
        run_verb(words.split())
    assert str(error.value).startswith(line)
    assert "\n" not in str(error.value)
    assert capsys.readouterr().out == ""


# --- foreign folders --------------------------------------------------------------------------------------------------

GOOD = {"name": "a=1", "status": "finished", "reason": "", "a": "1", "best/val/loss": 1.0}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        "[1]",
        '[{"name": 1, "status": "finished", "reason": ""}]',
        "[" * 100_000,
        f'[{{"x": {"1" * 5000}}}]',
        "\xff",
    ],
)
def test_what_is_no_result_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=r"results\.json: (can't be read|holds no results of a sweep)") as error:
        read_rows(tmp_path)
    assert "\n" not in str(error.value)


def test_a_torn_file_is_never_our_fault(tmp_path: Path) -> None:
    path = write(tmp_path / "s", grid(a="1,2", b="x,y"), lambda swept: 1.0) / "results.json"
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError):
            read_rows(path.parent)


@pytest.mark.parametrize("png", [False, True])
def test_numbers_and_words_of_any_kind(said: Said, png: bool) -> None:
    words: list[str] = []
    if png:
        pytest.importorskip("matplotlib")
        words = ["--png", "a.png"]
    odd = [math.nan, math.inf, 10**400, True, None, [1], {"a": 1}, 1e308, -1e299, 1e299, 5e-324, 0]
    rows: list[dict[str, Any]] = [
        {**GOOD, "name": f"../{i}\x1b[31m\n", "a": f"$x^{i}\x07", "b$\x1b]0;": "グ{}%s" * i, "best/val/loss": number}
        for i, number in enumerate(odd)
    ]
    rows.append({**GOOD, "a": 1, "c": "only here", "status": "stopped", "reason": "\x1b[2J" * 20})
    Path("s").mkdir()
    Path("s/results.json").write_text(json.dumps(rows))
    text = said("compare", "s", *words)
    assert text.replace("\n", "").isprintable()
    shown = [line.split()[-1] for line in text.splitlines()[1:5]]
    assert [float(cell) for cell in shown] == pytest.approx([-1e299, 0, 5e-324, 1], rel=1e-3)


# --- the picture ------------------------------------------------------------------------------------------------------


def test_numbers_stand_by_size_or_by_their_logarithms() -> None:
    assert axis("lr", ["0.1", "0.001", "0.01", "0.1"]).places == pytest.approx({"0.001": 0, "0.01": 0.5, "0.1": 1})
    assert axis("epochs", ["10", "20", "40"]).places == pytest.approx({"10": 0, "20": 1 / 3, "40": 1})
    assert axis("dropout", [str(i / 100) for i in range(1, 51)]).places["0.25"] == pytest.approx(24 / 49)
    for i in range(1, 51):
        assert Scale([0.01, 0.1, 1])(i / 50) == pytest.approx(1 + math.log10(i / 50) / 2)


def test_words_stand_as_they_were_typed_and_no_two_values_on_each_other() -> None:
    assert axis("model", ["b", "a", "c", "a"]).places == {"c": 0, "a": 0.5, "b": 1}
    assert axis("decay", ["0", "1e-5", "1e-4", "1"]).places == pytest.approx(
        {"0": 0, "1e-5": 1 / 3, "1e-4": 2 / 3, "1": 1}
    )
    assert axis("clip", ["null", "1", "10"]).places == {"10": 0, "1": 0.5, "null": 1}
    assert axis("lr", ["0.1", "1e-1", "1"]).places == {"1": 0, "1e-1": 0.5, "0.1": 1}  # no two places for one number
    assert axis("lr", ["0.1"]).places == {"0.1": 0.5}


def pixels(path: str) -> Any:
    import numpy as np
    from PIL import Image

    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert picture.width >= 700
        return np.asarray(picture.convert("RGB")).astype(int)


def test_two_keys_are_a_heat_map_whose_best_cell_is_framed(said: Said) -> None:
    pytest.importorskip("matplotlib")
    write(Path("s"), SWEEP, accuracy)
    assert said("compare", "s", "--png", "s.png").endswith("drawn in s.png\n")
    picture = pixels("s.png")
    y, x = (picture == [255, 0, 0]).all(axis=2).nonzero()
    height, width, _ = picture.shape
    # adam with 0.1: the middle one of three columns, in the lower one of two rows.
    assert 0.35 < x.min() / width < x.max() / width < 0.75
    assert y.min() / height > 0.45
    # The best is the darkest, but for what is written on it.
    middle = picture[(y.min() + y.max()) // 2, x.min() + 6]
    left = picture[(y.min() + y.max()) // 2, x.min() - 20]
    assert middle.sum() < left.sum()


@pytest.mark.parametrize(
    "jobs",
    [
        grid(lr="0.1,0.01,0.001", seed="0,1"),  # one key
        grid(model="lenet,two_layer", optimizer="adam,sgd", lr="0.1,0.01"),
        [{"lr": str(0.01 * i), "dropout": str(0.02 * i)} for i in range(1, 20)],  # two keys, hardly a cell of the map
        [{"lr": repr(0.9**i), "decay": repr(0.8**i), "batch_size": str(2 ** (i % 5))} for i in range(300)],
    ],
)
def test_all_else_is_lines_through_axes(jobs: list[Swept], said: Said) -> None:
    pytest.importorskip("matplotlib")
    write(Path("s"), jobs, lambda swept: None if swept == jobs[-1] else float(swept["lr"]))
    said("compare", "s", "--png", "s.png", "sweep.metric=best/val/accuracy")
    picture = pixels("s.png")
    assert not (picture == [255, 0, 0]).all(axis=2).any()  # no cell has a frame
    assert len({tuple(colour) for colour in picture.reshape(-1, 3)[::7]}) > 100  # colours of the scale


def test_a_large_map_and_equal_numbers(said: Said) -> None:
    pytest.importorskip("matplotlib")
    write(Path("large"), grid(a=",".join(map(str, range(60))), b="1,2"), lambda swept: float(swept["a"]))
    write(Path("equal"), grid(a="1,2", b="1,2,3"), lambda swept: 0.5)
    for name in ("large", "equal"):
        said("compare", name, "--png", f"{name}.png")
        assert (pixels(f"{name}.png") == [255, 0, 0]).all(axis=2).any()


@pytest.mark.parametrize("jobs", [grid(a="1,2", b="x,y"), grid(a="1,2,3"), grid(a="1,2", b="x,y", c="u,v")])
def test_the_picture_without_matplotlib(jobs: list[Swept], said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    write(Path("s"), jobs, lambda swept: float(swept["a"]))
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match=r"^--png a.png: matplotlib draws it. Type pip install matplotlib.$"):
        run_verb(["compare", "s", "--png", "a.png"])


def test_a_job_that_was_pruned_is_called_so() -> None:
    statuses = {"1": "finished", "2": "finished", "3": "pruned", "4": "stopped"}
    rows = [
        Row(Job(a, Path(), {"a": a}, Request({}, {}, [])), status, "", {"best/val/loss": 1.0} if a < "3" else {})
        for a, status in statuses.items()
    ]
    metric = "best/val/loss"
    figure = picture._parallel(Path("x.png"), [axis("a", list(statuses))], settings(rows, metric), metric)
    assert "dotted: 1 pruned, 1 without a result" in [text.get_text() for text in figure.axes[0].texts]


def test_a_job_that_was_continued_by_itself_counts_as_what_it_has_come_to(tmp_path: Path, said: Said) -> None:
    """One that failed or was pruned, or was made longer, after the sweep had written its table."""
    folder = write(tmp_path / "s", grid(lr="1,2,3"), lambda swept: {"1": 0.5, "2": 0.7}.get(swept["lr"]))
    for lr, status, accuracy in (("1", "finished", 0.75), ("3", "finished", 0.9)):
        place = folder / f"lr={lr}"
        place.mkdir()
        numbers = {"best/val/accuracy": accuracy, "best/val/loss": 0.1, "test/accuracy": accuracy, "steps": 9}
        (place / "result.json").write_text(json.dumps({**numbers, "status": status, "seconds": None}))
    (tmp_path / "result.json").write_text('{"status": "finished", "steps": 1, "best/val/accuracy": 99}')
    table = said("compare", "s")
    assert [line.split()[:2] for line in table.splitlines()] == [
        ["lr", "best/val/accuracy"],
        ["3", "0.9000"],
        ["1", "0.7500"],
        ["2", "0.7000"],
    ]
    assert "failed" not in table
    assert read_failures(folder) == {}
    records = json.loads((folder / "results.json").read_text())
    records[2] |= json.loads((folder / "lr=3/result.json").read_text()) | {"status": "failed", "name": "lr=3"}
    (folder / "results.json").write_text(json.dumps(records))  # it had come so far, and failed all the same
    assert read_failures(folder) == {"lr=3": {"status": "failed", "reason": "train/loss=nan at step 10."}}
    records[2]["name"] = ".."
    (folder / "results.json").write_text(json.dumps(records))
    assert read_rows(folder)[2].status == "failed"  # nothing is read outside


# --- a real one -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_real_sweep_in_compare_in_runs_and_in_the_hparams_tab(
    command: Callable[..., subprocess.CompletedProcess[str]], tensorboard: Callable[[Path], Any], said: Said
) -> None:
    words = ["model=two_layer", "model.hidden_features=8", "data.limit=100", "max_steps=5", "monitor=off"]
    words += ["monitor.events=true", "monitor.hparams=true", "optimizer.lr=0.1,0.01", "seed=0,1", "name=s"]
    done = command("--multirun", *words)
    assert done.returncode == 0, done.stderr

    table = said("compare", "s")
    assert table.startswith("optimizer.lr  seeds  best/val/accuracy")
    assert table in done.stdout

    rows = {row["run"]: row for row in csv.DictReader(said("runs", "runs/s", "--csv").splitlines())}
    assert sorted(rows) == [f"lr={lr},seed={seed}" for lr in ("0.01", "0.1") for seed in (0, 1)]

    statuses = ["STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING", "STATUS_UNKNOWN"]
    body = {"startIndex": 0, "sliceSize": 10, "allowedStatuses": statuses, "colParams": []}
    with tensorboard(Path("runs/s")) as get:
        get("plugin/hparams/experiment", {"experimentName": ""})
        groups = get("plugin/hparams/session_groups", body)["sessionGroups"]
    assert len(groups) == 2
    for group in groups:
        lr = group["hparams"]["optimizer.lr"]
        assert [(session["name"], session["status"]) for session in group["sessions"]] == [
            (f"lr={lr},seed={seed}", "STATUS_SUCCESS") for seed in (0, 1)
        ]
        assert "seed" not in group["hparams"]
        means = {metric["name"]["tag"]: metric["value"] for metric in group["metricValues"] if "value" in metric}
        losses = [float(rows[f"lr={lr},seed={seed}"]["test/loss"]) for seed in (0, 1)]
        assert means["test/loss"] == pytest.approx(statistics.fmean(losses))


def test_it_loads_no_torch(tmp_path: Path) -> None:
    write(tmp_path / "s", grid(lr="1,2"), lambda swept: 0.5)
    code = (
        "import sys; from trainer.command.verbs import run_verb\n"
        "assert run_verb(['compare', 's']) == 0\n"
        "heavy = {'torch', 'hydra', 'tensorboard', 'matplotlib'} & sys.modules.keys()\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
