"""How torch's threads wait for each other after every operation: by spinning for a moment, or asleep at once.

Spinning is quicker while each thread has a core. Beside another program that wants one it is many times slower, since
a thread spins for one that doesn't run. GNU's OpenMP, which torch brings on Linux, can do both: it spins `SPINS` times
and then sleeps, and it sleeps at once while there are more threads than cores (`fast/neighbours.py`).

Source: GCC's manual of libgomp, GOMP_SPINCOUNT and OMP_WAIT_POLICY.
"""

import contextlib
import os
import sys
from pathlib import Path

# About 60 us. Shares of the time with one thread, two threads, a quiet AMD EPYC (Zen 4), torch 2.13, 2026-11-26:
#
# | spins | LeNet | 64-1000-100-10 | 64-32-10 |
# |---|---|---|---|
# | 0 | 1.17 | 2.18 | |
# | 1,000 | 0.82 | 1.29 | 1.40 |
# | 3,000 | 0.59 | 0.71 | 1.03 |
# | 10,000 | 0.54 | 0.71 | 1.04 |
# | 300,000, GNU's own default | 0.57 | 0.80 | |
SPINS = 5000


def set_waiting() -> None:
    """Before torch is imported. What somebody has set stays."""
    if "OMP_WAIT_POLICY" in os.environ:
        return
    os.environ["OMP_WAIT_POLICY"] = "passive"  # others' OpenMP: asleep at once
    if seconds_in_line() is not None:
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS))


def is_spinning() -> bool:
    """Whether torch's threads spin on a quiet machine and sleep on a busy one. Asked when torch has been imported."""
    if os.environ.get("OMP_WAIT_POLICY") != "passive" or os.environ.get("GOMP_SPINCOUNT") in (None, "0"):
        return False
    return seconds_in_line() is not None and gnu_openmp() is not None


def gnu_openmp() -> str | None:
    """The path of GNU's OpenMP, where this process has loaded it and no other."""
    with contextlib.suppress(OSError):  # a distribution may link libgomp to LLVM's or Intel's, which know no spins
        mapped = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
        files = {line.split(maxsplit=5)[-1] for line in mapped if "omp" in line}
        names = {file.rsplit("/", 1)[-1]: file for file in files}
        if not any(name.startswith(("libomp", "libiomp")) for name in names):
            return next((file for name, file in names.items() if name.startswith("libgomp")), None)
    return None


def seconds_in_line() -> float | None:
    """For how long the main thread has been ready to run, but had no core. None where the system does not say.

    Source: the kernel's documentation, scheduler/sched-stats.rst, /proc/<pid>/schedstat.
    """
    if sys.platform != "linux":
        return None
    with contextlib.suppress(OSError, ValueError):
        file = Path(f"/proc/self/task/{os.getpid()}/schedstat")
        running, waiting, _ = file.read_text(encoding="utf-8").split()
        return int(waiting) / 1e9 if int(running) else None
    return None
