"""Every YAML that is shipped is composed, built and stepped. Models, data and losses: see test_matrix.py."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trainer.command.folders import CONFIGS, config_folders, options
from trainer.command.help import help_text

OPTIONS = options([CONFIGS])
SHORT = ("max_steps=12", "batch_size=64")


def shipped(group: str) -> list[str]:
    return [option for option in OPTIONS[group] if option != "own"]


@pytest.mark.parametrize("group", OPTIONS)
def test_every_option_says_in_its_first_line_what_it_is(group: str) -> None:
    assert all(len(about) > 10 for about in OPTIONS[group].values())


@pytest.mark.parametrize("optimizer", shipped("optimizer"))
def test_optimizer(optimizer: str, train: Callable[..., dict[str, Any]]) -> None:
    steps = ["max_steps=2", "batch_size=full"] if optimizer == "lbfgs" else ["max_steps=40"]
    result = train(*SHORT, *steps, f"optimizer={optimizer}", "model=two_layer", "monitor=off")
    assert result["train/loss"] < math.log(10)  # chance


@pytest.mark.parametrize("scheduler", shipped("scheduler"))
def test_scheduler(scheduler: str, train: Callable[..., dict[str, Any]]) -> None:
    words = ["model=two_layer", "max_epochs=3", "batch_size=100", "optimizer=sgd", f"scheduler={scheduler}"]
    changes = {
        "step": ["scheduler.step_size=1"],
        "multistep": ["scheduler.milestones=[1,2]"],
        "warmup_cosine": ["scheduler.warmup_steps=5"],
        "plateau": ["scheduler.patience=0", "optimizer.lr=0.9", "eval_every=2"],
    }
    train(*words, *changes.get(scheduler, []), "monitor=off", "monitor.every=1")
    (path,) = Path("runs").rglob("metrics.jsonl")
    rates = [x["lr"] for x in map(json.loads, path.read_text().splitlines()) if "lr" in x]
    assert len(rates) == 39
    assert (len(set(rates)) == 1) == (scheduler == "constant")


@pytest.mark.parametrize("monitor", shipped("monitor"))
def test_monitor(monitor: str, train: Callable[..., dict[str, Any]]) -> None:
    train(*SHORT, f"monitor={monitor}", "model=two_layer")
    assert len(list(Path("runs").rglob("events.out.tfevents.*"))) == (monitor != "off")


@pytest.mark.parametrize("experiment", shipped("experiment"))
def test_experiment(experiment: str, train: Callable[..., dict[str, Any]], sources: dict[str, tuple[str, ...]]) -> None:
    text = (CONFIGS / "experiment" / f"{experiment}.yaml").read_text()
    words = [f"experiment={experiment}", "max_steps=3"]
    for data, where in sources.items():
        if f"override /data: {data}\n" in text:
            words += where
    if "override /model: hf\n" in text:
        pytest.importorskip("transformers")
    if "frozen_resnet" in text:
        words.append("model.backbone.weights=null")
    result = train(*words)
    assert math.isfinite(result["test/loss"])
    # Each opens with its command, what came of it and how long it took.
    assert f"train experiment={experiment}" in text


def test_seed_two_layer_is_the_tutorial(train: Callable[..., dict[str, Any]]) -> None:
    """64-1000-100-10, learning rate 1e-6, 500 steps: the loss falls from about 3e7 below 1e-2."""
    words = ("experiment=seed_two_layer", "monitor=off", "monitor.every=1")
    result = train(*words)
    (path,) = Path("runs").rglob("metrics.jsonl")
    losses = [x["train/loss"] for x in map(json.loads, path.read_text().splitlines()) if "train/loss" in x]
    assert len(losses) == 500
    assert 1e7 < losses[0] < 1e8
    assert losses[-1] < 1e-2
    assert result["num_parameters"] == 1000 * 100 + 100 * 10
    for gradient in ("tensors", "numpy", "custom_function"):
        by_hand = train(*words, f"model.gradient={gradient}", "max_steps=30")
        assert by_hand["train/loss"] == pytest.approx(losses[29], rel=1e-4)  # the same curve up to rounding
    assert train(*words, "optimizer=sgd", "optimizer.lr=1e-6")["train/loss"] == result["train/loss"]  # bit for bit


def test_help_names_every_group_and_option_and_ten_examples() -> None:
    text = help_text(config_folders([]))
    for group, choices in OPTIONS.items():
        assert f"\n  {group}\n" in text
        for option in choices:
            assert f"\n    {option} " in text
    examples = text.split("Examples:\n")[1].split("\n\n")[0]
    assert len(examples.splitlines()) == 10
