"""What is kept of an evaluation is what the model says, however the samples were cut into batches."""

from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn

from meanings import meaning_of
from trainer.data import batches
from trainer.data.batches import ResidentBatches
from trainer.evaluate import evaluate
from trainer.losses.function import LossFunction
from trainer.meaning import Classes
from trainer.models.lenet import LeNet
from trainer.models.two_layer import TwoLayer
from trainer.monitor import predictions
from trainer.monitor.predictions import Collector, Predictions, shrunk

CPU = torch.device("cpu")
NAMES = {"loss": "chosen", "model": "net", "data": "numbers"}
NUM_SAMPLES, NUM_CLASSES = 83, 4


def images() -> Tensor:
    return torch.randn(NUM_SAMPLES, 1, 32, 32, generator=torch.Generator().manual_seed(0))


def labels() -> Tensor:
    return torch.randint(NUM_CLASSES, (NUM_SAMPLES,), generator=torch.Generator().manual_seed(1))


def lenet() -> nn.Module:
    torch.manual_seed(0)
    return LeNet(num_classes=NUM_CLASSES).eval()


def collected(model: nn.Module, inputs: Tensor, targets: Tensor, num_classes: int | None) -> Predictions:
    """By way of the evaluation that a run ends with."""
    criterion = nn.MSELoss() if num_classes is None else nn.CrossEntropyLoss()
    loss_fn = LossFunction(criterion, model, meaning_of(num_classes), NAMES)
    with Collector(model, len(inputs), loss_fn.meaning) as collector:
        evaluate(model, loss_fn, ResidentBatches(inputs, targets), CPU, nullcontext, collector.add)
    return collector.predictions()


@pytest.fixture(params=[7, 512], ids=["batches of 7", "one batch"])
def batch_size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(batches, "EVALUATION_BATCH", request.param)
    return int(request.param)


@pytest.mark.usefixtures("batch_size")
def test_all_of_a_split_is_kept_in_its_order() -> None:
    model, inputs, targets = lenet(), images(), labels()
    found = collected(model, inputs, targets, NUM_CLASSES)
    with torch.no_grad():
        outputs = model(inputs)
    assert torch.allclose(found.outputs, outputs, atol=1e-6)
    assert torch.equal(found.targets, targets)
    assert torch.equal(found.inputs, inputs)
    assert found.features is not None
    # What the last layer is given is what it makes the outputs of.
    assert torch.allclose(model.fc3(found.features), outputs, atol=1e-6)
    assert found.scores is not None
    assert torch.allclose(found.scores, outputs.softmax(1), atol=1e-6)
    assert torch.equal(found.predicted, outputs.argmax(1))
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.usefixtures("batch_size")
def test_the_wrong_ones_are_those_it_was_surest_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictions, "MAX_WRONG", 9)
    model, inputs, targets = lenet(), images(), labels()
    found = collected(model, inputs, targets, NUM_CLASSES)
    with torch.no_grad():
        confidence, predicted = model(inputs).softmax(1).max(1)
    rows = [i for i in confidence.argsort(descending=True).tolist() if predicted[i] != targets[i]][:9]
    assert found.wrong is not None
    assert torch.allclose(found.wrong.confidence, confidence[rows], atol=1e-6)
    assert torch.equal(found.wrong.inputs, inputs[rows])
    assert torch.equal(found.wrong.targets, targets[rows])
    assert torch.equal(found.wrong.predicted, predicted[rows])


def test_who_is_never_wrong_has_no_wrong_ones() -> None:
    model = lenet()
    with torch.no_grad():
        targets = model(images()).argmax(1)
    found = collected(model, images(), targets, NUM_CLASSES)
    assert found.wrong is not None
    assert [len(part) for part in found.wrong] == [0, 0, 0, 0]
    assert torch.equal(found.confusion(), torch.bincount(targets, minlength=NUM_CLASSES).diag())


@pytest.mark.usefixtures("batch_size")
def test_the_confusion_matrix_counts_pairs_and_its_diagonal_is_the_accuracy() -> None:
    model, inputs, targets = lenet(), images(), labels()
    found = collected(model, inputs, targets, NUM_CLASSES)
    counts = found.confusion()
    assert found.predicted is not None
    for i in range(NUM_CLASSES):
        for j in range(NUM_CLASSES):
            assert counts[i, j] == sum(
                (t, p) == (i, j) for t, p in zip(targets.tolist(), found.predicted.tolist(), strict=True)
            )
    loss_fn = LossFunction(nn.CrossEntropyLoss(), model, meaning_of(NUM_CLASSES), NAMES)
    numbers = evaluate(model, loss_fn, ResidentBatches(inputs, targets), CPU, nullcontext)
    assert counts.trace() / len(targets) == pytest.approx(numbers["accuracy"])


def test_no_more_is_kept_than_there_is_room_for(batch_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictions, "MAX_POINTS", 10)
    monkeypatch.setattr(predictions, "MAX_NUMBERS", 20 * NUM_CLASSES)
    found = collected(lenet(), images(), labels(), NUM_CLASSES)
    assert found.num_samples == NUM_SAMPLES
    assert len(found.outputs) == min(NUM_SAMPLES, -(-20 // batch_size) * batch_size)  # whole batches
    assert len(found.outputs) == len(found.targets) == int(found.confusion().sum())
    assert len(found.inputs) == 10
    assert found.features is not None
    assert len(found.features) == 10


def test_regression_has_neither_scores_nor_wrong_ones() -> None:
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    inputs, targets = torch.randn(NUM_SAMPLES, 3), torch.randn(NUM_SAMPLES, 2)
    found = collected(model, inputs, targets, None)
    assert (found.scores, found.predicted, found.wrong) == (None, None, None)
    assert torch.equal(found.targets, targets)
    assert torch.equal(found.features, model[:2](inputs))


def test_a_model_without_linear_layers_has_no_features() -> None:
    model = TwoLayer(in_features=3, out_features=NUM_CLASSES)
    assert collected(model, torch.randn(NUM_SAMPLES, 3), labels(), NUM_CLASSES).features is None


def test_a_layer_that_sees_all_pixels_gives_no_features(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(1024, NUM_CLASSES))
    assert collected(model, images(), labels(), NUM_CLASSES).features is not None
    monkeypatch.setattr(predictions, "MAX_FEATURES", 1023)
    assert collected(model, images(), labels(), NUM_CLASSES).features is None


class Tokens(nn.Module):
    """A head for every token, `[N, T, F]`, of which the mean is the output."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, NUM_CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(inputs).mean(1)


def test_the_features_of_many_tokens_are_their_mean() -> None:
    inputs = torch.randn(NUM_SAMPLES, 5, 6)
    assert torch.allclose(collected(Tokens(), inputs, labels(), NUM_CLASSES).features, inputs.mean(1), atol=1e-6)


def test_outputs_that_are_no_classes_are_not_judged() -> None:
    """A loss of the user's own may take anything."""
    with Collector(nn.Identity(), 3, meaning_of(NUM_CLASSES)) as collector:
        collector.add(torch.zeros(3, 2), torch.zeros(3, 7), torch.tensor([0, 1, 2]))
    assert collector.predictions().scores is None


def test_large_images_become_small() -> None:
    x = torch.randn(2, 3, 300, 200)
    assert shrunk(x, 64).shape == (2, 3, 64, 43)
    assert torch.allclose(shrunk(torch.full((1, 1, 99, 300), 2.5), 64), torch.tensor(2.5))
    assert shrunk(x, 300) is x
    vectors = torch.randn(2, 500)
    assert shrunk(vectors, 64) is vectors


SCORES: dict[str, tuple[str, str, Callable[[Tensor], Tensor]]] = {
    "softmax": ("logits", "index", lambda x: x.softmax(1)),
    "each by itself": ("logits", "fractions", torch.sigmoid),
    "fitted to one-hot": ("logits", "values", lambda x: x.clamp(0, 1)),
    "probabilities": ("probabilities", "index", lambda x: x.clamp(0, 1)),
    "log-probabilities": ("log_probabilities", "index", lambda x: x.exp().clamp(0, 1)),
}


@pytest.mark.parametrize("case", SCORES)
def test_scores(case: str) -> None:
    gives, compared_with, expected = SCORES[case]
    outputs = torch.linspace(-2, 2, 12).view(3, 4)
    assert torch.allclose(Classes(4, (), gives, compared_with).scores(outputs), expected(outputs))


def test_one_output_speaks_for_class_1() -> None:
    outputs = torch.tensor([[-3.0], [0.1], [4.0]])
    scores = Classes(2, (), "logits", "fractions").scores(outputs)
    assert torch.allclose(scores[:, 1:], outputs.sigmoid())
    assert torch.allclose(scores.sum(1), torch.ones(3))
    with Collector(nn.Identity(), 3, Classes(2, (), "logits", "fractions")) as collector:
        collector.add(outputs, outputs, torch.tensor([0, 0, 1]))
    found = collector.predictions()
    assert found.predicted is not None
    assert found.predicted.tolist() == [0, 1, 1]
    assert found.wrong is not None
    assert found.wrong.targets.tolist() == [0]


def test_scores_that_are_equal_do_not_change_the_prediction() -> None:
    """Both are cut to 1, but the second output is the larger one."""
    with Collector(nn.Identity(), 1, Classes(2, (), "logits", "values")) as collector:
        collector.add(torch.zeros(1, 2), torch.tensor([[1.5, 2.0]]), torch.tensor([0]))
    assert collector.predictions().predicted.tolist() == [1]  # type: ignore[union-attr]


def test_scores_are_numbers_even_where_outputs_are_not() -> None:
    outputs = torch.tensor([[float("nan"), 1.0], [float("inf"), 0.0]])
    scores = Classes(2).scores(outputs)
    assert bool(((scores >= 0) & (scores <= 1)).all())


def test_names() -> None:
    assert Classes(2, ("cat", "dog")).name(1) == "dog"
    assert Classes(3).name(2) == "2"
    assert Classes(1, ("two\nlines\tand\udcff",)).name(0) == "two lines and?"
