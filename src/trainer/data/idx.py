"""MNIST and its kin: grey images and labels in four IDX files, fetched where they are missing.

Sources: Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, "Gradient-Based Learning Applied to Document Recognition",
Proceedings of the IEEE 86(11), 1998 (MNIST); H. Xiao, K. Rasul, R. Vollgraf, "Fashion-MNIST", arXiv:1708.07747, 2017.

An IDX file: two zero bytes, a byte for the type of the numbers (8: unsigned byte), a byte for the number of
dimensions, each dimension as a big-endian 32-bit number, and then the numbers, the last dimension running fastest.
"""

import gzip
import math
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from trainer.data.download import data_folder, find_or_fetch
from trainer.data.source import Data, Samples, split_off
from trainer.disk.foreign import refuse_no_file
from trainer.errors import UserError

UNSIGNED_BYTE = 8
MAX_FETCHED_BYTES = 64 << 20  # the largest published file, Fashion-MNIST's training images, has 26 MB
READ_BYTES = 1 << 20
MAX_UNCHECKED_BYTES = 1 << 26  # so much a gzipped file may hold in any case
MAX_RATIO = 100  # and beyond that so many times its size: images pack to a fifth, zeros to a thousandth


def load(
    name: str,
    about: str,
    class_names: Sequence[str],
    urls: Sequence[str],
    checksums: Mapping[str, str],
    root: str | None = None,
    download: bool = True,
    val_fraction: float = 0.1,
    split_seed: int = 0,
) -> Data:
    """The source's own training part without a validation part cut off it, and its own test part.

    The files are `train-images-idx3-ubyte`, `train-labels-idx1-ubyte` and `t10k-...` of both, with or without `.gz`.
    Files that are there are taken as they are, if they are whole; what is fetched is compared with its checksum first.

    Args:
        name: of the source, and of its folder in the cache.
        about: what it shows and where it comes from, for the description.
        class_names: a name per class, in the order of the labels.
        urls: prefixes of mirrors that hold the four files as `.gz`.
        checksums: per file name (without `.gz`), as `trainer.data.download.fetch` takes them.
        root: the folder of the files; None: `train/<name>` in the user's cache folder.
        download: fetch what is missing.
        val_fraction: the part of the training part that becomes the validation split.
        split_seed: decides which images those are.

    Raises:
        UserError: a file is missing, cannot be fetched, is not whole, or its labels are not of these classes.
    """
    folder = data_folder(root, name)

    def read(file_name: str, num_dimensions: int) -> Tensor:
        path = find_or_fetch(
            folder,
            [f"{file_name}.gz", file_name],
            download=download,
            urls=urls,
            checksum=checksums[file_name],
            max_bytes=MAX_FETCHED_BYTES,
        )
        return read_idx(path, num_dimensions)

    def part(prefix: str) -> Samples:
        images, labels = read(f"{prefix}-images-idx3-ubyte", 3), read(f"{prefix}-labels-idx1-ubyte", 1)
        if len(images) != len(labels):
            raise UserError(
                f"data.root={folder}: {prefix}: {len(images):,} images and {len(labels):,} labels; "
                f"each image needs a label. Take both files from one source."
            )
        if labels.max() >= len(class_names):
            raise UserError(
                f"data.root={folder}: {prefix}-labels-idx1-ubyte: labels run from {labels.min()} to {labels.max()}; "
                f"{name} has the classes 0 to {len(class_names) - 1}. Take the files of {name}."
            )
        return Samples(images.unsqueeze(1), labels.long())

    training, test = part("train"), part("t10k")
    height, width = training.inputs.shape[2:]
    if test.inputs.shape[2:] != (height, width):
        raise UserError(
            f"data.root={folder}: training images of {height}x{width}, test images of "
            f"{'x'.join(map(str, test.inputs.shape[2:]))} pixels; they must be alike. Take both from one source."
        )
    rows = split_off(len(training), split_seed, val=val_fraction)
    return Data(
        training.take(rows["train"]),
        training.take(rows["val"]),
        test,
        description=f"{name}: {about}, {len(training):,} images to train on and validate, {len(test):,} to test, "
        f"{height}x{width} grey, {len(class_names)} classes",
        num_classes=len(class_names),
        class_names=tuple(class_names),
        by_chance=("val",),
    )


def read_idx(path: Path, num_dimensions: int) -> Tensor:
    """The uint8 numbers of an IDX file, gzipped or not, in the shape that its header gives.

    Raises:
        UserError: it cannot be read, is no IDX file of bytes in so many dimensions, is empty, or is not exactly as
            long as its header says.
    """
    magic = struct.pack(">HBB", 0, UNSIGNED_BYTE, num_dimensions)
    header_bytes = 4 + 4 * num_dimensions
    try:
        refuse_no_file(path)
        with open(path, "rb") as raw:
            is_gzipped = raw.read(2) == b"\x1f\x8b"  # by content: browsers unpack a .gz and keep its name
        with gzip.open(path) if is_gzipped else open(path, "rb") as file:
            header = file.read(header_bytes)
            if not header:
                raise _damaged(path, "the file is empty")
            if header[:4] != magic:
                found = header[:4].hex(" ")
                raise _damaged(path, f"it begins with {found}, an IDX file of this kind with {magic.hex(' ')}")
            if len(header) < header_bytes:
                raise _damaged(path, f"its header has {len(header)} of {header_bytes} bytes")
            shape = struct.unpack_from(f">{num_dimensions}I", header, 4)
            expected = math.prod(shape)
            stored = path.stat().st_size
            if is_gzipped and expected > max(MAX_UNCHECKED_BYTES, MAX_RATIO * stored):
                raise _damaged(path, f"its header promises {expected:,} bytes, and it has {stored:,}")
            numbers = bytearray()
            # Bit by bit, one byte too far: a header may promise more than fits in memory, or less than there is.
            while len(numbers) <= expected and (chunk := file.read(min(READ_BYTES, expected + 1 - len(numbers)))):
                numbers += chunk
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _damaged(path, f"not a whole gzip file of {path.stat().st_size:,} bytes ({error})") from error
    except OSError as error:
        raise UserError(f"data.root={path.parent}: {path.name}: {error.strerror or error}.") from error
    if not expected or len(numbers) != expected:
        sizes = "x".join(f"{size:,}" for size in shape)
        real = "more" if len(numbers) > expected else f"{len(numbers):,}"
        raise _damaged(path, f"its header promises {sizes} = {expected:,} bytes and there are {real}")
    return torch.frombuffer(numbers, dtype=torch.uint8).reshape(shape)


def _damaged(path: Path, what: str) -> UserError:
    return UserError(f"data.root={path.parent}: {path.name}: {what}. Put a whole one there, or delete it to fetch it.")
