"""A sweep: every job its own run, no job harmed by another, gone on with by the same command."""

import csv
import importlib.util
import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from exact import assert_same
from moods import MOODS
from plain import together
from trainer.command import main as cli
from trainer.command.composing import composer
from trainer.command.words import sorted_words
from trainer.config.request import Request, resolved
from trainer.config.schema import leaves
from trainer.disk import checkpoint
from trainer.disk.folder import read_result
from trainer.errors import UserError
from trainer.sweep.plan import Job, is_finished, job_name, plan, refuse_another, rounded, told_apart, units, why_alone
from trainer.sweep.plugins import PluggedSweep
from trainer.sweep.results import Row, Table, metric_of, settings
from trainer.sweep.search import job_of
from trainer.sweep.together import refuse_unmeasured

Command = Callable[..., subprocess.CompletedProcess[str]]

# What jobs have in common: small and quick.
SMALL = ("model=two_layer", "model.hidden_features=8", "data.limit=100", "max_steps=20", "monitor=off")


def results(folder: Path) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in json.loads((folder / "results.json").read_text())}


@pytest.mark.long
def test_bad_jobs_harm_no_other_and_are_tried_again_when_asked(command: Command, tmp_path: Path) -> None:
    (tmp_path / "moody.py").write_text(MOODS)
    moods = "fine,raises,well,exits,glad,is_killed,calm,diverges"
    good_moods = dict.fromkeys(("fine", "well", "glad", "calm"), "finished")
    words = [
        "--multirun",
        "model._target_=moody.Moody",
        "trust=[moody]",
        *SMALL[2:],
        f"+model.mood={moods}",
        "name=all",
    ]
    done = command(*words, "sweep.jobs=2")
    assert done.returncode == 1
    found = results(tmp_path / "runs/all")
    assert {row["model.mood"]: row["status"] for row in found.values()} == {
        **good_moods,
        "raises": "failed",
        "exits": "failed",
        "is_killed": "killed",
        "diverges": "stopped",
    }
    for mood, line in {
        "raises": "ArithmeticError: it is Monday",
        "exits": "ended without a result",
        "is_killed": "was killed by signal 9",
        "diverges": "train/loss=nan at step 10",
    }.items():
        (error,) = [text for text in done.stderr.splitlines() if text.startswith(f"error: mood={mood}: ")]
        assert line in error
        assert error.endswith(f"Log: runs/all/mood={mood}/log.txt")
    again = command(*words)
    assert again.returncode == 1
    assert "8 of 8 jobs have run already" in again.stdout
    assert "4 of them failed; sweep.retry=true tries them again" in again.stdout
    (tmp_path / "good").touch()
    good = command(*words, "sweep.retry=true")
    assert good.returncode == 0, good.stderr
    assert {row["status"] for row in results(tmp_path / "runs/all").values()} == {"finished"}


@pytest.mark.slow
def test_the_first_failure_ends_it_where_that_is_wanted(command: Command, tmp_path: Path) -> None:
    words = ("--multirun", *SMALL, "optimizer=sgd", "loss=mse", "optimizer.lr=1e30,0.1", "name=s")
    done = command(*words, "sweep.on_failure=stop")
    assert done.returncode == 1
    assert [row["status"] for row in results(tmp_path / "runs/s").values()] == ["stopped", "waiting"]
    assert "To continue, type the same with name=s" in done.stdout
    again = command(*words, "sweep.on_failure=stop")
    assert again.returncode == 1
    assert [row["status"] for row in results(tmp_path / "runs/s").values()] == ["stopped", "finished"]
    others = command(*words[:-2], "optimizer.lr=0.1,0.01", "name=s", "sweep.on_failure=stop")
    assert others.returncode == 0, others.stderr
    assert "of them failed" not in others.stdout
    assert (
        "not in the table: 1 more job lies there, whose values were not typed the last time: lr=1e+30" in others.stdout
    )


@pytest.mark.long
def test_it_is_gone_on_with_extended_and_not_changed(command: Command, tmp_path: Path) -> None:
    words = ("--multirun", *SMALL, "optimizer.lr=0.1,0.01", "name=s")
    first = command(*words, "seed=0,1")
    assert first.returncode == 0, first.stderr
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs/s").rglob("result.json")}
    assert sorted(path.parent.name for path in times) == [
        f"lr={lr},seed={seed}" for lr in ("0.01", "0.1") for seed in (0, 1)
    ]
    more = command(*words, "seed=0,1,2")
    assert more.returncode == 0, more.stderr
    assert "4 of 6 jobs have run already" in more.stdout
    assert {path: path.stat().st_mtime_ns for path in times} == times
    rows = list(csv.DictReader((tmp_path / "runs/s/results.csv").read_text().splitlines()))
    assert [row["seed"] for row in rows] == ["0", "1", "2"] * 2
    # Two settings, three seeds each, the better first.
    table = [line.split() for line in more.stdout.splitlines() if line.startswith("0.")]
    assert sorted(line[0] for line in table) == ["0.01", "0.1"]
    assert {line[1] for line in table} == {"3"}
    assert float(table[0][2]) >= float(table[1][2])
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    changed = command(*words, "seed=0,1", "batch_size=32")
    assert changed.returncode == 2
    assert "batch_size=32 (was 64)" in changed.stderr
    assert changed.stderr.count("\n") == 1
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("optimizer.lr=0.1,-1",), r"job 1 (lr=-1): optimizer.lr=-1: must be a number > 0"),
        (("model=lenet,lent",), "model=lent: there is no such model. Did you mean lenet?"),
        (("loss=cross_entropy,nll",), "job nll: loss=nll: takes log_probabilities or probabilities"),
        (("optimizer.lr=0.1,0.10", "seed=1,1"), "is the same as another"),
        (("name=../x", "seed=0,1"), "name=../x: must be"),
        pytest.param(
            *(("sweep.devices=[0,99]", "seed=0,1"), "sweep.devices=[0,99]: the number of GPUs is "),
            marks=pytest.mark.slow,
        ),
        (
            ("sweep.metric=val/acuracy", "seed=0,1"),
            "sweep.metric=val/acuracy: is not measured here; there is",
        ),
    ],
)
def test_what_is_wrong_with_any_job_is_said_before_the_first(
    words: tuple[str, ...], line: str, train: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    with pytest.raises(UserError) as error:
        train("--multirun", *words)
    assert line in str(error.value)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
def test_batches_are_shared_where_that_is_wanted(command: Command, tmp_path: Path) -> None:
    words = ("--multirun", *SMALL, "seed=3,4", "batch_size=20")
    for name, more in (("shared", ("sweep.share_batches=true",)), ("own", ())):
        assert command(*words, *more, f"name={name}").returncode == 0
    assert command(*SMALL, "batch_size=20", "seed=4", "order_seed=3", "name=alone").returncode == 0
    ends = [read_result(tmp_path / "runs" / name) for name in ("shared/seed=4", "alone", "own/seed=4")]
    losses = [end["train/loss"] for end in ends if end is not None]
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.slow
def test_a_dry_run_lists_the_jobs_and_writes_nothing(command: Command, tmp_path: Path) -> None:
    done = command("--multirun", *SMALL, "optimizer.lr=0.1,0.01", "seed=range(0,2)", "dry_run=true")
    assert done.stdout.splitlines() == [
        "0: lr=0.1,seed=0",
        "1: lr=0.1,seed=1",
        "2: lr=0.01,seed=0",
        "3: lr=0.01,seed=1",
    ]
    assert list(tmp_path.iterdir()) == []


def outcome(folder: Path) -> dict[str, Any]:
    """Of every job its last state and its metrics, without times."""
    return {
        path.parent.name: (
            checkpoint.read(path.parent / "checkpoints/last.pt"),
            [json.loads(line) for line in (path.parent / "metrics.jsonl").read_text().splitlines()],
        )
        for path in sorted(folder.rglob("config.yaml"))
        if (path.parent / "checkpoints").exists()
    }


def interrupted(words: list[str], folder: Path, numbers: list[int], draw: random.Random) -> None:
    """Sent these signals at random moments, and begun again each time; then to its end. No finished job runs again."""
    command = [sys.executable, "-m", "trainer", *words]
    finished: dict[Path, int] = {}
    for number in numbers:
        process = subprocess.Popen(
            command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        time.sleep(draw.uniform(1, 6))
        if process.poll() is None:
            os.kill(process.pid, number)  # its jobs die with it
        assert process.wait(timeout=600) in (-9, 143, -15, 0)
        time.sleep(0.3)
        assert finished.items() <= ends(folder).items()
        finished = ends(folder)
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert finished.items() <= ends(folder).items()


def ends(folder: Path) -> dict[Path, int]:
    """When each finished job ended."""
    return {
        path: path.stat().st_mtime_ns
        for path in folder.rglob("result.json")
        if json.loads(path.read_text())["status"] == "finished"
    }


@pytest.mark.parametrize(
    ("seeds", "numbers"),
    [
        pytest.param("0,1", [signal.SIGKILL, signal.SIGTERM], marks=pytest.mark.slow),
        pytest.param("range(0,25)", [signal.SIGKILL] * 20, marks=pytest.mark.long),
    ],
    ids=["8 jobs", "100 jobs"],
)
def test_a_killed_sweep_ends_as_one_that_was_left_alone(seeds: str, numbers: list[int], tmp_path: Path) -> None:
    words = ["--multirun", "model=two_layer,lenet", "optimizer.lr=0.01,0.001", f"seed={seeds}", "max_steps=60"]
    words += ["monitor=off", "checkpoint.every=7", "data.limit=300", "sweep.jobs=2", "threads=1", "sweep.stack=never"]
    whole = subprocess.run(
        [sys.executable, "-m", "trainer", *words, "name=whole"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert whole.returncode == 0, whole.stderr
    interrupted([*words, "name=killed"], tmp_path, numbers, random.Random(0))
    assert_same(outcome(tmp_path / "runs/whole"), outcome(tmp_path / "runs/killed"))


STACK = (
    "--multirun",
    "model=two_layer",
    "model.hidden_features=8",
    "data.limit=200",
    "max_steps=60",
    "monitor.every=5",
)


def close(a: dict[str, Any], b: dict[str, Any]) -> None:
    """Two runs' outcomes but for rounding."""
    assert a.keys() == b.keys()
    for name, (state, metrics) in a.items():
        other, other_metrics = b[name]
        torch.testing.assert_close(state["model"], other["model"], rtol=1e-3, atol=1e-4)
        assert [record.keys() for record in metrics] == [record.keys() for record in other_metrics]
        for record, expected in zip(metrics, other_metrics, strict=True):
            numbers = {k: v for k, v in expected.items() if not k.startswith("time/")}
            assert {k: record[k] for k in numbers} == pytest.approx(numbers, rel=1e-4, abs=1e-6), name


@pytest.mark.slow
def test_jobs_that_differ_in_numbers_are_trained_together_and_nobody_can_tell(command: Command, tmp_path: Path) -> None:
    words = (*STACK, "optimizer=sgd", "optimizer.momentum=0.9", "optimizer.lr=0.1,0.01,1e30", "seed=0,1", "loss=mse")
    done = command(*words, "name=stack", "sweep.verify=2")
    assert done.returncode == 1, done.stderr  # two diverge
    assert "lr=0.1,seed=0 and 5 others, together: started" in done.stdout
    assert re.search(r"2 jobs trained alone: losses differ by \d.\de-\d+ of themselves at most", done.stdout)
    alone = command(*words, "name=alone", "sweep.stack=never")
    assert "together" not in alone.stdout
    for folder in ("stack", "alone"):
        found = results(tmp_path / "runs" / folder)
        assert [row["status"] for row in found.values()] == ["finished"] * 4 + ["stopped"] * 2
        assert "the first value that is not finite" in list(found.values())[-1]["reason"].lower()
    good = [f"lr={lr},seed={seed}" for lr in ("0.1", "0.01") for seed in (0, 1)]
    whole = [outcome(tmp_path / "runs" / folder) for folder in ("stack", "alone")]
    close(*({name: runs[name] for name in good} for runs in whole))
    for name in good:
        ours, expected = (tmp_path / "runs" / folder / name for folder in ("stack", "alone"))
        listing = [
            sorted(re.sub(r"tfevents.*", "", str(p.relative_to(f))) for p in f.rglob("*")) for f in (ours, expected)
        ]
        assert listing[0] == listing[1]
        tags = [EventAccumulator(str(folder)).Reload().Tags() for folder in (ours, expected)]
        assert tags[0] == tags[1]
    # Each can be gone on with alone.
    more = command(f"resume=runs/stack/{good[0]}", "max_steps=70")
    assert more.returncode == 0, more.stderr


@pytest.mark.long
def test_a_stack_that_was_killed_goes_on(command: Command, tmp_path: Path) -> None:
    words = (*STACK[:-1], "optimizer.lr=0.01,0.001", "seed=0,1,2", "monitor=off", "monitor.every=50", "max_steps=800")
    words += ("checkpoint.every=40",)
    whole = command(*words, "name=whole")
    assert whole.returncode == 0, whole.stderr
    for number in (signal.SIGKILL, signal.SIGTERM):
        process = subprocess.Popen(
            [sys.executable, "-m", "trainer", *words, "name=killed"],
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        before = newest_step(tmp_path)
        while newest_step(tmp_path) <= before and process.poll() is None:
            time.sleep(0.01)
        os.kill(process.pid, number)
        assert process.wait(timeout=600) in (-9, 143)
        time.sleep(0.3)  # its jobs die with it, not quite at once
    assert 40 <= newest_step(tmp_path) < 800
    done = command(*words, "name=killed")
    assert done.returncode == 0, done.stderr
    close(outcome(tmp_path / "runs/whole"), outcome(tmp_path / "runs/killed"))


@pytest.mark.long
def test_a_stack_whose_own_process_is_killed_goes_on_together_and_then_one_by_one(tmp_path: Path) -> None:
    words = (*STACK[:-1], "optimizer.lr=0.01,0.001", "seed=0,1,2", "monitor=off", "monitor.every=50", "max_steps=800")
    words += ("checkpoint.every=40",)
    for name, num_kills in (("whole", 0), ("killed", 2)):
        process = subprocess.Popen(
            [sys.executable, "-m", "trainer", *words, f"name={name}"], cwd=tmp_path, stdout=subprocess.PIPE, text=True
        )
        for _ in range(num_kills):
            before = newest_step(tmp_path)
            while newest_step(tmp_path) <= before and process.poll() is None:
                time.sleep(0.01)
            (lock,) = {path.read_text() for path in tmp_path.glob("runs/killed/*/.lock")}
            os.kill(int(lock.split()[1]), signal.SIGKILL)
        out, _ = process.communicate(timeout=100)
        assert process.returncode == 0
        assert [how for line in out.splitlines() for how in re.findall("others go on (together|one by one)", line)] == [
            "together",
            "one by one",
        ][:num_kills]
    close(outcome(tmp_path / "runs/whole"), outcome(tmp_path / "runs/killed"))


def newest_step(folder: Path) -> int:
    return max((int(path.stem[5:]) for path in folder.glob("runs/killed/*/checkpoints/step_*.pt")), default=0)


@pytest.mark.slow
def test_what_cannot_be_stacked_is_trained_one_by_one(command: Command, tmp_path: Path) -> None:
    words = (*STACK[:-2], "max_steps=4", "gradient.accumulate=2", "optimizer.lr=0.1,0.01,0.001,0.0001", "monitor=off")
    done = command(*words, "name=s", "hydra/launcher=stacked")
    assert done.returncode == 0, done.stderr
    why = "they can't be trained together: gradient.accumulate: a batch of several runs"
    assert f"go on one by one: {why}" in done.stdout
    assert {row["status"] for row in results(tmp_path / "runs/s").values()} == {"finished"}


def jobs_of(count: int, **changes: Any) -> list[Job]:
    """Of two_layer, with seeds of their own."""
    monitor = {"activations": False, "waiting": "auto"}
    base: dict[str, Any] = {"precision": "float32", "compile": False, "fast": True, "monitor": monitor}
    base |= {
        "device": "auto",
        "cuda_graphs": False,
        "channels_last": False,
        "profile": False,
        "max_time": None,
        "gradient": {"checkpoint": 0},
    }
    base |= {"optimizer": {"lr": 0.1, "decay": "all"}, "model": {"_target_": "x"}, **changes}
    requests = [Request({**base, "seed": seed}, {"model": "two_layer"}, []) for seed in range(count)]
    return [Job(f"seed={seed}", Path(), {}, request) for seed, request in enumerate(requests)]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, ""),
        ({"precision": "bfloat16"}, "precision=bfloat16"),
        ({"compile": True}, "compile=true"),
        ({"cuda_graphs": True}, "cuda_graphs=true"),
        ({"channels_last": True}, "channels_last=true"),
        ({"fast": False}, "fast=false"),
        ({"monitor": {"activations": True, "waiting": "auto"}}, "monitor.activations=true"),
        ({"monitor": {"activations": False, "waiting": "always"}}, "monitor.waiting=always"),
        ({"max_time": 1.0}, "max_time"),
        ({"optimizer": {"lr": 0.1, "lr_times": {"fc1": 0.1}}}, "optimizer.lr_times"),
        ({"optimizer": {"lr": 0.1, "decay": "weights"}}, "optimizer.decay=weights"),
    ],
)
def test_what_only_a_run_alone_has_keeps_it_alone_and_a_line_says_so(changes: dict[str, Any], why: str) -> None:
    jobs = jobs_of(4, **changes)
    lines = [f"4 of 4 jobs are trained alone: {why} is for a run alone"] if why else []
    for stack in ("auto", "always"):
        found = units(jobs, stack, 1)
        assert [len(unit) for unit in found] == ([1] * 4 if why else [4])
        assert why_alone(found, stack) == lines
    assert [len(unit) for unit in units(jobs, "never", 1)] == [1] * 4
    assert why_alone(units(jobs, "never", 1), "never") == []


@pytest.mark.parametrize(
    ("count", "at_once", "auto", "always"),
    [
        (4, 1, [4], [4]),
        (4, 2, [1, 1, 1, 1], [2, 2]),
        (9, 2, [4, 5], [4, 5]),
        (3, 2, [1, 1, 1], [3]),
        (5, 8, [1] * 5, [2, 3]),
        (1, 2, [1], [1]),
    ],
)
def test_jobs_are_divided_among_processes(count: int, at_once: int, auto: list[int], always: list[int]) -> None:
    jobs = jobs_of(count)
    for stack, sizes in (("auto", auto), ("always", always)):
        found = units(jobs, stack, at_once)
        assert [len(unit) for unit in found] == sizes
        assert [job for unit in found for job in unit] == jobs
        assert why_alone(found, stack) == []


def test_with_stack_always_a_line_says_why_jobs_are_trained_alone() -> None:
    odd = jobs_of(2) + jobs_of(1, model={"_target_": "y"})
    odd = [replace(job, name=str(i)) for i, job in enumerate(odd)]
    found = units(odd, "always", 2)
    assert [len(unit) for unit in found] == [2, 1]
    assert why_alone(found, "always") == ["1 of 3 jobs is trained alone: no other differs from it in numbers alone"]
    assert why_alone(units(odd, "auto", 2), "auto") == []
    assert why_alone([[job] for job in odd], "always", "because") == ["3 of 3 jobs are trained alone: because"]
    assert [len(unit) for unit in units(jobs_of(4, device="cuda"), "auto", 1)] == [1] * 4
    assert [len(unit) for unit in units(jobs_of(4, device="cuda"), "always", 1)] == [4]


def test_on_a_gpu_jobs_train_together_only_where_that_is_typed() -> None:
    refuse_unmeasured("auto", torch.device("cpu"))
    refuse_unmeasured("always", torch.device("cuda"))
    with pytest.raises(UserError, match=r"on cuda that is not measured yet\. .* sweep\.stack=always"):
        refuse_unmeasured("auto", torch.device("cuda", 0))


def test_names_are_what_is_typed_unless_a_file_system_would_not_have_it() -> None:
    assert job_name({"optimizer.lr": "0.1", "seed": "0"}) == "lr=0.1,seed=0"
    assert job_name({"optimizer": "adam", "optimizer.lr": "0.1"}) == "adam,lr=0.1"
    assert job_name({"optimizer.lr": "1", "scheduler.lr": "1"}) == "optimizer.lr=1,scheduler.lr=1", "not the same twice"
    assert job_name({}) == "job"
    odd = [job_name({"data.path": path}) for path in ("a/b", "a-b", "a:b", "x" * 300, "x" * 301)]
    assert len(set(odd)) == len(odd)
    assert all("/" not in name and len(name) <= 120 for name in odd)


def planned(*words: str) -> list[Job]:
    """The jobs of a sweep that is typed so."""
    argv = ["--multirun", *words]
    with composer(argv, sorted_words(argv)) as made:
        return plan(made.jobs(), Path("runs/none"))


@pytest.mark.parametrize(
    ("word", "values"),
    [
        ("optimizer.lr=range(0.1,0.5,0.1)", [0.1, 0.2, 0.3, 0.4]),  # Hydra has 0.30000000000000004
        ("optimizer.lr=range(0.3,0.9,0.3)", [0.3, 0.6]),  # Hydra has the end, too: 3 times 0.3 is below 0.9
        ("optimizer.lr=range(0.9,0.1,-0.4)", [0.9, 0.5]),
        ("seed=range(0,3),7", [0, 1, 2, 7]),
        ("seed=9,${oc.env:TWO}", [9, 2]),
        ("seed=${oc.decode:${oc.env:TWO}},0", [2, 0]),
        ("optimizer.lr=${optimizer.eps},1e-3", [1e-8, 1e-3]),
    ],
)
def test_jobs_have_the_values_that_are_meant_and_are_called_by_them(
    word: str, values: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TWO", "2")
    jobs, (key, _, _) = planned(word), word.partition("=")
    assert [dict(leaves(resolved(job.request.config)))[key] for job in jobs] == values
    assert [float(job.swept[key]) for job in jobs] == values
    assert [job.name for job in jobs] == [f"{key.rpartition('.')[2]}={value}" for value in values]


@pytest.mark.parametrize("word", ["data.split_seed", "max_steps"])
def test_what_refers_to_a_key_that_differs_is_trained_together_with_its_like_alone(word: str) -> None:
    """A stack has one data set and one plan: the jobs of seed 4 had the splits and the steps of seed 3."""
    jobs = planned("model=two_layer", f"{word}=${{seed}}", "seed=3,4", "optimizer.lr=0.1,0.2")
    found = units(jobs, "always", 1)
    assert [[job.name for job in unit] for unit in found] == [
        [f"seed={seed},lr={lr}" for lr in (0.1, 0.2)] for seed in (3, 4)
    ]


def test_jobs_whose_samples_the_seed_draws_are_trained_together_with_those_of_their_seed() -> None:
    """All had the samples of the first."""
    jobs = planned("model=two_layer", "overfit=20", "seed=3,4", "optimizer.lr=0.1,0.2")
    assert [[job.name for job in unit] for unit in units(jobs, "always", 1)] == [
        [f"seed={seed},lr={lr}" for lr in (0.1, 0.2)] for seed in (3, 4)
    ]


DRAWN = """
import random
import numpy as np
import torch
from trainer import Samples

DRAWS = {"torch": lambda: torch.rand(1).item(), "numpy": np.random.rand, "python": random.random, "none": lambda: 0.5}

def load(by="none"):
    shift = DRAWS[by]()
    inputs = torch.linspace(-1, 1, 240).view(60, 4) + shift
    return tuple(Samples(inputs[i::3], (inputs[i::3].sum(1) > 4 * shift).long()) for i in range(3))
"""


@pytest.mark.parametrize("by", ["torch", "numpy", "python", "none"])
def test_jobs_have_the_samples_that_their_seeds_draw(by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stack has one data set, that of its first job: where a source of one's own draws by the seed, there is none."""
    monkeypatch.chdir(tmp_path)
    Path("drawn.py").write_text(DRAWN)
    words = (
        "model=two_layer",
        "data._target_=drawn.load",
        f"data.by={by}",
        "trust=[drawn]",
        "max_steps=2",
        "monitor=off",
    )
    runs = [(*words, "monitor=off", f"seed={seed}", f"name=run{seed}") for seed in (0, 1)]
    if by == "none":
        together(runs)
        assert read_result(Path("runs/run1"))
    else:
        with pytest.raises(UserError, match="together: the seed decides which samples there are"):
            together(runs)


def test_a_reference_that_is_a_number_of_a_stack_and_one_to_the_seed_that_is_shared() -> None:
    words = ("model=two_layer", "optimizer.weight_decay=${optimizer.lr}")
    assert [len(unit) for unit in units(planned(*words, "seed=3,4"), "always", 1)] == [2]
    jobs = planned("sweep.share_batches=true", "data.split_seed=5", "seed=${data.split_seed},1")
    assert [job.request.config["order_seed"] for job in jobs] == [5, 5]


@pytest.mark.parametrize("word", ["seed=2,${oc.env:TWO}", "optimizer=sgd,${oc.env:SGD}", "seed=range(0,3),2"])
def test_the_same_job_typed_in_two_ways_is_refused(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs of one seed would count as two seeds."""
    monkeypatch.setenv("TWO", "2")
    monkeypatch.setenv("SGD", "sgd")
    with pytest.raises(UserError, match=r"is the same as another. Type each value once"):
        planned(word)


@pytest.mark.parametrize(
    "word",
    ["optimizer.weight_decay=0,0.0", "optimizer.weight_decay=1,1.0", "optimizer.betas=[0,0.9],[0.0,0.9]"],
)
def test_a_number_in_two_ways_is_one_job(word: str) -> None:
    """Else it would be trained twice, and count twice in a mean."""
    with pytest.raises(UserError, match=r"^job 1 \(.*\): is the same as .*, which has the same values. Type each"):
        planned(word)
    assert len(planned("max_steps=1,2", "optimizer.weight_decay=0,0.1", "fast=true,false")) == 8
    own = "model._target_=mine.Net"  # to scikit-learn 1 are one sample, and 1.0 all of them
    assert [job.name for job in planned(own, "model.leaf=1,1.0")] == ["leaf=1", "leaf=1.0"]


def test_a_path_is_called_as_it_was_typed() -> None:
    words = ("data=table", "data.path=a/b.csv,größe.csv,'x y.csv'", "data.delimiter='comma',auto")
    swept = [job.swept for job in planned(*words)]
    assert [one["data.path"] for one in swept[::2]] == ["a/b.csv", "größe.csv", "x y.csv"]
    assert [one["data.delimiter"] for one in swept[:2]] == ["comma", "auto"]


def test_no_recipe_beside_one() -> None:
    jobs = planned("experiment=null,lenet_digits")
    assert [job.name for job in jobs] == ["experiment=null", "experiment=lenet_digits"]
    assert [job.request.choices["scheduler"] for job in jobs] == ["constant", "cosine"]


@pytest.mark.parametrize("word", ["seed=range(3,0)", "seed=range(0,3,0)", "optimizer.lr=range(0.1,1,0)"])
def test_a_range_without_numbers_is_refused(word: str) -> None:
    with pytest.raises(UserError, match=r"has no numbers. Type start, end and step: range\(0,3,1\)"):
        planned(word)


def test_glob_finds_no_place_for_a_class_that_is_typed() -> None:
    assert [job.name for job in planned("optimizer=glob([adam*,ow*])")] == ["adam", "adamw"]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("optuna") is None, reason="optuna not installed")
def test_a_range_has_no_end_in_a_search_either() -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    argv = ["hydra/sweeper=optuna", "data.folds=3", "data.fold=range(0,3)", "optimizer.lr=range(0.3,0.9,0.3)"]
    with composer(["--multirun", *argv], sorted_words(["--multirun", *argv])) as made:
        found = PluggedSweep(made.overrides, made.config_name)
        assert found.corners() == [("++data.fold=0", "optimizer.lr=0.3"), ("++data.fold=2", "optimizer.lr=0.6")]


def test_a_number_that_nobody_typed_has_as_many_digits_as_tell_it_apart() -> None:
    assert told_apart(["0.013981961408994055", "0.006431172050131994"]) == ["0.014", "0.00643"]
    assert told_apart(["0.013981961408994055", "0.013981961408994156"]) == ["0.0139819614089941", "0.0139819614089942"]
    assert told_apart(["0.12345", "1e-3", "adam", "0.1"]) == ["0.12345", "1e-3", "adam", "0.1"]
    assert rounded("runs/a/b/checkpoint", 3) == "runs/a/b/checkpoint"


def test_two_trials_never_share_a_folder(train: Callable[..., dict[str, Any]]) -> None:
    """Of the same three digits the second gets more, and the same trial the same name again."""
    train("model=two_layer", "monitor=off", "data.limit=40", "max_steps=1", "run_dir=x")
    base: Any = OmegaConf.to_container(OmegaConf.load("x/config.yaml"))
    choices = base.pop("choices")
    jobs: dict[str, Job] = {}
    names = []
    for rate in ("0.013981961408994055", "0.013981961408994156", "0.013981961408994055", "0.0139", "0.0139900000001"):
        optimizer = {**base["optimizer"], "lr": float(rate)}
        request = Request({**base, "optimizer": optimizer}, choices, [f"optimizer.lr={rate}"])
        job = job_of(request, Path("runs/s"), ["optimizer.lr"], jobs)
        assert jobs.setdefault(job.name, job).swept == {"optimizer.lr": rate}
        names.append(job.name.removeprefix("lr="))
    assert names == ["0.014", "0.01398", "0.014", "0.0139", "0.01399"]


ANOTHER = {
    "other keys": (("optimizer.lr=0.1,0.01",), "holds a sweep over seed (train --multirun "),
    "more keys": (("optimizer.lr=0.1,0.01", "seed=0,1"), ", and this one is over optimizer.lr and seed. Type another"),
    "no keys": ((), "and this one is over nothing. Type another name=."),
    "another batch size": (("seed=5,6", "batch_size=32"), "started differently: batch_size=32 (was 64)"),
    "another model": (("seed=5,6", "model.hidden_features=4"), "model.hidden_features=4 (was 8)"),
}


@pytest.fixture(scope="module")
def a_sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert cli.run_command(["--multirun", *SMALL, "seed=0,1", "name=s"]) == 0
    return folder


@pytest.mark.parametrize("words", ANOTHER)
def test_a_name_is_not_given_to_another_sweep(a_sweep: Path, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(a_sweep)
    before = {path: path.stat().st_mtime_ns for path in a_sweep.rglob("*")}
    typed, says = ANOTHER[words]
    with pytest.raises(UserError) as caught:
        cli.run_command(["--multirun", *SMALL, *typed, "name=s"])
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert {path: path.stat().st_mtime_ns for path in a_sweep.rglob("*")} == before


def test_more_values_and_more_steps_are_the_same_sweep(a_sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(a_sweep)
    for words in (("seed=0,1,2",), ("seed=2,3",), ("seed=7,8", "max_steps=9", "checkpoint.keep=1")):
        assert cli.run_command(["--multirun", *SMALL, *words, "name=s", "dry_run=true"]) == 0


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="it has no ulimit")
def test_jobs_that_train_together_open_no_more_files_than_they_may(tmp_path: Path) -> None:
    """Two thirds of these failed. The limit is often 1024, and 256 on macOS; jobs have five files open each."""
    words = ["--multirun", *SMALL[:-2], "monitor=scalars", "max_steps=2", "'seed=range(0,24)'", "name=s"]
    typed = f"ulimit -n 150 && {sys.executable} -m trainer {' '.join(words)}"
    done = subprocess.run(["sh", "-c", typed], capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    found = results(tmp_path / "runs/s")
    assert {row["status"] for row in found.values()} == {"finished"}
    told = {read_result(tmp_path / "runs/s" / name)["computed"] for name in found}
    assert told < {f"a stack of {count} runs" for count in range(2, 24)}


def test_a_job_is_of_the_length_that_it_was_last_trained_for(train: Callable[..., Any]) -> None:
    """Trained for longer, it would count as finished in a sweep over its first length, beside jobs of that length."""
    argv = ["--multirun", *SMALL, "seed=0,1"]
    for steps in (2, 4):
        train(*SMALL[:-2], "monitor=off", "seed=0", "run_dir=s/seed=0", f"max_steps={steps}")
    for words, is_done in ((("max_steps=4",), True), (("max_steps=6",), False), (("max_steps=4", "test=last"), False)):
        with composer([*argv, *words], sorted_words([*argv, *words])) as made:
            assert [is_finished(job) for job in plan(made.jobs(), Path("s"))] == [is_done, False]
    for words in (("max_steps=2",), ("max_steps=3",)):
        says = rf"job 0 \(seed=0\): {words[0]}: the run in s/seed=0 has gone on to max_steps=4. Type max_steps=4, or"
        with composer([*argv, *words], sorted_words([*argv, *words])) as made, pytest.raises(UserError, match=says):
            plan(made.jobs(), Path("s"))
    # Its best weights are not chosen anew: beside jobs that are judged otherwise its numbers would stand in one mean.
    for word, begun in (
        ("eval_every=3", "eval_every=null"),
        ("checkpoint.metric=val/accuracy", "checkpoint.metric=val/loss"),
    ):
        says = rf"job 0 \(seed=0\): {word}: the run in s/seed=0 was finished with {begun}. Type {begun}, or "
        words = [*argv, "max_steps=4", word]
        with composer(words, sorted_words(words)) as made, pytest.raises(UserError, match=says):
            plan(made.jobs(), Path("s"))
        words = [*argv, "max_steps=4", begun]
        with composer(words, sorted_words(words)) as made:
            assert len(plan(made.jobs(), Path("s"))) == 2


def test_words_in_another_order_are_the_same_jobs(tmp_path: Path) -> None:
    """They were trained a second time, beside the first, under other names."""
    (tmp_path / "sweep.yaml").write_text("command: []\nswept: [optimizer.lr, seed]\njobs: []\n")
    argv = ["--multirun", "seed=1,0", "optimizer.lr=0.1"]
    for lr, names in ((0.1, ["seed=1", "seed=0"]), ("0.1,0.2", ["lr=0.1,seed=1", "lr=0.2,seed=1", "lr=0.1,seed=0"])):
        argv[-1] = f"optimizer.lr={lr}"
        with composer(argv, sorted_words(argv)) as made:
            assert [job.name for job in plan(made.jobs(), tmp_path)][:3] == names


@pytest.mark.slow
def test_values_that_refer_to_a_swept_key_are_the_same_sweep(train: Callable[..., Any]) -> None:
    train("--multirun", *SMALL, "data.split_seed=${seed}", "seed=0,1", "sweep.metric=${checkpoint.metric}", "name=s")
    train("--multirun", *SMALL, "data.split_seed=${seed}", "seed=2,3", "name=s", "dry_run=true")
    with pytest.raises(UserError, match=r"started differently: data.split_seed=3 \(was 0\)"):
        train("--multirun", *SMALL, "data.split_seed=3", "seed=2,3", "name=s", "dry_run=true")
    config = OmegaConf.load("runs/s/seed=1/config.yaml")
    assert config.data.split_seed == 1, "each job keeps the reference"


def test_a_sweep_of_which_nothing_is_told_is_not_refused(tmp_path: Path) -> None:
    job = Job("seed=1", tmp_path / "seed=1", {"seed": "1"}, Request({"order_seed": None, "seed": 1}, {}, []))
    for text in ("", "swept: 3", "command: [1]", "x: [", "swept: [seed]\ncommand: {}"):
        (tmp_path / "sweep.yaml").write_text(text)
        refuse_another(tmp_path, [job])


def test_the_best_setting_is_that_of_the_best_mean() -> None:
    def row(lr: str, seed: int, accuracy: float | None) -> Row:
        job = Job(f"{lr}-{seed}", Path(), {"lr": lr, "seed": str(seed)}, Request({}, {}, []))
        return Row(
            job, "finished", "", {} if accuracy is None else {"best/val/accuracy": accuracy, "best/val/loss": 1.0}
        )

    rows = [row("0.1", 0, 0.9), row("0.1", 1, 0.5), row("0.2", 0, 0.75), row("0.2", 1, 0.8), row("1", 0, None)]
    assert metric_of(rows, None) == "best/val/accuracy"
    assert metric_of(rows, "val/loss") == "best/val/loss"
    found = settings(rows, "best/val/accuracy")
    assert [setting.swept for setting in found] == [{"lr": "0.2"}, {"lr": "0.1"}, {"lr": "1"}]
    assert found[1].mean("best/val/accuracy") == pytest.approx(0.7)
    assert found[1].spread("best/val/accuracy") == pytest.approx(0.2828427)


def test_the_results_of_many_jobs_are_not_written_after_each(tmp_path: Path) -> None:
    looks: list[float] = []

    def rows() -> list[Row]:
        time.sleep(0.02)  # as long as it takes where there are many
        looks.append(time.monotonic())
        return []

    table = Table(tmp_path, rows)
    for _ in range(50):
        table.refresh()
    assert len(looks) == 1
    while len(looks) == 1:
        table.refresh()
    assert looks[1] - looks[0] >= 0.02 / table.SHARE
    table.write()
    assert len(looks) == 3
    assert json.loads((tmp_path / "results.json").read_text()) == []


def test_the_mean_of_a_setting_is_of_jobs_that_came_to_their_end() -> None:
    """One that was interrupted, or stopped by NaN, was trained for a part of the steps."""

    def rows(*ends: tuple[str, float]) -> list[Row]:
        jobs = [Job(str(i), Path(), {"seed": str(i)}, Request({}, {}, [])) for i in range(len(ends))]
        return [Row(job, status, "", {"val/loss": x}) for job, (status, x) in zip(jobs, ends, strict=True)]

    (mixed,) = settings(rows(("finished", 1.0), ("interrupted", 9.0), ("finished", 3.0), ("stopped", 7.0)), "val/loss")
    assert (mixed.mean("val/loss"), mixed.counts()) == (2.0, [1, 0, 1])
    (partly,) = settings(rows(("interrupted", 9.0), ("waiting", math.nan), ("pruned", 5.0)), "val/loss")
    assert (partly.mean("val/loss"), partly.counts()) == (9.0, [0, 1, 2]), "better than nothing, and marked"
