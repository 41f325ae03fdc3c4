"""One writer per run folder."""

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from trainer.errors import UserError

NAME = ".lock"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps other processes from writing into a run's folder, until the end or until this process dies.

    A POSIX record lock: the kernel lets go of it however the process ends, it works over NFS, and unlike a lock by
    `flock` it isn't inherited by a worker that outlives its parent.

    Raises:
        UserError: another process holds it, named by its number; or the folder can't be written.
    """
    path = folder / NAME
    with contextlib.ExitStack() as stack:
        while True:
            try:
                file = stack.enter_context(open(path, "a+", encoding="utf-8"))
            except OSError as error:
                raise UserError(f"{folder}: can't be written: {error.strerror}. Type another name=.") from error
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise UserError(
                    f"{folder}: {_said(path)} is training here. Wait for it, end it, or type another name=."
                ) from error
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
