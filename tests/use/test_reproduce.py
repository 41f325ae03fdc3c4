"""`train reproduce`: the same bits, or the first number that differs and what is known to differ."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trainer.command import main as cli
from trainer.errors import RunStopped, UserError
from trainer.use.again import as_long

Train = Callable[..., dict[str, Any]]
QUICK = ("monitor=off", "monitor.every=5")
NET = """
from torch import nn
class Net(nn.Module):
    def __init__(self, in_features: int, num_classes: int):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(in_features, 8), nn.{}(), nn.Linear(8, num_classes))
    def forward(self, x):
        return self.layers(x)
"""


def reproduced(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    capsys.readouterr()
    code = cli.run_command(["reproduce", *words])
    return code, capsys.readouterr().out


def test_a_run_is_the_same_to_the_bit(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    train("name=a", "max_steps=60", "scheduler=cosine", "model.dropout=0.2", "eval_every=20", *QUICK)
    code, said = reproduced(capsys, "a", "name=b")
    assert code == 0
    numbers = [set(json.loads(line)) - {"step"} for line in Path("runs/a/metrics.jsonl").read_text().splitlines()]
    count = sum(not tag.startswith(("time/", "device/")) for tags in numbers for tag in tags)
    assert f"same bits: {count} numbers of the first 60 steps, and all weights of step 60" in said
    # A part of it is that part of the whole run: the schedule has the length that it had.
    code, said = reproduced(capsys, "runs/a", "steps=20")
    assert code == 0
    assert "of the first 20 steps" in said
    assert "numbers of the first step\n" in reproduced(capsys, "a", "steps=1")[1]
    with pytest.raises(UserError, match="name=b: runs/b is there already"):
        reproduced(capsys, "a", "name=b")


def test_runs_that_did_not_end_well(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RunStopped):
        train("name=nan", "optimizer=sgd", "optimizer.lr=1e30", "max_steps=60", "monitor=off", "monitor.every=1")
    code, said = reproduced(capsys, "nan")
    assert code == 0
    assert "it stopped: train/loss=nan at step 2" in said
    assert "same bits" in said
    train("name=longer", "max_steps=20", *QUICK)
    train("resume=runs/longer", "max_steps=40")
    code, said = reproduced(capsys, "longer")
    assert code == 0
    assert "of the first 40 steps" in said
    assert "continued with another length" in said


def test_what_was_said_of_the_first_run_is_not_said_of_the_second(
    train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs = np.random.default_rng(0).normal(size=(60, 3))
    np.savez("far.npz", inputs=inputs, targets=50_000 + inputs.sum(1, keepdims=True))
    train("name=far", "data=arrays", "data.path=far.npz", "loss=mse", "model=two_layer", "max_steps=2", "monitor=off")
    assert "the targets are large" in capsys.readouterr().out
    code, said = reproduced(capsys, "far")
    assert code == 0
    assert "the targets are large" not in said


def test_what_differs_is_named(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    draw = np.random.default_rng(0)
    inputs, targets = draw.normal(size=(90, 4)).astype(np.float32), np.arange(90) % 3
    np.savez("mine.npz", inputs=inputs, targets=targets)
    Path("net17.py").write_text(NET.format("ReLU"))
    own = ("model._target_=net17.Net", "trust=[net17]", "data=arrays", "data.path=mine.npz")
    train("name=a", *own, "max_steps=10", *QUICK)
    with pytest.raises(UserError, match=r"type trust=\[net17\]"):
        reproduced(capsys, "a")
    assert reproduced(capsys, "a", "trust=[net17]")[0] == 0

    path = Path("runs/a/origin.json")
    (origin,) = json.loads(path.read_text())
    path.write_text(json.dumps([origin | {"versions": {**origin["versions"], "torch": "2.11.0"}}]))
    inputs[0, 0] += 1
    np.savez("mine.npz", inputs=inputs, targets=targets)
    Path("net17.py").write_text(NET.format("Tanh"))
    sys.modules.pop("net17")
    code, said = reproduced(capsys, "a", "trust=[net17]")
    assert code == 1
    assert "not the same: at step 1 train/loss is " in said
    assert f"  torch: {origin['versions']['torch']}, was 2.11.0" in said
    assert "  own code: net17 has changed" in said
    assert "  data: the " in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a", "b"], "takes one run, not 2"),
        (["nope"], "nope: there is no run."),
        (["a", "steps=0"], "steps=0: must be a whole number >= 1. Type train reproduce ... steps=200."),
        (["a", "optimizer.lr=1"], "train reproduce has no such word"),
        (["a", "name=../x"], "name=../x: must be letters"),
    ],
)
def test_mistakes_are_a_line(words: list[str], message: str, train: Train) -> None:
    with pytest.raises(UserError, match=message.replace(".", r"\.")):
        cli.run_command(["reproduce", *words])
    assert not Path("runs").exists()


def test_a_length_in_a_folder_of_a_stranger_is_a_number_or_none() -> None:
    assert as_long([{"max_steps": 100}, {"max_steps": 200}]) == {"max_steps": 200, "max_epochs": None}
    assert as_long([{"max_steps": 100}, {"max_steps": [200]}]) == as_long([{"max_steps": {}}]) == as_long([]) == {}
