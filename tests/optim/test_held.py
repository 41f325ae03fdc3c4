"""Optimizers that hold others: a run that is continued has the bits of one that was not interrupted."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from exact import assert_same
from trainer.disk import checkpoint
from trainer.optim.held import followers, held
from trainer.optim.schedulers import Schedule, warmup_cosine

HOLDING = """
import torch


class Two(torch.optim.Optimizer):
    "One for the first half of the parameters, another for the rest, as a GAN has it."

    second = torch.optim.NAdam

    def __init__(self, params, lr=0.002):
        params = list(params)
        super().__init__(params, {"lr": lr})
        half = len(params) // 2
        self.each = [torch.optim.Adam(params[:half], lr=lr), self.second(params[half:], lr=lr)]

    def step(self):
        for optimizer in self.each:
            optimizer.step()


class Told(Two):
    "The same, which says itself what it keeps; torch rounds what NAdam keeps when that is loaded."

    second = torch.optim.RMSprop

    def state_dict(self):
        return {**super().state_dict(), "each": [optimizer.state_dict() for optimizer in self.each]}

    def load_state_dict(self, state_dict):
        super().load_state_dict({key: value for key, value in state_dict.items() if key != "each"})
        for optimizer, state in zip(self.each, state_dict["each"], strict=True):
            optimizer.load_state_dict(state)


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


@pytest.mark.parametrize("name", ["Two", "Told", "Shared", "Sharp", "Closed"])
def test_what_an_optimizer_holds_goes_on_exactly(name: str, train: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "holding.py").write_text(HOLDING)
    words = ("model=two_layer", "data.limit=200", f"optimizer._target_=holding.{name}", "trust=[holding]")
    words = (*words, *(["batch_size=full"] if name == "Closed" else []))
    words = (*words, "scheduler=exponential", "scheduler.gamma=0.5", "scheduler.interval=step")
    words = (*words, "dtype=float64", "monitor=off", "max_steps=7")
    train(*words, "name=whole")
    train(*words, "max_steps=4", "name=parts")
    train(*words, "name=parts")
    whole, parts = (checkpoint.read(Path("runs", run, "checkpoints/last.pt")) for run in ("whole", "parts"))
    assert_same(whole["model"], parts["model"])
    assert_same(whole["optimizer"], parts["optimizer"])
    held = dict(enumerate(parts["optimizer"]["each"])) if name == "Told" else parts["optimizer"]["held"]
    assert [*held] == {"Two": ["each.0", "each.1"], "Told": [0, 1]}.get(name, ["base"])
    # The rate that is logged is the one that each of them has.
    assert [inner["param_groups"][0]["lr"] for inner in held.values()] == [pytest.approx(0.002 * 0.5**7)] * len(held)


@pytest.mark.parametrize(
    "make",
    [
        lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, 5),
        lambda optimizer: lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 3),  # its rate is 0 once, and comes back
        lambda optimizer: warmup_cosine(optimizer, 2, 8),  # begins with another rate than was typed
    ],
)
def test_a_schedule_reaches_the_optimizers_that_one_holds(make: Callable[[torch.optim.Optimizer], Any]) -> None:
    def gan() -> tuple[nn.Linear, nn.Linear, torch.optim.Optimizer, torch.optim.Optimizer]:
        torch.manual_seed(0)
        parts = nn.Linear(3, 4, dtype=torch.float64), nn.Linear(4, 1, dtype=torch.float64)
        return *parts, torch.optim.SGD(parts[0].parameters(), lr=0.1), torch.optim.Adam(parts[1].parameters(), lr=0.4)

    inputs = torch.randn(8, 10, 3, dtype=torch.float64)
    *parts, first, second = gan()
    schedulers = [make(first), make(second)]
    for batch in inputs:
        first.zero_grad(), second.zero_grad()
        parts[1](parts[0](batch).tanh()).square().mean().backward()
        first.step(), second.step()
        for scheduler in schedulers:
            scheduler.step()
    *mine, first, second = gan()
    outer = torch.optim.SGD([p for part in mine for p in part.parameters()], lr=0.2)
    outer.each = {"first": first, "second": second}
    following = followers(outer)
    schedule = Schedule(make(outer), followers=following)
    for step, batch in enumerate(inputs, 1):
        outer.zero_grad()
        mine[1](mine[0](batch).tanh()).square().mean().backward()
        first.step(), second.step()
        outer.zero_grad(), outer.step()  # torch warns of a schedule before the first step
        schedule.step(step)
    for part, its in zip(parts, mine, strict=True):
        torch.testing.assert_close(its.weight, part.weight, rtol=1e-12, atol=0)


def test_one_with_a_state_dict_of_its_own_says_what_it_keeps() -> None:
    class Own(torch.optim.SGD):
        def state_dict(self) -> dict[str, Any]:
            return {**super().state_dict(), "inner": self.inner.state_dict()}

    optimizer = Own([torch.nn.Parameter(torch.ones(2))])
    optimizer.inner = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))])
    assert held(optimizer) == {}
    assert [*held(optimizer, is_to_be_kept=False)] == ["inner"]
