"""Whole runs: from typing a command to its end, beside a tutorial's script that trains, validates, saves and tests."""

import json
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from processes import HERE, TRAIN, new_folder, run
from rounds import Contest, Row

DIGITS = HERE.parents[1] / "src" / "trainer" / "data" / "digits.npz"
GOAL = 0.6
NUM_ROWS, NUM_COLUMNS = 100_000, 20
SMALL = ("model=two_layer", "model.hidden_features=32", "max_epochs=20")
OF_SMALL = {"data": "digits", "path": str(DIGITS), "model": "two_layer", "hidden": 32, "classes": 10, "epochs": 20}


def contests(is_short: bool) -> Iterator[Contest]:
    title = "a whole run, of a script's: {}, trained, validated, saved, tested, logged"
    lenet = {"data": "digits", "path": str(DIGITS), "model": "lenet", "epochs": 20}
    yield Contest(
        [Row(title.format("LeNet on the digits, 20 epochs"), "train", "script", GOAL)],
        {"train": partial(by_train, ["max_epochs=20"]), "script": partial(by_script, lenet)},
    )
    if is_short:
        return
    with new_folder() as folder:
        path = folder / "rows.csv"
        make_table(path)
        words = ["data=table", f"data.path={path}", "data.targets=[label]", "model=two_layer", "max_epochs=2"]
        rows = {"data": "table", "path": str(path), "model": "two_layer", "hidden": 100, "classes": 2, "epochs": 2}
        yield Contest(
            [Row(title.format(f"a table of {NUM_ROWS:,} rows, 2 epochs"), "train", "script", GOAL)],
            {"train": partial(by_train, words), "script": partial(by_script, rows)},
        )
    yield Contest(
        [Row("40 whole runs of 64-32-10, 20 epochs: a sweep / a shell's loop of a script", "train", "script", GOAL)],
        {"train": sweep, "script": loop},
    )


def by_train(words: list[str]) -> float:
    with new_folder() as folder:
        return run([*TRAIN, *words, "run_dir=run"], folder).seconds


def by_script(question: dict[str, Any]) -> float:
    with new_folder() as folder:
        command = [sys.executable, str(HERE / "tutorial.py"), json.dumps({**question, "folder": "run"})]
        return run(command, folder).seconds


def sweep() -> float:
    rates = ",".join(f"{1e-4 * 2**i:g}" for i in range(8))
    words = ["--multirun", *SMALL, f"optimizer.lr={rates}", "seed=0,1,2,3,4", "name=sweep"]
    with new_folder() as folder:
        return run([*TRAIN, *words], folder).seconds


def loop() -> float:
    return sum(by_script({**OF_SMALL, "lr": 1e-4 * 2**i, "seed": seed}) for i in range(8) for seed in range(5))


def make_table(path: Path, num_rows: int = NUM_ROWS) -> None:
    """Numbers and a class, which is the sign of their sum but for noise."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(num_rows, NUM_COLUMNS))
    labels = (inputs.sum(1) + rng.normal(size=num_rows) > 0)[:, None]
    names = [*(f"x{i}" for i in range(NUM_COLUMNS)), "label"]
    np.savetxt(path, np.hstack([inputs, labels]), "%.5g", ",", header=",".join(names), comments="")
