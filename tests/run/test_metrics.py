"""Metrics are over all samples, whatever batches they come in; any of them decides; each class has its row."""

import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from trainer import load as load_run
from trainer.data.digits import load
from trainer.data.prepare import prepare
from trainer.data.random_regression import load as random_regression
from trainer.disk import checkpoint
from trainer.errors import UserError
from trainer.fast.scored import Area
from trainer.meaning import Classes, Labels, Places
from trainer.metrics import BalancedAccuracy, MeanOfThere, Metrics
from trainer.models.two_layer import TwoLayer

Train = Callable[..., dict[str, Any]]
WORDS = ("model=two_layer", "optimizer=sgd", "optimizer.lr=1.5", "eval_every=5", "max_steps=40", "monitor=off")


def outputs_of(path: str, data: Any, **sizes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What the weights of a checkpoint give for the test split, and its targets."""
    inputs, targets = next(iter(prepare(data, torch.device("cpu"), torch.float32).test.in_order()))
    model = TwoLayer(**sizes)
    model.load_state_dict(checkpoint.read(Path(path))["model"])
    with torch.no_grad():
        return model(inputs), targets


def test_of_classes_by_hand(train: Train) -> None:
    """F1 and its like from a confusion matrix, AUROC by counting pairs, top 5 by ranks: no torchmetrics here."""
    names = "f1,recall,precision,balanced_accuracy,iou,dice,top5,auroc,perplexity,kappa,accuracy"
    result = train(*WORDS, f"metric=[{names}]", "test=last", "name=run")
    outputs, targets = outputs_of("runs/run/checkpoints/last.pt", load(), in_features=64, out_features=10)
    matrix = torch.zeros(10, 10, dtype=torch.float64)
    for target, predicted in zip(targets, outputs.argmax(1), strict=True):
        matrix[target, predicted] += 1
    right, taken, there = matrix.diag(), matrix.sum(0), matrix.sum(1)
    expected = {
        "f1": (2 * right / (taken + there)).mean(),
        "dice": (2 * right / (taken + there)).mean(),
        "iou": (right / (taken + there - right)).mean(),
        "recall": (right / there).mean(),
        "balanced_accuracy": (right / there).mean(),
        "precision": (right / taken.clamp(min=1)).mean(),
        "accuracy": right.sum() / len(targets),
        "perplexity": torch.nn.functional.cross_entropy(outputs, targets).exp(),
    }
    chance = (taken * there).sum() / len(targets) ** 2
    expected["kappa"] = (right.sum() / len(targets) - chance) / (1 - chance)
    ranks = (outputs > outputs.gather(1, targets[:, None])).sum(1)
    expected["top5"] = (ranks < 5).double().mean()
    scores, areas = outputs.softmax(1), []
    for label in range(10):
        of_class, others = scores[targets == label, label], scores[targets != label, label]
        wins = (of_class[:, None] > others).double() + 0.5 * (of_class[:, None] == others).double()
        areas.append(wins.mean())
    expected["auroc"] = torch.stack(areas).mean()
    assert {name: result[f"test/{name}"] for name in expected} == pytest.approx(
        {name: float(number) for name, number in expected.items()}, rel=1e-5
    )
    assert sorted(expected) == sorted(names.split(","))
    rows = result["per_class"]
    assert [row["name"] for row in rows] == [*"0123456789"]
    assert [row["support"] for row in rows] == there.int().tolist()
    assert [row["F1"] for row in rows] == pytest.approx((2 * right / (taken + there)).tolist())
    assert [row["recall"] for row in rows] == pytest.approx((right / there).tolist())


def test_of_numbers_by_hand(train: Train) -> None:
    words = ("model=two_layer", "loss=mse", "data=random_regression", "data.out_features=3", "monitor=off")
    result = train(*words, "metric=[mae,mse,rmse,r2]", "max_epochs=5", "test=last", "name=run")
    data = random_regression(out_features=3)
    outputs, targets = outputs_of("runs/run/checkpoints/last.pt", data, in_features=1000, out_features=3)
    error = outputs.double() - targets.double()
    around = targets.double() - targets.double().mean(0)
    expected = {
        "mae": error.abs().mean(),
        "mse": error.square().mean(),
        "rmse": error.square().mean().sqrt(),
        "r2": (1 - error.square().sum(0) / around.square().sum(0)).mean(),
    }
    assert {name: result[f"test/{name}"] for name in expected} == pytest.approx(
        {name: float(number) for name, number in expected.items()}, rel=1e-5
    )
    assert "per_class" not in result


@pytest.mark.slow
def test_numbers_are_judged_without_being_asked_for_and_quietly(
    train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same alone, in a stack, by torchmetrics; a terminal shows them where they are typed."""
    words = ("model=two_layer", "loss=mse", "data=random_regression", "optimizer=sgd", "monitor=off", "max_epochs=3")
    names = [f"{split}/{name}" for split in ("val", "best/val", "test") for name in ("mae", "r2")]
    alone = train(*words, "name=alone")
    assert "mae" not in capsys.readouterr().out
    typed = train(*words, "name=typed", "metric=[mae,r2]", "fast=false")
    assert capsys.readouterr().out.count("test/mae") == 2
    quick = train(*words, "name=quick", "metric=[r2]", "checkpoint.metric=val/mae")
    said = capsys.readouterr().out
    assert said.count("test/mae") == said.count("test/r2") == 2
    assert {name: quick[name] for name in names} == {name: alone[name] for name in names}
    assert [typed[name] for name in names] == pytest.approx([alone[name] for name in names], rel=1e-6)
    train("--multirun", *words, "name=s", "seed=0,1", "sweep.stack=always", "dtype=float64")
    stacked = json.loads(Path("runs/s/seed=0/result.json").read_text())
    wide = train(*words, "name=wide", "dtype=float64")
    assert {name: stacked[name] for name in names} == pytest.approx({name: wide[name] for name in names}, rel=1e-9)


@pytest.mark.slow
def test_batches_do_not_matter(monkeypatch: pytest.MonkeyPatch, train: Train) -> None:
    """A metric that is given all samples at once, and one that is given them part by part."""
    words = (*WORDS, "metric=[f1,auroc]", "max_steps=10")
    at_once = train(*words, "name=a")
    monkeypatch.setattr("trainer.metrics.AT_ONCE", 1)
    monkeypatch.setattr("trainer.data.batches.EVALUATION_BATCH", 7)
    parts = train(*words, "name=b")
    tags = [f"{split}/{name}" for split in ("val", "test") for name in ("f1", "auroc")]
    assert [parts[tag] for tag in tags] == pytest.approx([at_once[tag] for tag in tags], rel=1e-12)


def test_any_metric_decides_which_is_best_and_when_the_rate_falls(train: Train) -> None:
    words = (*WORDS, "metric=[f1]", "scheduler=plateau", "scheduler.patience=0")
    result = train(*words, "scheduler.metric=val/f1", "checkpoint.metric=val/f1", "name=run")
    records = [json.loads(line) for line in Path("runs/run/metrics.jsonl").read_text().splitlines()]
    numbers = {record["step"]: record["val/f1"] for record in records if "val/f1" in record}
    assert result["best_step"] == max(numbers, key=lambda step: numbers[step])
    # A plateau that is told what falls when F1 rises.
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.5)
    by_hand = ReduceLROnPlateau(optimizer, mode="max", factor=0.1, patience=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in numbers.values():
            by_hand.step(number)
    assert by_hand.get_last_lr()[0] < 1.5
    state = checkpoint.read(Path("runs/run/checkpoints/last.pt"))
    assert state["optimizer"]["param_groups"][0]["lr"] == pytest.approx(by_hand.get_last_lr()[0])


OWN = """
import torch

class Confident:
    \"\"\"How many samples have an output above 1.\"\"\"
    def __init__(self, above=1.0):
        self.above = above
        self.reset()
    def update(self, outputs, targets):
        self.count += int((outputs.amax(1) > self.above).sum())
    def compute(self):
        return self.count
    def reset(self):
        self.count = 0
"""


def test_a_metric_of_the_users_own_gets_outputs_and_targets(train: Train) -> None:
    Path("surely.py").write_text(OWN)
    own = ("metric.sure._target_=surely.Confident", "trust=[surely]", "metric.sure.above=2")
    with pytest.raises(UserError, match=r"Type metric.sure.larger_is_better=true, or =false"):
        train(*WORDS, *own)
    result = train(*WORDS, *own, "metric.sure.larger_is_better=true", "test=last", "name=run")
    outputs, _ = outputs_of("runs/run/checkpoints/last.pt", load(), in_features=64, out_features=10)
    assert result["test/sure"] == int((outputs.amax(1) > 2).sum())
    best = max(json.loads(line).get("val/sure", 0) for line in Path("runs/run/metrics.jsonl").read_text().splitlines())
    assert result["best/val/sure"] == best


FUNCTIONS = """
import numpy as np

def classes(outputs, targets, axis=0):
    return np.int64(outputs.numpy().argmax(axis=axis).sum())

def preds_first(preds, labels):
    return 1.0
"""


def test_a_function_is_a_metric_of_all_samples(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("judged.py").write_text(FUNCTIONS)
    words = (*WORDS, "trust=[judged]", "metric.x.larger_is_better=false")
    with pytest.raises(UserError, match=r"judged.preds_first: is a function that takes preds, labels\. A metric"):
        train(*words, "metric.x._target_=judged.preds_first")
    with monkeypatch.context() as parts:
        parts.setattr("trainer.metrics.AT_ONCE", 1)
        parts.setattr("trainer.data.batches.EVALUATION_BATCH", 50)
        result = train(*words, "metric.x._target_=judged.classes", "metric.x.axis=1", "test=last", "name=run")
    outputs, _ = outputs_of("runs/run/checkpoints/last.pt", load(), in_features=64, out_features=10)
    assert result["test/x"] == int(outputs.argmax(1).sum())


class Right:
    """The share that is right, of what a metric before it has left."""

    def __init__(self, spoils: bool) -> None:
        self.spoils = spoils
        self.reset()

    def reset(self) -> None:
        self.right = self.total = 0

    def update(self, outputs: torch.Tensor, targets: torch.Tensor) -> None:
        self.right += int((outputs.argmax(1) == targets).sum())
        self.total += len(targets)
        if self.spoils:
            outputs.numpy()[:] = 0  # torch does not count this as a write
            targets.fill_(1)

    def compute(self) -> float:
        return self.right / self.total if self.right else float("nan")


def test_a_metric_that_writes_into_what_it_gets_changes_no_other() -> None:
    from torchmetrics.classification import MulticlassAccuracy

    torchs: Any = MulticlassAccuracy(num_classes=3, average="micro")
    metrics = Metrics({"a": Right(True), "b": Right(False), "c": torchs}, Classes(3))
    for targets in (torch.tensor([0, 1, 2, 2]), torch.tensor([0, 0, 1, 2])):
        before = targets.clone()
        metrics.update(torch.eye(3)[[0, 1, 2, 0]], targets)
        assert metrics.compute() == {"a": int((before == torch.tensor([0, 1, 2, 0])).sum()) / 4} | dict.fromkeys(
            "bc", int((before == torch.tensor([0, 1, 2, 0])).sum()) / 4
        )
        assert torch.equal(targets, before)
    assert not metrics.complaints
    metrics.update(torch.eye(3), torch.tensor([1, 2, 0]))
    metrics.compute()
    assert metrics.complaints == [f"{name} is no number. Such a validation is never the best." for name in "ab"]


def test_balanced_accuracy_is_of_classes_that_are_there() -> None:
    """As scikit-learn has it: a class that is taken, and that no sample is of, is none of them. Also of places."""
    scores = torch.eye(4)[torch.tensor([[0, 1], [1, 1], [2, 1]])]
    labels = torch.tensor([[0, 0], [1, 1], [1, 1]])
    samples = Metrics({"a": BalancedAccuracy(4)}, Classes(4))
    samples.update(scores[:2].flatten(0, 1), labels[:2].flatten())
    samples.update(scores[2], labels[2])
    assert samples.compute() == {"a": (1 / 2 + 3 / 4) / 2}
    places = Metrics({"a": BalancedAccuracy(4, ignore_index=1)}, Places(4, ignored=1))
    places.update(scores.movedim(2, 1), labels)
    assert places.compute() == {"a": 1 / 2}


def area(name: str, scores: torch.Tensor, is_of: torch.Tensor) -> float:
    """Of one class: the share of pairs in order; or the mean of the precisions down to each of its samples."""
    if name == "AUROC":
        return float((scores[is_of][:, None] > scores[~is_of]).double().mean())
    hits = is_of[scores.argsort(descending=True)].double()
    return float((hits.cumsum(0) / torch.arange(1, len(hits) + 1))[hits > 0].mean())


@pytest.mark.parametrize("name", ["AUROC", "AveragePrecision"])
def test_areas_are_of_classes_that_are_there(name: str) -> None:
    """Torchmetrics counts others as 0. Of classes, of places and of several labels; the fast one, too."""
    from torchmetrics import classification

    draw = torch.Generator().manual_seed(0)
    scores, labels = torch.rand(60, 5, generator=draw), torch.randint(4, (60,), generator=draw)
    several = torch.nn.functional.one_hot(labels, 5)
    areas = [area(name, scores[:, c], labels == c) for c in range(4)]
    places = (scores.view(20, 3, 5).movedim(2, 1), labels.view(20, 3))
    kinds: list[tuple[Any, Any, tuple[torch.Tensor, torch.Tensor]]] = [
        ("Multiclass", Classes(5, gives="probabilities"), (scores, labels)),
        ("Multiclass", Places(5, gives="probabilities"), places),
        ("Multilabel", Labels(5, gives="probabilities"), (scores, several.float())),
    ]
    for number, average in ((np.mean(areas), "macro"), (np.average(areas, weights=several.sum(0)[:4]), "weighted")):
        made: list[Any] = [MeanOfThere(getattr(classification, kind + name)(5, average=average)) for kind, *_ in kinds]
        given = [(metric, meaning, samples) for metric, (_, meaning, samples) in zip(made, kinds, strict=True)]
        if name == "AUROC":
            given.append((Area(5, average), *kinds[0][1:]))
        for metric, meaning, (outputs, targets) in given:
            metrics = Metrics({"a": metric}, meaning)
            for rows in (slice(0, 7), slice(7, None)):
                metrics.update(outputs[rows], targets[rows])
            assert metrics.compute()["a"] == pytest.approx(float(number), rel=1e-5)
            said = f"{name} is the mean over 4 of 5 classes: no sample, or all, are of the others."
            assert metrics.complaints == [said]


@pytest.mark.parametrize("dtype", [np.float32, np.int64])
def test_masks_of_0_and_1_are_of_two_classes(dtype: type, train: Train) -> None:
    """One output for each pixel: the numbers from the outputs of the trained model, by hand."""
    draw = np.random.default_rng(0)
    inputs = draw.normal(size=(80, 1, 4, 4)).astype(np.float32)
    masks = (inputs + draw.normal(size=inputs.shape) > 0.5).astype(dtype)
    np.savez("a.npz", inputs=inputs[:60], targets=masks[:60], test_inputs=inputs[60:], test_targets=masks[60:])
    conv = [f"model.{key}" for key in ("_target_=torch.nn.Conv2d", "in_channels=1", "out_channels=1", "kernel_size=1")]
    words = (*conv, "data=arrays", "data.path=a.npz", "max_steps=5", "optimizer.lr=0.3")
    if dtype is not np.float32:  # what it says to type
        with pytest.raises(UserError, match=r"For one output for each place type data\.task=regression loss=bce_with"):
            train(*words)
        words = (*words, "data.task=regression")
    else:
        with pytest.raises(UserError, match=r"Type loss=mse, or loss=bce_with_logits if they are masks\."):
            train(*words)
    words = (*words, "loss=bce_with_logits")
    alone = ("_target_=torchmetrics.classification.BinaryJaccardIndex", "larger_is_better=true")
    metrics = ("metric=[iou,dice,auroc,accuracy,balanced_accuracy]", *(f"metric.mask.{key}" for key in alone))
    result = train(*words, *metrics, "name=run", "monitor=off")
    scores = load_run("run")(torch.tensor(inputs[60:])).detach().flatten()
    is_one = torch.tensor(masks[60:]).flatten() > 0
    taken = scores > 0
    both = [(is_one == each, taken == each) for each in (False, True)]
    ious = [float((there & found).sum() / (there | found).sum()) for there, found in both]
    expected = {
        "iou": sum(ious) / 2,
        "dice": sum(2 * iou / (1 + iou) for iou in ious) / 2,
        "auroc": area("AUROC", scores, is_one),
        "accuracy": float((taken == is_one).double().mean()),
        "balanced_accuracy": sum(float(found[there].double().mean()) for there, found in both) / 2,
        "mask": ious[1],
    }
    assert {name: result[f"test/{name}"] for name in expected} == pytest.approx(expected, rel=1e-5)
    again = load_run("run").evaluate("test", {"data.path": "a.npz"})  # as new data
    assert {name: again[name] for name in expected} == pytest.approx(expected, rel=1e-5)


def test_labels_of_0_and_1_are_no_masks(train: Train) -> None:
    """Their F1 is a mean over labels, not over what is 0 and what is 1 of all of them together."""
    draw = np.random.default_rng(0)
    inputs = draw.normal(size=(80, 3)).astype(np.float32)
    labels = (inputs + draw.normal(size=inputs.shape) > (0, 1, -1)).astype(np.float32)
    np.savez("a.npz", inputs=inputs[:60], targets=labels[:60], test_inputs=inputs[60:], test_targets=labels[60:])
    words = ("model=two_layer", "data=arrays", "data.path=a.npz", "loss=bce_with_logits", "max_steps=20", "monitor=off")
    for name in ("f1", "accuracy", "balanced_accuracy", "auroc"):
        with pytest.raises(UserError, match=rf"^metric={name}: is of classes; .* type data\.task=multilabel\.$"):
            train(*words, f"metric=[{name}]")
    words = (*words, "data.task=multilabel")  # what it says to type
    with pytest.raises(UserError, match=r"Type metric=\[f1\] (metric\S+MultilabelF1Score)\.$") as refused:
        train(*words, "metric=[f1]")
    result = train(*words, *str(refused.value).split("Type ")[1].rstrip(".").split(), "name=run")
    taken, there = load_run("run")(torch.tensor(inputs[60:])) > 0, torch.tensor(labels[60:]) > 0
    f1 = [2 * int((t & w).sum()) / int(t.sum() + w.sum()) for t, w in zip(taken.T, there.T, strict=True)]
    assert result["test/f1"] == pytest.approx(sum(f1) / 3)


@pytest.mark.parametrize("is_last", [False, True])
@pytest.mark.parametrize("gives", ["logits", "probabilities", "log_probabilities"])
@pytest.mark.parametrize("shape", [(5,), (3,), (2, 4)])
def test_scores_of_places_are_what_the_model_gives(gives: str, is_last: bool, shape: tuple[int, ...]) -> None:
    """Perplexity and calibration, of tokens and of pixels, by hand."""
    from torchmetrics.classification import MulticlassCalibrationError
    from torchmetrics.text.perplexity import Perplexity

    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 3, *shape, generator=generator) * 2
    targets = torch.randint(3, (6, *shape), generator=generator)
    targets[0] = 255
    form = {"logits": logits, "probabilities": logits.softmax(1), "log_probabilities": logits.log_softmax(1)}[gives]
    meaning = replace(Places(3, ignored=255).read_as(gives, "index"), is_last=is_last)
    calibration: Any = MulticlassCalibrationError(num_classes=3, n_bins=1, ignore_index=255)
    metrics = Metrics({"p": Perplexity(ignore_index=255), "c": calibration}, meaning)
    metrics.update(form.movedim(1, -1) if is_last else form, targets)
    found = metrics.compute()
    loss = torch.nn.functional.cross_entropy(logits, targets, ignore_index=255)
    top, taken = logits.softmax(1)[1:].max(1)
    assert found["p"] == pytest.approx(loss.exp().item(), rel=1e-5)
    assert found["c"] == pytest.approx(abs(top.mean() - (taken == targets[1:]).float().mean()).item(), abs=1e-6)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("metric=[mae]",), "metric=mae: can't be taken of what model=two_layer gives for data=digits"),
        (("data=random_regression", "loss=mse", "metric=[f1]"), "metric=f1: is of classes; data=random_regression"),
        (("data=random_regression", "loss=mse", "metric=[accuracy]"), "metric=accuracy: is of classes; data=random_r"),
        (("metric.mine.average=macro",), "metric.mine: has no class. Type metric=[mine], or metric.mine._target_="),
        (
            ("metric=[top5]", "metric.top5.top_k=11"),
            "metric.top5.top_k=11: data=digits has 10 classes. Type metric.top",
        ),
        (("metric=[f1]", "metric.f1.avrage=micro"), "metric.f1: Unexpected keyword arguments: `avrage`."),
        (("metric.x._target_=torchmetrics.text.bert.BERTScore",), "metric.x._target_=torchmetrics.text.bert.BERTScore"),
        (("metric=[f1]", "checkpoint.metric=val/auroc"), "checkpoint.metric=val/auroc: is not measured here; there is"),
        (("scheduler=plateau", "scheduler.metric=val/f1"), "scheduler.metric=val/f1: is not measured here"),
        (
            ("metric.kappa._target_=torchmetrics.classification.MulticlassHingeLoss", "metric.kappa.x=1"),
            "metric.kappa: Unexpected keyword arguments: `x`.",
        ),
    ],
)
def test_what_does_not_fit_is_a_line(words: tuple[str, ...], line: str, train: Train) -> None:
    with pytest.raises(UserError) as error:
        train("model=two_layer", *words)
    assert str(error.value).startswith(line)
    assert not Path("runs").exists()


@pytest.mark.long  # torchmetrics is imported
def test_what_is_of_classes_says_what_measures_several_labels(train: Train) -> None:
    labels = torch.arange(80)[:, None] % torch.tensor([2, 3, 5]) == 0
    np.savez("labels.npz", inputs=labels.float() + torch.rand(80, 3), targets=labels.long())
    words = ("data=arrays", "data.path=labels.npz", "data.task=multilabel", "loss=bce_with_logits", "max_steps=1")
    for name in ("precision", "f1", "dice"):
        with pytest.raises(UserError) as error:
            train("model=two_layer", *words, f"metric=[{name}]")
        _, _, how = str(error.value).partition(" has several labels for a sample. Type ")
        assert f"val/{name}" in train("model=two_layer", *words, *how.rstrip(".").split())
    with pytest.raises(UserError, match=r"^metric=kappa: .* has several labels for a sample. Leave it out.$"):
        train("model=two_layer", *words, "metric=[kappa]")
