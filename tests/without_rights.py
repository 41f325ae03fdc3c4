"""A command without root's rights: root may write anywhere, and a test that root runs would see nothing."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

_PR_CAPBSET_DROP = 24  # linux/prctl.h
_RIGHTS = (1, 2, 3)  # linux/capability.h: DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER: whatever a file's mode says


def _drop() -> None:
    for right in _RIGHTS:
        ctypes.CDLL(None).prctl(_PR_CAPBSET_DROP, right, 0, 0, 0)


def train(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """`train` in a folder."""
    return python(folder, "-m", "trainer", *words)


def python(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """An interpreter in a folder; what it starts has no more rights than it has."""
    return subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        preexec_fn=_drop if os.getuid() == 0 else None,
    )
