"""Whole runs: from typing a command to its end, beside a tutorial's script that trains, validates, saves and tests.

One thread each, so that CPU time, which others on the machine disturb less than wall time, says what is computed.
"""

import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import jobs_of_peers
from processes import HERE, TRAIN, Ended, new_folder, run
from rounds import Contest, Row

DIGITS = HERE.parents[1] / "src" / "trainer" / "data" / "digits.npz"
GOAL = 0.6
NUM_ROWS, NUM_COLUMNS = 100_000, 20
NUM_PICTURES, FILE_SIDE, SIDE = 2000, 224, 64
SMALL = ("model=two_layer", "model.hidden_features=32", "max_epochs=20")
OF_SMALL = {"data": "digits", "path": str(DIGITS), "model": "two_layer", "hidden": 32, "classes": 10, "epochs": 20}

Spent = dict[str, float]  # seconds of wall time and of CPU time
Question = dict[str, Any]  # for tutorial.py


def contests(is_short: bool, mnist: Path | None = None) -> Iterator[Contest]:
    """
    Args:
        mnist: the folder of its four files; None: its rows are left out.
    """
    lenet = {"data": "digits", "path": str(DIGITS), "model": "lenet", "epochs": 20}
    yield beside("LeNet on the digits, 20 epochs", ["max_epochs=20"], lenet, with_peers=not is_short)
    if is_short:
        return
    if mnist is not None:
        for epochs in (1, 5):
            words = ["data=mnist", f"data.root={mnist.absolute()}", "data.download=false", f"max_epochs={epochs}"]
            of_mnist = {"data": "mnist", "path": str(mnist.absolute()), "model": "lenet", "epochs": epochs}
            yield beside(f"LeNet on MNIST, {epochs} epoch{'s' if epochs > 1 else ''}", words, of_mnist)
    with new_folder() as folder:
        path = folder / "rows.csv"
        make_table(path)
        words = ["data=table", f"data.path={path}", "data.targets=[label]", "model=two_layer", "max_epochs=2"]
        rows = {"data": "table", "path": str(path), "model": "two_layer", "hidden": 100, "classes": 2, "epochs": 2}
        yield beside(f"a table of {NUM_ROWS:,} rows, 2 epochs", words, rows)
    with new_folder() as folder:
        make_pictures(folder)
        words = ["data=image_folder", f"data.root={folder}", f"data.image_size={SIDE}", "model=resnet18"]
        resnet = {"data": "pictures", "path": str(folder), "model": "resnet18", "classes": 5, "epochs": 1}
        title = f"ResNet-18 on {NUM_PICTURES:,} JPEGs of {FILE_SIDE} pixels, read at {SIDE}, 1 epoch"
        yield beside(title, [*words, "max_epochs=1"], resnet)
    title = "40 whole runs of 64-32-10, 20 epochs: a sweep / a shell's loop of a script"
    # Of wall time alone: the CPU time of jobs is not told to whoever waits for their sweep.
    yield Contest([Row(title, "train", "script", GOAL, is_least=True)], {"train": sweep, "script": loop})


def beside(title: str, words: list[str], question: Question, with_peers: bool = True) -> Contest:
    """The command, the script that does the same, and other people's trainers."""
    ways: dict[str, Callable[[], Spent]] = {
        "train": partial(in_new_folder, [*TRAIN, *words, "run_dir=run"]),
        "script": partial(by_script, question),
    }
    for name in jobs_of_peers.installed() if with_peers else ():
        ways[name] = partial(by_script, question, "jobs_of_peers.py", name)
    return contest(f"a whole run, of a script's: {title}, trained, validated, saved, tested, logged", ways)


def contest(title: str, ways: dict[str, Callable[[], Spent]]) -> Contest:
    """A row for CPU time, with that of other trainers, and one for wall time."""
    both = {name: Both(way) for name, way in ways.items()}
    contestants = {name: spent.cpu for name, spent in both.items()}
    contestants |= {f"{name}, wall": both[name].wall for name in ("train", "script")}
    peers = [name for name in ways if name in jobs_of_peers.JOBS]
    rows = [
        Row(f"{title}: CPU time", "train", "script", GOAL, with_peers=bool(peers), is_least=True),
        Row(f"{title}: wall time", "train, wall", "script, wall", GOAL, is_least=True),
    ]
    return Contest(rows, contestants, peers)


class Both:
    """What a process spent, asked for in two steps: it runs again when the same figure is wanted once more."""

    def __init__(self, work: Callable[[], Spent]) -> None:
        self.work, self.left = work, Spent()

    def cpu(self) -> float:
        return self._figure("cpu")

    def wall(self) -> float:
        return self._figure("wall")

    def _figure(self, name: str) -> float:
        if name not in self.left:
            self.left = dict(self.work())
        return self.left.pop(name)


def in_new_folder(command: list[str]) -> Spent:
    with new_folder() as folder:
        return spent(run(command, folder, threads=1))


def spent(ended: Ended) -> Spent:
    return {"cpu": ended.cpu_seconds, "wall": ended.seconds}


def by_script(question: Question, *script: str) -> Spent:
    name, *words = script or ("tutorial.py",)
    return in_new_folder([sys.executable, str(HERE / name), *words, json.dumps({**question, "folder": "run"})])


def sweep() -> float:
    rates = ",".join(f"{1e-4 * 2**i:g}" for i in range(8))
    words = ["--multirun", *SMALL, f"optimizer.lr={rates}", "seed=0,1,2,3,4", "name=sweep"]
    return in_new_folder([*TRAIN, *words])["wall"]


def loop() -> float:
    return sum(by_script({**OF_SMALL, "lr": 1e-4 * 2**i, "seed": seed})["wall"] for i in range(8) for seed in range(5))


def make_table(path: Path, num_rows: int = NUM_ROWS) -> None:
    """Numbers and a class, which is the sign of their sum but for noise."""
    rng = np.random.default_rng(0)
    with open(path, "w") as file:
        print(*(f"x{i}" for i in range(NUM_COLUMNS)), "label", sep=",", file=file)
        for start in range(0, num_rows, NUM_ROWS):
            inputs = rng.normal(size=(min(NUM_ROWS, num_rows - start), NUM_COLUMNS))
            labels = (inputs.sum(1) + rng.normal(size=len(inputs)) > 0)[:, None]
            np.savetxt(file, np.hstack([inputs, labels]), "%.5g", ",")


def make_pictures(root: Path) -> None:
    """JPEGs in five classes, each of a colour and rough."""
    rng = np.random.default_rng(0)
    for i in range(NUM_PICTURES):
        rough = rng.integers(0, 128, (FILE_SIDE // 8, FILE_SIDE // 8, 3), dtype=np.uint8)
        rough += np.array([[128, 0, 0], [0, 128, 0], [0, 0, 128], [96, 96, 0], [0, 96, 96]], np.uint8)[i % 5]
        path = root / f"class{i % 5}" / f"{i}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rough).resize((FILE_SIDE, FILE_SIDE), Image.Resampling.BICUBIC).save(path, quality=90)
