"""Files that no crash can spoil: written beside, synced, renamed."""

import contextlib
import errno
import os
import shutil
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from trainer.disk.foreign import flags
from trainer.errors import UserError

_NOBODY = 65534  # kernel.overflowuid
# What a file of ours is opened with: not through a link, which may lead anywhere; and a pipe is opened at once, to be
# refused.
PLAIN = flags("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY")
PATIENCE = 5.0  # seconds that a file on Windows may be open elsewhere before it counts as one that can't be replaced


def cache_folder(name: str) -> Path:
    """`train/<name>` in the user's cache folder: `$XDG_CACHE_HOME`, or what the system has. Nothing is created.

    `~/.cache` on Linux, `~/Library/Caches` on macOS, `%LOCALAPPDATA%` on Windows.

    Raises:
        RuntimeError: there is no home folder.
    """
    cache = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(cache):
        return Path(cache, "train", name)
    import platformdirs

    Path.home()  # raises where there is none; platformdirs would name a folder `~`
    return platformdirs.user_cache_path("train", appauthor=False) / name


def make_private(folder: Path) -> None:
    """Makes a folder that nobody else can write to, with the folders that it lies in.

    Raises:
        OSError: it can't be made.
    """
    for path in reversed((folder, *folder.parents)):
        if not path.exists():
            path.mkdir(mode=0o700, exist_ok=True)


def shared_with(path: Path) -> str:
    """Who else could change what lies in a file or folder, or put another in its place; empty where nobody could.

    What a program is made of, or what nobody computes again, must be nobody else's. On Windows rights are no part of
    what Python is told of a file; a user's own folders there are nobody else's.

    Raises:
        OSError: it isn't there.
    """
    path = path.resolve()
    if sys.platform == "win32":
        path.stat()
        return ""
    for place in (path, *path.parents):
        about = place.stat()
        # In a container the owner of what is not its own is shown as nobody.
        if about.st_uid not in (os.geteuid(), 0, *([_NOBODY] if place != path else [])):
            return f"{place} belongs to another user"
        others = stat.S_IWOTH if _is_own_group(about.st_gid) else stat.S_IWOTH | stat.S_IWGRP
        is_sticky = place != path and about.st_mode & stat.S_ISVTX  # as /tmp: only its owner may remove a file
        if about.st_mode & others and not is_sticky:
            return f"other users can write to {place}"
    return ""


def _is_own_group(group: int) -> bool:
    """Whether it is the group that many systems make for each user, and in which there is nobody else."""
    if sys.platform == "win32":
        return False
    import grp
    import pwd

    with contextlib.suppress(KeyError):
        return group == os.getegid() and grp.getgrgid(group).gr_name == pwd.getpwuid(os.geteuid()).pw_name
    return False


def write_atomically(path: Path, write: Callable[[Path], object], temporary: Path | None = None) -> None:
    """Calls `write` with a temporary name in the same folder; `path` then holds all of it, or what it held before."""
    temporary = temporary or path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)  # of a process that was killed here
    try:
        write(temporary)
        put(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def put(temporary: Path, path: Path) -> None:
    """Gives a file that is whole its name: a power cut leaves all of it there, or what was there before.

    Raises:
        OSError: it can't be replaced, or the disk fails.
    """
    sync(temporary)
    replace(temporary, path)
    sync_folder(path.parent)  # or else a power cut may undo the rename


def sync(path: Path) -> None:
    """Has the content of a file on the disk. Raises OSError."""
    with open(path, "r+b" if sys.platform == "win32" else "rb") as file:  # Windows syncs what may be written
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Has the names in a folder on the disk; Windows opens no folder. Raises OSError."""
    if sys.platform != "win32":
        folder = os.open(path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def replace(old: Path, new: Path) -> None:
    """os.replace. Windows refuses it while the file is open elsewhere, as in TensorBoard or a virus scanner: it waits.

    Raises:
        OSError: it can't be replaced, or is open for longer than `PATIENCE`.
    """
    since = time.monotonic()
    while True:
        try:
            os.replace(old, new)
            return
        except PermissionError:
            if sys.platform != "win32" or time.monotonic() - since >= PATIENCE:
                raise
            time.sleep(0.05)


def link_or_copy(path: Path, other: Path) -> None:
    """A second name for a file, which takes no room; a copy where the file system has no hard links (exFAT, SMB)."""
    try:
        os.link(path, other)
    except OSError:
        shutil.copyfile(path, other)


def write_text(path: Path, text: str) -> None:
    """A text file, whole or not at all."""

    def write(temporary: Path) -> None:
        with open(temporary, "x", encoding="utf-8", newline="\n") as file:  # "x": through no link
            file.write(text)

    write_atomically(path, write)


def open_to_append(path: Path) -> BinaryIO:
    """A plain file, made where it is missing; what is written can be read at once.

    Raises:
        OSError: it can't be opened, or is a link, which may lead anywhere.
    """
    if sys.platform == "win32" and path.is_symlink():  # which no flag says there
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | PLAIN, 0o666)
    return os.fdopen(file, "ab", buffering=0)


def remove_leftovers(folder: Path) -> None:
    """Removes the temporary files of processes that were killed while they wrote. No other may be writing here."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def cannot_read(where: str, error: OSError) -> UserError:
    """The line for a file that can't be read; `where` begins it."""
    return UserError(f"{where}: it cannot be read ({error.strerror or error}). Give a file that you may read.")


def cannot_write(
    path: Path, error: Exception, needed: int | None = None, instead: str = "another name= or run_dir="
) -> UserError:
    """The line for a file that can't be written, as on a full disk.

    Args:
        needed: how many bytes were to be written, where that is known.
        instead: what may be typed to have it elsewhere; empty: nothing.
    """
    reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
    elsewhere = f", or type {instead}" if instead else ""
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return UserError(f"{path}: can't be written: {reason}. Make it writable{elsewhere}.")
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return UserError(f"{path}: can't be written: {reason}. Ask for more (ulimit -n), and type the same again.")
    where = next((parent for parent in path.absolute().parents if parent.exists()), Path("/"))
    room = f"{shutil.disk_usage(where).free:,} bytes are free"
    if needed is not None:
        room = f"{needed:,} bytes are needed, {room}"
    return UserError(f"{path}: can't be written: {reason} ({room}). Free some room{elsewhere}.")
