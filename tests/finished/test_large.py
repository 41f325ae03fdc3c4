"""Runs of millions of steps are read a line at a time: memory is bounded, whatever the file."""

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from trainer.finished.read import MAX_POINTS, MAX_TAGS, read_course

MEASURE = """
import json, sys
from pathlib import Path
from trainer.finished.read import read_course

def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])

before = peak()
course = read_course(Path("."), ["train/loss"])
print(json.dumps([peak() - before, course.steps, len(course.points("train/loss"))]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is measured by Linux")
def test_a_long_run_takes_no_more_memory_than_a_short_one(tmp_path: Path) -> None:
    with open(tmp_path / "metrics.jsonl", "w") as file:
        for step in range(200_000):
            file.write(f'{{"step": {step}, "train/loss": {1 / (step + 1)}, "lr": 0.1, "time/step_ms": 1.0}}\n')
    assert (tmp_path / "metrics.jsonl").stat().st_size > 15_000_000
    done = subprocess.run([sys.executable, "-c", MEASURE], cwd=tmp_path, capture_output=True, text=True, check=True)
    grown, steps, num_points = json.loads(done.stdout)
    assert grown < 10_000  # kB; as lists of records it would be ten times as much
    assert steps == 199_999
    assert MAX_POINTS <= num_points <= 2 * MAX_POINTS


def test_what_is_left_of_a_long_curve_is_the_curve(tmp_path: Path) -> None:
    numbers = range(1, 10 * MAX_POINTS)
    (tmp_path / "metrics.jsonl").write_text("".join(f'{{"step": {n}, "val/loss": {n}}}\n' for n in numbers))
    course = read_course(tmp_path, ["val/loss"])
    assert course.best["val/loss"] == (1, 1)
    assert course.last["val/loss"] == numbers[-1]
    points = course.points("val/loss")
    assert points[:2] == [(8, 4.5), (16, 12.5)]  # the mean of eight, at the last of them
    assert {b - a for (a, _), (b, _) in pairwise(points)} == {8}
    assert points[-1][0] > numbers[-1] - 8


@pytest.mark.parametrize(
    "lines",
    [
        ['{"step": 1, "x": "' + "y" * (1 << 20) + '"}', '{"step": 2, "val/loss": 1}'],
        ["[" * 5_000_000, '{"step": 2, "val/loss": 1}'],
        [f'{{"step": 2, "val/loss": 1, "t{i}": 1}}' for i in range(2 * MAX_TAGS)],
        ['{"step": 2, "val/loss": 1, "train/loss": "text", "x": {"y": [1]}}'],
    ],
    ids=["a long value", "a long line", "many tags", "texts"],
)
def test_lines_that_nobody_of_us_wrote_cost_little(lines: list[str], tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    course = read_course(tmp_path)
    assert course.steps == 2
    assert course.best == {"val/loss": (1, 2)}
    assert len(course.last) <= MAX_TAGS
    assert all(isinstance(value, int) for value in course.last.values())
