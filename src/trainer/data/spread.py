"""Mean and standard deviation of columns, in float64: exact enough for time stamps, and 0 where nothing varies."""

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


def standardized(train: Array, *others: Array) -> list[Array]:
    """Inputs with mean 0 and standard deviation 1 in the first array, and the same change in the others.

    Each column of `[N, D]` has its own; all numbers of `[N, ...]` share one. What is constant in the first array is 0
    in all of them. float32 stays float32, and is computed in float64.
    """
    arrays = [train, *others]
    if train.ndim != 2:
        mean, std = _spread_of_all(train)
        for array in arrays:
            flat = array.reshape(-1)
            for start in range(0, len(flat), NUMBERS_AT_ONCE):
                part = flat[start : start + NUMBERS_AT_ONCE]
                part[:] = (part.astype(np.float64) - mean) / std if std else 0.0
        return arrays
    for start in range(0, train.shape[1], COLUMNS_AT_ONCE):
        columns = slice(start, start + COLUMNS_AT_ONCE)
        # A row per column: sums along memory are pairwise, and so hardly rounded.
        found = [spread(column) for column in np.ascontiguousarray(train[:, columns].T, np.float64)]
        mean, std = np.array(found).T
        for array in arrays:
            part = (array[:, columns].astype(np.float64) - mean) / np.where(std == 0, 1.0, std)
            array[:, columns] = np.where(std == 0, 0.0, part)
    return arrays


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
