"""Unequal classes: weights in the loss, and how often samples are drawn, as torch has them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import WeightedRandomSampler

from plain import losses, parts_of, together
from trainer.data.batches import derived_seed
from trainer.data.source import Data, Samples
from trainer.disk import checkpoint
from trainer.errors import UserError
from trainer.run.classes import class_counts

Train = Callable[..., dict[str, Any]]
WORDS = (
    "model=two_layer",
    "optimizer=sgd",
    "optimizer.lr=0.05",
    "data.limit=150",
    "batch_size=40",
    "max_steps=9",  # four steps an epoch, the last of 30
    "monitor=off",
    "monitor.every=1",
)
CHOSEN = ("loss.class_weights=balanced", "data.balance=true")


def test_both_are_those_of_a_plain_loop(train: Train) -> None:
    result = train(*WORDS, *CHOSEN, "name=it")
    parts = parts_of(*WORDS)
    (inputs, targets), model = (parts.splits.train.inputs, parts.splits.train.targets), parts.model
    counts = targets.bincount(minlength=10)
    assert counts.min() < counts.max()
    criterion = nn.CrossEntropyLoss(weight=(len(targets) / (10 * counts)).float())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    expected: list[float] = []
    for epoch in range(3):
        generator = torch.Generator().manual_seed(derived_seed(0, "order", epoch))
        sampler = WeightedRandomSampler((1 / counts.double())[targets].tolist(), len(targets), generator=generator)
        for rows in torch.tensor(list(sampler)).split(40):
            loss = criterion(model(inputs[rows]), targets[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            expected.append(loss.item())
    assert losses("it") == pytest.approx(expected[:9], rel=1e-5)
    val = parts.splits.val
    model.load_state_dict(checkpoint.read(Path("runs/it/checkpoints/last.pt"))["model"])
    assert result["val/loss"] == pytest.approx(criterion(model(val.inputs), val.targets).item(), rel=1e-5)


def test_every_class_is_drawn_as_often(train: Train) -> None:
    """Of 300 samples, 270 of one class; also where a batch is the whole split, and without the recorded step."""
    Path("mine.csv").write_text("x,kind\n" + "".join(f"{i},{'b' if i % 10 == 0 else 'a'}\n" for i in range(430)))
    words = ("data=table", "data.path=mine.csv", "data.targets=[kind]", "data.balance=true", "model=two_layer")
    parts = parts_of(*words)
    for size in (50, len(parts.splits.train)):
        batches = parts.splits.train.training(size, 0, 1)
        drawn = torch.cat([next(batches).targets for _ in range(2000 // size)])
        assert 0.45 < drawn.double().mean() < 0.55
    assert parts.splits.val.weights is None


def test_a_label_that_is_left_out_is_no_class() -> None:
    labels = torch.tensor([[0, 1, 255], [2, 2, 255]])
    data = Data(Samples(torch.zeros(2, 3), labels), num_classes=3, ignored=255)
    parts = parts_of(*WORDS)
    assert class_counts("data.balance=true", parts.settings, data, parts.splits.train).tolist() == [1, 1, 2]


def test_a_stack_has_them_too(train: Train) -> None:
    together([(*WORDS, *CHOSEN, f"optimizer.lr={lr}", f"name=all/{lr}") for lr in (0.1, 0.3)])
    train(*WORDS, *CHOSEN, "optimizer.lr=0.3", "name=alone")
    assert losses("all/0.3") == pytest.approx(losses("alone"), rel=1e-5)
    assert "a stack of 2" in Path("runs/all/0.3/result.json").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["loss=mse", "loss.class_weights=balanced"], "loss=mse has no weights of classes. Try loss=cross_entropy."),
        (["loss.class_weights=[1,2]"], "must be 10 numbers, one for each class, not all 0."),
        (["+loss.weight=[1,1,1,1,1,1,1,1,1,1]", "loss.class_weights=balanced"], "Leave loss.weight out."),
        (["loss.class_weights=balance"], "Try loss.class_weights=balanced."),
        (["loss.class_weight=balanced"], "Did you mean loss.class_weights?"),
        (
            ["data=random_regression", "loss=mse", "model=two_layer", "data.balance=true"],
            "has no classes. Leave it out",
        ),
    ],
)
def test_what_can_not_be_is_refused(words: list[str], message: str, train: Train) -> None:
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        train(*words)
    assert not Path("runs").exists()


def test_of_several_labels_what_is_1_weighs_as_much_as_what_is_0(tmp_path: Path, train: Train) -> None:
    labels = torch.arange(90)[:, None] % torch.tensor([2, 3, 9, 1, 99]) == torch.tensor([0, 0, 0, 0, 98])
    np.savez(tmp_path / "labels.npz", inputs=labels[:, :3] + torch.rand(90, 3), targets=labels.long())
    words = ["data=arrays", "data.path=labels.npz", "data.task=multilabel", "model=two_layer", "max_steps=2"]
    words += ["monitor=off", "loss=bce_with_logits"]
    splits = parts_of(*words).splits
    ones = splits.train.targets.sum(0)
    weights = (len(splits.train) - ones) / ones
    assert weights[3] == 0
    assert weights[4].isinf()
    weights[3:] = 1
    result = train(*words, "loss.class_weights=balanced", "name=run")
    model = parts_of(*words).model
    model.load_state_dict(checkpoint.read(Path("runs/run/checkpoints/last.pt"))["model"])
    val = next(iter(splits.val.in_order()))
    expected = nn.BCEWithLogitsLoss(pos_weight=weights)(model(val.inputs), val.targets)
    assert result["val/loss"] == pytest.approx(expected.item(), rel=1e-5)
    for more, line in (
        (["loss.class_weights=[1,2,3,4,5]"], r"Type loss.pos_weight=\[...\], for what is 1 of each, or loss.weight"),
        (["loss=mse", "loss.class_weights=balanced"], "has no weights of labels. Try loss=bce_with_logits"),
        (["loss.pos_weight=[2]", "loss.class_weights=balanced"], "Leave loss.pos_weight out."),
    ):
        with pytest.raises(UserError, match=line):
            train(*words, *more)
    # Floats of 0 and 1 may be masks: what the line says to type is what they are told by.
    np.savez(tmp_path / "labels.npz", inputs=labels[:, :3] + torch.rand(90, 3), targets=labels.float())
    words.remove("data.task=multilabel")
    with pytest.raises(UserError, match=r"weights of classes. Type data.task=multilabel if the targets are several"):
        train(*words, "loss.class_weights=balanced")


MASKS = """
import torch
from trainer import Data, Samples

def of_pixels(are_items):
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (30, 1, 6, 6), generator=draw).to(torch.uint8)
    masks = (images[:, 0] > 100).long() + (images[:, 0] > 240)
    masks[:, 0] = 255
    splits = [Samples(images[rows], masks[rows]) for rows in (slice(20), slice(20, 25), slice(25, 30))]
    if are_items:
        splits = [[*zip(split.inputs, split.targets)] for split in splits]
    return Data(*splits)
"""


@pytest.mark.parametrize("are_items", [False, True])
def test_classes_of_pixels_weigh_what_those_that_count_say(
    are_items: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, train: Train
) -> None:
    """Those without a class are no class; those of items are counted in a look through them."""
    (tmp_path / "pixels_here.py").write_text(MASKS)
    monkeypatch.syspath_prepend(str(tmp_path))
    words = ["data._target_=pixels_here.of_pixels", f"data.are_items={are_items}", "trust=[pixels_here]"]
    words += ["model._target_=torch.nn.Conv2d", "model.in_channels=1", "model.out_channels=3", "model.kernel_size=1"]
    words += ["loss.ignore_index=255", "max_steps=2", "monitor=off"]
    splits = parts_of(*words).splits
    (train_batch,), (val,) = splits.train.in_order(), splits.val.in_order()
    counts = train_batch.targets[train_batch.targets != 255].bincount()
    for name, asked, weights in (
        ("by_count", "balanced", counts.sum() / (3 * counts)),
        ("by_hand", "[0.5,1,7]", torch.tensor([0.5, 1, 7])),
    ):
        result = train(*words, f"loss.class_weights={asked}", f"name={name}")
        model = parts_of(*words).model
        model.load_state_dict(checkpoint.read(Path(f"runs/{name}/checkpoints/last.pt"))["model"])
        expected = nn.CrossEntropyLoss(weight=weights, ignore_index=255)(model(val.inputs), val.targets)
        assert result["val/loss"] == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("loss", ["cross_entropy", "bce_with_logits"])
def test_one_class_alone_is_always_right(train: Train, loss: str) -> None:
    """The only output says nothing, whatever its sign: argmax over one class is that class."""
    Path("mine.csv").write_text("x,z,kind\n" + "".join(f"{i}.5,{i % 3},only\n" for i in range(40)))
    words = ("data=table", "data.path=mine.csv", "data.targets=[kind]", "model=two_layer", "monitor=off", "max_steps=2")
    result = train(*words, f"loss={loss}", "metric=f1", "name=one")
    assert (result["test/accuracy"], result["test/f1"], result["val/accuracy"]) == (1, 1, 1)
    assert [(row["name"], row["F1"]) for row in result["per_class"]] == [("only", 1)]
