"""Killed at random moments, in random ways, and started again: the run ends as the one that nobody touched.

A short version runs with `pytest -m slow`; `pytest -m long tests/run/test_crash.py` interrupts each recipe many times.
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from exact import assert_same
from trainer.disk import checkpoint

COMMON = ("console.every=1", "monitor.every=10", "checkpoint.every=15", "threads=1")
RECIPES = {
    "adam and dropout": ("model=sequential", "loss=nll", "scheduler=cosine", "max_steps=250"),
    "full batches": ("experiment=seed_two_layer", "max_steps=300", "model.hidden_features=100"),
    "workers and augmentation": (
        "model=lenet",
        "data=image_folder",
        "data.num_workers=2",
        "data.augment.crop_padding=2",
        "batch_size=5",
        "max_steps=60",
        "eval_every=10",
    ),
}

PLAIN = ("model=two_layer", "eval_every=5", "max_steps=80")
# What `train help training` describes, on the shipped digits.
FEATURES = {
    "metrics": (*PLAIN, "metric=[f1,auroc,top5]", "checkpoint.metric=val/f1"),
    "metrics of numbers": ("model=two_layer", "data=random_regression", "loss=mse", "max_steps=80", "metric=[rmse]"),
    "best and last": (*PLAIN, "test=last", "checkpoint.metric=val/accuracy", "checkpoint.history=4"),
    "early stopping": (*PLAIN, "early_stopping.patience=2", "early_stopping.min_delta=0.05", "optimizer.lr=0.003"),
    "average": (*PLAIN, "average.last=0.5"),
    "parameters": ("model=lenet", "max_steps=40", "optimizer=adamw", "optimizer.decay=weights", "model.freeze=[conv1]"),
    "unequal classes": (*PLAIN, "loss.class_weights=balanced", "data.balance=true"),
    "augmentation": (*PLAIN, "data.augment.mixup=0.2", "data.augment.erase=0.5", "data.augment.rotation=5"),
    "folds": (*PLAIN, "data.folds=5", "data.fold=1"),
    "memory": (*PLAIN, "data.limit=120", "batch_size=auto", "gradient.accumulate=2"),
    "overfit": (*PLAIN, "overfit=64"),
    "profile": (*PLAIN, "profile=true"),
    "distillation": (*PLAIN, "model.hidden_features=10", "loss.teacher=runs/big"),
}


@dataclass
class Process:
    """`python -m trainer`, its steps counted as they are printed."""

    command: list[str]
    folder: Path
    max_file_size: int | None = None

    def __post_init__(self) -> None:
        def limit() -> None:
            if self.max_file_size is not None:
                import resource

                resource.setrlimit(resource.RLIMIT_FSIZE, (self.max_file_size, resource.RLIM_INFINITY))

        self.process = subprocess.Popen(
            self.command,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
            preexec_fn=limit,
        )

    def wait_for_step(self, number: int) -> int:
        """Reads until so many steps were printed. Returns the last one's number; 0 where it ended before."""
        assert self.process.stdout is not None
        step = 0
        for line in self.process.stdout:
            if line.startswith("step=") and " train/loss=" in line:
                step = int(line.split()[0][5:])
                number -= 1
                if number <= 0:
                    return step
        return 0

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):  # it has come to its end
            os.killpg(self.process.pid, number)

    def end(self) -> tuple[int, int, str]:
        """Exit code, the last step printed, stderr."""
        out, errors = self.process.communicate(timeout=100)
        steps = [int(line.split()[0][5:]) for line in out.splitlines() if line.startswith("step=")]
        return self.process.returncode, max(steps, default=0), errors


def kill(run: Process, draw: random.Random) -> None:
    run.wait_for_step(draw.randint(1, 60))
    run.signal(signal.SIGKILL)
    run.end()


def kill_while_starting(run: Process, draw: random.Random) -> None:
    time.sleep(draw.uniform(0, 2.5))
    run.signal(signal.SIGKILL)
    run.end()


def kill_while_writing(run: Process, draw: random.Random) -> None:
    """The moment a file of the run's folder appears or changes."""
    run.wait_for_step(draw.randint(1, 14))
    folder = run.folder / "runs" / "it"

    def written() -> dict[Path, int]:
        return {p: p.stat().st_mtime_ns for p in (folder / "checkpoints").glob("*") if p.exists()}

    before, end = written(), time.monotonic() + 5
    while written() == before and time.monotonic() < end and run.process.poll() is None:
        pass
    time.sleep(draw.uniform(0, 0.01))
    run.signal(signal.SIGKILL)
    run.end()


def stop(number: int) -> Callable[[Process, random.Random], None]:
    def interrupt(run: Process, draw: random.Random) -> None:
        step = run.wait_for_step(draw.randint(1, 60))
        run.signal(number)
        code, last, errors = run.end()
        if step:
            assert code == 128 + number, errors
            assert errors == f"stopped after step {max(step, last)} and saved. To continue: train resume=runs/it\n"

    return interrupt


def stop_while_starting(run: Process, draw: random.Random) -> None:
    time.sleep(draw.uniform(0.1, 2))
    run.signal(signal.SIGTERM)
    code, _, errors = run.end()
    assert code in (-signal.SIGTERM, 143), errors  # before the interpreter was up, or after
    assert "Traceback" not in errors


def press_ctrl_c_twice(run: Process, draw: random.Random) -> None:
    run.wait_for_step(draw.randint(1, 60))
    run.signal(signal.SIGINT)
    time.sleep(draw.uniform(0, 0.05))
    if run.process.poll() is None:
        run.signal(signal.SIGINT)
    code, _, errors = run.end()
    assert code in (130, 0), errors
    assert "Traceback" not in errors


def limit_files(run: Process, draw: random.Random) -> None:
    """As a full disk: started with a limit on the size of files."""
    code, _, errors = run.end()
    assert code == 2, errors
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1, errors
    assert "can't be written" in errors
    assert list((run.folder / "runs/it").rglob(".*.tmp")) == []


WAYS = {
    "kill": kill,
    "kill while starting": kill_while_starting,
    "kill while writing": kill_while_writing,
    "SIGTERM": stop(signal.SIGTERM),
    "SIGINT": stop(signal.SIGINT),
    "SIGTERM while starting": stop_while_starting,
    "SIGINT twice": press_ctrl_c_twice,
    "limited files": limit_files,
}


def outcome(folder: Path) -> dict[str, Any]:
    """All that a run leaves, but for times."""
    state = checkpoint.read(folder / "checkpoints/last.pt")
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    scalars = {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
        if not tag.startswith("watch_time/")
    }
    return {
        "state": state,
        "metrics": metrics,
        "scalars": scalars,
        "best": checkpoint.read(folder / "checkpoints/best.pt"),
        "result": json.loads((folder / "result.json").read_text()),
        # A signal's checkpoint is one more, so which of the earlier ones is left depends on when it came.
        "newest": max(p.name for p in checkpoints(folder)),
        "num_files": len(checkpoints(folder)),
    }


def checkpoints(folder: Path) -> list[Path]:
    return [path for path in (folder / "checkpoints").iterdir() if path.suffix == ".pt"]


def check(recipe: str, ways: list[str], seed: int, folder: Path, sources: dict[str, tuple[str, ...]]) -> None:
    words = (*COMMON, *{**RECIPES, **FEATURES}[recipe])
    if "data=image_folder" in words:
        words = (*(word for word in sources["image_folder"] if word.startswith("data.root")), *words)
    command = [sys.executable, "-m", "trainer", *words]
    done = subprocess.run([*command, "name=whole"], cwd=folder, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    whole = outcome(folder / "runs/whole")
    draw = random.Random(seed)
    for way in ways:
        size = draw.choice([0, 2000, 20_000]) if way == "limited files" else None
        WAYS[way](Process([*command, "name=it"], folder, size), draw)
        for path in checkpoints(folder / "runs/it") if (folder / "runs/it/checkpoints").exists() else []:
            checkpoint.read(path)  # no file that bears a checkpoint's name is ever torn
    code, _, errors = Process([*command, "name=it"], folder).end()
    assert code == 0, errors
    assert_same(whole, outcome(folder / "runs/it"))
    assert list((folder / "runs/it").rglob(".*")) == []


@pytest.mark.parametrize(
    "recipe",
    [
        pytest.param("adam and dropout", marks=pytest.mark.long),
        pytest.param("workers and augmentation", marks=pytest.mark.slow),
    ],
)
def test_a_run_that_was_killed_again_and_again(
    recipe: str, tmp_path: Path, sources: dict[str, tuple[str, ...]]
) -> None:
    ways = {
        "adam and dropout": ["kill", "SIGTERM while starting", "SIGTERM", "limited files"],
        "workers and augmentation": ["kill while writing", "SIGINT twice", "SIGTERM"],
    }
    check(recipe, ways[recipe], 0, tmp_path, sources)


@pytest.mark.slow
@pytest.mark.parametrize("feature", FEATURES)
def test_each_feature_is_killed_in_its_middle(feature: str, tmp_path: Path) -> None:
    if feature == "distillation":
        big = [sys.executable, "-m", "trainer", "model=two_layer", "max_steps=20", "monitor=off", "name=big"]
        subprocess.run(big, cwd=tmp_path, check=True, capture_output=True, timeout=200)
    check(feature, ["kill"], 3, tmp_path, {})  # 3: the draw is step 16


@pytest.mark.slow
def test_a_search_for_a_rate_that_is_killed_is_made_anew(tmp_path: Path) -> None:
    """It takes seconds: its folder stays as it is, and under another name the same rate is found as without a kill."""
    words = ("find-lr", "model=two_layer", "max_steps=60", "threads=1", "monitor=off")
    command = [sys.executable, "-m", "trainer", *words]

    def ended(name: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, f"name={name}"], cwd=tmp_path, capture_output=True, text=True, timeout=200)

    whole = ended("whole")
    run = Process([*command, "name=it"], tmp_path)
    while not list(tmp_path.glob("runs/it/*/metrics.jsonl")) and run.process.poll() is None:
        time.sleep(0.01)
    run.signal(signal.SIGKILL)
    assert run.end()[0] == -signal.SIGKILL
    assert "runs/it is there already. Type another name=, or none." in ended("it").stderr
    again = ended("again")
    assert again.stdout.replace("again", "whole") == whole.stdout
    assert "type " in whole.stdout


@pytest.mark.long
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("recipe", RECIPES)
def test_many_times(recipe: str, seed: int, tmp_path: Path, sources: dict[str, tuple[str, ...]]) -> None:
    check(recipe, random.Random(seed).choices(list(WAYS), k=25), seed, tmp_path, sources)
