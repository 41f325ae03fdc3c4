"""Products by oneDNN: as exact as float32 is, for models that gain by it, and with nobody's settings changed."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trainer.errors import RunStopped
from trainer.fast import products
from trainer.fast.products import fast_products, is_float32
from trainer.models.lenet import LeNet

Train = Callable[..., dict[str, Any]]
LARGE = nn.Linear(1000, 100)
WORDS = ("model=two_layer", "data=random_regression", "model.hidden_features=100", "loss=mse", "optimizer=sgd")


@pytest.fixture
def badly_served(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a CPU that gains by it."""
    monkeypatch.setattr(products, "is_served_badly", lambda: True)


@pytest.fixture(autouse=True)
def untouched() -> Iterator[None]:
    assert torch.get_float32_matmul_precision() == "highest"
    yield
    torch.set_float32_matmul_precision("highest")


def forms(n: int, inputs: int, outputs: int) -> Iterator[Callable[[Callable[[Tensor], Tensor]], Tensor]]:
    """Products as layers and their backward passes have them; each is given what makes its factors of their dtype."""
    x, w, b = torch.randn(n, inputs), torch.randn(inputs, outputs), torch.randn(outputs)
    g, many = torch.randn(n, outputs), torch.randn(3, inputs, outputs)
    yield lambda of: of(x) @ of(w)
    yield lambda of: torch.addmm(of(b), of(x), of(w))
    yield lambda of: nn.functional.linear(of(x), of(w.t().contiguous()), of(b))
    yield lambda of: of(x).t() @ of(g)
    yield lambda of: of(g).t() @ of(x)
    yield lambda of: of(g) @ of(w).t()
    yield lambda of: torch.bmm(of(x).expand(3, -1, -1), of(many))
    yield lambda of: torch.baddbmm(of(b), of(x).expand(3, -1, -1), of(many))
    yield lambda of: torch.mm(of(x).t(), of(g), out=torch.empty(inputs, outputs, dtype=of(g).dtype))


@pytest.mark.parametrize("sizes", [(64, 1000, 100), (64, 400, 120), (64, 784, 512), (7, 3000, 300), (1, 2000, 1000)])
@pytest.mark.usefixtures("badly_served")
def test_they_round_no_more_than_float32_does(sizes: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    for product in forms(*sizes):
        exact = product(Tensor.double)
        plain = product(Tensor.float)
        with fast_products(LARGE, 64):
            fast = product(Tensor.float)
        allowed = 2 * (plain - exact).abs().max() + 1e-6 * exact.abs().max()
        assert (fast - exact).abs().max() <= allowed  # bfloat16 is 5,000 times as far off


def test_what_computes_with_less_is_found_out() -> None:
    assert is_float32()
    with torch.autocast("cpu", torch.bfloat16):
        assert not is_float32()


@pytest.mark.usefixtures("badly_served")
def test_a_cpu_that_would_compute_with_less_is_not_let(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "is_float32", lambda: False)
    with fast_products(LARGE, 64):
        assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize(
    ("model", "num_samples", "num_runs", "expected"),
    [
        (LARGE, 64, 1, "medium"),
        (LARGE, 8, 1, "highest"),
        (nn.Sequential(nn.Linear(64, 32), nn.Linear(32, 10)), 64, 1, "highest"),
        (nn.Sequential(nn.Linear(64, 32), nn.Linear(32, 10)), 64, 32, "medium"),  # one call for all runs
        (nn.Sequential(nn.Conv2d(1, 6, 5)), 64, 1, "highest"),  # oneDNN's as it is
        (LeNet(num_classes=10), 64, 1, "highest"),
        (nn.Sequential(nn.Embedding(50_000, 100), nn.Linear(100, 10)), 64, 1, "highest"),  # looks up
    ],
)
@pytest.mark.usefixtures("badly_served")
def test_only_where_products_are_large(model: nn.Module, num_samples: int, num_runs: int, expected: str) -> None:
    with fast_products(model, num_samples, num_runs):
        assert torch.get_float32_matmul_precision() == expected
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.usefixtures("badly_served")
def test_a_compiled_convolution_is_a_product() -> None:
    with fast_products(LeNet(num_classes=10), 64, num_places=32 * 32):
        assert torch.get_float32_matmul_precision() == "medium"


@pytest.mark.usefixtures("badly_served")
def test_whoever_has_chosen_a_precision_keeps_it() -> None:
    torch.set_float32_matmul_precision("high")
    with fast_products(LARGE, 64):
        assert torch.get_float32_matmul_precision() == "high"
    assert torch.get_float32_matmul_precision() == "high"


@pytest.mark.usefixtures("badly_served")
def test_an_error_puts_it_back() -> None:
    with pytest.raises(KeyError), fast_products(LARGE, 64):
        raise KeyError
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.fixture
def tried() -> Iterator[None]:
    """No earlier trial counts, and none of these later."""
    products.is_served_badly.cache_clear()
    yield
    products.is_served_badly.cache_clear()


@pytest.mark.parametrize(("blas", "onednn", "expected"), [(3e-3, 0.0, True), (0.0, 3e-3, False), (3e-3, 3e-3, False)])
@pytest.mark.usefixtures("tried")
def test_the_quicker_library_is_found_by_a_trial(
    monkeypatch: pytest.MonkeyPatch, blas: float, onednn: float, expected: bool
) -> None:
    seconds = {"highest": blas, "medium": onednn}
    multiply = torch.mm

    def slowed(inputs: Tensor, weights: Tensor) -> Tensor:
        time.sleep(seconds[torch.get_float32_matmul_precision()])
        return multiply(inputs, weights)

    monkeypatch.setattr(torch, "mm", slowed)
    assert products.is_served_badly() is expected


@pytest.mark.usefixtures("tried")
def test_a_trial_leaves_nothing_behind() -> None:
    threads, draws = torch.get_num_threads(), torch.get_rng_state()
    torch.set_num_threads(2)
    try:
        assert len({products.is_served_badly() for _ in range(3)}) == 1  # once is enough
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert torch.get_float32_matmul_precision() == "highest"
    assert torch.equal(torch.get_rng_state(), draws)


@pytest.mark.usefixtures("tried")
def test_a_small_model_pays_for_no_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    def unwanted(*_: Tensor) -> Tensor:
        raise AssertionError("a trial")

    monkeypatch.setattr(torch, "mm", unwanted)
    with fast_products(nn.Linear(64, 32), 64):
        pass
    with pytest.raises(AssertionError, match="a trial"), fast_products(LARGE, 64):
        pass
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.fixture
def precisions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """That of every forward pass of the two-layer network in training."""
    from trainer.models.two_layer import TwoLayer

    found: list[str] = []
    forward = TwoLayer.forward

    def spied(model: TwoLayer, inputs: Tensor) -> Tensor:
        if model.training:
            found.append(torch.get_float32_matmul_precision())
        return forward(model, inputs)

    monkeypatch.setattr(TwoLayer, "forward", spied)
    return found


@pytest.mark.usefixtures("badly_served")
def test_a_run_learns_the_same_with_them(train: Train, precisions: list[str]) -> None:
    with_them = train(*WORDS, "max_steps=50", "name=with")
    assert set(precisions) == {"medium"}
    precisions.clear()
    without = train(*WORDS, "max_steps=50", "name=without", "fast=false")
    assert set(precisions) == {"highest"}
    assert with_them["train/loss"] == pytest.approx(without["train/loss"], rel=1e-4)
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.usefixtures("badly_served")
def test_a_run_that_fails_leaves_nothing_behind(train: Train) -> None:
    with pytest.raises(RunStopped):
        train(*WORDS, "optimizer.lr=1e30")
    assert torch.get_float32_matmul_precision() == "highest"
