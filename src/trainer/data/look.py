"""A first look at every picture on disk, before anything is trained."""

import os
import struct
import time
import warnings
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from trainer.data.image_files import (
    FORMATS,
    MAX_PIXELS,
    SUM_BYTES,
    FolderImages,
    as_rows,
    glimpse,
    reason_of,
    refuse_too_large,
)
from trainer.data.loader import METHOD, read
from trainer.data.quoting import cut
from trainer.data.upright import has_deep_greys, is_transparent
from trainer.data.whole_files import SUM_WIDTH, Known, is_settled
from trainer.errors import UserError

# How a whole file ends, if it ends as most do.
_ENDS = {"PNG": b"IEND\xaeB`\x82", "JPEG": b"\xff\xd9", "GIF": b";"}
_TAIL_BYTES = 32
_IN_FRAMES = ("GIF", "PNG", "TIFF", "WEBP")  # a JPEG of several pictures has a small or a deep copy of the first
FEW_DEEP = 20  # PNGs of 16 bits, of each `AT_ONCE`, that are decoded: how bright are they
DIM = 64  # of 256: cameras and scanners of 10, 12 and 14 bits leave the rest dark
# Parts of a JPEG's header: JFIF, tables of two kinds, how often it begins anew, a comment.
_PLAIN = frozenset((0xE0, 0xDB, 0xC4, 0xDD, 0xFE))
_SEGMENT = struct.Struct(">BBH").unpack_from  # its mark, kind and length
_SIZE = struct.Struct(">BHHB").unpack_from  # bits, height, width, channels
# The same of PNGs: sizes of a chunk by its kind, bits by its kind of colour.
_PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
_PNG_CHUNK, _PNG_SIZE = struct.Struct(">I4s").unpack_from, struct.Struct(">IIBBBBB").unpack_from
_PNG_BITS = {0: (1, 2, 4, 8), 2: (8, 16), 3: (1, 2, 4, 8)}
_PNG_PLAIN = {b"IHDR": (13,), b"PLTE": range(3, 769, 3), b"gAMA": (4,), b"pHYs": (9,), b"sRGB": (1,), b"cHRM": (32,)}
AT_ONCE = 1000  # files, which a worker looks at before it hands over what it found
MANY = 20_000  # files, of which it is kept on the disk that they are whole
FEW = 20_000 if METHOD == "fork" else 500_000  # files, which are looked at sooner than workers have begun


@dataclass
class _Found:
    """What a look at files found."""

    broken: list[tuple[str, str]] = field(default_factory=list)  # path, reason
    flawed: list[tuple[str, str]] = field(default_factory=list)
    num_transparent: int = 0
    num_in_frames: int = 0  # of which the first frame is taken
    num_deep: int = 0  # grey, of 16 bits, and looked into
    brightest: int = 0  # of these, in 8 bits
    sums: bytes = b""  # no tensors: shared memory for each thousand files takes longer than a pipe
    whole: bytes = b""  # rows of `Known`: of the files that have no flaw
    num_new: int = 0  # of these


def look(files: FolderImages, num_workers: int = 0) -> list[str]:
    """Looks at the beginning and the end of every file, and says what its user should know; `files.sums` are kept.

    Args:
        num_workers: processes that look at many files.

    Raises:
        UserError: one is no plain file, no image, too large, or ends too early; all such are counted, and three named.
    """
    paths = list(dict.fromkeys(files.paths))
    keys = (paths[i : i + AT_ONCE] for i in range(0, len(paths), AT_ONCE))
    known = Known(paths if len(paths) > MANY else ())
    parts = list(read(_Looks(files, known).load, keys, num_workers if len(paths) > FEW else 0))
    if any(part.num_new for part in parts):
        known.keep(b"".join(part.whole for part in parts))
    _refuse_broken(files.key, [pair for part in parts for pair in part.broken])
    files.sums = as_rows(b"".join(part.sums for part in parts))
    if len(paths) < len(files.paths):  # a table may name a file more than once
        places = {path: place for place, path in enumerate(paths)}
        files.sums = files.sums[[places[path] for path in files.paths]]
    return _notes(files, parts)


def _refuse_broken(key: str, broken: list[tuple[str, str]]) -> None:
    if len(broken) == 1:
        path, reason = broken[0]
        raise UserError(f"{key}: {path} is not a whole image ({reason}). Replace it or take it out.")
    if broken:
        examples = "; ".join(f"{path} ({reason})" for path, reason in broken[:3])
        raise UserError(
            f"{key}: {len(broken):,} files are not whole images: {examples}"
            f"{' and others' if len(broken) > 3 else ''}. Replace them or take them out."
        )


def _notes(files: FolderImages, parts: Sequence[_Found]) -> list[str]:
    notes = []
    flawed = [pair for part in parts for pair in part.flawed]
    if num_transparent := sum(part.num_transparent for part in parts):
        notes.append(
            f"{num_transparent:,} of {len(files.paths):,} pictures have an alpha channel; where they are "
            f"transparent, {files.background} shows (data.background)."
        )
    if num_in_frames := sum(part.num_in_frames for part in parts):
        notes.append(
            f"{num_in_frames:,} of {len(files.paths):,} pictures have several frames or pages; the first one is taken. "
            "Write each into a file of its own if all count."
        )
    brightest = max(part.brightest for part in parts)
    if any(part.num_deep for part in parts) and brightest < DIM:
        notes.append(
            f"grey levels of 16 bits are taken as 0 to 65,535, and become 256 levels; those of the pictures that were "
            f"looked at end at {brightest}. Scale them to 65,535 in their files, or few levels are told apart."
        )
    if flawed:
        path, reason = flawed[0]
        notes.append(
            f"{len(flawed):,} of {len(files.paths):,} pictures have flaws that can be lived with, such as {path} "
            f"({cut(reason, 200)})."
        )
    return notes


class _Looks:
    """A look at some files at a time; see `trainer.data.loader.read`."""

    def __init__(self, files: FolderImages, known: Known) -> None:
        self.files = FolderImages((), files.targets[:0], files.background, files.key)  # workers need no more of it
        self.known = known
        self.tell: Callable[[], None] | None = None

    def load(self, paths: list[str]) -> _Found:
        tell, found, now, sums = self.tell or (lambda: None), _Found(), time.time(), []
        about = []
        for path in paths:
            about.append(_about(path))
            tell()
        rows, is_known = self.known.rows_of(about)
        is_whole = is_known.copy()
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            for i in np.flatnonzero(~is_known).tolist():
                before = len(found.broken), found.num_transparent, found.num_in_frames, len(said)
                sums.append(_look_at(paths[i], about[i], self.files, found))
                if len(said) > before[-1]:
                    found.flawed.append((paths[i], " ".join(str(said[before[-1]].message).split())))
                is_whole[i] = before == (len(found.broken), found.num_transparent, found.num_in_frames, len(said))
                tell()
        rows[~is_known, -SUM_WIDTH:] = np.frombuffer(b"".join(sums), np.int64).reshape(-1, SUM_WIDTH)
        is_whole &= is_settled(rows, now)
        found.sums, found.whole = rows[:, -SUM_WIDTH:].tobytes(), rows[is_whole].tobytes()
        found.num_new = int(np.count_nonzero(is_whole & ~is_known))
        return found


def _about(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except (OSError, ValueError):  # who looks at it is told of it
        return None


def _look_at(path: str, about: os.stat_result | None, files: FolderImages, found: _Found) -> bytes:
    """Its sum, see `glimpse`."""
    known = bytes(SUM_BYTES)
    try:
        head, known, tail = glimpse(path, about)
        end = tail[-_TAIL_BYTES:]
        if (_ENDS["JPEG"] in end and is_plain_jpeg(head)) or (_ENDS["PNG"] in end and is_plain_png(head)):
            return known
        with open(path, "rb") as file, Image.open(file, formats=FORMATS) as image:
            refuse_too_large(image)
            found.num_transparent += is_transparent(image)
            found.num_in_frames += image.format in _IN_FRAMES and getattr(image, "is_animated", False)
            is_deep = has_deep_greys(image)
            is_known = not is_deep or (image.format == "PNG" and found.num_deep >= FEW_DEEP)
            if is_known and _is_whole(image, file, tail):
                return known
        pixels = files.image(path)  # a file may be whole and end unlike most; of greys not all are accepted
        if is_deep:
            found.num_deep, found.brightest = found.num_deep + 1, max(found.brightest, int(pixels.max()))
    except UserError as error:
        cause = error.__cause__
        found.broken.append((path, reason_of(cause if isinstance(cause, Exception) else error)))
    except Exception as error:
        found.broken.append((path, reason_of(error)))
    return known


def is_plain_jpeg(head: bytes) -> bool:
    """Whether a file begins as most JPEGs do, with nothing in its header that Pillow would have to look at.

    Pillow takes ten times as long to open one.

    Args:
        head: its first bytes; where the picture begins after them, it is not plain.
    """
    at, is_picture, last = 2, False, len(head) - 10
    if not head.startswith(b"\xff\xd8"):
        return False
    while at <= last:
        mark, kind, length = _SEGMENT(head, at)
        if mark != 0xFF:
            return False
        if kind in _PLAIN:
            at += 2 + length
            continue
        if kind == 0xDA:  # the picture begins
            return is_picture
        if kind not in (0xC0, 0xC2):
            return False
        bits, height, width, channels = _SIZE(head, at + 4)
        is_picture = bits == 8 and 0 < height * width <= MAX_PIXELS and channels in (1, 3)
        at += 2 + length
    return False


def is_plain_png(head: bytes) -> bool:
    """The same of PNGs. Those with an alpha channel are not plain, since they are counted.

    Args:
        head: see `is_plain_jpeg`.
    """
    if not head.startswith(_PNG) or len(head) < len(_PNG) + 13:
        return False
    width, height, bits, colour, *methods, interlace = _PNG_SIZE(head, len(_PNG))
    if bits not in _PNG_BITS.get(colour, ()) or any(methods) or interlace > 1 or not 0 < width * height <= MAX_PIXELS:
        return False
    at = 8
    while at + 12 <= len(head):
        length, kind = _PNG_CHUNK(head, at)
        if kind == b"IDAT":  # the picture begins
            return True
        end = at + 8 + length
        if length not in _PNG_PLAIN.get(kind, ()) or head[end : end + 4] != zlib.crc32(head[at + 4 : end]).to_bytes(4):
            return False
        at = end + 4
    return False


def _is_whole(image: Image.Image, file: Any, tail: bytes) -> bool:
    """Whether a file ends as one of its kind does, or is as long as its pixels are."""
    if (end := _ENDS.get(image.format or "")) is not None:
        return end in tail[-_TAIL_BYTES:]
    length = file.seek(0, os.SEEK_END)
    if image.format == "WEBP":
        file.seek(4)
        return length >= int.from_bytes(file.read(4), "little") + 8
    bits = 1 if image.mode == "1" else 8 * len(image.getbands())
    return length > image.size[0] * image.size[1] * bits // 8
