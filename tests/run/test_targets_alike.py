"""Targets mean the same in memory and read one by one, and a loss that is not defined for them is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from trainer.data.given import Asked, as_data
from trainer.data.source import Samples
from trainer.errors import UserError
from trainer.meaning import Classes

Train = Callable[..., dict[str, Any]]
QUIET = ("trust=[alike]", "monitor=off", "threads=1")
ALIKE = """
import torch
from torch import nn

X = torch.randn(90, 4, generator=torch.Generator().manual_seed(0))
LATE = torch.arange(90) % 30 > 20  # the first items show nothing of it
TARGETS = {
    "waves": torch.complex(X[:, :3], 10 * X[:, 1:]),
    "signs": X[:, :1].sign(),
    "labels": torch.where(LATE[:, None], 0.0, 1.0) * torch.tensor([1.0, 0.0, 0.0]),
    "twos": torch.where(LATE, 2, torch.arange(90) % 2)[:, None] * torch.ones(2).long(),
}


def given(which, are_items):
    pairs = [[(x, y) for x, y in zip(X[i::3], TARGETS[which][i::3])] for i in range(3)]
    return tuple(pairs) if are_items else tuple((X[i::3], TARGETS[which][i::3]) for i in range(3))


class Turned(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.full((4, 3), 0.5, dtype=torch.cfloat))

    def forward(self, x):
        return x.cfloat() @ self.weight


def apart(outputs, targets):
    return (outputs - targets).abs().square().mean()
"""


@pytest.fixture
def alike(tmp_path: Path) -> None:
    (tmp_path / "alike.py").write_text(ALIKE)


def classes(which: Tensor, are_items: bool) -> Any:
    inputs = torch.arange(8.0)[:, None]
    given = [*zip(inputs, which, strict=True)] if are_items else (inputs, which)
    return as_data({"train": given, "val": given, "test": given}, "own", Asked("classification"))


@pytest.mark.parametrize("are_items", [False, True])
@pytest.mark.parametrize(
    "form",
    [
        lambda labels: torch.eye(3)[labels],
        lambda labels: torch.eye(3)[labels].to(torch.uint8),
        lambda labels: torch.eye(3)[labels].bool(),
        lambda labels: labels[:, None].float(),
        lambda labels: labels.bfloat16() + 1,
        lambda labels: labels.double().requires_grad_(),
    ],
)
def test_what_is_said_to_be_classes_is_numbered_from_0(form: Callable[[Tensor], Tensor], are_items: bool) -> None:
    labels = torch.tensor([0, 1, 2, 0, 2, 1, 1, 0])
    data = classes(form(labels), are_items)
    assert isinstance(data.meaning, Classes)
    assert data.meaning.num_classes == 3
    found = data.train.load(("", list(range(8))))[1] if are_items else data.train.targets
    assert found.tolist() == labels.tolist()
    assert not are_items or data.train.known.tolist() == labels.tolist()


def test_complex_numbers_are_no_classes() -> None:
    for are_items in (False, True):
        with pytest.raises(UserError, match=r"complex numbers as targets, which are no classes\. Leave data\.task out"):
            classes(torch.ones(8, dtype=torch.cfloat), are_items)


@pytest.mark.parametrize("are_items", [pytest.param(False, marks=pytest.mark.long), True])
def test_both_parts_of_a_complex_target_count(are_items: bool, alike: None, train: Train) -> None:
    words = ("data._target_=alike.given", "data.which=waves", f"data.are_items={are_items}", *QUIET)
    own = ("model._target_=alike.Turned", "loss._target_=alike.apart")
    found = train(*words, *own, "max_steps=1", "optimizer=sgd", "batch_size=full")
    x = torch.randn(90, 4, generator=torch.Generator().manual_seed(0))
    parts = ((x.sum(1, keepdim=True) / 2 - x[:, :3]).square() + (10 * x[:, 1:]).square())[::3]
    assert found["train/loss"] == pytest.approx(parts.mean().item(), rel=1e-5)
    assert "test/mae" not in found
    with pytest.raises(UserError, match=r"loss=mse: takes real numbers, and the targets are complex\. Give torch"):
        train(*words, "model=two_layer", "loss=mse")


@pytest.mark.parametrize("are_items", [pytest.param(False, marks=pytest.mark.long), True])
@pytest.mark.parametrize(
    ("which", "words", "message"),
    [
        ("signs", "loss=bce_with_logits", "takes targets from 0 to 1, but those of data=given go from -1 to 1"),
        ("signs", "loss=poisson_nll", "takes targets of 0 and more, but those of data=given go from -1 to 1"),
        ("signs", "loss=cross_entropy", "Or data.task=classification, if these whole numbers are classes"),
        ("labels", "loss=cross_entropy", "data.task=multilabel loss=bce_with_logits if several can be 1"),
        ("labels", "loss=kl_div", "takes a share of each class, which add up to 1"),
        ("twos", "data.task=multilabel loss=bce_with_logits", "2"),
    ],
)
def test_targets_that_a_loss_is_not_defined_for_are_a_line(
    which: str, words: str, message: str, are_items: bool, alike: None, train: Train
) -> None:
    """Before, those of items went through where the first ones were in order: a BCE of -2.4, say."""
    data = ("data._target_=alike.given", f"data.which={which}", f"data.are_items={are_items}", "max_steps=2")
    with pytest.raises(UserError) as raised:
        train(*data, "model=two_layer", *words.split(), *QUIET)
    assert message in str(raised.value)


def test_samples_may_lie_in_memory_in_any_way() -> None:
    """Shared by all rows, in 8 bits; what has no numbers is refused."""
    targets = torch.zeros(4, 1)
    split = Samples(torch.ones(1, 3).expand(4, 3), targets)
    data = as_data((split, split, Samples(torch.ones(4, 3).to(torch.float8_e4m3fn), targets)), "own", Asked())
    data.train.inputs.mul_(2)
    assert data.train.inputs.tolist() == [[2.0] * 3] * 4
    assert data.test.inputs.dtype == torch.float32
    with pytest.raises(UserError, match="without numbers, on the device meta"):
        as_data(Samples(torch.ones(4, 3, device="meta"), targets), "own", Asked())
