"""Pictures from files, in the size that a network gets: `train`'s reader beside torch's DataLoader with Pillow.

Both make float32 of them in the main process, as a training does: where a batch lies costs time when it is read.

A process that stays: `{"how": "train", "folder": ...}` is answered with seconds a picture, see `WAYS`.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from processes import Kept, answer_questions, new_folder
from rounds import Contest, Row

SIDE, NUM_WORKERS, BATCH_SIZE = 224, 2, 32
SETTLED = 2.5  # seconds
SIZES = ((500, 375), (333, 500))  # as most of ImageNet's


def contests(is_short: bool) -> Iterator[Contest]:
    process = Kept("pictures.py")
    with new_folder() as folder:
        make(folder, 200 if is_short else 1000)
        time.sleep(SETTLED)  # or else the last of them are not kept
        title = f"a JPEG of 500 x 375 read at {SIDE}, two workers: DataLoader with Pillow / image_folder"
        yield Contest(
            [
                Row(title, "train", "loader", 1.5, is_gain=True),
                Row(f"{title} with data.cache, first epoch", "filling", "loader", is_gain=True),
                Row(f"{title} with data.cache, later epochs", "filled", "loader", 10, is_gain=True),
            ],
            {how: partial(process.ask, {"how": how, "folder": str(folder)}) for how in WAYS},
        )
    process.close()


def make(root: Path, count: int) -> None:
    """A folder of JPEGs in five classes."""
    rng = np.random.default_rng(0)
    for i in range(count):
        width, height = SIZES[i % 2]
        small = rng.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
        path = root / "train" / f"class{i % 5}" / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).save(path, quality=90)


def by_train(paths: list[str], cache: str | None = None) -> int:
    import torch

    from trainer.data.batches import LoadedBatches
    from trainer.data.image_files import FolderImages

    files = FolderImages(paths, torch.zeros(len(paths), dtype=torch.long))
    files.channels, files.image_size = 3, SIDE
    files.keep(cache)
    batches = LoadedBatches(files, torch.device("cpu"), lambda images: images.float(), num_workers=NUM_WORKERS)
    most = -(-len(paths) // BATCH_SIZE)
    return sum(batch.num_samples for _, batch in zip(range(most), batches.training(BATCH_SIZE, 0, 1), strict=False))


def by_loader(paths: list[str]) -> int:
    """As a tutorial has it: the shorter side, then the middle."""
    from torch.utils.data import DataLoader

    batches = DataLoader(Read(paths), batch_size=BATCH_SIZE, shuffle=True, num_workers=NUM_WORKERS)
    return sum(len(images.float()) for images in batches)


class Read:
    def __init__(self, paths: list[str]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Any:
        import torch

        with Image.open(self.paths[index]) as opened:
            image = opened.convert("RGB")
        scale = SIDE / min(image.size)
        width, height = (max(SIDE, round(side * scale)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
        left, top = (width - SIDE) // 2, (height - SIDE) // 2
        return torch.from_numpy(np.array(image.crop((left, top, left + SIDE, top + SIDE)))).permute(2, 0, 1)


WAYS: dict[str, Callable[[list[str]], int]] = {
    "train": by_train,
    "loader": by_loader,
    "filling": partial(by_train, cache="10GB"),
    "filled": partial(by_train, cache="10GB"),
}


def seconds(question: dict[str, Any]) -> float:
    paths = sorted(map(str, Path(question["folder"]).rglob("*.jpg")))
    os.environ["XDG_CACHE_HOME"] = cache = f"{question['folder']}/cache"
    if question["how"] == "filling":
        shutil.rmtree(cache, ignore_errors=True)
    if question["how"] == "filled":
        by_train(paths, "10GB")
        paths *= 3  # epochs
    start = time.perf_counter()
    if WAYS[question["how"]](paths) != len(paths):
        raise ValueError("some were not read")
    return (time.perf_counter() - start) / len(paths)


if __name__ == "__main__":
    answer_questions(seconds)
