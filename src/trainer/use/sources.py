"""New samples without targets, as they lie in files or come in on standard input: read a part at a time."""

import glob
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainer.data.arrays import read_inputs, read_named
from trainer.data.image_files import SUFFIXES as PICTURES
from trainer.data.image_files import read_picture
from trainer.data.preparation import Pictures, Preparation, Rows, Theirs
from trainer.data.source import existing_path
from trainer.data.table import inputs_of
from trainer.data.tables.read import SUFFIXES as TABLES
from trainer.errors import UserError
from trainer.trees import Tree, num_samples, parts
from trainer.use.form import refuse_other_form, told_form
from trainer.use.several import of_samples

ARRAYS = (".npy", ".npz")
READERS = min(4, os.cpu_count() or 1)  # threads that decode pictures; Pillow lets others work meanwhile


@dataclass
class Part:
    """Some samples.

    Args:
        ids: what each is called: the path of a picture, the number of a row, from 0.
        raw: inputs as the source has them, `[N, ...]`; None where none could be read.
        inputs: what is to be done to them.
        failed: what can't be read, a line for each.
        notes: what its user should know.
    """

    ids: list[Any]
    raw: Tree
    inputs: Preparation
    failed: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def parts_of(inputs: Preparation, words: Sequence[str], size: int, how: Mapping[str, Any]) -> Iterator[Part]:
    """The samples of all sources, at most `size` at a time.

    Args:
        words: files, folders and patterns.
        how: of `fresh.HOW`, how tables are read, and `background` of transparent pictures.

    Raises:
        UserError: nothing is there, or it is of a kind that the model does not take.
    """
    places = [place for word in words for place in found_at(word)]
    are_several = len(places) > 1
    pictures: list[str] = []
    for place in places:  # those of one kind together, but in their order
        is_picture = place.suffix.lower() in PICTURES or place.is_dir()
        if is_picture and isinstance(inputs, Pictures):
            pictures += [str(place)] if not place.is_dir() else below(place)
            continue
        yield from of_pictures(inputs, pictures, size, how)
        pictures = []
        yield from of_file(inputs, place, size, how, are_several)
    yield from of_pictures(inputs, pictures, size, how)


def found_at(word: str) -> list[Path]:
    """The file or folder of that name, or those that a pattern finds. Raises UserError: nothing is there."""
    path = os.path.expanduser(word)
    if not os.path.lexists(path) and glob.has_magic(path):
        found = sorted(glob.glob(path, recursive=True))
        if not found:
            raise UserError(f"{word}: no file has such a name. Type the path of one that exists.")
        return [Path(name) for name in found]
    try:
        existing_path("SOURCE", word)
    except UserError as error:
        raise UserError(str(error).replace(f"SOURCE={word}: ", f"{word}: ", 1)) from error
    return [Path(path)]


def below(folder: Path) -> list[str]:
    """All pictures in a folder, however deep. Raises UserError: there is none, or a folder can't be read."""

    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename}: can't be read: {error.strerror}. Get the right to read it.") from error

    found = []
    for parent, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if name[0] != ".")
        found += [os.path.join(parent, name) for name in sorted(files) if name.lower().endswith(PICTURES)]
    if not found:
        raise UserError(f"{folder}: holds no picture; accepted are {', '.join(PICTURES)}.")
    return found


def of_pictures(inputs: Preparation, paths: Sequence[str], size: int, how: Mapping[str, Any]) -> Iterator[Part]:
    """Pictures in files, decoded by some threads ahead of who uses them."""
    if not paths:
        return
    assert isinstance(inputs, Pictures)
    wanted = of_pictures_in_files(inputs, how)
    channels, *sides = wanted.raw_shape

    def read(path: str) -> Tensor | str:
        try:
            return read_picture(path, channels, (sides[0], sides[1]), wanted.background)
        except ValueError as error:
            return f"{path}: is no whole image ({error})"

    groups = [paths[start : start + size] for start in range(0, len(paths), size)]
    with ThreadPoolExecutor(READERS) as readers:
        ahead = [readers.submit(read, path) for path in groups[0]]
        for i, group in enumerate(groups):
            mine, ahead = ahead, [readers.submit(read, path) for path in (groups[i + 1] if i + 1 < len(groups) else ())]
            found = [(path, future.result()) for path, future in zip(group, mine, strict=True)]
            whole = [(path, picture) for path, picture in found if isinstance(picture, Tensor)]
            failed = [line for _, line in found if isinstance(line, str)]
            raw = torch.stack([picture for _, picture in whole]) if whole else None
            yield Part([path for path, _ in whole], raw, wanted, failed)


def of_pictures_in_files(inputs: Pictures, how: Mapping[str, Any]) -> Pictures:
    """What is done to pictures that come as files, whatever those of the training came as.

    Raises:
        UserError: no file has so many channels.
    """
    if inputs.raw_shape[0] not in (1, 3):
        raise UserError(f"the model takes {told_form(inputs)}, which no picture file has. Give an .npy.")
    background = how.get("background", inputs.background)
    return replace(inputs, scale=255.0, background=background)  # the grey levels of a file go to 255


def of_file(inputs: Preparation, path: Path, size: int, how: Mapping[str, Any], are_several: bool) -> Iterator[Part]:
    """The samples of one file that has several."""
    suffix = path.suffix.lower()
    part = Part([], None, inputs)
    try:
        if isinstance(inputs, Rows) and suffix in TABLES:
            raw = inputs_of(str(path), inputs.recipe, how, part.notes)
        elif isinstance(inputs, Theirs) and inputs.tensors and suffix == ".npz":
            raw = of_samples(inputs, read_named(path), f"{path}")
        elif not isinstance(inputs, Rows | Theirs) and suffix in ARRAYS:
            raw = torch.from_numpy(read_inputs(path))
            refuse_other_form(inputs, raw, f"{path}")
        else:
            what = ", ".join(TABLES if isinstance(inputs, Rows) else ARRAYS)
            more = " or pictures" if isinstance(inputs, Pictures) else ""
            if isinstance(inputs, Theirs):
                what = "an .npz of them" if inputs.tensors else "none. In Python: trainer.load(folder)(inputs)"
            if isinstance(inputs, Pictures) and suffix in TABLES:
                more += ". Of paths in a table give the paths, one a line: train predict RUN - < FILE"
            raise UserError(f"{path}: the model takes {told_form(inputs)}; accepted files: {what}{more}.")
    except UserError as error:
        part.failed.append(str(error).removeprefix("data.path="))
        yield part
        return
    names = [f"{path}:{i}" if are_several else i for i in range(num_samples(raw))]
    for start, rows in zip(range(0, len(names), size), parts(raw, size), strict=True):
        yield replace(part, ids=names[start : start + size], raw=rows)
        part = replace(part, notes=[])
