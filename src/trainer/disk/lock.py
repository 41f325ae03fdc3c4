"""One writer per run folder, who notices when the folder is no longer there."""

import contextlib
import errno
import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from trainer.config.schema import resume_word
from trainer.errors import UserError

NAME = ".lock"
# Not through a link, which may lead anywhere; and a pipe is opened at once, to be refused.
_PLAIN = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


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
    `flock` it isn't inherited by a worker that outlives its parent.

    Args:
        name: of the file that is locked, in the folder.

    Raises:
        Held: another process holds it, named by its number.
        UserError: the folder can't be written, or its file system has no locks.
    """
    with contextlib.ExitStack() as stack:
        try:
            # All goes by this number: what bears the folder's name later may be another, or a link to one.
            inside = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, inside)
            while True:
                file = stack.enter_context(_opened(name, inside))
                try:
                    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError as error:
                    said = _said(file)
                    message = f"{folder}: {said} is training here. Wait for it, end it, or type another name=."
                    is_held = error.errno in (errno.EACCES, errno.EAGAIN)
                    raise (Held(message, said) if is_held else UserError(message)) from error
                # The last holder removes the file. Who opened it just before has a lock on nothing.
                if _is_there(name, inside, os.fstat(file)):
                    break
        except OSError as error:
            raise UserError(f"{folder}: can't be written: {error.strerror}. Type another name=.") from error
        os.ftruncate(file, 0)
        os.write(file, f"process {os.getpid()} on {socket.gethostname()}".encode())
        _mine[folder / name] = _Mine(os.fstat(inside), os.fstat(file), os.access(folder, os.W_OK))
        try:
            yield
        finally:
            del _mine[folder / name]
            if _is_there(name, inside, os.fstat(file)):
                with contextlib.suppress(OSError):  # the folder may be read-only by now
                    os.unlink(name, dir_fd=inside)


@contextlib.contextmanager
def _opened(name: str, inside: int) -> Iterator[int]:
    """The number of a plain file in a folder, which is made where it's missing."""
    file = os.open(name, os.O_RDWR | os.O_CREAT | _PLAIN, 0o666, dir_fd=inside)
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise OSError(errno.EINVAL, f"{name} is no plain file")
        yield file
    finally:
        os.close(file)


def _is_there(name: str, inside: int, file: os.stat_result) -> bool:
    with contextlib.suppress(OSError):
        return os.path.samestat(file, os.stat(name, dir_fd=inside, follow_symlinks=False))
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
        file = os.open(folder / NAME, os.O_RDONLY | _PLAIN)
        try:
            fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return _said(file)
        finally:
            os.close(file)
    return None


def _said(file: int) -> str:
    with contextlib.suppress(OSError):
        return os.pread(file, 200, 0).decode(errors="replace").strip() or "another process"
    return "another process"
