"""What several test files need: the command in this process, and as one of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from trainer import cli

torch.set_num_threads(1)  # two pytest workers share two cores

# Prints as little as can be: most tests look at files.
QUIET = ("monitor=off", "checkpoint.every=null")


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """`train("model=lenet", ...)` runs in an empty folder, in this process, and gives what `result.json` holds.

    Raises what the command would turn into an exit code: UserError, RunStopped.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")

    def run(*words: str) -> dict[str, Any]:
        before = set(tmp_path.rglob("result.json"))
        assert cli.run_command(list(words)) == 0
        new = [p for p in tmp_path.rglob("result.json") if p not in before]
        path = new[0] if new else max(before, key=lambda p: p.stat().st_mtime_ns)
        result: dict[str, Any] = json.loads(path.read_text())
        return result

    return run


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`command("model=lenet", ...)` runs `python -m trainer` as a process of its own, in an empty folder."""

    def run(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "PYTHONWARNINGS": "error", "OMP_NUM_THREADS": "1", **options.pop("env", {})}
        return subprocess.run(
            [sys.executable, "-m", "trainer", *words],
            cwd=options.pop("cwd", tmp_path),
            env=env,
            capture_output=True,
            text=True,
            timeout=120,
            **options,
        )

    return run
