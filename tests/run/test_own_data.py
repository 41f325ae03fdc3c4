"""Data sets of the user's own from the command line: killed and gone on with, refused, and by keyword to the model."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exact import assert_same
from trainer.data.folds import in_folds
from trainer.data.given import Asked, as_data
from trainer.disk import checkpoint
from trainer.errors import RunStopped, UserError

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # of Python 3.12 on: beside torch's threads
QUIET = ("monitor=off", "threads=1", "trust=[ownsets]")

OWNSETS = """
import random

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset, IterableDataset, TensorDataset

import trainer


class Noisy(Dataset):
    '''Points of three classes, another place each time.'''

    def __init__(self, num_items=40):
        self.labels = torch.arange(num_items) % 3

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        noise = torch.randn(4) + random.random() + float(np.random.normal())
        return {"points": noise + self.labels[i], "scale": torch.rand(1), "label": int(self.labels[i]) + 1}


class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, num_classes))

    def forward(self, *, points, scale):
        return self.layers(points * (1 + scale))


def splits():
    return {"train": Noisy(), "val": Noisy(9)}


def bytes_of(shape, call="", kind="memory"):
    inputs = torch.arange(60).repeat_interleave(64).to(torch.uint8).view(60, *shape)
    inputs = eval(f"inputs{call}", {"inputs": inputs})
    return [*zip(inputs, torch.arange(60) % 2)] if kind == "items" else (inputs, torch.arange(60) % 2)


class Counts(Dataset):
    def __init__(self, kind):
        self.kind = kind
        if kind == "lost":
            self.collate_fn = lambda items: (torch.zeros(2, 3), torch.zeros(len(items)).long())

    def __len__(self):
        return -1 if self.kind == "minus" else 40

    def __getitem__(self, i):
        label = {"none": None, "word": "ab"[i % 2], "float": float(i % 2), "gap": None if i == 5 else 1}
        return torch.tensor([i % 2, 1.0, 0.0]), label.get(self.kind, i % 2)


def counts(kind):
    return Counts(kind)


class Stream(IterableDataset):
    def __iter__(self):
        yield torch.zeros(3), 1


def stream():
    return Stream(), Stream()


def named():
    return trainer.Samples({"a": torch.rand(60, 2), "b": torch.rand(60, 2)}, torch.arange(60) % 2)


def loaders():
    return torch.utils.data.DataLoader(Noisy())


def tensors():
    return torch.zeros(9, 3), torch.zeros(8)


def triples():
    return [(torch.zeros(3), 1, 2)] * 9


def wordy():
    return [{"text": "a", "x": torch.zeros(3), "label": i % 2} for i in range(9)]


def counted():
    return [(torch.zeros(3), torch.tensor([0, 1])) for _ in range(9)]


def visits(gap=False):
    return [{"x": torch.randn(3), "who": "" if gap and i == 7 else f"w{i // 4}", "y": i % 2} for i in range(80)]


def other():
    return {"train": Noisy(), "vall": Noisy()}


def thirds():
    return visits(), visits(), visits()


def points():
    return [(torch.randn(3), i % 2) for i in range(80)]


class Gap(Net):
    def __init__(self, is_whole=False):
        super().__init__(3)
        self.is_whole = is_whole

    def forward(self, x):
        found = self.layers(x)
        return found if self.training or self.is_whole else found.log()


class WithGap(Dataset):
    '''One item has a part that is no number.'''

    def __init__(self, part, row):
        self.part, self.row = part, row

    def __len__(self):
        return 60

    def __getitem__(self, i):
        item = {"inputs": torch.ones(4) * i, "targets": torch.ones(3)}
        if i == self.row:
            item[self.part][0] = torch.nan
        return item["inputs"], item["targets"]


def pairs():
    draw = torch.Generator().manual_seed(0)
    points = torch.randn(60, 5, generator=draw)
    return points, (points.sum(1) > 0).long()
"""


@pytest.fixture(autouse=True)
def ownsets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ownsets.py").write_text(OWNSETS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "ownsets", raising=False)


def final(folder: Path) -> dict[str, Any]:
    return checkpoint.read(folder / "checkpoints" / "last.pt")


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_to_the_same_bits_with_other_workers(
    train: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    words = ("model._target_=ownsets.Net", "data._target_=ownsets.splits", "batch_size=7", "max_steps=60", *QUIET)
    words = (*words, "checkpoint.every=9", "eval_every=13", "console.every=1")
    expected = train(*words, "name=whole")
    command = [sys.executable, "-m", "trainer", *words, "data.num_workers=2", "name=killed"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        next(line for line in process.stdout if line.startswith("step=31 "))
        os.kill(process.pid, signal.SIGKILL)
    assert 0 < final(tmp_path / "runs" / "killed")["step"] < 60
    found = train("resume=runs/killed", "trust=[ownsets]", "data.num_workers=0", "max_steps=60")
    assert_same(final(tmp_path / "runs" / "killed"), final(tmp_path / "runs" / "whole"))
    assert {k: v for k, v in found.items() if "loss" in k} == {k: v for k, v in expected.items() if "loss" in k}
    assert expected["val/accuracy"] > 0.4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("stream", "data=stream: the train split is an IterableDataset, of which no item can be had by its number"),
        ("loaders", "data=loaders: the train split is a DataLoader, which train makes itself. Give its data set."),
        ("tensors", "data=tensors: gives inputs of 9 rows and targets of 8; each row of inputs"),
        ("triples", "data: items of the train split have 3 parts; accepted are a pair (inputs, targets)"),
        ("wordy", "data=wordy: the train split has inputs text that are no numbers. Choose with data.inputs=[...]"),
        ("wordy data.inputs=[y]", "data.inputs=[y]: items of the train split have text, x, label."),
        ("counted", "targets are whole numbers of shape [2]. Type data.task=multilabel for 0 and 1 of several labels"),
        ("other", "data=other: gives a dict with vall; its splits are called train, val and test. Did you mean val?"),
        ("pairs data.group=who", "data.group: nothing reads this key: data=pairs is in memory as tensors."),
        ("visits data.group=whom data.targets=[y]", "data.group=whom: items of the train split have x, who, y."),
        ("visits data.group=x data.inputs=[x] data.targets=[y]", "data.group=x: a group is of ndarray; it is a w"),
        ("visits data.group=y data.targets=[y]", "data.group=y: it is a target, too."),
        ("visits data.gap=true data.group=who data.targets=[y]", "data.group=who: a group is ''; it is a word"),
        ("points data.group=who", "and items of the train split are of tuple. Give dicts with a key who"),
        ("thirds data.group=who data.targets=[y]", "data.group=who: there is nothing to split: data=thirds has"),
        ("pairs data.num_workers=1", "data.num_workers: nothing reads this key: data=pairs is in memory as tensors."),
        ("Stream", "data=Stream: the train split is an IterableDataset, of which no item can be had by its number"),
        ("counts data.kind=minus", "data=counts: the train split has no length (__len__() should return >= 0). Give"),
        ("counts data.kind=gap", "data=counts: item 5 of the train split has no target, others have. Give it one."),
        ("counts data.kind=none", "model.out_features=null: data=counts has no targets that tell how many outputs"),
        (
            "counts data.kind=word data.task=regression loss=mse",
            "data.task=regression: data=counts has words as targ",
        ),
        (
            "counts data.kind=lost data.num_classes=2",
            "data: collate_fn: gives 2 inputs and 1 targets in a batch",
        ),
        ("named", "model=two_layer: takes one tensor, but data=named gives a dict of a, b. Give a model of your own."),
        (
            "splits",
            "model=two_layer: takes one tensor, but data=splits gives a dict of points, scale. Type data.inputs=[",
        ),
    ],
)
def test_what_is_no_data_set_is_refused_with_what_to_give(
    words: str, message: str, train: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    name, *more = words.split()
    with pytest.raises(UserError) as raised:
        train(f"data._target_=ownsets.{name}", "model=two_layer", *QUIET, *more)
    assert message in str(raised.value)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("shape", "kind", "call"),
    [
        ("[64]", "memory", ".float()"),
        ("[64]", "items", ".float()"),
        ("[8,8]", "memory", ".unsqueeze(1)"),
        ("[4,4,2,2]", "memory", ".float()"),
    ],
)
def test_bytes_that_are_no_images_are_refused_with_what_makes_them_inputs(
    shape: str, kind: str, call: str, train: Callable[..., dict[str, Any]]
) -> None:
    words = ("data._target_=ownsets.bytes_of", f"data.shape={shape}", f"data.kind={kind}", "model=two_layer")
    with pytest.raises(UserError) as raised:
        train(*words, *QUIET)
    assert call in str(raised.value)
    train(*words, f'data.call="{call}"', "max_steps=1", *QUIET)


@pytest.mark.parametrize(
    "words", [("data.kind=whole", "data.task=regression", "loss=mse"), ("data.kind=float", "data.task=classification")]
)
def test_whole_numbers_are_labels_or_numbers_as_it_is_said(
    words: tuple[str, ...], train: Callable[..., dict[str, Any]]
) -> None:
    words = ("data._target_=ownsets.counts", *words, "model=two_layer", "max_steps=150", "optimizer.lr=0.02")
    assert train(*words, *QUIET)["val/loss"] < 0.15


def test_a_pair_of_tensors_is_a_split_that_others_are_taken_from(train: Callable[..., dict[str, Any]]) -> None:
    result = train("data._target_=ownsets.pairs", "model=two_layer", "max_epochs=40", "optimizer.lr=0.01", *QUIET)
    assert result["test/accuracy"] > 0.7
    assert result["computed"].startswith("a recorded step")


@pytest.mark.parametrize("folds", [(None, None), (3, 1)])
def test_items_of_one_group_are_in_one_split(folds: tuple[int | None, int | None], tmp_path: Path) -> None:
    import ownsets

    with in_folds(*folds):
        data = as_data(ownsets.visits(), "visits", Asked(group="who", targets=["y"]))
    groups = [{item["who"] for item in split.dataset} for split in (data.train, data.val, data.test)]
    assert sum(map(len, groups)) == len(set.union(*groups)) == 20
    assert all(groups)
    assert sum(map(len, (data.train, data.val, data.test))) == 80


def test_the_part_that_names_the_group_is_no_input(train: Callable[..., dict[str, Any]]) -> None:
    words = ("data._target_=ownsets.visits", "data.targets=[y]", "data.group=who", "model=two_layer", "max_steps=3")
    assert train(*words, "data.num_workers=1", *QUIET)["steps"] == 3


@pytest.mark.parametrize(
    ("part", "row", "split"), [("inputs", 3, "val"), ("targets", 43, "test"), ("inputs", 20, "train")]
)
def test_an_item_with_a_gap_is_named_and_not_the_learning_rate(
    part: str, row: int, split: str, train: Callable[..., dict[str, Any]]
) -> None:
    """Such as are read one by one: nobody has seen them before."""
    words = ("data._target_=ownsets.WithGap", f"data.part={part}", f"data.row={row}", "loss=mse", "max_steps=2")
    with pytest.raises(RunStopped, match=rf"The first value that is not finite: the {part} of item") as error:
        train(*QUIET, *words, "model._target_=ownsets.Gap", "model.is_whole=true", "name=run")
    number, of, whole = re.search(r"item (\d+) of the (\w+) split(?: .item (\d+) of)?", str(error.value)).groups()  # type: ignore[union-attr]
    assert (int(whole or number), of) == (row, split)
    assert "lr=0.0002" not in str(error.value)
    (finding,) = json.loads(Path("runs/run/result.json").read_text())["diagnosis"]
    assert (finding["rule"], part in finding["meaning"]) == ("data not finite", True)


def test_what_is_not_finite_in_evaluation_alone_is_said_to_be(train: Callable[..., dict[str, Any]]) -> None:
    words = ("data._target_=ownsets.WithGap", "data.part=inputs", "data.row=-1", "loss=mse", "max_steps=2")
    with pytest.raises(RunStopped, match=r"output of the model \(Gap\), in evaluation mode alone.*self.training"):
        train(*QUIET, *words, "model._target_=ownsets.Gap", "name=run")
    (finding,) = json.loads(Path("runs/run/result.json").read_text())["diagnosis"]
    assert finding["rule"] == "not finite in evaluation"


DRAWN = """
import random
import numpy as np
import torch

def seeded():
    return torch.from_numpy(np.random.normal(size=(60, 4))).float() + torch.rand(1), torch.arange(60) % 2

def in_memory(seed=None):
    print("is built")
    draw = np.random.default_rng(seed)
    return torch.from_numpy(draw.normal(size=(60, 4))).float(), torch.arange(60) % 2

def as_items(seed=None):
    draw = random.Random(seed)
    return [(torch.tensor([draw.random() for _ in range(4)]), i % 2) for i in range(60)]
"""


@pytest.mark.parametrize("name", ["in_memory", "as_items"])
def test_a_source_that_draws_without_a_seed_is_told(
    name: str, train: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("drawnsets.py").write_text(DRAWN)
    words = ("model=two_layer", "trust=[drawnsets]", "max_steps=2", "monitor=off")
    line = f"warning: data={name}: gives other samples each time. So runs can't be compared, and none can be continued"
    train(*words, f"data._target_=drawnsets.{name}")
    said = capsys.readouterr().out
    assert said.count(line) == 1
    assert said.count("is built") == (name == "in_memory")
    for source in (f"drawnsets.{name} data.seed=1", "drawnsets.seeded"):
        train(*words, *f"data._target_={source}".split())
        assert line not in capsys.readouterr().out


def test_asking_a_source_twice_changes_no_draw(
    train: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("drawnsets.py").write_text(DRAWN)
    words = ("model=two_layer", "trust=[drawnsets]", "max_steps=3", "monitor=off", "data._target_=drawnsets.seeded")
    twice = train(*words, "name=twice")
    monkeypatch.setattr("trainer.run.data.REBUILT", 0.0)
    assert train(*words, "name=once")["test/loss"] == twice["test/loss"]
