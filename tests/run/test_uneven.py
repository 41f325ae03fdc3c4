"""Batches of a `collate_fn` without a row for each sample: boxes of each image, graphs joined to one."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import trainer
from plain import cut_loose, losses, parts_of
from trainer.command import main as cli
from trainer.data import item_batches
from trainer.data.batches import Uneven, permutation
from trainer.errors import UserError
from trainer.evaluate import evaluate

Train = Callable[..., dict[str, Any]]
MODULE = """
import torch
from torch import nn


class Boxes(torch.utils.data.Dataset):
    def __init__(self, size, seed):
        draw = torch.Generator().manual_seed(seed)
        self.images = torch.randn(size, 5, generator=draw)
        self.boxes = [torch.rand(1 + i % 4, 2, generator=draw) for i in range(size)]

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        return self.images[i], self.boxes[i]


def listed(items):
    images, boxes = zip(*items)
    return torch.stack(images), [{"boxes": its} for its in boxes]


def rows(items):
    images, boxes = zip(*items)
    return torch.stack(images), torch.cat([torch.cat([torch.full((len(b), 1), i), b], 1) for i, b in enumerate(boxes)])


def joined(items):
    images, boxes = zip(*items)
    numbers = torch.repeat_interleave(torch.arange(len(items)), torch.tensor([len(b) for b in boxes]))
    return {"nodes": torch.cat(boxes), "graph": numbers, "target": torch.stack([image[:1] for image in images])}


def points(items):
    "Every box is a row with a target of its own, as every node of a graph may be."
    found = torch.cat([boxes for _, boxes in items])
    return found, found.sum(1, keepdim=True)


class Kinds(Boxes):
    def __getitem__(self, i):
        return self.boxes[i], (self.boxes[i].sum(1) > 1).long()


def kinds(items):
    boxes, targets = zip(*items)
    return torch.cat(boxes), torch.cat(targets)


def data(how="listed"):
    from trainer import Data
    kind = Kinds if how == "kinds" else Boxes
    return Data(kind(60, 0), kind(23, 1), kind(23, 2), collate_fn=globals()[how], description="boxes")


class Net(nn.Linear):
    def __init__(self):
        super().__init__(5, 2)


class Points(nn.Linear):
    def __init__(self, out_features: int):
        super().__init__(2, out_features)


class Graphs(nn.Linear):
    def __init__(self):
        super().__init__(2, 1)

    def forward(self, nodes, graph):
        return nodes.new_zeros(int(graph.max()) + 1, 1).index_add(0, graph, super().forward(nodes))


def loss(outputs, targets, is_sum: bool = False):
    if isinstance(targets, torch.Tensor):
        targets = [{"boxes": targets[targets[:, 0] == i, 1:]} for i in range(len(outputs))]
    each = [(its["boxes"] - output).abs().sum() for its, output in zip(targets, outputs, strict=True)]
    return torch.stack(each).sum() if is_sum else torch.stack(each).mean()
"""
BOXES = ("model._target_=uneven.Net", "loss._target_=uneven.loss")
CASES = {
    "listed": (*BOXES, "data.how=listed"),
    "rows": (*BOXES, "data.how=rows"),
    "a sum": (*BOXES, "data.how=rows", "loss.is_sum=true"),
    "in parts": (*BOXES, "data.how=listed", "gradient.accumulate=2"),
    "graphs": ("model._target_=uneven.Graphs", "loss=mse", "data.how=joined"),
}
ROWS = {
    "points": ("model._target_=uneven.Points", "model.out_features=1", "loss=mse", "data.how=points"),
    "kinds": ("model._target_=uneven.Points", "model.out_features=2", "data.how=kinds"),
}


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "uneven.py").write_text(MODULE)
    monkeypatch.setattr(item_batches, "EVALUATION_BATCH", 7)
    return


def words_of(case: str) -> tuple[str, ...]:
    words = ("data._target_=uneven.data", "trust=[uneven]", "optimizer=sgd", "optimizer.lr=0.01")
    size = "batch_size=8" if case == "in parts" else "batch_size=16"
    return (*words, size, *(CASES | ROWS)[case], "max_epochs=2", "monitor=off", "monitor.every=1", "data.num_workers=0")


@pytest.mark.parametrize("case", CASES)
def test_they_train_as_in_a_plain_loop(case: str, train: Train, capfd: pytest.CaptureFixture[str]) -> None:
    """The loss was taken times the rows of the first tensor over the samples of the batch."""
    result = train(*words_of(case), "name=it")
    assert ("gradient.accumulate=2: batches of this collate_fn have no row" in capfd.readouterr().out) == (
        case == "in parts"
    )
    parts = parts_of(*words_of(case))
    model, split, expected = cut_loose(parts), parts.splits.train, []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def loss_of(batch: Any) -> torch.Tensor:
        outputs = model(**batch.inputs) if isinstance(batch.inputs, dict) else model(batch.inputs)
        total: torch.Tensor = parts.loss_fn(outputs, batch.targets).total
        return total

    for epoch in range(2):
        for rows in permutation(0, epoch, 60).split(16):
            optimizer.zero_grad()
            loss = loss_of(split.at(rows))
            loss.backward()
            optimizer.step()
            expected.append(loss.item())
    assert losses("it") == pytest.approx(expected, rel=1e-5)
    ones = [loss_of(parts.splits.val.at(row)).item() for row in torch.arange(23).split(1)]
    mean = sum(ones) if case == "a sum" else sum(ones) / 23
    assert result["val/loss"] == pytest.approx(mean, rel=1e-5)
    assert [term.kind for term in parts.loss_fn.terms] == ["sum" if case == "a sum" else "mean"]


def test_one_stays_whole_and_knows_how_many_it_has() -> None:
    parts = parts_of(*words_of("rows"))
    batch = parts.splits.val.at(torch.tensor([2, 3, 7]))
    assert isinstance(batch, Uneven)
    assert (batch.num_samples, len(batch.targets)) == (3, 3 + 4 + 4)
    assert [part.num_samples for part in batch.parts(1)] == [3]
    given = batch.like(batch.inputs, batch.targets)
    assert given.num_samples == 3
    assert evaluate(parts.model, parts.loss_fn, parts.splits.val, parts.device, parts.precision) is not None


@pytest.mark.parametrize("case", ROWS)
def test_each_row_of_an_item_with_several_counts(case: str, train: Train) -> None:
    """Sums over 56 rows were taken over the 23 items: 0.43 where it is 0.18. In a replay row 5 was the fifth item."""
    result = train(*words_of(case), "name=it")
    model = trainer.load("it", trust=["uneven"]).network
    inputs, targets = map(
        torch.cat, zip(*(batch for batch in parts_of(*words_of(case)).splits.val.in_order()), strict=True)
    )
    assert len(inputs) == 56
    outputs = model(inputs).detach()
    if case == "kinds":
        assert result["val/accuracy"] == (outputs.argmax(1) == targets).double().mean().item()
    else:
        assert result["val/mae"] == pytest.approx((outputs - targets).abs().mean().item())
        spread = (targets - targets.mean()).square().sum()
        assert result["val/r2"] == pytest.approx(1 - ((outputs - targets).square().sum() / spread).item(), rel=1e-5)
    assert cli.run_command(["replay", "it", "step=3", "trust=[uneven]"]) == 0
    seen = json.loads(Path("runs/it/replay/step-3/step.json").read_text())["samples"]
    assert len(seen) == 16
    assert {(sample["target"], sample["said"], sample["loss"]) for sample in seen} == {("-", "-", None)}
    with pytest.raises(UserError, match=r"^worst: the loss of this run is of whole batches"):
        cli.run_command(["replay", "it", "step=3", "worst=2", "trust=[uneven]"])


def test_an_automatic_size_is_refused(train: Train) -> None:
    with pytest.raises(UserError, match=r"^batch_size=auto: batches of this collate_fn .* Type batch_size=64.$"):
        train(*(word.replace("batch_size=16", "batch_size=auto") for word in words_of("rows")))
    train(*(word.replace("batch_size=16", "batch_size=64") for word in words_of("rows")))
