"""Pictures that a table lists: a column of paths, and one of labels or columns of numbers."""

import os
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trainer.data.image_files import SUFFIXES, FolderImages
from trainer.data.look import look
from trainer.data.quoting import cut, listed
from trainer.data.source import Data, existing_path
from trainer.data.table import Names, Wanted, refuse_problems, rows_of_splits, targets_of
from trainer.data.tables.columns import Table, Words, find
from trainer.data.tables.read import read
from trainer.errors import UserError


def load(
    path: str | None,
    targets: Names = None,
    image: str | int | None = None,
    root: str | None = None,
    suffix: str = "",
    task: str = "auto",
    num_classes: int | None = None,
    background: str = "white",
    group: str | int | None = None,
    time: Names = None,
    stratify: bool = True,
    delimiter: str = "auto",
    decimal: str = "auto",
    encoding: str = "auto",
    header: str | bool = "auto",
    val_fraction: float = 0.1,
    test_fraction: float = 0.2,
    split_seed: int = 0,
    num_workers: int = 2,
    cache: str | int | None = None,
) -> Data:
    """Images that the rows of a table name, and their targets. Every file is looked at before the training begins.

    Args:
        path: the table, see `trainer.data.tables.read`.
        targets: its target columns, by name or by number from 0 (negative from the end).
        image: the column of paths; None: the one whose words end as images do.
        root: the folder that the paths start from; None: the folder of the table.
        suffix: appended to each path: `.jpg`, where the table has names without it.
        task, num_classes, group, time, stratify: as for `trainer.data.table.load`.
        background: what shows where a picture is transparent: white, grey or black.
        delimiter, decimal, encoding, header: of texts, see `trainer.data.tables.delimited.read`.
        val_fraction, test_fraction: the parts that become these splits.
        split_seed: decides which rows those are.
        num_workers: processes that read images ahead; 0 reads them in the main one.
        cache: see `FolderImages.keep`.

    Raises:
        UserError: the table can't be read or names no images; a file is not there, or no whole image.
    """
    file = existing_path("data.path", path)
    folder = existing_path("data.root", root) if root else file.parent
    wanted = Wanted(file, targets, task, group=group, time=time)
    found: list[str] = []

    def choose(names: Sequence[str], has_names: bool) -> Mapping[str, str]:
        uses = dict(wanted.choose(names, has_names))
        if image is not None:
            found.append(find("data.image", image, names, file, has_names))
        of_others = {name: "exact" if name in found or not found else "none" for name in names}
        return of_others | dict.fromkeys(wanted.targets, "auto") | uses

    called = [*wanted.called, *([image] if isinstance(image, str) else [])]
    how = {"delimiter": delimiter, "decimal": decimal, "encoding": encoding, "header": str(header).lower()}
    table = read(file, choose, **how, called=called)
    column = found[0] if found else _image_column(table, wanted)
    refuse_problems(table, [], wanted)
    meant = targets_of(table, wanted, num_classes)
    files = FolderImages(_paths(table, column, folder, suffix), meant.splits["its"], background, key="data.path")
    files.keep(cache)
    notes = [*table.notes, *meant.notes, *look(files, num_workers)]
    by_class = files.targets if stratify and meant.num_classes else None
    rows, sizes_notes = rows_of_splits(
        table, wanted, split_seed, {"val": val_fraction, "test": test_fraction}, by_class
    )
    notes += sizes_notes
    aims = f"{meant.num_classes} classes" if meant.num_classes else f"{files.targets.shape[1]} numbers as targets"
    splits: dict[str, Any] = {split: files.take(index) for split, index in rows.items()}
    return Data(
        **splits,
        description=f"image_table: {file.name}, {len(files):,} images, {aims}",
        num_classes=meant.num_classes,
        class_names=tuple(wanted.targets) if task == "multilabel" else meant.class_names,
        is_multilabel=task == "multilabel",
        num_workers=num_workers,
        notes=tuple(notes),
        by_chance=("val", "test"),
    )


def _image_column(table: Table, wanted: Wanted) -> str:
    names = [
        name
        for name, column in table.columns.items()
        if name not in wanted.targets
        and isinstance(column, Words)
        and column.levels
        and all(os.path.splitext(level.strip())[1].lower() in SUFFIXES for level in column.levels[:100])
    ]
    if len(names) != 1:
        what = f"{len(names)} columns hold" if names else "no column holds"
        raise UserError(
            f"data.image=null: {what} paths of images in {table.path}; it has {listed(table.columns)}. Type "
            "data.image=<the column>, and data.suffix=.jpg if the names lack it."
        )
    return names[0]


def _paths(table: Table, name: str, folder: Path, suffix: str) -> list[str]:
    column = table.columns[name]
    assert isinstance(column, Words)
    if column.missing.any():
        raise UserError(
            f"data.path={table.path}: {table.place(int(np.argmax(column.missing)), name)} is empty; each row names an "
            "image. Fill it in, or take the row out."
        )
    found = [_found(folder, level, suffix) for level in column.levels]
    paths = [path for path in found if path is not None]
    lost = [level for level, path in zip(column.levels, found, strict=True) if path is None]
    if lost:
        raise UserError(
            f"data.path={table.path}: {len(lost):,} of {len(found):,} images are not below {folder}, such as "
            f"{cut(lost[0] + suffix, 100)}. Type data.root=<the folder that their paths start from>."
        )
    return [paths[code] for code in column.codes]


def _found(folder: Path, name: str, suffix: str) -> str | None:
    """The file of this name, as it is written or as other programs would write it. None: there is none."""
    for written in _spellings(name):
        if os.path.exists(path := os.path.join(folder, written + suffix)):
            return path
    return None


def _spellings(name: str) -> Iterator[str]:
    """The name itself; then without blanks around it, with slashes for Windows's, with accents in their other forms,
    and as the whole number that a table holds as a fraction (7.0)."""
    yield name
    for plain in dict.fromkeys((name.strip(), name.strip().replace("\\", "/"))):
        yield from (plain, unicodedata.normalize("NFC", plain), unicodedata.normalize("NFD", plain))
    yield re.sub(r"(?<=^\d)(\d*)\.0+$", r"\1", name.strip())
