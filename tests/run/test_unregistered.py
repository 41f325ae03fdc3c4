"""Weights that are neither trained nor saved are a line; what a forward pass makes anew is not meant."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trainer.errors import UserError

NETS = """
import torch
from torch import nn

class Listed(nn.Module):
    def __init__(self, in_features, num_classes):
        super().__init__()
        self.flat, self.head = nn.Flatten(), nn.Linear(8, num_classes)
        self.hidden = self.make(in_features)
    def make(self, size):
        return [nn.Linear(size, 8)]
    def forward(self, x):
        return self.head(self.hidden[0](self.flat(x)))

class Dealt(Listed):
    def make(self, size):
        return {"a": (nn.Linear(size, 8),)}
    def forward(self, x):
        return self.head(self.hidden["a"][0](self.flat(x)))

class Bare(Listed):
    def make(self, size):
        return torch.randn(size, 8, requires_grad=True)
    def forward(self, x):
        return self.head(self.flat(x) @ self.hidden)

class Inner(nn.Sequential):
    def __init__(self, in_features, num_classes):
        super().__init__(Listed(in_features, num_classes))

class Empty(Listed):
    def __init__(self, in_features, num_classes):
        nn.Module.__init__(self)
        self.size = num_classes
    def forward(self, x):
        return x.flatten(1)[:, :self.size]

SHARED, SCALE = nn.Linear(8, 8), nn.Parameter(torch.zeros(()))

class Outside(Listed):
    def make(self, size):
        return nn.Linear(size, 8)
    def forward(self, x):
        return self.head(SHARED(self.hidden(self.flat(x))))

class Enclosed(Outside):
    def make(self, size):
        first, second = nn.Linear(size, 8), nn.Linear(8, 8)
        self.inner = lambda x: second(x)
        return nn.Sequential(first)
    def forward(self, x):
        return self.head(self.inner(self.hidden(self.flat(x))))

class Anew(Outside):
    def forward(self, x):
        return self.head(nn.Linear(8, 8)(self.hidden(self.flat(x))))

def scaled(outputs, targets):
    return nn.functional.cross_entropy(outputs, targets) + (SCALE - 3).square()

class Fine(nn.Module):
    def __init__(self, in_features, num_classes):
        super().__init__()
        self.head, self.guide = nn.Linear(in_features, num_classes), [nn.Linear(in_features, num_classes)]
        self.again = [self.head]
        self.again.append(self.again)
    def training_step(self, batch):
        raise NotImplementedError
    def forward(self, x):
        self.one = torch.ones(1, requires_grad=True)  # anew each time
        with torch.no_grad():
            by = self.guide[0](x.flatten(1))
        return self.again[0](x.flatten(1)) * self.one + by

class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.ones(1, requires_grad=True)
    def forward(self, outputs, targets):
        return nn.functional.cross_entropy(outputs * self.scale, targets)
"""
APART = "has weights that are not among its parameters, and would be neither trained nor saved. Write nn.ModuleList"
OUTSIDE = "that lie outside of it, in a variable, a function or an object, and would be neither trained nor saved. Make"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("model._target_=apart.Listed", f"model=Listed: Listed.hidden {APART}"),
        ("model._target_=apart.Dealt", f"model=Dealt: Dealt.hidden {APART}"),
        ("model._target_=apart.Bare", f"model=Bare: Bare.hidden {APART}"),
        ("model._target_=apart.Inner", f"model=Inner: Listed.hidden {APART}"),
        ("model._target_=apart.Empty", "model=Empty: has no parameters; there is nothing to train."),
        ("model=two_layer loss._target_=apart.Scaled", f"loss=Scaled: Scaled.scale {APART}"),
        ("model._target_=apart.Outside", f"model=Outside: takes weights [8, 8] {OUTSIDE}"),
        ("model._target_=apart.Enclosed", f"model=Enclosed: takes weights [8, 8] {OUTSIDE}"),
        ("model._target_=apart.Anew", f"model=Anew: takes weights [8, 8] {OUTSIDE}"),
        ("model=two_layer loss._target_=apart.scaled", f"loss=scaled: takes weights [] {OUTSIDE}"),
    ],
)
def test_weights_that_no_optimizer_knows_are_a_line(words: str, says: str, train: Callable[..., Any]) -> None:
    Path("apart.py").write_text(NETS)
    with pytest.raises(UserError) as caught:
        train(*words.split(), "trust=[apart]", "max_steps=1", "monitor=off")
    assert str(caught.value).startswith(says)
    assert not Path("runs").exists()


def test_what_is_not_to_be_trained_may_lie_anywhere(
    train: Callable[..., dict[str, Any]], capfd: pytest.CaptureFixture[str]
) -> None:
    Path("apart.py").write_text(NETS)
    assert train("model._target_=apart.Fine", "trust=[apart]", "max_steps=1", "monitor=off")["num_parameters"] == 650
    assert "model=Fine: nothing calls its training_step; the loss is loss=cross_entropy, the" in capfd.readouterr().out


COUNTS = """
import torch
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import Dataset


SEEN, HISTORY, BEGAN, GIVEN, GENERATOR = 0, [], None, [1, 2], torch.Generator()


def loss(outputs, targets):
    global SEEN, BEGAN
    SEEN += 1
    BEGAN = outputs.detach()[0] if BEGAN is None else BEGAN
    HISTORY.append(float(outputs.detach().mean()))
    loss.calls = getattr(loss, "calls", 0) + 1
    torch.rand(1, generator=GENERATOR)
    return torch.nn.functional.cross_entropy(outputs, targets) / (1 + SEEN)


loss.calls = 0


class Opt(torch.optim.Optimizer):
    def __init__(self, params, lr=0.01):
        super().__init__(params, {"lr": lr})
        self.calls, self.means, self.last = 0, [torch.zeros_like(p) for p in self.param_groups[0]["params"]], None

    @torch.no_grad()
    def step(self):
        self.calls += 1
        self.last = self.means[0].add_(1)
        for group in self.param_groups:
            group["kept"] = group.get("kept", 0) + 1
            for parameter in group["params"]:
                parameter.add_(parameter.grad, alpha=-group["lr"] / self.calls)


class Schedule(LRScheduler):
    def get_lr(self):
        self.seen = getattr(self, "seen", 0) + 1
        return [0.99 * group["lr"] for group in self.optimizer.param_groups]


class Items(Dataset):
    def __init__(self):
        self.reads, self.is_open, self.size = 0, False, 40

    def __len__(self):
        return self.size

    def __getitem__(self, i):
        self.reads, self.is_open = self.reads + 1, True
        return torch.full((4,), i / self.size), i % 2
"""


@pytest.mark.long
def test_numbers_of_optimizers_and_data_sets_that_no_checkpoint_keeps_are_named(
    train: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not those that one keeps, nor whether a file is open."""
    (tmp_path / "counts.py").write_text(COUNTS)
    words = ("optimizer._target_=counts.Opt", "scheduler._target_=counts.Schedule", "data._target_=counts.Items")
    for max_steps in (4, 8):
        more = ("model=two_layer", "trust=[counts]", "monitor=off", "data.num_workers=0", f"max_steps={max_steps}")
        assert "no checkpoint keeps" not in capsys.readouterr().out
        train(*words, *more, "batch_size=16", "name=c")
    lines = [line for line in capsys.readouterr().out.splitlines() if "no checkpoint keeps it" in line]
    expected = ["optimizer.calls", "optimizer.means", "optimizer.last", "data.reads"]
    assert [line.split()[1] for line in lines] == expected
    assert "it goes on from 0, not 4. If the training depends on it, keep it in param_groups" in lines[0]


def test_variables_of_files_that_count_and_are_in_no_checkpoint_are_named(
    train: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file, as a new process has it: functions keep numbers in variables, since they have no attributes of theirs."""
    (tmp_path / "variables.py").write_text(COUNTS)
    for max_steps in (2, 4):
        sys.modules.pop("variables", None)
        words = ("model=two_layer", "trust=[variables]", "monitor=off", f"max_steps={max_steps}", "name=v")
        train("loss._target_=variables.loss", *words, "eval_every=1000")
        if max_steps == 2:
            assert "no checkpoint keeps" not in capsys.readouterr().out
    lines = [line for line in capsys.readouterr().out.splitlines() if "no checkpoint keeps it" in line]
    expected = ["SEEN", "HISTORY", "GENERATOR", "loss.calls"]
    assert [line.split()[1] for line in lines] == [f"variables.{name}" for name in expected]
    assert "If the training depends on it, keep it in a module by register_buffer: train help resume" in lines[0]
