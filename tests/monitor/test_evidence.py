"""What is looked at before the first step: what outputs can be, whatever the weights; what a column says."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trainer.data.batches import ResidentBatches
from trainer.data.prepare import Splits
from trainer.losses.criteria import Dice
from trainer.losses.function import LossFunction
from trainer.meaning import Classes, Labels, Meaning, Numbers, Places
from trainer.monitor.evidence import equal_units, of_outputs, of_targets, telling_columns

NAMES = {"loss": "mine", "model": "mine", "data": "mine"}
X = torch.randn(120, 4, generator=torch.Generator().manual_seed(0))
CLASSES = torch.arange(120) % 3
PIXELS = X.abs().reshape(10, 3, 4, 4).clamp(0, 1)


def splits(inputs: Tensor, targets: Tensor) -> Splits:
    split = ResidentBatches(inputs, targets)
    return Splits(tuple(inputs.shape[1:]), 3, split, split, split)


def net(*end: nn.Module, between: nn.Module | None = None, bias: float = 0.0, width: int = 8) -> nn.Module:
    torch.manual_seed(0)
    last = nn.Linear(width, 3)
    nn.init.constant_(last.bias, bias)
    nn.init.normal_(last.weight, std=0.01)
    return nn.Sequential(nn.Linear(4, width), between or nn.ReLU(), last, *end)


def seen(model: nn.Module, criterion: nn.Module, meaning: Meaning, targets: Tensor, inputs: Tensor = X) -> Any:
    before = [p.clone() for p in model.parameters()]
    found = of_outputs(model, LossFunction(criterion, model, meaning, NAMES), splits(inputs, targets))
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    return found


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (net(nn.Softmax(1)), "probabilities"),
        (net(nn.Sigmoid()), "between 0 and 1"),
        (net(nn.Sigmoid(), between=nn.BatchNorm1d(8)), "between 0 and 1"),
        (net(bias=0.1), ""),  # all between 0 and 1 at first, by their biases
        (net(bias=0.1, between=nn.BatchNorm1d(8)), ""),
        (net(), ""),
    ],
)
def test_outputs_that_are_no_logits_are_so_with_other_weights_too(model: nn.Module, said: str) -> None:
    assert seen(model, nn.CrossEntropyLoss(), Classes(3), CLASSES)["outputs_are"] == said
    labels = nn.functional.one_hot(CLASSES, 3).float()
    of_labels = seen(model, nn.BCEWithLogitsLoss(), Labels(3), labels)["outputs_are"]
    assert of_labels == ("between 0 and 1" if said else "")


@pytest.mark.parametrize(
    ("end", "criterion", "targets", "said", "instead"),
    [
        (nn.Sigmoid(), nn.BCEWithLogitsLoss(), PIXELS[:, :1], "between 0 and 1", "loss=bce"),
        (nn.Sigmoid(), Dice(), PIXELS[:, :1], "between 0 and 1", "loss=bce"),
        (nn.Softmax(1), nn.CrossEntropyLoss(), PIXELS.argmax(1), "probabilities", "loss=nll"),
        (nn.Softmax(1), Dice(), PIXELS.argmax(1), "probabilities", "loss=nll"),
        (nn.Sigmoid(), nn.CrossEntropyLoss(), PIXELS.argmax(1), "between 0 and 1", ""),
        (nn.Identity(), nn.CrossEntropyLoss(), PIXELS.argmax(1), "", ""),
        (nn.Identity(), Dice(), PIXELS[:, :1], "", ""),
    ],
)
def test_outputs_of_pixels_that_are_no_logits_are_so_too(
    end: nn.Module, criterion: nn.Module, targets: Tensor, said: str, instead: str
) -> None:
    """A loss that takes them is named, and takes them."""
    is_of_classes = not targets.is_floating_point()
    meaning = Places(3) if is_of_classes else Numbers(targets[0].numel())
    model = nn.Sequential(nn.Conv2d(3, 3 if is_of_classes else 1, 1), end)
    found = seen(model, criterion, meaning, targets, PIXELS)
    assert (found["outputs_are"], found["takes_probabilities"]) == (said, instead)
    if instead:
        model.gives = "probabilities"  # type: ignore[assignment]
        loss_fn = LossFunction({"loss=bce": nn.BCELoss, "loss=nll": nn.NLLLoss}[instead](), model, meaning, NAMES)
        loss_fn.check(model(PIXELS), targets)
        assert loss_fn(model(PIXELS), targets).total.isfinite()


class Placed(nn.Module):
    """Sequences with a position embedding and a residual branch, both zero at first as usual."""

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.zeros(4, 6))
        self.first, self.branch, self.last = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        nn.init.zeros_(self.branch.weight)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.first(x.unsqueeze(2) + self.place))
        return self.last((hidden + self.branch(hidden)).mean(1))


def test_units_that_start_alike_are_told_where_they_stay_so() -> None:
    model, criterion = Placed(), nn.CrossEntropyLoss()

    def found() -> list[str]:
        return equal_units(model, LossFunction(criterion, model, Classes(3), NAMES), splits(X, CLASSES))

    assert found() == []
    nn.init.zeros_(model.last.weight)  # now nothing comes back to the layers before
    assert found() == ["place", "branch"]
    nn.init.constant_(model.first.weight, 0.1)
    assert found() == ["place", "first", "branch"]
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("end", "targets", "share"),
    [
        ([nn.ReLU()], X[:, :3] + 5, 0.0),
        ([nn.ReLU()], X[:, :3], 0.5),
        ([nn.Softplus()], X[:, :3], 0.5),
        ([nn.Sigmoid()], X[:, :3].abs() + 1, 1.0),
        ([nn.Sigmoid()], X[:, :3].sigmoid(), 0.0),
        ([], X[:, :3], 0.0),
    ],
)
def test_numbers_that_outputs_never_come_to_are_counted(end: list[nn.Module], targets: Tensor, share: float) -> None:
    found = seen(net(*end, bias=0.1), nn.MSELoss(), Numbers(3), targets)["out_of_reach"]
    assert found == pytest.approx(share, abs=0.07)


@pytest.mark.parametrize(("width", "seed"), [(8, 106), (3, 177)])
def test_numbers_of_one_sign_by_chance_are_no_end_of_the_network(width: int, seed: int) -> None:
    """These are positive for all samples, and so they are with all weights turned."""
    torch.manual_seed(seed)
    layers = (nn.Linear(4, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1))
    assert seen(nn.Sequential(*layers), nn.MSELoss(), Numbers(1), X[:, :1])["out_of_reach"] == 0


@pytest.mark.parametrize(
    ("between", "width", "is_linear"),
    [
        (nn.Identity(), 8, True),
        (nn.BatchNorm1d(8), 8, True),
        (nn.Identity(), 2, False),  # narrower than both ends: a code
        (nn.ReLU(), 8, False),
        (nn.Tanh(), 8, False),
    ],
)
def test_layers_with_nothing_between_are_one(between: nn.Module, width: int, is_linear: bool) -> None:
    for inputs in (X, 1000 + X):
        found = seen(net(between=between, width=width), nn.CrossEntropyLoss(), Classes(3), CLASSES, inputs)
        assert found["is_linear"] == is_linear


def test_a_column_that_says_the_target() -> None:
    numbers = X[:, :1] + X[:, 1:2]
    assert telling_columns(splits(X, numbers)) == []
    assert telling_columns(splits(torch.cat([X, 3 - 2 * numbers], 1), numbers)) == [4]
    assert telling_columns(splits(X, 2 * X)) == []  # inputs that are to be given back
    assert telling_columns(splits(2 * numbers, numbers)) == []  # the only one: a line through points
    said = torch.cat([X, (CLASSES == 1).float()[:, None], 7.0 * CLASSES[:, None]], 1)
    assert telling_columns(splits(said, CLASSES)) == [5]
    assert telling_columns(splits(X, (X[:, 0] > 0).long())) == []  # a threshold is to be learnt


def test_shares_of_classes_differ_by_more_than_few_samples_do() -> None:
    draw = torch.Generator().manual_seed(0)
    few, more = torch.randint(0, 10, (30,), generator=draw), torch.randint(0, 10, (400,), generator=draw)
    criterion = LossFunction(nn.CrossEntropyLoss(), net(), Classes(10), NAMES)

    def shift(train: Tensor, val: Tensor) -> float:
        splits = [ResidentBatches(torch.zeros(len(labels), 4), labels) for labels in (train, val)]
        found: float = of_targets(criterion, Splits((4,), 10, splits[0], splits[1], splits[1]))["label_shift"]
        return found

    assert shift(few, more) < 0.15
    assert shift(few.clamp(max=4), more.clamp(min=5)) > 0.8


def test_several_labels_at_once_are_known() -> None:
    split = ResidentBatches(X, (X[:, :3] > 0).float())
    of_several = LossFunction(nn.BCEWithLogitsLoss(), net(), Labels(3), NAMES)
    assert of_targets(of_several, Splits((4,), 3, split, split, split)) == {"are_labels": True, "num_val": len(X)}
