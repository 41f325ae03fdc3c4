"""Texts and folders that somebody else may have written: nothing in them runs, and none is read without an end."""

import contextlib
import errno
import json
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import yaml

from trainer.config.references import MAX_REFERENCES

try:
    from yaml import CSafeLoader as SafeLoader
except ImportError:  # PyYAML without libyaml
    from yaml import SafeLoader

MAX_TEXT_BYTES = 1 << 20  # a config has some kB
MAX_RESULTS_BYTES = 1 << 24  # of all jobs of a sweep: a kB each
MAX_VALUES = 30_000  # keys and values of a config; OmegaConf reads 10,000 in a second
MAX_DEPTH_OF_REFERENCES = 5  # `${a.${b}}`
MAX_LINE_BYTES = 1 << 20  # of metrics.jsonl; ours have some hundred
_IN_NO_ENCODING = re.compile(r"\\u[dD][89a-fA-F]")  # a part of a file's name, as Python has it, see `os.fsdecode`
_LONG_WORD = re.compile(r"[-+\w.:]{300,}")  # such a number takes ever longer to read, and can't be printed
MAX_DEPTH = 50  # of a config; PyYAML's parser in C ends the process at some ten thousands


def flags(*names: str) -> int:
    """Those flags of os.open that the system has; O_BINARY is Windows' own, which changes the ends of lines without."""
    found = 0
    for name in names:
        found |= getattr(os, name, 0)
    return found


class Link(Exception):
    """Something in a folder is no file and no folder."""


def opened(path: Path) -> BinaryIO:
    """A plain file, or a link to one, open to be read: a pipe and a device would be read for ever.

    Raises:
        OSError: it isn't there, or is something else than a plain file.
    """
    refuse_no_file(path)  # to open a device may do something already
    file = os.open(path, os.O_RDONLY | flags("O_NONBLOCK", "O_CLOEXEC", "O_BINARY"))
    try:  # once more, since it may be another by now
        _refuse_mode(os.fstat(file).st_mode, path)
    except OSError:
        os.close(file)
        raise
    return os.fdopen(file, "rb")


def content(path: Path, max_bytes: int | None = None) -> bytes:
    """What is in a plain file.

    Raises:
        OSError: see `opened`.
        ValueError: it is larger than `max_bytes`.
    """
    with opened(path) as file:
        found = file.read() if max_bytes is None else file.read(max_bytes + 1)
    if max_bytes is not None and len(found) > max_bytes:
        raise ValueError(f"it has more than {max_bytes:,} bytes")
    return found


def last_lines(path: Path, num_bytes: int) -> list[str]:
    """The lines in the last bytes of a plain file, the first of them perhaps cut; none where it can't be read."""
    with contextlib.suppress(OSError), opened(path) as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - num_bytes))
        return file.read(num_bytes).decode(errors="replace").splitlines()
    return []


def lines(path: Path) -> Iterator[bytes]:
    """The lines of a plain file, one at a time; those of `MAX_LINE_BYTES` or more are left out. Raises as `opened`."""
    with opened(path) as file:
        is_start = True
        while piece := file.readline(MAX_LINE_BYTES):
            is_end = piece.endswith(b"\n")
            if is_start and (is_end or len(piece) < MAX_LINE_BYTES):
                yield piece
            is_start = is_end


def metrics(folder: Path) -> Iterator[dict[str, Any]]:
    """The lines of a run's `metrics.jsonl` that are whole, each with its `step`. Raises as `opened`."""
    for line in lines(folder / "metrics.jsonl"):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict) and type(step := record.get("step")) is int and abs(step) < 2**63:
            yield record


def text(path: Path, max_bytes: int = MAX_TEXT_BYTES) -> str:
    """The text in a plain file of at most so many bytes; raises as `content`, and ValueError where it's no UTF-8."""
    return content(path, max_bytes).decode()


def refuse_no_file(path: Path) -> None:
    """Raises OSError where there is no plain file, or a link to one."""
    _refuse_mode(path.stat().st_mode, path)


def _refuse_mode(mode: int, path: Path) -> None:
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


@dataclass
class _Size:
    """Of a part of a YAML text: how deep it is nested, and how many values and references to other keys it has."""

    depth: int = 0
    num_values: int = 0
    num_references: int = 0


def read_yaml(words: str, loader: Any = SafeLoader, slower: Any = yaml.SafeLoader) -> Any:
    """What a YAML text holds.

    Args:
        slower: a loader in Python, for what libyaml refuses.

    Raises:
        ValueError: a part of it holds itself, it is nested deeper than `MAX_DEPTH`, holds more than `MAX_VALUES` keys
            and values, an endless number, or references to other keys that OmegaConf would take long to read. What
            stands behind an anchor counts wherever `*anchor` repeats it: a kB of that unfolds to any number of GB.
        yaml.YAMLError: it is no YAML, or wants to make other objects than texts, numbers, lists and mappings.
    """
    total = _Size()
    whole: dict[str, _Size | None] = {}  # of what stands behind each anchor; None while that has not ended
    waiting: list[tuple[str | None, _Size]] = []  # of the lists and mappings that are open: anchor, and the size before
    if _IN_NO_ENCODING.search(words):
        loader = slower
    for event in yaml.parse(words, loader):
        if isinstance(event, yaml.AliasEvent) and event.anchor in whole:  # if it is not, the loader says so
            if (repeated := whole[event.anchor]) is None:
                raise ValueError(f"what is called &{event.anchor} holds itself by *{event.anchor}")
            total.depth = max(total.depth, len(waiting) + repeated.depth)
            total.num_values += repeated.num_values
            total.num_references += repeated.num_references
        elif isinstance(event, yaml.NodeEvent):
            total.num_values += 1
        if isinstance(event, yaml.CollectionStartEvent):
            before = _Size(total.depth, total.num_values - 1, total.num_references)
            waiting.append((event.anchor, before))
            total.depth = len(waiting)  # from here on the deepest within it
            if event.anchor:
                whole[event.anchor] = None
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = waiting.pop()
            if anchor:
                num_references = total.num_references - before.num_references
                whole[anchor] = _Size(total.depth - len(waiting), total.num_values - before.num_values, num_references)
            total.depth = max(total.depth, before.depth)
        elif isinstance(event, yaml.ScalarEvent):
            if (event.implicit[0] or event.tag) and _LONG_WORD.fullmatch(event.value):
                raise ValueError(f"it holds a number of {len(event.value):,} digits")
            if "${" in event.value and _is_deep(event.value):
                raise ValueError("it holds references in references")
            total.num_references += event.value.count("${")
            if event.anchor:
                whole[event.anchor] = _Size(0, 1, event.value.count("${"))
        if total.num_references > MAX_REFERENCES:
            raise ValueError("it holds too many references to other keys")
        if total.depth > MAX_DEPTH:
            raise ValueError(f"it is nested more than {MAX_DEPTH} deep")
        if total.num_values > MAX_VALUES:
            raise ValueError(f"it holds more than {MAX_VALUES:,} keys and values")
    return yaml.load(words, loader)


def _is_deep(value: str) -> bool:
    """Whether references stand in references in references ..."""
    depth = 0
    for sign in re.findall(r"\$\{|\}", value):
        depth += 1 if sign == "${" else -min(depth, 1)
        if depth > MAX_DEPTH_OF_REFERENCES:
            return True
    return False
