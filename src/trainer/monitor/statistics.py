"""From flat buffers to numbers: norms, means and spreads of every parameter, its gradient and its update.

A buffer holds all parameters end to end, a row per run; `bounds` says where each begins and the last ends. On the CPU
the numbers are taken from numpy views, large segments one by one and small ones together. On a CUDA device each number
is one operation over all segments, in float64 (24 bytes of scratch memory per parameter), and all numbers come to the
host in one transfer. From any other device the buffers are moved to the host first.

Precision: within 1e-5 (relative; for a mean relative to norm / sqrt(n), as it may be nearly zero) of the same numbers
in float64, for finite values of any size that float32 holds, float16 and bfloat16 being read as float32.
"""

import math
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
# Numbers of a segment that is looked at with others, and how many of those it is worth for.
_SMALL, _FEW = 4096, 3


class Statistics:
    """The numbers of one step, and their TensorBoard tags.

    Sees three buffers `[num_runs, num_parameters]`: the weights and the gradients that they gave (`before`), then the
    weights after the update (`after`), which returns float64 `[num_runs, num_tags]` in the order of `tags`:

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
        self._kept: dict[str, Tensor] = {}

    def before(self, weights: Tensor, gradients: Tensor) -> None:
        """Both as they are before the update."""
        # Neither is there any more after it, and the ratio of the update needs both ends of it.
        self._keep("weights", weights)
        if _is_early(weights):
            g, w = as_read(gradients).numpy(), as_read(weights).numpy()
            self._moments = self._segments.moments(g), self._segments.moments(w)
            norms = self._moments[0][:, 0]  # which are finite where the numbers are
            self._num_nonfinite = [
                0 if np.isfinite(norms[i]).all() else np.count_nonzero(~np.isfinite(row)) for i, row in enumerate(g)
            ]
        else:
            self._keep("gradients", gradients)

    def _keep(self, name: str, x: Tensor) -> None:
        """A copy, in the same memory every time: the pages of a new block would cost more than the copy."""
        kept = self._kept.get(name)
        if kept is None or kept.shape != x.shape:
            self._kept[name] = kept = torch.empty_like(x)
        kept.copy_(x.detach())

    def after(self, updated: Tensor) -> NDArray[np.float64]:
        """The numbers, now that the weights are these."""
        weights = as_read(self._kept["weights"])
        if _is_early(updated):
            of_gradients, of_weights = self._moments
            update = as_read(updated).numpy() - weights.numpy()
            update_norms, num_nonfinite = self._segments.norms(update), np.array(self._num_nonfinite)
        else:
            of_gradients, of_weights, update_norms, num_nonfinite = _on_cuda(
                weights, as_read(self._kept["gradients"]), as_read(updated), self.bounds
            )
        weight_norms = of_weights[:, 0]
        with np.errstate(all="ignore"):
            undefined = np.where(update_norms == 0, 0.0, np.nan)
            ratios = np.where(weight_norms > 0, update_norms / weight_norms, undefined)
        rows = len(weights)
        return np.concatenate(
            [
                np.linalg.norm(of_gradients[:, 0], axis=1, keepdims=True),
                num_nonfinite[:, None],
                of_gradients.reshape(rows, -1),
                of_weights.reshape(rows, -1),
                ratios,
            ],
            axis=1,
        )


def _is_early(x: Tensor) -> bool:
    """Whether the numbers are taken where they lie, one after the other; a GPU's are all fetched at once."""
    return not x.is_cuda


def as_read(x: Tensor) -> Tensor:
    """As and where it can be read: half precision as float32, and no device that lacks float64 (as MPS does)."""
    x = x.detach() if x.is_cuda else x.detach().cpu()
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


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

    def moments(self, rows: NDArray) -> NDArray[np.float64]:
        """`[num_runs, len(MOMENTS), num_segments]`; zeros of what is empty."""
        found = np.zeros((len(rows), len(MOMENTS), self._count))
        with np.errstate(all="ignore"):  # what is not finite is a result here
            for row, numbers in zip(rows, found, strict=True):
                for i, segment in self._large:
                    numbers[:, i] = _moments(row[segment])
                if len(self._small):
                    for i, moment in enumerate(self._of_small(row)):
                        numbers[i, self._small] = moment
        return found

    def norms(self, rows: NDArray) -> NDArray[np.float64]:
        """`[num_runs, num_segments]`."""
        found = np.zeros((len(rows), self._count))
        with np.errstate(all="ignore"):
            for row, numbers in zip(rows, found, strict=True):
                for i, segment in self._large:
                    numbers[i] = _sum_of_squares(row[segment])
                if len(self._small):
                    numbers[self._small] = np.add.reduceat(np.square(self._taken(row)), self._starts)
            return np.sqrt(found)

    def _taken(self, row: NDArray) -> NDArray[np.float64]:
        return row[self._places].astype(np.float64)

    def _of_small(self, row: NDArray) -> tuple[NDArray[np.float64], ...]:
        x, lengths = self._taken(row), self._lengths
        mean = np.add.reduceat(x, self._starts) / lengths
        variance = np.add.reduceat(np.square(x - mean.repeat(lengths)), self._starts) / lengths
        norm = np.sqrt(np.add.reduceat(np.square(x), self._starts))
        largest = np.maximum.reduceat(np.abs(x), self._starts)
        return norm, mean, np.sqrt(variance), largest, np.add.reduceat(x == 0, self._starts, dtype=int) / lengths


# [num_runs, num_moments, num_segments] of the gradients and of the weights, [num_runs, num_segments] norms of the
# updates, [num_runs] numbers of gradient entries that are not finite
_Numbers = tuple[NDArray, NDArray, NDArray, NDArray]


def _moments(x: NDArray) -> tuple[float, float, float, float, float]:
    """`MOMENTS` of a flat array; zeros for an empty one."""
    n = len(x)
    if n == 0:
        return 0.0, 0.0, 0.0, 0.0, 0.0
    squares = _sum_of_squares(x)
    largest = max(-float(x.min()), float(x.max()))
    total = torch.from_numpy(x).sum().item()  # as precise as numpy's, in a quarter of the time
    if not math.isfinite(total):
        total = float(x.sum(dtype=np.float64))
    mean = total / n
    variance = squares / n - mean * mean
    if variance < 0.1 * mean * mean:  # the difference of two nearly equal numbers: too few of its digits are right
        variance = float(x.var(dtype=np.float64))
    return math.sqrt(squares), mean, math.sqrt(max(variance, 0.0)), largest, np.count_nonzero(x == 0) / n


def _sum_of_squares(x: NDArray) -> float:
    squares = _dot(x)
    # In float32 the square of a number above 1e19 overflows, and that of one below 1e-19 loses digits.
    return squares if 1e-24 < squares < 1e30 else _dot(x.astype(np.float64))


def _dot(x: NDArray) -> float:
    whole = len(x) // _BLOCK * _BLOCK
    blocks, rest = x[:whole].reshape(-1, _BLOCK), x[whole:]
    return float(np.vecdot(blocks, blocks).sum(dtype=np.float64)) + float(np.dot(rest, rest))


def _on_cuda(weights: Tensor, gradients: Tensor, updated: Tensor, bounds: Sequence[int]) -> _Numbers:
    num_runs, num_segments = len(weights), len(bounds) - 1
    lengths = torch.tensor(bounds, device=weights.device).diff().repeat(num_runs)

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

    update_norms = over_segments((updated - weights).double().square_(), "sum").sqrt()
    num_nonfinite = gradients.isfinite().logical_not().sum(dim=1)
    columns = torch.stack([*moments(gradients), *moments(weights), update_norms])
    numbers = torch.cat([columns.flatten(), num_nonfinite.double()]).cpu().numpy()  # the only wait for the device
    table = numbers[:-num_runs].reshape(-1, num_runs, num_segments).swapaxes(0, 1)
    num_moments = len(MOMENTS)
    return table[:, :num_moments], table[:, num_moments:-1], table[:, -1], numbers[-num_runs:]


def weight_statistics(parameters: Mapping[str, Tensor]) -> dict[str, float]:
    """The `weight_<x>/<parameter>` numbers of parameters outside the buffers; of frozen ones, once is enough."""
    moments = {}
    for name, x in parameters.items():
        row = as_read(x).cpu().reshape(1, -1).numpy()
        moments[name] = _Segments((0, row.size)).moments(row)[0, :, 0].tolist()
    return {f"weight_{moment}/{name}": moments[name][i] for i, moment in enumerate(MOMENTS) for name in parameters}
