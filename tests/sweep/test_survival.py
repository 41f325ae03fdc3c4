"""What a sweep survives: closed output, a killed server of its jobs, a signal before the first of them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

SMALL = ("data.limit=100", "monitor=off", "sweep.stack=never", "name=s")
SHELL = f'"{sys.executable}" -m trainer --multirun model=two_layer {" ".join(SMALL)} max_steps=20 seed=0,1'

# What a shell does with the output.
CLOSED = {
    "no stdout": ">&-",
    "no stream at all": "<&- >&- 2>&-",
    "a reader that goes away": "| head -1",
    "a full disk": "> /dev/full 2> /dev/full",
}


def shell(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error"}
    command = ["bash", "-c", f"{line}; exit ${{PIPESTATUS[0]}}"]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=600)


def rows(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "runs/s/results.json").read_text())
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has it")
@pytest.mark.parametrize("name", CLOSED)
def test_nobody_has_to_read_what_it_prints(name: str, tmp_path: Path) -> None:
    done = shell(f"{SHELL} {CLOSED[name]}", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert [row["status"] for row in rows(tmp_path)] == ["finished"] * 2


@pytest.mark.slow
def test_its_exit_code_is_that_of_its_jobs_who_ever_reads(tmp_path: Path) -> None:
    done = shell(f"{SHELL} optimizer=sgd loss=mse optimizer.lr=1e30 2>&1 | head -1", tmp_path)
    assert done.returncode == 1
    assert [row["status"] for row in rows(tmp_path)] == ["stopped"] * 2


def children(pid: int) -> dict[int, str]:
    """What a process has started, by number; the command line of each."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == pid:
                found[int(path.name)] = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
    return found


class Sweep:
    """`train --multirun` as a process."""

    def __init__(self, folder: Path, *words: str) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-m", "trainer", "--multirun", *SMALL, *words],
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def server(self) -> int | None:
        """Of which the jobs are children."""
        return next((pid for pid, line in children(self.process.pid).items() if "forkserver" in line), None)

    def wait_for(self, is_there: Any) -> Any:
        end = time.monotonic() + 60
        while not (found := is_there()):
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < end
            time.sleep(0.02)
        return found

    def end(self) -> tuple[str, str]:
        return self.process.communicate(timeout=600)


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked up in /proc")
SLOW = """
import time
from trainer.models.two_layer import TwoLayer

class Net(TwoLayer):
    def __init__(self, in_features, out_features, wait=0.02):
        super().__init__(in_features=in_features, out_features=out_features, hidden_features=8)
        self.wait = wait

    def forward(self, inputs):
        time.sleep(self.wait * self.training)
        return super().forward(inputs)
"""
SLOWLY = ("model._target_=slow.Net", "trust=[slow]", "max_steps=80", "monitor.every=10")


@pytest.mark.slow
@needs_proc
def test_jobs_outlive_the_server_that_they_were_forked_from(tmp_path: Path) -> None:
    """They run to their end beside nobody else, and those that wait are forked from another server."""
    (tmp_path / "slow.py").write_text(SLOW)
    sweep = Sweep(tmp_path, *SLOWLY, "seed=0,1,2", "sweep.jobs=2")
    running = [tmp_path / f"runs/s/seed={seed}/metrics.jsonl" for seed in (0, 1)]
    sweep.wait_for(lambda: all(path.exists() and path.stat().st_size for path in running))
    server = sweep.server()
    assert server is not None
    os.kill(server, signal.SIGKILL)
    most = 0

    def has_ended() -> bool:
        nonlocal most
        most = max(most, len(list((tmp_path / "runs/s").glob("*/.lock"))))
        return sweep.process.poll() is not None

    end = time.monotonic() + 60
    while not has_ended() and time.monotonic() < end:
        time.sleep(0.01)
    out, errors = sweep.end()
    assert (sweep.process.returncode, errors) == (0, "")
    assert most == 2
    assert [row["status"] for row in rows(tmp_path)] == ["finished"] * 3
    assert [json.loads((path.parent / "result.json").read_text())["steps"] for path in running] == [80, 80]
    assert "error" not in out


@needs_proc
@pytest.mark.long
def test_a_job_that_dies_with_its_server_is_not_given_a_reason_by_chance(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    sweep = Sweep(tmp_path, *SLOWLY, "seed=0,1")
    sweep.wait_for(lambda: (tmp_path / "runs/s/seed=0/metrics.jsonl").exists())
    server = sweep.server()
    assert server is not None
    (job,) = [pid for pid in children(server)]
    for pid in (server, job):
        os.kill(pid, signal.SIGKILL)
    _, errors = sweep.end()
    assert sweep.process.returncode == 1
    reason = "ended without a word (exit code 255, or the server that would know was killed)"
    assert errors == f"error: seed=0: {reason} Log: runs/s/seed=0/log.txt\n"
    assert [(row["status"], row["reason"]) for row in rows(tmp_path)] == [("failed", reason), ("finished", "")]


@pytest.mark.long
def test_what_a_job_leaves_running_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        f"{SLOW}\nimport os\n"
        "if os.path.exists('runs/s/sweep.yaml'):\n"
        "    if (pid := os.fork()) == 0:\n"
        "        time.sleep(100)\n"
        "        os._exit(0)\n"
        "    open('left', 'a').write(f'{pid} ')\n"
    )
    sweep = Sweep(tmp_path, *SLOWLY, "seed=0,1", "max_steps=3")
    try:
        sweep.process.wait(timeout=600)
    finally:
        for pid in (tmp_path / "left").read_text().split():
            os.kill(int(pid), signal.SIGKILL)
    out, errors = sweep.end()
    assert (sweep.process.returncode, errors) == (0, "")
    assert out.count("(1 of 2)") == 1


@pytest.mark.slow
@needs_proc
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_while_the_jobs_are_checked_is_one_line(number: int, code: int, tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("import time\nfrom pathlib import Path\nPath('it_ran').touch()\ntime.sleep(60)\n")
    sweep = Sweep(tmp_path, *SLOWLY, "seed=0,1")
    sweep.wait_for((tmp_path / "it_ran").exists)
    began = time.monotonic()
    sweep.process.send_signal(number)
    _, errors = sweep.end()
    assert sweep.process.returncode == code
    assert errors.startswith("stopped")
    assert errors.count("\n") == 1
    assert time.monotonic() - began < 10
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
@needs_proc
def test_ctrl_c_while_the_server_begins_is_one_line(tmp_path: Path) -> None:
    """A terminal sends it to the server as well, which imports torch at that time."""
    sweep = Sweep(tmp_path, "model=two_layer", "seed=0,1")
    sweep.wait_for(sweep.server)
    os.killpg(sweep.process.pid, signal.SIGINT)
    assert (sweep.end()[1], sweep.process.returncode) == ("stopped.\n", 130)


@pytest.mark.slow
@needs_proc
def test_a_check_that_is_killed_is_one_line(tmp_path: Path) -> None:
    code = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n"
    (tmp_path / "slow.py").write_text(code)
    sweep = Sweep(tmp_path, *SLOWLY, "seed=0,1")
    _, errors = sweep.end()
    assert sweep.process.returncode == 2
    assert errors.startswith("error: the process that builds one of each kind of jobs was killed by signal 9 (Killed).")
    assert errors.count("\n") == 1
