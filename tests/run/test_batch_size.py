"""`batch_size=auto` takes the largest batch that fits, leaves nothing behind, and is a number from then on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from exact import assert_same
from plain import losses, weights
from trainer.command import main as cli
from trainer.disk import foreign
from trainer.errors import UserError
from trainer.run import batch_size
from trainer.run.batch_size import largest, meter
from trainer.system.limits import free_bytes

Train = Callable[..., dict[str, Any]]
QUIET = ("monitor=off", "monitor.every=1")
# About a MiB for each sample of a batch, drawn so that a draw left behind would show.
WIDE = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, in_features, num_classes):
        super().__init__()
        self.layer, self.norm = nn.Linear(in_features, num_classes), nn.BatchNorm1d(num_classes)

    def forward(self, images):
        wide = torch.rand(len(images), 1 << 17) if self.training else torch.zeros(len(images), 1)
        outputs = self.norm(self.layer(images.flatten(1)))
        return outputs + 1e-6 * (wide * outputs.mean()).mean(1, keepdim=True)
"""


@pytest.mark.parametrize(
    ("num_samples", "budget", "each", "expected"),
    [
        (1000, 999, 1, 512),
        (512, 999, 1, 512),
        (1, 999, 1, 1),
        (3, 0, 1, 2),
        (1000, 100, 1, 64),
        (1000, 99, 3, 32),
    ],
)
def test_the_largest_power_of_two_that_fits(num_samples: int, budget: int, each: int, expected: int) -> None:
    tried: list[int] = []

    def needed(size: int) -> int:
        tried.append(size)
        return each * size

    assert largest(needed, num_samples, budget) == expected
    assert all(each * size <= max(budget, 4 * each) for size in tried)


def test_what_does_not_fit_after_all_is_not_taken() -> None:
    def needed(size: int) -> int:
        if size > 32:
            torch.empty(2**50)
        return 0

    assert largest(needed, 1000, 1) == 32


def test_the_memory_of_a_step_is_measured() -> None:
    needed = meter(torch.device("cpu"), lambda size: torch.ones(size << 18).mul_(2).sum().item())  # MiB
    assert 58 <= needed(64) / 2**20 < 96  # less where some of it was free before


@pytest.mark.slow
def test_a_run_is_that_with_the_number_typed(
    train: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("wide.py").write_text(WIDE)
    free = free_bytes()
    assert free
    monkeypatch.setitem(batch_size.SHARES, "cpu", 40 * 2**20 / free)  # 16 samples take 16 to 32 MiB, 64 more than 40
    words = ("model._target_=wide.Net", "trust=[wide]", "max_steps=3", *QUIET)
    train(*words, "batch_size=auto", "name=auto")
    size = foreign.read_yaml(Path("runs/auto/config.yaml").read_text())["batch_size"]
    assert size in (8, 16, 32)
    assert f"batch_size=auto: {size}; twice as many would need more than the" in capsys.readouterr().out
    train(*words, f"batch_size={size}", "name=typed")
    assert losses("auto") == losses("typed")
    assert_same(weights("auto"), weights("typed"))
    # The same words continue it with the same size, whatever fits by now.
    monkeypatch.setitem(batch_size.SHARES, "cpu", 0.0)
    longer = (*words[:2], "max_steps=5", *QUIET)
    train(*longer, "batch_size=auto", "name=auto")
    assert f"batch_size=auto: {size}, with which the run in runs/auto began" in capsys.readouterr().out
    train(*longer, f"batch_size={size}", "name=typed")
    assert_same(weights("auto"), weights("typed"))
    assert cli.run_command(["reproduce", "auto", "name=again", "trust=[wide]"]) == 0


def test_where_it_can_not_be_is_a_line(train: Train) -> None:
    with pytest.raises(UserError, match=r"batch_size=auto: each job would find .* Type batch_size=64"):
        train("--multirun", "batch_size=auto", "seed=0,1", "model=two_layer", "max_steps=2", *QUIET)
    with pytest.raises(UserError, match=r"batch_size=auto: the best rate depends on the size. Type batch_size=64"):
        cli.run_command(["find-lr", "batch_size=auto", "model=two_layer"])
    assert not Path("runs").exists()
