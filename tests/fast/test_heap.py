"""Freed memory stays in the process: a step touches no page for the first time that an earlier one had."""

import os
import subprocess
import sys

import pytest

STEPS = """
import resource, statistics, sys, torch
from trainer.fast.heap import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
faults = []
for _ in range(15):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    [torch.ones(7_000_000) for _ in range(6)]  # 28 MB each
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(statistics.median_low(faults))  # the heap grows in one step or another
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="a matter of glibc")
def test_pages_are_not_touched_anew_in_every_step() -> None:
    faults = {}
    # What glibc gives back by itself depends on what lies behind it in the heap; blocks of their own it always does.
    env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "131072"}
    for how in ("kept", "given_back"):
        done = subprocess.run([sys.executable, "-c", STEPS, how], capture_output=True, text=True, check=True, env=env)
        faults[how] = int(done.stdout)
    assert faults["kept"] < 30 < 60 < faults["given_back"]  # 84, where pages are huge
