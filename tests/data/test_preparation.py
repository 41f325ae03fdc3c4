"""What was done to inputs is kept as plain values, and does the same to the raw samples again, bit for bit."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from trainer.data import arrays, digits, image_folder, table
from trainer.data.preparation import AsTheyAre, Pictures, Rows, Scaled, Theirs, from_dict, preparation_of
from trainer.data.prepare import prepare
from trainer.data.random_regression import load as random_regression
from trainer.data.source import Data, Samples

CPU = torch.device("cpu")


def kept(data: Data, **options: Any) -> tuple[Any, torch.Tensor]:
    """The preparation as it comes back from JSON, and the test split as the model gets it."""
    splits = prepare(data, CPU, torch.float32, **options)
    found = from_dict(json.loads(json.dumps(preparation_of(data, splits).as_dict())))
    return found, torch.cat([batch.inputs for batch in splits.test.in_order()])


@pytest.mark.parametrize("options", [{}, {"channels": 3, "image_size": 12}, {"normalize": False}])
def test_pictures_in_memory(options: dict[str, Any]) -> None:
    data = digits.load()
    found, expected = kept(data, **options)
    assert isinstance(found, Pictures)
    assert found.stored == found.raw_shape == (1, 8, 8)
    assert isinstance(data.test, Samples)
    assert torch.equal(found(data.test.inputs, CPU, torch.float32), expected)


def test_pictures_on_disk(sources: dict[str, tuple[str, ...]]) -> None:
    root = sources["image_folder"][0].partition("=")[2]
    data = image_folder.load(root, background="grey", num_workers=0)
    found, expected = kept(data, image_size=20)
    assert (found.stored, found.background, found.raw_shape) == (None, "grey", (3, 20, 20))
    raw = torch.stack([data.test[i][0] for i in range(len(data.test))])  # type: ignore[index]
    assert torch.equal(found(raw, CPU, torch.float32), expected)


@pytest.mark.parametrize("kind", ["float32", "float64", "int32"])
@pytest.mark.parametrize("shape", [(6,), (2, 5)])
def test_numbers_of_arrays(tmp_path: Path, kind: str, shape: tuple[int, ...]) -> None:
    draw = np.random.default_rng(0)
    raw = (draw.normal(size=(60, *shape)) * 100 + 1e3).astype(kind)
    raw[:, 0] = 7  # a constant column
    np.savez(tmp_path / "a.npz", inputs=raw, targets=np.arange(60) % 3)
    data = arrays.load(str(tmp_path / "a.npz"))
    found, expected = kept(data)
    assert isinstance(found, Scaled)
    assert torch.equal(found(torch.from_numpy(raw[data.rows["test"].numpy()]), CPU, torch.float32), expected)


def test_rows_of_a_table(sources: dict[str, tuple[str, ...]]) -> None:
    path = sources["table"][0].partition("=")[2]
    data = table.load(path, targets=["kind"])
    found, expected = kept(data)
    assert isinstance(found, Rows)
    whole = found(table.inputs_of(path, found.recipe), CPU, torch.float32)
    assert torch.equal(whole[data.rows["test"]], expected)


def test_what_stays_as_it_is() -> None:
    data = random_regression(num_samples=8, in_features=5, out_features=2)
    found, expected = kept(data)
    assert found == AsTheyAre((5,), "float32")
    assert isinstance(data.test, Samples)
    assert torch.equal(found(data.test.inputs, CPU, torch.float32), expected)
    assert torch.equal(found(data.test.inputs.double(), CPU, torch.float32), expected)


def test_what_only_its_source_makes() -> None:
    data = random_regression(num_samples=8, in_features=5, out_features=2)
    inputs = {"words": torch.arange(6).view(2, 3), "sizes": torch.ones(2, 1, dtype=torch.float64)}
    theirs: Any = SimpleNamespace(train=[], example=(inputs, None), recipe=data.recipe)
    splits: Any = SimpleNamespace(transform=None, input_shape=(3,))
    found = from_dict(json.loads(json.dumps(preparation_of(theirs, splits).as_dict())))
    assert found == Theirs({"words": ("int64", 2), "sizes": ("float64", 2)})
    given = found(inputs, CPU, torch.float32)
    assert (given["words"].dtype, given["sizes"].dtype) == (torch.int64, torch.float32)


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "magic"},
        {"kind": None},
        {"channels": 10**9},
        {"channels": True},
        {"image_size": [8]},
        {"image_size": [8, 1e9]},
        {"image_size": [8, 10**9]},
        {"scale": 0},
        {"scale": "16"},
        {"mean": [0.1, 0.2]},
        {"mean": ["a"]},
        {"mean": [float("nan")]},
        {"mean": None},
        {"stored": [8, 8]},
        {"background": "/etc/passwd"},
        {"kind": "numbers"},
        {"kind": "numbers", "shape": [3], "mean": [1.0], "std": [-1.0]},
        {"kind": "table"},
        {"kind": "as they are", "shape": [3], "dtype": "load"},
        {"kind": "as they are", "shape": [3], "dtype": []},
    ],
)
def test_foreign_values_are_refused(change: dict[str, Any]) -> None:
    data = digits.load()
    found = preparation_of(data, prepare(data, CPU, torch.float32)).as_dict()
    with pytest.raises(ValueError, match=r"not |kind"):
        from_dict(json.loads(json.dumps(found)) | change)
    for nothing in (None, [], "x", 3):
        with pytest.raises(ValueError, match="not what"):
            from_dict(nothing)
