"""Pictures that stay on disk, and a first look at each of them before anything is trained."""

import hashlib
import logging
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from trainer.data.quoting import cut, listed
from trainer.data.source import ImageFiles
from trainer.data.upright import in_8_bit, is_transparent
from trainer.disk.foreign import refuse_no_file
from trainer.errors import UserError

# What Pillow may take a file for, and by which names files count as images. Not all that it knows: EPS, for one,
# starts another program.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".pgm", ".ppm", ".tif", ".tiff", ".webp")
MAX_PIXELS = 1 << 26  # 67 million, as a large camera has: 200 MB in colour, and a second to decode
# How a whole file ends, if it ends as most do.
_ENDS = {"PNG": b"IEND\xaeB`\x82", "JPEG": b"\xff\xd9", "GIF": b";"}
_TAIL_BYTES = 32
_HEAD_BYTES = 2048
# Parts of a JPEG's header: JFIF, tables of two kinds, how often it begins anew, a comment.
_PLAIN = (0xE0, 0xDB, 0xC4, 0xDD, 0xFE)
_SUMMED_BYTES = 256  # a compressed picture is unlike every other in any so many
logging.getLogger("PIL").addHandler(logging.NullHandler())  # what it logs of a damaged file, it raises as well


class FolderImages(ImageFiles):
    """Images on disk with their targets. Item `i` is `(uint8 [channels, image_size, image_size], target)`.

    An image is turned upright as its EXIF data says, cropped to the square in its middle, and resized to `image_size`
    pixels (bilinear, anti-aliased), which keeps proportions. What is transparent shows the background.

    Args:
        paths: of the files.
        targets: `[N]` int64 classes, or float `[N, D]`.
        background: a word of `BACKGROUNDS`.
        key: under which the user gave the files, for messages.

    Raises:
        UserError: on reading an item whose file is not a whole image.
    """

    channels: int = 3
    image_size: int = 224

    def __init__(
        self, paths: Sequence[str], targets: Tensor, background: str = "white", key: str = "data.root"
    ) -> None:
        self.paths, self.targets, self.background, self.key = tuple(paths), targets, background, key

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, rows: Tensor) -> "FolderImages":
        """Of these rows alone."""
        paths = [self.paths[row] for row in rows.tolist()]
        return FolderImages(paths, self.targets[rows], self.background, self.key)

    def content(self) -> str:
        """Names without their folders, sizes, and some bytes of the middle and the end of every file."""
        digest = hashlib.blake2b(self.background.encode(), digest_size=16)
        for path in self.paths:
            with open(path, "rb") as file:
                size = file.seek(0, os.SEEK_END)
                digest.update(f"/{os.path.basename(path)}/{size}/".encode("utf-8", "surrogateescape"))
                for start in (size // 2, max(size - _SUMMED_BYTES, 0)):
                    file.seek(start)
                    digest.update(file.read(_SUMMED_BYTES))
        return digest.hexdigest()

    def marks(self) -> list[object]:
        """Names, sizes and what a file system counts up at every change; and what decides which pixels they become.

        The time of the last change to a file's entry (`ctime`) is set by no program: a file that was replaced by one of
        the same size and time of content has another.
        """
        stats = [os.stat(path) for path in self.paths]
        marks = [
            (path, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)
            for path, stat in zip(self.paths, stats, strict=True)
        ]
        return [PIL.__version__, torch.__version__, self.background, *marks]

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        target = self.targets[index]
        return self.image(self.paths[index]), int(target) if target.dim() == 0 else target

    def image(self, path: str) -> Tensor:
        """What a file holds, as uint8 `[channels, image_size, image_size]`."""
        try:
            return read_picture(path, self.channels, (self.image_size, self.image_size), self.background)
        except ValueError as error:
            raise UserError(
                f"{self.key}: {path} is not a whole image ({error}). Replace it; or take it out, and type "
                "another name= if the run has begun."
            ) from error.__cause__


def read_picture(path: str | Path, channels: int, size: tuple[int, int], background: str) -> Tensor:
    """What a file holds, upright, resized and cropped in its middle: uint8 `[channels, *size]`.

    Args:
        channels: 1 or 3.
        size: height and width.
        background: a word of `BACKGROUNDS`.

    Raises:
        ValueError: it is no whole image.
    """
    mode, (height, width) = "L" if channels == 1 else "RGB", size
    try:
        refuse_no_file(Path(path))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Pillow says of a file's header, `look` says before the training
            with Image.open(path, formats=FORMATS) as image:
                _refuse_too_large(image)
                # A JPEG is decoded at the smallest of its built-in scales that is large enough.
                image.draft(mode, (2 * width, 2 * height))
                ImageOps.exif_transpose(image, in_place=True)
                pixels = in_8_bit(image, background)
                numbers = np.array(pixels if pixels.mode == mode else pixels.convert(mode))
    except Exception as error:  # Pillow's decoders fail in as many ways as files can be damaged
        raise ValueError(_reason(error)) from error
    return fitted(torch.from_numpy(numbers).view(*numbers.shape[:2], channels), height, width)


def fitted(pixels: Tensor, height: int, width: int) -> Tensor:
    """The middle of uint8 `[H, W, C]` in the proportions of a size, as large as it can be, in that size: `[C, *size]`.

    By torch, which resizes bytes in 0.2 to 0.3 of Pillow's time; they are one level apart at most.
    """
    whole_height, whole_width = pixels.shape[:2]
    rows = min(whole_height, max(1, round(whole_width * height / width)))
    columns = min(whole_width, max(1, round(whole_height * width / height)))
    top, left = (whole_height - rows) // 2, (whole_width - columns) // 2
    middle = pixels[top : top + rows, left : left + columns].permute(2, 0, 1)
    if (rows, columns) == (height, width):
        return middle.contiguous()
    return F.interpolate(middle[None], (height, width), mode="bilinear", antialias=True)[0].contiguous()


def _refuse_too_large(image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width:,} x {height:,} pixels; accepted are {MAX_PIXELS:,}. Make it smaller")


def _reason(error: Exception) -> str:
    if isinstance(error, Image.DecompressionBombError):
        return f"more than {MAX_PIXELS:,} pixels"
    return cut(" ".join(str(getattr(error, "strerror", None) or error).split()) or type(error).__name__, 200)


@dataclass
class _Look:
    """What a look at files found."""

    broken: list[tuple[str, str]] = field(default_factory=list)  # path, reason
    flawed: list[tuple[str, str]] = field(default_factory=list)
    num_transparent: int = 0


def look(files: FolderImages) -> list[str]:
    """Looks at the beginning and the end of every file, and says what its user should know.

    Raises:
        UserError: one is no plain file, no image, too large, or ends too early; all such are counted, and three named.
    """
    found = _Look()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for path in dict.fromkeys(files.paths):
            before = len(said)
            _look_at(path, files, found)
            if len(said) > before:
                found.flawed.append((path, " ".join(str(said[before].message).split())))
    if len(found.broken) == 1:
        path, reason = found.broken[0]
        raise UserError(f"{files.key}: {path} is not a whole image ({reason}). Replace it or take it out.")
    if found.broken:
        examples = "; ".join(f"{path} ({reason})" for path, reason in found.broken[:3])
        raise UserError(
            f"{files.key}: {len(found.broken):,} files are not whole images: {examples}"
            f"{' and others' if len(found.broken) > 3 else ''}. Replace them or take them out."
        )
    notes = []
    if found.num_transparent:
        notes.append(
            f"{found.num_transparent:,} of {len(files.paths):,} pictures have an alpha channel; where they are "
            f"transparent, {files.background} shows (data.background)."
        )
    if found.flawed:
        path, reason = found.flawed[0]
        notes.append(
            f"{len(found.flawed):,} of {len(files.paths):,} pictures have flaws that can be lived with, such as {path} "
            f"({cut(reason, 200)})."
        )
    return notes


def _look_at(path: str, files: FolderImages, found: _Look) -> None:
    try:
        refuse_no_file(Path(path))
        with open(path, "rb", buffering=0) as raw:
            if is_plain_jpeg(raw.read(_HEAD_BYTES)) and _ends_well(raw, _ENDS["JPEG"]):
                return
        with open(path, "rb") as file, Image.open(file, formats=FORMATS) as image:
            _refuse_too_large(image)
            found.num_transparent += is_transparent(image)
            if _is_whole(image, file):
                return
        files.image(path)  # a file may be whole and end unlike most
    except UserError as error:
        cause = error.__cause__
        found.broken.append((path, _reason(cause if isinstance(cause, Exception) else error)))
    except Exception as error:
        found.broken.append((path, _reason(error)))


def is_plain_jpeg(head: bytes) -> bool:
    """Whether a file begins as most JPEGs do, with nothing in its header that Pillow would have to look at.

    Pillow takes ten times as long to open one.

    Args:
        head: its first bytes; where the picture begins after them, it is not plain.
    """
    at, is_picture = 2, False
    while head.startswith(b"\xff\xd8") and at + 10 <= len(head) and head[at] == 0xFF:
        kind = head[at + 1]
        if kind == 0xDA:  # the picture begins
            return is_picture
        if kind in (0xC0, 0xC2):  # its size: bits, height, width, channels
            height, width = (int.from_bytes(head[i : i + 2], "big") for i in (at + 5, at + 7))
            is_picture = head[at + 4] == 8 and 0 < height * width <= MAX_PIXELS and head[at + 9] in (1, 3)
        elif kind not in _PLAIN:
            return False
        at += 2 + int.from_bytes(head[at + 2 : at + 4], "big")
    return False


def _ends_well(file: Any, end: bytes) -> bool:
    length = file.seek(0, os.SEEK_END)
    file.seek(max(length - _TAIL_BYTES, 0))
    return end in file.read(_TAIL_BYTES)


def _is_whole(image: Image.Image, file: Any) -> bool:
    """Whether a file ends as one of its kind does, or is as long as its pixels are."""
    if (end := _ENDS.get(image.format or "")) is not None:
        return _ends_well(file, end)
    length = file.seek(0, os.SEEK_END)
    if image.format == "WEBP":
        file.seek(4)
        return length >= int.from_bytes(file.read(4), "little") + 8
    bits = 1 if image.mode == "1" else 8 * len(image.getbands())
    return length > image.size[0] * image.size[1] * bits // 8


def passed_over(suffixes: dict[str, int], where: str) -> list[str]:
    """The note on files that are no images by their names: how many of each ending."""
    if not suffixes:
        return []
    by_count = sorted(suffixes.items(), key=lambda pair: (-pair[1], pair[0]))
    kinds = listed((f"{suffix or 'no ending'} ({count:,})" for suffix, count in by_count), 5)
    return [
        f"{sum(suffixes.values()):,} files in {where} are no images by their names and passed over: {kinds}. "
        f"Accepted are {', '.join(SUFFIXES)}."
    ]
