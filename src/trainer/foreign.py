"""Files that somebody else may have written: nothing in them runs, and none takes more memory than it has bytes.

`torch.load(weights_only=True)` calls nothing but what rebuilds tensors and plain values. That still lets a small file
fill the memory: by records that inflate, by functions that make a text longer with each call, by one number that is
shown as a large tensor, by lists that hold each other many times. All of that is found here before it costs anything.
"""

import contextlib
import errno
import io
import os
import pickle
import pickletools
import re
import stat
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

try:
    from yaml import CSafeLoader as SafeLoader
except ImportError:  # PyYAML without libyaml
    from yaml import SafeLoader

MAX_TEXT_BYTES = 1 << 24  # a config has some kB
MAX_PICKLE_BYTES = 1 << 24  # what describes the tensors of a file: about 90 bytes each
_LONG_WORD = re.compile(r"[-+\w.:]{300,}")  # such a number takes ever longer to read, and can't be printed
MAX_DEPTH = 50  # of a config; PyYAML's parser in C ends the process at some ten thousands

# What torch.save has rebuild a state: no function whose result can be longer than its arguments.
_BUILDS = re.compile(
    r"collections (OrderedDict|Counter)|torch\._utils _rebuild_(tensor|tensor_v2|parameter)"
    r"|torch\.nn\.parameter Parameter|torch (\w+Storage|Size|device|bool|(bfloat|float|complex|u?int|qu?int)\d+\w*)"
    r"|(__builtin__|builtins) (set|complex)"
)


class Link(Exception):
    """Something in a folder is no file and no folder."""


def content(path: Path, max_bytes: int | None = None) -> bytes:
    """What is in a plain file: a pipe and a device would be read for ever.

    Raises:
        OSError: it isn't there, or is something else than a plain file.
        ValueError: it is larger than `max_bytes`.
    """
    refuse_no_file(path)
    with open(path, "rb") as file:
        found = file.read() if max_bytes is None else file.read(max_bytes + 1)
    if max_bytes is not None and len(found) > max_bytes:
        raise ValueError(f"it has more than {max_bytes:,} bytes")
    return found


def text(path: Path) -> str:
    """The text in a plain file of at most `MAX_TEXT_BYTES`; raises as `content`, and ValueError where it's no UTF-8."""
    return content(path, MAX_TEXT_BYTES).decode()


def refuse_no_file(path: Path) -> None:
    """Raises OSError where there is no plain file, or a link to one."""
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "It is no plain file", str(path))


def refuse_links(folder: Path) -> None:
    """Refuses what would have a run write elsewhere than into its own folder, or wait for ever.

    Raises:
        Link: a link, a pipe or a device is in it, however deep.
    """
    for parent, folders, files in os.walk(folder):
        for path in (Path(parent, name) for name in (*folders, *files)):
            with contextlib.suppress(FileNotFoundError):  # a temporary file of a run that goes on
                mode = path.lstat().st_mode
                if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
                    kind = f"a link to {os.readlink(path)}" if stat.S_ISLNK(mode) else "no plain file"
                    raise Link(f"{path.relative_to(folder)} is {kind}")


def read_yaml(words: str, loader: Any = SafeLoader) -> Any:
    """What a YAML text holds.

    Raises:
        ValueError: it refers back to parts of itself (a kB of that unfolds to any number of GB), is nested deeper than
            `MAX_DEPTH`, or holds an endless number.
        yaml.YAMLError: it is no YAML, or wants to make other objects than texts, numbers, lists and mappings.
    """
    depth = 0
    for event in yaml.parse(words, SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise ValueError(f"it refers to a part of itself by *{event.anchor}")
        if (
            isinstance(event, yaml.ScalarEvent)
            and (event.implicit[0] or event.tag)
            and _LONG_WORD.fullmatch(event.value)
        ):
            raise ValueError(f"it holds a number of {len(event.value):,} digits")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise ValueError(f"it is nested more than {MAX_DEPTH} deep")
    return yaml.load(words, loader)


# --- tensors -------------------------------------------------------------------------------------------------------


def load_tensors(path: Path, may_be_old: bool = False) -> Any:
    """The tensors and plain values that torch.save wrote, on the CPU.

    Args:
        may_be_old: the format of torch before 1.6 is read, too.

    Raises:
        OSError: the file isn't there, or is something else than a plain file.
        pickle.UnpicklingError: it holds more than tensors and plain values.
        Exception: of any other kind: the file is damaged, or would take more memory than it has bytes.
    """
    import torch  # `train runs` answers without it

    refuse_no_file(path)
    with open(path, "rb") as file:
        is_old = may_be_old and file.read(4) != b"PK\x03\x04"  # as torch tells
        file.seek(0)
        # A mark, a version, the machine's kind, the state, the names of its records; then the records.
        num_parts = _refuse_calls(file.read(MAX_PICKLE_BYTES), num_pickles=5) if is_old else refuse_hostile(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is an error anyway
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    _refuse_growth(tensors, num_parts, path.stat().st_size)
    return tensors


def refuse_hostile(path: Path) -> int:
    """Looks through an archive of tensors; torch.load never compares its records with the CRCs that torch.save writes.

    Returns:
        How many bytes describe the tensors.

    Raises:
        pickle.UnpicklingError: it holds more than tensors and plain values.
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
        return sum(_refuse_calls(archive.read(record)) for record in pickles)


def _refuse_calls(pickles: bytes, num_pickles: int = 1) -> int:
    """Refuses what calls anything but `_BUILDS`. Returns how many bytes they have that `pickles` begins with."""
    stream = io.BytesIO(pickles)
    for _ in range(num_pickles):
        for opcode, argument, _ in pickletools.genops(stream):
            if opcode.name in ("GLOBAL", "INST", "STACK_GLOBAL") and not _BUILDS.fullmatch(str(argument)):
                raise pickle.UnpicklingError(f"it names {argument}")
    return stream.tell()


def _refuse_growth(state: Any, num_parts: int, num_bytes: int) -> None:
    """Refuses what has more parts than bytes describe it, or tensors larger than the file."""
    import torch

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
