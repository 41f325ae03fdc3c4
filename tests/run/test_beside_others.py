"""What is asked of a training is the same in a stack and in several processes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ranks import ended, ranks

# A rate at which the validation gets worse again; float64, so that rounding decides nothing.
WORDS = ("model=two_layer", "optimizer=sgd", "eval_every=5", "max_steps=60", "dtype=float64")
WORDS = (*WORDS, "early_stopping.patience=3", "metric=[f1,auroc,kappa]", "average.decay=0.9")


def numbers(result: dict[str, Any]) -> dict[str, float]:
    """All that were measured: validation, test, and what counts."""
    kept = ("val/", "test/", "best", "steps")
    return {tag: number for tag, number in result.items() if tag.startswith(kept) and isinstance(number, float | int)}


@pytest.mark.long
def test_in_a_stack_each_run_is_as_it_is_alone(train: Callable[..., dict[str, Any]]) -> None:
    train("--multirun", *WORDS, "monitor=off", "optimizer.lr=1.5,0.7,0.2,0.1", "sweep.stack=always", "name=sweep")
    steps = set()
    for lr in ("1.5", "0.7"):
        alone = train(*WORDS, "monitor=off", f"optimizer.lr={lr}", f"name=alone{lr}")
        together = json.loads(Path(f"runs/sweep/lr={lr}/result.json").read_text())
        assert together["computed"] == "a stack of 4 runs"
        assert numbers(together) == pytest.approx(numbers(alone), rel=1e-9)
        steps.add(alone["steps"])
    assert len(steps) == 2, "one has stopped before the other"


@pytest.mark.long
def test_two_processes_come_to_the_numbers_of_one(train: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    words = (*WORDS, "optimizer.lr=1.5", "monitor=off")
    for code, _, err in ended(ranks(tmp_path, *words, "name=two")):
        assert code == 0, err
    alone, two = train(*words, "name=alone"), json.loads(Path("runs/two/result.json").read_text())
    assert numbers(two) == pytest.approx(numbers(alone), rel=1e-9)
