"""Files of data that never end, or that grow when they are read: one line, at once, in little memory."""

import io
import os
import time
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refusal import says
from trainer.data import arrays, cifar10, idx, image_table, table
from trainer.data.memory import free_bytes, refuse_more
from trainer.data.quoting import listed

MB = 1 << 20
TABLES = ["csv", "tsv", "txt", "jsonl", "json", "parquet"]
ARRAYS = ["npz", "npy"]


@contextmanager
def soon(seconds: float = 5.0, most: int = 64 * MB) -> Iterator[None]:
    """What is done takes a few seconds at most, and little memory."""
    tracemalloc.start()
    start = time.monotonic()
    try:
        yield
        assert time.monotonic() - start < seconds
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()


def pipe(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def folder(path: Path) -> None:
    path.mkdir()


ENDLESS = {
    "a pipe": (pipe, "It is no plain file"),
    "a device": (device, "It is no plain file"),
    "a folder": (folder, "Is a directory"),
}


@pytest.mark.parametrize(("make", "what"), ENDLESS.values(), ids=ENDLESS.keys())
@pytest.mark.parametrize("kind", [*TABLES, *ARRAYS])
def test_what_is_no_plain_file_is_not_opened(
    tmp_path: Path, kind: str, make: Callable[[Path], None], what: str
) -> None:
    if kind == "parquet":
        pytest.importorskip("pyarrow")
    path = tmp_path / f"x.{kind}"
    make(path)
    with soon():
        targets: Any = str(path) if kind == "npy" else None if kind == "npz" else ["y"]
        says(arrays.load, str(path), what, path=str(path), targets=targets)
    if kind in TABLES:
        says(table.load, str(path), what, path=str(path), targets=["y"])
        says(image_table.load, str(path), what, path=str(path), targets=["y"])


@pytest.mark.parametrize("make", [pipe, device])
def test_targets_of_an_npy_and_the_files_of_mnist_and_cifar_are_plain_files_too(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    np.save(tmp_path / "x.npy", np.zeros((8, 2)))
    make(tmp_path / "y.npy")
    with soon():
        says(
            arrays.load,
            "data.targets=",
            "It is no plain file",
            path=str(tmp_path / "x.npy"),
            targets=str(tmp_path / "y.npy"),
        )
        says(idx.read_idx, "It is no plain file", path=tmp_path / "y.npy", num_dimensions=1)
        says(cifar10._read, "It is no plain file", path=tmp_path / "y.npy")


def test_a_table_on_a_link_to_a_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "there.csv").write_text("x,y\n" + "".join(f"{i}.5,{i % 2}\n" for i in range(30)))
    (tmp_path / "here.csv").symlink_to(tmp_path / "there.csv")
    assert table.load(str(tmp_path / "here.csv"), targets=["y"]).num_classes == 2


def sparse(path: Path, size: int, start: bytes = b"") -> str:
    """A file that says that it is so large, and takes no room."""
    with open(path, "wb") as file:
        file.write(start)
        file.truncate(size)
    return str(path)


def header(shape: tuple[int, ...], descr: str = "<f4") -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": descr, "fortran_order": False, "shape": shape})
    return stream.getvalue()


HUGE = {  # a name, and what the first bytes of 4 TB are
    "x.npy": (header((1 << 30, 1000)), "a run needs about 17,179.9 GB of memory"),
    "x.csv": (b"x,y\n" + b"1,2\n" * 3000, "a run needs about "),
    "x.tsv": (b"", "not a text: it holds zero bytes"),
    "x.jsonl": (b'{"a": 1}\n', "a run needs about "),
    "x.json": (b"[", "a run needs about "),
}


@pytest.mark.parametrize(("name", "found"), HUGE.items())
def test_what_can_t_fit_is_refused_before_it_is_read(tmp_path: Path, name: str, found: tuple[bytes, str]) -> None:
    start, what = found
    path = sparse(tmp_path / name, 1 << 42, start)
    with soon():
        says(arrays.load, what, path=path, targets=path if name.endswith("npy") else ["y"])


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"x,y\n" + b"1" * 40 * MB, "letters and more"),
        (b"x,y\n1,2\n" + b"," * 40 * MB, "letters and more"),
        (b'x,y\n1,"' + b"a" * 40 * MB, "letters and more"),
        (b"x,y\n" + b"1,2\n" * 500 + b"1," * 9 * MB + b"\n", "line 502 has 2,097,153 columns and line 1 has 2"),
        (b"x,y\n" + b"1,2\n" * 500 + b'1,"' + b"a\n" * 400_000, "field larger than field limit"),
        (b"\n" * 20 * MB, "the file is empty"),
    ],
    ids=["a number", "delimiters", "a quote", "a line later on", "an open quote later on", "nothing"],
)  # fmt: skip
def test_a_line_without_end_ends_the_reading(tmp_path: Path, content: bytes, what: str) -> None:
    (tmp_path / "x.csv").write_bytes(content)
    with soon(20, 200 * MB):
        says(table.load, what, path=str(tmp_path / "x.csv"), targets=["y"])


def packed(path: Path, inputs: tuple[int, ...], descr: str = "<f4", level: int = 9) -> str:
    """An .npz of zeros."""
    size = int(np.prod(inputs)) * np.dtype(descr).itemsize
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=level) as archive:
        with archive.open("inputs.npy", "w", force_zip64=True) as file:
            file.write(header(inputs, descr))
            for _ in range(size // MB):
                file.write(bytes(MB))
            file.write(bytes(size % MB))
        with archive.open("targets.npy", "w") as file:
            np.lib.format.write_array(file, np.arange(inputs[0]) % 2)
    return str(path)


@pytest.mark.parametrize(
    ("shape", "descr"),
    [((64, 512 * 1024), "<f4"), ((2048, 8192), "<f8"), ((64, 3, 700, 700), "|u1"), ((8192, 2048), "<i8")],
)
def test_an_npz_that_unpacks_to_far_more_than_it_has_is_refused(
    tmp_path: Path, shape: tuple[int, ...], descr: str
) -> None:
    """By what a run would need: its copies are counted."""
    path = packed(tmp_path / "x.npz", shape, descr, 1)
    with soon(5, 4 * MB):
        says(
            arrays.load, "bytes that unpack to ", "for which a run needs ", "accepted are 100 times as many", path=path
        )


def test_an_npz_of_ordinary_size_may_be_mostly_zeros(tmp_path: Path) -> None:
    path = packed(tmp_path / "x.npz", (1000, 10_000), level=9)  # 40 MB
    assert os.path.getsize(path) < 200_000
    assert arrays.load(path).num_classes == 2


def test_float32_arrays_are_standardised_in_three_times_their_memory(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    np.savez(
        tmp_path / "x.npz", inputs=draw.normal(size=(20_000, 300)).astype(np.float32), targets=np.arange(20_000) % 2
    )
    size = 20_000 * 300 * 4
    with soon(20, 3 * size):
        arrays.load(str(tmp_path / "x.npz"))


def test_memory_that_is_free_is_known_and_counts() -> None:
    free = free_bytes()
    assert free is not None
    assert 50 * MB < free < 1 << 45
    refuse_more("data.path=x", free / 2, "")
    says(
        refuse_more,
        "data.path=x: a run needs about",
        "are free. Take less.",
        where="data.path=x",
        num_bytes=2 * free,
        what_to_do="Take less.",
    )


def test_names_of_an_archive_are_cut(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", **{f"{'name' * 30}{i}": np.zeros(1) for i in range(900)})
    message = says(arrays.load, "there is no array inputs; it holds ", "and 892 more", path=str(tmp_path / "x.npz"))
    assert len(message) < 1000
    assert listed(["a" * 50, "b"]) == f"{'a' * 40}..., b"
