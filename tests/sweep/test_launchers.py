"""Sweeps by Hydra's plugins: Optuna chooses the jobs, Ray and submitit run them. Each is skipped where it is missing.

`pip install -e ".[test,optuna,ray,slurm]"`, then all of them: `pytest -m "long or not long" tests/test_launchers.py`.
"""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from moods import MOODS
from trainer.sweep.cluster import Cluster, Errand
from trainer.sweep.plan import Job

Command = Callable[..., subprocess.CompletedProcess[str]]

SMALL = ("model=two_layer", "model.hidden_features=8", "data.limit=100", "max_steps=20", "monitor=off", "threads=1")
LR = "optimizer.lr=tag(log,interval(1e-4,1e-1))"


def needs(*modules: str) -> pytest.MarkDecorator:
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    return pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} not installed")


def plugin(name: str) -> str:
    return f"hydra_plugins.hydra_{name}" if importlib.util.find_spec("hydra_plugins") else "hydra_plugins"


needs_optuna = needs(plugin("optuna_sweeper"))
needs_ray = needs(plugin("ray_launcher"))
needs_submitit = needs(plugin("submitit_launcher"))


def results(folder: Path) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in json.loads((folder / "results.json").read_text())}


def times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("result.json")}


def only_below(folder: Path, name: str) -> bool:
    """Whether a command has left nothing behind but the folder of its sweep."""
    return [path.name for path in folder.iterdir() if path.suffix != ".py" and path.name != "__pycache__"] == [
        "runs"
    ] and [path.name for path in (folder / "runs").iterdir()] == [name]


@pytest.mark.slow
@needs_optuna
def test_a_search_finds_the_best_and_the_same_command_goes_on(command: Command, tmp_path: Path) -> None:
    words = ("--multirun", "hydra/sweeper=optuna", *SMALL, LR, "name=search", "sweep.jobs=2")
    first = command(*words, "hydra.sweeper.n_trials=4")
    assert (first.returncode, first.stderr) == (0, "")
    folder = tmp_path / "runs/search"
    rows = results(folder)
    assert len(rows) == 4
    assert {row["status"] for row in rows.values()} == {"finished"}
    assert all(1e-4 <= float(row["optimizer.lr"]) <= 1e-1 for row in rows.values())
    assert {f"lr={float(row['optimizer.lr']):.3g}" for row in rows.values()} == set(rows)  # three digits do
    best = OmegaConf.load(folder / "optimization_results.yaml")
    assert best.best_value == max(row["best/val/accuracy"] for row in rows.values())
    assert rows[f"lr={best.best_params['optimizer.lr']:.3g}"]["best/val/accuracy"] == best.best_value
    table = [line.split() for line in first.stdout.splitlines() if line.startswith("0.")]
    assert [float(line[1]) for line in table] == sorted((float(line[1]) for line in table), reverse=True)
    assert only_below(tmp_path, "search")

    before = times(folder)
    more = command(*words, "hydra.sweeper.n_trials=6")
    assert (more.returncode, more.stderr) == (0, "")
    after = times(folder)
    assert len(after) == 6
    assert {path: after[path] for path in before} == before
    assert more.stdout.count(": started") == 2


@pytest.mark.slow
@needs_optuna
def test_trials_that_are_called_as_an_end_of_their_interval_go_on(command: Command) -> None:
    words = ("--multirun", "hydra/sweeper=optuna", *SMALL, "optimizer.lr=interval(0.01,0.0100001)", "name=narrow")
    for num_trials, num_new in ((1, 1), (2, 1)):
        done = command(*words, f"hydra.sweeper.n_trials={num_trials}")
        assert (done.returncode, done.stderr, done.stdout.count(": started")) == (0, "", num_new)


@needs_optuna
@pytest.mark.long
def test_a_loss_is_made_small_and_a_failed_trial_ends_nothing(command: Command, tmp_path: Path) -> None:
    words = ("optimizer=sgd", "loss=mse", "optimizer.lr=0.1,1e30,0.001", "hydra.sweeper.n_trials=8", "name=s")
    done = command("--multirun", "hydra/sweeper=optuna", *SMALL, *words, "sweep.metric=val/loss")
    assert done.returncode == 1
    rows = results(tmp_path / "runs/s")
    assert {name: row["status"] for name, row in rows.items()} == {
        "lr=0.1": "finished",
        "lr=1e+30": "stopped",
        "lr=0.001": "finished",
    }
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: lr=1e+30: train/loss=nan at step ")
    best = OmegaConf.load(tmp_path / "runs/s/optimization_results.yaml")
    losses = {name: row["best/val/loss"] for name, row in rows.items() if row["status"] == "finished"}
    assert best.best_value == min(losses.values()) < max(losses.values())


@pytest.mark.slow
@needs_optuna
@pytest.mark.parametrize(
    ("words", "line"),
    [
        ((), "hydra/sweeper: there is nothing to search. Type an interval such as 'optimizer.lr=tag("),
        (("optimizer.lr=interval(-1,1)",), "optimizer.lr=-1.0: must be a number > 0"),
        (("optimzer.lr=interval(0.1,1)",), "optimzer.lr: nothing reads this key. Did you mean optimizer.lr?"),
        (("model=lenet,lent",), "model=lent: there is no such model. Did you mean lenet?"),
        (("optimizer.lr=interval(0.1,1)", "hydra/sweeper/sampler=grid"), "hydra/sweeper: GridSampler only supports"),
        (("optimizer.lr=interval(0.1,1)", "hydra.sweep.dir=x"), "hydra.sweep.dir: a sweep lies in runs/<name>"),
        (("optimizer.lr=interval(0.1,1)", "loss=nll"), "loss=nll: takes log_probabilities or probabilities"),
    ],
)
def test_a_search_that_makes_no_sense_is_refused_in_a_line(
    words: tuple[str, ...], line: str, command: Command, tmp_path: Path
) -> None:
    done = command("--multirun", "hydra/sweeper=optuna", *words)
    assert done.returncode == 2
    assert line in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.rglob("config.yaml")) == []


def test_a_plugin_that_is_missing_is_named_with_its_extra(command: Command) -> None:
    for word, extra, module in (
        ("hydra/sweeper=optuna", "optuna", "optuna_sweeper"),
        ("hydra/launcher=ray_cluster", "ray", "ray_launcher"),
        ("hydra/launcher=slurm", "slurm", "submitit_launcher"),
    ):
        if needs(plugin(module)).args[0]:
            done = command("--multirun", word, "seed=0,1")
            assert done.returncode == 2
            assert done.stderr.endswith(f"its plugin is missing. Type pip install 'train-cli[{extra}]'.\n")


def run_moods(command: Command, folder: Path, *words: str, **options: Any) -> None:
    """One good job and four that go wrong, each in another way: only these are named, and leave a log."""
    (folder / "moody.py").write_text(MOODS)
    moods = "fine,raises,exits,is_killed,diverges"
    model = ("model._target_=moody.Moody", "trust=[moody]", f"+model.mood={moods}")
    done = command("--multirun", *words, *model, *SMALL[2:], "name=s", **options)
    assert done.returncode == 1, done.stderr
    rows = results(folder / "runs/s")
    assert {row["model.mood"]: row["status"] for row in rows.values()} == {
        "fine": "finished",
        "raises": "failed",
        "exits": "failed",
        "is_killed": "killed",
        "diverges": "stopped",
    }
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 4
    assert all(line.endswith("/log.txt") and (folder / line.rsplit(" ", 1)[1]).is_file() for line in errors)
    log = (folder / "runs/s/mood=fine/log.txt").read_text()
    assert "20 steps of 64 samples" in log
    assert "20 steps of 64 samples" not in done.stdout
    assert only_below(folder, "s")


def run_stopped(folder: Path, *words: str, **environment: str) -> None:
    """Stopped, then killed, then typed again: it goes on to the end of a sweep that was left alone."""
    common = ("--multirun", *SMALL[:3], "max_steps=4000", "eval_every=1000", "monitor=off", "threads=1", "seed=0,1")
    common = (*common, "checkpoint.every=50")
    env = {**os.environ, "OMP_NUM_THREADS": "1", **environment}

    def start(*more: str) -> subprocess.Popen[bytes]:
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return subprocess.Popen([sys.executable, "-m", "trainer", *common, *more], cwd=folder, env=env, **quiet)

    for number in (signal.SIGTERM, signal.SIGKILL):
        process = start(*words, "name=s")
        deadline = time.monotonic() + 90
        while not list(folder.glob("runs/s/*/checkpoints/last.pt")):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(number)
        code = process.wait(timeout=600)
        if number == signal.SIGKILL:
            assert code == -signal.SIGKILL
        else:  # at times a thread of Ray's aborts the process while it ends; what is saved is whole all the same
            assert code in ((143, -signal.SIGABRT) if "RAY_ADDRESS" in environment else (143,))
    assert start(*words, "name=s").wait(timeout=200) == 0
    assert start("name=whole").wait(timeout=200) == 0
    losses = [
        {name: row["val/loss"] for name, row in results(folder / "runs" / sweep).items()} for sweep in ("s", "whole")
    ]
    assert losses[0] == losses[1]
    assert {row["steps"] for row in results(folder / "runs/s").values()} == {4000}
    assert not (folder / "runs/s/.cluster").exists()


@pytest.mark.slow
@needs_submitit
def test_submitit_s_debug_executor(tmp_path: Path) -> None:
    """It runs the jobs in the process of the command itself, one after the other."""
    code = (
        "import sys\n"
        "from hydra.core.plugins import Plugins\n"
        "Plugins.instance()\n"
        "from hydra_plugins.hydra_submitit_launcher.submitit_launcher import LocalLauncher\n"
        "LocalLauncher._EXECUTOR = 'debug'\n"
        "from trainer.command.main import main\n"
        "main()\n"
    )
    words = (
        "--multirun",
        "hydra/launcher=submitit_local",
        *SMALL,
        "optimizer.lr=0.1,1e30",
        "optimizer=sgd",
        "loss=mse",
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words, "name=s"], cwd=tmp_path, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 1, done.stderr
    assert {row["status"] for row in results(tmp_path / "runs/s").values()} == {"finished", "stopped"}


@needs_submitit
@pytest.mark.long
def test_submitit_s_local_executor(command: Command, tmp_path: Path) -> None:
    run_moods(command, tmp_path, "hydra/launcher=submitit_local")


@needs_submitit
@pytest.mark.long
def test_a_sweep_of_submitit_is_stopped_killed_and_goes_on(tmp_path: Path) -> None:
    run_stopped(tmp_path, "hydra/launcher=submitit_local")


@pytest.mark.slow
@needs_submitit
def test_slurm_is_asked_for_what_it_knows_and_named_where_it_is_missing(command: Command, tmp_path: Path) -> None:
    from submitit.slurm.slurm import SlurmExecutor

    asked = command("--cfg", "hydra", "hydra/launcher=slurm", "--resolve")
    assert asked.returncode == 0, asked.stderr
    launcher = OmegaConf.create(asked.stdout).hydra.launcher
    common = {"timeout_min", "cpus_per_task", "tasks_per_node", "mem_gb", "nodes", "name", "stderr_to_stdout"}
    of_submitit = {"_target_", "submitit_folder", "max_num_timeout", *common}
    assert set(launcher) - of_submitit <= SlurmExecutor._valid_parameters() | {"gpus_per_node"}
    if shutil.which("srun") is None:
        done = command("--multirun", "hydra/launcher=slurm", *SMALL, "seed=0,1", "name=s")
        assert done.returncode == 2
        assert done.stderr.startswith("error: no job could be started: RuntimeError: Could not detect")
        assert done.stderr.count("\n") == 1


@needs_submitit
@pytest.mark.long
@pytest.mark.skipif(
    shutil.which("sinfo") is None or subprocess.run(["sinfo"], capture_output=True).returncode != 0,
    reason="no Slurm here",
)
def test_a_slurm_cluster(command: Command, tmp_path: Path) -> None:
    asked = ("hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=2")
    run_moods(command, tmp_path, "hydra/launcher=slurm", *asked)


@pytest.fixture(scope="module")
def ray_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A Ray cluster of one machine, started elsewhere than the sweeps; gives what a client's environment needs."""
    folder = Path("/tmp", f"ray-{os.getpid()}")  # a socket's path is short
    env = {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--node-ip-address=127.0.0.1"]
    ray += ["--port=0", "--num-cpus=2", "--include-dashboard=false", "--object-store-memory=80000000"]
    log = open(tmp_path_factory.mktemp("ray") / "log.txt", "w+b")  # noqa: SIM115
    server = subprocess.Popen(
        [*ray, f"--temp-dir={folder}"], cwd="/", env=env, stdout=log, stderr=log, start_new_session=True
    )
    try:
        address = folder / "ray_current_cluster"
        deadline = time.monotonic() + 90
        while not (address.is_file() and address.read_text().strip()):
            assert server.poll() is None, Path(log.name).read_text()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        yield {"RAY_ADDRESS": address.read_text().strip(), "RAY_AUTH_MODE": "disabled"}
    finally:
        server.terminate()
        server.wait(timeout=600)
        log.close()
        shutil.rmtree(folder, ignore_errors=True)


@needs_ray
@pytest.mark.long
def test_a_ray_cluster(command: Command, tmp_path: Path, ray_cluster: dict[str, str]) -> None:
    run_moods(command, tmp_path, "hydra/launcher=ray_cluster", env=ray_cluster | {"PYTHONWARNINGS": "ignore"})


@needs_ray
@pytest.mark.long
def test_a_sweep_of_ray_is_stopped_killed_and_goes_on(tmp_path: Path, ray_cluster: dict[str, str]) -> None:
    run_stopped(tmp_path, "hydra/launcher=ray_cluster", **ray_cluster)


@needs_ray
@needs_optuna
@pytest.mark.long
def test_a_search_on_a_ray_cluster_tries_what_it_would_try_here(
    command: Command, tmp_path: Path, ray_cluster: dict[str, str]
) -> None:
    words = ("--multirun", "hydra/sweeper=optuna", *SMALL, LR, "hydra.sweeper.n_trials=4", "sweep.jobs=2")
    env = ray_cluster | {"PYTHONWARNINGS": "ignore"}
    there = command(*words, "hydra/launcher=ray_cluster", "name=there", env=env)
    assert there.returncode == 0, there.stderr
    here = command(*words, "name=here")
    assert here.returncode == 0, here.stderr
    found = [
        {name: row["best/val/accuracy"] for name, row in results(tmp_path / "runs" / sweep).items()}
        for sweep in ("there", "here")
    ]
    assert found[0] == found[1]


def a_job(folder: Path) -> Job:
    from trainer.config.request import Request

    return Job(folder.name, folder, {}, Request({}, {}, []))


def test_jobs_whose_workers_are_lost_are_told_apart(tmp_path: Path) -> None:
    """A launcher that gives up: the job that had begun has failed, the other's turn comes next time."""
    jobs = [a_job(tmp_path / name) for name in ("begun", "waiting")]

    def launch(errand: Errand) -> None:
        errand._note(0, "began")
        os.utime(errand.post / "0.began", (0, 0))  # long ago
        raise ConnectionError("the head node is gone\nand more")

    cluster = Cluster(launch, tmp_path)
    for job in jobs:
        cluster.start([job])
    ((lost, code, _),) = list(cluster.ended(10))
    assert (lost.jobs, code) == ([jobs[0]], 2)
    assert (tmp_path / "begun/log.txt").read_text() == (
        "error: the worker was lost: ConnectionError: the head node is gone.\n"
    )
    assert cluster.running == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["begun"]


def test_the_command_ends_after_its_launcher(tmp_path: Path) -> None:
    """A worker says itself that its job has ended, before the launcher that waits for it has come back."""
    come_back = []

    def launch(errand: Errand) -> None:
        errand._note(0, "began")
        errand._note(0, "ended", code=0, seconds=1.0)
        time.sleep(0.3)
        come_back.append(True)

    cluster = Cluster(launch, tmp_path)
    cluster.start([a_job(tmp_path / "a")])
    while cluster.running:
        assert [code for _, code, _ in cluster.ended(0.05)] in ([], [0])
    assert come_back


def test_a_worker_that_shares_no_disk_is_noticed(tmp_path: Path) -> None:
    cluster = Cluster(lambda errand: None, tmp_path)
    cluster.start([a_job(tmp_path / "a")])
    ((_, code, _),) = list(cluster.ended(10))
    assert code == 2
    assert "all machines must share this folder" in (tmp_path / "a/log.txt").read_text()
