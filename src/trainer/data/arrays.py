"""The user's own arrays: an `.npz`, a pair of `.npy`, or a `.csv`. Nothing is ever unpickled."""

import csv
import math
import re
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.config.schema import shown
from trainer.data.source import Data, Samples, existing_path, split_off
from trainer.errors import UserError, nearest

Array = NDArray[Any]
Pair = tuple[Array, Array]  # inputs [N, ...] and targets [N] or [N, D]
MAX_UNCHECKED_BYTES = 1 << 30  # so much a packed array may take in any case
MAX_RATIO = 100  # and beyond that so many times what is stored of it: a few MB of zeros unpack to all the memory
INTEGER = re.compile(r"[+-]?\d{1,18}")  # fits into int64


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

    uint8 inputs `[N, H, W]`, `[N, H, W, C]` or `[N, C, H, W]` with one or three channels are images and stay uint8;
    all other inputs become float32.

    Args:
        path: an `.npz` with arrays `inputs` and `targets`, and if you like `val_inputs`, `val_targets`,
            `test_inputs`, `test_targets`; an `.npy` of inputs; or a `.csv`, with or without a line of column names.
        targets: for an `.npy` the `.npy` of targets; for a `.csv` the columns that are targets, by name or by number
            from 0 (negative from the end), all others being inputs; for an `.npz` None.
        task: `classification`, `regression` or `auto`: integers, booleans and text in a single column are classes,
            floats and several columns are regression.
        num_classes: None: the largest label and one more; texts are numbered in alphabetical order.
        standardize: subtract the mean of the training split from the inputs, then divide by its standard deviation:
            of each column where inputs are `[N, D]` (one that is constant in training is 0 everywhere), of all
            numbers together where they have more dimensions. Images are left to the normalisation of images.
        val_fraction, test_fraction: the parts that become the splits which the file does not have itself.
        split_seed: decides which samples those are.

    Raises:
        UserError: the file is missing, damaged or of another kind, or its numbers do not fit the task.
    """
    file = existing_path("data.path", path)
    match file.suffix.lower():
        case ".npz":
            parts = _read_npz(file, targets)
        case ".npy":
            parts = {"train": _read_npy_pair(file, targets)}
        case ".csv":
            parts = {"train": _read_csv(file, targets, task)}
        case suffix:
            hint = " Try data=image_folder for a folder of images." if file.is_dir() else ""
            raise UserError(f"data.path={file}: {suffix or 'this'} is not read; accepted are .npz, .npy or .csv.{hint}")
    for split, (x, y) in parts.items():
        if x.ndim == 0 or y.ndim == 0 or len(x) != len(y):
            raise UserError(
                f"data.path={file}: {split}: inputs of shape {list(x.shape)} and targets of shape {list(y.shape)}; "
                f"each row of inputs needs a row of targets. Give arrays of one length."
            )
        if not x.size or not y.size:
            raise UserError(f"data.path={file}: {split}: inputs of shape {list(x.shape)} hold nothing. Give samples.")
    missing = {split: part for split, part in (("val", val_fraction), ("test", test_fraction)) if split not in parts}
    parts_of_train = split_off(len(parts["train"][0]), split_seed, **missing) if missing else {}
    inputs = _to_inputs({split: x for split, (x, _) in parts.items()}, file)
    labels, classes, class_names = _to_targets({split: y for split, (_, y) in parts.items()}, file, task, num_classes)
    splits = {split: Samples(inputs[split], labels[split]) for split in parts}

    whole = splits["train"]
    splits |= {split: Samples(whole.inputs[rows], whole.targets[rows]) for split, rows in parts_of_train.items()}
    if standardize and splits["train"].inputs.dtype == torch.float32:
        splits = _standardized(splits)

    shape = "x".join(map(str, splits["train"].inputs.shape[1:]))
    aims = f"{classes} classes" if classes else f"{splits['train'].targets.shape[1]} numbers as targets"
    return Data(
        splits["train"],
        splits["val"],
        splits["test"],
        description=f"arrays: {file.name}, {sum(map(len, splits.values())):,} samples of {shape}, {aims}",
        num_classes=classes,
        class_names=class_names,
    )


# --- files ---------------------------------------------------------------------------------------------------------


def _read_npz(path: Path, targets: object) -> dict[str, Pair]:
    if targets is not None:
        raise UserError(f"data.targets={shown(targets)}: an .npz holds its own, as an array `targets`. Leave it null.")
    parts = {}
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
            for split, prefix in (("train", ""), ("val", "val_"), ("test", "test_")):
                pair = f"{prefix}inputs", f"{prefix}targets"
                if split != "train" and not set(pair) & set(names):
                    continue
                for name in pair:
                    if name not in names:
                        raise UserError(
                            f"data.path={path}: there is no array {name}; it holds {', '.join(names) or 'nothing'}."
                            f"{nearest(name, names)} Write it with numpy.savez(file, inputs=..., targets=...)."
                        )
                x, y = (_read_member(archive, name, path) for name in pair)
                parts[split] = x, y
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise UserError(f"data.path={path}: not a whole .npz ({error}). Write it with numpy.savez.") from error
    except OSError as error:
        raise _unreadable("data.path", path, error) from error
    return parts


def _read_member(archive: zipfile.ZipFile, name: str, path: Path) -> Array:
    member = archive.getinfo(f"{name}.npy")
    with archive.open(member) as file:
        return _read_npy(file, member.file_size, f"data.path={path}: {name}", member.compress_size)


def _read_npy_pair(path: Path, targets: object) -> Pair:
    if not isinstance(targets, str) or not targets.endswith(".npy"):
        raise UserError(
            f"data.targets={shown(targets)}: inputs in an .npy need targets in one. Type data.targets=<file>.npy."
        )
    arrays = []
    for key, file in (("data.path", path), ("data.targets", existing_path("data.targets", targets))):
        try:
            with open(file, "rb") as stream:
                arrays.append(_read_npy(stream, file.stat().st_size, f"{key}={file}"))
        except OSError as error:
            raise _unreadable(key, file, error) from error
    return arrays[0], arrays[1]


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
        raise UserError(f"{where}: it holds {what}; accepted are numbers and text. Convert it with .astype(float).")
    expected = file.tell() + math.prod(shape) * dtype.itemsize
    if size < expected:
        raise UserError(f"{where}: truncated: {size:,} bytes, its header promises {expected:,}. Write it again.")
    if packed is not None and expected > max(MAX_UNCHECKED_BYTES, MAX_RATIO * packed):
        raise UserError(
            f"{where}: {packed:,} bytes that unpack to {expected:,}; accepted are {MAX_RATIO} times as many. "
            "Write it with numpy.savez, which does not pack."
        )
    file.seek(0)
    try:
        array: Array = np.lib.format.read_array(file, allow_pickle=False)
    except (ValueError, TypeError, OverflowError, MemoryError) as error:  # a shape that a file can promise and not have
        raise UserError(f"{where}: there is no array of shape {list(shape)} ({error}). Write it again.") from error
    return array


def _read_csv(path: Path, targets: str | int | Sequence[str | int] | None, task: str) -> Pair:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            first_line = file.readline()
            delimiter = max(",;\t", key=first_line.count)
            file.seek(0)
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            stripped = ((reader.line_num, [" ".join(cell.split()) for cell in cells]) for cells in reader)
            lines = [(number, cells) for number, cells in stripped if any(cells)]
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"data.path={path}: not a CSV file in UTF-8 ({error}). Export it as one.") from error
    except OSError as error:
        raise _unreadable("data.path", path, error) from error
    if not lines:
        raise UserError(f"data.path={path}: the file is empty. Give one with a row per sample.")
    width = len(lines[0][1])
    for number, cells in lines:
        if len(cells) != width:
            raise UserError(
                f"data.path={path}: line {number} has {len(cells)} columns and line {lines[0][0]} has {width}. "
                f"Give each line the same number."
            )

    names = _header(lines, targets)
    if names is not None:
        del lines[0]
    if not lines:
        raise UserError(f"data.path={path}: column names and 0 rows. Give one with a row per sample.")
    aims = _target_columns(path, targets, names, width)

    def place(row: int, column: int) -> str:
        name = names[column] if names else f"{column} (counted from 0)"
        return f"line {lines[row][0]}, column {name}"

    def numbers(columns: list[int], hint: str) -> Array:
        try:
            array = np.array([[float(cells[column]) for column in columns] for _, cells in lines])
        except ValueError as error:
            bad = ((row, column) for row in range(len(lines)) for column in columns)
            row, column = next((r, c) for r, c in bad if _number(lines[r][1][c]) is None)
            cell = lines[row][1][column]
            found = f"{cell[:50]!r} is not a number" if cell else "the cell is empty"
            raise UserError(f"data.path={path}: {place(row, column)}: {found}. {hint}") from error
        _refuse_non_finite(array, f"data.path={path}", lambda index: place(index[0], columns[index[1]]))
        return array

    features = [column for column in range(width) if column not in aims]
    if not features:
        raise UserError(
            f"data.targets={shown(targets)}: all {width} columns of {path} are targets, none is left as input."
        )
    inputs = numbers(features, "Inputs are numbers: fill it in, or take the column out.")
    if len(aims) > 1:
        return inputs, numbers(aims, "Several target columns are numbers.")
    cells = [cells[aims[0]] for _, cells in lines]
    if all(map(INTEGER.fullmatch, cells)):
        return inputs, np.array(cells).astype(np.int64)
    are_numbers = [_number(cell) is not None for cell in cells]
    if "" not in cells and (not any(are_numbers) or (task == "classification" and not all(are_numbers))):
        return inputs, np.array(cells)
    return inputs, numbers(aims, "Targets are all numbers, or with data.task=classification texts that name classes.")


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _header(lines: list[tuple[int, list[str]]], targets: object) -> list[str] | None:
    """The column names, if the first line has such: a text above a number, or a name that the user called."""
    first = lines[0][1]
    called = [targets] if isinstance(targets, str) else targets if isinstance(targets, Sequence) else []
    if any(isinstance(name, str) and name in first for name in called):
        return first
    below = lines[1][1] if len(lines) > 1 else ["0"] * len(first)
    is_header = any(_number(a) is None and _number(b) is not None for a, b in zip(first, below, strict=True))
    return first if is_header else None


def _target_columns(path: Path, targets: object, names: list[str] | None, width: int) -> list[int]:
    """The numbers of the target columns, from 0."""
    known = ", ".join(names) if names else f"0 to {width - 1}, without names"
    asked = [targets] if isinstance(targets, str | int) else list(targets) if isinstance(targets, Sequence) else []
    if not asked:
        last = names[-1] if names else width - 1
        raise UserError(
            f"data.targets={shown(targets)}: say which columns of {path} are targets; it has {known}. "
            f"Try data.targets=[{last}]."
        )
    columns = []
    for target in asked:
        if isinstance(target, str) and names and names.count(target) == 1:
            column = names.index(target)
        elif isinstance(target, int) and not isinstance(target, bool) and -width <= target < width:
            column = target % width
        else:
            raise UserError(
                f"data.targets={target}: {path} has no one column of that name or number; it has {known}."
                f"{nearest(str(target), names or [])}"
            )
        if column in columns:
            raise UserError(f"data.targets: column {target} of {path} is there twice. Name each column once.")
        columns.append(column)
    return columns


def _unreadable(key: str, path: Path, error: OSError) -> UserError:
    return UserError(f"{key}={path}: it cannot be read ({error.strerror or error}). Give a file that you may read.")


# --- numbers -------------------------------------------------------------------------------------------------------


def _refuse_non_finite(array: Array, where: str, place: Callable[[Sequence[int]], str]) -> None:
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        first = bad[0].tolist()
        raise UserError(
            f"{where}: {len(bad):,} of the numbers are NaN or infinite, the first in {place(first)} "
            f"({array[tuple(first)]}). Fill them in, or take those rows out."
        )


def _place(index: Sequence[int]) -> str:
    row, *columns = index
    return f"row {row}" + "".join(f", column {column}" for column in columns) + " (counted from 0)"


def _to_float32(parts: Mapping[str, Array], file: Path, what: str) -> dict[str, Tensor]:
    tensors = {}
    for split, array in parts.items():
        if array.dtype.kind not in "biuf":
            raise UserError(f"data.path={file}: {split} {what} are text; accepted are numbers. Convert them to floats.")
        with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite and is refused as that
            array = array.astype(np.float32)
        _refuse_non_finite(array, f"data.path={file}: {split} {what}", _place)
        tensors[split] = torch.from_numpy(array)
    return tensors


def _to_inputs(parts: Mapping[str, Array], file: Path) -> dict[str, Tensor]:
    """Images as uint8 `[N, C, H, W]`, all else as float32 `[N, D]` or `[N, ...]`."""
    shapes = {split: array.shape[1:] for split, array in parts.items()}
    if len(set(shapes.values())) > 1:
        found = ", ".join(f"{split} {list(shape)}" for split, shape in shapes.items())
        raise UserError(f"data.path={file}: samples of different shapes ({found}); they must be alike in all splits.")
    if all(array.dtype == np.uint8 and array.ndim >= 3 for array in parts.values()):
        return {split: _to_images(array, file) for split, array in parts.items()}
    tensors = _to_float32(parts, file, "inputs")
    return {split: tensor.unsqueeze(1) if tensor.ndim == 1 else tensor for split, tensor in tensors.items()}


def _to_images(array: Array, file: Path) -> Tensor:
    images = torch.from_numpy(array)
    if images.ndim == 3:
        return images.unsqueeze(1)
    if images.ndim == 4 and images.shape[1] in (1, 3):
        return images
    if images.ndim == 4 and images.shape[3] in (1, 3):
        return images.movedim(3, 1).contiguous()
    raise UserError(
        f"data.path={file}: uint8 inputs of shape {list(array.shape)}; accepted as images are [N, H, W], "
        f"[N, H, W, C] and [N, C, H, W] with 1 or 3 channels. If these are no images, save them as float32."
    )


def _to_targets(
    parts: Mapping[str, Array], file: Path, task: str, num_classes: int | None
) -> tuple[dict[str, Tensor], int | None, tuple[str, ...]]:
    """Targets per split, the number of classes (None: regression) and their names (where they were texts)."""
    where = f"data.path={file}"
    kinds = {array.dtype.kind for array in parts.values()}
    shapes = {split: array.shape[1:] for split, array in parts.items()}
    widths = {math.prod(shape) for shape in shapes.values()}
    if len(widths) > 1 or any(len(shape) > 1 for shape in shapes.values()):
        found = ", ".join(f"{split} [N{''.join(f', {size}' for size in shape)}]" for split, shape in shapes.items())
        raise UserError(f"{where}: targets of shape {found}; accepted are [N] or [N, D], alike in all splits.")
    if task == "auto":
        task = "classification" if widths == {1} and "f" not in kinds else "regression"
    if task == "regression":
        if num_classes is not None:
            raise UserError(
                f"data.num_classes={num_classes}: the targets of {file} are numbers to regress on. "
                f"Try data.num_classes=null, or data.task=classification with whole numbers."
            )
        floats = _to_float32(parts, file, "targets")
        return {split: tensor.view(len(tensor), -1) for split, tensor in floats.items()}, None, ()

    if widths != {1}:
        raise UserError(
            f"{where}: {widths.pop()} columns of targets; a class is one whole number a row. Try data.task=regression."
        )
    columns = {split: array.reshape(-1) for split, array in parts.items()}
    names: tuple[str, ...] = ()
    if "U" in kinds:
        names = tuple(np.unique(np.concatenate([column.astype(str) for column in columns.values()])).tolist())
        columns = {split: np.searchsorted(names, column.astype(str)) for split, column in columns.items()}
    for split, column in columns.items():
        if column.dtype.kind == "f" and not np.all(column == np.floor(column)):  # NaN is not equal to itself
            row = int(np.argmax(column != np.floor(column)))
            raise UserError(
                f"{where}: {split} targets: {column[row]} in row {row} is no class; classes are whole numbers from 0. "
                f"Try data.task=regression."
            )
    labels = {split: torch.from_numpy(column.astype(np.int64)) for split, column in columns.items()}
    low, high = (int(f(f(column) for column in labels.values())) for f in (min, max))
    if low < 0:
        raise UserError(f"{where}: labels run from {low} to {high}; classes are counted from 0. Number them from 0 on.")
    if num_classes is None:
        num_classes = high + 1
        num_rows = sum(map(len, labels.values()))
        if num_classes > max(num_rows, 2):
            raise UserError(
                f"{where}: labels up to {high:,} in {num_rows:,} rows: these look like numbers, not classes. "
                f"Try data.task=regression, or data.num_classes={num_classes}."
            )
    elif num_classes <= high:
        raise UserError(
            f"data.num_classes={num_classes}: the labels of {file} run from {low} to {high}; classes are 0 to "
            f"num_classes - 1. Try data.num_classes={high + 1}, or null."
        )
    return labels, num_classes, names


def _standardized(splits: Mapping[str, Samples]) -> dict[str, Samples]:
    """Inputs with mean 0 and standard deviation 1 in the training split, and the same change in the others."""
    # In float64 the sum of equal float32 numbers is exact, so that a constant column has a spread of exactly 0; and a
    # column such as 1e6 + noise keeps its spread.
    train = splits["train"].inputs.double()
    columns = train if train.ndim == 2 else train.reshape(-1, 1)
    mean, std = columns.mean(0), columns.std(0, correction=0)
    std[std == 0] = torch.inf  # what was constant in training is 0 in every split
    return {
        split: Samples(((samples.inputs.double() - mean) / std).float(), samples.targets)
        for split, samples in splits.items()
    }
