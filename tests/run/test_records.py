"""Records that wait for one another are the same records, in the same order, and none is lost with the end of a run."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from trainer.errors import RunStopped
from trainer.run import records

Train = Callable[..., dict[str, Any]]
WORDS = ("data.limit=200", "max_steps=40", "eval_every=15", "monitor.every=2", "threads=1")

ODD = """
from torch import nn


class Odd(nn.Linear):
    def __init__(self, in_features, num_classes):
        super().__init__(in_features, num_classes)

    def forward(self, images):
        numbers = images.flatten(1)
        is_odd = (numbers.sum(1, keepdim=True) > 11) & self.training
        return super().forward(numbers).masked_fill(is_odd, float("nan"))
"""


def written(name: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in Path("runs", name, "metrics.jsonl").read_text().splitlines()]
    return [{tag: number for tag, number in line.items() if not tag.startswith("time/")} for line in lines]


def curves(name: str) -> dict[str, list[tuple[int, str]]]:
    found = EventAccumulator(f"runs/{name}", size_guidance={"scalars": 0}).Reload()
    tags = [tag for tag in found.Tags()["scalars"] if "time/" not in tag]
    return {tag: [(event.step, str(event.value)) for event in found.Scalars(tag)] for tag in tags}


def said(text: str) -> list[str]:
    return [line.split(" time/")[0] for line in text.splitlines() if line.startswith("step=")]


def test_the_same_whether_they_wait_or_not(
    train: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also those of steps without an update, which a line tells of at once."""
    Path("odd.py").write_text(ODD)
    odd = ("model._target_=odd.Odd", "on_nan=skip", "trust=[odd]", "console.every=2")
    monkeypatch.setattr(records, "SLOW", 1e6)
    monkeypatch.setattr(records, "LATEST", 1e6)
    train(*WORDS, *odd, "name=waiting")
    waiting = said(capsys.readouterr().out)
    monkeypatch.setattr(records, "MOST", 1)
    train(*WORDS, *odd, "name=at_once")
    assert said(capsys.readouterr().out) == waiting
    assert written("waiting") == written("at_once")
    assert curves("waiting") == curves("at_once")
    steps = [line["step"] for line in written("waiting")]
    assert steps == sorted(steps)
    assert set(steps) == {1, *range(2, 41, 2), 15, 30}
    skipped = [line for line in written("waiting") if line.get("train/loss", 0) is None]
    assert len({line["grad_norm"] for line in skipped}) == len(skipped) > 1


def test_what_waits_is_written_where_a_run_stops(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLOW", "LATEST", "MOST"):
        monkeypatch.setattr(records, name, 1e6)
    diverging = ("model=two_layer", "optimizer=sgd", "optimizer.lr=1e30", "monitor.every=1", "name=run")
    with pytest.raises(RunStopped):
        train(*diverging, "data.limit=200", "eval_every=1000")
    assert [line["step"] for line in written("run")] == [1]


def test_the_samples_per_second_of_a_short_last_batch(train: Train) -> None:
    """200 samples in batches of 64: three whole ones and one of 8, of which one record has one, another two or more."""
    train("model=two_layer", "data.limit=200", "max_steps=10", "monitor.every=1", "name=each")
    train("model=two_layer", "data.limit=200", "max_steps=10", "monitor.every=3", "name=some")
    for name, samples in (("each", [64, 64, 64, 8] * 2 + [64, 64]), ("some", [64, 128, 136, 136, 64])):
        lines = [json.loads(line) for line in Path("runs", name, "metrics.jsonl").read_text().splitlines()]
        lines = [line for line in lines if "train/loss" in line]
        steps = [b["step"] - a["step"] for a, b in zip([{"step": 0}, *lines], lines, strict=False)]
        seconds = [line["time/step_ms"] / 1000 * num for line, num in zip(lines, steps, strict=True)]
        found = [line["time/samples_per_second"] * time for line, time in zip(lines, seconds, strict=True)]
        assert found == pytest.approx(samples)
