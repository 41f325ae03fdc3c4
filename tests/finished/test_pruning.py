"""Pruning: a job that does worse than half of those before it ends early, is no failure, and can go on all the same."""

import json
import random
import subprocess
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from exact import assert_same
from trainer.disk import checkpoint
from trainer.finished.pruning import MedianRule

Command = Callable[..., subprocess.CompletedProcess[str]]
Curve = dict[int, float | None]


def write_run(folder: Path, status: str, curve: Curve, tag: str) -> None:
    folder.mkdir(parents=True)
    lines = [json.dumps({"step": step, "train/loss": 1.0}) + "\n" for step in (1, 2)]
    lines += [json.dumps({"step": step, tag: value}) + "\n" for step, value in curve.items()]
    (folder / "metrics.jsonl").write_text("".join(lines) + '{"step": 4, "torn')
    (folder / "result.json").write_text(json.dumps({"status": status, "steps": 40}))


def test_worse_than_the_median_of_the_finished(tmp_path: Path) -> None:
    for name, status, at_20 in (
        ("a", "finished", 0.6),
        ("b", "finished", 0.8),
        ("c", "finished", 0.7),
        ("d", "finished", None),  # not finite: no value
        ("e", "stopped", 0.99),
        ("f", "pruned", 0.99),
    ):
        write_run(tmp_path / name, status, {10: 0.5, 20: at_20, 30: 1.0}, "val/accuracy")
    rule, best = MedianRule(tmp_path / "own", "val/accuracy", 4, 10), "best/val/accuracy"
    assert rule.verdict(20, {best: 0.7}) is None
    assert rule.verdict(20, {best: 0.69}) == "best/val/accuracy=0.69, the median of 3 finished jobs at this step is 0.7"
    assert rule.verdict(25, {best: 0.0}) is None, "nobody was validated at this step"
    assert rule.verdict(9, {best: 0.0}) is None, "the first steps are free"
    assert MedianRule(tmp_path / "own", "val/accuracy", 5, 10).verdict(20, {best: 0.0}) is None, "too few have finished"
    assert MedianRule(tmp_path / "own", "val/loss", 1, 0).verdict(20, {"best/val/loss": 9.0}) is None, (
        "nobody has this metric"
    )
    assert MedianRule(tmp_path / "b", "val/accuracy", 3, 0).verdict(20, {best: 0.64}) is not None, "of a and c: 0.65"


@pytest.mark.slow
@pytest.mark.parametrize("tag", ["val/accuracy", "val/loss"])
def test_the_verdicts_are_those_of_optuna(tag: str, tmp_path: Path) -> None:
    with warnings.catch_warnings(action="ignore"):  # it speaks to SQLAlchemy as one did before version 2
        optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sign, pick = (-1, max) if tag == "val/accuracy" else (1, min)
    draw = random.Random(0)
    first, warmup = 3, 20
    pruner = optuna.pruners.MedianPruner(n_startup_trials=first, n_warmup_steps=warmup)
    study = optuna.create_study(direction="maximize" if sign < 0 else "minimize", pruner=pruner)
    num_pruned = 0
    for number in range(40):
        trial, own = study.ask(), tmp_path / str(number)
        curve: Curve = {}
        rule = MedianRule(own, tag, first, warmup)
        status = "finished"
        for step in (10, 20, 30, 40):
            curve[step] = value = round(draw.random(), 2)
            trial.report(value, step)
            verdict = rule.verdict(step, {f"best/{tag}": pick(v for v in curve.values() if v is not None)})
            assert (verdict is not None) == trial.should_prune()
            if verdict is not None:
                status, num_pruned = "pruned", num_pruned + 1
                break
        if status == "finished":
            study.tell(trial, curve[step])
        else:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        write_run(own, status, curve, tag)
    assert 5 < num_pruned < 35


@pytest.mark.slow
def test_a_pruned_job_is_no_failure_and_goes_on_when_asked(command: Command, tmp_path: Path) -> None:
    """Four good learning rates, then one that learns nothing."""
    words = ("model=two_layer", "model.hidden_features=8", "data.limit=200", "max_steps=40", "eval_every=10")
    words += ("monitor=off", "optimizer.lr=0.1,0.03,0.05,1e-09")
    prune = ("sweep.prune=median", "sweep.prune_first=3", "sweep.prune_steps=20")
    done = command("--multirun", *words, *prune, "name=s")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs/s"
    rows: dict[str, dict[str, Any]] = {row["name"]: row for row in json.loads((folder / "results.json").read_text())}
    pruned = rows.pop("lr=1e-09")
    assert {row["status"] for row in rows.values()} == {"finished"}
    assert (pruned["status"], pruned["reason"], pruned["steps"]) == ("pruned", "", 20)
    assert "lr=1e-09: pruned after step 20" in done.stdout
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("1e-09")]
    assert line.split() == ["1e-09", "1"], "ranked last, without a number"
    log = (folder / "lr=1e-09/log.txt").read_text()
    assert "error: pruned after step 20: best/val/accuracy=" in log
    again = command("--multirun", *words, *prune, "name=s")
    assert (again.returncode, "4 of 4 jobs have run already" in again.stdout) == (0, True)

    hopeless = folder / "lr=1e-09"
    on = command(f'resume="{hopeless}"', "sweep.prune=null")
    assert on.returncode == 0, on.stderr
    alone = command(*words[:-1], "optimizer.lr=1e-09", "name=alone")
    assert alone.returncode == 0, alone.stderr
    both = (hopeless, tmp_path / "runs/alone")
    assert_same(*(checkpoint.read(path / "checkpoints/last.pt") for path in both))
    metrics = [[json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()] for path in both]
    without_times = [[{k: v for k, v in record.items() if "time/" not in k} for record in run] for run in metrics]
    assert without_times[0] == without_times[1]
    assert without_times[0][-1]["step"] == 40


@pytest.mark.long
def test_a_search_prunes(command: Command, tmp_path: Path) -> None:
    """Pruned trials count for the search, with what they had come to, and the best is none of them."""
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    words = ("model=two_layer", "model.hidden_features=8", "data.limit=200", "max_steps=40", "eval_every=10")
    words += ("monitor=off", "optimizer.lr=tag(log,interval(1e-6,1e-1))", "hydra.sweeper.n_trials=8", "name=s")
    prune = ("sweep.prune=median", "sweep.prune_first=2")
    done = command("--multirun", "hydra/sweeper=optuna", *words, *prune)
    assert (done.returncode, done.stderr) == (0, "")
    rows = json.loads((tmp_path / "runs/s/results.json").read_text())
    assert len(rows) == 8
    steps = {status: [row["steps"] for row in rows if row["status"] == status] for status in ("finished", "pruned")}
    assert len(steps["finished"]) + len(steps["pruned"]) == 8
    assert 2 <= len(steps["pruned"]) <= 6
    assert max(steps["pruned"]) < 40 == min(steps["finished"])
    best = OmegaConf.load(tmp_path / "runs/s/optimization_results.yaml")
    (row,) = [row for row in rows if row["optimizer.lr"] == str(best.best_params["optimizer.lr"])]
    assert (row["status"], row["best/val/accuracy"]) == ("finished", best.best_value)


@pytest.mark.slow
def test_a_run_of_no_sweep_and_a_test_tag_are_refused(command: Command, tmp_path: Path) -> None:
    words = ("model=two_layer", "data.limit=40", "max_steps=3", "eval_every=1", "monitor=off", "sweep.prune=median")
    lone = command(*words, "name=a")
    assert (lone.returncode, "sweep.prune=median: is of a sweep." in lone.stderr) == (2, True)
    refused = command("--multirun", *words, "seed=0,1", "sweep.metric=test/accuracy", "name=s")
    assert refused.returncode == 2
    line = "sweep.metric=test/accuracy: sweep.prune judges by a validation tag. Type sweep.prune=null.\n"
    assert refused.stderr == f"error: job 0 (seed=0): {line}"
