"""The average of the weights is that of a loop that keeps them all; it is validated, tested and saved beside them."""

import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from exact import assert_same, states
from moods import MOODS
from plain import parts_of
from trainer.data.digits import load
from trainer.data.prepare import prepare
from trainer.disk import checkpoint
from trainer.errors import UserError
from trainer.models.two_layer import TwoLayer

Train = Callable[..., dict[str, Any]]
EACH = ("checkpoint.every=1", "checkpoint.keep=100", "eval_every=5", "monitor=off", "optimizer=sgd")


def weights(step: int) -> dict[str, torch.Tensor]:
    return states("runs/run", step)["model"]


def loss_of(model: nn.Module, state: dict[str, torch.Tensor], split: str) -> float:
    model.load_state_dict(state)
    inputs, targets = next(iter(getattr(prepare(load(), torch.device("cpu"), torch.float32), split).in_order()))
    with torch.no_grad():
        return cross_entropy(model.eval()(inputs), targets).item()


def test_exponential(train: Train) -> None:
    words = ("model=two_layer", "optimizer.lr=0.5", "max_steps=20", "average.decay=0.6", "test=last")
    result = train(*EACH, *words, "name=run")
    torch.manual_seed(0)  # as the run has its first weights
    average = TwoLayer(in_features=64, out_features=10).state_dict()
    for step in range(1, 21):
        decay = min(0.6, step / (9 + step))  # (1 + n) / (10 + n), n from 0
        average = {name: decay * average[name] + (1 - decay) * tensor for name, tensor in weights(step).items()}
    state = states("runs/run", 20)
    assert state["average"]["updates"] == 20
    torch.testing.assert_close(state["average"]["model"], average, rtol=1e-5, atol=1e-6)
    model = TwoLayer(in_features=64, out_features=10)
    saved = state["average"]["model"]
    assert result["val/average/loss"] == pytest.approx(loss_of(model, saved, "val"), rel=1e-5)
    assert result["test/average/loss"] == pytest.approx(loss_of(model, saved, "test"), rel=1e-5)
    assert result["test/loss"] == pytest.approx(loss_of(model, state["model"], "test"), rel=1e-5)
    best = checkpoint.read(Path("runs/run/checkpoints/best.pt"))
    if best["step"] != 20:
        expected = loss_of(model, best["average"]["model"], "test")
        assert result["test/best/average/loss"] == pytest.approx(expected, rel=1e-5)
    # The raw weights are what they are without it.
    plain = train(*EACH, *words, "average.decay=null", "name=plain")
    assert plain["test/loss"] == result["test/loss"]
    assert_same(states("runs/plain", 20)["model"], state["model"])


NORMED = """
from torch import nn

class Normed(nn.Sequential):
    def __init__(self, in_features, out_features):
        layers = nn.Linear(in_features, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, out_features)
        super().__init__(nn.Flatten(), *layers)
"""


# 1,258 samples go through the network in parts of 512, 512 and 234, each of which counts by its size; of 513 the last
# does not go alone, as a batch norm takes no single sample.
@pytest.mark.parametrize(("limit", "sizes"), [(1258, [512, 512, 234]), (513, [513])])
def test_of_the_last_part_with_its_batch_norms_measured(limit: int, sizes: list[int], train: Train) -> None:
    Path("normed.py").write_text(NORMED)
    words = ("model._target_=normed.Normed", "trust=[normed]", "max_steps=20", "average.last=0.25", "optimizer.lr=0.1")
    words = (*words, f"data.limit={limit}", "batch_size=65")
    result = train(*EACH, *words, "test=last", "name=run")
    from normed import Normed

    kept = [weights(step) for step in range(16, 21)]  # the last quarter of 20 steps
    names = [name for name, _ in Normed(64, 10).named_parameters()]
    model = Normed(64, 10)
    model.load_state_dict(kept[-1])
    model.load_state_dict({n: sum(w[n] for w in kept) / 5 for n in names}, strict=False)
    splits = parts_of("model=two_layer", f"data.limit={limit}").splits
    model.train().requires_grad_(False)
    for i, part in enumerate(splits.train.inputs.split(sizes)):
        model[2].momentum = len(part) / sum(sizes[: i + 1])
        model(part)
    model[2].num_batches_tracked.fill_(len(sizes))
    saved = states("runs/run", 20)["average"]
    assert saved["updates"] == 5
    torch.testing.assert_close(saved["model"], model.state_dict(), rtol=1e-5, atol=1e-6)
    loss = cross_entropy(model.eval()(splits.test.inputs), splits.test.targets).item()
    assert result["test/average/loss"] == pytest.approx(loss, rel=1e-5)
    # Before the last part begins there is nothing to validate.
    lines = Path("runs/run/metrics.jsonl").read_text().splitlines()
    assert [("val/average/loss" in line) for line in lines if "val/loss" in line] == [False, False, False, True]
    # Until they are measured, those of the average are the model's, after a resume as well.
    for step, is_measured in ((12, False), (20, True)):
        state = parts_of(*words, "average.last=0.25").state
        state.load_state_dict(states("runs/run", step))
        state.model[2].running_mean.add_(1)  # as the next step does
        found = state.averaged()["model"]["2.running_mean"]
        assert torch.equal(found, state.model[2].running_mean) is not is_measured
    # What the training itself has measured is as it is without an average.
    train(*EACH, *words, "average.last=null", "name=plain")
    assert_same(states("runs/plain", 20)["model"], states("runs/run", 20)["model"])
    with pytest.raises(UserError, match="its average begins after step 15, not 30"):
        train(*EACH, *words, "max_steps=40", "name=run")


def test_an_exponential_one_has_the_model_s_batch_norms_after_a_resume_too(train: Train) -> None:
    Path("normed.py").write_text(NORMED)
    words = ("model._target_=normed.Normed", "trust=[normed]", "average.decay=0.6")
    whole = train(*EACH, *words, "max_steps=12", "name=whole")
    train(*EACH, *words, "max_steps=7", "name=run")
    resumed = train(*EACH, *words, "max_steps=12", "name=run")
    assert resumed["val/average/loss"] == whole["val/average/loss"]
    assert_same(*(states(f"runs/{name}", 12)["average"] for name in ("run", "whole")))


@pytest.mark.slow
def test_killed_it_goes_on_exactly(train: Train, command: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """With an average, a patience, metrics, and a best checkpoint that is not the last."""
    Path("moody.py").write_text(MOODS)
    words = ["model._target_=moody.Moody", "trust=[moody]", "optimizer=sgd", "optimizer.lr=1.5", "monitor=off"]
    words += ["average.decay=0.9", "metric=[f1]", "early_stopping.patience=9", "eval_every=3", "checkpoint.every=4"]
    words += ["max_steps=25", "model.mood=is_killed", "checkpoint.keep=100"]
    killed = command(*words, "name=killed")
    assert killed.returncode == -signal.SIGKILL
    assert not Path("runs/killed/result.json").exists()
    Path("good").touch()
    resumed, unbroken = train(*words, "name=killed"), train(*words, "name=unbroken")
    assert_same(unbroken, resumed)
    last = [states(f"runs/{name}", unbroken["steps"]) for name in ("killed", "unbroken")]
    best = [checkpoint.read(Path("runs", name, "checkpoints/best.pt")) for name in ("killed", "unbroken")]
    # The model itself counts its steps, in an attribute that a run which goes on does not take up; a line says so.
    counts = [state.pop("plain") for state in (*last, *best)]
    assert [count["model.steps"] for count in counts] == [25 - 8, 25, 24 - 8, 24]  # it goes on from step 8
    assert_same(*last)
    assert_same(*best)


def test_one_average_is_kept(train: Train) -> None:
    with pytest.raises(UserError, match=r"one average is kept. Type average.last=null."):
        train("model=two_layer", "average.decay=0.9", "average.last=0.5")
