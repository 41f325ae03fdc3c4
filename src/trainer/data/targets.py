"""What targets mean: classes, and how they are called, or numbers."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.data.quoting import composed, listed
from trainer.errors import UserError
from trainer.meaning import IGNORED

Array = NDArray[Any]
EXACT = 2**53  # float64 holds every whole number up to this
# Labels that leave gaps are numbers, not classes, where a class has fewer samples than this.
FEW_PER_CLASS = 5
# So many whole numbers, written as fractions in a table, are taken for classes: pandas writes them so.
FEW_CLASSES = 20


@dataclass(frozen=True)
class Targets:
    """Targets as a model gets them.

    Args:
        splits: per split int64 `[N]` of classes, or float `[N, D]`.
        num_classes: None: numbers.
        class_names: what class 0, 1 ... is called in the data; empty where that is 0, 1 ...
        notes: what its user should know.
    """

    splits: dict[str, Tensor]
    num_classes: int | None = None
    class_names: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)


def meaning(
    parts: Mapping[str, Array], where: str, task: str = "auto", num_classes: int | None = None, is_text: bool = False
) -> Targets:
    """Targets as classes or as numbers.

    Args:
        parts: per split `[N]` or `[N, D]` whole numbers, floats, booleans or texts; numbers, as masks and pictures are,
            also `[N, ...]`.
        where: whose they are, for messages: `data.path=...`.
        task: `classification`, `regression`, `multilabel` (numbers for now, 0 and 1) or `auto`: integers, booleans and
            text in a single column are classes.
        num_classes: None: as many as there are different labels. Labels that aren't 0, 1 ... are numbered in order.
        is_text: they were written in a table, where a program may write 0 and 1 as 0.0 and 1.0: a few of such are
            classes, too.

    Raises:
        UserError: they are no classes, or no numbers, though the task wants them.
    """
    _refuse_unlike(parts, where, task)
    kinds = {array.dtype.kind for array in parts.values()}
    widths = {math.prod(array.shape[1:]) for array in parts.values()}
    notes: list[str] = []
    if task == "auto":
        is_single = widths == {1} and all(array.ndim < 3 for array in parts.values())
        task = "classification" if is_single and "f" not in kinds else "regression"
        if task == "regression" and is_text and num_classes is None and widths == {1} and _are_few(parts):
            task = "classification"
            notes.append(
                "the targets are whole numbers that are written as fractions (1.0), and are taken for classes. Type "
                "data.task=regression if they are numbers."
            )
    if task in ("regression", "multilabel"):
        if num_classes is not None:
            raise UserError(
                f"data.num_classes={num_classes}: the targets of {where.partition('=')[2]} are numbers to regress on. "
                f"Try data.num_classes=null, or data.task=classification with whole numbers."
            )
        return Targets({split: _floats(array, f"{where}: {split} targets") for split, array in parts.items()})
    if widths != {1} and "U" not in kinds and all(map(are_one_hot, parts.values())):
        (num_columns,) = widths
        if num_classes not in (None, num_columns):
            raise UserError(f"data.num_classes={num_classes}: the targets have {num_columns} columns. Leave it out.")
        return Targets(_tensors({split: array.argmax(1) for split, array in parts.items()}), num_columns)
    if widths != {1}:
        raise UserError(
            f"{where}: {widths.pop()} columns of targets; a class is one whole number a row, or a row of 0 with one 1. "
            "Try data.task=regression."
        )
    columns = {split: array.reshape(-1) for split, array in parts.items()}
    if "U" in kinds:
        names = np.unique(np.concatenate(list(columns.values())))
        if not names[0].strip():  # the first in alphabetical order
            split, row = next((s, int(np.argmax(c == names[0]))) for s, c in columns.items() if names[0] in c)
            raise UserError(
                f"{where}: {split} targets: an empty text in row {row} (counted from 0); a class has a name. Take out "
                "the rows that have none, or name it."
            )
        labels = {split: np.searchsorted(names, column) for split, column in columns.items()}
        return of_words(labels, tuple(names.tolist()), where, num_classes)
    return _of_numbers(columns, where, num_classes, notes)


def _refuse_unlike(parts: Mapping[str, Array], where: str, task: str) -> None:
    """Raises UserError: splits have targets of different shapes or kinds, or more dimensions than numbers may have."""
    shapes = {split: array.shape[1:] for split, array in parts.items()}
    are_words = {split: array.dtype.kind == "U" for split, array in parts.items()}
    has_floats = any(array.dtype.kind == "f" for array in parts.values())
    may_have_more = not any(are_words.values()) and (task == "regression" or (task == "auto" and has_floats))
    is_larger = any(len(shape) > 1 for shape in shapes.values())
    if len(set(map(math.prod, shapes.values()))) > 1 or (
        is_larger and not (may_have_more and len(set(shapes.values())) == 1)
    ):
        found = ", ".join(f"{split} [N{''.join(f', {size}' for size in shape)}]" for split, shape in shapes.items())
        more = "" if may_have_more or any(are_words.values()) else ", with data.task=regression also [N, ...]"
        raise UserError(f"{where}: targets of shape {found}; accepted are [N] or [N, D]{more}, alike in all splits.")
    if len(set(are_words.values())) > 1:
        found = ", ".join(f"{split} {'words' if is_word else 'numbers'}" for split, is_word in are_words.items())
        raise UserError(f"{where}: targets are words in one split and numbers in another ({found}). Write all alike.")


def of_words(parts: Mapping[str, Array], names: tuple[str, ...], where: str, num_classes: int | None = None) -> Targets:
    """Classes that are words; `parts` holds their places in `names`, which are in alphabetical order."""
    if num_classes is not None and num_classes < len(names):
        raise UserError(
            f"data.num_classes={num_classes}: the targets of {where.partition('=')[2]} are {len(names):,} words: "
            f"{listed(names)}. Try data.num_classes={len(names)}, or null."
        )
    splits = {split: torch.from_numpy(np.asarray(part, np.int64)) for split, part in parts.items()}
    return Targets(splits, num_classes or len(names), names, alike(names, "write all alike"))


def alike(class_names: Sequence[str], advice: str) -> list[str]:
    """A note on names that differ in capitals or blanks alone, as where two people have sorted samples."""
    by_letters: dict[str, list[str]] = {}
    for name in class_names:
        by_letters.setdefault("".join(composed(name).casefold().split()), []).append(name)
    found = [names for names in by_letters.values() if len(names) > 1]
    return [f"{listed(names)} are classes of their own. If they are one, {advice}." for names in found]


def are_one_hot(targets: Array | Tensor) -> bool:
    """Whether they are rows `[N, K]` with a 1 in one place and else 0."""
    is_row = targets.ndim == 2 and targets.shape[1] > 1 and bool(((targets == 0) | (targets == 1)).all())
    return is_row and bool((targets.sum(1) == 1).all())


def _are_few(parts: Mapping[str, Array]) -> bool:
    values = np.unique(np.concatenate([array.reshape(-1) for array in parts.values()]))
    return len(values) <= FEW_CLASSES and bool(np.all(_is_whole(values)))


def _is_whole(values: Array) -> Array:
    """Whether each is a whole number that float64 and int64 hold exactly; NaN and what is infinite aren't."""
    if values.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            whole: Array = (values == np.floor(values)) & (np.abs(values) <= EXACT)
        return whole
    return values <= np.iinfo(np.int64).max if values.dtype.kind == "u" else np.ones(len(values), bool)


def _floats(array: Array, where: str) -> Tensor:
    """Numbers to regress on, `[N, ...]`: float32 where they are stored so, else float64, so that no digit is lost."""
    if array.dtype.kind not in "biuf":
        raise UserError(f"{where} are text; accepted are numbers. Convert them to floats.")
    refuse_non_finite(array, where, place)
    kind = np.float32 if array.dtype.kind == "f" and array.dtype.itemsize <= 4 else np.float64
    return torch.from_numpy(array.astype(kind).reshape(len(array), *(array.shape[1:] or (1,))))


def refuse_non_finite(array: Array, where: str, place: Any) -> None:
    """Raises UserError: a number is NaN or infinite; `place` says where an index is."""
    if array.dtype.kind != "f":
        return
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        first = bad[0].tolist()
        raise UserError(
            f"{where}: {len(bad):,} of the numbers are NaN or infinite, the first in {place(first)} "
            f"({array[tuple(first)]}). Fill them in, or take those rows out."
        )


def place(index: Any) -> str:
    """Where a number of an array is: `row 3, column 2 (counted from 0)`."""
    row, *columns = index
    return f"row {row}" + "".join(f", column {column}" for column in columns) + " (counted from 0)"


def _of_numbers(columns: Mapping[str, Array], where: str, num_classes: int | None, notes: list[str]) -> Targets:
    for split, column in columns.items():
        whole = _is_whole(column)
        if not whole.all():
            row = int(np.argmin(whole))
            raise UserError(
                f"{where}: {split} targets: {column[row]} in row {row} is no class; classes are whole numbers from 0. "
                f"{'Try data.task=regression.' if np.isfinite(column[row]) else 'Take that row out.'}"
            )
    labels = {split: column.astype(np.int64) for split, column in columns.items()}
    found = np.unique(np.concatenate(list(labels.values())))
    low, high, num_rows = int(found[0]), int(found[-1]), sum(map(len, labels.values()))
    if IGNORED in found:
        raise UserError(
            f"{where}: labels run from {low} to {high}, and {IGNORED} marks what losses leave out; classes are counted "
            "from 0. Take those rows out."
        )
    if num_classes is None:
        num_classes = len(found)
        has_gaps = max(high, high - low) >= max(num_rows, 2)
        if has_gaps and 2 < num_rows < FEW_PER_CLASS * len(found):
            raise UserError(
                f"{where}: labels up to {high:,} in {num_rows:,} rows: these look like numbers, not classes. "
                f"Try data.task=regression, or data.num_classes={num_classes}."
            )
    elif low >= 0 and high < num_classes:
        return Targets(_tensors(labels), num_classes, notes=notes)
    elif len(found) != num_classes:
        better = high + 1 if low >= 0 and high < 2 * len(found) else len(found)
        raise UserError(
            f"data.num_classes={num_classes}: the labels of {where.partition('=')[2]} are {len(found):,} different "
            f"ones, which run from {low} to {high}; classes are 0 to num_classes - 1. Try data.num_classes={better}, "
            "or null."
        )
    if (low, high) == (0, num_classes - 1):
        return Targets(_tensors(labels), num_classes, notes=notes)
    names = tuple(map(str, found.tolist()))
    more = "" if num_classes <= FEW_CLASSES else " If they are numbers, type data.task=regression."
    notes = [*notes, f"the labels {listed(names)} are {num_classes} classes, numbered from 0 in this order.{more}"]
    return Targets(
        _tensors({split: np.searchsorted(found, column) for split, column in labels.items()}), num_classes, names, notes
    )


def _tensors(labels: Mapping[str, Array]) -> dict[str, Tensor]:
    return {split: torch.from_numpy(np.asarray(column, np.int64)) for split, column in labels.items()}
