"""`threads=auto` takes one thread for a small network, more where a product has enough to do, and stays with them."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from trainer.data.batches import Batch
from trainer.run import environment, origin, threads
from trainer.run.threads import SLEEPING, SPINNING, enough_threads, products

Train = Callable[..., dict[str, Any]]
QUIET = ("monitor=off", "monitor.every=1", "max_steps=3")


class Loss(nn.Module):
    """As much of a loss function as is asked for here."""

    def given(self, inputs: Any, targets: Any) -> Any:
        return inputs


@pytest.fixture
def four_cores(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(environment, "TORCHS", 4)
    for module in (environment, origin):
        monkeypatch.setattr(module, "num_cores", lambda: 4)
    yield
    torch.set_num_threads(before)


def of(*shape: int) -> Batch:
    return Batch(torch.randn(2, *shape), torch.zeros(2))


@pytest.mark.parametrize(
    ("model", "shape", "expected"),
    [
        (nn.Sequential(nn.Linear(64, 32), nn.Dropout(), nn.Linear(32, 10, bias=False)), (64,), [4096, 640]),
        (nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)), (3, 4, 4), [2 * 16 * 8 * 27]),
        (nn.LSTM(8, 16, batch_first=True), (5, 8), []),
    ],
)
def test_products_are_counted_and_nothing_is_left(model: nn.Module, shape: tuple[int, ...], expected: Any) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    sample = of(*shape)
    state = torch.get_rng_state()
    assert products(model, Loss(), sample) == expected  # type: ignore[arg-type]
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.usefixtures("four_cores")
@pytest.mark.parametrize(("share", "expected"), [(0.01, 1), (1.9, 1), (2, 2), (3.5, 3), (100, 4)])
@pytest.mark.parametrize(("spins", "per_thread"), [(True, SPINNING), (False, SLEEPING)])
def test_each_thread_finds_enough_to_do(
    spins: bool, per_thread: int, share: float, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "is_spinning", lambda: spins)
    model, batch_size = nn.Linear(100, 50), round(share * per_thread / 5000)
    assert enough_threads(model, Loss(), of(100), batch_size) == expected  # type: ignore[arg-type]
    assert enough_threads(nn.LSTM(8, 16), Loss(), of(5, 8), batch_size) == 4  # type: ignore[arg-type]


@pytest.mark.usefixtures("four_cores")
def test_a_run_says_its_threads_and_continues_with_them(
    train: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(threads, "is_spinning", lambda: False)
    words = ("model=two_layer", *QUIET)
    train(*words, "name=one")
    assert ", cpu, 1 thread\n" in capsys.readouterr().out
    monkeypatch.setattr(threads, "SLEEPING", 100)  # as of a release with another rule
    train(*words, "name=four")
    assert ", cpu, 4 threads\n" in capsys.readouterr().out
    train(*words[:-1], "max_steps=4", "name=one")
    assert ", cpu, 1 thread\n" in capsys.readouterr().out
    assert {entry["threads"] for entry in json.loads(Path("runs/one/origin.json").read_text())} == {1}
    train(*words[:-1], "max_steps=5", "name=one", "threads=2")
    assert ", cpu, 2 threads\n" in capsys.readouterr().out
