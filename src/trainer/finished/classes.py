"""How well a model knows each class, from how its samples were taken: without torch."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class OfClass(NamedTuple):
    """
    Args:
        precision: of the samples that were taken for this class, the part that is of it.
        recall: of the samples of this class, the part that was taken for it.
        f1: the harmonic mean of the two, 2 P R / (P + R).
        support: samples of this class.

    A quotient of 0 by 0 is 0, as in scikit-learn.
    """

    name: str
    precision: float
    recall: float
    f1: float
    support: int


def confusion(targets: NDArray[Any], predicted: NDArray[Any], num_classes: int) -> NDArray[np.int64]:
    """`[C, C]`: how many samples of class i (row) were taken for class j (column)."""
    pairs = targets.astype(np.int64) * num_classes + predicted.astype(np.int64)
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def per_class(targets: NDArray[Any], predicted: NDArray[Any], num_classes: int, names: Sequence[str]) -> list[OfClass]:
    """A row for each class, in their order.

    Args:
        targets, predicted: `[N]` classes.
        names: one for each class.
    """
    support = np.bincount(targets, minlength=num_classes)
    taken = np.bincount(predicted, minlength=num_classes)
    right = np.bincount(targets[targets == predicted], minlength=num_classes)
    precision = right / np.maximum(taken, 1)
    recall = right / np.maximum(support, 1)
    both = precision + recall
    f1 = 2 * precision * recall / np.where(both == 0, 1.0, both)
    columns = zip(names, precision.tolist(), recall.tolist(), f1.tolist(), support.tolist(), strict=True)
    return [OfClass(*row) for row in columns]


def macro(rows: Sequence[OfClass]) -> OfClass:
    """The mean of the classes that have samples; `support`: of all of them."""
    there = [row for row in rows if row.support] or list(rows)
    precision, recall, f1 = (sum(getattr(row, k) for row in there) / len(there) for k in ("precision", "recall", "f1"))
    return OfClass("mean of classes", precision, recall, f1, sum(row.support for row in rows))
