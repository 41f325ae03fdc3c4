"""A split of anything with `__len__` and `__getitem__`: what its items are, and some of them as a batch."""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Subset, TensorDataset, default_collate

from trainer.config import trust
from trainer.data.quoting import cut, listed
from trainer.draws import Watch, draws_apart, seed_draws, seed_from
from trainer.errors import UserError
from trainer.trees import Tree, leaves, mapped, num_samples

# What a dict calls its targets, where nobody says it.
TARGET_NAMES = ("targets", "target", "labels", "label")
Key = tuple[str, list[int]]  # what the draws of these rows are derived from, and the rows


@dataclass(frozen=True)
class Labels:
    """Which labels of a data set are classes 0, 1 ...

    Args:
        found: the label of each class, in order: whole numbers, or words.
        ignored: a label that is no class and stays what it is.
    """

    found: tuple[Any, ...]
    ignored: int = -100

    def __call__(self, targets: Any) -> Tensor:
        """Their classes, in the shape of the targets."""
        places = {label: i for i, label in enumerate(self.found)}
        if not isinstance(targets, Tensor):  # words come as a list
            return torch.tensor([places[word] for word in targets])
        known, ignored = torch.tensor(self.found), targets == self.ignored
        classes = torch.searchsorted(known, targets.long().contiguous()).clamp_max(len(known) - 1)
        if not bool(((known[classes] == targets) | ignored).all()):
            other = targets[(known[classes] != targets) & ~ignored].flatten()[0].item()
            raise UserError(f"a target is {other}; the classes are {listed(self.found)}")
        return torch.where(ignored, targets.long(), classes)


@dataclass
class Items:
    """A split whose items are read while it trains, by a `DataLoader`'s workers.

    An item is a pair (inputs, targets), or a dict, or inputs alone. Inputs are a tensor, or a dict or tuple of tensors;
    arrays, numbers, lists of numbers and pictures of Pillow become tensors.

    Args:
        dataset: anything with `__len__` and `__getitem__`.
        name: of the split.
        collate_fn: a list of items to a batch: a pair or a dict of tensors `[N, ...]`. None: torch's.
        inputs, targets: which parts of a dict are what; None: what is called so, and all others are inputs.
        labels: how targets become classes; None: as they are.
        num_classes: where targets are classes, so many.
        is_multilabel: targets are 0 and 1 for each label.

    Attributes:
        channels, image_size: what pictures of Pillow become; None: as they are.
        known: the targets of all items, `[N]` int64, where they have been looked at.
        tell: called after every item that has been read.
    """

    dataset: Any
    name: str
    collate_fn: Callable[[list[Any]], Any] | None = None
    inputs: tuple[str, ...] | None = None
    targets: tuple[str, ...] | None = None
    labels: Labels | None = None
    num_classes: int | None = None
    is_multilabel: bool = False
    ignored: int = -100
    channels: int | None = None
    image_size: int | None = None
    known: Tensor | None = field(default=None, repr=False)
    tell: Callable[[], None] | None = field(default=None, repr=False)
    _draws_all: bool = field(default=False, repr=False)  # from Python's and NumPy's generator, too
    _watch: Watch | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.dataset)

    def take(self, rows: Tensor, name: str) -> "Items":
        """Of these rows alone, under another name."""
        known = None if self.known is None else self.known[rows]
        return replace(self, dataset=Subset(self.dataset, rows.tolist()), name=name, known=known)

    @cached_property
    def sample(self) -> tuple[Tree, Tree]:
        """Inputs and targets of the first item, as a batch of one; those of a validation."""
        return self.load(("first", [0]))

    @cached_property
    def is_still(self) -> bool:
        """Whether its items are known to draw nothing at random: of torch's and Python's own classes."""
        inner = self.dataset
        while type(inner) is Subset:
            inner = inner.dataset
        return self.collate_fn is None and (type(inner) in (list, tuple, TensorDataset) or is_of_arrow(inner))

    def load(self, key: Key) -> tuple[Tree, Tree]:
        """Some items as a batch, on the CPU. What an item draws is a function of the key's first part and its row.

        Raises:
            UserError: an item can't be read, or is of a form that nothing is trained on.
        """
        draws, rows = key
        with contextlib.nullcontext() if self.is_still or self.tell is not None else draws_apart():
            batch = self._batch(self._items(draws, rows), f"{draws}/batch of {rows}")
        return self._parted(batch)

    def raw_targets(self, key: Key) -> list[Any]:
        """The targets of some items as the data set has them."""
        draws, rows = key
        with draws_apart():
            return [_plain(self._mask(self._pair(self._item(draws, row))[1])) for row in rows]

    def _items(self, draws: str, rows: list[int]) -> list[Any]:
        if self.is_still and hasattr(self.dataset, "__getitems__"):  # many at once are quicker
            with contextlib.suppress(Exception):  # which of them is at fault is told below
                return list(self.dataset.__getitems__(rows))
        watch = None if self.is_still or self._draws_all else self._watch or Watch()
        if self.tell is not None:
            self._watch = watch  # in a process of its own nobody else draws between two batches
        items = []
        for row in rows:
            item = self._item(draws, row, watch is not None)
            if watch is not None and watch.has_drawn():  # once more, with all generators seeded; so are the others then
                self._draws_all, watch = True, None
                item = self._item(draws, row, False)
            if self.tell is not None:
                self.tell()
            items.append(item)
        return items

    def _item(self, draws: str, row: int, is_watched: bool = False) -> Any:
        if not self.is_still:
            (torch.default_generator.manual_seed if is_watched else seed_draws)(seed_from(f"{draws}/{row}"))
        try:
            return self.dataset[row]
        except UserError:
            raise
        except Exception as error:  # of whatever kind: it is somebody's own class
            raise UserError(f"data: item {row} of the {self.name} split: {self._told(error)}.") from error

    def _batch(self, items: list[Any], draws: str) -> Any:
        if self.collate_fn is not None:
            seed_draws(seed_from(draws))
            try:
                return self.collate_fn(items)
            except Exception as error:
                raise UserError(f"data: collate_fn: {self._told(error)}.") from error
        pairs = [self._pair(item) for item in items]
        try:
            inputs = default_collate([self._tensors(pair[0]) for pair in pairs])
            targets = [pair[1] if _is_word(pair[1]) else self._tensors(self._mask(pair[1])) for pair in pairs]
            return inputs, None if targets[0] is None else targets if _is_word(targets[0]) else default_collate(targets)
        except (RuntimeError, TypeError, KeyError, ValueError) as error:
            shapes = sorted({str([list(leaf.shape) for leaf in leaves(self._tensors(pair))]) for pair in pairs})
            if len(shapes) > 1:
                hint = "Give a collate_fn that makes a batch of them (a key of Data, or an attribute of the data set)."
                if any(map(_is_picture, (pair[0] for pair in pairs))):
                    hint = "Type data.image_size=224, or another size for all."
                raise UserError(
                    f"data: items of the {self.name} split have different shapes, {shapes[0]} and {shapes[1]}. {hint}"
                ) from error
            raise UserError(f"data: items of the {self.name} split make no batch: {self._told(error)}.") from error

    def _pair(self, item: Any) -> tuple[Any, Any]:
        """Inputs and targets of an item, or of a batch; targets None where it has none."""
        if isinstance(item, Mapping):
            return self._of_names(item)
        if self.inputs is not None or self.targets:
            raise UserError(
                f"data: items of the {self.name} split are of {type(item).__name__}, and data.inputs and data.targets "
                "choose among the parts of a dict. Leave both out."
            )
        if not isinstance(item, tuple | list):
            return item, None
        if len(item) > 2 or not item:
            raise UserError(
                f"data: items of the {self.name} split have {len(item)} parts; accepted are a pair (inputs, targets), "
                "where inputs may be a tuple, or a dict."
            )
        return item[0], item[1] if len(item) == 2 else None

    def _of_names(self, item: Mapping[str, Any]) -> tuple[Any, Any]:
        names = [str(name) for name in item]
        for key, wanted in (("data.inputs", self.inputs), ("data.targets", self.targets)):
            if missing := [name for name in wanted or () if name not in item]:
                raise UserError(f"{key}=[{missing[0]}]: items of the {self.name} split have {listed(names)}.")
        targets = self.targets
        if targets is None:
            called_so = [name for name in TARGET_NAMES if name in item and name not in (self.inputs or ())]
            targets = tuple(called_so[:1])
        inputs = self.inputs or tuple(name for name in names if name not in targets)
        found = [{name: item[name] for name in some} for some in (inputs, targets)]
        its = [next(iter(part.values())) if len(part) == 1 else part for part in found]
        return its[0], its[1] if targets else None

    def _tensors(self, part: Any) -> Any:
        """Whatever holds numbers as tensors."""
        if isinstance(part, Tensor | int | float):
            return part
        if isinstance(part, Mapping):
            return {name: self._tensors(value) for name, value in part.items()}
        if isinstance(part, tuple):
            return tuple(self._tensors(value) for value in part)
        if isinstance(part, list):
            return torch.from_numpy(np.asarray(part))
        if _is_picture(part):
            return self._picture(part)
        return part

    def _mask(self, target: Any) -> Any:
        """A picture that is a target as its numbers, `[H, W]`, in the size of the images; anything else as it is."""
        if isinstance(target, Tensor | int | float) or not _is_picture(target):
            return target
        if self.image_size is not None:
            from PIL import Image, ImageOps

            target = ImageOps.fit(target, (self.image_size, self.image_size), Image.Resampling.NEAREST)
        return np.asarray(target).astype(np.int64)

    def _picture(self, picture: Any) -> Tensor:
        from PIL import Image, ImageOps

        from trainer.data.image_files import upright_8_bit

        upright = upright_8_bit(picture, "white")
        mode = {1: "L", 3: "RGB", None: "L" if upright.mode in ("1", "L") else "RGB"}[self.channels]
        pixels = upright.convert(mode)
        if self.image_size is not None:
            pixels = ImageOps.fit(pixels, (self.image_size, self.image_size), Image.Resampling.BILINEAR)
        numbers = torch.from_numpy(np.array(pixels))
        return numbers.view(pixels.height, pixels.width, -1).permute(2, 0, 1).contiguous()

    def _parted(self, batch: Any) -> tuple[Tree, Tree]:
        """A batch as inputs and targets in the form that losses take."""
        inputs, targets = self._pair(batch) if self.collate_fn is not None else batch
        inputs = mapped(lambda tensor: tensor, dict(inputs) if isinstance(inputs, Mapping) else inputs)
        if isinstance(inputs, list):
            inputs = tuple(inputs)
        if not leaves(inputs) or num_samples(inputs) == 0:
            raise UserError(f"data: a batch of the {self.name} split has no tensor among its inputs.")
        try:
            return inputs, self._targets(targets)
        except (UserError, KeyError) as error:
            raise UserError(f"data: the {self.name} split: {str(error).strip('.')}.") from error

    def _targets(self, targets: Any) -> Tree:
        if self.labels is not None and targets is not None:
            return self.labels(targets)
        if not isinstance(targets, Tensor):
            return dict(targets) if isinstance(targets, Mapping) else targets
        if self.is_multilabel:
            return targets.float() if not targets.is_floating_point() else targets
        if self.num_classes is None:
            return targets.unsqueeze(1) if targets.dim() == 1 and targets.is_floating_point() else targets
        if targets.is_floating_point():
            return targets  # told by whoever checks the data
        counted = targets[targets != self.ignored]
        if counted.numel() and not (int(counted.min()) >= 0 and int(counted.max()) < self.num_classes):
            raise UserError(
                f"labels from {int(counted.min())} to {int(counted.max())}; with {self.num_classes} classes they go "
                f"from 0 to {self.num_classes - 1}"
            )
        return targets.long()

    def _told(self, error: BaseException) -> str:
        """An error in one line, with its place in the user's own code."""
        inner = self.dataset
        while type(inner) is Subset:
            inner = inner.dataset
        owners = (inner, *([self.collate_fn] if self.collate_fn else []))
        modules = [getattr(owner, "__module__", None) or type(owner).__module__ for owner in owners]
        return cut(trust.told(error, [module for module in modules if isinstance(module, str)]), 400)


def is_of_arrow(dataset: Any) -> bool:
    """Whether it is one of Hugging Face's, whose items nobody's own function makes."""
    return type(dataset).__module__ == "datasets.arrow_dataset" and dataset.format["type"] != "custom"


def _is_word(target: Any) -> bool:
    return isinstance(target, str)


def _is_picture(part: Any) -> bool:
    return type(part).__module__.startswith("PIL.")


def _plain(target: Any) -> Any:
    """A target as a number or a word where it is one; otherwise as an array."""
    if isinstance(target, Tensor | np.ndarray | np.generic):
        array = target.numpy() if isinstance(target, Tensor) else np.asarray(target)
        return array.item() if array.ndim == 0 else array
    return np.asarray(target) if isinstance(target, list) else target
