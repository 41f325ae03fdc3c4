"""What an item has: which of its parts are inputs and which targets, and these as tensors."""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from trainer.data.dense import as_tensors, is_array, is_odd
from trainer.data.item_masks import first_picture, is_picture, numbers_of, over
from trainer.data.quoting import cut, listed
from trainer.errors import UserError

# What a dict calls its targets, where nobody says it.
TARGET_NAMES = ("targets", "target", "labels", "label")
# What is a tensor, or becomes one together with those of other items.
READY = {Tensor, int, float, bool, np.ndarray}


def target_among(names: Container[str], inputs: Sequence[str] | None) -> tuple[str, ...]:
    """The part that is called as targets are, unless it is one of the inputs; none or one."""
    return tuple(name for name in TARGET_NAMES if name in names and name not in (inputs or ()))[:1]


@dataclass(frozen=True)
class Parts:
    """Which parts of an item are what.

    Args:
        split: its name.
        inputs, targets: names of parts of a dict; None: what is called so, and all others are inputs.
        group: the part of a dict that names its group, and is no input unless `inputs` name it.
    """

    split: str
    inputs: tuple[str, ...] | None = None
    targets: tuple[str, ...] | None = None
    group: str | None = None

    def of(self, items: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any]]:
        """Inputs and targets of each item; targets None where it has none.

        Raises:
            UserError: it has other parts.
        """
        if all(type(item) is tuple and len(item) == 2 for item in items) and self.inputs is None and not self.targets:
            inputs, targets = zip(*items, strict=True)
            return inputs, targets
        found: list[tuple[Any, Any]] = []
        names: tuple[str, ...] | None = None
        chosen: list[tuple[str, ...]] = []
        for item in items:
            if not isinstance(item, Mapping):
                found.append(self._of_pair(item))
                continue
            if names != tuple(item):  # otherwise its parts are those of the item before
                names, chosen = tuple(item), self._chosen(item)
            its = [item[some[0]] if len(some) == 1 else {name: item[name] for name in some} for some in chosen]
            found.append((its[0], its[1] if chosen[1] else None))
        return [pair[0] for pair in found], [pair[1] for pair in found]

    def _of_pair(self, item: Any) -> tuple[Any, Any]:
        if self.inputs is not None or self.targets:
            raise UserError(
                f"data: items of the {self.split} split are of {type(item).__name__}, and data.inputs and data.targets "
                "choose among the parts of a dict. Leave both out."
            )
        if not isinstance(item, tuple | list):
            return item, None
        if len(item) > 2 or not item:
            raise UserError(
                f"data: items of the {self.split} split have {len(item)} parts; accepted are a pair (inputs, targets), "
                "where inputs may be a tuple, or a dict."
            )
        return item[0], item[1] if len(item) == 2 else None

    def _chosen(self, item: Mapping[str, Any]) -> list[tuple[str, ...]]:
        """The names of its inputs and of its targets."""
        for key, wanted in (("data.inputs", self.inputs), ("data.targets", self.targets)):
            if missing := [name for name in wanted or () if name not in item]:
                has = listed([str(name) for name in item])
                raise UserError(f"{key}=[{missing[0]}]: items of the {self.split} split have {has}.")
        targets = target_among(item, self.inputs) if self.targets is None else self.targets
        return [self.inputs or tuple(name for name in item if name not in (*targets, self.group)), targets]

    def group_of(self, item: Any) -> str | int | float:
        """Which group it belongs to."""
        if not isinstance(item, Mapping):
            raise UserError(
                f"data.group={self.group}: names a part of an item, and items of the {self.split} split are of "
                f"{type(item).__name__}. Give dicts with a key {self.group}, or give val and test yourself."
            )
        if self.group not in item:
            has = [str(name) for name in item]
            raise UserError(f"data.group={self.group}: items of the {self.split} split have {listed(has)}.")
        if self.group in self._chosen(item)[1]:
            raise UserError(f"data.group={self.group}: it is a target, too.")
        found = plain(item[self.group])
        if not isinstance(found, str | int | float) or found in ("", None) or found != found:
            what = f"of {type(found).__name__}" if isinstance(found, np.ndarray) else repr(found)
            raise UserError(f"data.group={self.group}: a group is {what}; it is a word or a number.")
        return found


@dataclass(frozen=True)
class Pictures:
    """What pictures of Pillow become; None: as they are."""

    channels: int | None = None
    image_size: int | None = None

    def image(self, picture: Any) -> Tensor:
        """uint8 `[C, H, W]`, upright; what is transparent on white. As a file of the same pixels would be read."""
        from trainer.data.image_files import fitted
        from trainer.data.upright import upright_8_bit

        upright = upright_8_bit(picture, "white")
        mode = {1: "L", 3: "RGB", None: "L" if upright.mode in ("1", "L") else "RGB"}[self.channels]
        numbers = torch.from_numpy(np.array(upright.convert(mode))).view(upright.height, upright.width, -1)
        if self.image_size is None:
            return numbers.permute(2, 0, 1).contiguous()
        return fitted(numbers, self.image_size, self.image_size)

    def mask(self, target: Any, image: Any = None) -> Any:
        """A target with the numbers of its pictures in their places; what lies over its image as `over` says.

        Args:
            image: the inputs that it belongs to; None: the target is wanted as it is.

        Raises:
            UserError: see `over`.
        """
        if type(target) in (int, float, bool):
            return target
        if isinstance(target, Mapping):
            return {name: self.mask(part, image) for name, part in target.items()}
        if type(target) is tuple:
            return tuple(self.mask(part, image) for part in target)
        if (picture := first_picture(image)) is not None:
            return over(target, picture, None if self.image_size is None else (self.image_size, self.image_size))
        return numbers_of(target) if is_picture(target) else target

    def inputs(self, parts: Sequence[Any]) -> Any:
        """Those of several items as one batch."""
        first = parts[0]
        if isinstance(first, Tensor):
            return torch.stack(tuple(parts if first.layout == torch.strided else map(self.tensors, parts)))
        if isinstance(first, Mapping):
            return {name: self.inputs([part[name] for part in parts]) for name in first}
        if isinstance(first, tuple):
            return tuple(map(self.inputs, zip(*parts, strict=True)))
        is_ready = type(first) in READY and not is_odd(first)
        return default_collate(list(parts) if is_ready else [self.tensors(part) for part in parts])

    def targets(self, parts: Sequence[Any], inputs: Sequence[Any]) -> Any:
        """Those of several items as one batch; words stay a list, None stands for none.

        Args:
            inputs: of the same items.
        """
        if parts[0] is None and all(part is None for part in parts):
            return None
        if isinstance(parts[0], str):
            return list(parts)
        if type(parts[0]) in (int, float, bool):
            return self.inputs(parts)
        return self.inputs([self.mask(part, image) for part, image in zip(parts, inputs, strict=True)])

    def tensors(self, part: Any) -> Any:
        """Whatever holds numbers as tensors."""
        if is_odd(part) or (is_array(part) and type(part) not in READY) or getattr(part, "is_sparse", False):
            return as_tensors(part, "data: an item")
        if type(part) in READY:
            return part
        if isinstance(part, np.unsignedinteger):
            return int(part)
        if isinstance(part, Mapping):
            return {name: self.tensors(value) for name, value in part.items()}
        if isinstance(part, tuple):
            return tuple(self.tensors(value) for value in part)
        if part is None:
            raise UserError("data: some items have no number where others have one (None). Take them out.")
        if isinstance(part, list):
            return _tensor(part)
        return self.image(part) if is_picture(part) else part


def _tensor(numbers: list[Any]) -> Tensor:
    """Raises UserError: they are no numbers, or lists of them of different lengths."""
    try:
        return torch.from_numpy(np.asarray(numbers))
    except (TypeError, ValueError) as error:
        told = cut(repr(numbers))
        raise UserError(
            f"data: an item has a list that is no array of numbers, {told}. Make numbers of its words and fill its "
            "gaps before: token ids of one length, or for several labels 0 and 1 for each."
        ) from error


def plain(target: Any) -> Any:
    """A target as a number or a word where it is one; otherwise as an array."""
    if isinstance(target, Tensor | np.ndarray | np.generic):
        array = _as_array(target) if isinstance(target, Tensor) else np.asarray(target)
        return array.item() if array.ndim == 0 else array
    return np.asarray(target) if isinstance(target, list) else target


def _as_array(target: Tensor) -> np.ndarray[Any, Any]:
    is_unknown = target.is_floating_point() and target.dtype not in (torch.float16, torch.float32, torch.float64)
    return (target.float() if is_unknown else target).numpy(force=True)  # NumPy has no bfloat16
