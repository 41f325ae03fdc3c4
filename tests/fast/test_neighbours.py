"""Threads that wait for each other spin on a quiet machine, sleep on a busy one, and compute the same bits."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from trainer.disk import checkpoint
from trainer.system.limits import num_cores
from trainer.system.waiting import SPINS, set_waiting

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems bring another OpenMP")
FOR_EVER = "while True: pass"
START = """
import os, resource, sys, time
from pathlib import Path
from trainer.system.waiting import is_spinning, set_waiting
set_waiting()
import torch
from trainer.fast import neighbours

torch.set_num_threads(2)
numbers = torch.zeros(200_000)
def threads(): return len(list(Path("/proc/self/task").iterdir()))
def sleeps():
    before = resource.getrusage(resource.RUSAGE_SELF)
    for _ in range(500):
        numbers.add_(1)
    after = resource.getrusage(resource.RUSAGE_SELF)
    return after.ru_nvcsw - before.ru_nvcsw
def gone():
    deadline = time.monotonic() + 60
    while threads() > before and time.monotonic() < deadline:
        time.sleep(0.7)  # a main thread that sleeps waits for no core, however busy the machine is
    return threads() == before
numbers.add_(1)
before = threads()
"""


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.fixture
def busy_core() -> Iterator[int]:
    """A core on which another program never rests."""
    core = max(os.sched_getaffinity(0))
    other = subprocess.Popen([sys.executable, "-c", f"import os; os.sched_setaffinity(0, [{core}])\n{FOR_EVER}"])
    yield core
    other.kill()
    other.wait()


def said(script: str) -> str:
    done = subprocess.run([sys.executable, "-c", START + script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_what_somebody_has_set_stays(environment: pytest.MonkeyPatch) -> None:
    with environment.context() as inner:
        inner.setenv("OMP_WAIT_POLICY", "active")
        set_waiting()
        assert "GOMP_SPINCOUNT" not in os.environ
    with environment.context() as inner:
        inner.setenv("GOMP_SPINCOUNT", "7")
        set_waiting()
        assert os.environ["GOMP_SPINCOUNT"] == "7"
        os.environ.pop("OMP_WAIT_POLICY")
    set_waiting()
    assert (os.environ.pop("OMP_WAIT_POLICY"), os.environ.pop("GOMP_SPINCOUNT")) == ("passive", str(SPINS))


@pytest.mark.usefixtures("environment")
def test_whether_threads_spin_is_known() -> None:
    found = said("""
for name, value in ("", ""), ("GOMP_SPINCOUNT", "0"), ("OMP_WAIT_POLICY", "passive"), ("OMP_WAIT_POLICY", "active"):
    os.environ.pop("OMP_WAIT_POLICY", None), os.environ.pop("GOMP_SPINCOUNT", None)
    os.environ |= {name: value} if name else {}
    set_waiting()
    print(is_spinning())
""")
    assert found.split() == ["True", "False", "False", "False"]


@pytest.mark.slow
def test_bound_threads_are_as_many(environment: pytest.MonkeyPatch) -> None:
    """Torch, where it is imported, then binds the main thread to one core."""
    environment.setenv("OMP_PROC_BIND", "true")
    script = "import trainer.command.main, torch; from trainer.system.limits import num_cores; print(num_cores())"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=120)
    assert int(done.stdout) == num_cores()


@pytest.mark.usefixtures("environment")
def test_a_crowd_has_threads_sleep_and_leaves_nothing() -> None:
    found = said("""
crowd = neighbours.Crowd(3)
for _ in range(3):
    crowd.gather()
    crowd.gather()
    print(threads() > before, sleeps() >= 500)
    crowd.leave()
    crowd.leave()
    print(gone())
torch.set_num_threads(1)
print(crowd.gather(), gone())
torch.set_num_threads(2)
many = neighbours.Crowd(100)
print(many.gather(), threads() >= 100)
many.leave()
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 400 * 2**20,) * 2)
print(neighbours.Crowd(1000).gather(), gone())
""")
    assert found.splitlines() == ["True True", "True"] * 3 + ["True True", "True True", "False True"]


@pytest.mark.slow
@pytest.mark.usefixtures("environment")
def test_a_process_ends_well_while_a_crowd_gathers() -> None:
    said("""
neighbours.PERIOD, neighbours.BUSY, neighbours.QUIET, neighbours.LOOKS = 0.0001, -1, 9, 1
neighbours.watch_neighbours()
time.sleep(0.05)
""")


@pytest.mark.slow
@pytest.mark.usefixtures("environment")
def test_threads_sleep_beside_another_program_and_spin_again_without(busy_core: int) -> None:
    found = said(
        f"os.sched_setaffinity(0, [{busy_core}])"
        + """
before += 1  # which looks
neighbours.watch_neighbours()
def until(is_so):
    deadline = time.monotonic() + 60
    while not is_so() and time.monotonic() < deadline:
        numbers.add_(1)
    return is_so()
print(until(lambda: threads() > before), gone())
"""
    )
    assert found == "True True"


@pytest.mark.slow
@pytest.mark.usefixtures("environment")
def test_however_threads_wait_the_bits_are_the_same(tmp_path: Path, busy_core: int) -> None:
    weights = []
    cores = os.sched_getaffinity(0)
    for number, (own, policy) in enumerate([(cores, {}), ({busy_core}, {}), (cores, {"OMP_WAIT_POLICY": "active"})]):
        script = f"import os; os.sched_setaffinity(0, {own}); from trainer.command.main import main; main()"
        words = ("max_steps=8", "threads=2", "monitor=off", f"name={number}")
        variables = os.environ | policy
        subprocess.run(
            [sys.executable, "-c", script, *words],
            **{"cwd": tmp_path, "env": variables, "check": True, "capture_output": True, "timeout": 120},
        )
        weights.append(checkpoint.read(tmp_path / "runs" / str(number) / "checkpoints/last.pt")["model"])
    assert all(torch.equal(tensor, other[name]) for other in weights[1:] for name, tensor in weights[0].items())
