"""A key of `data` that was typed and that this data has no use for is refused; others are read."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trainer.errors import UserError

Train = Callable[..., dict[str, Any]]
QUIET = ("model=two_layer", "max_steps=2", "monitor=off", "threads=1")
ALL, TRAIN = ("data=arrays", "data.path=all.npz"), ("data=arrays", "data.path=train.npz")
IMAGES = ("data=arrays", "data.path=images.npz")
TABLE = ("data=table", "data.path=rows.csv", "data.targets=[y]", "loss=mse")
LINES = ("data=table", "data.path=rows.jsonl", "data.targets=[y]", "loss=mse")


@pytest.fixture(autouse=True)
def files(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    inputs, targets = draw.normal(size=(60, 3)), draw.integers(0, 2, 60)
    others = {"val_inputs": inputs + 1, "val_targets": targets, "test_inputs": inputs + 2, "test_targets": targets}
    np.savez(tmp_path / "all.npz", inputs=inputs, targets=targets, **others)
    np.savez(tmp_path / "train.npz", inputs=inputs, targets=targets)
    np.savez(tmp_path / "images.npz", inputs=draw.integers(0, 255, (60, 4, 4)).astype(np.uint8), targets=targets)
    rows = [(*row, i % 6) for i, row in enumerate(inputs.tolist())]
    (tmp_path / "rows.csv").write_text("a,b,y,g\n" + "".join(f"{a},{b},{y},g{g}\n" for a, b, y, g in rows))
    lines = "".join(f'{{"a": {a}, "b": {b}, "y": {y}}}\n' for a, b, y, _ in rows)
    (tmp_path / "rows.jsonl").write_text(lines)


@pytest.mark.parametrize(
    ("data", "word", "why"),
    [
        (ALL, "data.val_fraction=0.1", "data=arrays has a validation split of its own"),
        (ALL, "data.test_fraction=0.3", "data=arrays has a test split of its own"),
        (ALL, "data.split_seed=1", "data=arrays has all its splits"),
        ((*TRAIN, "data.folds=3", "data.fold=0"), "data.val_fraction=0.2", "one of its folds (data.folds=3)"),
        (TRAIN, "data.image_size=8", "data=arrays has no images"),
        (IMAGES, "data.standardize=true", "data=arrays has images, which data.normalize is for"),
        (TABLE, "data.stratify=true", "data=table has no class for each sample"),
        ((*TABLE, "data.group=g"), "data.stratify=true", "keeps together what is alike in data.group=g"),
        ((*TABLE, "data.time=a"), "data.stratify=true", "data=table is split by data.time=a"),
        ((*TABLE, "data.time=[a]"), "data.split_seed=1", "data=table is split by data.time=[a]"),
        (LINES, "data.decimal=comma", "data=table is no text but .jsonl"),
    ],
)
def test_what_nothing_reads_is_refused(data: tuple[str, ...], word: str, why: str, train: Train) -> None:
    key = word.partition("=")[0]
    with pytest.raises(UserError) as caught:
        train(*data, *QUIET, word)
    assert str(caught.value).startswith(f"{key}: nothing reads this key: ")
    assert f"{why}. Leave it out." in str(caught.value)
    assert not Path("runs").exists()


def test_what_is_read_is_taken(train: Train) -> None:
    train(*TRAIN, *QUIET, "data.val_fraction=0.2", "data.test_fraction=0.1", "data.split_seed=1")
    train(*TABLE, *QUIET, "data.stratify=false", "data.header=true", "data.split_seed=1")
    train(*IMAGES, *QUIET, "data.normalize=false")


def test_a_run_whose_config_holds_the_key_goes_on(train: Train) -> None:
    """Of each run the config says `val_fraction: 0.1`, whether somebody has typed it or not."""
    train(*ALL, *QUIET, "name=first")
    config = Path("runs/first/config.yaml")
    config.write_text(config.read_text().replace("val_fraction: 0.1", "val_fraction: 0.3"))
    assert train("resume=runs/first", "max_steps=4")["status"] == "finished"
