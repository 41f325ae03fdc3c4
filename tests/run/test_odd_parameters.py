"""Parameters in odd places: the numbers of a plain PyTorch loop, or a line."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from trainer.errors import UserError

Train = Callable[..., dict[str, Any]]
ODD = """
import torch
from torch import nn
from torch.nn import functional as F

X = torch.randn(90, 4, generator=torch.Generator().manual_seed(0))
Y = X[:, :3].tanh()


def data():
    return tuple((X[i::3], Y[i::3]) for i in range(3))


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, 12).view(3, 4))
        self.build()

    def build(self):
        pass

    def forward(self, x):
        return F.linear(x, self.weight)


class Clamped(Plain):  # as in WGAN; the memory of a parameter changes in each pass
    def forward(self, x):
        self.weight.data = self.weight.data.clamp(-0.4, 0.4)
        return super().forward(x)


class ClampedInTraining(Plain):
    def forward(self, x):
        if self.training:
            self.weight.data = F.normalize(self.weight.data)
        return super().forward(x)


class Halves(Plain):  # of one tensor, without a number in common
    def build(self):
        both = torch.linspace(0, 1, 8).view(2, 4)
        self.left, self.right = nn.Parameter(both[:, :2]), nn.Parameter(both[:, 2:])

    def forward(self, x):
        return super().forward(x) + (self.left * self.right).sum()


class Wave(Plain):
    def build(self):
        self.wave = nn.Parameter(torch.ones(3, dtype=torch.cdouble))

    def forward(self, x):
        return super().forward(x) * (self.wave * 1j).abs()


class Tied(Plain):
    def build(self):
        self.again = nn.Parameter(self.weight.data)


class Kept(Plain):
    def build(self):
        self.register_buffer("kept", self.weight.detach()[0])


class Spread(Plain):
    def build(self):
        self.scale = nn.Parameter(torch.ones(1).expand(3))


class Nowhere(Plain):
    def build(self):
        self.nowhere = nn.Parameter(torch.empty(3, device="meta"))


class Quantized(Plain):
    def build(self):
        self.register_buffer("steps", torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8))
"""


@pytest.fixture
def odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "rarely.py").write_text(ODD)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "rarely", raising=False)
    return importlib.import_module("rarely")


def words(name: str) -> list[str]:
    return [f"model._target_=rarely.{name}", "data._target_=rarely.data", "loss=mse", "trust=[rarely]", "monitor=off"]


@pytest.mark.filterwarnings("ignore:.*quantize")
@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("Clamped", "average.decay=0.5 eval_every=1"),
        ("ClampedInTraining", "eval_every=1"),
        pytest.param("Clamped", "fast=false", marks=pytest.mark.long),
        ("Halves", ""),
        ("Wave", ""),
        pytest.param("Wave", "dtype=float64", marks=pytest.mark.long),
    ],
)
def test_parameters_in_odd_places_train_as_in_a_plain_loop(name: str, more: str, odd: Any, train: Train) -> None:
    model = getattr(odd, name)()
    for parameter in model.parameters():
        parameter.data = parameter.data.to(torch.cdouble if parameter.is_complex() else torch.float64)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    inputs, targets = ([part.double() for part in pair] for pair in zip(*odd.data(), strict=True))
    for _ in range(6):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(inputs[0]), targets[0])
        loss.backward()
        optimizer.step()
        with torch.no_grad():  # what a validation does to the weights, it does here
            tested = nn.functional.mse_loss(model.eval()(inputs[2]), targets[2])
        model.train()
    found = train(
        *words(name), "max_steps=6", "batch_size=full", "optimizer=adam", "optimizer.lr=0.1", "test=last", *more.split()
    )
    assert found["train/loss"] == pytest.approx(loss.item(), rel=1e-4)
    assert found["test/loss"] == pytest.approx(tested.item(), rel=1e-4)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Tied", "weight and again are two tensors in the same memory, .* Give both names one nn.Parameter"),
        ("Kept", "weight and kept are two tensors in the same memory"),
        ("Spread", "scale has one number for several places"),
        ("Nowhere", "nowhere has no numbers, it is on the device meta"),
        ("Quantized", "steps is quantized, and no checkpoint holds such a tensor"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*quant")
def test_what_can_not_be_trained_as_it_is_is_a_line(name: str, message: str, odd: Any, train: Train) -> None:
    with pytest.raises(UserError, match=message):
        train(*words(name), "max_steps=1")
    assert not Path("runs").exists()
