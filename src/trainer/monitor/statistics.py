"""From flat buffers to numbers: norms, means and spreads of every parameter, its gradient and its update.

A buffer holds all parameters end to end; `bounds` says where each begins and the last ends. On the CPU
the numbers are taken from numpy views, large segments one by one and small ones together. On a CUDA device each number
is one operation over all segments, in float64 (24 bytes of scratch memory per parameter), and all numbers come to the
host in one transfer. From any other device the buffers are moved to the host first.

Precision: within 1e-5 (relative; for a mean relative to norm / sqrt(n), as it may be nearly zero) of the same numbers
in float64, for finite values of any size that float32 holds, float16 and bfloat16 being read as float32.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MOMENTS = ("norm", "mean", "std", "max", "zeros")

# A float32 dot product of numbers of one sign drifts with their count (measured: 6e-4 for two million equal ones), so
# blocks of it are added up in float64. And above 10,000 numbers OpenBLAS starts threads, which would fight torch's.
_BLOCK = 8192
_ONES = {dtype: np.ones(_BLOCK, dtype) for dtype in "fd"}
# Numbers of a segment that is looked at with others, and how many of those it is worth for.
_SMALL, _FEW = 256, 2
# Steps that are looked at together at the most, and numbers that may be kept for it: 4 MB.
_MOST_STEPS, _ROOM = 16, 1 << 20
_WIDE = (torch.float32, torch.float64)


class Statistics:
    """The numbers of steps, and their TensorBoard tags.

    Sees three buffers of `num_parameters` at a step: the weights and the gradients that they gave (`before`), then the
    weights after the update (`after`). It keeps copies of a few steps of a small network and looks at them together:
    the first look at anything takes several times as long as the next one. `numbers` gives float64
    `[num_steps, num_tags]` of the steps since it was last asked, in the order of `tags`:

    - `grad_norm`: the norm of all gradients together; `nonfinite_gradients`: how many entries are NaN or infinite;
    - `grad_<x>/<parameter>` and `weight_<x>/<parameter>` with x of `norm`, `mean`, `std` (divided by n, not n - 1),
      `max` (the largest absolute value) and `zeros` (the share of entries that are zero, 0 to 1);
    - `update_ratio/<parameter>`: |update| / |weights|; NaN where weights that were all zero have moved.

    Args:
        names: `num_segments` parameter names.
        bounds: `num_segments + 1` ascending positions.
    """

    def __init__(self, names: Sequence[str], bounds: Sequence[int]) -> None:
        if len(bounds) != len(names) + 1:
            raise ValueError(f"{len(names)} names need {len(names) + 1} bounds, got {len(bounds)}")
        self.bounds = tuple(bounds)
        self.tags = (
            "grad_norm",
            "nonfinite_gradients",
            *(f"{kind}_{moment}/{name}" for kind in ("grad", "weight") for moment in MOMENTS for name in names),
            *(f"update_ratio/{name}" for name in names),
        )
        self._segments = _Segments(self.bounds)
        self._kept: Tensor | None = None  # [2 or 3, room, ...]: weights, gradients and, where there is room, updates
        self._num_kept = 0
        self._found: list[NDArray[np.float64]] = []

    def before(self, weights: Tensor, gradients: Tensor) -> None:
        """Both as they are before the update."""
        if self._kept is None:
            # The same memory every time: the pages of a new block would cost more than the copy.
            room = max(1, min(_MOST_STEPS, _ROOM // max(1, 3 * weights.numel()))) if _is_read_here(weights) else 1
            kind = weights.dtype if weights.dtype in _WIDE else torch.float32
            self._kept = weights.new_empty(2 if room == 1 else 3, room, *weights.shape, dtype=kind)
        self._kept[0, self._num_kept].copy_(weights.detach())
        self._kept[1, self._num_kept].copy_(gradients.detach())

    def after(self, updated: Tensor) -> None:
        """The weights of the same step, now that they are these."""
        if self._kept is None:
            raise ValueError("before comes first")
        updated, weights = updated.detach(), self._kept[0, self._num_kept]
        if len(self._kept) == 2:
            self._found.append(self._numbers_of(self._kept, updated.to(weights.dtype)[None] - weights))
            return
        torch.sub(updated, weights, out=self._kept[2, self._num_kept])
        self._num_kept += 1
        if self._num_kept == self._kept.shape[1]:
            self._look()

    def numbers(self) -> NDArray[np.float64]:
        """`[num_steps, num_tags]` of all steps since this was last called."""
        self._look()
        found, self._found = self._found, []
        return np.concatenate([np.empty((0, len(self.tags))), *found])

    def _look(self) -> None:
        if self._kept is not None and self._num_kept:
            self._found.append(self._numbers_of(self._kept[:2, : self._num_kept], self._kept[2, : self._num_kept]))
            self._num_kept = 0

    def _numbers_of(self, both: Tensor, updates: Tensor) -> NDArray[np.float64]:
        """`[num_steps, num_tags]` of buffers of a row a step; `both`: weights and gradients."""
        w, g, u = (as_read(x).flatten(1) for x in (*both, updates))
        found = self._segments.look(w, g, u) if _is_read_here(w) else _on_device(w, g, u, self.bounds)
        of_weights, of_gradients, update_norms, num_nonfinite = found
        weight_norms, num_steps = of_weights[:, 0], len(updates)
        with np.errstate(all="ignore"):
            undefined = np.where(update_norms == 0, 0.0, np.nan)
            ratios = np.where(weight_norms > 0, update_norms / weight_norms, undefined)
        return np.concatenate(
            [
                np.linalg.norm(of_gradients[:, 0], axis=1, keepdims=True),
                num_nonfinite[:, None],
                of_gradients.reshape(num_steps, -1),
                of_weights.reshape(num_steps, -1),
                ratios,
            ],
            axis=1,
        )


def _is_read_here(x: Tensor) -> bool:
    """Whether the numbers are taken where they lie, or on the host; a GPU's are all fetched at once."""
    return not x.is_cuda


def as_read(x: Tensor) -> Tensor:
    """As and where it can be read: half precision as float32, and no device that lacks float64 (as MPS does)."""
    x = x.detach() if x.is_cuda else x.detach().cpu()
    return x if x.dtype in _WIDE else x.float()


class _Segments:
    """Where parameters lie in a row. The small ones are looked at together: a call takes longer than their numbers."""

    def __init__(self, bounds: Sequence[int]) -> None:
        segments = [slice(a, b) for a, b in pairwise(bounds)]
        lengths = np.diff(bounds)
        self._count = len(segments)
        is_small = (lengths > 0) & (lengths <= _SMALL)
        is_small &= np.count_nonzero(is_small) >= _FEW
        self._large = [(i, segment) for i, segment in enumerate(segments) if lengths[i] and not is_small[i]]
        self._small = np.flatnonzero(is_small)
        if len(self._small):
            self._places = np.concatenate([np.arange(bounds[int(i)], bounds[int(i) + 1]) for i in self._small])
            self._lengths = lengths[self._small]
            self._starts = np.concatenate([[0], np.cumsum(self._lengths)[:-1]])

    def look(self, weights: Tensor, gradients: Tensor, updates: Tensor) -> "_Numbers":
        """Of buffers on the host."""
        w, g = weights.numpy(), gradients.numpy()
        if len(w) > 1:  # a look at both takes hardly longer than at one
            of_weights, of_gradients = np.split(self.moments(np.concatenate([w, g])), 2)
        else:
            of_weights, of_gradients = self.moments(w), self.moments(g)
        num_nonfinite = np.zeros(len(g), int)
        for i in np.flatnonzero(~np.isfinite(of_gradients[:, 0]).all(axis=1)):  # norms are finite where the numbers are
            num_nonfinite[i] = np.count_nonzero(~np.isfinite(g[i]))
        return of_weights, of_gradients, self.norms(updates.numpy()), num_nonfinite

    def moments(self, rows: NDArray) -> NDArray[np.float64]:
        """`[num_steps, len(MOMENTS), num_segments]`; zeros of what is empty."""
        found = np.zeros((len(rows), len(MOMENTS), self._count))
        with np.errstate(all="ignore"):  # what is not finite is a result here
            for i, segment in self._large:
                found[:, :, i] = _moments(rows[:, segment])
            if len(self._small):
                found[:, :, self._small] = self._of_small(rows)
        return found

    def norms(self, rows: NDArray) -> NDArray[np.float64]:
        """`[num_steps, num_segments]`."""
        found = np.zeros((len(rows), self._count))
        with np.errstate(all="ignore"):
            for i, segment in self._large:
                found[:, i] = _sums_of_squares(rows[:, segment])
            if len(self._small):
                found[:, self._small] = self._sums(np.square(self._taken(rows)))
            return np.sqrt(found)

    def _taken(self, rows: NDArray) -> NDArray[np.float64]:
        return rows[:, self._places].astype(np.float64)

    def _sums(self, x: NDArray) -> NDArray[np.float64]:
        return np.add.reduceat(x, self._starts, axis=1, dtype=np.float64)

    def _of_small(self, rows: NDArray) -> NDArray[np.float64]:
        x, lengths = self._taken(rows), self._lengths
        mean = self._sums(x) / lengths
        variance = self._sums(np.square(x - mean.repeat(lengths, axis=1))) / lengths
        norm = np.sqrt(self._sums(np.square(x)))
        largest = np.maximum.reduceat(np.abs(x), self._starts, axis=1)
        return np.stack([norm, mean, np.sqrt(variance), largest, self._sums(x == 0) / lengths], axis=1)


# [num_steps, num_moments, num_segments] of the weights and of the gradients, [num_steps, num_segments] norms of the
# updates, [num_steps] numbers of gradient entries that are not finite
_Numbers = tuple[NDArray, NDArray, NDArray, NDArray]


def _moments(x: NDArray) -> NDArray[np.float64]:
    """`[num_steps, len(MOMENTS)]` of rows that are not empty; those of a row do not depend on the others."""
    n = x.shape[1]
    squares = _sums_of_squares(x)
    totals = _dots(x)
    for i in np.flatnonzero(~np.isfinite(totals)):
        totals[i] = x[i].sum(dtype=np.float64)
    means = totals / n
    variances = squares / n - means * means
    for i in np.flatnonzero(variances < 0.1 * means * means):  # of two nearly equal numbers too few digits are right
        variances[i] = x[i].var(dtype=np.float64)
    largest = np.maximum(-x.min(axis=1), x.max(axis=1))
    zeros = [np.count_nonzero(row) / n for row in x == 0]
    return np.stack([np.sqrt(squares), means, np.sqrt(np.maximum(variances, 0.0)), largest, zeros], axis=1)


def _sums_of_squares(x: NDArray) -> NDArray[np.float64]:
    squares = _dots(x, x)
    # In float32 the square of a number above 1e19 overflows, and that of one below 1e-19 loses digits.
    for i in np.flatnonzero(~((squares > 1e-24) & (squares < 1e30))):
        wide = x[i : i + 1].astype(np.float64)
        squares[i : i + 1] = _dots(wide, wide)
    return squares


def _dots(x: NDArray, y: NDArray | None = None) -> NDArray[np.float64]:
    """`[num_steps]` of rows `[num_steps, n]` with rows, or with ones."""
    whole, ones = x.shape[1] // _BLOCK * _BLOCK, _ONES[x.dtype.char]
    dots = np.vecdot(x[:, whole:], ones[: x.shape[1] - whole] if y is None else y[:, whole:]).astype(np.float64)
    if whole:
        blocks = x[:, :whole].reshape(len(x), -1, _BLOCK)
        dots += np.vecdot(blocks, ones if y is None else y[:, :whole].reshape(blocks.shape)).sum(1, dtype=np.float64)
    return dots


def _on_device(weights: Tensor, gradients: Tensor, updates: Tensor, bounds: Sequence[int]) -> _Numbers:
    num_steps, num_segments = len(weights), len(bounds) - 1
    lengths = torch.tensor(bounds, device=weights.device).diff().repeat(num_steps)

    def over_segments(x: Tensor, reduction: str) -> Tensor:
        # unsafe: does not wait for the device to check the lengths
        return torch.segment_reduce(x.reshape(-1), reduction, lengths=lengths, initial=0, unsafe=True).double()

    def moments(x: Tensor) -> list[Tensor]:
        wide = x.double().flatten()
        mean = over_segments(wide, "sum") / lengths
        wide -= mean.repeat_interleave(lengths, output_size=wide.numel())
        variance = over_segments(wide.square_(), "sum") / lengths
        norm = ((variance + mean.square()) * lengths).sqrt()
        zeros = over_segments((x == 0).double(), "sum") / lengths
        return [norm, mean, variance.sqrt(), over_segments(x.abs(), "max"), zeros]

    update_norms = over_segments(updates.double().square_(), "sum").sqrt()
    num_nonfinite = gradients.isfinite().logical_not().sum(dim=1)
    columns = torch.stack([*moments(weights), *moments(gradients), update_norms])
    numbers = torch.cat([columns.flatten(), num_nonfinite.double()]).cpu().numpy()  # the only wait for the device
    table = numbers[:-num_steps].reshape(-1, num_steps, num_segments).swapaxes(0, 1)
    num_moments = len(MOMENTS)
    return table[:, :num_moments], table[:, num_moments:-1], table[:, -1], numbers[-num_steps:]


def weight_statistics(parameters: Mapping[str, Tensor]) -> dict[str, float]:
    """The `weight_<x>/<parameter>` numbers of parameters outside the buffers; of frozen ones, once is enough."""
    moments = {}
    for name, x in parameters.items():
        row = as_read(x).cpu().reshape(1, -1).numpy()
        moments[name] = _Segments((0, row.size)).moments(row)[0, :, 0].tolist()
    return {f"weight_{moment}/{name}": moments[name][i] for i, moment in enumerate(MOMENTS) for name in parameters}
