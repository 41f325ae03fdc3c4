"""Samples of one split in another: every equal one is counted, two are named, and nothing else is."""

import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from trainer.data import digits, image_folder, item_leaks
from trainer.data.given import Asked, as_data
from trainer.data.image_files import FolderImages
from trainer.data.items import Items
from trainer.data.leaks import leaks
from trainer.data.source import Data, ImageFiles, Samples

DRAW = torch.Generator().manual_seed(0)


def said(train: Any, val: Any, test: Any) -> str | None:
    leak = leaks(train, val, test)
    return None if leak is None else leak.said


def samples(inputs: Any) -> Samples:
    return Samples(inputs, torch.zeros(len(inputs), dtype=torch.int64))


KINDS = {
    "float32": torch.randn(60, 5, generator=DRAW),
    "float64": torch.randn(60, 3, generator=DRAW, dtype=torch.float64),
    "one column": torch.randn(60, 1, generator=DRAW),
    "whole numbers": torch.randint(0, 10**12, (60, 7), generator=DRAW),
    "halves": torch.randn(60, 3, generator=DRAW).half(),
    "small images": torch.randint(0, 256, (60, 1, 9, 7), generator=DRAW, dtype=torch.uint8),
    "images": torch.randint(0, 256, (60, 3, 32, 32), generator=DRAW, dtype=torch.uint8),
    "signals": torch.randn(60, 2, 11, generator=DRAW),
    "few bits": torch.eye(60),
}


@pytest.mark.parametrize("inputs", KINDS.values(), ids=KINDS.keys())
def test_equal_rows_are_counted_and_two_are_named(inputs: Tensor) -> None:
    train, val, test = inputs[:30], inputs[30:40], inputs[40:]
    assert said(samples(train), samples(val), samples(test)) is None
    val = torch.cat([val, train[3:5]])
    test = torch.cat([train[:1], test])
    message = said(samples(train), samples(val), samples(test))
    assert message is not None
    assert message.startswith(
        "2 of 12 validation inputs are in the train split, too; 1 of 21 test inputs are in the train split, too "
        "(row 10 of val = row 3 of train; row 11 of val = row 4 of train)."
    )
    assert "\n" not in message


def test_the_same_sample_with_another_class_is_counted(tmp_path: Path) -> None:
    x, classes = torch.randn(30, 4, generator=DRAW), torch.arange(30) % 3
    val = Samples(torch.cat([x[4:8], -x[8:12]]), torch.tensor([1, 2, 1, 0, 0, 0, 0, 0]))  # of the four: 1, 2, 0, 1
    message = said(Samples(x[:20], classes[:20]), val, Samples(x[20:], classes[20:]))
    assert message is not None
    assert message.startswith("4 of 8 validation inputs are in the train split, too, 2 of them with another class (")

    train, test = (folder(tmp_path, name, {f"{i}.png": photo(i)}) for i, name in enumerate(("train", "test")))
    val_files = folder(tmp_path, "val", {"v.png": photo(0)})
    val_files.targets += 1
    message = said(train, val_files, test)
    assert message is not None
    assert message.startswith("1 of 1 validation inputs are in the train split, too, 1 of them with another class (")


def test_training_samples_that_contradict_each_other_are_counted(tmp_path: Path) -> None:
    """Of seven with three inputs, two are of the class that is not the most usual of theirs."""
    x, others = torch.randn(3, 4, generator=DRAW), samples(torch.randn(5, 4, generator=DRAW))
    rows, classes = torch.tensor([0, 1, 1, 0, 1, 2, 1]), torch.tensor([1, 2, 0, 1, 2, 0, 1])
    leak = leaks(Samples(x[rows], classes), others, samples(others.inputs + 1))
    assert leak is not None
    assert (leak.said, leak.share) == ("", 0)
    assert leak.contradicted == (
        "4 of 7 training samples have the inputs of another one and another class (row 1 of train = row 2 of train). "
        "No model is right on more than 71.4 % of them."
    )
    assert leaks(Samples(x[rows], rows), others, samples(others.inputs + 1)) is None

    photos = [folder(tmp_path, name, {f"{i}.png": photo(i + j) for i in range(3)}) for j, name in ((0, "a"), (9, "b"))]
    train = FolderImages([*photos[0].paths, photos[0].paths[1]], torch.tensor([0, 0, 0, 1]))
    leak = leaks(train, photos[1], folder(tmp_path, "c", {"c.png": photo(20)}))
    assert leak is not None
    assert leak.contradicted.startswith("2 of 4 training samples have the inputs of another one and another class (")


def test_what_differs_in_a_single_bit_is_no_leak() -> None:
    train = torch.zeros(64, 16, dtype=torch.float64)
    val = train.clone()
    val.view(torch.int64)[torch.arange(64), torch.arange(64) % 16] ^= 1 << torch.arange(64).clamp_max(62)
    assert said(samples(train), samples(val), samples(torch.ones(1, 16, dtype=torch.float64))) is None


@pytest.mark.parametrize("kind", [torch.float16, torch.float32, torch.float64, list, np.array])
def test_a_zero_with_a_minus_is_a_zero(kind: Any) -> None:
    """What is rounded has both: 78 samples of 200 that contradict each other were told as 30."""
    x = torch.tensor([[0.0, 1.0], [-0.0, 1.0], [2.0, 3.0]])
    rows: Any = list(x) if kind in (list, np.array) else x.to(kind)
    if kind in (list, np.array):
        rows = [kind(row.tolist()) for row in rows]
        message = said(*items(train=Own(rows[:1]), val=Own(rows[1:2]), test=Own(rows[2:])))
    else:
        message = said(samples(rows[:1]), samples(rows[1:2]), samples(rows[2:]))
        leak = leaks(Samples(rows, torch.tensor([0, 1, 0])), samples(rows[2:] + 1), samples(rows[2:] + 2))
        assert leak is not None
        assert leak.contradicted.startswith("2 of 3 training samples have the inputs of another one and another class")
    assert message is not None
    assert message.startswith("1 of 1 validation inputs are in the train split, too (row 0 of val = row 0 of train).")


def test_validation_and_test_are_compared_too() -> None:
    x = torch.randn(30, 4, generator=DRAW)
    message = said(samples(x[:10]), samples(x[10:20]), samples(torch.cat([x[20:], x[15:16]])))
    assert message is not None
    assert message.startswith("1 of 11 test inputs are in the val split, too (row 10 of test = row 5 of val).")


@pytest.mark.parametrize("are_items", [False, True])
def test_rows_are_those_of_the_data_that_the_splits_were_taken_from(are_items: bool) -> None:
    x = torch.randn(60, 4, generator=DRAW)
    x[30:] = x[:30]
    whole = [(row, 0.5) for row in x] if are_items else Samples(x, torch.zeros(60, 1))
    data = as_data(Data(whole), "mine", Asked())
    message = leaks(data.train, data.val, data.test, data.rows)
    assert message is not None
    named = re.findall(r"row (\d+) of the data, in (?:val|train) = row (\d+) of the data, in train", message.said)
    assert len(named) == 2
    assert all(torch.equal(x[int(a)], x[int(b)]) for a, b in named)


def test_inputs_of_several_parts_are_equal_if_all_parts_are() -> None:
    numbers, levels = torch.randn(20, 2, generator=DRAW), torch.arange(20)[:, None]

    def part(rows: slice, shift: int = 0) -> Any:
        return Samples({"numbers": numbers[rows], "levels": levels[rows] + shift}, torch.zeros(len(numbers[rows])))  # type: ignore[arg-type]

    assert said(part(slice(0, 10)), part(slice(0, 5), shift=100), part(slice(10, 20))) is None
    found = said(part(slice(0, 10)), part(slice(5, 12)), part(slice(15, 20)))
    assert found is not None
    assert "5 of" in found


def test_the_shipped_digits_do_not_leak() -> None:
    data = digits.load()
    assert said(data.train, data.val, data.test) is None


# --- files ---------------------------------------------------------------------------------------------------------


def photo(seed: int, size: int = 96) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)


def folder(tmp_path: Path, name: str, images: dict[str, Image.Image], **save: Any) -> FolderImages:
    (tmp_path / name).mkdir(exist_ok=True)
    for file, image in images.items():
        image.save(tmp_path / name / file, **save)
    paths = [str(tmp_path / name / file) for file in images]
    return FolderImages(paths, torch.zeros(len(paths), dtype=torch.int64))


def test_equal_files_are_named_by_their_paths(tmp_path: Path) -> None:
    train = folder(tmp_path, "train", {f"{i}.png": photo(i) for i in range(12)})
    val = folder(tmp_path, "val", {f"v{i}.png": photo(i + 10) for i in range(4)})  # 10 and 11 again
    test = folder(tmp_path, "test", {f"t{i}.png": photo(i + 100) for i in range(4)})
    message = said(train, val, test)
    assert message is not None
    assert message.startswith("2 of 4 validation inputs are in the train split, too (")
    assert (
        f"{tmp_path}/val/v0.png = {tmp_path}/train/10.png; {tmp_path}/val/v1.png = {tmp_path}/train/11.png" in message
    )
    assert said(train, folder(tmp_path, "test", {"x.png": photo(200)}), test) is None


@pytest.mark.parametrize("way", ["another format", "another quality", "another size", "as tensors"])
def test_pictures_that_were_saved_again_look_alike(tmp_path: Path, way: str) -> None:
    ours, theirs = {i: photo(i) for i in range(20)}, {i: photo(i) for i in range(15, 25)}
    train: Any
    test: Any
    match way:
        case "another format":
            train = folder(tmp_path, "train", {f"{i}.png": image for i, image in ours.items()})
            test = folder(tmp_path, "test", {f"{i}.jpg": image for i, image in theirs.items()})
        case "another quality":
            train = folder(tmp_path, "train", {f"{i}.jpg": image for i, image in ours.items()}, quality=90)
            test = folder(tmp_path, "test", {f"{i}.jpg": image for i, image in theirs.items()}, quality=50)
        case "another size":
            train = folder(tmp_path, "train", {f"{i}.png": image for i, image in ours.items()})
            test = folder(tmp_path, "test", {f"{i}.png": image.resize((64, 64)) for i, image in theirs.items()})
        case _:
            stacked = [np.stack([np.asarray(image) for image in x.values()]) for x in (ours, theirs)]
            stacked[1] = np.clip(stacked[1].astype(int) + DRAW_NOISE, 0, 255).astype(np.uint8)
            train, test = (samples(torch.from_numpy(x).permute(0, 3, 1, 2)) for x in stacked)
    val = train.take(torch.arange(1)) if isinstance(train, FolderImages) else samples(train.inputs[:1] // 2)
    message = said(train, val, test)
    assert message is not None
    assert "5 test pictures look like one of the train split" in message


DRAW_NOISE = np.random.default_rng(1).integers(-3, 4, (10, 96, 96, 3))


def test_flat_pictures_and_noise_do_not_look_alike(tmp_path: Path) -> None:
    flat = {f"{i}.png": Image.new("L", (64, 64), i) for i in range(40)}
    noise = torch.randint(0, 256, (300, 3, 40, 40), generator=DRAW, dtype=torch.uint8)
    train, test = (
        folder(tmp_path, "train", dict(list(flat.items())[::2])),
        folder(tmp_path, "test", dict(list(flat.items())[1::2])),
    )
    assert said(train, folder(tmp_path, "val", {"x.png": photo(3)}), test) is None
    assert said(samples(noise[:200]), samples(noise[200:250]), samples(noise[250:])) is None


class Own(Dataset[Any]):
    """Rows as items, each after some seconds, with noise that is drawn anew."""

    def __init__(self, rows: Any, noise: float = 0.0, seconds: float = 0.0) -> None:
        self.rows, self.noise, self.seconds = rows, noise, seconds

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> Any:
        time.sleep(self.seconds)
        if self.rows[i] is None:
            raise KeyError(i)
        return (self.rows[i] + self.noise * torch.randn(3)) if self.noise else self.rows[i]


def items(**splits: Any) -> list[Items]:
    return [Items(split, name) for name, split in splits.items()]


NUMBERS = torch.arange(900.0).view(300, 3)
ITEMS = {
    "tensors": list(NUMBERS),
    "arrays in a tuple": [((row.numpy(), "word", 1), 0) for row in NUMBERS],
    "lists in a dict": [{"a": row.tolist(), "b": row[:1], "label": i} for i, row in enumerate(NUMBERS)],
    "pictures": [(Image.fromarray(np.full((4, 4), i, np.int32)), 0) for i in range(300)],
}


@pytest.mark.parametrize("kind", ITEMS)
def test_equal_items_are_found_whatever_they_are_made_of(kind: str) -> None:
    rows = ITEMS[kind]
    val = Own([*rows[200:250], *rows[3:5]])
    message = said(*items(train=Own(rows[:200]), val=val, test=Own(rows[250:])))
    assert message is not None
    assert message.startswith("2 of 52 validation inputs are in the train split, too (row 50 of val = row 3 of train;")
    assert message.endswith("take them out of one of the two.")
    assert said(*items(train=Own(rows[:200]), val=Own(rows[200:250]), test=Own(rows[250:]))) is None


def test_what_is_drawn_anew_each_time_is_no_leak() -> None:
    rows = torch.zeros(40, 3)
    assert said(*items(train=Own(rows, noise=1.0), val=Own(rows, noise=1.0), test=Own(rows, noise=1.0))) is None


def test_slow_items_and_broken_ones_are_not_all_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(item_leaks, "LOOK_FOR", 1.0)  # a busy machine may sleep for tenths of a second
    rows = [*NUMBERS[:100]]
    message = said(*items(train=Own(rows, seconds=0.02), val=Own(rows, seconds=0.02), test=Own([None] * 100)))
    assert message is not None  # which counts them: all would take 4 seconds
    assert " of 300 items were looked at." in message


def test_other_kinds_of_splits_are_not_looked_at() -> None:
    class Files(ImageFiles):
        targets = torch.zeros(3, dtype=torch.int64)

        def __len__(self) -> int:
            return 3

    assert said(Files(), Files(), Files()) is None


def test_a_linked_picture_in_two_splits_is_found(tmp_path: Path) -> None:
    for place, name in enumerate(("train/cat", "train/dog", "test/cat", "test/dog")):
        (tmp_path / name).mkdir(parents=True)
        for i in range(3):
            photo(10 * place + i).save(tmp_path / name / f"{i}.png")
    (tmp_path / "test" / "cat" / "again.png").symlink_to(tmp_path / "train" / "cat" / "1.png")
    data = image_folder.load(str(tmp_path), val_fraction=0.2)
    message = said(data.train, data.val, data.test)
    assert message is not None
    assert "1 of 7 test inputs" in message
