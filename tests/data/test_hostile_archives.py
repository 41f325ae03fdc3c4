"""Archives, arrays and downloads that somebody sent: refused in one line, nothing runs, nothing is written elsewhere.

Each is first handed to code that trusts it, so that a test which sees nothing happen says something.
"""

import contextlib
import gzip
import hashlib
import io
import os
import pickle
import struct
import tarfile
import threading
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trainer.data import arrays, cifar10, idx
from trainer.data.cifar10 import ARCHIVE, FOLDER, RECORD_BYTES, TEST_FILE, TRAIN_FILES
from trainer.data.download import fetch
from trainer.errors import UserError
from trainer.models.resnet import resnet18

BATCH = b"".join(bytes([label]) + bytes(RECORD_BYTES - 1) for label in (0, 1, 2, 9))
MB = 1_000_000


class Weapon:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Where the data lies: deep, so that what climbs out of it is still in the test's own folder."""
    folder = tmp_path / "deep" / "root"
    folder.mkdir(parents=True)
    return folder


def everything(folder: Path) -> dict[str, bytes | str | None]:
    return {
        str(path): os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def refusal(load: Callable[..., object], *arguments: Any, names: object, **named: Any) -> str:
    """The one line in which `load` refuses its arguments; nothing has been written."""
    outermost = next(path for path in Path(str(names)).parents if path.name.startswith("test_"))
    before = everything(outermost)
    with pytest.raises(UserError) as caught:
        load(*arguments, **named)
    message = str(caught.value)
    assert Path(str(names)).name in message
    assert "\n" not in message
    assert everything(outermost) == before
    return message


# --- tar: CIFAR-10 -------------------------------------------------------------------------------------------------

Member = tuple[tarfile.TarInfo, bytes]


def member(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, linkname: str = "", **more: Any) -> Member:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, linkname, len(content)
    for field, value in more.items():
        setattr(info, field, value)
    return info, content


def packed(*members: Member) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


WHOLE = [member(f"{FOLDER}/{name}", BATCH) for name in (*TRAIN_FILES, TEST_FILE)]
LINK, HARD = tarfile.SYMTYPE, tarfile.LNKTYPE

# The members, and what an extraction without a filter makes of them outside of the folder that it extracts to.
TARS: dict[str, tuple[list[Member], str]] = {
    "climbing out": ([*WHOLE, member("../it_ran", BATCH)], "it_ran"),
    "climbing out from within": ([*WHOLE, member(f"{FOLDER}/../../it_ran", BATCH)], "it_ran"),
    "a link": ([*WHOLE[:-1], member(f"{FOLDER}/{TEST_FILE}", b"", LINK, "../../mine")], ""),
    "a hard link": (
        [*WHOLE[:-1], member("x", b"", LINK, ".."), member(f"{FOLDER}/{TEST_FILE}", b"", HARD, "x/mine")],
        "",
    ),
    "re-entry": ([*WHOLE, member("x", b"", LINK, ".."), member("x/it_ran", BATCH)], "it_ran"),
    "re-entry as the folder": ([member(FOLDER, b"", LINK, ".."), *WHOLE], TEST_FILE),
    "re-entry by a link to a link": (
        [*WHOLE, member("x", b"", LINK, "y/.."), member("y", b"", LINK, "."), member("x/it_ran", BATCH)],
        "it_ran",
    ),
    "a pipe": ([*WHOLE[:-1], member(f"{FOLDER}/{TEST_FILE}", b"", tarfile.FIFOTYPE)], ""),
    "a device": ([*WHOLE[:-1], member(f"{FOLDER}/{TEST_FILE}", b"", tarfile.CHRTYPE, devmajor=1, devminor=5)], ""),
    "twice": ([*WHOLE, member(f"{FOLDER}/{TEST_FILE}", BATCH[::-1])], ""),
    "of another's": ([*WHOLE, member(f"{FOLDER}/test_batch.bin ", BATCH)], ""),
}


def load_cifar10(root: Path) -> object:
    return cifar10.load([], "sha256:" + "0" * 64, root=str(root), download=False)


def test_the_whole_archive_is_unpacked(root):
    (root / ARCHIVE).write_bytes(packed(*WHOLE))
    load_cifar10(root)
    assert sorted(path.name for path in (root / FOLDER).iterdir()) == sorted((*TRAIN_FILES, TEST_FILE))


@pytest.mark.parametrize("name", TARS)
def test_a_tar_that_reaches_outside_is_refused(root, name):
    members, outside = TARS[name]
    (root.parent / "mine").write_bytes(b"mine")
    (root / ARCHIVE).write_bytes(packed(*members))
    refusal(load_cifar10, root, names=root / ARCHIVE)

    if outside:
        (root / "naive").mkdir()
        with tarfile.open(root / ARCHIVE) as tar:
            tar.extractall(root / "naive", filter="fully_trusted")
        assert (root / outside).exists()


def test_a_tar_with_an_absolute_name_is_refused(root):
    outside = root.parents[1] / "it_ran"
    (root / ARCHIVE).write_bytes(packed(*WHOLE, member(str(outside), BATCH)))
    refusal(load_cifar10, root, names=root / ARCHIVE)
    with tarfile.open(root / ARCHIVE) as tar:
        tar.extractall(root / "naive", filter="fully_trusted")
    assert outside.exists()


def test_an_archive_is_not_unpacked_through_a_link_that_lies_there(root):
    outside = root.parent / "outside"
    outside.mkdir()
    (root / FOLDER).symlink_to(outside)
    (root / ARCHIVE).write_bytes(packed(*WHOLE))
    refusal(load_cifar10, root, names=root / ARCHIVE)


def header(kind: bytes, size: int) -> bytes:
    """The head of a member whose content says something about the next one."""
    info = tarfile.TarInfo("x")
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


def test_headers_in_a_long_row_are_refused(root):
    pax = header(tarfile.XHDTYPE, 12) + b"12 path=abc\n".ljust(512, b"\0")
    (root / ARCHIVE).write_bytes(gzip.compress(pax * 3000, 1))
    refusal(load_cifar10, root, names=root / ARCHIVE)
    with pytest.raises((RecursionError, tarfile.TarError)), tarfile.open(root / ARCHIVE) as tar:
        tar.next()


# --- what unpacks to all the memory --------------------------------------------------------------------------------

SIZE = 240 * MB


def zeros(size: int, before: bytes) -> bytes:
    """gzip of many zeros: members of 4 MB in a row, which count as one."""
    return gzip.compress(before) + gzip.compress(bytes(4 * MB), 1) * (size // (4 * MB))


def peak(call: Callable[[], object]) -> int:
    """The most memory that a call takes, in bytes."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_header_that_unpacks_to_all_the_memory_is_refused(root):
    """The name of a member may be as long as you like, and is read at once."""
    path = root / ARCHIVE
    path.write_bytes(zeros(SIZE, header(tarfile.GNUTYPE_LONGNAME, SIZE)))
    assert path.stat().st_size < 2 * MB
    assert peak(lambda: refusal(load_cifar10, root, names=path)) < 16 * MB

    def naively() -> None:
        with contextlib.suppress(tarfile.TarError), tarfile.open(path) as tar:
            tar.next()

    assert peak(naively) > SIZE


def test_images_that_unpack_to_all_the_memory_are_refused(root):
    path = root / "train-images-idx3-ubyte.gz"
    path.write_bytes(zeros(SIZE, struct.pack(">4I", 2051, SIZE // 10_000, 100, 100)))
    assert path.stat().st_size < 2 * MB
    load = partial(idx.load, "mnist", "", "0123456789", [], dict.fromkeys([path.stem], ""), download=False)
    assert peak(lambda: refusal(load, root=str(root), names=path)) < 16 * MB
    with gzip.open(path) as file:
        assert peak(file.read) > SIZE


def test_arrays_that_unpack_to_all_the_memory_are_refused(root):
    """Of 2 GB that some kB promise."""
    path = root / "a.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, shape in {"inputs": (2000, 250_000), "targets": (2000,)}.items():
            with file.open(f"{name}.npy", "w") as stream:
                np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": shape})
                stream.write(bytes(8 * MB))
        file.getinfo("inputs.npy").file_size = 2000 * MB + 128
    assert "unpack to 2,000,000,128" in refusal(arrays.load, str(path), names=path)

    sparse = np.zeros((2000, 2000), np.float32)  # packed as well as that, and of a common size
    np.savez_compressed(path, inputs=sparse, targets=np.arange(2000) % 2)
    assert path.stat().st_size < 100_000
    assert arrays.load(str(path)).num_classes == 2


# --- arrays that run code, or are none -----------------------------------------------------------------------------


def npz(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)
    return path


def npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def promising(shape: str, descr: str = "'<f4'", content: bytes = bytes(64)) -> bytes:
    """An array's header, around anything."""
    words = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(words)) + words + content


NUMBERS, CLASSES = npy(np.zeros((8, 2), np.float32)), npy(np.arange(8) % 2)


def test_a_pickle_in_an_array_is_not_read(root):
    marker = root / "it_ran"
    weapon = npy(np.array([Weapon(marker)] * 8, object))
    for made in ({"inputs": weapon, "targets": CLASSES}, {"inputs": NUMBERS, "targets": weapon}):
        path = npz(root / "a.npz", **made)
        refusal(arrays.load, str(path), names=path)
    (root / "a.npy").write_bytes(weapon)
    (root / "b.npy").write_bytes(CLASSES)
    refusal(arrays.load, str(root / "a.npy"), str(root / "b.npy"), names=root / "a.npy")
    refusal(arrays.load, str(root / "b.npy"), str(root / "a.npy"), names=root / "a.npy")
    path = npz(root / "c.npz", inputs=pickle.dumps(Weapon(marker)), targets=CLASSES)
    refusal(arrays.load, str(path), names=path)
    assert not marker.exists()

    with contextlib.suppress(OSError):  # the second one of eight finds the folder made
        np.load(root / "a.npy", allow_pickle=True)
    assert marker.exists()


@pytest.mark.parametrize(
    "content",
    [
        *(promising(shape) for shape in ("(-1, 3)", "(8, -1)", "(0, 99999999999999999999)", "(True, 8)")),
        *(promising(f"({2**62},)"), promising("(" + "1," * 100 + ")"), promising("(8, 2)", "[('a', '<f4')]")),
        *(promising("(8,)", "'<U1000000000'"), promising("(8, 2)", "'|V8'"), promising("(8, 2)", "__import__('os')")),
        *(promising("(8, 2)" + "(" * 5000), b"\x93NUMPY\x09\x00", b""),
    ],
)
def test_an_array_that_is_none_is_refused(root, content):
    path = npz(root / "a.npz", inputs=content, targets=CLASSES)
    refusal(arrays.load, str(path), names=path)


def test_names_in_an_npz_lead_nowhere(root):
    path = npz(root / "a.npz", inputs=NUMBERS, targets=CLASSES, **{"../../it_ran": NUMBERS, "/it_ran": NUMBERS})
    before = everything(root.parents[1])
    assert len(arrays.load(str(path), val_fraction=0.2).train) > 0
    assert everything(root.parents[1]) == before


def test_weights_that_run_code_are_refused(root):
    marker, path = root / "it_ran", root / "resnet18.pth"
    for is_archive in (True, False):
        torch.save({"fc.weight": Weapon(marker)}, path, _use_new_zipfile_serialization=is_archive)
        refusal(resnet18, weights=str(path), names=path)
    assert not marker.exists()
    torch.load(path, weights_only=False)
    assert marker.exists()


# --- downloads -----------------------------------------------------------------------------------------------------

CONTENT = bytes(range(256)) * 100
SHA256 = "sha256:" + hashlib.sha256(CONTENT).hexdigest()
SERVED: dict[str, tuple[int, dict[str, str], bytes]] = {
    "/whole": (200, {"Content-Length": str(len(CONTENT))}, CONTENT),
    "/another": (200, {"Content-Length": str(len(CONTENT))}, CONTENT[::-1]),
    "/cut": (200, {"Content-Length": str(len(CONTENT))}, CONTENT[:1000]),
    "/cut-without-a-length": (200, {}, CONTENT[:-1]),
    "/longer": (200, {}, CONTENT + b"more"),
    "/too-long": (200, {"Content-Length": str(2**40)}, CONTENT),
    "/packed": (200, {"Content-Encoding": "gzip"}, gzip.compress(CONTENT)),
    "/away": (302, {"Location": "http://192.0.2.1/whole"}, b""),
    "/to-a-file": (302, {"Location": "file:///etc/hostname"}, b""),
    "/title": (404, {"X": "y"}, b"\x1b]0;it ran\x07"),
}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, content = SERVED[self.path]
            self.send_response(status, "\x1b[2J")
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


@pytest.mark.parametrize("path", [path for path in SERVED if path != "/whole"])
def test_what_is_not_what_was_published_is_not_kept(root, server, path):
    target = root / "file"
    message = refusal(fetch, [server + path], target, SHA256, max_bytes=10**6, names=target)
    assert message.isprintable()

    (root / "file").write_bytes(b"mine")  # and it does not take the place of what is there
    refusal(fetch, [server + path], target, SHA256, max_bytes=10**6, names=target)


def test_what_was_published_is_kept(root, server):
    fetch([server + "/another", server + "/whole"], root / "file", SHA256, max_bytes=10**6)
    assert (root / "file").read_bytes() == CONTENT
