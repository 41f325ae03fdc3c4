"""`data.cache=20GB`: decoded pictures on the disk, for the second epoch and for other runs."""

import contextlib
import hashlib
import math
import os
import time
from collections.abc import Callable, Sequence

import numpy as np
import PIL
import torch
from PIL import features
from torch import Tensor

from trainer.disk.files import cache_folder
from trainer.disk.slots import MARK_BYTES, Slots

VERSION = 3  # of `trainer.data.image_files.read_picture`: counted up when it makes other pixels of a file
# Seconds from now to the times of a file, from which on it counts as written: one that was changed again within a tick
# of the file system's clock has the same times. They may lie in the future, as of a camera whose clock is wrong.
SETTLED = 2.0


class KeptPictures:
    """The pictures of a data set as `FolderImages` reads them. Nothing that goes wrong with them ends a run.

    A picture is told by its path, its size, its number and the times of the last changes to its file and to its entry
    (`ctime`, which no program sets): one that was changed is decoded again. Pictures of other data sets, other sizes,
    or of other releases of what decodes them lie in other files.

    Args:
        paths: of all splits.
        background: what shows where a picture is transparent.
        limit: bytes, of the pictures of all runs.
    """

    def __init__(self, paths: Sequence[str], background: str, limit: int) -> None:
        self.places = {path: place for place, path in enumerate(dict.fromkeys(paths))}
        self.background, self.limit = background, limit
        self._slots: tuple[tuple[int, ...], Slots] | None = None  # for pictures of this shape
        self._problem = ""

    @property
    def problem(self) -> str:
        """Why not all pictures are kept, as far as it is known; empty where they are."""
        return self._problem or ("" if self._slots is None else self._slots[1].problem)

    def picture(self, path: str, shape: tuple[int, int, int], decode: Callable[[str], Tensor]) -> Tensor:
        """uint8 `[C, H, W]` of this shape, kept or decoded."""
        slots, mark = self._opened(shape), _mark(path)
        if slots is None or mark is None:
            return decode(path)
        if (found := slots.read(self.places[path], mark)) is not None:
            return torch.from_numpy(found).view(shape)
        picture = decode(path)
        if mark == _mark(path, time.time()):
            slots.write(self.places[path], mark, picture.numpy())
        return picture

    def pictures(self, paths: Sequence[str], shape: tuple[int, int, int]) -> Tensor | None:
        """uint8 `[N, C, H, W]`, where all of them are kept; nothing is decoded, and nothing holds up other threads."""
        if (slots := self._opened(shape)) is None:
            return None
        found = np.empty((len(paths), math.prod(shape)), np.uint8)
        for path, pixels in zip(paths, found, strict=True):
            mark = _mark(path)
            if mark is None or (kept := slots.read(self.places[path], mark)) is None:
                return None
            pixels[:] = kept
        return torch.from_numpy(found).view(-1, *shape)

    def _opened(self, shape: tuple[int, int, int]) -> Slots | None:
        if self._problem:
            return None
        if self._slots is None or self._slots[0] != shape:
            try:
                folder = cache_folder("pictures")
            except RuntimeError as error:  # no home folder
                self._problem = str(error)
                return None
            name = self._name(shape)
            self._slots = shape, Slots(folder, name, len(self.places), torch.Size(shape).numel(), self.limit)
        return self._slots[1]

    def _name(self, shape: tuple[int, int, int]) -> str:
        codecs = [(name, features.version(name)) for name in ("jpg", "libjpeg_turbo", "zlib", "webp", "libtiff")]
        kernels = torch.backends.cpu.get_cpu_capability()
        digest = hashlib.blake2b(digest_size=16)
        facts = (VERSION, PIL.__version__, codecs, torch.__version__, kernels, shape, self.background)
        digest.update(repr(facts).encode())
        for path in self.places:
            digest.update(b"\0" + os.fsencode(path))
        return digest.hexdigest()


def _mark(path: str, now: float | None = None) -> bytes | None:
    """What a picture is told by; None where it can't be looked at, or was changed about now."""
    with contextlib.suppress(OSError):
        its = os.stat(path)
        if now is None or min(abs(now - its.st_mtime), abs(now - its.st_ctime)) >= SETTLED:
            facts = f"{path}\0{its.st_size} {its.st_mtime_ns} {its.st_ctime_ns} {its.st_ino}"
            return hashlib.blake2b(os.fsencode(facts), digest_size=MARK_BYTES).digest()
    return None
