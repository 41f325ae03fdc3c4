"""Features of items that are read one by one: a frozen backbone computes them once, where an item does not change."""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset

from exact import assert_same, states
from ranks import ended, ranks
from trainer.data.fixed import is_fixed
from trainer.disk import checkpoint
from trainer.errors import UserError

Train = Callable[..., dict[str, Any]]

ITEMS = """
import torch
from torch import nn
from torch.utils.data import Dataset

from trainer import Data

SIZES = []  # of the batches that have gone through the backbone, without looks at a few samples


class Body(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10), nn.Linear(10, 7))

    def forward(self, images):
        SIZES.append(len(images))
        return self.layers(images)


class Pictures(Dataset):
    def __init__(self, num, kind):
        self.num, self.kind = num, kind

    def __len__(self):
        return self.num

    def __getitem__(self, i):
        draw = torch.Generator().manual_seed(1000 * self.num + i)
        image = torch.rand(3, 8, 8, generator=draw)
        return image + torch.rand(1) if self.kind == "draws" else image, (i * 7) % 3


def make(kind="own", num=40):
    splits = [Pictures(some, kind) for some in (num, 17, 18)]
    if kind == "collated":
        return Data(*splits, collate_fn=torch.utils.data.default_collate)
    return tuple([split[i] for i in range(len(split))] for split in splits) if kind == "lists" else tuple(splits)
"""
# 40 items in batches of 16: three steps an epoch, the last one of 8 items.
WORDS = ("model=frozen", "model.backbone._target_=items.Body", "data._target_=items.make", "trust=[items]")
WORDS = (*WORDS, "batch_size=16", "max_steps=12", "optimizer=sgd", "eval_every=4", "checkpoint.every=6", "monitor=off")
WORDS = (*WORDS, "device=cpu", "threads=1")
ONCE = "features of the frozen backbone: computed once for each of 40 samples, for this run alone"
CHANGING = "items of your data set may change from epoch to epoch. If they never do, type data.fixed=true."
ALWAYS = "the frozen backbone runs at every step: "


@pytest.fixture(autouse=True)
def items(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "items.py").write_text(ITEMS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "items", raising=False)


def sizes() -> list[int]:
    """Of the batches since it was last asked for."""
    seen: list[int] = sys.modules["items"].SIZES
    found = seen[:]
    seen.clear()
    return found


def assert_same_states(*states: dict[str, Any]) -> None:
    for state in states:  # torch's optimizer has options of its own
        state["optimizer"] = state["optimizer"]["state"]
        state.get("plain", {}).pop("items.SIZES", None)  # which counts here how it was computed
    assert_same(*states)


def assert_same_runs(one: str, other: str, step: int = 12) -> None:
    assert_same_states(*(states(f"runs/{name}", step) for name in (one, other)))


class TestSameAsRecomputed:
    @pytest.mark.parametrize(
        "words",
        [
            ("data.fixed=true",),
            *(
                pytest.param(words, marks=pytest.mark.slow)
                for words in (
                    ("data.kind=lists", "data.num_workers=1"),
                    ("data.fixed=true", "batch_size=full", "dtype=float64"),
                    ("data.fixed=true", "data.balance=true", "loss.class_weights=balanced"),
                    ("data.kind=lists", "gradient.accumulate=2", "batch_size=7"),
                    ("data.fixed=true", "data.num=37", "loss.weight=[1,2,0.3]"),
                )
            ),
        ],
    )
    def test_bit_for_bit(self, words: tuple[str, ...], train: Train, capsys: pytest.CaptureFixture[str]) -> None:
        once = train(*WORDS, *words, "name=once")
        assert ONCE.replace("40", "37" if "data.num=37" in words else "40") in capsys.readouterr().out
        num_once = sum(sizes())
        always = train(*WORDS, *words, "name=always", "fast=false")
        assert_same_runs("once", "always")
        assert_same(once, always)
        assert num_once < 40 + 17 + 18 + 30 < sum(sizes())

    @pytest.mark.slow
    def test_killed_it_goes_on_to_the_same_bits(self, train: Train, tmp_path: Path) -> None:
        words = (*WORDS, "data.fixed=true", "max_steps=300", "checkpoint.every=9", "console.every=1")
        train(*words, "name=whole", "fast=false")
        command = [sys.executable, "-m", "trainer", *words, "name=killed"]
        with subprocess.Popen(command, cwd=tmp_path, env=os.environ, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            next(line for line in process.stdout if line.startswith("step=31 "))
            os.kill(process.pid, signal.SIGKILL)
        folders = [tmp_path / "runs" / name / "checkpoints/last.pt" for name in ("killed", "whole")]
        assert 0 < checkpoint.read(folders[0])["step"] < 300
        sizes()
        train(*words, "name=killed", "data.num_workers=1")
        assert sum(sizes()) < 40 + 17 + 18 + 30
        assert_same_states(*map(checkpoint.read, folders))

    @pytest.mark.slow
    def test_of_two_processes_each_computes_its_share(self, tmp_path: Path, train: Train) -> None:
        words = (*WORDS, "data.fixed=true", "dtype=float64")
        two = ended(ranks(tmp_path, *words, "name=two"))
        assert [code for code, _, _ in two] == [0, 0], two
        assert ONCE in two[0][1]
        train(*words, "fast=false", "name=one")
        two_state, one_state = (states(f"runs/{name}", 12) for name in ("two", "one"))
        for name, tensor in one_state["model"].items():
            torch.testing.assert_close(two_state["model"][name], tensor, rtol=1e-9, atol=1e-12)


class TestOnlyWhereItIsTheSame:
    @pytest.mark.parametrize(
        ("words", "why"),
        [
            ((), CHANGING),
            (("data.kind=lists", "data.fixed=false"), CHANGING),
            (("data.kind=collated",), "a collate_fn of your own may give a sample that depends on the others"),
            (
                ("data.kind=plain", "data.fixed=true", "data.num_classes=3", "loss.weight=[1,2,0.3]"),
                "nobody has looked at the labels, which have weights. Leave out data.num_classes, and they are",
            ),
        ],
    )
    def test_else_the_backbone_runs_at_every_step(
        self, words: tuple[str, ...], why: str, train: Train, capsys: pytest.CaptureFixture[str]
    ) -> None:
        train(*WORDS, *words)
        assert ALWAYS + why in capsys.readouterr().out
        assert sizes().count(8) == 4  # the last batch of each epoch

    @pytest.mark.parametrize(
        ("words", "why"),
        [
            (("data.kind=draws",), "data=make: the train split has items that change when they are read again."),
            (("data.kind=collated",), "data=make has a collate_fn, which may give a sample that depends on the others"),
        ],
    )
    def test_a_promise_that_does_not_hold_is_refused(self, words: tuple[str, ...], why: str, train: Train) -> None:
        with pytest.raises(UserError, match=f"data.fixed=true: {why}"):
            train(*WORDS, *words, "data.fixed=true")

    def test_what_lies_in_memory_has_no_use_for_it(self, train: Train) -> None:
        with pytest.raises(UserError, match=r"data.fixed: nothing reads this key: data=digits is in memory"):
            train("data=digits", "data.fixed=true")


class Own(Dataset[Any]):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, i: int) -> Any:
        return torch.zeros(3), random.randrange(2)


class Rows(list[Any]):
    pass


PLAIN, TENSORS = [(torch.zeros(3), 1)], TensorDataset(torch.zeros(1, 3), torch.zeros(1))


@pytest.mark.parametrize(
    ("dataset", "expected"),
    [
        (PLAIN, True),
        (Subset(ConcatDataset([Subset(TENSORS, [0]), TENSORS]), [1]), True),
        (ConcatDataset([TENSORS, Own()]), False),
        (Subset(Own(), [0]), False),
        (Rows(PLAIN), False),
    ],
)
def test_classes_that_are_known_not_to_change(dataset: Any, expected: bool) -> None:
    assert is_fixed(dataset) is expected


def test_those_of_torchvision_with_what_draws_nothing() -> None:
    pytest.importorskip("torchvision")
    from torchvision.datasets import FakeData
    from torchvision.transforms import Compose, Lambda, RandomHorizontalFlip, Resize, ToTensor, v2
    from torchvision.transforms._presets import ImageClassification

    class Own(FakeData):
        pass

    def fixed(transform: Any = None, kind: type = FakeData, **options: Any) -> bool:
        return is_fixed(kind(3, (3, 8, 8), transform=transform, **options))

    assert fixed()
    assert fixed(Compose([Resize(4), v2.Compose([v2.ToImage(), v2.Resize(4)]), ImageClassification(crop_size=4)]))
    changing = (Compose([ToTensor(), Compose([RandomHorizontalFlip()])]), Lambda(lambda image: image), torch.rand_like)
    assert not any(map(fixed, changing))
    assert not fixed(ToTensor(), target_transform=lambda label: label)
    assert not fixed(ToTensor(), kind=Own)
    both = FakeData(3)
    both.transforms = lambda image, label: (image, label)
    assert not is_fixed(both)


def test_those_of_hugging_face_with_no_function_of_ones_own() -> None:
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict({"x": [[1.0, 2.0]], "label": [0]})
    assert is_fixed(rows)
    assert is_fixed(rows.with_format("torch"))
    assert not is_fixed(rows.with_transform(lambda row: row))
