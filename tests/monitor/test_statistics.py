"""Statistics from flat buffers equal plain torch in float64, tensor by tensor."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.monitor import statistics
from trainer.monitor.statistics import MOMENTS, Statistics, weight_statistics

SIZES = (1, 7, 5000, 8192, 100_003)


def buffers(scale: float = 1.0, shift: float = 0.0, num_steps: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Weights, gradients of which a third are zero, and the weights after a step of gradient descent."""
    shape, random = (num_steps, sum(SIZES)), torch.Generator().manual_seed(0)
    weights = scale * torch.randn(shape, generator=random) + shift
    gradients = scale * torch.randn(shape, generator=random) * (torch.rand(shape, generator=random) > 1 / 3)
    return weights, gradients, weights - 0.01 * gradients


def names() -> list[str]:
    return [f"layer{i}.weight" for i in range(len(SIZES))]


def bounds() -> list[int]:
    return np.cumsum([0, *SIZES]).tolist()


def expected(weights: Tensor, gradients: Tensor, updated: Tensor) -> dict[str, float]:
    """The same numbers of one run, by torch in float64."""
    w, g, after = (x.double() for x in (weights, gradients, updated))
    numbers = {"grad_norm": float(g.norm()), "nonfinite_gradients": float((~g.isfinite()).sum())}
    for name, a, b in zip(names(), bounds()[:-1], bounds()[1:], strict=True):
        for kind, x in (("grad", g[a:b]), ("weight", w[a:b])):
            numbers[f"{kind}_norm/{name}"] = float(x.norm())
            numbers[f"{kind}_mean/{name}"] = float(x.mean())
            numbers[f"{kind}_std/{name}"] = float(x.std(correction=0))
            numbers[f"{kind}_max/{name}"] = float(x.abs().max())
            numbers[f"{kind}_zeros/{name}"] = float((x == 0).double().mean())
        update = float((after[a:b] - w[a:b]).norm())
        numbers[f"update_ratio/{name}"] = update / float(w[a:b].norm()) if update else 0.0
    return numbers


def numbers_of(compute: Statistics, weights: Tensor, gradients: Tensor, updated: Tensor) -> NDArray[np.float64]:
    for i in range(len(weights)):
        compute.before(weights[i], gradients[i])
        compute.after(updated[i])
    return compute.numbers()


def assert_equal(tags: tuple[str, ...], row: np.ndarray, reference: dict[str, float]) -> None:
    found = dict(zip(tags, row.tolist(), strict=True))
    assert found.keys() == reference.keys()
    for tag, number in reference.items():
        kind, _, name = tag.partition("/")
        allowed = 1e-5 * abs(number)
        if kind.endswith(("_mean", "_std")):  # they may be nearly zero: beside the size of the numbers they are of
            moment = kind.rpartition("_")[2]
            size = reference[f"{kind.removesuffix(moment)}norm/{name}"] / math.sqrt(SIZES[names().index(name)])
            allowed = max(allowed, {"mean": 1e-5, "std": 1e-12}[moment] * size)
        assert found[tag] == pytest.approx(number, abs=allowed, rel=0, nan_ok=True), tag


@pytest.mark.parametrize("path", ["cpu", "cuda"])
@pytest.mark.parametrize(
    ("scale", "shift"),
    [(1.0, 0.0), (1e-3, 1.0), (1e-8, -3.0), (1e-25, 0.0), (1e-30, 1.0), (1e25, 0.0), (0.0, 0.1), (0.0, 0.0)],
)
def test_equal_to_torch_in_float64(path: str, scale: float, shift: float, monkeypatch: pytest.MonkeyPatch) -> None:
    if path == "cuda":  # the operations of the device path run on the CPU as well
        monkeypatch.setattr(statistics, "_is_read_here", lambda x: False)
    data = buffers(scale, shift)
    compute = Statistics(names(), bounds())
    assert_equal(compute.tags, numbers_of(compute, *data)[0], expected(*(x[0] for x in data)))


def test_every_step_has_its_row_whatever_is_looked_at_with_it() -> None:
    data = buffers(num_steps=3)
    compute = Statistics(names(), bounds())
    table = numbers_of(compute, *data)
    assert table.shape == (3, len(compute.tags))
    for step in range(3):
        assert_equal(compute.tags, table[step], expected(*(x[step] for x in data)))
        np.testing.assert_array_equal(numbers_of(compute, *(x[step : step + 1] for x in data)), table[step : step + 1])
    (of_weights, of_gradients, update_norms, num_nonfinite) = statistics._on_device(
        *data[:2], data[2] - data[0], bounds()
    )
    other = np.concatenate([of_gradients.reshape(3, -1), of_weights.reshape(3, -1)], axis=1)
    np.testing.assert_allclose(other, table[:, 2 : -len(SIZES)], rtol=1e-5, atol=1e-7)
    assert update_norms.shape == (3, len(SIZES))
    assert num_nonfinite.tolist() == [0, 0, 0]


def test_millions_of_equal_numbers() -> None:
    """Where float32 sums drift most: every addition rounds the same way."""
    n = 4_000_000
    weights = torch.full((1, n), 0.1)
    compute = Statistics(["w"], [0, n])
    numbers = dict(zip(compute.tags, numbers_of(compute, weights, weights, 2 * weights)[0].tolist(), strict=True))
    assert numbers["weight_norm/w"] == pytest.approx(0.1 * math.sqrt(n), rel=1e-6)
    assert numbers["grad_mean/w"] == pytest.approx(0.1, rel=1e-6)
    assert numbers["weight_std/w"] == pytest.approx(0, abs=1e-8)
    assert numbers["update_ratio/w"] == pytest.approx(1, rel=1e-6)


def test_a_network_of_which_one_step_has_room_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    data = buffers(num_steps=3)
    together = numbers_of(Statistics(names(), bounds()), *data)
    monkeypatch.setattr(statistics, "_ROOM", 1)
    assert np.array_equal(numbers_of(Statistics(names(), bounds()), *data), together)


@pytest.mark.parametrize("sizes", [(), (0,), (0, 3, 0), (16,) * 100, (1, 1 << 20), (256, 257, 1023, 1024, 1025)])
def test_parameters_of_any_sizes(sizes: tuple[int, ...]) -> None:
    ends = np.cumsum([0, *sizes]).tolist()
    x = torch.randn(1, ends[-1], generator=torch.Generator().manual_seed(0))
    x[0, ::3] = 0
    compute = Statistics([f"p{i}" for i in range(len(sizes))], ends)
    found = dict(zip(compute.tags, numbers_of(compute, x, 2 * x, -x)[0].tolist(), strict=True))
    assert found["grad_norm"] == pytest.approx(2 * float(x.double().norm()), rel=1e-6)
    for i, (a, b) in enumerate(pairwise(ends)):
        part = x[0, a:b].double()
        assert found[f"weight_norm/p{i}"] == pytest.approx(float(part.norm()), rel=1e-6)
        assert found[f"weight_max/p{i}"] == (float(part.abs().max()) if b > a else 0)
        assert found[f"grad_zeros/p{i}"] == pytest.approx(float((part == 0).sum()) / max(b - a, 1), rel=1e-12)
        assert found[f"update_ratio/p{i}"] == pytest.approx(2 if part.any() else 0, rel=1e-6)


@pytest.mark.parametrize("path", ["cpu", "cuda"])
def test_nonfinite_gradients_are_counted(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if path == "cuda":
        monkeypatch.setattr(statistics, "_is_read_here", lambda x: False)
    weights, gradients, updated = buffers()
    gradients[0, [3, 4000, 4001]] = torch.tensor([math.nan, math.inf, -math.inf])
    compute = Statistics(names(), bounds())
    numbers = dict(zip(compute.tags, numbers_of(compute, weights, gradients, updated)[0].tolist(), strict=True))
    assert numbers["nonfinite_gradients"] == 3
    assert not math.isfinite(numbers["grad_norm"])
    assert not math.isfinite(numbers["grad_norm/layer1.weight"])
    assert math.isfinite(numbers["grad_norm/layer4.weight"])
    assert math.isfinite(numbers["weight_norm/layer1.weight"])


def test_update_ratio_of_weights_that_are_zero() -> None:
    zero, one = torch.zeros(1, 2), torch.ones(1, 2)
    compute = Statistics(["still", "moved"], [0, 1, 2])
    still, moved = numbers_of(compute, zero, one, torch.tensor([[0.0, 0.1]]))[0][-2:]
    assert still == 0
    assert math.isnan(moved)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_dtypes(dtype: torch.dtype) -> None:
    data = tuple(x.to(dtype) for x in buffers())
    compute = Statistics(names(), bounds())
    assert_equal(compute.tags, numbers_of(compute, *data)[0], expected(*(x[0] for x in data)))


def test_buffers_are_only_read() -> None:
    data = buffers()
    before = [x.clone() for x in data]
    numbers_of(Statistics(names(), bounds()), *data)
    for x, y in zip(data, before, strict=True):
        assert torch.equal(x, y)


def test_wrong_bounds_are_refused() -> None:
    with pytest.raises(ValueError, match="2 names need 3 bounds, got 2"):
        Statistics(["a", "b"], [0, 1])


def test_weight_statistics_equal_those_of_the_buffer() -> None:
    weights, gradients, updated = buffers()
    compute = Statistics(names(), bounds())
    from_buffer = dict(zip(compute.tags, numbers_of(compute, weights, gradients, updated)[0].tolist(), strict=True))
    parameters = {
        name: weights[0, a:b].reshape(1, -1) for name, a, b in zip(names(), bounds()[:-1], bounds()[1:], strict=True)
    }
    alone = weight_statistics(parameters)
    assert len(alone) == len(MOMENTS) * len(SIZES)
    assert alone == pytest.approx({tag: from_buffer[tag] for tag in alone}, rel=1e-6)
