"""Tensors that are dear to compute and that other runs need as well, in files of one folder."""

import contextlib
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from trainer.disk.files import make_private, shared_with, write_atomically
from trainer.disk.foreign import refuse_no_file
from trainer.disk.lock import Held, locked
from trainer.disk.tensors import load_tensors, save_tensors
from trainer.errors import UserError

UNITS = {"": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
LOOK_EVERY = 0.1  # seconds, at what another process computes
FRAME_BYTES = 2048  # what torch.save writes around a tensor, at most
STALE_AFTER = 86_400  # seconds after which a half-written file is that of a process which was killed


def num_bytes(size: object) -> int:
    """What `cache_limit` says: 500000000, 500MB and 0.5GB are the same."""
    found = re.fullmatch(r"([\d.]+) ?(\w*)", str(size))
    assert found is not None, "the schema has checked it"
    return int(float(found[1]) * UNITS[found[2]])


def checksum(key: str, tensor: Tensor) -> str:
    """Of a tensor under its name: the right features of another backbone are wrong here."""
    digest = hashlib.blake2b(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode(), digest_size=16)
    digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _content(key: str, found: object) -> Tensor:
    """Raises ValueError where a file holds something else than the features of that name."""
    if not isinstance(found, dict) or not isinstance(tensor := found.get("features"), Tensor):
        raise ValueError("it holds no features")
    if found.get("checksum") != checksum(key, tensor):
        raise ValueError("the checksum of its features is wrong")
    return tensor


class Cache:
    """The folder, whose files together stay below a limit: those go first that have not been read for longest.

    Nothing that goes wrong with it ends a run: what can't be read is computed, and what can't be written is not kept.
    A folder or a file that other users could change is not used.

    Args:
        limit: bytes; 0: nothing is read or written.
        note: is told of what goes wrong, in one line.
    """

    def __init__(self, folder: Path, limit: int, note: Callable[[str], None]) -> None:
        self.folder, self.limit, self.note = folder, limit, note

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.pt"

    def _refuse_shared(self) -> None:
        """Switches itself off where other users could change the files: wrong features make a wrong network."""
        with contextlib.suppress(OSError):
            if self.limit and (reason := shared_with(self.folder)):
                self.limit = 0
                self.note(f"warning: {self.folder} is not used: {reason}. Every run computes its features itself.")

    def read(self, key: str) -> Tensor | None:
        """The tensor of that name, on the CPU; None where there is none, or no whole one."""
        path = self._path(key)
        self._refuse_shared()
        if not self.limit:
            return None
        try:
            refuse_no_file(path)
            if reason := shared_with(path):
                raise ValueError(reason)
            tensor = _content(key, load_tensors(path))
        except FileNotFoundError:
            return None
        except Exception as error:  # damage makes torch and zipfile raise errors of every kind
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            self.note(f"warning: {path} can't be read ({reason}); what it held is computed again.")
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        with contextlib.suppress(OSError):  # a folder that belongs to somebody else
            os.utime(path)
        return tensor

    @contextlib.contextmanager
    def computing(self, key: str, is_stop_requested: Callable[[], bool]) -> Iterator[None]:
        """Within it no other process computes what will bear that name; waits for one that does."""
        with contextlib.ExitStack() as stack:
            is_told = False
            while self.limit and not is_stop_requested():
                try:
                    make_private(self.folder)
                    self._refuse_shared()
                    if not self.limit:
                        break
                    stack.enter_context(locked(self.folder, f"{key}.lock"))
                    break
                except Held as error:
                    if not is_told:
                        self.note(f"waiting for {error.holder}, which computes the same features.")
                    is_told = True
                    time.sleep(LOOK_EVERY)
                except (OSError, UserError):  # it is told of when it can't be written either
                    break
            yield

    def write(self, key: str, tensor: Tensor) -> None:
        """Keeps it for others, within `computing`, unless it alone is larger than the limit."""
        needed = tensor.nbytes + FRAME_BYTES
        self._refuse_shared()
        if needed > self.limit:
            return
        path, tensor = self._path(key), tensor.detach().cpu().clone()  # a view would take its whole storage along
        content = {"features": tensor, "checksum": checksum(key, tensor)}

        def save(temporary: Path) -> None:
            save_tensors(content, temporary)
            temporary.chmod(0o600)

        try:
            make_private(self.folder)
            make_room(self.folder, "*.pt", needed, self.limit)
            write_atomically(path, save)
        except (OSError, RuntimeError) as error:
            reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
            self.note(f"warning: {path} can't be written ({reason}); other runs will compute it again.")


def make_room(folder: Path, pattern: str, needed: int, limit: int, but: Path | None = None) -> None:
    """Removes what has not been read for longest; who reads it at this moment does not notice.

    Args:
        pattern: of the files that together stay below the limit.
        but: one of them that stays, and is part of what is needed.
    """
    for path in folder.glob(".*.tmp"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > STALE_AFTER:
                path.unlink()
    files = []
    for path in folder.glob(pattern):
        with contextlib.suppress(FileNotFoundError):  # another process makes room, too
            if path != but:
                files.append((path.stat().st_mtime_ns, path.stat().st_size, path))
    room = limit - needed - sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if room >= 0:
            break
        path.unlink(missing_ok=True)
        room += size
