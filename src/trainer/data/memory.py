"""How much memory is left, so that what can't fit is refused before any work."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from trainer.errors import UserError


def free_bytes() -> int | None:
    """What this process may still take: of the machine, of its container, of `ulimit -v`. None: nobody says."""
    found = [limit for way in (_machine, _container, _process) if (limit := _tried(way)) is not None]
    return max(min(found), 0) if found else None


def refuse_more(where: str, num_bytes: float, what_to_do: str) -> None:
    """Raises UserError where so many bytes are more than there are.

    Args:
        where: what needs them, for the message.
        what_to_do: the last sentence of the message.
    """
    free = free_bytes()
    if free is not None and num_bytes > free:
        raise UserError(
            f"{where}: a run needs about {num_bytes / 1e9:,.1f} GB of memory for it, and {free / 1e9:,.1f} GB are "
            f"free. {what_to_do}"
        )


def _tried(way: Callable[[], int | None]) -> int | None:
    with contextlib.suppress(OSError, ValueError, KeyError, ImportError, AttributeError):
        return way()
    return None


def _machine() -> int | None:
    if os.path.exists("/proc/meminfo"):
        lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
        return next(int(words[1]) * 1024 for words in lines if words[0] == "MemAvailable:")
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _container() -> int | None:
    """Of a control group (version 2): its limit less what is in use and can't be given back."""
    folder = Path("/sys/fs/cgroup")
    limit = int((folder / "memory.max").read_text())  # "max", where there is none, is no number
    stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    return limit - int((folder / "memory.current").read_text()) + int(stat["inactive_file"])


def _process() -> int | None:
    import resource

    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return None
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return limit - pages * os.sysconf("SC_PAGE_SIZE")
