"""Every model x loss x data: `matrix.txt` says which trains, its loss falling, and which is refused in one line."""

import gzip
import io
import json
import os
import random
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from trainer.cli import CONFIGS
from trainer.errors import UserError

REFUSALS = {
    "i": "wants images",
    "p": "takes probabilities, but model=.* gives logits. Type loss=bce_with_logits",
    "l": "takes logits.* gives probabilities. Type loss=(bce|nll)",
    "n": "takes log_probabilities or probabilities, but model=.* gives logits. Type loss=cross_entropy",
    "c": "takes class labels, but data=.* has float targets. Type loss=mse",
    "r": "takes targets from 0 to 1",
}


def rows() -> list[tuple[str, str, str, str]]:
    """(model, data, loss, what happens)."""
    lines = [line.split() for line in Path(__file__).with_name("matrix.txt").read_text().splitlines() if line[0] != "#"]
    losses = lines[0][2:]
    return [(model, data, loss, x) for model, data, *xs in lines[1:] for loss, x in zip(losses, xs, strict=True)]


# The deeper networks are of the same make as ResNet-18: a seeded few of their many cases in the short run.
DEEP = [row for row in rows() if row[0] in ("resnet34", "resnet50") and row[3] == "+"]
SHORT = random.Random(int(os.environ.get("TRAIN_TEST_SEED", "0"))).sample(DEEP, 4)


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, ...]]:
    """A few samples of every source as files, and the words that name them."""
    root = tmp_path_factory.mktemp("sources")
    draw = np.random.default_rng(0)

    def classes(n: int) -> np.ndarray:
        return np.arange(n, dtype=np.uint8) % 10

    for part, n in (("train", 48), ("t10k", 12)):
        images = draw.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        for kind, magic, array in (("images-idx3", 2051, images), ("labels-idx1", 2049, classes(n))):
            header = struct.pack(f">{1 + array.ndim}i", magic, *array.shape)
            (root / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(header + array.tobytes()))
    with tarfile.open(root / "cifar-10-binary.tar.gz", "w:gz") as archive:
        for name in [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]:
            pixels = draw.integers(0, 256, (10, 3072), dtype=np.uint8)
            record = np.concatenate([classes(10)[:, None], pixels], axis=1).tobytes()
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(record)
            archive.addfile(member, io.BytesIO(record))
        names = b"airplane\nautomobile\nbird\ncat\ndeer\ndog\nfrog\nhorse\nship\ntruck\n"
        member = tarfile.TarInfo("cifar-10-batches-bin/batches.meta.txt")
        member.size = len(names)
        archive.addfile(member, io.BytesIO(names))
    np.savez(root / "mine.npz", inputs=draw.normal(size=(60, 6)).astype(np.float32), targets=np.arange(60) % 3)
    for name in ("cat", "dog"):
        for i in range(12):
            folder = root / "folder" / name
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    idx = (f"data.root={root}", "data.limit=40")
    return {
        "digits": ("data.limit=40",),
        "mnist": idx,
        "fashion_mnist": idx,
        "cifar10": idx,
        "random_regression": (),
        "arrays": (f"data.path={root / 'mine.npz'}",),
        "image_folder": (f"data.root={root / 'folder'}", "data.num_workers=0", "data.image_size=32"),
    }


def test_the_matrix_is_whole() -> None:
    """Every shipped model, loss and source stands in it; `own` has no class of its own."""
    table = rows()
    for column, group in enumerate(("model", "data", "loss")):
        shipped = {path.stem for path in (CONFIGS / group).glob("*.yaml")} - {"own"}
        assert {row[column] for row in table} == shipped
    assert len(table) == len({row[:3] for row in table}) == 7 * 7 * 9


@pytest.mark.parametrize(
    ("model", "data", "loss", "what"),
    [
        pytest.param(*row, id="-".join(row[:3]), marks=[pytest.mark.long] if row in DEEP and row not in SHORT else [])
        for row in rows()
    ],
)
def test_trains_or_is_refused(
    model: str,
    data: str,
    loss: str,
    what: str,
    train: Callable[..., dict[str, Any]],
    sources: dict[str, tuple[str, ...]],
) -> None:
    words = [f"model={model}", f"data={data}", f"loss={loss}", *sources[data], "batch_size=full", "max_steps=8"]
    words += ["monitor=off", "monitor.every=1", "checkpoint.every=null", "eval_every=8", "optimizer.lr=0.005"]
    if model == "frozen_resnet":
        words.append("model.backbone.weights=null")
    if what == "+":
        train(*words)
        (path,) = Path("runs").rglob("metrics.jsonl")
        steps = [json.loads(line) for line in path.read_text().splitlines()]
        losses = [numbers["train/loss"] for numbers in steps if "train/loss" in numbers]
        # Dropout makes a single loss noisy: the last half against the first.
        assert len(losses) == 8
        assert sum(losses[4:]) < sum(losses[:4])
    else:
        with pytest.raises(UserError, match=REFUSALS[what]) as refused:
            train(*words)
        assert "\n" not in str(refused.value)
        assert not Path("runs").exists()
