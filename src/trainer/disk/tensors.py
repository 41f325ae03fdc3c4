"""Tensors in files that somebody else may have written: nothing runs, and none takes more memory than it has bytes.

`torch.load(weights_only=True)` calls nothing but what rebuilds tensors and plain values. That still lets a small file
fill the memory: by records that inflate, by functions that make a text longer with each call, by one number that is
shown as a large tensor, by lists that hold each other many times. All of that is found here before it costs anything.
"""

import io
import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from trainer.disk import foreign

MAX_PICKLE_BYTES = 1 << 24  # what describes the tensors of a file: about 90 bytes each

# What torch.save has rebuild a state: no function whose result can be longer than its arguments.
_BUILDS = re.compile(
    r"collections (OrderedDict|Counter)|torch\._utils _rebuild_(tensor|tensor_v2|parameter)"
    r"|torch\.nn\.parameter Parameter|torch (\w+Storage|Size|device|bool|(bfloat|float|complex|u?int|qu?int)\d+\w*)"
    r"|(__builtin__|builtins) (set|complex)"
)


def save_tensors(content: Any, path: Path) -> None:
    """torch.save into a new file.

    Raises:
        OSError: it can't be written; torch's own writer says "enforce fail" where a disk is full.
    """
    with open(path, "xb") as file:  # buffered: a single write takes 2 GB at most
        try:
            torch.save(content, file)
        except RuntimeError as error:  # as its end was not written either
            if isinstance(error.__context__, OSError):
                raise error.__context__ from error
            raise


def load_tensors(path: Path, may_be_old: bool = False) -> Any:
    """The tensors and plain values that torch.save wrote, on the CPU.

    Args:
        may_be_old: the format of torch before 1.6 is read, too.

    Raises:
        OSError: the file isn't there, or is something else than a plain file.
        pickle.UnpicklingError: it holds more than tensors and plain values.
        Exception: of any other kind: the file is damaged, or would take more memory than it has bytes.
    """
    with foreign.opened(path) as file:
        is_old = may_be_old and file.read(4) != b"PK\x03\x04"  # as torch tells
        file.seek(0)
        # A mark, a version, the machine's kind, the state, the names of its records; then the records.
        num_parts = _refuse_calls(file.read(MAX_PICKLE_BYTES), num_pickles=5) if is_old else refuse_hostile(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is an error anyway
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    refuse_growth(tensors, num_parts, path.stat().st_size)
    return tensors


def refuse_hostile(path: Path) -> int:
    """Looks through an archive of tensors, and what it names.

    Returns:
        How many bytes describe the tensors.

    Raises:
        pickle.UnpicklingError: it holds more than tensors and plain values.
        Exception: see `refuse_archive`.
    """
    pickles = refuse_archive(path)
    with zipfile.ZipFile(path) as archive:
        return sum(_refuse_calls(archive.read(record)) for record in pickles)


def refuse_archive(path: Path) -> list[zipfile.ZipInfo]:
    """Looks through an archive; torch.load never compares its records with the CRCs that torch.save writes.

    Returns:
        The records that describe tensors.

    Raises:
        zipfile.BadZipFile, or what else zipfile raises for damage: a record is damaged, larger than what is stored of
            it, or bears a name that leads elsewhere.
    """
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
        names = [record.filename for record in records]
        if any(record.file_size != record.compress_size for record in records):
            raise zipfile.BadZipFile("a record has another length than what is stored of it")
        if sum(record.file_size for record in records) > path.stat().st_size:
            raise zipfile.BadZipFile("its records are larger than the file")
        if len(set(names)) < len(names):
            raise zipfile.BadZipFile("two records bear one name")
        if len({name.split("/")[0] for name in names}) > 1 or any(".." in name.split("/") for name in names):
            raise zipfile.BadZipFile("a record lies outside its folder")
        if (damaged := archive.testzip()) is not None:
            raise zipfile.BadZipFile(f"the checksum of {damaged} is wrong")
        pickles = [record for record in records if record.filename.endswith("data.pkl")]
        if sum(record.file_size for record in pickles) > MAX_PICKLE_BYTES:
            raise zipfile.BadZipFile(f"more than {MAX_PICKLE_BYTES:,} bytes describe its tensors")
        return pickles


def _refuse_calls(pickles: bytes, num_pickles: int = 1) -> int:
    """Refuses what calls anything but `_BUILDS`. Returns how many bytes they have that `pickles` begins with."""
    stream = io.BytesIO(pickles)
    for _ in range(num_pickles):
        for opcode, argument, _ in pickletools.genops(stream):
            if opcode.name in ("GLOBAL", "INST", "STACK_GLOBAL") and not _BUILDS.fullmatch(str(argument)):
                raise pickle.UnpicklingError(f"it names {argument}")
    return stream.tell()


def refuse_growth(state: Any, num_parts: int, num_bytes: int) -> None:
    """Refuses what has more parts than bytes describe it, or tensors larger than the file.

    Raises:
        ValueError: so it is.
        pickle.UnpicklingError: a mapping has attributes.
    """
    tensor_bytes = 0
    for count, part in enumerate(_parts(state)):
        if count > num_parts:
            raise ValueError("its parts hold each other again and again")
        if isinstance(part, Mapping) and getattr(part, "__dict__", {}).keys() - {"_metadata"}:
            raise pickle.UnpicklingError("a mapping has methods of its own")
        if isinstance(part, torch.Tensor):
            tensor_bytes += part.nbytes
            # A tensor may be there under two names.
            if part.nbytes > num_bytes or tensor_bytes > 2 * num_bytes:
                raise ValueError("its tensors are larger than the file")


def _parts(state: Any) -> Iterator[Any]:
    """Everything in nested mappings, lists and tuples."""
    waiting = [iter((state,))]
    while waiting:
        for part in waiting[-1]:
            yield part
            if isinstance(part, Mapping):
                waiting.append(iter(part.values()))
                break
            if isinstance(part, list | tuple):
                waiting.append(iter(part))
                break
        else:
            waiting.pop()
