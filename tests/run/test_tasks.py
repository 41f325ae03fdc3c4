"""Several labels, a class for each pixel or token, inputs that are their own targets, none: the numbers of plain torch.

In memory or read item by item, whole batches or parts: one training.
"""

import importlib
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from trainer.data.given import Asked, as_data
from trainer.disk import checkpoint
from trainer.errors import UserError

Train = Callable[..., dict[str, Any]]
QUIET = ("monitor=off", "threads=1", "trust=[tasks]")

TASKS = """
import torch
from torch import nn
from torch.utils.data import TensorDataset

import trainer


def inputs(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def several(are_items=False):
    x = inputs(60, 6)
    y = (x[:, :4] > 0).long()
    return TensorDataset(x, y) if are_items else (x, y)


def pixels(are_items=False):
    x = (inputs(30, 1, 8, 8) * 60 + 128).clamp(0, 255).byte()
    y = (x[:, 0] > 127).long() * 3 + 1  # classes 1 and 4
    for i in range(30):
        y[i, : i % 7] = 255
    return TensorDataset(x, y) if are_items else (x, y)


def tokens(are_items=False):
    ids = torch.randint(0, 7, (30, 12), generator=torch.Generator().manual_seed(0))
    y = (ids + 1) % 7
    for i in range(30):
        y[i, 3 + i % 9 :] = -100
    return TensorDataset(ids, y) if are_items else (ids, y)


def padded(are_items=False):
    ids = tokens()[0] + 1
    y = ids % 7 + 1
    for i in range(30):
        y[i, 3 + i % 9 :] = 0
    return TensorDataset(ids, y) if are_items else (ids, y)


def from_one():
    return inputs(60, 6), torch.arange(60) % 2 + 1


def below_zero():
    ids = tokens()[0]
    return ids, ids - 3


def alone(are_items=False):
    x = inputs(30, 5)
    return [*x] if are_items else trainer.Samples(x)


def floats():
    x = inputs(60, 6)
    return x, (x[:, :1] > 0).float()


def hot(are_items=False):
    x = inputs(60, 6)
    y = nn.functional.one_hot(x[:, :3].argmax(1), 3).float()
    return list(zip(x, y)) if are_items else (x, y)


class Linear(nn.Module):
    def __init__(self, in_features, out_features):
        super().__init__()
        self.layer = nn.Linear(in_features, out_features)

    def forward(self, x):
        return self.layer(x)


class PerPixel(nn.Module):
    def __init__(self, in_channels, num_classes):
        super().__init__()
        self.layer = nn.Conv2d(in_channels, num_classes, 3, padding=1)

    def forward(self, x):
        return self.layer(x)


class OnePerPixel(PerPixel):
    def __init__(self, in_channels, is_squeezed=False):
        super().__init__(in_channels, 1)
        self.is_squeezed = is_squeezed

    def forward(self, x):
        return self.layer(x).squeeze(1) if self.is_squeezed else self.layer(x)


def masks(num_channels=0):
    x = inputs(30, 1, 8, 8)
    y = (x[:, 0] > 0).long()
    return x, y[:, None] if num_channels else y


class PerToken(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.embedding, self.head = nn.Embedding(num_classes, 8), nn.Linear(8, num_classes)

    def forward(self, ids):
        return self.head(self.embedding(ids))


class Auto(nn.Module):
    def __init__(self, in_features):
        super().__init__()
        self.narrow, self.wide = nn.Linear(in_features, 3), nn.Linear(3, in_features)

    def forward(self, x):
        x *= 1.5  # into what it is given
        return self.wide(self.narrow(x.flatten(1))).view_as(x)


class Both(Auto):
    def forward(self, x):
        return {"code": self.narrow(x.flatten(1)), "picture": super().forward(x)}


class OwnLoss(nn.Module):
    def forward(self, outputs, targets):
        assert targets is None
        return outputs.square().mean()
"""


def several_by_hand(x: Tensor, y: Tensor, model: Any) -> tuple[Tensor, Tensor]:
    outputs = model(x)
    return F.binary_cross_entropy_with_logits(outputs, y.float()), ((outputs > 0) == (y > 0)).float().mean()


def pixels_by_hand(x: Tensor, y: Tensor, model: Any) -> tuple[Tensor, Tensor]:
    classes = torch.where(y == 255, 255, (y == 4).long())
    outputs = model(x.float() / 255)
    is_counted = y != 255
    right = (outputs.argmax(1) == classes)[is_counted]
    return F.cross_entropy(outputs, classes, ignore_index=255), right.float().mean()


def tokens_by_hand(x: Tensor, y: Tensor, model: Any) -> tuple[Tensor, Tensor]:
    outputs = model(x).flatten(0, 1)
    is_counted = y.flatten() != -100
    return F.cross_entropy(outputs, y.flatten()), (outputs.argmax(1) == y.flatten())[is_counted].float().mean()


def padded_by_hand(x: Tensor, y: Tensor, model: Any) -> tuple[Tensor, Tensor]:
    outputs, y = model(x).flatten(0, 1), y.flatten()
    right = (outputs.argmax(1) == y)[y != 0]
    return F.cross_entropy(outputs, y, ignore_index=0), right.float().mean()


def auto_by_hand(x: Tensor, y: Tensor, model: Any) -> tuple[Tensor, Tensor]:
    return F.mse_loss(model(x.clone()), x), torch.tensor(-1.0)


CASES = {
    "several": (("model._target_=tasks.Linear", "data.task=multilabel", "loss=bce_with_logits"), several_by_hand),
    "pixels": (("model._target_=tasks.PerPixel", "loss.ignore_index=255", "data.normalize=false"), pixels_by_hand),
    "tokens": (("model._target_=tasks.PerToken",), tokens_by_hand),
    "padded": (("model._target_=tasks.PerToken", "loss.ignore_index=0"), padded_by_hand),  # its labels start at 1
    "alone": (("model._target_=tasks.Auto", "loss=mse", "data.targets=inputs"), auto_by_hand),
}


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "tasks.py").write_text(TASKS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "tasks", raising=False)
    return importlib.import_module("tasks")


@pytest.mark.parametrize("name", CASES)
def test_a_task_has_the_numbers_of_plain_torch(name: str, tasks: Any, train: Train, tmp_path: Path) -> None:
    words, by_hand = CASES[name]
    words = (f"data._target_=tasks.{name}", *words, "max_steps=12", "optimizer=sgd", "optimizer.lr=0.5", *QUIET)
    whole = train(*words, "batch_size=full", "name=whole")
    in_parts = train(*words, "batch_size=8", "gradient.accumulate=8", "name=parts")
    by_items = train(*words, "batch_size=full", "data.are_items=true", "name=items")
    for tag in ("train/loss", "val/loss", "test/loss"):
        assert in_parts[tag] == pytest.approx(whole[tag], rel=1e-4)
        assert by_items[tag] == pytest.approx(whole[tag], rel=1e-4)
    ignored = {"pixels": 255, "padded": 0}.get(name, -100)
    asked = Asked(task="multilabel" if name == "several" else "auto", ignored=ignored)
    data = as_data(getattr(tasks, name)(), name, asked)
    rows = as_data(getattr(tasks, name)(are_items=True), name, asked).test.dataset.indices
    made = getattr(tasks, name)()
    x, y = made if isinstance(made, tuple) else (made.inputs, None)
    model = getattr(tasks, words[1].rpartition(".")[2])(*sizes(name))
    model.load_state_dict(checkpoint.read(tmp_path / "runs" / "whole" / "checkpoints" / "last.pt")["model"])
    with torch.no_grad():
        loss, accuracy = by_hand(x[rows], None if y is None else y[rows], model)
    assert len(rows) == len(data.test)
    assert whole["test/loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert whole.get("test/accuracy", -1.0) == pytest.approx(accuracy.item(), rel=1e-5)
    classes = whole.get("per_class", [])
    assert bool(classes) == (name in {"pixels", "tokens", "padded"})
    if classes:  # the recalls, weighed, are the accuracy
        hits, counted = (sum(row["support"] * row.get(key, 1) for row in classes) for key in ("recall", "other"))
        assert hits / counted == pytest.approx(accuracy.item(), rel=1e-5)
        assert {row["of"] for row in classes} == {"places"}


def sizes(name: str) -> tuple[int, ...]:
    return {"several": (6, 4), "pixels": (1, 2), "tokens": (7,), "padded": (8,), "alone": (5,)}[name]


@pytest.mark.parametrize("are_items", ["true", "false"])
def test_a_loss_needs_no_targets(are_items: str, tasks: Any, train: Train) -> None:
    words = ("model._target_=tasks.Linear", "model.out_features=2", "loss._target_=tasks.OwnLoss", "max_steps=50")
    result = train("data._target_=tasks.alone", f"data.are_items={are_items}", *words, *QUIET)
    assert result["test/loss"] < 0.1


def test_images_are_their_own_targets_as_the_model_gets_them(tasks: Any, train: Train) -> None:
    words = ("data=digits", "data.targets=inputs", "model._target_=tasks.Auto", "loss=mse", "max_steps=30", *QUIET)
    plain = train(*words, "data.limit=64")
    turned = train(*words, "data.limit=64", "data.augment.rotation=90")
    assert 0 < plain["test/loss"] < 1.1
    assert turned["train/loss"] != plain["train/loss"]


def test_images_in_another_size_are_found_among_what_a_model_gives(
    tasks: Any, train: Train, sources: dict[str, tuple[str, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    """Beside their code, by how many numbers they have."""
    words = ("data.targets=inputs", "model._target_=tasks.Both", "loss=mse", "max_steps=2", *QUIET)
    assert train(*words, "data=digits", "data.limit=64", "data.image_size=6")["test/loss"] > 0
    capsys.readouterr()
    assert train(*words, "data=image_folder", *sources["image_folder"])["test/loss"] > 0
    assert re.match(r"image_folder: .*, taken as \d+x\d+ colour\n", capsys.readouterr().out)


def test_whole_numbers_that_are_floats_are_classes_where_it_is_said(tasks: Any, train: Train) -> None:
    words = ("data._target_=tasks.floats", "model=two_layer", "max_steps=2", *QUIET)
    with pytest.raises(UserError, match=r"has float targets. Type loss=mse. Or data.task=classification, if these"):
        train(*words)
    assert "test/accuracy" in train(*words, "data.task=classification")
    assert "test/accuracy" not in train(*words, "loss=mse")
    words = ("data._target_=tasks.hot", "model=two_layer", "max_steps=2", *QUIET)
    with pytest.raises(UserError, match=r"Give targets.argmax\(1\), or type data.task=regression loss=cross_entr"):
        train(*words, "data.num_classes=3", "data.are_items=true")
    assert "test/accuracy" in train(*words, "data.task=classification")
    assert "test/loss" in train(*words, "data.task=regression", "loss=cross_entropy")


def test_soft_labels_one_hot_and_counts_in_a_file(train: Train, tmp_path: Path, capsys: Any) -> None:
    """What the lines say to type is typed here."""
    x = torch.randn(300, 4, generator=torch.Generator().manual_seed(0))
    targets = {"soft": x[:, :3].softmax(1), "hot": F.one_hot(x[:, :3].argmax(1)), "counts": x[:, 0].abs().long()}
    for name, values in targets.items():
        np.savez(tmp_path / name, inputs=x.numpy(), targets=values.numpy())

    def run(name: str, *words: str) -> dict[str, Any]:
        data = ("data=arrays", f"data.path={tmp_path / name}.npz", "model=two_layer", "monitor=off", "threads=1")
        return train(*data, "max_steps=100", "optimizer.lr=0.01", *words)

    entropy = -(targets["soft"] * targets["soft"].log()).sum(1).mean().item()
    assert run("soft", "loss=kl_div")["test/loss"] < 0.02
    result = run("soft", "loss=cross_entropy")
    assert result["test/loss"] == pytest.approx(entropy, rel=0.2)
    assert result["test/r2"] > 0.9
    capsys.readouterr()
    assert "test/accuracy" not in run("hot", "loss=cross_entropy", "max_steps=1")
    assert "look one-hot. Type data.task=classification" in capsys.readouterr().out
    assert run("hot", "data.task=classification")["test/accuracy"] > 0.75
    assert run("hot", "data.task=classification", "loss=multi_margin")["test/accuracy"] > 0.75
    with pytest.raises(UserError, match=r"Type loss=mse, or loss=cross_entropy if they are a share of each class"):
        run("soft", "loss=focal")
    with pytest.raises(UserError, match=r"or a row of 0 with one 1\. Try data.task=regression"):
        run("soft", "data.task=classification")
    with pytest.raises(UserError, match=r"Or data\.task=regression, if these are numbers and no classes"):
        run("counts", "loss=poisson_nll")
    assert math.isfinite(run("counts", "loss=poisson_nll", "data.task=regression", "max_steps=2")["test/mae"])
    assert "compares an output" not in capsys.readouterr().out
    run("counts", "loss=smooth_l1", "max_steps=1")
    assert "0 or 1 for each. Type data.task=regression if they are numbers" in capsys.readouterr().out
    words = ("loss=composite", "loss.terms.l4={weight: 1, criterion: {_target_: torch.nn.MSELoss}}", "max_steps=1")
    assert "train/loss/l4" in run("hot", "data.task=classification", *words)


def test_samples_without_a_class_are_told_of(train: Train, tmp_path: Path, capsys: Any) -> None:
    """They would be a class of their own, or be counted as wrong."""
    x = torch.randn(90, 4, generator=torch.Generator().manual_seed(0)).numpy()
    labels = x[:, :3].argmax(1)
    none = np.arange(90) == 5
    words = np.array(["cat", "dog", "eel"])[labels]
    targets = {"whole": labels, "below": np.where(none, -1, labels), "empty": np.where(none, " ", words)}
    for name, values in targets.items():
        np.savez(tmp_path / name, inputs=x, targets=values)

    def run(name: str, *words: str) -> dict[str, Any]:
        data = ("data=arrays", f"data.path={tmp_path / name}.npz", "model=two_layer", "monitor=off", "threads=1")
        return train(*data, "max_steps=1", *words)

    with pytest.raises(UserError, match=r"^loss\.ignore_index=-1: .* labels -1, 0, 1, 2, which are numbered from 0\."):
        run("below", "loss.ignore_index=-1")
    with pytest.raises(UserError, match=r"train targets: an empty text in row 5 \(counted from 0\)"):
        run("empty")
    with pytest.raises(UserError, match=r"^loss\.log_target=true: .* Type loss\.log_target=false\.$"):
        run("whole", "loss=kl_div", "loss.log_target=true")
    capsys.readouterr()
    run("whole", "loss.ignore_index=1")
    assert "warning: loss.ignore_index=1: samples of class 1 are left out of the loss" in capsys.readouterr().out
    run("below", "loss.ignore_index=7")
    assert "ignore_index" not in capsys.readouterr().out


def test_one_output_for_each_place_is_trained_as_the_lines_say(tasks: Any, train: Train) -> None:
    words = ["data._target_=tasks.masks", "model._target_=tasks.OnePerPixel", "max_steps=1", "threads=1", *QUIET]
    with pytest.raises(
        UserError, match=r" For one output for each place type data\.task=regression loss=bce_with_logits\.$"
    ):
        train(*words)
    with pytest.raises(UserError, match=r"or data\.task=regression if the model gives one output for each place\.$"):
        train(*words, "loss=bce_with_logits")
    words += ["data.task=regression", "loss=bce_with_logits"]
    with pytest.raises(UserError, match=r"takes equal shapes\. Give outputs\.squeeze\(1\)\.$"):
        train(*words)
    found = [train(*words, more)["test/loss"] for more in ("model.is_squeezed=true", "data.num_channels=1")]
    assert found[0] == pytest.approx(found[1], rel=1e-6)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("several model=two_layer data.task=multilabel", "has several labels for a sample. Type loss=bce_with_logits."),
        ("pixels model._target_=tasks.PerPixel loss=mse", "has a class for each place. Type loss=cross_entropy."),
        ("pixels model=two_layer loss.ignore_index=255", "has 2 classes for targets of shape [2, 8, 8]."),
        ("alone model=two_layer model.out_features=2", "has no targets that it could read. Type loss="),
        ("several model=two_layer", "Type data.task=multilabel for 0 and 1 of several labels"),
        ("tokens model._target_=tasks.PerToken data.num_classes=3", "with 3 classes they go from 0 to 2"),
        ("from_one model=two_layer loss.ignore_index=1", "has the labels 1, 2, which are numbered from 0. Type loss."),
        ("below_zero model._target_=tasks.PerToken loss.ignore_index=0", "has labels from -3, which are numbered from"),
        ("several model=two_layer data.task=regression data.num_classes=3", "data.num_classes=3: "),
    ],
)
def test_what_does_not_fit_a_task_is_a_line(words: str, message: str, tasks: Any, train: Train) -> None:
    name, *more = words.split()
    with pytest.raises(UserError) as raised:
        train(f"data._target_=tasks.{name}", *more, *QUIET)
    assert message in str(raised.value)
