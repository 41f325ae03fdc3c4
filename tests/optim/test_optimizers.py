"""Optimizers: one flat buffer gives what many separate parameters give, and the update by hand is SGD's."""

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.optim import Optimizer

from trainer.optim.lion import Lion
from trainer.optim.manual_sgd import ELEMENTWISE, ManualSGD
from trainer.state import Store

OTHERS = ("own", "muon", "lbfgs", "schedule_free")  # look at shapes, or at all parameters at once
FOLDER = Path(__file__).parents[2] / "configs" / "optimizer"
SHIPPED = [path for path in sorted(FOLDER.glob("*.yaml")) if path.stem not in OTHERS]
# Every knob of the shipped configs away from zero.
TURNED = {
    "momentum": 0.9,
    "nesterov": True,
    "weight_decay": 0.1,
    "centered": True,
    "amsgrad": True,
    "lr_decay": 0.01,
    "rho": 0.5,
    "alpha": 0.5,
    "momentum_decay": 0.1,
    "betas": (0.5, 0.8),
    "eps": 1e-3,
}
INPUTS = torch.randn(6, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def class_named(name: str) -> type[Optimizer]:
    return {"ManualSGD": ManualSGD, "Lion": Lion}.get(name) or getattr(torch.optim, name)


def network(dtype: torch.dtype = torch.float64) -> nn.Module:
    """Segments of odd lengths, so that none but the first starts where a vector register does."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3), nn.Tanh(), nn.Linear(3, 1)).to(dtype)


def loss_at(model: nn.Module, step: int) -> Tensor:
    return (model(INPUTS.to(next(model.parameters()).dtype)) - step % 3).square().mean()


def weights_of_flat(kind: type[Optimizer], arguments: dict, num_steps: int, dtype: torch.dtype) -> list[Tensor]:
    model = network(dtype)
    store = Store(model)
    optimizer = kind([store.flat], **arguments)
    history = []
    for step in range(num_steps):
        loss_at(model, step).backward()
        optimizer.step()
        store.zero_grad()
        history.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    return history


def weights_of_separate(kind: type[Optimizer], arguments: dict, num_steps: int, dtype: torch.dtype) -> list[Tensor]:
    model = network(dtype)
    optimizer = kind(model.parameters(), **arguments)
    history = []
    for step in range(num_steps):
        optimizer.zero_grad()
        loss_at(model, step).backward()
        optimizer.step()
        history.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    return history


def assert_same_curve(kind: type[Optimizer], arguments: dict, dtype: torch.dtype = torch.float64) -> None:
    ways = zip(weights_of_flat(kind, arguments, 7, dtype), weights_of_separate(kind, arguments, 7, dtype), strict=True)
    for step, (flat, separate) in enumerate(ways, 1):
        assert flat.equal(separate), f"step {step}: {(flat - separate).abs().max()}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("is_turned", [False, True], ids=["as shipped", "every knob turned"])
@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_optimizer_on_one_buffer_is_torchs_on_separate_parameters(path, is_turned, dtype):
    config = OmegaConf.to_container(OmegaConf.load(path))
    name = config.pop("_target_").rpartition(".")[2]
    assert name in ELEMENTWISE
    if is_turned:
        config |= {key: value for key, value in TURNED.items() if key in config}
    assert_same_curve(class_named(name), config, dtype)


@pytest.mark.parametrize("name", sorted(ELEMENTWISE))
def test_whatever_counts_as_elementwise_is(name):
    assert_same_curve(class_named(name), {})


def test_an_optimizer_that_looks_at_shapes_does_not_count_as_elementwise():
    flat = weights_of_flat(torch.optim.Adafactor, {}, 7, torch.float64)
    separate = weights_of_separate(torch.optim.Adafactor, {}, 7, torch.float64)
    assert not torch.allclose(flat[-1], separate[-1])
    assert "Adafactor" not in ELEMENTWISE


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_update_by_hand_is_sgd_bit_for_bit(dtype):
    by_hand = weights_of_flat(ManualSGD, {"lr": 0.1}, 50, dtype)
    sgd = weights_of_flat(torch.optim.SGD, {"lr": 0.1}, 50, dtype)
    assert all(map(torch.equal, by_hand, sgd))
    assert not by_hand[0].equal(by_hand[-1])


def test_the_update_by_hand_is_the_formula_and_leaves_alone_what_has_no_gradient():
    moved, left = nn.Parameter(torch.tensor([1.0, -2.0])), nn.Parameter(torch.tensor([3.0]))
    moved.grad = torch.tensor([4.0, 8.0])
    ManualSGD([moved, left], lr=0.25).step()
    assert moved.tolist() == [0.0, -4.0]
    assert left.tolist() == [3.0]


@pytest.mark.parametrize("lr", [0, -0.1, float("nan")])
def test_a_learning_rate_that_is_not_above_zero_is_refused(lr):
    with pytest.raises(ValueError, match=f"^lr={lr}: "):
        ManualSGD([nn.Parameter(torch.zeros(1))], lr)
