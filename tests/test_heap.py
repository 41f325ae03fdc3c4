"""Freed memory stays in the process: a step touches no page for the first time that an earlier one had."""

import subprocess
import sys

import pytest

STEPS = """
import resource, sys, torch
from trainer.heap import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
def step():
    [torch.ones(7_000_000) for _ in range(6)]  # below each other on the heap, 28 MB each
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // 10)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a matter of glibc")
def test_pages_are_not_touched_anew_in_every_step() -> None:
    faults = {}
    for how in ("kept", "given_back"):
        done = subprocess.run([sys.executable, "-c", STEPS, how], capture_output=True, text=True, check=True)
        faults[how] = int(done.stdout)
    assert faults["kept"] < 100 < 1000 < faults["given_back"]
