"""What this process may take of its machine, in its container: memory, cores and open files."""

import contextlib
import math
import os
import sys
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_OWN_GROUP = Path("/proc/self/cgroup")
# The cores that this process is bound to. Read before torch is imported, which binds the main thread to one of them
# where OMP_PROC_BIND is set.
BOUND: AbstractSet[int] = frozenset()
if sys.platform == "linux":
    BOUND = os.sched_getaffinity(0)


def free_bytes() -> int | None:
    """What this process may still take: of the machine, of its container, of `ulimit -v`. None: nobody says."""
    found = [limit for way in (_machine, free_in_container, _process) if (limit := _tried(way)) is not None]
    return max(min(found), 0) if found else None


def num_cores() -> int:
    """How many cores this process may use: those it is bound to, and no more than its container is given."""
    return max(1, min(len(BOUND) or os.cpu_count() or 1, _tried(cores_of_container) or sys.maxsize))


def room_for_files(wanted: int) -> int:
    """How many files this process may open beside those that are open: as many as are wanted, or as there may be.

    The limit that it begins with is often 1024, on macOS 256; up to another one every process may raise it itself.
    """
    if sys.platform == "win32":
        return wanted
    import resource

    try:
        num_open = len(os.listdir("/dev/fd"))
    except OSError:  # a container without /proc
        num_open = 64
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = num_open + wanted
    if resource.RLIM_INFINITY != soft < needed:
        raised = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        with contextlib.suppress(OSError, ValueError):  # macOS has a further limit, which it does not tell
            resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return wanted if soft == resource.RLIM_INFINITY else max(0, min(wanted, soft - num_open))


def _tried(way: Callable[[], int | None]) -> int | None:
    with contextlib.suppress(OSError, ValueError, KeyError, ImportError, AttributeError):
        return way()
    return None


def _machine() -> int | None:
    import psutil

    free: int = psutil.virtual_memory().available
    return free


def _process() -> int | None:
    if sys.platform == "win32":
        return None
    import resource

    import psutil

    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    used: int = psutil.Process().memory_info().vms
    return None if limit == resource.RLIM_INFINITY else limit - used


def _groups(controller: str, root: Path, own: Path) -> Iterator[Path]:
    """The folders of the control groups that this process is in, from the innermost to the root's.

    Each of them may have a limit. Version 2 has one tree for all, version 1 a tree for each controller.
    """
    for line in own.read_text(encoding="utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = root / controller if controllers else root
        group = top / path.lstrip("/")
        # In a container its own group may be mounted as the root, under a path of the machine's.
        yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(top) and folder.is_dir())


def _number(path: Path) -> int | None:
    """What a file holds; None where it isn't there, or there is no limit ("max")."""
    with contextlib.suppress(OSError, ValueError):
        return int(path.read_text(encoding="utf-8").split()[0])
    return None


def free_in_container(root: Path = _CGROUP, own: Path = _OWN_GROUP) -> int | None:
    """Bytes: the limit of a control group less what is in use and can't be given back; None where there is no limit.

    Source: the kernel's documentation, admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst.
    """
    free = []
    for folder in _groups("memory", root, own):
        for limit_name, used_name, cached in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            limit, used = _number(folder / limit_name), _number(folder / used_name)
            if limit is not None and used is not None:
                lines = (folder / "memory.stat").read_text(encoding="utf-8").splitlines()
                free.append(limit - used + int(dict(line.split() for line in lines)[cached]))
    return min(free, default=None)


def cores_of_container(root: Path = _CGROUP, own: Path = _OWN_GROUP) -> int | None:
    """The share of time that a control group has, in whole cores, rounded up; None where there is no limit."""
    shares = []
    for folder in _groups("cpu", root, own):
        with contextlib.suppress(OSError, ValueError):
            quota, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
            shares.append(int(quota) / int(period))
        quota_us, period_us = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
        if quota_us is not None and period_us and quota_us > 0:  # -1: no limit
            shares.append(quota_us / period_us)
    return math.ceil(min(shares)) if shares else None
