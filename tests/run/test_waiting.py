"""`time/waiting`: the share of its time in which a training waits for its next batch."""

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from exact import assert_same, states
from plain import losses, request_of
from trainer.config.settings import settings_of
from trainer.errors import UserError
from trainer.run.waiting import refuse_unmeasured

Train = Callable[..., dict[str, Any]]

# Each sample of one split takes some milliseconds, and the time of all is kept.
SLOW = """
import time

import torch

from trainer import Data

spent = []


class Rows(torch.utils.data.Dataset):
    def __init__(self, n, seconds):
        draw = torch.Generator().manual_seed(n)
        self.rows, self.seconds = torch.randn(n, 6, generator=draw), seconds

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        since = time.perf_counter()
        time.sleep(self.seconds)
        found = self.rows[i], int(self.rows[i, 0] > 0)
        if self.seconds:
            spent.append(time.perf_counter() - since)
        return found


def data(slow="train", seconds=0.005):
    sizes = {"train": 48, "val": 12, "test": 13}
    return Data(*(Rows(n, seconds * (split == slow)) for split, n in sizes.items()), num_classes=2)
"""
# Twelve steps, all of them recorded.
WORDS = ("model=two_layer", "batch_size=8", "max_steps=12", "monitor=off", "monitor.every=1", "eval_every=6")
OWN = ("data._target_=slow.data", "trust=[slow]")


@pytest.fixture
def slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "slow", raising=False)
    (tmp_path / "slow.py").write_text(SLOW)
    return importlib.import_module("slow")


def records(name: str) -> list[dict[str, float]]:
    lines = map(json.loads, Path("runs", name, "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if "time/step_ms" in line]


def seconds(name: str) -> tuple[float, float]:
    """That a run waited, and that its steps took."""
    found = records(name)
    waited = sum(line["time/waiting"] * line["time/step_ms"] for line in found)
    return waited / 1000, sum(line["time/step_ms"] for line in found) / 1000


def test_it_is_what_the_samples_take(train: Train, slow: Any) -> None:
    train(*WORDS, *OWN, "name=run")
    waited, whole = seconds("run")
    assert len(records("run")) == 12
    taken = slow.spent[-12 * 8 :]  # before the first step some are looked at
    assert sum(taken) <= waited <= whole
    assert all(line["time/waiting"] * line["time/step_ms"] / 1000 >= 0.04 for line in records("run"))


def test_no_validation_is_in_it(train: Train, slow: Any) -> None:
    train(*WORDS, *OWN, "data.slow=val", "data.seconds=0.02", "name=run")
    waited, whole = seconds("run")
    assert waited <= whole < sum(slow.spent[-2 * 12 :])  # of two validations: half a second


@pytest.mark.parametrize(
    ("words", "is_measured"),
    [
        ((), False),
        (("monitor.waiting=always",), True),
        ((*OWN,), True),
        ((*OWN, "monitor.waiting=never"), False),
    ],
)
def test_it_is_there_where_batches_are_read_meanwhile_or_it_is_asked_for(
    words: tuple[str, ...], is_measured: bool, train: Train, slow: Any
) -> None:
    train(*WORDS, *words, "name=run")
    assert all(("time/waiting" in line) == is_measured for line in records("run"))
    assert all(0 <= line.get("time/waiting", 0) <= 1 for line in records("run"))


def test_it_changes_no_number(train: Train) -> None:
    for wanted in ("always", "never"):
        train(*WORDS, f"monitor.waiting={wanted}", f"name={wanted}")
    assert losses("always") == losses("never")
    assert_same(states("runs/always", 12), states("runs/never", 12))


def test_it_is_refused_where_nothing_can_measure_it() -> None:
    refuse_unmeasured(settings_of(request_of("monitor.waiting=auto")), torch.device("mps"))
    with pytest.raises(UserError, match=r"^monitor.waiting=always: device=mps .* Type monitor.waiting=auto\.$"):
        refuse_unmeasured(settings_of(request_of("monitor.waiting=always")), torch.device("mps"))
