"""A run that gets no better ends, says why, and continues with more patience as if it had had it from the start."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exact import assert_same, states
from trainer.errors import UserError

Train = Callable[..., dict[str, Any]]
# A rate at which the validation gets worse again.
WORDS = ("model=two_layer", "optimizer=sgd", "optimizer.lr=1.5", "eval_every=5", "max_steps=150", "monitor=off")


def validations(name: str, tag: str) -> list[tuple[int, float]]:
    records = [json.loads(line) for line in Path("runs", name, "metrics.jsonl").read_text().splitlines()]
    return [(record["step"], record[tag]) for record in records if tag in record]


def by_hand(numbers: list[tuple[int, float]], patience: int, min_delta: float, sign: int) -> int:
    """The step at which a loop with a counter would stop."""
    best, waited = None, 0
    for step, number in numbers:
        if best is None or sign * number > sign * best + min_delta:
            best, waited = number, 0
        else:
            waited += 1
        if waited == patience:
            return step
    return numbers[-1][0]


@pytest.mark.parametrize(
    ("metric", "patience", "min_delta"),
    [("val/loss", 2, 0), ("val/loss", 4, 0.3), ("val/accuracy", 3, 0), ("val/accuracy", 3, 0.2)],
)
def test_it_stops_where_a_counter_says(metric: str, patience: int, min_delta: float, train: Train) -> None:
    whole = train(*WORDS, "name=whole")
    assert "ended" not in whole
    expected = by_hand(validations("whole", metric), patience, min_delta, -1 if metric == "val/loss" else 1)
    assert expected < 150
    stopping = [f"early_stopping.patience={patience}", f"early_stopping.metric={metric}"]
    result = train(*WORDS, *stopping, f"early_stopping.min_delta={min_delta}", "name=stopped")
    assert (result["steps"], result["status"]) == (expected, "finished")
    assert f"in {patience} validations" in result["ended"]
    assert_same(states("runs/stopped", expected)["patience"]["count"], patience)


def test_more_patience_continues_exactly(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    patient = train(*WORDS, "early_stopping.patience=5", "name=patient")
    short = train(*WORDS, "early_stopping.patience=2", "name=run")
    assert short["steps"] < patient["steps"]
    capsys.readouterr()
    assert train(*WORDS, "early_stopping.patience=2", "name=run") == short
    said = capsys.readouterr().out
    assert said.startswith("runs/run is finished: ")
    assert "validations" in said
    assert "type a larger early_stopping.patience=" in said
    longer = train(*WORDS, "early_stopping.patience=5", "name=run")
    assert_same(patient, longer)
    assert_same(states("runs/patient", patient["steps"]), states("runs/run", patient["steps"]))
    assert validations("patient", "val/loss") == validations("run", "val/loss")
    # Without early stopping it goes to its end.
    assert train(*WORDS, "name=run")["steps"] == 150


def test_the_time_is_over(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("model=two_layer", "monitor=off", "max_steps=1000000", "eval_every=1000000", "name=run")
    result = train(*words, "max_time=1s")
    assert result["status"] == "finished"
    assert result["ended"] == "max_time=1s: the time is over"
    assert result["seconds"] == pytest.approx(1.0, abs=0.8)
    assert [step for step, _ in validations("run", "val/loss")] == [result["steps"]]  # the last step is validated
    assert states("runs/run", result["steps"])["step"] == result["steps"]
    assert train(*words, "max_time=1s") == result
    assert "type a larger max_time=" in capsys.readouterr().out
    longer = train(*words, "max_time=2s")
    assert longer["steps"] > result["steps"]


@pytest.mark.slow
def test_a_run_whose_time_is_over_has_the_weights_of_a_longer_one_though_it_was_killed(
    train: Train, tmp_path: Path
) -> None:
    words = ("model=two_layer", "monitor=off", "eval_every=1000000", "checkpoint.every=200", "threads=1")
    timed = [sys.executable, "-m", "trainer", *words, "max_steps=1000000", "max_time=2s", "name=run"]
    with subprocess.Popen(timed, cwd=tmp_path, stdout=subprocess.DEVNULL) as process:
        while not list(tmp_path.glob("runs/run/checkpoints/step_*.pt")):
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
    assert not (tmp_path / "runs/run/result.json").exists()
    subprocess.run(timed, cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)
    result = json.loads(Path("runs/run/result.json").read_text())
    assert result["ended"] == "max_time=2s: the time is over"
    whole = train(*words, f"max_steps={result['steps']}", "name=whole")
    assert_same(*(states(f"runs/{name}", result["steps"])["model"] for name in ("run", "whole")))
    assert result["test/loss"] == whole["test/loss"]


@pytest.mark.parametrize(("patience", "is_told"), [(1, False), (2, True)])
def test_a_patience_that_outlasts_the_run_is_said(
    patience: int, is_told: bool, train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (*WORDS, "max_steps=15", "early_stopping.min_delta=9", f"early_stopping.patience={patience}")
    assert (train(*words)["steps"] == 15) is is_told
    line = "early_stopping.patience=2: can stop nothing, with 3 validations in 15 steps. Type eval_every=3, or leave"
    assert (line in capsys.readouterr().out) is is_told
    assert train(*words, "eval_every=3")["steps"] == 3 * (patience + 1)  # what was said to type works


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("early_stopping.min_delta=0.1",), "early_stopping.min_delta=0.1: nothing is stopped early. Type early_st"),
        (("early_stopping.patience=2", "early_stopping.metric=val/f2"), "early_stopping.metric=val/f2: is not meas"),
        (("max_time=0s",), "max_time=0s: must be a time such as 2h30m"),
        (("max_time=90",), "max_time=90: must be a time such as 2h30m"),
    ],
)
def test_what_can_not_be_meant_is_a_line(words: tuple[str, ...], line: str, train: Train) -> None:
    with pytest.raises(UserError) as error:
        train("model=two_layer", *words)
    assert str(error.value).startswith(line)
    assert not Path("runs").exists()
