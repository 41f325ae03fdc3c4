"""Files that an earlier look has found to be whole, kept on the disk: none of a million has to be opened again."""

import hashlib
import os
from collections.abc import Sequence

import numpy as np
import PIL
import torch
from numpy.typing import NDArray

from trainer.data.image_files import SUM_BYTES
from trainer.data.kept_pictures import SETTLED
from trainer.disk.cache import Cache
from trainer.disk.files import cache_folder

VERSION = 2  # of `trainer.data.look`: counted up when it asks more of a file
LIMIT = 1_000_000_000  # bytes, of all data sets
# A row: number of the file, device, size, times of the last changes to the content and to the entry, its sum.
SUM_WIDTH = SUM_BYTES // 8
_FACTS, _WIDTH = 5, 5 + SUM_WIDTH
_POSITIVE = (1 << 63) - 1

Rows = NDArray[np.int64]


class Known:
    """Whole files, each told by what no program can set: its number, and the time of the last change to its entry.

    A file that was changed is not known, and one that was only moved is. Nothing that goes wrong here ends a run: files
    that are not known are looked at.

    Args:
        paths: of a data set, which are kept together; none: nothing is known or kept.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self._rows: Rows = np.zeros((0, _WIDTH), np.int64)  # by their numbers, ascending
        self._name = ""
        if not paths:
            return
        where = f"{VERSION} {PIL.__version__} {os.path.dirname(os.path.abspath(min(paths)))}"
        self._name = hashlib.blake2b(os.fsencode(where), digest_size=16).hexdigest()
        found = None if (cache := _cache()) is None else cache.read(self._name)
        if found is not None and found.dtype == torch.int64 and found.shape[1:] == (_WIDTH,):
            self._rows = found.numpy()

    def rows_of(self, files: Sequence[os.stat_result | None]) -> tuple[Rows, NDArray[np.bool_]]:
        """A row for each file, and whether it is known; of one that is not, the sum is 0."""
        rows = np.zeros((len(files), _WIDTH), np.int64)
        rows[:, :_FACTS] = [_facts(its) for its in files]
        if not len(self._rows):
            return rows, np.zeros(len(files), bool)
        places = np.searchsorted(self._rows[:, 0], rows[:, 0])
        found = self._rows[places.clip(max=len(self._rows) - 1)]
        is_known = (found[:, :_FACTS] == rows[:, :_FACTS]).all(axis=1) & (rows[:, 0] > 0)  # 0: files have no numbers
        rows[is_known] = found[is_known]
        return rows, is_known

    def keep(self, rows: bytes) -> None:
        """These, and no others any more."""
        if self._name and (cache := _cache()) is not None:
            table = np.frombuffer(rows, np.int64).reshape(-1, _WIDTH)
            with cache.computing(self._name, lambda: False):
                cache.write(self._name, torch.from_numpy(table[np.argsort(table[:, 0])]))


def is_settled(rows: Rows, now: float) -> NDArray[np.bool_]:
    """Whether the times of files are far enough from now: one that is changed at once again may have the same times."""
    return (np.abs(rows[:, 3:_FACTS] - now * 1e9) >= SETTLED * 1e9).all(axis=1)


def _cache() -> Cache | None:
    try:
        return Cache(cache_folder("looks"), LIMIT, lambda note: None)
    except RuntimeError:  # no home folder
        return None


def _facts(its: os.stat_result | None) -> tuple[int, ...]:
    if its is None:
        return (0,) * _FACTS
    # Times before 1677 and after 2262 take more than 64 bits, as do numbers of files without a sign.
    times = its.st_mtime_ns & _POSITIVE, its.st_ctime_ns & _POSITIVE
    return its.st_ino & _POSITIVE, its.st_dev & _POSITIVE, its.st_size, *times
