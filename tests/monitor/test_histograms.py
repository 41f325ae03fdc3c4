"""Histograms count what is there, on the CPU and by the operations of a device alike."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from trainer.monitor.histograms import _on_device, _on_host, histogram, histograms

SIZES = (1, 7, 0, 5000, 8192, 300_001, 3, 0, 12)
BOUNDS = np.cumsum([0, *SIZES]).tolist()


def buffer(scale: float) -> Tensor:
    random = torch.Generator().manual_seed(0)
    return scale * torch.randn(sum(SIZES), generator=random) * (torch.rand(sum(SIZES), generator=random) > 1 / 3)


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
def test_histogram_counts_as_numpy_does(scale: float) -> None:
    """Small segments together, one too large for that; of a third of the numbers -0 and 0."""
    x32 = buffer(scale)
    before = x32.clone()
    for found, (a, b) in zip(histograms(x32, BOUNDS), pairwise(BOUNDS), strict=True):
        x = x32[a:b].double().numpy()
        if a == b:
            assert (found.num, found.min, found.max, found.sum, found.sum_of_squares) == (0, 0, 0, 0, 0)
            continue
        assert found.num == len(x)
        assert (found.min, found.max) == (x.min(), x.max())
        assert found.sum == pytest.approx(x.sum(), rel=1e-6, abs=1e-6 * np.abs(x).sum())
        assert found.sum_of_squares == pytest.approx((x * x).sum(), rel=1e-6)
        assert (np.diff(found.limits) > 0).all()
        assert found.limits[-1] > found.max
        counts, _ = np.histogram(x, [-math.inf, *found.limits])
        assert counts.tolist() == found.counts.tolist()
    assert torch.equal(x32, before)


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
def test_a_device_counts_alike(scale: float) -> None:
    """The operations of the device run on the CPU as well. Numbers of one sign only have a least that is not 0."""
    one_sign = buffer(scale).abs() + scale
    for x in (buffer(scale), one_sign, -one_sign):
        for ours, other in zip(_on_host(x.numpy(), BOUNDS), _on_device(x, BOUNDS), strict=True):
            np.testing.assert_allclose(ours, other, rtol=1e-6)


def test_histogram_edges() -> None:
    """Half octaves, the same on both sides of zero; an edge belongs to the bucket further from zero."""
    found = histogram(torch.tensor([-3.0, -2.9, -0.0, 0.0, 0.75, 1.0, 1.49, 1.5]))
    full = [(limit, count) for limit, count in zip(found.limits.tolist(), found.counts.tolist(), strict=True) if count]
    smallest = 2.0**-127
    assert full == [(-3.0, 1), (-2.0, 1), (smallest, 2), (1.0, 1), (1.5, 2), (2.0, 1)]


def test_histogram_of_what_is_not_finite() -> None:
    x = torch.tensor([1.0, math.nan, -math.inf, 2.0, math.inf, -1.0])
    found = histogram(x)
    assert (found.num, found.num_nonfinite) == (3, 3)
    assert (found.min, found.max, found.sum) == (-1, 2, 2)
    assert found.sum_of_squares == pytest.approx(6)
    nothing = histogram(torch.full((4,), math.nan))
    assert (nothing.num, nothing.num_nonfinite, nothing.min, nothing.max) == (0, 4, 0, 0)
    assert histogram(torch.empty(0)).num == 0
