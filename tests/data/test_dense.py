"""Arrays as people have them become the numbers that they are, in memory and item by item, or a line."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from trainer.data.given import Asked, as_data
from trainer.data.items import Items
from trainer.data.source import Data, Samples
from trainer.errors import UserError

X = np.random.default_rng(0).normal(size=(30, 4)).round(2).astype(np.float32)
Y = np.arange(30) % 3


def frozen(array: Any) -> Any:
    array = array.copy()
    array.setflags(write=False)
    return array


def column(array: Any) -> Any:
    """What pandas and its like have."""
    return type("Frame", (), {"to_numpy": lambda self: array, "__len__": lambda self: len(array)})()


ARRAYS: dict[str, Callable[[Any], Any]] = {
    "big-endian": lambda array: array.astype(array.dtype.newbyteorder(">")),
    "Fortran order": np.asfortranarray,
    "backwards": lambda array: array[::-1].copy()[::-1],
    "Python's numbers": lambda array: array.astype(object),
    "wide": lambda array: array.astype(np.longdouble) if array.dtype.kind == "f" else array.astype(np.uint64),
    "read-only": frozen,
    "no mask": np.ma.masked_array,
    "a table of pandas": column,
    "a tensor": torch.from_numpy,
}


def parts_of(data: Data) -> tuple[Any, Any]:
    """Inputs and targets of the training split."""
    if not isinstance(data.train, Items):
        return data.train.inputs, data.train.targets
    return data.train.load(("train", list(range(len(data.train)))))


@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays_of_any_kind(kind: str) -> None:
    made = ARRAYS[kind]
    for given in (
        Data(Samples(made(X), made(Y)), Samples(X, Y), (X, Y)),
        ((made(X), made(Y)), (X, Y), (X, Y)),
        {"train": (made(X), np.array(["a", "b", "c"])[Y]), "val": (X, Y.astype(str)), "test": (X, Y.astype(str))}
        if kind == "backwards"
        else ((made(X), made(Y)), (X, Y), (X, Y)),
    ):
        data = as_data(given, "mine", Asked())
        inputs, targets = parts_of(data)
        assert torch.equal(inputs.float(), torch.from_numpy(X))
        assert targets.dtype == torch.int64
        assert targets.tolist() in (Y.tolist(), (Y + 3).tolist())


def test_items_with_arrays_of_any_kind() -> None:
    for kind, made in ARRAYS.items():
        items = [(made(x), y) for x, y in zip(X, Y, strict=True)]
        inputs, targets = as_data((items, items, items), "mine", Asked()).train.sample
        assert torch.equal(inputs.float(), torch.from_numpy(X[: len(inputs)])), kind
        assert targets.tolist() == Y[: len(inputs)].tolist()


@pytest.mark.parametrize(
    ("targets", "task"),
    [(Y.astype(np.uint8), "classes"), (Y > 1, "classes"), (Y.astype(np.int16), "classes"), (Y * 0.5, "numbers")],
)
def test_targets_of_one_number(targets: Any, task: str) -> None:
    """In memory as item by item."""
    items = [*zip(X, targets, strict=True)]
    for given in (((X, targets),) * 3, (items,) * 3):
        data = as_data(given, "mine", Asked())
        assert data.num_classes == (len(set(targets.tolist())) if task == "classes" else None)
        found = parts_of(data)[1]
        assert found.shape == ((30,) if task == "classes" else (30, 1))
        assert found.flatten().tolist() == targets.tolist()


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        (np.ma.masked_array(X, X > -9), "has an array with masked numbers."),
        (torch.from_numpy(X).to_sparse(), "has a sparse tensor. Give its .to_dense()."),
        (np.array([[1], [1, 2]] * 15, object), "has an array of arrays of different shapes."),
        (np.zeros(30, "M8[D]"), "has an array of datetime64[D]; numbers are needed."),
        (np.full((30, 2), 1 << 63, np.uint64), "has a whole number of 9,223,372,036,854,775,808; the largest is"),
        (X[:20], "each row of inputs needs a row of targets."),
    ],
)
def test_what_has_no_number_for_each_place_is_a_line(inputs: Any, says: str) -> None:
    with pytest.raises(UserError) as caught:
        as_data((inputs, Y), "mine", Asked())
    assert says in str(caught.value)
    with pytest.raises(UserError, match=r"the train split has (arrays|an array|a sparse|a whole)"):
        as_data(Data(Samples(inputs, Y)), "mine", Asked())
    if "masked" in says or "sparse" in says:
        with pytest.raises(UserError, match=r"has (an array with masked|a sparse)"):
            as_data([*zip(inputs, Y, strict=True)], "mine", Asked())


def test_a_table_alone_is_a_line() -> None:
    frame = type("Frame", (), {"to_numpy": lambda self: X, "__len__": lambda self: 30, "__getitem__": None})()
    with pytest.raises(UserError, match=r"is a Frame. Give trainer.Samples\(inputs, targets\), .* data=table data.pa"):
        as_data(frame, "mine", Asked())
