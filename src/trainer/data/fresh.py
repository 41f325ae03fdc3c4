"""New samples with targets, for a model that is trained already: raw inputs, and targets as the model counts them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.data import arrays
from trainer.data.image_files import FolderImages
from trainer.data.image_folder import find_images, split_folders
from trainer.data.look import look
from trainer.data.quoting import cut, listed
from trainer.data.source import Data, ImageFiles, Samples, existing_path
from trainer.data.table import Wanted, read_for, refuse_problems
from trainer.data.tables.columns import INTEGER, Table, Words, is_missing, number
from trainer.data.tables.columns import Numbers as NumberColumn
from trainer.data.tables.read import HOW, JSONS, PARQUETS
from trainer.data.tables.recipe import Inputs, Recipe, as_words
from trainer.errors import UserError
from trainer.meaning import Classes, Meaning, Numbers, Places

Array = NDArray[Any]


def refuse_no_text(paths: Sequence[str], typed: Mapping[str, Any]) -> None:
    """Raises UserError where keys of `HOW` are typed, and all tables are of kinds that need none of them.

    Args:
        typed: dotted.
    """
    key = next((key for key in typed if key.removeprefix("data.") in HOW), None)
    suffixes = [Path(path).suffix.lower() for path in paths]
    if key is not None and suffixes and all(suffix in (*JSONS, *PARQUETS) for suffix in suffixes):
        raise UserError(f"{key}={typed[key]}: is of text, as .csv is; {cut(paths[0])} says it itself. Leave it out.")


def of_table(
    path: str | None, recipe: Recipe, meaning: Meaning, how: Mapping[str, Any], notes: list[str]
) -> tuple[Inputs, Tensor]:
    """All rows of a table that has the columns which the model was trained with, its targets among them.

    Args:
        how: see `trainer.data.table.read_for`.
        notes: gets what its user should know.

    Raises:
        UserError: a column is missing, or a target is none of the model's.
    """
    file = existing_path("data.path", path)
    aims: list[Any] = [name if recipe.has_names else int(name) for name in recipe.targets]
    task = "classification" if isinstance(meaning, Classes) else "regression"
    has_missing = any(map(is_missing, recipe.class_names))  # a class that is called NA or None
    wanted = Wanted(file, aims, task, categorical=aims if has_missing else "auto")
    table = read_for(path, recipe, how, wanted)
    notes += table.notes
    refuse_problems(table, [], wanted)
    inputs = recipe.apply(table, notes)
    columns = [table.columns[name] for name in wanted.targets]
    if isinstance(meaning, Classes) and len(columns) == 1:
        return inputs, _classes_of(table, wanted.targets[0], meaning)
    values = []
    for name, column in zip(wanted.targets, columns, strict=True):
        if not isinstance(column, NumberColumn):
            raise UserError(
                f"data.path={file}: column {cut(name)} holds no numbers, and the model gives numbers there."
            )
        values.append(column.values)
    if isinstance(meaning, Classes):
        return inputs, torch.from_numpy(_of_one_hot(np.stack(values, 1), f"data.path={file}: targets"))
    return inputs, torch.from_numpy(np.stack(values, 1))


def _of_one_hot(values: Array, where: str) -> NDArray[np.int64]:
    """`[N, C]` of 0 and a single 1 to the places of the ones, `[N]`."""
    wrong = ~(((values == 0) | (values == 1)).all(1) & (values.sum(1) == 1))
    if wrong.any():
        row = int(wrong.argmax())
        raise UserError(
            f"{where}: row {row} (counted from 0) is no row of 0 with one 1, as the model's were. Correct it."
        )
    return values.argmax(1)


def _classes_of(table: Table, name: str, classes: Classes) -> Tensor:
    column = table.columns[name]
    words = as_words(column) if isinstance(column, NumberColumn) else column
    assert isinstance(words, Words)  # `refuse_problems` lets nothing else pass
    of_level = class_numbers(words.levels, classes, f"data.path={table.path}: column {cut(name)}", table.decimal)
    return torch.from_numpy(of_level[words.codes])


def class_numbers(
    labels: Sequence[object], classes: Classes | Places, where: str, decimal: str = "point"
) -> NDArray[np.int64]:
    """The number of the class that each label names; classes without names are called 0, 1 ...

    True and false are named in any letters. Classes that are whole numbers are named by any way to write them: 01, 1.0.

    Args:
        decimal: the sign of labels that are numbers, see `trainer.data.tables.columns.number`.

    Raises:
        UserError: one names none.
    """
    names = classes.names or tuple(map(str, range(classes.num_classes)))
    number_of = {name: number for number, name in enumerate(names)}
    if not classes.names and classes.num_classes == 2:
        number_of |= {"false": 0, "true": 1}
    number_of |= {name.lower(): i for name, i in number_of.items() if name.lower() in ("true", "false")}
    are_whole = all(name == _as_whole(name, decimal) for name in names)

    def of(label: str) -> int | None:
        if (found := number_of.get(label)) is None and label.lower() in ("true", "false"):
            found = number_of.get(label.lower())
        return number_of.get(_as_whole(label, decimal)) if found is None and are_whole else found

    found = [of(str(label)) for label in labels]
    if None in found:
        unknown = [str(label) for label, number in zip(labels, found, strict=True) if number is None]
        raise UserError(f"{where}: {listed(unknown)}: no class of the model's, which are {listed(names)}.")
    return np.array(found, np.int64)


def _as_whole(text: str, decimal: str) -> str:
    """A whole number as Python writes it; nothing where it is none."""
    if INTEGER.fullmatch(text):
        return str(int(text))
    value = number(text, decimal)
    return str(int(value)) if value is not None and value.is_integer() else ""


def of_arrays(path: str | None, targets: object, meaning: Meaning, split: str | None) -> tuple[Tensor, Tensor]:
    """The samples in an `.npz` or a pair of `.npy`, raw: those of the split where the file has several, or else all.

    Raises:
        UserError: the file can't be read, has no such split, or a target is none of the model's.
    """
    file = existing_path("data.path", path)
    parts = arrays.read_pairs(file, targets)
    chosen = parts if len(parts) == 1 or split == "all" else {s: pair for s, pair in parts.items() if s == split}
    if not chosen:
        raise UserError(f"split={split}: {file} has {', '.join(parts)}. Type split=all for all of them.")
    inputs = arrays.as_inputs({name: x for name, (x, _) in chosen.items()}, file)
    x = torch.from_numpy(np.ascontiguousarray(np.concatenate(list(inputs.values()))))
    y = np.concatenate([y for _, y in chosen.values()])
    if isinstance(meaning, Classes):
        if y.ndim == 2 and y.shape[1] == meaning.num_classes > 1 and y.dtype.kind in "biuf":
            y = _of_one_hot(y, f"data.path={file}: targets")
        elif y.size != len(y):
            raise UserError(f"data.path={file}: targets of shape {list(y.shape)}; the model knows classes, [N].")
        y = y.reshape(-1)
    if isinstance(meaning, Classes | Places):
        labels, where = np.unique(y, return_inverse=True)
        ignored = meaning.ignored if isinstance(meaning, Places) else None
        counted = np.array([label != ignored for label in labels])
        words = [str(int(label)) if _is_whole(label) else str(label) for label in labels[counted]]
        numbers = np.full(len(labels), ignored or 0)
        numbers[counted] = class_numbers(words, meaning, f"data.path={file}: targets")
        return x, torch.from_numpy(numbers[where.reshape(y.shape)])
    return x, torch.from_numpy(y.astype(np.float64).reshape(len(y), *(y.shape[1:] or (1,))))


def _is_whole(label: Any) -> bool:
    return not isinstance(label, str) and float(label).is_integer()


def of_folder(root: str | None, classes: Classes, background: str, split: str | None, notes: list[str]) -> FolderImages:
    """The images in a folder per class: of the split where the folder has `train`, `val` and `test`, or else all.

    Raises:
        UserError: there is none, it has a class that the model does not know, or a file is no whole image.
    """
    folder = existing_path("data.root", root)
    others: Counter[str] = Counter()
    try:
        folders = split_folders(folder)
        chosen = folders if len(folders) == 1 or split == "all" else {s: p for s, p in folders.items() if s == split}
        if not chosen:
            raise UserError(f"split={split}: {folder} has {', '.join(folders)}. Type split=all for all of them.")
        parts = [find_images(path, classes.names, background, others) for path in chosen.values()]
    except OSError as error:
        raise UserError(
            f"data.root={root}: {error.filename}: {error.strerror}. Give a folder that you may read."
        ) from error
    files = FolderImages.joined(parts)
    notes += look(files)
    return files


def all_images(data: Data) -> FolderImages:
    """Those of all splits."""
    return FolderImages.joined([part for part in data.splits.values() if isinstance(part, FolderImages)])


def renumbered(data: Data, split: str, meaning: Meaning) -> Samples | ImageFiles:
    """A split of another source, its classes numbered as the model counts them.

    Raises:
        UserError: it has other targets than the model, or a class that the model does not know.
    """
    samples: Any = getattr(data, split)
    if isinstance(meaning, Numbers):
        if isinstance(data.meaning, Classes) or data.meaning.num_outputs != meaning.num_outputs:
            raise UserError(f"data: targets of {_told(data.meaning)}; the model gives {_told(meaning)}.")
        return samples
    if not isinstance(meaning, Classes):
        return samples
    if not isinstance(data.meaning, Classes):
        raise UserError(f"data: targets of {_told(data.meaning)}; the model gives {_told(meaning)}.")
    names = data.meaning.names or tuple(map(str, range(data.meaning.num_classes)))
    present = samples.targets.unique().tolist()
    of_class = torch.zeros(len(names), dtype=torch.int64)
    of_class[present] = torch.from_numpy(class_numbers([names[i] for i in present], meaning, "data"))
    targets = of_class[samples.targets]
    if isinstance(samples, Samples):
        return Samples(samples.inputs, targets)
    samples.targets = targets
    return samples


def _told(meaning: Meaning) -> str:
    return f"{meaning.num_outputs} {'classes' if isinstance(meaning, Classes) else 'numbers'}"
