"""All that is measured on a GPU, in one go of at most nine minutes; after every part the file has it.

    python tests/benchmarks/gpu.py --json gpu.json

How quick `train` is there, beside loops as they are written by hand; how long the GPU waits for pictures; whether a run
that was killed continues to the same bits; and the tests of tests/gpu. `--device cpu --short` does all that a CPU has a
part in, to see that it works.
Exits with 1 where a goal is missed, a test fails or something could not be measured.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import frozen
import pictures
import rounds
import table
from processes import HERE, Kept, logged, new_folder, train
from rounds import Contest, Row
from works import WORKS

PACKAGES = ("torch", "numpy", "triton")
NUM_CLASSES = 10
REPORT = "gpu-report.txt"  # that the tests leave


@dataclass(frozen=True)
class Size:
    """Of what is measured.

    Args:
        lenet, stack, resnet: steps; those of `train` are multiples of `every`.
        side, batch_size: of the pictures of the ResNet-18.
        files: pictures that are read while it trains.
        tests: what of the tests of the GPU, as pytest's `-k` has it.
    """

    lenet: int
    stack: int
    resnet: int
    every: int
    side: int
    batch_size: int
    files: int
    tests: str


FULL = Size(lenet=3000, stack=300, resnet=100, every=50, side=224, batch_size=128, files=2000, tests="")
SHORT = Size(lenet=100, stack=20, resnet=2, every=2, side=32, batch_size=4, files=40, tests="is_near or features")


class TimeIsUp(BaseException):
    """Passes through all that goes on after an error."""


def contests(device: str, size: Size, folder: Path) -> Iterator[Contest]:
    by_hand, stacks = Kept("by_hand.py"), Kept("stacks.py")
    is_gpu = device.startswith("cuda")
    yield lenet(device, size, by_hand, is_gpu)
    yield resnet(device, size, by_hand, folder)
    yield stack(device, size, stacks, is_gpu)
    yield from frozen.contests(size is SHORT, device)
    by_hand.close()
    stacks.close()


def lenet(device: str, size: Size, by_hand: Kept, is_gpu: bool) -> Contest:
    work = WORKS["lenet"]
    ways = {"default": (), "compile=true": ("compile=true",)}
    if is_gpu:
        ways |= {"cuda_graphs=true": ("cuda_graphs=true",), "both": ("compile=true", "cuda_graphs=true")}
    contestants: dict[str, Callable[[], float]] = {
        way: partial(seconds_a_step, (*work.words, *words, f"device={device}"), size.lenet, size.every)
        for way, words in ways.items()
    }
    contestants["by hand"] = partial(by_hand.ask, {"work": "lenet", "device": device, "steps": size.lenet})
    other = "the replay of a CUDA graph" if is_gpu else "a loop by hand"
    goals = {"cuda_graphs=true": 1.15}
    rows = [Row(f"{work.title}, {device}: {way} / {other}", way, "by hand", goals.get(way)) for way in ways]
    return Contest(rows, contestants)


def resnet(device: str, size: Size, by_hand: Kept, folder: Path) -> Contest:
    path = folder / "pictures.npz"
    write_pictures(path, max(8 * size.batch_size, 64), size.side)
    words = ("model=resnet18", "data=arrays", f"data.path={path}", f"batch_size={size.batch_size}", "optimizer=sgd")
    words += ("optimizer.lr=0.01", "optimizer.momentum=0.9", "precision=bfloat16", f"device={device}")
    ways = {"channels_last=true": ("channels_last=true",), "default": ()}
    contestants: dict[str, Callable[[], float]] = {
        way: partial(seconds_a_step, (*words, *more), size.resnet, size.every) for way, more in ways.items()
    }
    question = {"work": "resnet18", "device": device, "steps": size.resnet, "path": str(path), "classes": NUM_CLASSES}
    contestants["by hand"] = partial(by_hand.ask, {**question, "batch_size": size.batch_size})
    title = f"ResNet-18, {size.batch_size} pictures of {size.side} pixels, bfloat16, {device}"
    rows = [Row(f"{title}: {way} / a loop by hand in channels_last", way, "by hand") for way in ways]
    return Contest(rows, contestants)


def stack(device: str, size: Size, stacks: Kept, is_gpu: bool) -> Contest:
    question = {"work": "lenet", "steps": size.stack, "words": [f"device={device}"]}
    title = f"{WORKS['lenet'].title}, {device}: 32 runs as a stack / one run"
    row = Row(title, "stack", "one", 2.0 if is_gpu else None)
    return Contest([row], {how: partial(stacks.ask, {**question, "how": how}) for how in ("stack", "one")})


def seconds_a_step(words: tuple[str, ...], num_steps: int, every: int) -> float:
    """Logged at defaults, after as many steps as lie between two records; validations do not count."""
    with new_folder() as folder:
        train([*words, f"max_steps={num_steps + every}", f"monitor.every={every}"], folder)
        return logged(folder / "run", "time/step_ms", every + 1, num_steps + every) / 1000


def write_pictures(path: Path, count: int, side: int) -> None:
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for split, size in (("", count), ("val_", NUM_CLASSES), ("test_", NUM_CLASSES)):
        arrays[f"{split}inputs"] = rng.integers(0, 256, (size, 3, side, side), dtype=np.uint8)
        arrays[f"{split}targets"] = np.arange(size) % NUM_CLASSES
    np.savez(path, **arrays)


def waited(device: str, size: Size, folder: Path) -> dict[str, Any]:
    """The share of its time in which the device waits for JPEGs that are read while it trains, in a whole epoch."""
    pictures.make(folder / "jpegs", size.files)
    num_workers, every = min(8, os.cpu_count() or 1), max(1, size.files // size.batch_size // 4)
    words = [f"data.root={folder / 'jpegs'}", f"data.image_size={size.side}", f"data.num_workers={num_workers}"]
    words += ["data=image_folder", "model=resnet18", "precision=bfloat16", "channels_last=true", "max_epochs=1"]
    words += [f"batch_size={size.batch_size}", f"device={device}", "monitor.waiting=always", f"monitor.every={every}"]
    with new_folder() as here:
        train(words, here)
        share, per_second = (logged(here / "run", f"time/{tag}", 2) for tag in ("waiting", "samples_per_second"))
    return {"share": share, "pictures_per_second": per_second, "num_workers": num_workers, "files": size.files}


def tests(device: str, chosen: str, num_at_once: int) -> list[str]:
    """A line for each: its outcome, seconds, name and what it found out."""
    root = HERE.parents[1]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-c",
        str(root / "pyproject.toml"),
        "-m",
        "cuda",
        str(root / "tests/gpu"),
    ]
    with new_folder() as folder:
        log, environment = folder / "log.txt", {**os.environ, "TRAIN_TEST_DEVICE": device}
        with log.open("w") as output:
            process = subprocess.Popen(
                [*command, "-n", str(num_at_once), "-k", chosen],
                cwd=folder,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                process.wait()
            except TimeIsUp:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        report = folder / REPORT
        lines = report.read_text().splitlines() if report.exists() else log.read_text().splitlines()[-20:]
        found = [line for line in lines if line.startswith(("passed", "failed", "skipped"))]
        more = lines if any(line.startswith("failed") for line in found) or not found else found
        return [*more, *([] if process.returncode in (0, 1) else [f"pytest ended with {process.returncode}"])]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="as train's; default: cuda")
    parser.add_argument("--short", action="store_true", help="small, to see that it works")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=9.0, help="after which it ends with what it has; default: 9")
    parser.add_argument("--json", type=Path, metavar="FILE", help="writes all of it there, after every part")
    arguments = parser.parse_args()
    device, size, start = arguments.device, SHORT if arguments.short else FULL, time.perf_counter()
    found: dict[str, Any] = {"machine": rounds.machine(), "device": device, "versions": rounds.versions(PACKAGES)}
    found |= {"rows": [], "waiting": None, "resume": None, "tests": None, "problems": []}
    problems = found["problems"]

    def write() -> None:
        found["seconds"] = time.perf_counter() - start
        if arguments.json is not None:
            arguments.json.write_text(json.dumps(found, indent=1) + "\n")

    def measured(contest: Contest) -> None:
        title = contest.rows[0].work
        print(f"{title} ...", file=sys.stderr, flush=True)
        times = rounds.alternating(
            contest.contestants, arguments.rounds, lambda name, error: problems.append(f"{title}: {name}: {error}")
        )
        for row in contest.rows:
            print(f"| {' | '.join(table.cells(row, contest, times, 1.0)[:6])} |", flush=True)
            found["rows"].append(table.record(row, contest, times, 1.0))
        write()

    def noted(part: str, figure: Callable[[], Any]) -> None:
        print(f"{part} ...", file=sys.stderr, flush=True)
        try:
            found[part] = figure()
        except Exception as error:
            problems.append(f"{part}: {error}")
        print(json.dumps({part: found[part]}, indent=1), flush=True)
        write()

    def stop(*_: object) -> None:
        raise TimeIsUp

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 60 * arguments.minutes)
    print(f"{found['machine']}, {device}; {found['versions']}\n")
    print("| work | train | other | ratio | goal | met |\n|---|---|---|---|---|---|", flush=True)
    try:
        with new_folder() as folder:
            for contest in contests(device, size, folder):
                measured(contest)
            noted("waiting", partial(waited, device, size, folder))
        num_at_once = min(4, os.cpu_count() or 1)
        kill = "after_a_kill and lenet" if arguments.short else "after_a_kill"
        noted("resume", partial(tests, device, kill, num_at_once))
        noted("tests", partial(tests, device, size.tests or "not after_a_kill", num_at_once))
    except TimeIsUp:
        problems.append(f"the {arguments.minutes:g} minutes are over; what is missing was not measured")
    signal.setitimer(signal.ITIMER_REAL, 0)
    write()
    print(f"\n{found['seconds']:.0f} s", *problems, sep="\n")
    lines = [*(found["resume"] or ()), *(found["tests"] or ())]
    has_failed = any(not line.startswith(("passed", "skipped")) for line in lines)
    return 1 if problems or has_failed or any(row["is_met"] is False for row in found["rows"]) else 0


if __name__ == "__main__":
    sys.exit(main())
