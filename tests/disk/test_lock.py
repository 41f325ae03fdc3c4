"""One writer per run folder, and it is named to the second."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from trainer.disk.lock import holder, locked
from trainer.errors import UserError

HOLD = """
import pathlib, sys
from trainer.disk.lock import locked
with locked(pathlib.Path(".")):
    print("held", flush=True)
    sys.stdin.read()
"""
FORK = """
import os, pathlib, time
from trainer.disk.lock import locked
with locked(pathlib.Path(".")):
    if child := os.fork():
        print(child, flush=True)
    time.sleep(60)
"""


def started(code: str, folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.first_line = process.stdout.readline()  # type: ignore[attr-defined]
    return process


def test_the_second_is_told_which_process_has_it(tmp_path: Path) -> None:
    with started(HOLD, tmp_path) as other:
        assert holder(tmp_path) is not None
        with pytest.raises(UserError, match=rf"process {other.pid} on \S+ is training here"), locked(tmp_path):
            pass
        other.kill()
        other.wait()
        assert holder(tmp_path) is None
        with locked(tmp_path):  # what a killed process held is free at once
            assert (tmp_path / ".lock").exists()
    assert not (tmp_path / ".lock").exists()


def test_it_is_free_again_at_the_end(tmp_path: Path) -> None:
    for _ in range(2):
        with locked(tmp_path):
            pass
    assert list(tmp_path.iterdir()) == []


def test_a_child_that_outlives_its_parent_does_not_hold_it(tmp_path: Path) -> None:
    """As a worker that reads data does after `kill -9` of the process that trains."""
    with started(FORK, tmp_path) as other:
        child = int(other.first_line)  # type: ignore[attr-defined]
        other.kill()
        other.wait()
        os.kill(child, 0)  # it lives
        try:
            with locked(tmp_path):
                pass
        finally:
            os.kill(child, signal.SIGKILL)


def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none: can't be written: No such file"), locked(tmp_path / "none"):
        pass
    assert holder(tmp_path / "none") is None
