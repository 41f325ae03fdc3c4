"""A resumed run ends with the bits of the unbroken one."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exact import assert_same, states
from trainer.disk import checkpoint
from trainer.errors import UserError

# 1,258 training samples in batches of 100: 13 steps an epoch, the last one of 58 samples.
BASE = ("monitor=off", "batch_size=100", "max_steps=30", "checkpoint.every=7", "checkpoint.keep=100")
LAYERS = (
    "[{_target_:torch.nn.Flatten},{_target_:torch.nn.Linear,in_features:64,out_features:20},"
    "{_target_:torch.nn.BatchNorm1d,num_features:20},{_target_:torch.nn.ReLU},"
    "{_target_:torch.nn.Linear,in_features:20,out_features:10}]"
)
RECIPES = {
    "momentum": ("optimizer=sgd", "optimizer.momentum=0.9", "scheduler=cosine"),
    "adam and dropout": ("model=sequential", "loss=nll", "optimizer=adam"),
    "augmentation": ("data.augment.crop_padding=2", "data.augment.horizontal_flip=true", "data.augment.rotation=10"),
    "accumulation": ("model=two_layer", "gradient.accumulate=3", "gradient.clip_norm=1"),
    "plateau": ("model=two_layer", "scheduler=plateau", "scheduler.patience=0", "eval_every=3", "optimizer.lr=0.1"),
    "one cycle": ("model=two_layer", "optimizer=rmsprop", "scheduler=one_cycle"),
    "bfloat16": ("model=two_layer", "precision=bfloat16", "optimizer=adagrad"),
    "double precision": ("dtype=float64", "model=two_layer", "optimizer=nadam", "optimizer.decay=weights"),
    "batch norm": ("model=sequential", f"model.layers={LAYERS}", "loss=cross_entropy"),
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_going_on_from_the_middle_of_an_epoch_is_exact(recipe: str, train: Callable[..., dict[str, Any]]) -> None:
    words = (*BASE, *RECIPES[recipe])
    unbroken = train(*words, "name=it")
    steps, stop = unbroken["steps"], 14
    at_its_end, metrics = states("runs/it", steps), recorded("runs/it")
    assert stop < steps
    # As a kill just after the second checkpoint leaves it: nothing later is there.
    folder = Path("runs/it/checkpoints")
    for path in folder.iterdir():
        if path.name > f"step_{stop:08d}.pt" or not path.name.startswith("step"):
            path.unlink()
    best = states("runs/it", stop)["best"]
    if best:
        (folder / "best.pt").hardlink_to(folder / f"step_{best['step']:08d}.pt")
    Path("runs/it/result.json").unlink()
    assert_same(unbroken, train(*words, "name=it"))
    assert_same(at_its_end, states("runs/it", steps))
    assert_same(metrics, recorded("runs/it"))


def recorded(folder: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(folder, "metrics.jsonl").read_text().splitlines()]


def kept(name: str) -> list[int]:
    return sorted(int(path.stem[5:]) for path in Path("runs", name, "checkpoints").glob("step_*.pt"))


def test_a_history_is_the_same_where_the_run_was_stopped_and_changes_no_number(
    train: Callable[..., dict[str, Any]],
) -> None:
    words = ("monitor=off", "model=two_layer", "batch_size=100", "max_steps=45", "eval_every=50", "checkpoint.keep=1")
    plain = train(*words, "name=plain")
    history = (*words, "checkpoint.history=4")
    assert_same(plain, train(*history, "name=unbroken"))
    assert kept("unbroken") == [16, 32, 45]
    train(*history, "max_steps=20", "name=broken")
    assert kept("broken") == [8, 16, 20]
    assert_same(plain, train(*history, "name=broken"))
    assert kept("broken") == kept("unbroken")
    assert_same(states("runs/unbroken", 32)["model"], states("runs/broken", 32)["model"])


def test_epochs_say_when_as_steps_do(train: Callable[..., dict[str, Any]]) -> None:
    words = ("monitor=off", "model=two_layer", "batch_size=100", "max_steps=45", "eval_every=50", "checkpoint.keep=9")
    train(*words, "checkpoint.every_epochs=1", "name=it")
    assert kept("it") == [13, 26, 39, 45]
    with pytest.raises(UserError, match=r"checkpoint.every=5 checkpoint.every_epochs=1: both say how often") as said:
        train("resume=runs/it", "checkpoint.every=5", "max_steps=50")
    assert "Type checkpoint.every_epochs=null" in str(said.value)
    train("resume=runs/it", "checkpoint.every=5", "max_steps=52", "checkpoint.every_epochs=null")
    assert kept("it") == [13, 26, 39, 45, 50, 52]


def test_resume_takes_all_from_the_folder_and_may_go_further(train: Callable[..., dict[str, Any]]) -> None:
    words = ("monitor=off", "model=two_layer", "optimizer=sgd", "optimizer.momentum=0.5", "batch_size=100")
    long = train(*words, "max_steps=20", "name=long")
    train(*words, "max_steps=9", "name=short")
    assert_same(long, train("resume=runs/short", "max_steps=20", "monitor=off"))


def test_auto_goes_on_with_the_newest_run_of_the_same_kind_that_has_not_ended(
    train: Callable[..., dict[str, Any]],
) -> None:
    words = ("monitor=off", "model=two_layer", "max_steps=20", "resume=auto")
    train(*words, "optimizer.lr=0.5", "max_steps=2")  # another kind
    first = train(*words)
    folder = next(path.parent for path in Path("runs").rglob("result.json") if json.loads(path.read_text()) == first)
    (folder / "result.json").unlink()  # as if it had been killed while it was tested
    assert_same(first, train(*words))
    assert len(list(Path("runs").rglob("config.yaml"))) == 2
    train(*words)  # there is nothing to go on from
    assert len(list(Path("runs").rglob("config.yaml"))) == 3


@pytest.mark.parametrize("left", [[], ["overrides.yaml"], [".config.yaml.tmp", ".lock"]])
def test_a_run_that_was_killed_before_it_had_a_config_begins_again(
    left: list[str], train: Callable[..., dict[str, Any]]
) -> None:
    Path("runs/young").mkdir(parents=True)
    for name in left:
        Path("runs/young", name).touch()
    train("monitor=off", "model=two_layer", "max_steps=2", "name=young")
    assert list(Path("runs/young").glob(".*")) == []


@pytest.mark.slow
def test_a_run_that_is_going_on_is_not_written_by_another(
    tmp_path: Path, command: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    words = ("monitor=off", "max_steps=100000", "console.every=1", "model=two_layer", "name=it", "checkpoint.every=1")
    process = subprocess.Popen(
        [sys.executable, "-m", "trainer", *words], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    while not (tmp_path / "runs/it/checkpoints/last.pt").exists():
        time.sleep(0.01)
    for second in (words, ("resume=runs/it",)):
        refused = command(*second)
        assert refused.returncode == 2
        assert f"error: runs/it: process {process.pid} on " in refused.stderr
        assert " is training here." in refused.stderr
    process.terminate()
    process.communicate(timeout=600)
    assert process.returncode == 143


@pytest.mark.long
def test_a_signal_breaks_a_long_validation_off(
    tmp_path: Path, command: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """It would take half a minute. The run that goes on begins with it, and nothing is lost."""
    (tmp_path / "slow.py").write_text(
        "import os, time\n"
        "from trainer.models.two_layer import TwoLayer\n"
        "class Slow(TwoLayer):\n"
        "    def forward(self, inputs):\n"
        "        if not self.training and len(inputs) > 2 and 'SLOW' in os.environ:\n"
        "            print('validating', flush=True)\n"
        "            time.sleep(1)\n"
        "        return super().forward(inputs)\n"
    )
    words = (
        "model._target_=slow.Slow",
        "+model.hidden_features=8",
        "trust=[slow]",
        "data=random_regression",
        "loss=mse",
    )
    words += ("data.num_samples=20000", "batch_size=1000", "max_steps=6", "eval_every=3", "scheduler=plateau")
    process = subprocess.Popen(
        [sys.executable, "-m", "trainer", *words, "name=it"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "SLOW": "1"},
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line == "validating\n":
            break
    process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 143
    assert "stopped after step 3 and saved" in errors
    assert time.monotonic() - began < 10
    for name in ("it", "whole"):
        done = command(*words, f"name={name}")
        assert done.returncode == 0, done.stderr
    metrics = [(tmp_path / "runs" / name / "metrics.jsonl").read_text().splitlines() for name in ("whole", "it")]
    assert_same(*([json.loads(line) for line in lines] for lines in metrics))
    last = [checkpoint.read(tmp_path / "runs" / name / "checkpoints/last.pt") for name in ("whole", "it")]
    assert_same(*last)


def test_a_finished_run_says_so_and_changes_nothing(
    train: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    first = train("monitor=off", "max_steps=2", "name=done")
    files = {p: p.stat().st_mtime_ns for p in Path("runs").rglob("*")}
    assert train("monitor=off", "max_steps=2", "name=done") == first
    assert "runs/done is finished" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in Path("runs").rglob("*")} == files


def test_a_run_started_differently_is_not_gone_on_with(train: Callable[..., dict[str, Any]]) -> None:
    train("monitor=off", "max_steps=2", "name=one")
    with pytest.raises(UserError, match=r"batch_size=32 \(was 64\), .*optimizer.lr=0.5 \(was 0.002\)"):
        train("monitor=off", "max_steps=4", "name=one", "optimizer.lr=0.5", "batch_size=32")
    with pytest.raises(UserError, match=r"seed=1 \(was 0\)"):
        train("resume=runs/one", "seed=1")


def test_a_config_in_a_run_folder_is_not_trusted(train: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    train("monitor=off", "max_steps=2", "name=foreign")
    config = Path("runs/foreign/config.yaml")
    marker = tmp_path / "it-ran"
    (tmp_path / "evil.py").write_text(f"open({str(marker)!r}, 'w')\nclass Net: pass\n")
    text = config.read_text().replace("trainer.models.lenet.LeNet", "evil.Net").replace("trust: []", "trust: [evil]")
    config.write_text(text)
    with pytest.raises(UserError, match=r"evil\.Net"):
        train("resume=runs/foreign", "max_steps=4")
    assert not marker.exists()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_after_the_step_and_saves(
    number: int, code: int, tmp_path: Path, command: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    words = ("monitor=off", "max_epochs=null", "max_steps=100000", "console.every=1", "model=two_layer", "name=it")
    process = subprocess.Popen(
        [sys.executable, "-m", "trainer", *words],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step=5 "):
            break
    process.send_signal(number)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == code
    assert "train resume=runs/it" in errors
    assert "Traceback" not in errors
    stopped = json.loads((tmp_path / "runs/it/result.json").read_text())
    assert stopped["status"] == "interrupted"
    goal = stopped["steps"] + 5
    gone_on = command("resume=runs/it", f"max_steps={goal}")
    assert gone_on.returncode == 0, gone_on.stderr
    straight = command("monitor=off", "model=two_layer", f"max_steps={goal}", "name=straight")
    assert straight.returncode == 0, straight.stderr
    last = [checkpoint.read(tmp_path / "runs" / name / "checkpoints/last.pt") for name in ("it", "straight")]
    assert_same(last[0]["model"], last[1]["model"])
