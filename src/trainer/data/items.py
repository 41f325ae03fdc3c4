"""A split of anything with `__len__` and `__getitem__`: what its items are, and some of them as a batch."""

import contextlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Subset

from trainer.config import trust
from trainer.data.fixed import is_fixed, is_plain
from trainer.data.item_masks import first_picture, is_picture
from trainer.data.item_parts import Parts, Pictures, plain
from trainer.data.item_targets import Reading
from trainer.data.quoting import cut
from trainer.draws import ForeignDraws, seed_from, seeds_from
from trainer.errors import UserError
from trainer.trees import Tree, leaves, mapped, num_samples

FEW = 10  # items that are looked at for an alpha channel
Key = tuple[str, list[int]]  # what the draws of these rows are derived from, and the rows


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
        group: the part of a dict that names its group.
        reading: what a loss gets of its targets.
        pictures: what those of Pillow become.
        fixed: whether an item is the same whenever it is read, as its user says; None: nobody says it.

    Attributes:
        known: the targets of all items, `[N]` int64, where they have been looked at.
        draws: what its code draws at random.
        tell: called after every item that has been read.
    """

    dataset: Any
    name: str
    collate_fn: Callable[[list[Any]], Any] | None = None
    inputs: tuple[str, ...] | None = None
    targets: tuple[str, ...] | None = None
    group: str | None = None
    reading: Reading = field(default_factory=Reading)
    pictures: Pictures = field(default_factory=Pictures)
    fixed: bool | None = None
    known: Tensor | None = field(default=None, repr=False)
    tell: Callable[[], None] | None = field(default=None, repr=False)
    draws: ForeignDraws = field(default_factory=ForeignDraws, repr=False)

    def __len__(self) -> int:
        return len(self.dataset)

    def take(self, rows: Tensor, name: str) -> "Items":
        """Of these rows alone, under another name."""
        known = None if self.known is None else self.known[rows]
        return replace(self, dataset=Subset(self.dataset, rows.tolist()), name=name, known=known)

    @property
    def inner(self) -> Any:
        """The user's data set, of which this may be a part."""
        inner = self.dataset
        while type(inner) is Subset:
            inner = inner.dataset
        return inner

    def number_of(self, row: int) -> int:
        """What the user's data set calls it, of which this may be a part."""
        inner = self.dataset
        while type(inner) is Subset:
            row, inner = inner.indices[row], inner.dataset
        return row

    @cached_property
    def sample(self) -> tuple[Tree, Tree]:
        """Inputs and targets of the first item, as a batch of one; those of a validation."""
        return self.load(("first", [0]))

    @cached_property
    def is_still(self) -> bool:
        """Whether its items are known to draw nothing at random, and are quickly read."""
        return self.collate_fn is None and is_plain(self.inner)

    @property
    def is_fixed(self) -> bool:
        """Whether an item is the same whenever it is read, and whatever it stands beside in a batch."""
        return self.collate_fn is None and (is_fixed(self.dataset) if self.fixed is None else self.fixed)

    def load(self, key: Key) -> tuple[Tree, Tree]:
        """Some items as a batch, on the CPU. What an item draws is a function of the key's first part and its row.

        Raises:
            UserError: an item can't be read, or is of a form that nothing is trained on.
        """
        batch = self._batch(key) if self.is_still else self.draws.apart(lambda: self._batch(key))
        return self._parted(batch, len(key[1]))

    def is_repeatable(self) -> bool:
        """Whether the first item is the same, to the bit, when it is read again with the same draws."""
        if self.is_still:
            return True
        once, again = (leaves(list(batch)) for batch in (self.sample, self.load(("first", [0]))))
        return len(once) == len(again) and all(
            a.shape == b.shape and torch.equal(a == a, b == b) and torch.equal(a[a == a], b[b == b])  # NaN, too
            for a, b in zip(once, again, strict=True)
        )

    def has_transparent(self) -> bool:
        """Whether pictures of Pillow among a few items have an alpha channel that is put on white."""
        if self.collate_fn is not None or first_picture(self.raw_inputs(("first", [0]))[0]) is None:
            return False
        from trainer.data.upright import is_transparent

        rows = sorted({round(i * (len(self) - 1) / (FEW - 1)) for i in range(FEW)})
        pictures = map(first_picture, self.raw_inputs(("first", rows)))
        return any(is_transparent(picture) for picture in pictures if picture is not None)

    def raw_targets(self, key: Key) -> list[Any]:
        """The targets of some items as the data set has them."""
        draws, rows = key
        items = self.draws.apart(lambda: self._items(draws, rows))
        try:
            targets: Any = self._parts.of(items)[1]
        except UserError:
            if self.collate_fn is None:
                raise
            targets = [None]
        if self.collate_fn is not None and targets[0] is None:  # a batch has them, under another name
            found = self.load(key)[1]
            targets = found if isinstance(found, list | Tensor) and len(found) == len(rows) else targets
        return [plain(self.pictures.mask(target)) for target in targets]

    def groups(self, key: Key) -> list[str | int | float]:
        """The groups of some items."""
        draws, rows = key
        return [self._parts.group_of(item) for item in self.draws.apart(lambda: self._items(draws, rows))]

    def raw_inputs(self, key: Key) -> Sequence[Any]:
        """The inputs of some items as the data set has them."""
        draws, rows = key
        inputs, targets = self._parts.of(self.draws.apart(lambda: self._items(draws, rows)))
        for target in filter(is_picture, targets):
            target.load()  # Pillow closes its file then
        return inputs

    @property
    def _parts(self) -> Parts:
        return Parts(self.name, self.inputs, self.targets, self.group)

    def _items(self, draws: str, rows: list[int]) -> list[Any]:
        if self.is_still and hasattr(self.dataset, "__getitems__"):  # many at once are quicker
            with contextlib.suppress(Exception):  # which of them is at fault is told below
                return list(self.dataset.__getitems__(rows))
        found, row, seed = [], -1, self.draws.seed
        numbers = itertools.repeat(None) if self.is_still else seeds_from(draws, rows)
        try:
            for row, number in zip(rows, numbers, strict=False):
                if number is not None:
                    seed(number)
                found.append(self.dataset[row])
                if self.tell is not None:
                    self.tell()
        except UserError:
            raise
        except Exception as error:  # of whatever kind: it is somebody's own class
            raise UserError(f"data: item {row} of the {self.name} split: {self._told(error)}.") from error
        return found

    def _batch(self, key: Key) -> Any:
        draws, rows = key
        items = self._items(draws, rows)
        if self.collate_fn is not None:
            self.draws.seed(seed_from(f"{draws}/batch of {rows}"))
            try:
                return self.collate_fn(items)
            except Exception as error:
                raise UserError(f"data: collate_fn: {self._told(error)}.") from error
        inputs, targets = self._parts.of(items)
        try:
            return self.pictures.inputs(inputs), self.pictures.targets(targets, inputs)
        except (RuntimeError, TypeError, KeyError, ValueError) as error:
            raise UserError(
                f"data: items of the {self.name} split {self._why_apart(inputs, targets, error)}"
            ) from error

    def _why_apart(self, inputs: Sequence[Any], targets: Sequence[Any], error: Exception) -> str:
        """Why they make no batch."""
        tensors, mask = self.pictures.tensors, self.pictures.mask
        pairs = ((tensors(its), tensors(mask(target, its))) for its, target in zip(inputs, targets, strict=True))
        found = sorted([list(leaf.shape) for leaf in leaves(pair)] for pair in pairs)
        shapes = [shape for shape, _ in itertools.groupby(found)]
        if len(shapes) == 1:
            return f"make no batch: {self._told(error)}."
        hint = "Give a collate_fn that makes a batch of them (a key of Data, or an attribute of the data set)."
        first, second = shapes[0][0], shapes[1][0]
        if any(map(is_picture, inputs)) and first != second:
            of_one_kind = "Give picture.convert('RGB') of all, or 'L'."  # grey ones and colours
            hint = of_one_kind if first[1:] == second[1:] else "Type data.image_size=224, or another size for all."
        return f"have different shapes, {shapes[0]} and {shapes[1]}. {hint}"

    def _parted(self, batch: Any, number: int) -> tuple[Tree, Tree]:
        """A batch of so many items as inputs and targets in the form that losses take."""
        (inputs,), (targets,) = ([batch[0]], [batch[1]]) if self.collate_fn is None else self._parts.of([batch])
        inputs = mapped(_alone, dict(inputs) if isinstance(inputs, Mapping) else inputs)
        if isinstance(inputs, list):
            inputs = tuple(inputs)
        if not leaves(inputs) or num_samples(inputs) == 0:
            raise UserError(f"data: a batch of the {self.name} split has no tensor among its inputs.")
        try:
            targets = mapped(_alone, self.reading(targets))
        except (UserError, KeyError) as error:
            raise UserError(f"data: the {self.name} split: {str(error).strip('.')}.") from error
        if self.collate_fn is not None and self.reading.num_classes is not None:
            found = [num_samples(part) for part in (inputs, targets)]
            # Several tensors may be graphs that are joined to one: they have a row for each node.
            is_joined = not isinstance(inputs, Tensor) and found[1] == number
            if found[0] != found[1] and not is_joined:
                raise UserError(
                    f"data: collate_fn: gives {found[0]} inputs and {found[1]} targets in a batch of the {self.name} "
                    "split. Give as many of both."
                )
        return inputs, targets

    def _told(self, error: BaseException) -> str:
        """An error in one line, with its place in the user's own code."""
        owners = (self.inner, *([self.collate_fn] if self.collate_fn else []))
        modules = [getattr(owner, "__module__", None) or type(owner).__module__ for owner in owners]
        return cut(trust.told(error, [module for module in modules if isinstance(module, str)]), 400)


def _alone(tensor: Tensor) -> Tensor:
    """On the CPU, without what it was computed from, which can't leave a worker."""
    return tensor.detach().cpu()
