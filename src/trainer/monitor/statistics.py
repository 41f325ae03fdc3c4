"""From flat buffers to numbers: norms, means and spreads of every parameter, its gradient and its update.

A buffer holds all parameters end to end; `bounds` says where each begins and the last ends. On the CPU they are copied
into rows of blocks, a parameter beginning with a block of its own, so that each number takes a few calls of NumPy for
all parameters and some steps. On a CUDA device each number is one operation over all segments, in float64 (24 bytes of
scratch memory per parameter), and all numbers come to the host in one transfer. From any other device the buffers are
moved to the host first.

Precision: within 1e-5 (relative; for a mean relative to norm / sqrt(n), as it may be nearly zero) of the same numbers
in float64, for finite values of any size that float32 holds, float16 and bfloat16 being read as float32.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MOMENTS = ("norm", "mean", "std", "max", "zeros")

# Numbers of a block, the most first: a float32 sum of numbers of one sign drifts with their count (measured: 6e-4 for
# two million equal ones), so those of blocks are added up in float64. And above 10,000 numbers OpenBLAS starts threads,
# which would fight torch's. What a row may hold beside its numbers, as a share of them.
_BLOCKS, _WASTE = (1024, 256, 64, 16), 0.5
# Numbers of a parameter that is copied together with all others that are as small: a call takes longer than they do.
_SMALL = 256
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
        self._blocks = _Blocks(self.bounds)
        # [room, 2 or 3, width], on the host: weights, gradients and, where there is room, updates
        self._rows: NDArray | None = None
        self._num_kept = 0
        self._on_device: tuple[Tensor, Tensor] | None = None  # weights and gradients before the update
        self._found: list[NDArray[np.float64]] = []

    def before(self, weights: Tensor, gradients: Tensor) -> None:
        """Both as they are before the update."""
        if not _is_read_here(weights):
            self._on_device = weights.detach().clone(), gradients.detach().clone()
            return
        if self._rows is None:
            # The same memory every time: the pages of a new block would cost more than the copy.
            room = max(1, min(_MOST_STEPS, _ROOM // max(1, 3 * self._blocks.width)))
            kind = np.float64 if weights.dtype == torch.float64 else np.float32
            self._rows = np.zeros((room, 2 if room == 1 else 3, self._blocks.width), kind)
        self._blocks.put(weights, self._rows[self._num_kept, 0])
        self._blocks.put(gradients, self._rows[self._num_kept, 1])

    def after(self, updated: Tensor) -> None:
        """The weights of the same step, now that they are these."""
        if self._on_device is not None:
            w, g, now = (as_read(x).reshape(1, -1) for x in (*self._on_device, updated))
            self._found.append(self._numbers_of(*_on_device(w, g, now - w, self.bounds)))
            self._on_device = None
            return
        if self._rows is None:
            raise ValueError("before comes first")
        self._num_kept += 1
        if len(self._rows) == 1:
            self._look(updated)
            return
        self._blocks.put(updated, self._rows[self._num_kept - 1, 2])
        if self._num_kept == len(self._rows):
            self._look()

    def numbers(self) -> NDArray[np.float64]:
        """`[num_steps, num_tags]` of all steps since this was last called."""
        self._look()
        found, self._found = self._found, []
        return np.concatenate([np.empty((0, len(self.tags))), *found])

    def _look(self, updated: Tensor | None = None) -> None:
        """Of all steps that are kept.

        Args:
            updated: the weights after the only one of them, for which there was no room.
        """
        if self._rows is None or not self._num_kept:
            return
        rows, self._num_kept = self._rows[: self._num_kept], 0
        num_nonfinite = np.zeros(len(rows), int)
        with np.errstate(all="ignore"):  # what is not finite is a result here
            moments = self._blocks.moments(rows[:, :2])
            for i in np.flatnonzero(~np.isfinite(moments[:, 1, 0]).all(axis=1)):  # norms are as finite as the numbers
                num_nonfinite[i] = np.count_nonzero(~np.isfinite(rows[i, 1]))
            if updated is not None:
                self._blocks.put(updated, rows[0, -1])
            rows[:, -1] -= rows[:, 0]
            update_norms = self._blocks.norms(rows[:, -1])
        self._found.append(self._numbers_of(moments[:, 0], moments[:, 1], update_norms, num_nonfinite))

    def _numbers_of(
        self, of_weights: NDArray, of_gradients: NDArray, update_norms: NDArray, num_nonfinite: NDArray
    ) -> NDArray[np.float64]:
        """`[num_steps, num_tags]`.

        Args:
            of_weights, of_gradients: `[num_steps, num_moments, num_segments]`.
            update_norms: `[num_steps, num_segments]`.
            num_nonfinite: `[num_steps]` entries of the gradients that are not finite.
        """
        weight_norms, num_steps = of_weights[:, 0], len(of_weights)
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


class _Blocks:
    """Rows in which each parameter begins with a block of its own, and zeros fill its last one.

    What is made of a row does not depend on the rows beside it.
    """

    def __init__(self, bounds: Sequence[int]) -> None:
        self.lengths = np.diff(bounds)
        for self.size in _BLOCKS:
            counts = np.maximum(1, -(-self.lengths // self.size))
            self.width = int(counts.sum()) * self.size
            if self.width <= (1 + _WASTE) * self.lengths.sum():
                break
        self.firsts = np.cumsum(counts) - counts  # blocks
        self._filling = counts * self.size - self.lengths
        self._ones = {kind: np.ones(self.size, kind) for kind in "fd"}
        starts, sources = self.firsts * self.size, np.asarray(bounds[:-1], int)
        self.places = [slice(a, a + n) for a, n in zip(starts.tolist(), self.lengths.tolist(), strict=True)]
        large, small = np.flatnonzero(self.lengths > _SMALL), np.flatnonzero(self.lengths <= _SMALL)
        self._large = [(self.places[i], slice(bounds[i], bounds[i + 1])) for i in large.tolist()]
        within = np.concatenate([np.arange(0), *(np.arange(self.lengths[i]) for i in small)])
        self._small = within + starts[small].repeat(self.lengths[small])
        self._small_sources = within + sources[small].repeat(self.lengths[small])

    def put(self, x: Tensor, row: NDArray) -> None:
        """Copies a buffer into a row."""
        numbers = as_read(x).cpu().reshape(-1).numpy()
        for place, source in self._large:
            row[place] = numbers[source]
        row[self._small] = numbers[self._small_sources]

    def moments(self, rows: NDArray) -> NDArray[np.float64]:
        """`[..., len(MOMENTS), num_segments]` of `[..., width]`; zeros of what is empty."""
        blocks, lengths = self._cut(rows), np.maximum(self.lengths, 1)
        largest = self._over(np.maximum, np.maximum(-blocks.min(axis=-1), blocks.max(axis=-1))).astype(np.float64)
        squares = self._squares(rows, largest)
        totals = self._sums(np.vecdot(blocks, self._ones[rows.dtype.char]))
        for *row, i in np.argwhere(~np.isfinite(totals)):
            totals[*row, i] = rows[*row, self.places[i]].sum(dtype=np.float64)
        means = totals / lengths
        variances = squares / lengths - means * means
        for *row, i in np.argwhere(variances < 0.1 * means * means):  # of nearly equal numbers too few digits are right
            variances[*row, i] = rows[*row, self.places[i]].var(dtype=np.float64)
        # Eight bytes of truth at once; no byte of a sum of 128 such words overflows.
        eights = (blocks == 0).view(np.uint64).sum(axis=-1, keepdims=True).view(np.uint8)
        zeros = (self._over(np.add, eights.sum(axis=-1, dtype=np.intp)) - self._filling) / lengths
        return np.stack([np.sqrt(squares), means, np.sqrt(np.maximum(variances, 0.0)), largest, zeros], axis=-2)

    def norms(self, rows: NDArray) -> NDArray[np.float64]:
        """`[..., num_segments]` of `[..., width]`."""
        return np.sqrt(self._squares(rows))

    def _squares(self, rows: NDArray, largest: NDArray | None = None) -> NDArray[np.float64]:
        """Sums of squares.

        Args:
            largest: absolute values, where they are known.
        """
        blocks = self._cut(rows)
        squares = self._sums(np.vecdot(blocks, blocks))
        # In float32 the square of a number above 1e19 overflows, and that of one below 1e-19 loses digits.
        is_doubtful = ~((squares > 1e-24) & (squares < 1e30))
        if largest is not None:
            is_doubtful &= largest != 0
        for *row, i in np.argwhere(is_doubtful):
            wide = rows[*row, self.places[i]].astype(np.float64)
            squares[*row, i] = np.vecdot(wide, wide)
        return squares

    def _cut(self, rows: NDArray) -> NDArray:
        """`[..., num_blocks, size]`."""
        return rows.reshape(*rows.shape[:-1], -1, self.size)

    def _sums(self, x: NDArray) -> NDArray[np.float64]:
        return self._over(np.add, x.astype(np.float64))

    def _over(self, ufunc: np.ufunc, x: NDArray) -> NDArray:
        """Of `[..., num_blocks]`, the blocks of each segment together."""
        return ufunc.reduceat(x, self.firsts, axis=-1)


# [num_steps, num_moments, num_segments] of the weights and of the gradients, [num_steps, num_segments] norms of the
# updates, [num_steps] numbers of gradient entries that are not finite
_Numbers = tuple[NDArray, NDArray, NDArray, NDArray]


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
        blocks = _Blocks((0, x.numel()))
        row = np.zeros(blocks.width, np.float64 if x.dtype == torch.float64 else np.float32)
        blocks.put(x, row)
        with np.errstate(all="ignore"):
            moments[name] = blocks.moments(row)[:, 0].tolist()
    return {f"weight_{moment}/{name}": moments[name][i] for i, moment in enumerate(MOMENTS) for name in parameters}
