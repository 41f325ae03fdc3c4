"""Mean and standard deviation of columns, in float64: exact enough for time stamps, and 0 where nothing varies."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
COLUMNS_AT_ONCE = 64
NUMBERS_AT_ONCE = 1 << 22


def spread(column: Array) -> tuple[float, float]:
    """Mean and standard deviation (of the population) of `[N]` numbers, N > 0; what is constant has a spread of 0."""
    low, high = float(column.min()), float(column.max())
    if low == high:  # a sum of equal numbers may be rounded
        return low, 0.0
    scale = max(abs(low), abs(high))
    if not 1e-140 < scale < 1e140:  # squares would leave float64
        mean, std = spread(column / scale)
        return mean * scale, std * scale
    mean = float(column.mean())
    mean += float((column - mean).mean())  # what the first sum was rounded by
    return mean, float(np.sqrt(np.square(column - mean).mean()))


@dataclass(frozen=True)
class Scaling:
    """Numbers minus their mean, divided by their standard deviation; 0 where that is 0.

    Args:
        mean, std: `[D]`, of the columns of `[N, D]`; or `[1]`, of all numbers of `[N, ...]` together.
    """

    mean: Array
    std: Array

    def apply(self, array: NDArray[Any]) -> None:
        """Changes a float array `[N, D]` or `[N, ...]` in place. float32 stays float32, and is computed in float64."""
        if len(self.mean) == 1 and array.ndim != 2:
            mean, std, flat = float(self.mean[0]), float(self.std[0]), array.reshape(-1)
            for start in range(0, len(flat), NUMBERS_AT_ONCE):
                part = flat[start : start + NUMBERS_AT_ONCE]
                part[:] = (part.astype(np.float64) - mean) / std if std else 0.0
            return
        for start in range(0, array.shape[1], COLUMNS_AT_ONCE):
            columns = slice(start, start + COLUMNS_AT_ONCE)
            mean_, std_ = self.mean[columns], self.std[columns]
            part = (array[:, columns].astype(np.float64) - mean_) / np.where(std_ == 0, 1.0, std_)
            array[:, columns] = np.where(std_ == 0, 0.0, part)

    def as_dict(self) -> dict[str, Any]:
        """Plain values alone, for JSON."""
        return {"mean": self.mean.tolist(), "std": self.std.tolist()}

    @classmethod
    def from_dict(cls, found: Any) -> "Scaling":
        """Of what `as_dict` gave. Raises ValueError: it is something else."""
        try:
            mean, std = (np.array([float(n) for n in found[key]], np.float64) for key in ("mean", "std"))
        except (KeyError, TypeError) as error:
            raise ValueError("not the mean and the standard deviation of numbers") from error
        if len(mean) != len(std) or not len(mean) or not np.isfinite([mean, std]).all() or (std < 0).any():
            raise ValueError("not the mean and the standard deviation of numbers")
        return cls(mean, std)


def standardized(train: NDArray[Any], *others: NDArray[Any]) -> Scaling:
    """Changes inputs so that the first array has mean 0 and standard deviation 1, and the others in the same way.

    Each column of `[N, D]` has its own; all numbers of `[N, ...]` share one. What is constant in the first array is 0
    in all of them.
    """
    found: list[tuple[float, float]] = []
    if train.ndim != 2:
        found = [_spread_of_all(train)]
    else:
        for start in range(0, train.shape[1], COLUMNS_AT_ONCE):
            # A row per column: sums along memory are pairwise, and so hardly rounded.
            columns = np.ascontiguousarray(train[:, start : start + COLUMNS_AT_ONCE].T, np.float64)
            found += [spread(column) for column in columns]
    scaling = Scaling(*np.array(found).T)
    for array in (train, *others):
        scaling.apply(array)
    return scaling


def _spread_of_all(array: Array) -> tuple[float, float]:
    """As `spread`, of any number of numbers, without a float64 copy of all of them."""
    flat = array.reshape(-1)
    parts = [flat[start : start + NUMBERS_AT_ONCE] for start in range(0, len(flat), NUMBERS_AT_ONCE)]
    low, high = min(float(part.min()) for part in parts), max(float(part.max()) for part in parts)
    if low == high:
        return low, 0.0
    scale = max(abs(low), abs(high))  # so that no sum of squares leaves float64
    mean = sum(float((part.astype(np.float64) / scale).sum()) for part in parts) / len(flat)
    square = sum(float(np.square(part.astype(np.float64) / scale - mean).sum()) for part in parts) / len(flat)
    return mean * scale, float(np.sqrt(square)) * scale
