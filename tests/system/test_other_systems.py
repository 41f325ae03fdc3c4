"""Windows and macOS as far as they can be had without one: what `trainer` is shown lacks what they lack.

See `simulated/sitecustomize.py` for what is taken away, in real processes. mypy, run for each system by `.ci/run`,
looks for names that one of them has not.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from exact import assert_same
from trainer.disk import checkpoint

HERE = Path(__file__).parent
SYSTEMS = ("windows", "macos")
QUICK = ["model=two_layer", "data.limit=100", "threads=1"]
PICTURES = [
    *("model=lenet", "data=image_folder", "data.root=pictures", "data.num_workers=2", "data.image_size=32"),
    *("data.augment.crop_padding=2", "batch_size=5", "max_steps=40", "checkpoint.every=10", "threads=1", "monitor=off"),
]
SWEEP = ["optimizer.lr=0.001,0.01", "seed=0,1", "sweep.jobs=2", "sweep.stack=never", "name=s"]
# (words, exit code, what is said)
DAY: list[tuple[list[str], int, str]] = [
    (["--version"], 0, "train"),
    (["--help"], 0, "model="),
    (["help", "keys"], 0, "monitor.activations"),
    (["--cfg", "job"], 0, "model:"),
    (["-sc", "query=bash", "model="], 0, ""),
    ([*QUICK, "monitor=full", "max_steps=10", "name=a"], 0, "in runs/a"),
    ([*QUICK, "monitor=full", "max_steps=20", "name=a"], 0, "step=20"),
    ([*QUICK, "max_steps=10", "name=b", "seed=1"], 0, "in runs/b"),
    ([*PICTURES, "name=pictures"], 0, "step=40"),
    (["--multirun", *QUICK, *SWEEP, "max_steps=5"], 0, "4 of 4"),
    (["runs"], 0, "pictures"),
    (["runs", "--json"], 0, '"seed"'),
    (["show", "a"], 0, "finished, 20 steps"),
    (["compare", "runs/a", "runs/b", "--png", "ab.png"], 0, "seed"),
    (["compare", "runs/s", "--png", "s.png"], 0, "seeds"),
    (["modell=lenet"], 2, "Type model=lenet"),
]


def made(system: str, folder: Path) -> dict[str, str]:
    """The environment of a process that believes to be on another system."""
    paths = [str(HERE / "simulated"), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    own = {"SIMULATED": system, "SIMULATED_IN": str(folder.resolve()), "PYTHONPATH": os.pathsep.join(paths)}
    if system == "windows":  # as it writes to a pipe, and what a file is opened with if nothing is said
        own |= {"PYTHONIOENCODING": "cp1252", "PYTHONWARNDEFAULTENCODING": "1"}
    return {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg", **own}


def pictures(folder: Path) -> None:
    draw = np.random.default_rng(0)
    for name in ("Katze", "dog"):
        (folder / "pictures" / name).mkdir(parents=True)
        for i in range(20):
            pixels = draw.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "pictures" / name / f"{i}.png")


def started(system: str, folder: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "trainer", *words],
        cwd=folder,
        env=made(system, folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="cp1252" if system == "windows" else "utf-8",
    )


def wait_for(is_there: Callable[[], Any], process: subprocess.Popen[str]) -> None:
    """However busy the machine is; not once the process has ended."""
    while not is_there():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


@pytest.mark.long
@pytest.mark.parametrize("system", SYSTEMS)
def test_a_day_on_another_system(system: str, tmp_path: Path, train: Any) -> None:
    (there := tmp_path / "there").mkdir()
    pictures(there)
    done = subprocess.run(
        [sys.executable, str(HERE / "session.py"), json.dumps([words for words, _, _ in DAY])],
        cwd=there,
        env=made(system, there),
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    for (words, code, said), (found, out, errors) in zip(DAY, json.loads(done.stdout), strict=True):
        assert found == code, (words, found, out, errors)
        assert said in out + errors, (words, out, errors)
        assert "Traceback" not in out + errors, (words, out, errors)
    assert not list(there.rglob("*.tmp"))
    assert not list(there.rglob(".lock"))
    # The same numbers as here, bit for bit: of a run that went on, of one with workers, and of a job.
    train(*QUICK, "max_steps=20", "name=a", "monitor=off")
    os.symlink(there / "pictures", tmp_path / "pictures")
    train(*PICTURES, "name=pictures", "data.num_workers=0")
    train(*QUICK, "max_steps=5", "optimizer.lr=0.01", "seed=1", "name=job")
    for one, other in (("a", "a"), ("pictures", "pictures"), ("s/lr=0.01,seed=1", "job")):
        newest = [max(path.glob("checkpoints/step_*.pt")) for path in (there / "runs" / one, tmp_path / "runs" / other)]
        assert newest[0].name == newest[1].name
        assert_same(*(checkpoint.read(path)["model"] for path in newest))


@pytest.mark.long
@pytest.mark.parametrize("system", SYSTEMS)
def test_a_killed_run_leaves_no_worker_and_goes_on_to_the_same_end(system: str, tmp_path: Path, train: Any) -> None:
    pictures(tmp_path)
    with started(system, tmp_path, *PICTURES, "name=killed") as run:
        wait_for(lambda: list(tmp_path.glob("runs/killed/checkpoints/step_*.pt")), run)
        workers = psutil.Process(run.pid).children(recursive=True)
        assert len(workers) >= 2
        run.kill()
        run.communicate()
    assert psutil.wait_procs(workers, timeout=600)[1] == []
    with started(system, tmp_path, *PICTURES, "name=killed") as again:
        _, errors = again.communicate()
    assert again.returncode == 0, errors
    train(*PICTURES, "name=whole", "data.num_workers=0")
    ends = [checkpoint.read(tmp_path / f"runs/{name}/checkpoints/step_00000040.pt") for name in ("killed", "whole")]
    assert_same(ends[0]["model"], ends[1]["model"])
    assert_same(ends[0]["optimizer"], ends[1]["optimizer"])


@pytest.mark.long
@pytest.mark.parametrize("system", SYSTEMS)
def test_ctrl_c_saves_every_job_of_a_sweep(system: str, tmp_path: Path) -> None:
    """Where os.kill would only end them: a pipe tells them."""
    jobs = ("seed=0,1", "sweep.jobs=2", "sweep.stack=never", "max_steps=1000000", "checkpoint.every=500", "name=s")
    with started(system, tmp_path, "--multirun", *QUICK, *jobs, "monitor=off") as sweep:
        wait_for(lambda: len({p.parent for p in tmp_path.glob("runs/s/*/checkpoints/step_*.pt")}) == 2, sweep)
        sweep.send_signal(signal.SIGINT)
        _, errors = sweep.communicate()
    assert sweep.returncode == 130, errors
    for seed in (0, 1):
        result = json.loads((tmp_path / f"runs/s/seed={seed}/result.json").read_text(encoding="utf-8"))
        assert result["status"] == "interrupted"
        assert (tmp_path / f"runs/s/seed={seed}/checkpoints/step_{result['steps']:08}.pt").exists()
