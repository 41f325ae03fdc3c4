"""Optimizers that hold others: a run that is continued has the bits of one that was not interrupted."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from exact import assert_same
from trainer.disk import checkpoint
from trainer.optim.held import held

HOLDING = """
import torch


class Two(torch.optim.Optimizer):
    "One for the first half of the parameters, another for the rest, as a GAN has it."

    def __init__(self, params, lr=0.002):
        params = list(params)
        super().__init__(params, {"lr": lr})
        half = len(params) // 2
        self.each = [torch.optim.Adam(params[:half], lr=lr), torch.optim.NAdam(params[half:], lr=lr)]

    def step(self):
        for optimizer in self.each:
            optimizer.step()


class Shared(torch.optim.Optimizer):
    "Its groups are those of the one that it holds: a schedule changes both."

    def __init__(self, params, lr=0.002):
        super().__init__(params, {"lr": lr})
        self.base = torch.optim.Adam(self.param_groups, lr=lr)

    def step(self):
        assert all(mine is its for mine, its in zip(self.param_groups, self.base.param_groups, strict=True))
        self.base.step()


class Sharp(Shared):
    "As the usual file with sharpness-aware minimization has it."

    def __init__(self, params, lr=0.002):
        super().__init__(params, lr)
        self.param_groups = self.base.param_groups

    def load_state_dict(self, state_dict):
        super().load_state_dict(state_dict)
        self.base.param_groups = self.param_groups


class Closed(Sharp):
    "The same, with the loss evaluated again in each step."

    def step(self, closure):
        closure()
        loss = closure()
        self.base.step()
        return loss
"""


@pytest.mark.parametrize("name", ["Two", "Shared", "Sharp", "Closed"])
def test_what_an_optimizer_holds_goes_on_exactly(name: str, train: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "holding.py").write_text(HOLDING)
    words = ("model=two_layer", "data.limit=200", f"optimizer._target_=holding.{name}", "trust=[holding]")
    words = (*words, *(["batch_size=full"] if name == "Closed" else []))
    words = (*words, "scheduler=exponential", "scheduler.gamma=0.5", "dtype=float64", "monitor=off", "max_steps=7")
    train(*words, "name=whole")
    train(*words, "max_steps=4", "name=parts")
    train(*words, "name=parts")
    whole, parts = (checkpoint.read(Path("runs", run, "checkpoints/last.pt")) for run in ("whole", "parts"))
    assert_same(whole["model"], parts["model"])
    assert_same(whole["optimizer"], parts["optimizer"])
    assert [*parts["optimizer"]["held"]] == (["each.0", "each.1"] if name == "Two" else ["base"])


def test_one_with_a_state_dict_of_its_own_says_what_it_keeps() -> None:
    class Own(torch.optim.SGD):
        def state_dict(self) -> dict[str, Any]:
            return {**super().state_dict(), "inner": self.inner.state_dict()}

    optimizer = Own([torch.nn.Parameter(torch.ones(2))])
    optimizer.inner = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))])
    assert held(optimizer) == {}
