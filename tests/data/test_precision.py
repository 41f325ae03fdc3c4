"""What a cast to the run's type loses is told; what it makes infinite is refused."""

import pytest
import torch

from refusal import says
from trainer.data.precision import lost
from trainer.data.source import Data, Samples


def data(inputs: torch.Tensor, targets: torch.Tensor) -> Data:
    return Data(*(Samples(inputs[i::3], targets[i::3]) for i in range(3)), description="numbers")


X = torch.randn(90, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("start", [123_456_789.0, 1.7e9, 5e12])
def test_targets_that_are_rounded_alike_are_told(start: float) -> None:
    numbers = data(X, start + torch.arange(90, dtype=torch.float64)[:, None])
    (note,) = lost(numbers, torch.float32)
    assert note.startswith("targets lose digits in float32: of 30 different numbers in column 0 (counted from 0) ")
    assert note.endswith("Type dtype=float64, or subtract what they have in common.")
    assert lost(numbers, torch.float64) == []


def test_raw_inputs_are_told_too_by_their_column() -> None:
    (note,) = lost(data(X * 1e-3 + torch.tensor([0, 1e6]).double(), X), torch.float32)
    assert note.startswith("inputs lose digits in float32: ")
    assert "column 1" in note


@pytest.mark.parametrize("shift", [0.0, 1.0, 1e3])
def test_ordinary_rounding_is_not_worth_a_word(shift: float) -> None:
    assert lost(data(X + shift, X * 1e-9), torch.float32) == []
    assert lost(data(X.float(), torch.full((90, 1), 0.1).double()), torch.float32) == []
    assert lost(data(X, torch.zeros(90, dtype=torch.int64)), torch.float32) == []


@pytest.mark.parametrize("what", ["inputs", "targets"])
def test_what_becomes_infinite_is_refused(what: str) -> None:
    large = X.clone()
    large[7, 1] = 1e39
    pair = (large, X) if what == "inputs" else (X, large)
    message = says(
        lost, f"{what} of the val split go up to 1e+39", "dtype=float64", data=data(*pair), dtype=torch.float32
    )
    assert message.startswith("data: ")
    assert lost(data(*pair), torch.float64) == []
