"""Which samples fall into which split: by chance, with equal shares of every class, by groups, or by time."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.data.folds import dealt_by_class, folded, shares
from trainer.data.source import split_indices, split_off
from trainer.errors import UserError


def split_rows(
    num_samples: int,
    split_seed: int,
    fractions: dict[str, float],
    labels: Tensor | None = None,
    groups: NDArray[np.int64] | None = None,
) -> dict[str, Tensor]:
    """Disjoint shuffled indices per split: `train` is what the splits of `fractions` leave.

    Args:
        fractions: the part of the samples that each other split gets: `val=0.1` from the key `data.val_fraction`.
        labels: `[N]` classes: each split gets its share of every class, but for one sample more or less.
        groups: `[N]` whole numbers: samples of one number fall into one split. The shares are as near as the groups
            allow, and `labels` decide nothing.

    Raises:
        UserError: a split would be empty.
    """
    plain = split_off(num_samples, split_seed, **fractions)
    (order,) = split_indices(num_samples, (), split_seed)
    sizes = {split: len(plain[split]) for split in fractions}
    if groups is not None:
        found = _by_groups(order, sizes, groups)
    else:
        found = plain if labels is None else _by_classes(order, sizes, labels)
    return folded(found, split_seed, labels, groups)


def split_by_time(times: NDArray[Any], fractions: dict[str, float]) -> dict[str, Tensor]:
    """Indices per split, in the order of time: `train` has the earliest samples, the last split the latest.

    Samples of one time stay together; so the shares are as near as the times allow.

    Args:
        times: `[N]` of anything that has an order.
        fractions: as of `split_rows`.

    Raises:
        UserError: a split would be empty.
    """
    sizes = {split: len(rows) for split, rows in split_off(len(times), 0, **fractions).items()}
    order = np.argsort(times, kind="stable")
    places = np.flatnonzero(times[order][1:] != times[order][:-1]) + 1  # where another time begins
    if len(places) < len(fractions):
        raise UserError(
            f"data.time: there are {len(places) + 1} times for {len(sizes)} splits; each needs one. Type "
            "data.time=null, or another column."
        )
    cuts: list[int] = []
    for wanted, later in zip(np.cumsum([*sizes.values()])[:-1], range(len(fractions) - 1, -1, -1), strict=True):
        free = places[np.searchsorted(places, cuts[-1], "right") if cuts else 0 : len(places) - later]
        cuts.append(int(free[np.abs(free - wanted).argmin()]))
    return dict(zip(sizes, map(torch.from_numpy, np.split(order, cuts)), strict=True))


def uneven(parts: Mapping[str, Tensor], fractions: Mapping[str, float], keys: NDArray[Any], key: str) -> list[str]:
    """A note where a split has less than half, or more than twice, of the samples that were asked for.

    Args:
        parts: the rows of each split, or fold.
        fractions: as of `split_rows`.
        keys: `[N]`: samples of one number stay together.
        key: what says so, for the note: `data.group`.
    """
    wanted = shares(parts, fractions)
    if all(0.5 * wanted[split] <= len(rows) <= 2 * wanted[split] for split, rows in parts.items()):
        return []
    largest = int(np.unique(keys, return_counts=True)[1].max())
    sizes = ", ".join(f"{split} {len(rows):,} ({wanted[split]:,.0f})" for split, rows in parts.items())
    return [
        f"{key} keeps up to {largest:,} of {len(keys):,} samples together, so that splits have other sizes than those "
        f"that were asked for (in brackets): {sizes}."
    ]


def _by_classes(order: Tensor, sizes: dict[str, int], labels: Tensor) -> dict[str, Tensor]:
    dealt, found, start = dealt_by_class(labels[order].numpy()), {}, 0
    for split, size in (*sizes.items(), ("train", len(order) - sum(sizes.values()))):
        found[split] = order[torch.from_numpy(np.sort(dealt[start : start + size]))]  # in the shuffled order again
        start += size
    return {"train": found.pop("train"), **found}


def _by_groups(order: Tensor, sizes: dict[str, int], groups: NDArray[np.int64]) -> dict[str, Tensor]:
    """Groups in shuffled order fill one split after the other; one that would take it too far is left to others."""
    shuffled = groups[order.numpy()]
    numbers, first, of_group, counts = np.unique(shuffled, return_index=True, return_inverse=True, return_counts=True)
    if len(numbers) <= len(sizes):
        raise UserError(
            f"data.group: there are {len(numbers)} groups for {len(sizes) + 1} splits; each needs one. Type "
            "data.group=null, or another column."
        )
    left = np.argsort(first).tolist()  # by their first sample in the shuffled order
    split_of_group = np.zeros(len(numbers), np.int64)
    for place, size in enumerate(sizes.values(), 1):
        taken: list[int] = []
        missing = size
        others = len(sizes) - place + 1  # splits that still need a group each
        for group in left:
            if len(left) - len(taken) > others and abs(missing - counts[group]) < abs(missing):
                taken.append(group)
                missing -= int(counts[group])
        taken = taken or [min(left, key=lambda group: counts[group])]
        split_of_group[taken] = place
        left = [group for group in left if group not in set(taken)]
    of_sample = split_of_group[of_group]
    return {
        split: order[torch.from_numpy(np.flatnonzero(of_sample == place))]
        for place, split in enumerate(("train", *sizes))
    }
