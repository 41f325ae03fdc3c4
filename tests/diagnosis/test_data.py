"""What is wrong with the data is found in a run, as the first thing, and not in a run that is nearly so."""

from pathlib import Path

import pytest
import torch
from confusion import findings
from sets import EMPTY, LEAK, ORDER, WORSE, Case

from trainer.monitor.evidence import empty_columns

NET = ("model._target_=ill.Net", "data._target_=ill.spoilt", "data.of=blobs", "trust=[ill]", "max_steps=300")
ILL = [
    Case("leak", LEAK, (*NET, "data.leak=0.3")),
    Case("order", ORDER, (*NET, "data.order=true")),
    Case("empty", EMPTY, (*NET, "data.empty=11")),
    Case("mislabelled", WORSE, (*NET, "data.mislabelled=0.9")),
    Case("nearly missing", WORSE, (*NET, "data.of=rings", "data.rare=0.98", "optimizer.lr=0.01")),
]
HEALTHY = (*NET, "data.leak=0.02", "data.empty=3", "data.rare=0.5")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("case", ILL, ids=lambda case: case.name)
def test_the_cause_is_first_and_what_is_to_be_typed_can_be_typed(case: Case, tmp_path: Path) -> None:
    found = findings(case, tmp_path / "run")
    assert found[0]["rule"] == case.causes[0]
    if case.name == "nearly missing":
        for word in ("loss.class_weights=balanced", "data.balance=true"):
            assert word in found[0]["advice"]
            findings(case, tmp_path / word, word, "max_steps=1")


def test_a_few_samples_or_columns_are_no_fault(tmp_path: Path) -> None:
    assert findings(Case("healthy", (), HEALTHY), tmp_path / "run") == []


def test_the_first_of_sorted_samples(tmp_path: Path) -> None:
    """A limit takes samples of one class: all numbers look perfect."""
    words = ("model._target_=ill.Net", "data._target_=ill.in_order", "trust=[ill]", "max_steps=60")
    found, *_ = findings(Case("limited", ORDER, (*words, "data.limit=100")), tmp_path / "run")
    assert found["rule"] == "data given in order"
    assert "Try data.limit=null" in found["advice"]
    assert findings(Case("whole", (), words), tmp_path / "whole") == []


def test_columns_are_looked_at_in_all_samples_before_they_are_called_empty() -> None:
    inputs = torch.zeros(1000, 4)
    inputs[:, 0] = torch.arange(1000)
    inputs[:, 1] = inputs[:, 0]
    some = inputs[::100]
    assert empty_columns(inputs, some) == [1, 2, 3]
    inputs[5, 2:] = torch.tensor([1.0, 2.0])  # in none of those that were looked at first
    assert empty_columns(inputs, some) == []
    assert empty_columns(torch.ones(50, 1, 4, 4), torch.ones(50, 16)) == [*range(16)]
    pictures = torch.ones(50, 1, 4, 4)
    pictures[3, 0, 0, 0] = 0
    assert empty_columns(pictures, pictures.flatten(1)) == []  # background is no fault
