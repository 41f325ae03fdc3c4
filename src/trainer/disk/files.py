"""Files that no crash can spoil: written beside, synced, renamed."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from trainer.errors import UserError


def cache_folder(name: str) -> Path:
    """`train/<name>` in the user's cache folder: `$XDG_CACHE_HOME`, or `~/.cache`. Nothing is created.

    Raises:
        RuntimeError: there is no home folder.
    """
    cache = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(cache) if os.path.isabs(cache) else Path.home() / ".cache") / "train" / name


def write_atomically(path: Path, write: Callable[[Path], object], temporary: Path | None = None) -> None:
    """Calls `write` with a temporary name in the same folder; `path` then holds all of it, or what it held before."""
    temporary = temporary or path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)  # of a process that was killed here
    try:
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # or else a power cut may undo the rename
        finally:
            os.close(folder)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """A text file, whole or not at all."""

    def write(temporary: Path) -> None:
        with open(temporary, "x", encoding="utf-8") as file:  # "x": not through a link that has come since
            file.write(text)

    write_atomically(path, write)


def open_to_append(path: Path) -> BinaryIO:
    """A plain file, made where it is missing; what is written can be read at once.

    Raises:
        OSError: it can't be opened, or is a link, which may lead anywhere.
    """
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    return os.fdopen(file, "ab", buffering=0)


def remove_leftovers(folder: Path) -> None:
    """Removes the temporary files of processes that were killed while they wrote. No other may be writing here."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def cannot_write(path: Path, error: Exception, needed: int | None = None) -> UserError:
    """The line for a file that can't be written, as on a full disk.

    Args:
        needed: how many bytes were to be written, where that is known.
    """
    reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
    where = next((parent for parent in path.absolute().parents if parent.exists()), Path("/"))
    room = f"{shutil.disk_usage(where).free:,} bytes are free"
    if needed is not None:
        room = f"{needed:,} bytes are needed, {room}"
    return UserError(f"{path}: can't be written: {reason} ({room}). Free some room, or type another name= or run_dir=.")
