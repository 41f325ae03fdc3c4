"""Ten epochs of a new last layer on a frozen ResNet-18: features computed once, or in every epoch."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from processes import events, new_folder, record_times, train
from rounds import Contest, Row

NUM_EPOCHS = 10
SIDE = 64
FEW = 8
OPENED = -1
# An event file for its times, and nothing else in it; no validation.
WORDS = (
    "model=frozen_resnet",
    "model.backbone.weights=null",
    "data=arrays",
    "optimizer=sgd",
    "monitor=off",
    "monitor.events=true",
    "eval_every=1000000",
    "checkpoint.every_minutes=null",
    "cache_limit=0",  # or the second round would find what the first one computed
)


def contests(is_short: bool, device: str = "cpu") -> Iterator[Contest]:
    num_images = 128 if is_short else 512
    title = f"frozen_resnet, {num_images} images 3x{SIDE}x{SIDE}, {NUM_EPOCHS} epochs: in every epoch / "
    rows = [Row(f"{title}features once", "once", "every epoch", 10, is_gain=True)]
    if not is_short:
        rows.append(Row(f"{title}features once, in bfloat16", "bfloat16", "every epoch", 20, is_gain=True))
    with new_folder() as folder:
        for size in (num_images, FEW):
            write_images(folder / f"{size}.npz", size)
        ways = {"every epoch": ("fast=false",), "once": (), "bfloat16": ("precision=bfloat16",)}
        found = {way: (*words, f"device={device}") for way, words in ways.items()}
        yield Contest(rows, {way: partial(seconds, folder, num_images, words) for way, words in found.items()})


def write_images(path: Path, num_images: int) -> None:
    rng = np.random.default_rng(0)
    arrays: dict[str, NDArray[Any]] = {}
    for split, size in (("", num_images), ("val_", FEW), ("test_", FEW)):
        arrays[f"{split}inputs"] = rng.integers(0, 256, (size, 3, SIDE, SIDE), dtype=np.uint8)
        arrays[f"{split}targets"] = np.arange(size) % 4
    np.savez(path, **arrays)  # type: ignore[arg-type]


def seconds(folder: Path, num_images: int, words: tuple[str, ...]) -> float:
    """From the start of the process to the end of the last step, less what it takes to build all for a few images.

    So the features count, wherever they are computed.
    """
    last = NUM_EPOCHS * num_images // 64
    began, times = began_and_times(folder / f"{num_images}.npz", last, words)
    began_few, times_few = began_and_times(folder / f"{FEW}.npz", 1, words)
    return (times[last] - began) - (times_few[OPENED] - began_few)


def began_and_times(path: Path, num_steps: int, words: tuple[str, ...]) -> tuple[float, dict[int, float]]:
    """When the process was started, and when each logged step was made; under `OPENED`, when all was built."""
    with new_folder() as here:
        began = train([*WORDS, f"data.path={path}", f"max_steps={num_steps}", *words], here).began
        opened = next(events(here / "run")).wall_time  # of the event file's first record
        return began, {OPENED: opened, **record_times(here / "run")}
