"""One writer per run folder."""

import contextlib
import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from trainer.errors import UserError

NAME = ".lock"


class Held(UserError):
    """Another process holds it: `holder`, as `process 123 on host`."""

    def __init__(self, message: str, holder: str) -> None:
        super().__init__(message)
        self.holder = holder


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
    path = folder / name
    with contextlib.ExitStack() as stack:
        while True:
            try:
                file = stack.enter_context(open(path, "a+", encoding="utf-8"))
            except OSError as error:
                raise UserError(f"{folder}: can't be written: {error.strerror}. Type another name=.") from error
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                message = f"{folder}: {_said(path)} is training here. Wait for it, end it, or type another name=."
                is_held = error.errno in (errno.EACCES, errno.EAGAIN)
                raise (Held(message, _said(path)) if is_held else UserError(message)) from error
            # The last holder removes the file. Who opened it just before has a lock on nothing.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                    break
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def holder(folder: Path) -> str | None:
    """`process 123 on host`, which writes into the folder; None where no process does."""
    try:
        with open(folder / NAME, "rb") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return _said(folder / NAME)
    except OSError:
        return None
    return None


def _said(path: Path) -> str:
    with contextlib.suppress(OSError, ValueError):
        return path.read_text(encoding="utf-8")[:200].strip() or "another process"
    return "another process"
