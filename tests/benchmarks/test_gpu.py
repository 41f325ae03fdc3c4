"""`gpu.py`, which somebody with a GPU types, on a CPU: all its parts, and that it ends when its time is over."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("gpu.py")


def written(folder: Path, *words: str) -> tuple[int, dict[str, Any]]:
    """The exit code, and what stands in the file."""
    command = [sys.executable, str(SCRIPT), "--device", "cpu", "--short", "--json", "gpu.json", *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, json.loads((folder / "gpu.json").read_text())


@pytest.mark.slow
def test_it_measures_all_that_a_cpu_has(tmp_path: Path) -> None:
    _, found = written(tmp_path)
    assert found["problems"] == []
    assert all(len(row["ratios"]) == 1 for row in found["rows"])  # 100 steps on a busy machine: any number
    for word in ("default", "compile=true", "channels_last=true", "as a stack", "features once"):
        assert any(word in row["work"] for row in found["rows"]), word
    assert 0 <= found["waiting"]["share"] <= 1
    assert found["waiting"]["pictures_per_second"] > 0
    assert len(found["resume"]) == 1
    assert len(found["tests"]) > 1
    assert all(line.startswith("passed") for line in (*found["resume"], *found["tests"]))


@pytest.mark.slow
def test_it_ends_when_its_time_is_over(tmp_path: Path) -> None:
    start = time.perf_counter()
    code, found = written(tmp_path, "--minutes", "0.1")
    assert time.perf_counter() - start < 60  # the parts that are left out take longer
    assert (code, found["tests"], found["rows"]) == (1, None, [])
    assert found["problems"] == ["the 0.1 minutes are over; what is missing was not measured"]
