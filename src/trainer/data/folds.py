"""Cross-validation: the samples to train on and to validate in equal folds, of which one validates."""

from collections.abc import Iterator, Mapping, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.data.source import Data, Samples, split_indices
from trainer.errors import UserError
from trainer.trees import joined


@dataclass
class Asked:
    """
    Args:
        num_folds: two or more.
        fold: which one validates, from 0.

    Attributes:
        is_done: a source has split its samples so, before it made anything of them.
    """

    num_folds: int
    fold: int
    is_done: bool = False


_asked: ContextVar[Asked | None] = ContextVar("folds", default=None)


@contextmanager
def in_folds(num_folds: int | None, fold: int | None) -> Iterator[Asked | None]:
    """Within it sources that split their samples by chance make folds of all but the test samples.

    Raises:
        UserError: one of the two is missing, or there is no such fold.
    """
    if num_folds is None and fold is None:
        yield None
        return
    if num_folds is None:
        raise UserError(f"data.fold={fold}: of how many? Type data.folds=5 too.")
    if fold is None:
        raise UserError(
            f"data.folds={num_folds}: which of them validates? Type data.fold=0; or all of them: --multirun "
            f"data.folds={num_folds} 'data.fold=range(0,{num_folds})'."
        )
    if fold >= num_folds:
        raise UserError(f"data.fold={fold}: folds are numbered from 0 to {num_folds - 1}. Try data.fold=0.")
    asked = Asked(num_folds, fold)
    token = _asked.set(asked)
    try:
        yield asked
    finally:
        _asked.reset(token)


def refuse_folds(why: str) -> None:
    """Raises UserError where folds are asked for."""
    if (asked := _asked.get()) is not None:
        raise UserError(f"data.folds={asked.num_folds}: {why}. Type data.folds=null data.fold=null.")


def shares(parts: Mapping[str, Sized], fractions: Mapping[str, float]) -> dict[str, float]:
    """So many samples each split has where nothing keeps samples together: as folds, or by `fractions`."""
    total = sum(map(len, parts.values()))
    wanted = {split: fraction * total for split, fraction in fractions.items()}
    if (asked := _asked.get()) is not None and "val" in wanted:
        wanted["val"] = (total - sum(wanted.values()) + wanted["val"]) / asked.num_folds
    return {"train": total - sum(wanted.values()), **wanted}


def folded(
    parts: dict[str, Tensor], split_seed: int, labels: Tensor | None, groups: NDArray[np.int64] | None
) -> dict[str, Tensor]:
    """The rows of each split, those of `train` and `val` dealt anew where folds are asked for; `test` stays.

    Args:
        labels: `[N]` classes of all rows: each fold has its share of every class.
        groups: `[N]` whole numbers: rows of one number fall into one fold, and `labels` decide nothing.
    """
    asked = _asked.get()
    if asked is None or "val" not in parts:
        return parts
    asked.is_done = True
    rows = torch.cat([parts["train"], parts["val"]]).sort().values
    of_rows = None if labels is None or labels.dim() != 1 else labels[rows]
    train, val = fold_of(asked, len(rows), split_seed, of_rows, None if groups is None else groups[rows.numpy()])
    return {**parts, "train": rows[train], "val": rows[val]}


def fold_of(
    asked: Asked, num_samples: int, seed: int, labels: Tensor | None, groups: NDArray[np.int64] | None
) -> tuple[Tensor, Tensor]:
    """Shuffled indices to train on, and of the fold that validates.

    Raises:
        UserError: there are fewer samples or groups than folds.
    """
    if num_samples < asked.num_folds:
        raise UserError(f"data.folds={asked.num_folds}: there are {num_samples} samples. Type fewer folds.")
    (order,) = split_indices(num_samples, (), seed)
    if groups is not None:
        places = _by_groups(asked.num_folds, groups[order.numpy()])
    else:
        dealt = np.arange(num_samples) if labels is None else dealt_by_class(labels[order].numpy())
        places = np.empty(num_samples, np.int64)
        places[dealt] = np.arange(num_samples) * asked.num_folds // num_samples
    is_val = torch.from_numpy(places == asked.fold)
    return order[~is_val], order[is_val]


def dealt_by_class(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """The samples in an order of which every stretch has a share of each class: by their ranks as fractions of it."""
    _, of_class, counts = np.unique(labels, return_inverse=True, return_counts=True)
    by_class = np.argsort(of_class, kind="stable")
    rank = np.empty(len(labels), np.int64)
    rank[by_class] = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.argsort((rank + 0.5) / counts[of_class], kind="stable")


def _by_groups(num_folds: int, groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """The fold of each sample: the largest group first, each to the fold that has the fewest samples."""
    numbers, of_group, counts = np.unique(groups, return_inverse=True, return_counts=True)
    if len(numbers) < num_folds:
        raise UserError(f"data.folds={num_folds}: there are {len(numbers)} groups. Type data.folds={len(numbers)}.")
    fold_of_group = np.empty(len(numbers), np.int64)
    sizes = np.zeros(num_folds, np.int64)
    for group in np.argsort(-counts, kind="stable"):
        fold_of_group[group] = sizes.argmin()
        sizes[fold_of_group[group]] += counts[group]
    return fold_of_group[of_group]


def pooled(data: Data, asked: Asked | None, name: str, seed: int, is_standardized: bool) -> Data:
    """The data of a source that brings its own splits: its training and validation samples in folds.

    Args:
        is_standardized: the source has done that already, by its training samples.

    Raises:
        UserError: its samples are files, or the fold that validates would have told how they are standardised.
    """
    if asked is None or asked.is_done:
        return data
    train, val, key = data.train, data.val, f"data.folds={asked.num_folds}: data={name}"
    if not isinstance(train, Samples) or not isinstance(val, Samples):
        raise UserError(f"{key} has validation files of its own. Type data.folds=null data.fold=null.")
    if is_standardized:
        raise UserError(f"{key} standardises by the training samples that it brings. Type data.standardize=false.")
    whole = Samples(joined((train.inputs, val.inputs)), targets := joined((train.targets, val.targets)))
    is_labels = isinstance(targets, Tensor) and targets.dim() == 1 and not targets.is_floating_point()
    in_train, in_val = fold_of(asked, len(whole), seed, targets if is_labels else None, None)
    known = {split: rows for split, rows in data.rows.items() if split not in ("train", "val")}
    if {"train", "val"} <= data.rows.keys():
        of_file = torch.cat([data.rows["train"], data.rows["val"]])
        known |= {"train": of_file[in_train], "val": of_file[in_val]}
    return replace(data, train=whole.take(in_train), val=whole.take(in_val), rows=known)
