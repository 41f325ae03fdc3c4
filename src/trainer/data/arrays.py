"""The user's own arrays: an `.npz`, or a pair of `.npy`. Nothing is ever unpickled. (Other files are tables.)"""

import math
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray

from trainer.config.schema import shown
from trainer.data import table
from trainer.data.folds import folded
from trainer.data.memory import refuse_more
from trainer.data.quoting import cut, listed
from trainer.data.source import Data, Samples, existing_path, split_off
from trainer.data.standardize import standardized
from trainer.data.tables.read import SUFFIXES
from trainer.data.targets import Targets, meaning, place, refuse_non_finite
from trainer.disk import foreign
from trainer.disk.files import cannot_read
from trainer.errors import UserError, nearest

Array = NDArray[Any]
Pair = tuple[Array, Array]  # inputs [N, ...] and targets [N] or [N, D]
# What a run may need for arrays that are packed more than MAX_RATIO times: some kB of zeros unpack to any number of GB.
MAX_UNCHECKED_BYTES = 1 << 28
MAX_RATIO = 100
_KEYS = "drop|keep|categorical|embed|max_levels|delimiter|decimal|encoding|header|group"
_TABLE_KEYS = re.compile(rf"('?data\.(?:{_KEYS})=)")


def load(
    path: str | None,
    targets: str | int | Sequence[str | int] | None = None,
    task: str = "auto",
    num_classes: int | None = None,
    standardize: bool = True,
    val_fraction: float = 0.1,
    test_fraction: float = 0.2,
    split_seed: int = 0,
) -> Data:
    """Inputs and targets from files of the user's own.

    uint8 inputs `[N, H, W]`, `[N, H, W, C]` or `[N, C, H, W]` with one or three channels are images and stay uint8.
    Other inputs are numbers: float32 ones stay that, all others become float64 and are cast last, to the `dtype` of the
    run. Whole numbers that are not standardised stay whole: tokens, say.

    Args:
        path: an `.npz` with arrays `inputs` and `targets`, and if you like `val_inputs`, `val_targets`,
            `test_inputs`, `test_targets`; an `.npy` of inputs; or a table, see `trainer.data.table.load`.
        targets: for an `.npy` the `.npy` of targets; for a table the columns that are targets, by name or by number
            from 0 (negative from the end), all others being inputs; for an `.npz` None. For both the word `inputs`:
            they are their own targets, and no others are needed.
        task: `classification`, `regression`, `multilabel` or `auto`: integers, booleans and text in a single column are
            classes, floats (also `[N, H, W]` and the like) and several columns are regression, and integers
            `[N, H, W]` a class for each pixel;
            `[N, T]` they are a class for each place with `classification`, and 0 and 1 with `multilabel`.
        num_classes: None: as many as there are different labels. Texts are numbered in alphabetical order, labels that
            aren't 0, 1 ... in their own.
        standardize: subtract the mean of the training split from the inputs, then divide by its standard deviation:
            of each column where inputs are `[N, D]` (one that is constant in training is 0 everywhere), of all
            numbers together where they have more dimensions. Images are left to the normalisation of images.
        val_fraction, test_fraction: the parts that become the splits which the file does not have itself.
        split_seed: decides which samples those are.

    Raises:
        UserError: the file is missing, damaged or of another kind, or its numbers do not fit the task.
    """
    file = existing_path("data.path", path)
    if file.suffix.lower() in SUFFIXES:
        fractions = {"val_fraction": val_fraction, "test_fraction": test_fraction}
        return _of_table(path, targets, task, num_classes, standardize=standardize, **fractions, split_seed=split_seed)
    are_own = targets == "inputs"
    parts = read_pairs(file, targets)
    missing = {split: part for split, part in (("val", val_fraction), ("test", test_fraction)) if split not in parts}
    rows = split_off(len(parts["train"][0]), split_seed, **missing) if missing else {}
    inputs = as_inputs({split: x for split, (x, _) in parts.items()}, file, standardize)
    aims = {split: y for split, (_, y) in parts.items()}
    are_places = all(is_of_places(x, y, task) for x, y in parts.values())
    if are_places:  # their labels are counted once it is known which of them is left out
        meant = Targets({split: torch.from_numpy(y.astype(np.int64)) for split, y in aims.items()}, num_classes)
    else:
        meant = meaning(aims, f"data.path={file}", task, num_classes)
    rows = folded(rows, split_seed, meant.splits["train"] if meant.num_classes else None, None)
    notes = [*meant.notes, *_counting_notes(parts["train"][0])]
    del parts
    # Each split is a copy: standardising writes into it.
    arrays = {split: np.ascontiguousarray(array) for split, array in inputs.items() if split not in rows}
    arrays |= {split: np.ascontiguousarray(inputs["train"][index.numpy()]) for split, index in rows.items()}
    del inputs
    labels = meant.splits | {split: meant.splits["train"][index] for split, index in rows.items()}
    is_scaled = standardize and arrays["train"].dtype.kind == "f"
    scaling = standardized(arrays["train"], arrays["val"], arrays["test"]) if is_scaled else None
    splits: dict[str, Any] = {s: Samples(torch.from_numpy(array), labels[s]) for s, array in arrays.items()}

    shape = "x".join(map(str, splits["train"].inputs.shape[1:]))
    numbers = "x".join(map(str, labels["train"].shape[1:]))
    told = f"{meant.num_classes} classes" if meant.num_classes else f"{numbers} numbers as targets"
    if are_own or are_places:
        told = "its own targets" if are_own else "a class for each place"
    return Data(
        **splits,
        description=f"arrays: {file.name}, {sum(map(len, splits.values())):,} samples of {shape}, {told}",
        num_classes=meant.num_classes,
        class_names=meant.class_names,
        notes=tuple(notes),
        recipe=scaling,
        rows=dict(rows),
        by_chance=tuple(missing),
        is_multilabel=task == "multilabel",
        as_task="classification" if are_places else "auto",
        are_own_targets=are_own,
    )


def read_pairs(file: Path, targets: object) -> dict[str, Pair]:
    """What an `.npz`, or a pair of `.npy`, holds, as it is: split to inputs and targets; all `train` without splits.

    Args:
        targets: for an `.npy` the `.npy` of targets; for an `.npz` None; for both `inputs`, where they are their own.

    Raises:
        UserError: it is of another kind, damaged, or has no row of targets for each row of inputs.
    """
    are_own = targets == "inputs"
    match file.suffix.lower():
        case ".npz":
            parts = _read_npz(file, None if are_own else targets, ("inputs",) if are_own else ("inputs", "targets"))
        case ".npy":
            parts = {"train": _read_npy_pair(file, targets)}
        case suffix:
            hint = " Try data=image_folder for a folder of images." if file.is_dir() else ""
            raise UserError(
                f"data.path={file}: {cut(suffix) or 'this'} is not read; accepted are .npz, .npy or a table "
                f"({', '.join(SUFFIXES)}).{hint}"
            )
    for split, (x, y) in parts.items():
        if x.ndim == 0 or y.ndim == 0 or len(x) != len(y):
            raise UserError(
                f"data.path={file}: {split}: inputs of shape {list(x.shape)} and targets of shape {list(y.shape)}; "
                f"each row of inputs needs a row of targets. Give arrays of one length."
            )
        if not x.size or not y.size:
            raise UserError(f"data.path={file}: {split}: inputs of shape {list(x.shape)} hold nothing. Give samples.")
    return parts


def read_inputs(file: Path) -> Array:
    """Inputs without targets, `[N, ...]`: an `.npy`, or of an `.npz` its `inputs`, `test_inputs`, or only array.

    Raises:
        UserError: it is damaged, of another kind, or holds no such array or no number.
    """
    if file.suffix.lower() == ".npy":
        array = _load_npy(f"{file}", file)
    else:
        with _opened(f"{file}", file) as archive:
            names = _names(archive)
            known = ("inputs", "test_inputs", *(names if len(names) == 1 else ()))
            wanted = [name for name in known if name in names]
            if not wanted:
                raise UserError(f"{file}: it holds {listed(names) or 'nothing'}. Call the array of samples inputs.")
            array = _read_member(archive, wanted[0], file)
    if array.ndim == 0 or not array.size:
        raise UserError(f"{file}: an array of shape {list(array.shape)} holds no samples. Give [N, ...].")
    return as_inputs({"its": array}, file)["its"]


def read_named(file: Path) -> dict[str, Array]:
    """All arrays of an `.npz`. Raises UserError: it is damaged."""
    with _opened(f"{file}", file) as archive:
        return {name: _read_member(archive, name, file) for name in _names(archive)}


def is_of_places(inputs: Array, targets: Array, task: str) -> bool:
    """Whether targets are a class for each place: whole numbers `[N, H, W]`; if it is said, `[N, T]` like inputs."""
    if task not in ("auto", "classification") or targets.dtype.kind not in "biu":
        return False
    is_of_tokens = task == "classification" and targets.ndim == 2 and targets.shape[1] > 1
    return targets.ndim > 2 or (is_of_tokens and inputs.shape[:2] == targets.shape[:2])


def _counting_notes(inputs: Array) -> list[str]:
    """On a first or last column that only counts the rows, as an index that was saved along."""
    if inputs.ndim != 2 or inputs.shape[1] < 2 or inputs.dtype.kind not in "iuf":
        return []
    found = {column: inputs[:, column].astype(np.float64) for column in (0, inputs.shape[1] - 1)}
    return [
        f"column {column} of the inputs counts the rows, from {values.min():.0f} to {values.max():,.0f}. If it is no "
        "more than that, save them without it."
        for column, values in found.items()
        if table.is_counting(values)
    ]


def _of_table(*args: Any, **keys: Any) -> Data:
    """A table, as `data=table` reads it."""
    try:
        data = table.load(*args, **keys)
    except UserError as error:
        raise UserError(_by_table(str(error))) from error
    return replace(data, notes=tuple(map(_by_table, data.notes)))


def _by_table(text: str) -> str:
    """With `data=table` before what only that has: what a line proposes can be typed."""
    return _TABLE_KEYS.sub(r"data=table \1", text)


# --- files ---------------------------------------------------------------------------------------------------------


def _read_npz(path: Path, targets: object, needed: tuple[str, ...]) -> dict[str, Pair]:
    if targets is not None:
        raise UserError(f"data.targets={shown(targets)}: an .npz holds its own, as an array `targets`. Leave it null.")
    parts = {}
    with _opened(f"data.path={path}", path) as archive:
        names = _names(archive)
        for split, prefix in (("train", ""), ("val", "val_"), ("test", "test_")):
            pair = [f"{prefix}{part}" for part in needed]
            if split != "train" and not set(pair) & set(names):
                continue
            for name in pair:
                if name not in names:
                    raise UserError(
                        f"data.path={path}: there is no array {name}; it holds {listed(names) or 'nothing'}."
                        f"{nearest(name, names)} Write it with numpy.savez(file, inputs=..., targets=...)."
                    )
            found = [_read_member(archive, name, path) for name in pair]
            parts[split] = found[0], found[1] if len(found) > 1 else np.zeros(len(found[0]))
    return parts


@contextmanager
def _opened(where: str, path: Path) -> Iterator[zipfile.ZipFile]:
    """An `.npz`. Raises UserError, which `where` begins: it is damaged, or can't be read."""
    try:
        with foreign.opened(path) as file, zipfile.ZipFile(file) as archive:
            yield archive
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise UserError(f"{where}: not a whole .npz ({error}). Write it with numpy.savez.") from error
    except OSError as error:
        raise cannot_read(where, error) from error


def _names(archive: zipfile.ZipFile) -> list[str]:
    return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]


def _read_member(archive: zipfile.ZipFile, name: str, path: Path) -> Array:
    member = archive.getinfo(f"{name}.npy")
    with archive.open(member) as file:
        return _read_npy(file, member.file_size, f"data.path={path}: {name}", member.compress_size)


def _copy_bytes(dtype: np.dtype[Any], num_dimensions: int) -> int:
    """Of a number: once it is split and standardised, and as what the run computes with."""
    if dtype.kind == "U":
        return dtype.itemsize
    if dtype == np.uint8 and num_dimensions >= 3:
        return 1 + 4
    return 4 + 8 if dtype.kind == "f" and dtype.itemsize <= 4 else 8 + 8


def _read_npy_pair(path: Path, targets: object) -> Pair:
    if targets == "inputs":
        inputs = _load_npy(f"data.path={path}", path)
        return inputs, np.zeros(len(inputs) if inputs.ndim else 0)
    if not isinstance(targets, str) or not targets.endswith(".npy"):
        raise UserError(
            f"data.targets={shown(targets)}: inputs in an .npy need targets in one. Type data.targets=<file>.npy."
        )
    other = existing_path("data.targets", targets)
    return _load_npy(f"data.path={path}", path), _load_npy(f"data.targets={other}", other)


def _load_npy(where: str, path: Path) -> Array:
    try:
        with foreign.opened(path) as stream:
            return _read_npy(stream, path.stat().st_size, where)
    except OSError as error:
        raise cannot_read(where, error) from error


def _read_npy(file: IO[bytes], size: int, where: str, packed: int | None = None) -> Array:
    """The array in a stream of `size` bytes, unpacked from `packed`; its header is judged before the rest is read."""
    if not size:
        raise UserError(f"{where}: the file is empty. Write it with numpy.save.")
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        shape, _, dtype = readers[np.lib.format.read_magic(file)](file)
    except (OSError, zipfile.BadZipFile, zlib.error):
        raise
    except Exception as error:  # a damaged header is Python text that can fail to parse in any way
        raise UserError(f"{where}: it does not begin as an array of numbers does. Write it with numpy.save.") from error
    if dtype.kind not in "biufU":
        what = "Python objects, which could run code when they are read" if dtype.hasobject else f"{dtype}"
        raise UserError(
            f"{where}: it holds {what}; accepted are numbers and text. Convert numbers with "
            ".astype(float), text with .astype(str)."
        )
    expected = file.tell() + math.prod(shape) * dtype.itemsize
    if size < expected:
        raise UserError(f"{where}: truncated: {size:,} bytes, its header promises {expected:,}. Write it again.")
    needed = expected + math.prod(shape) * _copy_bytes(dtype, len(shape))
    if packed is not None and needed > MAX_UNCHECKED_BYTES and expected > MAX_RATIO * packed:
        raise UserError(
            f"{where}: {packed:,} bytes that unpack to {expected:,}, for which a run needs {needed:,}; accepted are "
            f"{MAX_RATIO} times as many bytes, or what needs {MAX_UNCHECKED_BYTES:,}. Write it with numpy.savez, which "
            "does not pack."
        )
    refuse_more(where, needed, "Give fewer samples.")
    file.seek(0)
    try:
        array: Array = np.lib.format.read_array(file, allow_pickle=False)
    except (ValueError, TypeError, OverflowError, MemoryError) as error:  # a shape that a file can promise and not have
        raise UserError(f"{where}: there is no array of shape {list(shape)} ({error}). Write it again.") from error
    return array


# --- inputs --------------------------------------------------------------------------------------------------------


def as_inputs(parts: Mapping[str, Array], file: Path, standardize: bool = False) -> dict[str, Array]:
    """Images as uint8 `[N, C, H, W]`, all else as numbers `[N, D]` or `[N, ...]` that no digit has been lost of.

    Args:
        standardize: whole numbers are to be standardised; else they stay whole.
    """
    shapes = {split: array.shape[1:] for split, array in parts.items()}
    if len(set(shapes.values())) > 1:
        found = ", ".join(f"{split} {list(shape)}" for split, shape in shapes.items())
        raise UserError(f"data.path={file}: samples of different shapes ({found}); they must be alike in all splits.")
    if all(array.dtype == np.uint8 and array.ndim >= 3 for array in parts.values()):
        return {split: _to_images(array, file) for split, array in parts.items()}
    kinds = {array.dtype.kind for array in parts.values()}
    for split, array in parts.items():
        if array.dtype.kind not in "biuf":
            raise UserError(f"data.path={file}: {split} inputs are text; accepted are numbers. Convert them to floats.")
        refuse_non_finite(array, f"data.path={file}: {split} inputs", place)
    kind: Any = np.float64
    if all(array.dtype.kind == "f" and array.dtype.itemsize <= 4 for array in parts.values()) or kinds == {"b"}:
        kind = np.float32
    elif not standardize and kinds <= {"i", "u"}:
        kind = np.int64  # of tokens, say: they stay what they are
    numbers = {split: array.astype(kind, copy=False) for split, array in parts.items()}
    return {split: array[:, None] if array.ndim == 1 else array for split, array in numbers.items()}


def _to_images(array: Array, file: Path) -> Array:
    if array.ndim == 3:
        return array[:, None]
    if array.ndim == 4 and array.shape[1] in (1, 3):
        return array
    if array.ndim == 4 and array.shape[3] in (1, 3):
        return array.transpose(0, 3, 1, 2)
    raise UserError(
        f"data.path={file}: uint8 inputs of shape {list(array.shape)}; accepted as images are [N, H, W], "
        f"[N, H, W, C] and [N, C, H, W] with 1 or 3 channels. If these are no images, save them as float32."
    )
