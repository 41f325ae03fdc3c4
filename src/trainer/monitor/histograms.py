"""Histograms of every parameter of a flat buffer.

Buckets are half octaves, as wide near a number as the number is large: their edges are 0 and, on both sides of it, 2**k
and 1.5 * 2**k for all k that float32 has. The bucket of a number is then the top ten bits of its float32 form (sign,
exponent, first bit of the fraction), and counting is one `bincount` for many parameters. What float32 cannot hold
counts as not finite.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.monitor.events import Histogram
from trainer.monitor.statistics import as_read

_DROPPED_BITS = 22
_NUM_BINS = 1 << (32 - _DROPPED_BITS)
_HALF = _NUM_BINS // 2  # bins of negative numbers, from the smallest to the largest; those of the others follow
_NUM_FINITE = 510  # bins on each side of zero; the two after them hold infinities and NaNs
_TOGETHER = 1 << 18  # numbers that are counted at once: what that takes of memory stays in the cache

# [num_segments, _NUM_BINS] counts; [4, num_segments] least, largest, sum, sum of squares
_Counted = tuple[NDArray, NDArray]


def histograms(x: Tensor, bounds: Sequence[int]) -> list[Histogram]:
    """A histogram of each segment of a flat buffer `[num_parameters]`, counted where the buffer lives."""
    x = as_read(x).float()
    if x.is_cuda:
        return _cut(x, bounds, _on_device(x, bounds))
    found = []
    for first, last in _groups(bounds):
        part = [bound - bounds[first] for bound in bounds[first : last + 1]]
        found += _cut(x[bounds[first] : bounds[last]], part, _on_host(x[bounds[first] : bounds[last]].numpy(), part))
    return found


def histogram(x: Tensor) -> Histogram:
    """A histogram of a tensor of any shape, as `histograms` makes them."""
    return histograms(x.reshape(-1), (0, x.numel()))[0]


def _groups(bounds: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Rows of segments of `_TOGETHER` numbers in all, or of a single larger one."""
    first = 0
    for last in range(1, len(bounds)):
        if last == len(bounds) - 1 or bounds[last + 1] - bounds[first] > _TOGETHER:
            yield first, last
            first = last


def _on_host(x: NDArray[np.float32], bounds: Sequence[int]) -> _Counted:
    lengths = np.diff(bounds)
    bins = ((x + np.float32(0)).view(np.int32) >> _DROPPED_BITS) + _HALF  # -0 + 0 is 0: there is one bucket of zeros
    bins += np.repeat(np.arange(0, _NUM_BINS * len(lengths), _NUM_BINS, dtype=np.int32), lengths)
    counts = np.bincount(bins, minlength=_NUM_BINS * len(lengths)).reshape(-1, _NUM_BINS)
    numbers = np.zeros((4, len(lengths)))
    is_full = lengths > 0
    if is_full.any():
        starts, wide = np.asarray(bounds[:-1])[is_full], x.astype(np.float64)
        with np.errstate(all="ignore"):  # what is not finite is counted
            parts = ((np.minimum, x), (np.maximum, x), (np.add, wide), (np.add, wide * wide))
            numbers[:, is_full] = [reduction.reduceat(values, starts) for reduction, values in parts]
    return counts, numbers


def _on_device(x: Tensor, bounds: Sequence[int]) -> _Counted:
    """One operation over all segments, and one transfer."""
    lengths = torch.tensor(bounds, device=x.device).diff()
    num = len(lengths)
    firsts = torch.arange(0, _NUM_BINS * num, _NUM_BINS, device=x.device)
    bins = ((x + 0.0).view(torch.int32) >> _DROPPED_BITS) + _HALF
    bins = bins + firsts.repeat_interleave(lengths, output_size=len(x))
    counts = torch.bincount(bins, minlength=_NUM_BINS * num)
    wide = x.double()
    numbers = [
        # Without a start of its own, which counts as one more number; that of a segment without numbers is not finite.
        torch.where(lengths > 0, torch.segment_reduce(values, how, lengths=lengths, unsafe=True), 0.0).double()
        for how, values in (("min", x), ("max", x), ("sum", wide), ("sum", wide.square()))
    ]
    table = torch.cat([counts.double(), *numbers]).cpu().numpy()
    return table[: _NUM_BINS * num].reshape(num, _NUM_BINS), table[_NUM_BINS * num :].reshape(4, num)


@cache
def _right_edges() -> NDArray[np.float64]:
    """`[2 * _NUM_FINITE]`, ascending, of the buckets of negative numbers and of the others."""
    edges = (np.arange(_NUM_FINITE + 1, dtype=np.uint32) << _DROPPED_BITS).view(np.float32).astype(np.float64)
    edges[-1] = 2.0**128
    return np.concatenate([-edges[-2::-1], edges[1:]])


def _cut(x: Tensor, bounds: Sequence[int], counted: _Counted) -> list[Histogram]:
    """Without the buckets that nothing is in."""
    counts, numbers = counted
    finite = np.concatenate([counts[:, _NUM_FINITE - 1 :: -1], counts[:, _HALF : _HALF + _NUM_FINITE]], axis=1)
    num_nonfinite = np.diff(bounds) - finite.sum(axis=1)
    is_kept = finite > 0
    is_kept[:, :-1] |= is_kept[:, 1:]  # an empty bucket in front says where a full one begins
    edges, found = _right_edges(), []
    for i, (kept, row, four) in enumerate(zip(is_kept, finite, numbers.T.tolist(), strict=True)):
        if num_nonfinite[i]:  # rare, so that it may cost a second pass
            part = x[bounds[i] : bounds[i + 1]]
            found.append(replace(histogram(part[part.isfinite()]), num_nonfinite=int(num_nonfinite[i])))
        else:
            found.append(Histogram(edges[kept], row[kept].astype(np.float64), *four))
    return found
