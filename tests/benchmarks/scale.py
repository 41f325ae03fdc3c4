"""How time and memory grow with the size of a job: a table with slopes, 1 where twice as much takes twice as long.

    python tests/benchmarks/scale.py            some minutes
    python tests/benchmarks/scale.py --long     ten times as much of everything, an hour and 10 GB of disk
    python tests/benchmarks/scale.py --only files

Of what is fixed (Python, torch and a first step) nothing is taken away, so that small jobs have small slopes.
"""

import argparse
import math
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

import rounds
from growth import make_runs, seconds_to_list
from processes import TRAIN, new_folder, run
from whole import make_table

FIRST_STEP = ("max_steps=1", "monitor=off", "run_dir=run", "test=last")

Measured = tuple[float, float]  # seconds, MiB


def first_step(folder: Path, *words: str) -> Measured:
    """A whole run of one step, with its validation and test on a few samples."""
    shutil.rmtree(folder / "run", ignore_errors=True)
    ended = run([*TRAIN, *words, *FIRST_STEP], folder)
    return ended.seconds, ended.peak_mib


def rows(folder: Path, count: int) -> list[tuple[str, Measured]]:
    path = folder / f"{count}.csv"
    make_table(path, count)
    words = ("data=table", f"data.path={path}", "data.targets=[label]", "model=two_layer")
    return [("rows of a table: to the end of a step", first_step(folder, *words))]


def files(folder: Path, count: int) -> list[tuple[str, Measured]]:
    root = folder / f"files{count}"
    make_pictures(root, count)
    words = ("data=image_folder", f"data.root={root}", "data.image_size=8", "model=two_layer")
    few = ("data.val_fraction=0.001", "data.test_fraction=0.001", "batch_size=16")
    found = [
        ("files of pictures: to the end of a step", first_step(folder, *words, *few)),
        ("the same once more", first_step(folder, *words, *few)),
    ]
    shutil.rmtree(root)
    return found


def make_pictures(root: Path, count: int) -> None:
    """No two are equal, so that none is left out where equal ones are looked for."""
    rng = np.random.default_rng(0)
    for i in range(count):
        path = root / f"class{i % 10}" / f"{i}.jpg"
        if i < 10:
            path.parent.mkdir(parents=True)
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path, quality=95)


def runs(folder: Path, count: int) -> list[tuple[str, Measured]]:
    root = folder / "runs" / str(count)
    make_runs(root, count)
    return [("runs: train runs", (seconds_to_list(root), math.nan))]


def jobs(folder: Path, count: int) -> list[tuple[str, Measured]]:
    seeds = ",".join(map(str, range(count)))
    words = ["--multirun", "model=two_layer", "max_steps=5", "monitor=off", f"seed={seeds}", f"name=sweep{count}"]
    found = []
    for stack in ("never", "auto"):
        ended = run([*TRAIN, *words, f"sweep.stack={stack}"], folder)
        shutil.rmtree(folder / "runs" / f"sweep{count}")
        found.append((f"jobs of a sweep, sweep.stack={stack}; memory of the parent", (ended.seconds, ended.peak_mib)))
    return found


def ranks(folder: Path, count: int) -> list[tuple[str, Measured]]:
    """200 steps in so many processes, without their start; what each of them sends to others."""
    (few, sent_by_few), (many, sent_by_many) = (in_processes(folder, count, steps) for steps in (20, 220))
    title = "processes of a run of LeNet (0.24 MiB of gradients), one batch for all: 200 steps; sent by each"
    return [(title, (many - few, (sent_by_many - sent_by_few) / count))]


def in_processes(folder: Path, count: int, num_steps: int) -> Measured:
    """Seconds, and MiB over the loopback device; those of other programs count, too."""
    words = ("device=cpu", "monitor=off", f"max_steps={num_steps}", "eval_every=1000", "test=last", "run_dir=run")
    shutil.rmtree(folder / "run", ignore_errors=True)
    start = looped_back()
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={count}", "-m", "trainer", *words]
    ended = run(command, folder, threads=1)
    return ended.seconds, looped_back() - start


def looped_back() -> float:
    counts = Path("/proc/net/dev")
    lines = counts.read_text().splitlines() if counts.exists() else []
    return next((int(line.split()[1]) / 2**20 for line in lines if line.strip().startswith("lo:")), math.nan)


WHAT: dict[str, tuple[Callable[[Path, int], list[tuple[str, Measured]]], tuple[int, ...]]] = {
    "rows": (rows, (10_000, 100_000, 1_000_000)),
    "files": (files, (1000, 10_000, 100_000)),
    "runs": (runs, (10, 100, 1000)),
    "jobs": (jobs, (8, 40, 200)),
    "ranks": (ranks, (1, 2, 4)),
}


def slope(before: float, now: float, times: float) -> str:
    if math.isnan(before + now) or min(before, now) < 0.01:
        return ""
    return f"{math.log(now / before) / math.log(times):.2f}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--long", action="store_true", help="ten times as much as the most")
    parser.add_argument("--only", choices=WHAT, help="one of them")
    arguments = parser.parse_args()
    print(rounds.machine())
    print("\n| what | how many | time | slope | MiB | slope |\n|---|---|---|---|---|---|", flush=True)
    for name, (measure, sizes) in WHAT.items():
        if arguments.only not in (None, name):
            continue
        before: dict[str, tuple[int, Measured]] = {}
        for count in (*sizes, 10 * sizes[-1]) if arguments.long and name != "ranks" else sizes:
            with new_folder() as folder:
                found = measure(folder, count)
            for title, (seconds, mib) in found:
                last, (last_seconds, last_mib) = before.get(title, (1, (math.nan, math.nan)))
                slopes = [slope(a, b, count / last) for a, b in ((last_seconds, seconds), (last_mib, mib))]
                memory = "" if math.isnan(mib) else f"{mib:.0f}"
                print(f"| {title} | {count:,} | {seconds:.1f} s | {slopes[0]} | {memory} | {slopes[1]} |", flush=True)
                before[title] = count, (seconds, mib)
    return 0


if __name__ == "__main__":
    sys.exit(main())
