"""The proof of a stack: some of its runs once more, each alone, and their losses compared."""

import random
import shutil
from collections.abc import Sequence
from pathlib import Path

from trainer.config.request import Request
from trainer.disk import foreign
from trainer.sweep.plan import Job
from trainer.sweep.processes import Pool

# Later a difference in the last place may have grown to anything: training is chaotic.
STEPS = 200
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}


def verify(jobs: Sequence[Job], count: int, folder: Path, pool: Pool) -> tuple[str, bool]:
    """Trains some random jobs again, alone, in a folder that is removed afterwards.

    Returns:
        What came of it, in a line; and whether all losses of the first 200 steps agree.
    """
    chosen = random.Random(0).sample(list(jobs), min(count, len(jobs)))
    copies = folder / ".verify"
    shutil.rmtree(copies, ignore_errors=True)
    alone = [_copy(job, copies / job.name) for job in chosen]
    waiting = list(alone)
    while waiting or pool.running:
        while waiting and pool.has_room():
            pool.start([waiting.pop(0)])
        for _ in pool.ended(0.2):
            pass
    differences = [difference(job.folder, other.folder) for job, other in zip(chosen, alone, strict=True)]
    shutil.rmtree(copies, ignore_errors=True)
    largest = max(differences)
    tolerance = TOLERANCE[str(chosen[0].request.config["dtype"])]
    count_of = "1 job" if len(chosen) == 1 else f"{len(chosen)} jobs"
    line = f"{count_of} trained alone: losses differ by {largest:.1e} of themselves at most"
    return f"{line} in the first {STEPS} steps ({tolerance:.0e} are allowed)", largest <= tolerance


def _copy(job: Job, folder: Path) -> Job:
    config = {**job.request.config, "run_dir": str(folder)}
    return Job(job.name, folder, job.swept, Request(config, job.request.choices, job.request.overrides))


def losses(folder: Path) -> dict[tuple[int, str], float]:
    """By step and tag, of the first steps."""
    found = {}
    for record in foreign.metrics(folder):
        for tag in ("train/loss", "val/loss"):
            if record["step"] <= STEPS and isinstance(record.get(tag), float):
                found[record["step"], tag] = record[tag]
    return found


def difference(folder: Path, other: Path) -> float:
    """The largest relative difference of two runs' losses; infinite where one has a number that the other lacks."""
    a, b = losses(folder), losses(other)
    if a.keys() != b.keys():
        return float("inf")
    return max((abs(a[key] - b[key]) / max(abs(a[key]), 1e-30) for key in a if a[key] != b[key]), default=0.0)
