"""One writer per run folder, who notices when the folder is no longer there."""

import contextlib
import errno
import os
import socket
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from trainer.config.schema import resume_word
from trainer.disk.files import PLAIN
from trainer.errors import UserError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

NAME = ".lock"
# The byte of the file that is locked on Windows, where what is locked can't be read either: far behind what is there.
_BYTE = 1 << 30


class Held(UserError):
    """Another process holds it: `holder`, as `process 123 on host`."""

    def __init__(self, message: str, holder: str) -> None:
        super().__init__(message)
        self.holder = holder


@dataclass(frozen=True)
class _Mine:
    """What this process has locked: the folder and the file as they were then."""

    folder: os.stat_result
    file: os.stat_result
    may_write: bool


_mine: dict[Path, _Mine] = {}  # by the path of the file


@contextlib.contextmanager
def locked(folder: Path, name: str = NAME) -> Iterator[None]:
    """Keeps other processes from writing into a run's folder, until the end or until this process dies.

    A POSIX record lock: the kernel lets go of it however the process ends, it works over NFS, and unlike a lock by
    `flock`, which libraries take, it isn't inherited by a worker that outlives its parent. On Windows a locked byte,
    which the system lets go of, too; a folder in which a file is open can't be moved or deleted there.

    Args:
        name: of the file that is locked, in the folder.

    Raises:
        Held: another process holds it, named by its number.
        UserError: the folder can't be written, or its file system has no locks.
    """
    with contextlib.ExitStack() as stack:
        try:
            inside = stack.enter_context(_opened_folder(folder))
            place = folder / name if inside is None else Path(name)
            if inside is None:  # a file that is open can't be removed there: after it is closed
                stack.callback(_remove, place, None)
            while True:
                file = stack.enter_context(_opened(place, inside))
                try:
                    _lock(file)
                except OSError as error:
                    said = _said(file)
                    message = f"{folder}: {said} is training here. Wait for it, end it, or type another name=."
                    is_held = error.errno in (errno.EACCES, errno.EAGAIN)
                    raise (Held(message, said) if is_held else UserError(message)) from error
                # The last holder removes the file. Who opened it just before has a lock on nothing.
                if inside is None or _is_there(place, inside, os.fstat(file)):
                    break
        except OSError as error:
            raise UserError(f"{folder}: can't be written: {error.strerror}. Type another name=.") from error
        os.ftruncate(file, 0)
        os.lseek(file, 0, os.SEEK_SET)
        os.write(file, _told().encode())
        its_folder = folder.stat() if inside is None else os.fstat(inside)
        its_file = place.stat() if inside is None else os.fstat(file)
        _mine[folder / name] = _Mine(its_folder, its_file, os.access(folder, os.W_OK))
        try:
            yield
        finally:
            del _mine[folder / name]
            if inside is not None and _is_there(place, inside, os.fstat(file)):
                _remove(place, inside)


@contextlib.contextmanager
def _opened_folder(folder: Path) -> Iterator[int | None]:
    """The number of a folder, by which all goes: what bears its name later may be another, or a link to one.

    None on Windows, which opens no folder, and where the open file keeps its folder in its place.
    """
    if sys.platform == "win32":
        yield None
        return
    inside = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield inside
    finally:
        os.close(inside)


@contextlib.contextmanager
def _opened(place: Path, inside: int | None) -> Iterator[int]:
    """The number of a plain file, in a folder's if that is given, which is made where it's missing."""
    if inside is None and place.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    file = os.open(place, os.O_RDWR | os.O_CREAT | PLAIN, 0o666, dir_fd=inside)
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise OSError(errno.EINVAL, f"{place.name} is no plain file")
        yield file
    finally:
        os.close(file)


def _lock(file: int, is_shared: bool = False) -> None:
    """Raises OSError where another process has locked it. Windows has no lock that two may share."""
    if sys.platform == "win32":
        os.lseek(file, _BYTE, os.SEEK_SET)
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
    else:
        fcntl.lockf(file, (fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)


def _remove(place: Path, inside: int | None) -> None:
    with contextlib.suppress(OSError):  # the folder may be read-only by now; on Windows another process may have it
        os.unlink(place, dir_fd=inside)


def _is_there(place: Path, inside: int, file: os.stat_result) -> bool:
    with contextlib.suppress(OSError):
        return os.path.samestat(file, os.stat(place, dir_fd=inside, follow_symlinks=False))
    return False


def refuse_lost(folder: Path) -> None:
    """Refuses to write into a folder that this process has locked, and that is not what it was then.

    Nothing in the folder is opened: to close a second file would end the lock.

    Raises:
        UserError: it was moved, deleted, replaced, made read-only, or another process may lock it by now.
    """
    mine = _mine.get(folder / NAME)
    if mine is None:
        return
    ending = "The run ends here and saves nothing more. To continue, type the same with"
    try:
        is_same = os.path.samestat(folder.stat(), mine.folder)
    except OSError as error:
        raise UserError(
            f"{folder}: was moved or deleted. {ending} resume=<its folder>, or with another name= where it is lost."
        ) from error
    if not is_same:
        raise UserError(f"{folder}: something else has taken its place. {ending} resume=<the folder of the run>.")
    try:
        is_locked = os.path.samestat((folder / NAME).lstat(), mine.file)
    except OSError:
        is_locked = False
    if not is_locked:
        raise UserError(
            f"{folder}: its {NAME} was taken away, so another process may train there. {ending} {resume_word(folder)}."
        )
    if mine.may_write and not os.access(folder, os.W_OK):
        raise UserError(f"{folder}: can't be written any more. Make it writable. {ending} {resume_word(folder)}.")


def holder(folder: Path) -> str | None:
    """`process 123 on host`, which writes into the folder; None where no process does."""
    with contextlib.suppress(OSError):
        its_file = (folder / NAME).lstat()
        if any(os.path.samestat(its_file, mine.file) for mine in _mine.values()):
            return _told()  # to open and close it would end the lock
        file = os.open(folder / NAME, os.O_RDONLY | PLAIN)
        try:
            _lock(file, is_shared=True)
        except OSError:
            return _said(file)
        finally:
            os.close(file)
    return None


def _told() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


def _said(file: int) -> str:
    with contextlib.suppress(OSError):
        os.lseek(file, 0, os.SEEK_SET)
        return os.read(file, 200).decode(errors="replace").strip() or "another process"
    return "another process"
