"""The one command that somebody with a GPU types, here where there may be none."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from trainer.command.help import MANUAL

ROOT = Path(__file__).parents[2]
PYTEST = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n", "0")


def typed(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "TRAIN_TEST_DEVICE": "", **environment}
    command = [*PYTEST, "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT), f"--basetemp={folder / 'temp'}"]
    return subprocess.run([*command, *words], cwd=folder, env=env, capture_output=True, text=True, timeout=300)


@pytest.mark.long
def test_without_a_gpu_it_says_so_in_a_line_and_with_a_device_it_leaves_a_report(tmp_path: Path) -> None:
    assert "\npytest -m cuda tests/gpu\n" in (MANUAL / "machines.md").read_text()
    words = ("-m", "cuda", str(ROOT / "tests/gpu"))
    done = typed(tmp_path, *words)
    assert done.returncode == 0, done.stdout
    line, last = done.stdout.splitlines()[-2:]
    assert line.startswith("torch finds no GPU. TRAIN_TEST_DEVICE=cpu")
    assert " skipped in " in last
    assert "passed" not in last
    assert not (tmp_path / "gpu-report.txt").exists()

    done = typed(tmp_path, *words, "-k", "graph or (autograd and two_layer)", TRAIN_TEST_DEVICE="cpu")
    assert done.returncode == 0, done.stdout
    report = (tmp_path / "gpu-report.txt").read_text()
    assert str(tmp_path / "gpu-report.txt") in done.stdout
    for text in ("device   cpu\n", "torch    2.", "passed  ", "skipped ", "computed: a recorded step"):
        assert text in report
