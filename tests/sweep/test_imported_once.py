"""What takes the jobs of a sweep seconds to import is imported once for all of them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import sys

from trainer.config.request import Request
from trainer.sweep.processes import Pool


def is_imported():
    return "torchvision" in sys.modules


if __name__ == "__main__":
    model, choices = {"backbone": {"_target_": sys.argv[3]}}, {"data": sys.argv[1], "model": sys.argv[2]}
    print(Pool(1, None, Request({"model": model}, choices, [])).call(is_imported))
"""
BROKEN = 'raise RuntimeError("operator torchvision::nms does not exist")\n'
TIMM = "trainer.models.libraries.timm"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="jobs are forked on Linux alone")
@pytest.mark.parametrize(
    ("data", "model", "backbone", "torchvision", "expected"),
    [
        ("torchvision", "lenet", "", "", "True"),
        ("digits", "frozen", TIMM, "", "True"),
        ("digits", "frozen", "mine.timm", "", "False"),
        ("torchvision", "lenet", "", BROKEN, "False"),  # a job says what is wrong
    ],
)
def test_a_job_has_torchvision_from_the_server_it_is_forked_from(
    data: str, model: str, backbone: str, torchvision: str, expected: str, tmp_path: Path
) -> None:
    (tmp_path / "torchvision.py").write_text(torchvision)
    (tmp_path / "ask.py").write_text(CODE)
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    command = [sys.executable, tmp_path / "ask.py", data, model, backbone]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == (expected, "")
