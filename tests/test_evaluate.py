"""Evaluation: uneven batches give what one full batch gives, and nobody notices that it happened."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from meanings import meaning_of
from trainer.data import batches
from trainer.data.batches import ResidentBatches
from trainer.evaluate import evaluate
from trainer.losses.criteria import Composite, L1Penalty, L2Penalty, SumSquaredError
from trainer.losses.function import LossFunction
from trainer.meaning import Meaning, Numbers, Places, as_dict, from_dict
from trainer.metrics import Metrics
from trainer.trials import evaluating

NAMES = {"loss": "chosen", "model": "net", "data": "numbers"}
CPU = torch.device("cpu")
NUM_SAMPLES = 23


class Net(nn.Module):
    def __init__(self, num_outputs: int, gives: str = "logits") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.gives = gives
        self.linear, self.norm, self.dropout = nn.Linear(4, num_outputs), nn.BatchNorm1d(num_outputs), nn.Dropout(0.5)
        self.double()

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = self.dropout(self.norm(self.linear(inputs)))
        return outputs.sigmoid() if self.gives == "probabilities" else outputs


def inputs() -> Tensor:
    return torch.randn(NUM_SAMPLES, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def targets(num_classes: int | None) -> Tensor:
    if num_classes is not None:
        return torch.arange(NUM_SAMPLES) * 5 % num_classes
    return torch.randn(NUM_SAMPLES, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def evaluated(model: nn.Module, criterion: nn.Module, num_classes: int | None) -> dict[str, float]:
    loss_fn = LossFunction(criterion, model, meaning_of(num_classes), NAMES).double()
    return evaluate(model, loss_fn, ResidentBatches(inputs(), targets(num_classes)), CPU, nullcontext)


CRITERIA = [
    pytest.param(lambda: nn.CrossEntropyLoss(), 3, id="mean of classes"),
    pytest.param(lambda: nn.CrossEntropyLoss(reduction="sum"), 3, id="sum of classes"),
    pytest.param(lambda: nn.MSELoss(), None, id="mean"),
    pytest.param(lambda: SumSquaredError(), None, id="sum"),
    pytest.param(
        lambda: Composite(
            {"a": {"weight": 2, "criterion": nn.MSELoss()}, "l2": {"weight": 0.5, "criterion": L2Penalty()}}
        ),
        None,
        id="mean and penalty",
    ),
    pytest.param(
        lambda: Composite(
            {"a": {"weight": 2, "criterion": SumSquaredError()}, "l1": {"weight": 0.5, "criterion": L1Penalty()}}
        ),
        None,
        id="sum and penalty",
    ),
    pytest.param(
        lambda: Composite(
            {"a": {"weight": 2, "criterion": SumSquaredError()}, "b": {"weight": 0.5, "criterion": nn.L1Loss()}}
        ),
        3,
        id="sum and mean",
    ),
]


@pytest.mark.parametrize("size", [1, 7, 22, NUM_SAMPLES, 512])
@pytest.mark.parametrize(("criterion", "num_classes"), CRITERIA)
def test_uneven_batches_give_what_one_batch_gives(criterion, num_classes, size, monkeypatch):
    monkeypatch.setattr(batches, "EVALUATION_BATCH", size)
    model = Net(3)
    numbers = evaluated(model, criterion(), num_classes)
    outputs = model.eval()(inputs())
    losses = LossFunction(criterion(), model, meaning_of(num_classes), NAMES).double()(outputs, targets(num_classes))
    expected = {"loss": losses.total.item()} | {f"loss/{name}": term.item() for name, term in losses.terms.items()}
    if num_classes is not None:
        predicted = [row.index(max(row)) for row in outputs.tolist()]
        hits = [p == t for p, t in zip(predicted, targets(num_classes).tolist(), strict=True)]
        assert 0 < sum(hits) < NUM_SAMPLES
        expected["accuracy"] = sum(hits) / NUM_SAMPLES
    assert numbers == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("num_samples", [1000, 10_000, 60_000])
def test_accuracy_is_hits_over_samples_to_the_last_bit(num_samples):
    """60,000 samples are 118 batches: parts of them added up in float32 came to more than 1."""
    labels = torch.arange(num_samples) % 10
    scores = F.one_hot(labels, 10).float()
    scores[:3] = -scores[:3]
    loss_fn = LossFunction(nn.CrossEntropyLoss(), nn.Identity(), meaning_of(10), NAMES)
    numbers = evaluate(nn.Identity(), loss_fn, ResidentBatches(scores, labels), CPU, nullcontext)
    assert numbers["accuracy"] == (num_samples - 3) / num_samples


@pytest.mark.parametrize(
    ("criterion", "gives", "middle"),
    [(nn.BCEWithLogitsLoss, "logits", 0.0), (nn.BCELoss, "probabilities", 0.5), (nn.MSELoss, "logits", 0.5)],
    ids=["logits", "probabilities", "values"],
)
def test_one_output_of_two_classes_is_class_1_above_the_middle_of_what_it_stands_for(criterion, gives, middle):
    model = Net(1, gives)
    outputs = model.eval()(inputs())[:, 0]
    labels = (outputs > middle).long()
    assert len({((outputs > other) == labels).all().item() for other in (0.0, 0.5)}) == 2
    loss_fn = LossFunction(criterion(), model, meaning_of(2), NAMES).double()
    assert evaluate(model, loss_fn, ResidentBatches(inputs(), labels), CPU, nullcontext)["accuracy"] == 1.0


def test_regression_has_no_accuracy():
    assert evaluated(Net(3), nn.MSELoss(), None).keys() == {"loss"}


def by_default(outputs: Tensor, targets: Tensor, meaning: Meaning, criterion: nn.Module) -> dict[str, float]:
    loss_fn = LossFunction(criterion, nn.Identity(), meaning, NAMES)
    loss_fn.check(outputs, targets)
    numbers = evaluate(nn.Identity(), loss_fn, ResidentBatches(outputs, targets), CPU, nullcontext)
    assert numbers.keys() == {"loss", *loss_fn.meaning.metrics}
    return numbers


@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_numbers_have_the_absolute_error_and_r2_of_torchmetrics(dtype, width, monkeypatch):
    regression = pytest.importorskip("torchmetrics.regression")
    monkeypatch.setattr(batches, "EVALUATION_BATCH", 7)
    draw = torch.Generator().manual_seed(0)
    targets = torch.randn(NUM_SAMPLES, width, generator=draw, dtype=torch.float64).to(dtype) + 5
    outputs = targets + torch.randn(targets.shape, generator=draw, dtype=torch.float64).to(dtype) / 3
    numbers = by_default(outputs, targets, Numbers(width), nn.MSELoss())
    for name, kind in (("mae", "MeanAbsoluteError"), ("r2", "R2Score")):
        theirs = getattr(regression, kind)().set_dtype(torch.float64)
        theirs.update(outputs.double(), targets.double())
        assert numbers[name] == pytest.approx(theirs.compute().item(), rel=1e-6)
    assert 0.5 < numbers["r2"] < 1


@pytest.mark.parametrize("width", [1, 2])
def test_r2_of_numbers_far_from_0(width, monkeypatch):
    """Seconds since 1970, a minute apart: their squares have more digits than float64."""
    monkeypatch.setattr(batches, "EVALUATION_BATCH", 7)
    draw = torch.Generator().manual_seed(0)
    near = 60 * torch.randn(NUM_SAMPLES, 1, generator=draw, dtype=torch.float64)
    targets = torch.cat([1.7e9 + near, near][:width], 1)
    errors = 20 * torch.randn(targets.shape, generator=draw, dtype=torch.float64)
    loss_fn = LossFunction(nn.MSELoss(), nn.Identity(), Numbers(width), NAMES)
    loss_fn.check(targets + errors, targets)
    loss_fn.meaning = loss_fn.meaning.around(targets[::2])
    found = evaluate(nn.Identity(), loss_fn, ResidentBatches(targets + errors, targets), CPU, nullcontext)
    expected = 1 - errors.square().sum(0) / (targets - targets.mean(0)).square().sum(0)
    assert found["r2"] == pytest.approx(expected.mean().item(), rel=1e-6)
    assert from_dict(as_dict(loss_fn.meaning)) == loss_fn.meaning
    theirs: Any = pytest.importorskip("torchmetrics.regression").R2Score().set_dtype(torch.float64)
    metrics = Metrics({"r2": theirs}, loss_fn.meaning)
    for part in ResidentBatches(targets + errors, targets).in_order():
        metrics.update(*part)
    assert metrics.compute()["r2"] == pytest.approx(expected.mean().item(), rel=1e-6)


def test_r2_of_what_is_always_the_same_is_1_without_errors_and_else_0():
    constant = torch.full((NUM_SAMPLES, 2), 1e4 / 3)
    outputs = constant + torch.tensor([0.0, 1.0])
    assert by_default(outputs, constant, Numbers(2), nn.MSELoss())["r2"] == 0.5


@pytest.mark.parametrize("ignored", [2, 255, -100])
def test_pixels_have_the_iou_of_torchmetrics(ignored, monkeypatch):
    classification = pytest.importorskip("torchmetrics.classification")
    monkeypatch.setattr(batches, "EVALUATION_BATCH", 7)
    draw = torch.Generator().manual_seed(0)
    scores = torch.randn(NUM_SAMPLES, 5, 4, 6, generator=draw)
    scores[:, 4] -= 100  # is there nowhere, and taken nowhere
    labels = torch.randint(0, 4, (NUM_SAMPLES, 4, 6), generator=draw)
    labels[:, 0] = ignored
    found = by_default(scores, labels, Places(5, ignored=ignored), nn.CrossEntropyLoss(ignore_index=ignored))
    theirs = classification.MulticlassJaccardIndex(5, ignore_index=ignored)
    theirs.update(scores, labels)
    assert found["iou"] == pytest.approx(theirs.compute().item(), rel=1e-6)
    tokens = scores[..., 0], labels[..., 0]
    numbers = by_default(*tokens, Places(5, ignored=ignored), nn.CrossEntropyLoss(ignore_index=ignored))
    assert numbers.keys() == {"loss", "accuracy"}


class Random(nn.Module):
    """Draws in evaluation mode too."""

    def forward(self, inputs: Tensor) -> Tensor:
        return F.dropout(inputs, 0.5, training=True)


def test_leaves_modes_random_numbers_weights_and_gradients_as_they_were():
    model = nn.Sequential(Net(4), Net(3), Random()).train()
    model[0].norm.eval()  # as a frozen norm layer is while the rest trains
    modes = [module.training for module in model.modules()]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(3)
    expected = torch.rand(5)
    torch.manual_seed(3)
    evaluated(model, nn.MSELoss(), None)
    assert torch.rand(5).equal(expected)
    assert [module.training for module in model.modules()] == modes
    assert all(tensor.equal(before[name]) for name, tensor in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_what_is_drawn_is_the_same_in_every_pass():
    """`train evaluate` could not give the numbers of a VAE's result.json: each pass drew other noise."""
    model = nn.Sequential(Net(3), Random())
    torch.manual_seed(3)
    first = evaluated(model, nn.MSELoss(), None)
    torch.manual_seed(4)
    assert evaluated(model, nn.MSELoss(), None) == first
    assert evaluated(model[0], nn.MSELoss(), None) != first


def test_leaves_them_so_when_the_model_fails():
    model = Net(3).train()
    random = torch.get_rng_state()
    inside = []

    def fail() -> None:
        with evaluating(model, CPU):
            torch.rand(1)
            inside.append((model.training, torch.is_grad_enabled()))
            model(torch.zeros(2, 9).double())

    with pytest.raises(RuntimeError, match="shapes"):
        fail()
    assert inside == [(False, False)]
    assert model.training
    assert torch.is_grad_enabled()
    assert torch.get_rng_state().equal(random)


def test_what_outputs_of_nan_come_to_is_no_number() -> None:
    """Each would be a guess of the first class, and perhaps the best validation of a run with on_nan=skip."""
    net = Net(3)
    net.register_forward_hook(lambda net, given, outputs: outputs * torch.nan)
    terms = {"a": nn.CrossEntropyLoss(), "l2": L2Penalty()}
    criterion = Composite({name: {"weight": 1, "criterion": term} for name, term in terms.items()})
    found = evaluated(net, criterion, 3)
    assert {name for name, number in found.items() if number != number} == {"loss", "loss/a", "accuracy"}
    assert found["loss/l2"] > 0
