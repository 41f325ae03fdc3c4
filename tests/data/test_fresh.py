"""New samples with targets: a table that is evaluated has the classes that it had when a run was trained with it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from refusal import says
from trainer.data import arrays, fresh, table
from trainer.data.source import Data, Samples
from trainer.meaning import Classes

NUM_ROWS = 60


def of_rows(data: Data, targets: torch.Tensor) -> bool:
    """Whether the targets of all rows of a file are those that its splits have."""
    splits = {name: getattr(data, name) for name in ("train", "val", "test")}
    return all(torch.equal(targets[data.rows[name]], split.targets) for name, split in splits.items())


LABELS: dict[str, tuple[Callable[[int], object], dict[str, Any]]] = {
    "zeros in front": (lambda i: f"{i % 3 + 1:03d}", {}),
    "zeros in front, names": (lambda i: f"{i % 3 + 1:03d}", {"task": "classification"}),
    "one is a number twice": (lambda i: ["01", "1", "2"][i % 3], {"categorical": ["y"]}),
    "a plus": (lambda i: f"+{i % 3}", {}),
    "exponents": (lambda i: f"{i % 3 + 1}e1", {}),
    "fractions": (lambda i: f"{i % 3 + 1}.00", {}),
    "thousands apart": (lambda i: f'"{(i % 3 + 1) * 1_000_000:,}"', {}),
    "decimal commas": (lambda i: f'"{i % 3 + 1},0"', {}),
    "decimal commas, names": (lambda i: f'"{i % 3 + 1},0"', {"task": "classification"}),
    "many digits": (lambda i: 2**53 + i % 3, {"task": "classification"}),
    "truth": (lambda i: i % 2 == 0, {}),
    "truth, names": (lambda i: f"{i % 2 == 0}".upper(), {"categorical": ["y"]}),
    "missing words": (lambda i: ["NA", "none", "b"][i % 3], {"categorical": ["y"]}),
    "letters": (lambda i: ["a", "A", "b"][i % 3], {}),
}


@pytest.mark.parametrize(("label", "asked"), LABELS.values(), ids=LABELS.keys())
def test_classes_of_a_table_are_found_again(
    tmp_path: Path, label: Callable[[int], object], asked: dict[str, Any]
) -> None:
    texts = [str(label(i)) for i in range(NUM_ROWS)]
    (tmp_path / "t.csv").write_text("x,y\n" + "".join(f"{i % 7},{text}\n" for i, text in enumerate(texts)))
    rows = ({"x": i % 7, "y": text.strip('"')} for i, text in enumerate(texts))
    (tmp_path / "t.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    for name in ("t.csv", "t.jsonl"):
        path = str(tmp_path / name)
        data = table.load(path, targets=["y"], **asked)
        assert isinstance(data.meaning, Classes)
        inputs, targets = fresh.of_table(path, data.recipe, data.meaning, {}, [])
        assert of_rows(data, targets)
        assert isinstance(data.test, Samples)
        assert torch.equal(inputs[data.rows["test"]], data.test.inputs)  # type: ignore[call-overload, index]


@pytest.mark.parametrize("head", ["a,0,1,2", ""])
def test_one_hot_columns_are_one_class(tmp_path: Path, head: str) -> None:
    """Also columns that are called 0 and 1, as get_dummies of pandas calls them: they are no classes 0 and 1."""
    hot = np.eye(3, dtype=int)[np.random.default_rng(0).integers(0, 3, NUM_ROWS)]
    rows = [f"{i}.5,{','.join(map(str, row))}" for i, row in enumerate(hot.tolist())]
    path = tmp_path / "t.csv"
    path.write_text("".join(f"{line}\n" for line in [*([head] if head else []), *rows]))
    names: list[Any] = ["0", "1", "2"] if head else [1, 2, 3]
    data = table.load(str(path), targets=names, task="classification")
    _, targets = fresh.of_table(str(path), data.recipe, data.meaning, {}, [])
    assert targets.tolist() == hot.argmax(1).tolist()
    assert of_rows(data, targets)
    path.write_text(path.read_text().replace("9.5,0", "9.5,1").replace("9.5,1,0,0", "9.5,1,1,0"))
    message = says(fresh.of_table, path=str(path), recipe=data.recipe, meaning=data.meaning, how={}, notes=[])
    assert "is no row of 0 with one 1" in message

    np.savez(tmp_path / "t.npz", inputs=np.arange(NUM_ROWS)[:, None] / 7, targets=hot)
    data = arrays.load(str(tmp_path / "t.npz"), task="classification")
    _, targets = fresh.of_arrays(str(tmp_path / "t.npz"), None, data.meaning, None)
    assert of_rows(data, targets)


def test_a_label_in_other_letters_is_another_class(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("x,y\n" + "".join(f"{i}.5,{'ab'[i % 2]}\n" for i in range(NUM_ROWS)))
    data = table.load(str(path), targets=["y"])
    path.write_text(path.read_text().replace(",a", ",A"))
    asked = {"path": str(path), "recipe": data.recipe, "meaning": data.meaning, "how": {}, "notes": []}
    says(fresh.of_table, "column y: A: no class of the model's, which are a, b.", **asked)
