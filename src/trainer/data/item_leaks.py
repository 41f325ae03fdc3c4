"""A look at some items of a split in a short time: for inputs that another has, too, and for targets out of bounds."""

import contextlib
import hashlib
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainer.data.item_masks import is_picture
from trainer.data.items import Items
from trainer.errors import UserError
from trainer.trees import Tree, joined

LOOK_FOR = 0.5  # seconds
MOST_AT_ONCE = 64  # items
MOST_TARGETS = 512


@dataclass(frozen=True)
class Looked:
    """Row to a hash of its inputs, of those that were looked at."""

    digests: dict[int, bytes]

    def same(self, others: "Looked") -> dict[int, int]:
        """Row to an equal one of others."""
        rows = {digest: row for row, digest in others.digests.items()}
        return {row: rows[digest] for row, digest in sorted(self.digests.items()) if digest in rows}


def looked_at(items: dict[str, Items]) -> dict[str, Looked]:
    """Some items of each split, by turns: all of them, where time allows."""
    found: dict[str, Looked] = {name: Looked({}) for name in items}
    start, size, end = 0, 1, time.monotonic() + LOOK_FOR
    while start < max(map(len, items.values()), default=0):
        for name, split in items.items():
            if not (rows := _spread(len(split), start, size)):
                continue
            if time.monotonic() >= end:
                return found
            # What is damaged is told when it is read; what nobody knows how to hash isn't looked at.
            with contextlib.suppress(UserError, TypeError, RuntimeError):
                inputs = split.raw_inputs((f"leaks/{name}", rows))
                found[name].digests.update(zip(rows, map(_digest_of, inputs), strict=True))
        start, size = start + size, min(2 * size, MOST_AT_ONCE)
    return found


def some_targets(items: Items) -> Tree:
    """Targets of items that lie all over a split, as losses get them: of at most `MOST_TARGETS`, in a short time."""
    found, start, size, end = [], 0, 1, time.monotonic() + LOOK_FOR / 2
    while start < min(len(items), MOST_TARGETS) and time.monotonic() < end:
        found.append(items.load(("targets", _spread(len(items), start, size)))[1])
        start, size = start + size, min(2 * size, MOST_AT_ONCE)
    return joined(found)


def _spread(num_items: int, start: int, size: int) -> list[int]:
    """Rows from place `start` on of an order in which the first ones lie all over a split. Each row has one place."""
    steps = range(max(1, round(0.618 * num_items)), num_items + 1)
    step = next(step for step in steps if math.gcd(step, num_items) == 1)
    return [place * step % num_items for place in range(start, min(start + size, num_items))]


def _digest_of(inputs: Any) -> bytes:
    found = hashlib.blake2b(digest_size=16)
    for part in _contents(inputs):
        found.update(part)
    return found.digest()


def _contents(part: Any) -> Iterator[bytes]:
    """What makes it what it is, as bytes. Raises TypeError for anything but numbers, words, pictures and their like."""
    if isinstance(part, Tensor):
        yield f"{part.dtype} {list(part.shape)}".encode()
        yield with_one_zero(part.detach().cpu()).contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    elif isinstance(part, np.ndarray | np.generic) and part.dtype.kind != "O":
        yield f"{part.dtype} {part.shape}".encode()
        yield (np.asarray(part) + 0 if part.dtype.kind == "f" else part).tobytes()
    elif isinstance(part, Mapping | list | tuple):
        values = [value for pair in part.items() for value in pair] if isinstance(part, Mapping) else part
        yield f"{len(values)} parts".encode()
        for value in values:
            yield from _contents(value)
    elif isinstance(part, str | int | float | None):
        yield repr(part + 0 if isinstance(part, float) else part).encode()
    elif is_picture(part):
        yield f"{part.mode} {part.size}".encode()
        yield part.tobytes()
    else:
        raise TypeError(type(part).__name__)


def with_one_zero(x: Tensor) -> Tensor:
    """The same numbers, -0.0 as 0.0, which a rounded number may be: they are equal, and their bytes are not."""
    if not x.is_floating_point() or not x.numel() or x.element_size() == 1:
        return x
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()]
    # As a whole number -0.0 is the smallest one. To compare takes ten times as long as to look for that.
    return x + 0 if int(x.view(bits).min()) == torch.iinfo(bits).min else x
