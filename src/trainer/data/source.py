"""What a data source gives: three splits of samples, and what a model must know of them to be sized."""

import itertools
import math
import os
from abc import ABC
from collections.abc import Mapping, Sized
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from trainer.config.schema import shown
from trainer.data.items import Items
from trainer.errors import UserError, nearest
from trainer.meaning import IGNORED, Meaning, Numbers, meaning_of
from trainer.trees import Tree, mapped, num_samples

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Samples:
    """A split that fits in memory.

    Shapes:
        inputs: `[N, C, H, W]` uint8 (images, 0..255) or `[N, ...]` (anything else): floats, which become the `dtype` of
            the run, or whole numbers (tokens), which stay what they are. Or a dict of such, which are passed to the
            model by keyword, or a tuple, by position.
        targets: `[N]` int64 (class indices), `[N, T]` or `[N, H, W]` int64 (a class for each place), `[N, D]` floats
            (numbers), or a dict or tuple for a loss of the user's own; None: the model's inputs are its targets, or it
            has a loss of its own.
    """

    inputs: Tree
    targets: Tree = None

    def __len__(self) -> int:
        return num_samples(self.inputs)

    def take(self, rows: Tensor | slice) -> "Samples":
        """Of these rows alone."""
        return Samples(*(mapped(lambda tensor: tensor[rows], tree) for tree in (self.inputs, self.targets)))


class ImageFiles(Dataset[tuple[Tensor, int]], Sized):
    """A split that stays on disk: item `i` is `(uint8 [channels, image_size, image_size], class index)`.

    `channels` (1 or 3) and `image_size` are set before the first item is read, so that workers resize.
    """

    channels: int
    image_size: int
    targets: Tensor  # [N] int64, known without opening an image

    def content(self) -> str | None:
        """What tells these files from others, wherever they lie, not read whole; None where nothing does."""
        return None

    def marks(self) -> list[object] | None:
        """What the content of the files is told by without opening them; None where nothing tells it."""
        return None

    def keep(self, limit: str | int | None) -> None:
        """Keeps what is read on the disk, in no more than this, where it can be read again; None: keeps nothing."""

    @property
    def is_keeping(self) -> bool:
        """Whether it does."""
        return False

    def as_kept(self, rows: list[int]) -> Tensor | None:
        """uint8 `[N, channels, image_size, image_size]` where all of these rows are kept. Any thread may ask."""
        return None

    def doubts(self) -> list[str]:
        """What its user should know of how they are read."""
        return []


@dataclass(frozen=True)
class Data:
    """What every data source gives.

    Args:
        train, val, test: the three splits: all of them Samples, or ImageFiles, or anything else with `__len__` and
            `__getitem__`. Of what a source of the user's leaves out, a part of the training split is taken.
        description: one line that says what this is, where from and how much.
        num_classes: None for numbers; a source of the user's may leave it to the labels.
        class_names: a name per class, or empty.
        scale: what uint8 images are divided by to reach 0..1 (digits have 16 grey levels: 16).
        num_workers: for splits that are read while training: processes that read ahead.
        notes: what was decided in reading it that its user should know.
        recipe: what the source has done to its inputs: of tables a `trainer.data.tables.recipe.Recipe`, of arrays a
            `trainer.data.standardize.Scaling`; None where it is nothing.
        rows: split to the rows of the source's file that it has, `[N]`; empty where that is not known.
        by_chance: the splits whose samples `data.split_seed` has chosen, or drawn.
        collate_fn: a list of items to a batch; None: torch's.
        is_multilabel: targets are 0 and 1 for each of some labels, `[N, K]`.
        as_task: what its source was asked to take the targets for, if it has not done so itself; `auto`: nothing.
        are_own_targets: the inputs are their own targets, as the model gets them.
        ignored: the label of places that have no class; a loss leaves it out.
    """

    train: Any
    val: Any = None
    test: Any = None
    description: str = ""
    num_classes: int | None = None
    class_names: tuple[str, ...] = ()
    scale: float = 255.0
    num_workers: int = 0
    notes: tuple[str, ...] = ()
    recipe: Any = None
    rows: Mapping[str, Tensor] = field(default_factory=dict)
    by_chance: tuple[str, ...] = ()
    collate_fn: Any = None
    is_multilabel: bool = False
    as_task: str = "auto"
    are_own_targets: bool = False
    ignored: int = IGNORED

    @property
    def splits(self) -> dict[str, Any]:
        """Those that there are, by name."""
        return {name: split for name in SPLITS if (split := getattr(self, name)) is not None}

    @property
    def example(self) -> tuple[Tree, Tree]:
        """Inputs and targets of some training samples; of image files targets alone."""
        if isinstance(self.train, Items):
            return self.train.sample
        return getattr(self.train, "inputs", None), self.train.targets

    @property
    def meaning(self) -> Meaning:
        """What the targets are."""
        if self.are_own_targets:
            return Numbers(math.prod(self.sample_shape))
        return meaning_of(self.example[1], self.num_classes, self.class_names, self.is_multilabel, self.ignored)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Of one input as the source has it; image files have none before they are read, nor has a dict or tuple."""
        inputs = self.example[0]
        return tuple(inputs.shape[1:]) if isinstance(inputs, Tensor) else ()

    @property
    def is_images(self) -> bool:
        if isinstance(self.train, ImageFiles):
            return True
        inputs = self.example[0]
        is_bytes = isinstance(inputs, Tensor) and inputs.dtype == torch.uint8
        return is_bytes and (isinstance(self.train, Samples) or inputs.dim() == 4)


class Source(ABC):  # noqa: B024
    """What the class of a data source makes: a `Data`, or a data set with `__len__` and `__getitem__`."""

    accepted: ClassVar[str] = (
        "is no data set; accepted is a class with __len__ and __getitem__, or a function that returns such data sets, "
        "one or a tuple (train, val, test), or a trainer.Data; of a DataModule a function that returns its data sets"
    )

    @classmethod
    def __subclasshook__(cls, other: type) -> bool:
        # One that can't be read by number is told so where its data is looked at.
        return issubclass(other, Data | IterableDataset) or (
            hasattr(other, "__len__") and hasattr(other, "__getitem__")
        )


def split_indices(num_samples: int, fractions: tuple[float, ...], seed: int) -> tuple[Tensor, ...]:
    """Disjoint shuffled indices, a tensor per fraction and one more for the rest; the same for the same seed."""
    order = torch.randperm(num_samples, generator=torch.Generator().manual_seed(seed))
    bounds = [0]
    for fraction in fractions:
        bounds.append(bounds[-1] + round(fraction * num_samples))
    bounds.append(num_samples)
    return tuple(order[a:b] for a, b in itertools.pairwise(bounds))


def split_off(num_samples: int, split_seed: int, **fractions: float) -> dict[str, Tensor]:
    """Disjoint shuffled indices per split: `train` is what the named splits leave.

    Args:
        fractions: the part of the samples that each other split gets: `val=0.1` from the key `data.val_fraction`.

    Raises:
        UserError: a split would be empty.
    """
    given = " ".join(f"data.{split}_fraction={fraction}" for split, fraction in fractions.items())
    if sum(fractions.values()) >= 1:
        raise UserError(f"{given}: nothing is left to train on; together they must stay below 1. Try 0.1 for each.")
    *parts, rest = split_indices(num_samples, tuple(fractions.values()), split_seed)
    splits = dict(zip(("train", *fractions), (rest, *parts), strict=True))
    if not all(map(len, splits.values())):
        sizes = ", ".join(f"{split} {len(rows)}" for split, rows in splits.items())
        # More than half a sample rounds up to one; of the rest two such may be taken.
        needed = 1 + max(math.floor(0.5 / min(fractions.values())), math.floor(1 / (1 - sum(fractions.values()))))
        raise UserError(
            f"{given}: {num_samples} samples are too few to split ({sizes}); each split needs at least one. "
            f"Give {needed} samples or more, or other fractions."
        )
    return splits


def existing_path(key: str, value: object) -> Path:
    """The absolute path that the user gave under `key`.

    Raises:
        UserError: nothing is there, or it may not be looked at.
    """
    if value is None or value == "":
        raise UserError(f"{key}={shown(value)}: no path was given. Type {key}=<where it lies>.")
    try:
        path = Path(os.path.expanduser(str(value))).absolute()  # ~z is a folder where nobody is called z
        path.stat()
        return path
    except FileNotFoundError:
        pass
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: no home folder; ValueError: a null byte
        raise UserError(f"{key}={value}: {getattr(error, 'strerror', None) or error}. Give another path.") from error
    if not path.parent.is_dir():
        raise UserError(f"{key}={value}: there is no folder {path.parent}. Give the path of something that exists.")
    hint = nearest(path.name, (neighbour.name for neighbour in path.parent.iterdir()))
    raise UserError(f"{key}={value}: there is no {path}.{hint or ' Give the path of something that exists.'}")
