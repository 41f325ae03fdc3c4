"""Pieces of bytes of one size in one file, each of them whole or not there, whoever else writes at the same time.

Nothing is locked or synced: a checksum goes with each piece, and what was half written when a process was killed, when
the power went or when two wrote at once is not there. Pieces are read by a call of the system instead of being mapped
into memory: both come out of the same pages, and a disk that fails while it is read ends no process.
"""

import errno
import os
import shutil
import struct
import zlib
from functools import lru_cache
from io import FileIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainer.disk.cache import make_room
from trainer.disk.files import PLAIN, make_private, shared_with

MARK_BYTES = 16
_HEAD = struct.Struct(f"{MARK_BYTES}sQ")  # the mark, and the checksum of the mark and the piece
ENDING = ".slots"


class Slots:
    """The pieces of a file in a folder whose files together stay below a limit.

    Where the limit is too small, or the disk too full, the first pieces are kept: half of what is free stays free.

    Args:
        name: of the file, without its ending: of all that tells its pieces from those of other files.
        count, num_bytes: how many pieces, and the size of each.
        limit: bytes.

    Attributes:
        num_kept: how many of the pieces are.
        problem: why not all are; empty where they are.
    """

    def __init__(self, folder: Path, name: str, count: int, num_bytes: int, limit: int) -> None:
        self.path, self.size = folder / f"{name}{ENDING}", _HEAD.size + num_bytes
        self.num_kept, self.problem, self._is_full = 0, "", False
        try:
            make_private(folder)
            if reason := shared_with(folder):
                raise OSError(errno.EPERM, reason)
            self._open(count * self.size, limit)
        except OSError as error:
            self.num_kept, self.problem = 0, f"{folder}: {error.strerror or error}"

    def _open(self, needed: int, limit: int) -> None:
        folder = self.path.parent
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | PLAIN, 0o600))
        if reason := shared_with(self.path):
            raise OSError(errno.EPERM, reason)
        os.utime(self.path)  # those go first that have not been opened for longest
        others = [path.stat() for path in folder.glob(f"*{ENDING}") if path != self.path]
        promised = sum(its.st_size - _allocated(its) for its in others)
        free = max(0, shutil.disk_usage(folder).free - promised + _allocated(self.path.stat())) // 2
        room = min(needed, limit, free)
        self.num_kept = room // self.size
        if room < needed:
            why = "the limit" if limit <= free else f"half of what is free in {folder}"
            self.problem = f"all need {needed:,} bytes, and {why} is {room:,}"
        make_room(folder, f"*{ENDING}", room, limit, self.path)
        with self._opened(os.O_RDWR) as file:
            if file.seek(0, os.SEEK_END) < room:
                file.truncate(room)  # takes no room of the disk yet, but counts for others

    def _opened(self, mode: int) -> FileIO:
        """Each time anew: forked processes would share the place in the file, and a file that was removed is left."""
        return FileIO(os.open(self.path, mode | PLAIN), "r" if mode == os.O_RDONLY else "r+")

    def read(self, slot: int, mark: bytes) -> NDArray[np.uint8] | None:
        """The piece with that mark; None where it is not there."""
        if slot >= self.num_kept:
            return None
        found = np.empty(self.size, np.uint8)
        try:
            with self._opened(os.O_RDONLY) as file:
                file.seek(slot * self.size)
                if file.readinto(found.data) != self.size:
                    return None
        except OSError:
            return None
        kept, checksum = _HEAD.unpack_from(found.data)
        piece = found[_HEAD.size :]
        return piece if kept == mark and checksum == _checksum(mark, piece) else None

    def write(self, slot: int, mark: bytes, piece: NDArray[np.uint8]) -> None:
        """Keeps a piece, unless the file has no room for it."""
        if slot >= self.num_kept or self._is_full:
            return
        content = np.ascontiguousarray(piece).reshape(-1).view(np.uint8)
        head = np.frombuffer(_HEAD.pack(mark, _checksum(mark, content)), np.uint8)
        try:
            with self._opened(os.O_RDWR) as file:
                file.seek(slot * self.size)
                if file.write(np.concatenate([head, content]).data) != self.size:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            self._is_full, self.problem = True, f"{self.path}: {error.strerror or error}"


@lru_cache(maxsize=4)
def _weights(count: int) -> NDArray[np.uint64]:
    """Odd numbers, each another one: a word that changes, or two that change places, change the sum."""
    return (2 * np.arange(count, dtype=np.uint64) + 1) * np.uint64(0x9E3779B97F4A7C15)


def _checksum(mark: bytes, piece: NDArray[np.uint8]) -> int:
    """Modulo 2**64 the weighted sum of words of eight bytes, in a quarter of the time of a CRC-32.

    Args:
        piece: `[num_bytes]`.
    """
    count = len(piece) // 8
    words = np.einsum("i,i->", piece[: 8 * count].view(np.uint64), _weights(count))
    rest = zlib.crc32(piece[8 * count :].tobytes(), zlib.crc32(mark))
    return (int(words) + rest) % (1 << 64)


def _allocated(about: os.stat_result) -> int:
    """What a file takes of the disk; on Windows what it may take."""
    return min(about.st_size, getattr(about, "st_blocks", about.st_size) * 512)
