"""`train remedy`: of planted causes the right key is first; what nothing mends is said to be the data's."""

import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trainer.command import main as cli
from trainer.command.asking import seconds
from trainer.errors import UserError
from trainer.use import remedy

Train = Callable[..., dict[str, Any]]
LONG = ("monitor=scalars", "monitor.events=false", "max_steps=300", "checkpoint.every_minutes=null")
DIGITS = ("model=two_layer", *LONG)
SGD = (*DIGITS, "optimizer=sgd", "optimizer.lr=0.1")
BLOBS = ("model._target_=ill.Net", "data._target_=ill.blobs", "trust=[ill]", *LONG)

PLANTED: list[tuple[str, tuple[str, ...]]] = [
    ("optimizer.lr", (*DIGITS, "optimizer.lr=1")),
    ("optimizer.lr", (*DIGITS, "optimizer=sgd", "optimizer.lr=1e-5")),
    ("optimizer.momentum", (*SGD, "optimizer.momentum=0.999")),
    ("gradient.clip_norm", (*SGD, "gradient.clip_norm=0.0001")),
    ("optimizer.weight_decay", (*SGD, "optimizer.weight_decay=1")),
    ("optimizer.weight_decay", (*DIGITS, "optimizer=adamw", "optimizer.weight_decay=100")),
    ("scheduler", (*SGD, "scheduler=exponential", "scheduler.interval=step", "scheduler.gamma=0.5")),
    ("model.dropout", ("model.dropout=0.97", *LONG)),
    ("model.init", (*SGD, "model.init=normal")),  # with a rate of 0.001 the rate mends more
    ("optimizer.lr", (*BLOBS, "optimizer.lr=1e-6")),
]


def first_key(said: str) -> str:
    """Of the table's first row."""
    lines = said.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("remedy "))
    return lines[start + 1].partition("=")[0]


@pytest.mark.long
@pytest.mark.parametrize(("key", "words"), PLANTED, ids=[f"{key}-{i}" for i, (key, _) in enumerate(PLANTED)])
def test_the_right_key_is_first(
    key: str,
    words: tuple[str, ...],
    train: Train,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = str(Path(__file__).parents[1] / "diagnosis")
    monkeypatch.setattr(sys, "path", [*sys.path, place])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([place, *filter(None, [os.environ.get("PYTHONPATH")])]))
    train(*words, "name=ill")
    own = [word for word in words if word.startswith("trust=")]
    before = {path: path.read_bytes() for path in Path("runs/ill").rglob("*") if path.is_file()}
    capsys.readouterr()
    assert cli.run_command(["remedy", "ill", *own]) == 0
    said = capsys.readouterr().out
    assert first_key(said) == key
    assert f"type the same command with {key}=" in said
    assert {path: path.read_bytes() for path in Path("runs/ill").rglob("*") if path.is_file()} == before


@pytest.mark.long
def test_of_data_that_hold_nan_nothing_is_tried(train: Train) -> None:
    train("model=two_layer", "max_steps=2", "monitor=off", "name=a")
    result = json.loads(Path("runs/a/result.json").read_text())
    Path("runs/a/result.json").write_text(json.dumps(result | {"diagnosis": [{"rule": remedy.OF_GAPS}]}))
    with pytest.raises(UserError, match=r"^runs/a: its data hold NaN .* train replay runs/a shows where\.$"):
        cli.run_command(["remedy", "a"])
    assert not Path("runs/remedy-a").exists()


def test_ties_and_what_nothing_mends(capsys: pytest.CaptureFixture[str]) -> None:
    numbers = {"": 2.0, "a=1": 0.5, "b=2": 0.6, "c=3": 1.5}
    assert remedy.near_ties(numbers) == ["a=1", "b=2"]
    assert remedy.near_ties({"": 2.0, "a=1": 0.5, "b=2": 1.5}) == []
    assert remedy.near_ties({"": 2.0, "a=1": 1.99, "b=2": 1.99}) == []
    result = {"diagnosis": [{"rule": "labels without a pattern"}, {"rule": "loss not falling"}]}
    assert remedy.tell(Path("runs/x"), {"": 2.0, "a=1": 1.99}, "200 steps", result) == 0
    assert "nothing of this helps. The data may be the cause: labels without a pattern" in capsys.readouterr().out
    assert remedy.tell(Path("runs/x"), {"": 2.0, "a=1": 1.99}, "200 steps", result, unseen=900) == 0
    assert "so early: the run fell ill at step 900. Train it with checkpoint.history=10" in capsys.readouterr().out


@pytest.mark.long
def test_a_run_that_fell_ill_late_is_tried_from_before_that(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    words = (*DIGITS[:-2], "checkpoint.every_minutes=null", "max_steps=1500", "data.limit=40", "eval_every=50")
    train(*words, "optimizer.lr=0.01", "name=late", "checkpoint.history=8")  # known by heart after a while
    ill = remedy.fell_ill(json.loads(Path("runs/late/result.json").read_text()))
    assert ill > 400
    capsys.readouterr()
    assert cli.run_command(["remedy", "late"]) == 0
    said = capsys.readouterr().out.replace(",", "")
    (step,) = set(map(int, re.findall(r"200 steps from step (\d+)", said)))
    assert ill - 256 <= step < ill
    assert "model.init" not in said
    assert remedy.kept_before(Path("runs/late"), {"model": {"_target_": "mine.Net"}}, ill) is None


def test_when_a_run_fell_ill() -> None:
    found = [{"rule": "a", "step": 900}, {"rule": "b", "step": 500}, {"rule": "c", "step": 1000}]
    assert remedy.fell_ill({"diagnosis": found, "steps": 1000, "status": "finished"}) == 500
    assert remedy.fell_ill({"diagnosis": found[2:], "steps": 1000, "status": "finished"}) == 0
    assert remedy.fell_ill({"diagnosis": found[2:], "steps": 1000, "status": "stopped"}) == 1000
    assert remedy.fell_ill({"diagnosis": ["?", {"step": "x"}], "steps": 10}) == remedy.fell_ill({}) == 0


def test_steps_and_budget() -> None:
    assert remedy.length({"steps": 10_000, "seconds": 100.0}, 9, 300) == 1000
    assert remedy.length({"steps": 400, "seconds": 1.0}, 9, 300) == 200
    assert remedy.length({"steps": 10_000, "seconds": 10_000.0}, 4, 300) == 75
    with pytest.raises(UserError, match=r"9 runs of 200 steps take about 30 minutes\. Type budget=30m"):
        remedy.length({"steps": 10_000, "seconds": 10_000.0}, 9, 300)
    assert [seconds(text) for text in ("90s", "5m", "1.5h")] == [90, 300, 5400]
    with pytest.raises(UserError, match="budget=5: must be a time such as 90s, 5m or 1h"):
        seconds("5")


@pytest.mark.long
def test_a_part_of_a_run_has_the_schedule_of_all_of_it(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    """A warm-up that is longer than the part was refused, and "as it is" was another run with a shorter schedule."""
    schedule = ("scheduler=warmup_cosine", "scheduler.warmup_steps=250")
    train(*SGD, *schedule, "max_steps=700", "monitor.every=50", "optimizer.lr=1e-5", "name=warm")
    assert cli.run_command(["remedy", "warm"]) == 0
    assert first_key(capsys.readouterr().out) == "optimizer.lr"
    parts = [curve(run) for run in Path("runs/remedy-warm").glob("*lr=1e-05,*init=default*")]
    whole = curve(Path("runs/warm"))
    assert any(part == pytest.approx(whole[: len(part)], rel=1e-4) for part in parts)
    assert remedy.as_laid_out({"T_max": None, "interval": "epoch"}, 700, 200) == {"T_max": None, "interval": "epoch"}
    assert remedy.as_laid_out({"total_steps": None}, 100, 200) == {"total_steps": None}  # a part longer than the whole


def curve(run: Path) -> list[float]:
    """Learning rates and losses of training at its records."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [line[tag] for line in lines if "train/loss" in line for tag in ("lr", "train/loss")]
