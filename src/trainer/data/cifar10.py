"""CIFAR-10 in its binary edition, which holds no pickles: 60,000 colour photographs of 32x32 pixels, ten classes.

Source: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", technical report, University of
Toronto, 2009, https://www.cs.toronto.edu/~kriz/cifar.html. A record is a byte of label and 3,072 bytes of pixels:
1,024 of red, of green and of blue, each row by row.
"""

import contextlib
import gzip
import os
import secrets
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import torch

from trainer.data.download import data_folder, find_or_fetch, refuse_unasked
from trainer.data.source import Data, Samples, split_off
from trainer.disk import foreign
from trainer.disk.files import replace
from trainer.errors import UserError

CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
ARCHIVE = "cifar-10-binary.tar.gz"
FOLDER = "cifar-10-batches-bin"
TRAIN_FILES = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
TEST_FILE = "test_batch.bin"
OTHER_FILES = ("batches.meta.txt", "readme.html")  # in the archive too, and not needed
RECORD_BYTES = 1 + 3 * 32 * 32
MAX_FILE_BYTES = 10_000 * RECORD_BYTES  # the size of the published ones
MAX_UNPACKED_BYTES = 6 * MAX_FILE_BYTES + (16 << 20)  # with headers, and the other files
READ_BYTES = 1 << 20
MAX_FETCHED_BYTES = 200_000_000  # the published archive has 170 MB


def load(
    urls: Sequence[str],
    checksum: str,
    root: str | None = None,
    download: bool = True,
    val_fraction: float = 0.1,
    split_seed: int = 0,
) -> Data:
    """The source's own training part (50,000) without a validation part cut off it, and its own test part (10,000).

    Args:
        urls: prefixes of mirrors that hold the archive.
        checksum: of the archive, as `trainer.data.download.fetch` takes it.
        root: the folder of the archive, or of `cifar-10-batches-bin/` with the six files that were in it; None:
            `train/cifar10` in the user's cache folder. An archive is unpacked there once.
        download: fetch the archive if neither is there. A file that is there is taken as it is, if it is whole.
        val_fraction: the part of the training part that becomes the validation split.
        split_seed: decides which images those are.

    Raises:
        UserError: the data is missing, cannot be fetched or unpacked, or is not whole.
    """
    root_folder = data_folder(root, "cifar10")
    folder = root_folder / FOLDER
    if not all(os.path.isfile(folder / name) for name in (*TRAIN_FILES, TEST_FILE)):
        archive = find_or_fetch(
            root_folder,
            [ARCHIVE],
            download=download,
            urls=urls,
            checksum=checksum,
            max_bytes=MAX_FETCHED_BYTES,
        )
        unpack(archive)
    parts = [_read(folder / name) for name in TRAIN_FILES]
    whole = Samples(torch.cat([part.inputs for part in parts]), torch.cat([part.targets for part in parts]))
    test = _read(folder / TEST_FILE)
    rows = split_off(len(whole), split_seed, val=val_fraction)
    return Data(
        whole.take(rows["train"]),
        whole.take(rows["val"]),
        test,
        description=f"cifar10: photographs (Krizhevsky 2009), {len(whole):,} images to train on and validate, "
        f"{len(test):,} to test, 32x32 colour, 10 classes",
        num_classes=10,
        class_names=CLASS_NAMES,
        by_chance=("val",),
    )


def _read(path: Path) -> Samples:
    """The records of one file: uint8 `[N, 3, 32, 32]` and int64 `[N]`."""
    try:
        content = bytearray(foreign.content(path, MAX_FILE_BYTES))
        if not content or len(content) % RECORD_BYTES:
            raise ValueError(f"{len(content):,} bytes are no whole number of records of {RECORD_BYTES:,}")
        if (highest := max(content[::RECORD_BYTES])) >= len(CLASS_NAMES):
            raise ValueError(f"labels up to {highest}; CIFAR-10 has the classes 0 to 9")
    except OSError as error:
        raise UserError(f"data.root={path.parent.parent}: {path.name}: {error.strerror or error}.") from error
    except ValueError as error:
        raise UserError(
            f"data.root={path.parent.parent}: {path.name}: {error}. Put a whole one there, or delete {path.parent} to "
            "unpack it anew."
        ) from error
    records = torch.frombuffer(content, dtype=torch.uint8).view(-1, RECORD_BYTES)
    return Samples(records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0].long())


def unpack(archive: Path) -> None:
    """Write the six files of records into `cifar-10-batches-bin/` beside the archive.

    Every member is looked at before the first byte is written, and then only bytes are taken from the archive: the
    paths are ours, so no name, link or mode of a member matters.

    Raises:
        UserError: a member is not what CIFAR-10 holds, one is missing, or the archive is not whole.
    """
    refuse_unasked(str(archive.parent / FOLDER))
    try:
        with _Bounded(archive) as unpacked, tarfile.open(fileobj=unpacked, mode="r:") as tar:
            members = _checked_members(tar, archive)
            while unpacked.read(READ_BYTES):  # on to its end, where gzip compares its checksum
                pass
            folder = archive.parent / FOLDER
            if folder.is_symlink():
                raise _refused(archive, f"{FOLDER} beside it is a link, and what it leads to lacks a file")
            folder.mkdir(exist_ok=True)
            for name in (*TRAIN_FILES, TEST_FILE):
                stream = tar.extractfile(members[name])
                assert stream is not None  # a regular file
                temporary = folder / f".{name}.{secrets.token_hex(8)}.part"
                try:
                    temporary.write_bytes(stream.read())
                    replace(temporary, folder / name)
                finally:
                    with contextlib.suppress(OSError):
                        temporary.unlink()
    except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error, RecursionError) as error:  # headers in a long row
        raise _refused(archive, f"not a whole .tar.gz ({error})") from error
    except OSError as error:
        raise _refused(archive, f"it cannot be unpacked here ({error.strerror or error})") from error


class _Bounded(gzip.GzipFile):
    """A gzip file that gives no more than the published archive holds: some kB may unpack to any number of GB."""

    def read(self, size: int | None = -1) -> bytes:
        if self.tell() + (size or 0) > MAX_UNPACKED_BYTES:
            raise tarfile.ReadError(f"it unpacks to more than {MAX_UNPACKED_BYTES:,} bytes")
        return super().read(size)


def _checked_members(tar: tarfile.TarFile, archive: Path) -> dict[str, tarfile.TarInfo]:
    """The members of the archive by file name, if they are those of CIFAR-10 and nothing else."""
    wanted = {*TRAIN_FILES, TEST_FILE}
    members: dict[str, tarfile.TarInfo] = {}
    for member in tar:  # one header after the other: what is refused is not read through
        if member.name == FOLDER and member.isdir():
            continue
        folder, _, name = member.name.rpartition("/")
        what = None
        if folder != FOLDER or name not in {*wanted, *OTHER_FILES}:
            what = "no part of CIFAR-10"
        elif member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.issparse():
            what = "not a plain file"
        elif name in members:
            what = "there twice"
        elif member.size > MAX_FILE_BYTES or (name in wanted and (not member.size or member.size % RECORD_BYTES)):
            what = f"{member.size:,} bytes long; it must be a multiple of {RECORD_BYTES:,}, at most {MAX_FILE_BYTES:,}"
        if what:
            raise _refused(archive, f"its member {member.name!r} is {what}")
        members[name] = member
    if missing := sorted(wanted - members.keys()):
        raise _refused(archive, f"it lacks {', '.join(missing)}")
    return members


def _refused(archive: Path, what: str) -> UserError:
    return UserError(
        f"data.root={archive.parent}: {archive.name}: {what}. Put the published one there, or delete it to fetch it."
    )
