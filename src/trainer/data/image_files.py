"""Pictures that stay on disk, and are read when they are needed."""

import hashlib
import logging
import os
import stat
import warnings
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from trainer.data.kept_pictures import KeptPictures
from trainer.data.quoting import cut, listed
from trainer.data.source import ImageFiles
from trainer.data.upright import in_8_bit, scale_clear_level
from trainer.disk.cache import num_bytes
from trainer.disk.foreign import flags, refuse_no_file
from trainer.errors import UserError

# What Pillow may take a file for, and by which names files count as images. Not all that it knows: EPS, for one,
# starts another program.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".pgm", ".ppm", ".tif", ".tiff", ".webp")
MAX_PIXELS = 1 << 26  # 67 million, as a large camera has: 200 MB in colour, and a second to decode
SUM_BYTES = 16  # of what tells a file from another
_SUMMED_BYTES = 256  # a compressed picture is unlike every other in any so many
_READ_AT_ONCE = 4096  # of a file no larger all is read
_FLAGS = flags("O_NONBLOCK", "O_CLOEXEC", "O_BINARY")
logging.getLogger("PIL").addHandler(logging.NullHandler())  # what it logs of a damaged file, it raises as well
with warnings.catch_warnings():
    # Torch says once in a process that it got bytes which are not copied. Threads share the filters of warnings: there
    # the one that reads its first picture might end with this warning.
    warnings.simplefilter("ignore")
    torch.from_numpy(np.frombuffer(b"0", np.uint8))


class FolderImages(ImageFiles):
    """Images on disk with their targets. Item `i` is `(uint8 [channels, image_size, image_size], target)`.

    An image is turned upright as its EXIF data says, cropped to the square in its middle, and resized to `image_size`
    pixels (bilinear, anti-aliased), which keeps proportions. What is transparent shows the background.

    Args:
        paths: of the files.
        targets: `[N]` int64 classes, or float `[N, D]`.
        background: a word of `BACKGROUNDS`.
        key: under which the user gave the files, for messages.
        sums: `[N, SUM_BYTES]` of `glimpse`, where all files have been looked at; None: read when they are needed.

    Attributes:
        kept: on the disk, what was decoded already; see `keep`.

    Raises:
        UserError: on reading an item whose file is not a whole image.
    """

    channels: int = 3
    image_size: int = 224
    kept: KeptPictures | None = None

    def __init__(
        self,
        paths: Sequence[str],
        targets: Tensor,
        background: str = "white",
        key: str = "data.root",
        sums: NDArray[np.uint8] | None = None,
    ) -> None:
        self.paths, self.targets, self.background, self.key = tuple(paths), targets, background, key
        if sums is not None:
            self.sums = sums

    @classmethod
    def joined(cls, parts: Sequence["FolderImages"]) -> "FolderImages":
        """Those of several, one behind the other."""
        paths = [path for part in parts for path in part.paths]
        return cls(paths, torch.cat([part.targets for part in parts]), parts[0].background, parts[0].key)

    def keep(self, limit: str | int | None) -> None:
        """Keeps decoded pictures on the disk, in no more than this: `20GB`. None or 0: keeps none."""
        self.kept = None
        if limit is not None and num_bytes(limit):
            self.kept = KeptPictures(self.paths, self.background, num_bytes(limit))

    @property
    def is_keeping(self) -> bool:
        return self.kept is not None

    def as_kept(self, rows: list[int]) -> Tensor | None:
        return None if self.kept is None else self.kept.pictures([self.paths[row] for row in rows], self._shape)

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def _shape(self) -> tuple[int, int, int]:
        return self.channels, self.image_size, self.image_size

    def take(self, rows: Tensor) -> "FolderImages":
        """Of these rows alone."""
        paths = [self.paths[row] for row in rows.tolist()]
        sums = self.sums[rows.numpy()] if "sums" in vars(self) else None
        found = FolderImages(paths, self.targets[rows], self.background, self.key, sums)
        found.kept = self.kept
        return found

    @cached_property
    def sums(self) -> NDArray[np.uint8]:
        """`[N, SUM_BYTES]`: equal of files with equal content."""
        return as_rows(b"".join(glimpse(path)[1] for path in self.paths))

    def content(self) -> str:
        """Names without their folders, sizes, and some bytes of the middle and the end of every file."""
        digest = hashlib.blake2b(self.background.encode(), digest_size=16)
        names = [path.rpartition(os.sep)[2] for path in self.paths]  # os.path.basename takes six times as long
        digest.update("/".join(names).encode("utf-8", "surrogateescape"))
        digest.update(self.sums.tobytes())
        return digest.hexdigest()

    def marks(self) -> list[object]:
        """Names, sizes and what a file system counts up at every change; and what decides which pixels they become.

        The time of the last change to a file's entry (`ctime`) is set by no program: a file that was replaced by one of
        the same size and time of content has another.
        """
        about = [os.stat(path) for path in self.paths]
        marks = [
            (path, its.st_size, its.st_mtime_ns, its.st_ctime_ns, its.st_ino)
            for path, its in zip(self.paths, about, strict=True)
        ]
        return [PIL.__version__, torch.__version__, self.background, *marks]

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        target, path = self.targets[index], self.paths[index]
        image = self.image(path) if self.kept is None else self.kept.picture(path, self._shape, self.image)
        return image, int(target) if target.dim() == 0 else target

    def doubts(self) -> list[str]:
        if self.kept is None or not (problem := self.kept.problem):
            return []
        return [f"data.cache: not all pictures are kept: {problem.rstrip('.')}. The others are decoded each time."]

    def image(self, path: str) -> Tensor:
        """What a file holds, as uint8 `[channels, image_size, image_size]`."""
        try:
            return read_picture(path, self.channels, (self.image_size, self.image_size), self.background)
        except ValueError as error:
            raise UserError(
                f"{self.key}: {path} is not a whole image ({error}). Replace it; or take it out, and type "
                "another name= if the run has begun."
            ) from error.__cause__


def glimpse(path: str, about: os.stat_result | None = None) -> tuple[bytes, bytes, bytes]:
    """The first bytes of a file, what it and any equal one are told by, and the last bytes.

    Each call here is made a million times for as many files: no object of Python's is made for any.

    Raises:
        OSError: it isn't there, can't be read, or is no plain file.
    """
    about = about or os.stat(path)  # to open a device may do something already
    if not stat.S_ISREG(about.st_mode):
        refuse_no_file(Path(path))
    file, size = os.open(path, _FLAGS), about.st_size
    try:
        first = os.read(file, _READ_AT_ONCE)
        if size <= _READ_AT_ONCE:
            middle, last = first[size // 2 : size // 2 + _SUMMED_BYTES], first[-_SUMMED_BYTES:]
        else:
            os.lseek(file, size // 2, os.SEEK_SET)
            middle = os.read(file, _SUMMED_BYTES)
            os.lseek(file, size - _SUMMED_BYTES, os.SEEK_SET)
            last = os.read(file, _SUMMED_BYTES)
    finally:
        os.close(file)
    return first, hashlib.blake2b(b"%d/%b%b" % (size, middle, last), digest_size=SUM_BYTES).digest(), last


def as_rows(sums: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(sums, np.uint8).reshape(-1, SUM_BYTES)


def read_picture(path: str | Path, channels: int, size: tuple[int, int], background: str) -> Tensor:
    """What a file holds, upright, resized and cropped in its middle: uint8 `[channels, *size]`.

    Args:
        channels: 1 or 3.
        size: height and width.
        background: a word of `BACKGROUNDS`.

    Raises:
        ValueError: it is no whole image.
    """
    height, width = size
    try:
        refuse_no_file(Path(path))
        with warnings.catch_warnings():
            # What Pillow says of a file's header, `look` says before the training; torch, of bytes that are not copied.
            warnings.simplefilter("ignore")
            with Image.open(path, formats=FORMATS) as image:
                refuse_too_large(image)
                scale_clear_level(image)
                # A JPEG is decoded at the smallest of its built-in scales that is large enough.
                image.draft(_mode(channels), (2 * width, 2 * height))
                ImageOps.exif_transpose(image, in_place=True)
                whole = _pixels(image, channels, background)
    except Exception as error:  # Pillow's decoders fail in as many ways as files can be damaged
        raise ValueError(reason_of(error)) from error
    return fitted(whole, height, width)


def of_picture(image: Image.Image, channels: int, size: tuple[int, int], background: str) -> Tensor:
    """What Pillow has read, as `read_picture` gives what a file holds. Raises ValueError: it is no whole image."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scale_clear_level(image)
            whole = _pixels(ImageOps.exif_transpose(image), channels, background)
    except Exception as error:  # of a file that is only read now
        raise ValueError(reason_of(error)) from error
    return fitted(whole, *size)


def _mode(channels: int) -> str:
    return "L" if channels == 1 else "RGB"


def _pixels(image: Image.Image, channels: int, background: str) -> Tensor:
    """uint8 `[H, W, channels]` of a picture that is upright."""
    pixels, mode = in_8_bit(image, background), _mode(channels)
    numbers = np.asarray(pixels if pixels.mode == mode else pixels.convert(mode))
    return torch.from_numpy(numbers).view(*numbers.shape[:2], channels)


def fitted(pixels: Tensor, height: int, width: int) -> Tensor:
    """The middle of uint8 `[H, W, C]` in the proportions of a size, as large as it can be, in that size: `[C, *size]`.

    By torch, which resizes bytes in 0.2 to 0.3 of Pillow's time; they are one level apart at most.
    """
    top, left, rows, columns = _middle((pixels.shape[0], pixels.shape[1]), height, width)
    middle = pixels[top : top + rows, left : left + columns].permute(2, 0, 1)
    if (rows, columns) == (height, width):
        return middle.contiguous()
    return F.interpolate(middle[None], (height, width), mode="bilinear", antialias=True)[0].contiguous()


def fitted_mask(mask: Tensor, height: int, width: int, whole: tuple[int, int]) -> Tensor:
    """What lies over that middle of a picture, in the same size, of the nearest pixel.

    Args:
        mask: `[..., H, W]`, over all of the picture, in its size or another.
        whole: height and width of the picture.
    """
    ends = zip(_middle(whole, height, width), (*mask.shape[-2:], *mask.shape[-2:]), (*whole, *whole), strict=True)
    top, left, rows, columns = (round(end * of / size) for end, of, size in ends)
    # The middle of each new pixel lies in this old one; in whole numbers, which do not round.
    down, right = (
        ((2 * torch.arange(new) + 1) * max(1, old)).div(2 * new, rounding_mode="floor")
        for new, old in ((height, rows), (width, columns))
    )
    return mask[..., (top + down).unsqueeze(1), left + right]


def _middle(whole: tuple[int, int], height: int, width: int) -> tuple[int, int, int, int]:
    """Top, left, height and width of the largest part in the middle of a picture that has the proportions of a size."""
    rows = min(whole[0], max(1, round(whole[1] * height / width)))
    columns = min(whole[1], max(1, round(whole[0] * width / height)))
    return (whole[0] - rows) // 2, (whole[1] - columns) // 2, rows, columns


def refuse_too_large(image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width:,} x {height:,} pixels; accepted are {MAX_PIXELS:,}. Make it smaller")


def reason_of(error: Exception) -> str:
    if isinstance(error, Image.DecompressionBombError):
        return f"more than {MAX_PIXELS:,} pixels"
    return cut(" ".join(str(getattr(error, "strerror", None) or error).split()) or type(error).__name__, 200)


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
