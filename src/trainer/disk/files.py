"""Files that no crash can spoil: written beside, synced, renamed."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

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
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


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
