"""Ten epochs of a frozen ResNet-18, features every epoch / once. Run: python tests/benchmarks/bench_features.py

512 random images 3x64x64, batch 64, defaults: all is logged and written. Timed are the features and the
steps, validations included; no features are found on the disk. What opens and closes a run is the same for both. One
thread, or as many as OMP_NUM_THREADS says.
"""

import contextlib
import io
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import rounds
import torch

from trainer import cli
from trainer.build import Built
from trainer.compose import composed, hydra_at
from trainer.signals import Signals
from trainer.training import Training

NUM_IMAGES, SIZE, NUM_ELSE = 512, 64, 16  # so many more to validate on, and to test on
WORK = {"float32 (at least 10)": "float32", "bfloat16 (at least 20)": "bfloat16"}


def write_images(path: Path) -> None:
    draw = np.random.default_rng(0)
    arrays = {}
    for prefix, num in (("", NUM_IMAGES), ("val_", NUM_ELSE), ("test_", NUM_ELSE)):
        arrays[f"{prefix}inputs"] = draw.integers(0, 256, (num, 3, SIZE, SIZE), dtype=np.uint8)
        arrays[f"{prefix}targets"] = np.arange(num) % 10
    np.savez(path, **arrays)


class Timed(Training):
    def finish(self, is_over: bool) -> None:
        self.seconds = self.observer.seconds()
        super().finish(is_over)


def trained(folder: Path, *words: str) -> tuple[float, float]:
    """Seconds of a run, and its last loss."""
    data = ("data=arrays", f"data.path={folder / 'images.npz'}", "data.num_classes=10")
    recipe = ("model=frozen_resnet", "model.backbone.weights=null", "optimizer=sgd", "max_epochs=10")
    with hydra_at(cli.config_folders([])) as search:
        request = composed([*recipe, *data, *words], search, "train")
    with tempfile.TemporaryDirectory() as runs, tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache
        training = Timed(request, Built(request, ()), Path(runs), Signals())
        with contextlib.redirect_stdout(io.StringIO()):
            result = training.train()
        return training.seconds, result["train/loss"]


def main() -> None:
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    num_rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    print(f"{NUM_IMAGES} images 3x{SIZE}x{SIZE}, ten epochs: features every epoch / once; {rounds.machine()}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder / "images.npz")
        losses: dict[str, float] = {}

        def seconds(*words: str) -> float:
            spent, losses[" ".join(words)] = trained(folder, *words)
            return spent

        for precision in WORK.values():
            seconds(f"precision={precision}", "max_epochs=2")
        for name, precision in WORK.items():
            plain, quick = ("fast=false", "precision=float32"), (f"precision={precision}",)
            times = rounds.ratios(lambda words=plain: seconds(*words), lambda words=quick: seconds(*words), num_rounds)
            print(rounds.line(name, *times), flush=True)
            print(f"  last loss {losses[' '.join(plain)]:.6e} / {losses[' '.join(quick)]:.6e}", flush=True)


if __name__ == "__main__":
    main()
