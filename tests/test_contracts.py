"""What a model may take and give, and what a loss may ask for and return: the loop's numbers are the plain ones."""

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.testing import assert_close

from trainer.data.batches import Batch
from trainer.evaluate import evaluate
from trainer.loop import Autograd, InParts
from trainer.losses.function import LossFunction
from trainer.meaning import Numbers
from trainer.optim.schedulers import Schedule
from trainer.state import Store, TrainingState

NAMES = {"loss": "mine", "model": "net", "data": "numbers"}
CPU = torch.device("cpu")


class TwoInputs(nn.Module):
    """Takes two tensors by name, gives a dict."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(3, 2), nn.Linear(4, 2)

    def forward(self, first: Tensor, second: Tensor) -> dict[str, Tensor]:
        hidden = self.first(first)
        return {"sum": hidden + self.second(second), "hidden": hidden}


class Terms(nn.Module):
    """Gives named terms; looks at inputs and at the model, too."""

    def forward(self, outputs: Any, targets: Tensor, inputs: Any, model: nn.Module) -> dict[str, Tensor]:
        return {
            "squares": (outputs["sum"] - targets).square().mean(),
            "near": (outputs["hidden"].mean(1) - inputs["first"].mean(1)).square().mean(),
            "small": model.first.weight.square().mean(),
        }


def by_hand(model: TwoInputs, inputs: Any, targets: Tensor) -> dict[str, Tensor]:
    return Terms()(model(**inputs), targets, inputs, model)


def samples(num_samples: int = 7) -> tuple[dict[str, Tensor], Tensor]:
    draw = torch.Generator().manual_seed(1)
    first, second, targets = (torch.randn(num_samples, size, generator=draw).double() for size in (3, 4, 2))
    return {"first": first, "second": second}, targets


class InOrder:
    """A split of trees."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.inputs, self.targets = samples()

    def __len__(self) -> int:
        return len(self.targets)

    def in_order(self, rank: int = 0, world_size: int = 1) -> Iterator[Batch]:
        return Batch(self.inputs, self.targets).parts(self.size)


@pytest.mark.parametrize("part_size", [1, 3, 7, 20])
def test_a_step_is_that_of_a_plain_loop_whatever_its_parts(part_size: int) -> None:
    model, expected = TwoInputs().double(), TwoInputs().double()
    loss_fn = LossFunction(Terms(), model, Numbers(2), NAMES)
    store = Store(model, loss_fn)
    inputs, targets = samples()
    step = InParts(Autograd(model, loss_fn), loss_fn, store, part_size, model)
    losses = step(Batch(inputs, targets), len(targets))
    terms = by_hand(expected, inputs, targets)
    total = sum(terms.values())
    total.backward()
    assert_close(losses.total, total.detach(), rtol=1e-12, atol=0)
    assert_close(losses.terms, {name: term.detach() for name, term in terms.items()}, rtol=1e-12, atol=0)
    gradients = {name: p.grad for name, p in expected.named_parameters()}
    assert_close({name: p.grad for name, p in model.named_parameters()}, gradients, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("size", [1, 3, 7])
def test_an_evaluation_is_that_of_the_whole_split(size: int) -> None:
    model = TwoInputs().double()
    loss_fn = LossFunction(Terms(), model, Numbers(2), NAMES)
    numbers = evaluate(model, loss_fn, InOrder(size), CPU, nullcontext)
    terms = by_hand(model, *samples())
    expected = {"loss": sum(terms.values()), **{f"loss/{name}": term for name, term in terms.items()}}
    assert numbers == pytest.approx({name: number.item() for name, number in expected.items()}, rel=1e-12)


class Scaled(nn.Module):
    """A loss with a parameter that trains and a buffer that counts."""

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(()))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if outputs.requires_grad:
            self.calls += 1
        return ((outputs - targets).square() * self.log_scale.exp()).mean() - self.log_scale


def trained(num_steps: int, stored: dict[str, Any] | None = None) -> TrainingState:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    loss_fn = LossFunction(Scaled(), model, Numbers(2), NAMES)
    store = Store(model, loss_fn)
    optimizer = torch.optim.Adam([store.flat], lr=0.1)
    state = TrainingState(model, store, optimizer, Schedule(None), GradScaler("cpu", enabled=False), loss=loss_fn)
    if stored is not None:
        state.load_state_dict(stored)
    inputs, targets = torch.ones(4, 3), torch.full((4, 2), 5.0)
    step = InParts(Autograd(model, loss_fn), loss_fn, store, 4, model)
    for _ in range(num_steps):
        step(Batch(inputs, targets), 4)
        optimizer.step()
        state.step += 1
    return state


def test_what_a_loss_keeps_trains_and_goes_on_exactly() -> None:
    whole, half = trained(10), trained(5)
    again = trained(5, half.state_dict())
    assert whole.store.names == ["weight", "bias", "loss.parts.0.criterion.log_scale"]
    assert torch.equal(again.store.values, whole.store.values)
    kept = again.loss.state_dict()
    assert kept["parts.0.criterion.calls"] == 10
    assert kept["parts.0.criterion.log_scale"] != 0
    assert_close(kept, whole.loss.state_dict(), rtol=0, atol=0)


def test_the_same_by_a_plain_loop() -> None:
    state = trained(10)
    torch.manual_seed(0)
    model, criterion = nn.Linear(3, 2), Scaled()
    optimizer = torch.optim.Adam([*model.parameters(), *criterion.parameters()], lr=0.1)
    for _ in range(10):
        optimizer.zero_grad()
        criterion(model(torch.ones(4, 3)), torch.full((4, 2), 5.0)).backward()
        optimizer.step()
    expected = torch.cat([p.detach().flatten() for p in (*model.parameters(), *criterion.parameters())])
    assert_close(state.store.values[0], expected)
