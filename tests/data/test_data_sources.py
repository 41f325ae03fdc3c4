"""Every data source: what its files hold is what it gives, and what is wrong with them is said in one line."""

import contextlib
import csv
import gzip
import hashlib
import inspect
import io
import os
import pickle
import re
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import hydra
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from torch import Tensor

from refusal import says
from trainer.config.schema import READ_HERE
from trainer.data import arrays, cifar10, idx, image_folder, loader
from trainer.data import table as tables
from trainer.data.batches import LoadedBatches
from trainer.data.source import Data, ImageFiles, Samples, existing_path, split_off
from trainer.errors import UserError
from trainer.meaning import Classes, Numbers

CONFIGS = Path(__file__).parents[2] / "configs" / "data"
FITTING = {"image_size", "normalize", "augment", "limit", "targets"}  # keys that the run reads of what is fetched
RNG = np.random.default_rng(0)


def built(config: Any) -> Data:
    """What the config names, called with the rest of it: lists and mappings arrive as OmegaConf's own."""
    data: Data = hydra.utils.get_method(config["_target_"])(**{k: config[k] for k in config if k != "_target_"})
    return data


def rows(split: Samples | ImageFiles) -> set[bytes]:
    assert isinstance(split, Samples)
    return {row.numpy().tobytes() for row in split.inputs}


def check_splits(data: Data, all_inputs: Tensor, all_targets: Tensor) -> None:
    """The three splits are disjoint, together they are all samples, and every input has kept its target."""
    splits = [data.train, data.val, data.test]
    assert sum(map(len, splits)) == len(all_inputs)
    assert set.union(*map(rows, splits)) == {row.numpy().tobytes() for row in all_inputs}  # so they are disjoint, too
    target = {row.numpy().tobytes(): all_targets[i] for i, row in enumerate(all_inputs)}
    for split in splits:
        assert isinstance(split, Samples)
        for row, found in zip(split.inputs, split.targets, strict=True):
            assert torch.equal(found, target[row.numpy().tobytes()])


# --- configs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_config_names_a_source_and_every_argument_of_it(path: Path) -> None:
    assert path.read_text().startswith("# ")
    config = OmegaConf.load(path)
    if OmegaConf.is_missing(config, "_target_"):
        assert path.stem == "own"
        return
    load = hydra.utils.get_method(config["_target_"])
    parameters = set(inspect.signature(load).parameters)
    assert set(map(str, config)) - {"_target_"} - ({*READ_HERE["data"]} - parameters) == parameters
    for name, parameter in inspect.signature(load).parameters.items():
        if parameter.default is not parameter.empty and not OmegaConf.is_missing(config, name):
            assert config[name] == parameter.default


# --- shared --------------------------------------------------------------------------------------------------------


def test_split_off_gives_every_index_once_and_always_the_same() -> None:
    splits = split_off(100, 3, val=0.1, test=0.25)
    assert {split: len(index) for split, index in splits.items()} == {"train": 65, "val": 10, "test": 25}
    again = split_off(100, 3, val=0.1, test=0.25)
    assert sorted(torch.cat(list(splits.values())).tolist()) == list(range(100))
    assert all(torch.equal(a, b) for a, b in zip(splits.values(), again.values(), strict=True))
    assert not torch.equal(splits["train"], split_off(100, 4, val=0.1, test=0.25)["train"])


def test_splits_that_leave_nothing() -> None:
    message = says(partial(split_off, 100, 0), "nothing is left to train on", val=0.6, test=0.4)
    assert message.startswith("data.val_fraction=0.6 data.test_fraction=0.4:")
    says(partial(split_off, 3, 0), "3 samples are too few", "train 2, val 0, test 1", "6 samples", val=0.1, test=0.2)
    says(partial(split_off, 0, 0), "0 samples are too few", val=0.1)


@pytest.mark.parametrize("fractions", [(0.1, 0.2), (0.1,), (0.01, 0.5), (0.45, 0.45), (0.03, 0.96)])
def test_the_rows_that_are_said_to_be_needed_are_enough(fractions: tuple[float, ...]) -> None:
    named = dict(zip(("val", "test"), fractions, strict=False))
    needed = int(re.search(r"Give (\d+) samples", says(partial(split_off, 1, 0), **named))[1])
    assert all(map(len, split_off(needed, 0, **named).values()))


def test_a_path_that_is_not_there_names_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "flowers.csv").touch()
    find = partial(existing_path, "data.path")
    assert find(value=str(tmp_path / "flowers.csv")) == tmp_path / "flowers.csv"
    says(
        find, f"there is no {tmp_path / 'flower.csv'}.", "Did you mean flowers.csv?", value=str(tmp_path / "flower.csv")
    )
    says(find, f"there is no {tmp_path / 'zz'}.", "Give the path", value=str(tmp_path / "zz"))
    says(find, f"there is no folder {tmp_path / 'gone'}", value=str(tmp_path / "gone" / "flowers.csv"))
    says(find, "Not a directory", value=str(tmp_path / "flowers.csv" / "x"))
    says(find, "null", value="a\0b")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    says(find, "symbolic link", value=str(tmp_path / "circle"))
    for nothing, shown in ((None, "null"), ("", "")):
        says(find, f"data.path={shown}: no path was given", value=nothing)


def test_relative_and_home_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "flowers.csv").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert existing_path("data.path", "flowers.csv") == existing_path("data.path", "~/flowers.csv")
    says(existing_path, f"there is no {tmp_path / 'flower.csv'}", key="data.path", value="flower.csv")


# --- IDX: MNIST and Fashion-MNIST ----------------------------------------------------------------------------------

IMAGES = RNG.integers(0, 256, (40, 6, 5), dtype=np.uint8)
LABELS = np.arange(40, dtype=np.uint8) % 10
TEST_IMAGES = RNG.integers(0, 256, (7, 6, 5), dtype=np.uint8)
TEST_LABELS = np.arange(7, dtype=np.uint8)


def idx_bytes(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def idx_files() -> dict[str, bytes]:
    return {
        "train-images-idx3-ubyte": idx_bytes(IMAGES),
        "train-labels-idx1-ubyte": idx_bytes(LABELS),
        "t10k-images-idx3-ubyte": idx_bytes(TEST_IMAGES),
        "t10k-labels-idx1-ubyte": idx_bytes(TEST_LABELS),
    }


def write(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def load_idx(root: Path | None, config: str = "mnist", **overrides: Any) -> Data:
    """As the run does it: the shipped config, with `download=false` unless said otherwise."""
    cfg = OmegaConf.load(CONFIGS / f"{config}.yaml")
    for key in FITTING & set(map(str, cfg)):
        del cfg[key]
    overrides = {"root": None if root is None else str(root), "download": False, **overrides}
    return built(OmegaConf.merge(cfg, overrides))


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder, and the address under which a real http server on 127.0.0.1 serves it."""
    folder = tmp_path / "mirror"
    folder.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_files_come_back_as_they_were(tmp_path: Path, pack: Callable[[bytes], bytes], suffix: str) -> None:
    """Gzipped or not, whatever the name says: browsers unpack a `.gz` and leave its name."""
    root = write(tmp_path, {name + suffix: pack(content) for name, content in idx_files().items()})
    data = load_idx(root)
    inputs = torch.from_numpy(np.concatenate([IMAGES, TEST_IMAGES])).unsqueeze(1)
    targets = torch.from_numpy(np.concatenate([LABELS, TEST_LABELS])).long()
    check_splits(data, inputs, targets)
    assert isinstance(data.test, Samples)
    assert torch.equal(data.test.inputs, inputs[40:])  # in their own order
    assert torch.equal(data.test.targets, targets[40:])
    assert (len(data.train), len(data.val)) == (36, 4)
    assert data.num_classes == 10
    assert data.test.inputs.dtype == torch.uint8
    assert "40 images to train on and validate, 7 to test, 6x5 grey, 10 classes" in data.description
    assert isinstance(data.meaning, Classes)
    assert data.is_images


def test_idx_split_is_fixed_by_its_seed(tmp_path: Path) -> None:
    root = write(tmp_path, idx_files())
    assert rows(load_idx(root).val) == rows(load_idx(root).val)
    assert rows(load_idx(root).val) != rows(load_idx(root, split_seed=1).val)
    assert len(load_idx(root, val_fraction=0.5).val) == 20


def test_idx_missing_files_are_fetched_once(tmp_path: Path, mirror: tuple[Path, str]) -> None:
    folder, url = mirror
    write(folder, {f"{name}.gz": gzip.compress(content) for name, content in idx_files().items()})
    checksums = {name: f"unpacked-sha256:{hashlib.sha256(c).hexdigest()}" for name, c in idx_files().items()}
    root = tmp_path / "new" / "root"
    fetched = load_idx(root, download=True, urls=[f"{url}/nothing", url], checksums=checksums)
    assert sorted(os.listdir(root)) == sorted(os.listdir(folder))
    again = load_idx(root)  # with no download
    assert isinstance(fetched.train, Samples)
    assert isinstance(again.train, Samples)
    assert torch.equal(fetched.train.inputs, again.train.inputs)


def test_idx_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    write(tmp_path / "train" / "mnist", idx_files())
    assert len(load_idx(None).test) == 7
    says(partial(load_idx, None), str(tmp_path / "train" / "fashion_mnist"), config="fashion_mnist")


def test_idx_other_content_than_the_published_is_not_fetched(tmp_path: Path, mirror: tuple[Path, str]) -> None:
    folder, url = mirror
    write(folder, {f"{name}.gz": gzip.compress(content) for name, content in idx_files().items()})
    for config in ("mnist", "fashion_mnist"):
        says(
            partial(load_idx, tmp_path / "root"),
            "train-images-idx3-ubyte.gz could not be fetched",
            "another content",
            config=config,
            download=True,
            urls=[url],
        )
        assert os.listdir(tmp_path / "root") == []


def test_fashion_mnist_knows_its_classes(tmp_path: Path) -> None:
    data = load_idx(write(tmp_path, idx_files()), "fashion_mnist")
    assert data.class_names[0] == "T-shirt/top"
    assert data.class_names[9] == "Ankle boot"
    assert data.num_classes == len(data.class_names) == 10


FILES = idx_files()
BAD_IDX = {
    "empty": (b"", "the file is empty"),
    "empty in gzip": (gzip.compress(b""), "the file is empty"),
    "two bytes": (b"\0\0", "it begins with 00 00, an IDX file of this kind with 00 00 08 03"),
    "text": (b"<!DOCTYPE html><html>", "it begins with 3c 21 44 4f"),
    "labels for images": (FILES["train-labels-idx1-ubyte"], "it begins with 00 00 08 01"),
    "floats": (b"\0\0\x0d\x03" + bytes(100), "it begins with 00 00 0d 03"),
    "header cut": (FILES["train-images-idx3-ubyte"][:10], "its header has 10 of 16 bytes"),
    "header only": (FILES["train-images-idx3-ubyte"][:16], "promises 40x6x5 = 1,200 bytes and there are 0"),
    "cut": (FILES["train-images-idx3-ubyte"][:-1], "promises 40x6x5 = 1,200 bytes and there are 1,199"),
    "longer": (FILES["train-images-idx3-ubyte"] + b"x", "promises 40x6x5 = 1,200 bytes and there are more"),
    "gzip cut": (gzip.compress(FILES["train-images-idx3-ubyte"])[:-20], "not a whole gzip file of"),
    "gzip damaged": (gzip.compress(FILES["train-images-idx3-ubyte"])[:-8] + b"x" * 8, "not a whole gzip file of"),
    "gzip magic": (b"\x1f\x8b" + b"x" * 30, "not a whole gzip file of 32 bytes"),
    "no images": (struct.pack(">HBB3I", 0, 8, 3, 0, 6, 5), "promises 0x6x5 = 0 bytes"),
    "huge": (struct.pack(">HBB3I", 0, 8, 3, *[2**32 - 1] * 3) + bytes(9), "bytes and there are 9"),
}


@pytest.mark.parametrize(("content", "what"), BAD_IDX.values(), ids=BAD_IDX.keys())
def test_damaged_idx_file_is_named(tmp_path: Path, content: bytes, what: str) -> None:
    root = write(tmp_path, {**FILES, "train-images-idx3-ubyte": content})
    says(partial(load_idx, root), f"data.root={tmp_path}: train-images-idx3-ubyte:", what)


def test_every_cut_of_a_gzipped_idx_file_is_noticed(tmp_path: Path) -> None:
    whole = gzip.compress(FILES["train-labels-idx1-ubyte"])
    for length in range(len(whole)):
        (tmp_path / "labels").write_bytes(whole[:length])
        with pytest.raises(UserError):
            idx.read_idx(tmp_path / "labels", 1)
    (tmp_path / "labels").write_bytes(whole)
    assert idx.read_idx(tmp_path / "labels", 1).tolist() == LABELS.tolist()


def test_idx_files_that_do_not_belong_together(tmp_path: Path) -> None:
    def root(**changed: np.ndarray) -> Path:
        files = {name.replace("_", "-"): idx_bytes(array) for name, array in changed.items()}
        return write(tmp_path, {**FILES, **files})

    load = partial(load_idx)
    says(load, "train: 40 images and 39 labels", root=root(train_labels_idx1_ubyte=LABELS[1:]))
    write(tmp_path, FILES)
    says(load, "labels run from 1 to 10", "classes 0 to 9", root=root(train_labels_idx1_ubyte=LABELS + 1))
    write(tmp_path, FILES)
    other = np.zeros((7, 6, 6), np.uint8)
    says(load, "training images of 6x5, test images of 6x6", root=root(t10k_images_idx3_ubyte=other))


def test_idx_root_is_a_file_or_has_a_folder_for_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    says(partial(load_idx, tmp_path / "file"), "is not a folder")
    (tmp_path / "train-images-idx3-ubyte").mkdir()
    says(partial(load_idx, tmp_path), "no train-images-idx3-ubyte.gz or train-images-idx3-ubyte there")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_idx_file_without_permission(tmp_path: Path) -> None:
    write(tmp_path, FILES)
    (tmp_path / "train-images-idx3-ubyte").chmod(0)
    says(partial(load_idx, tmp_path), "train-images-idx3-ubyte: Permission denied")


# --- CIFAR-10 ------------------------------------------------------------------------------------------------------

RECORDS = {name: RNG.integers(0, 256, (4, 3073), dtype=np.uint8) for name in (*cifar10.TRAIN_FILES, cifar10.TEST_FILE)}
for i, records in enumerate(RECORDS.values()):
    records[:, 0] = (i + np.arange(4)) % 10
BATCHES = {name: records.tobytes() for name, records in RECORDS.items()}
FOLDER = cifar10.FOLDER


def member(name: str, kind: bytes = tarfile.REGTYPE, **fields: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def archive(*more: tuple[tarfile.TarInfo, bytes], leave_out: tuple[str, ...] = (), first: bool = False) -> bytes:
    """A small archive as the published one is, with other members after (or before) those that belong there."""
    proper = [(member(FOLDER, tarfile.DIRTYPE), b""), (member(f"{FOLDER}/readme.html"), b"<html>")]
    proper += [(member(f"{FOLDER}/{name}"), data) for name, data in BATCHES.items() if name not in leave_out]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", format=tarfile.PAX_FORMAT) as tar:
        for info, data in [*more, *proper] if first else [*proper, *more]:
            info.size = info.size or len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def load_cifar10(root: Path, **overrides: Any) -> Data:
    cfg = OmegaConf.load(CONFIGS / "cifar10.yaml")
    for key in FITTING & set(map(str, cfg)):
        del cfg[key]
    return built(OmegaConf.merge(cfg, {"root": str(root), "download": False, **overrides}))


def check_cifar10(data: Data) -> None:
    all_records = np.concatenate(list(RECORDS.values()))
    images = np.stack([all_records[:, 1 + 1024 * c : 1025 + 1024 * c].reshape(-1, 32, 32) for c in range(3)], 1)
    check_splits(data, torch.from_numpy(images), torch.from_numpy(all_records[:, 0]).long())
    assert isinstance(data.test, Samples)
    assert torch.equal(data.test.inputs, torch.from_numpy(images[20:]))
    assert (len(data.train), len(data.val), len(data.test)) == (18, 2, 4)
    assert data.class_names[3] == "cat"
    assert data.num_classes == 10
    assert "20 images to train on and validate, 4 to test, 32x32 colour" in data.description


def test_cifar10_from_an_unpacked_folder(tmp_path: Path) -> None:
    write(tmp_path / FOLDER, BATCHES)
    check_cifar10(load_cifar10(tmp_path))


def test_cifar10_archive_is_fetched_and_unpacked_once(tmp_path: Path, mirror: tuple[Path, str]) -> None:
    folder, url = mirror
    packed = archive()
    write(folder, {cifar10.ARCHIVE: packed})
    root = tmp_path / "new" / "root"
    says(partial(load_cifar10, root), "another content", download=True, urls=[url])
    assert os.listdir(root) == []
    check_cifar10(load_cifar10(root, download=True, urls=[url], checksum=f"md5:{hashlib.md5(packed).hexdigest()}"))
    assert sorted(os.listdir(root)) == sorted([cifar10.ARCHIVE, FOLDER])
    assert sorted(os.listdir(root / FOLDER)) == sorted(BATCHES)
    (root / cifar10.ARCHIVE).unlink()
    check_cifar10(load_cifar10(root))


def test_cifar10_incomplete_folder_is_completed_from_the_archive(tmp_path: Path) -> None:
    write(tmp_path / FOLDER, {"data_batch_1.bin": BATCHES["data_batch_1.bin"]})
    says(partial(load_cifar10, tmp_path), f"no {cifar10.ARCHIVE} there, and data.download=false")
    write(tmp_path, {cifar10.ARCHIVE: archive()})
    check_cifar10(load_cifar10(tmp_path))


def link(kind: bytes, name: str, to: str) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, kind, linkname=to), b""


BATCH = BATCHES["test_batch.bin"]
SPARSE_PAX = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "12292"}
SPARSE_MAP = b"1\n0\n12292\n".ljust(512, b"\0")
OTHER, KIND, TWICE, SIZE = "no part of CIFAR-10", "not a plain file", "there twice", "bytes long; it must be a multiple"
HOSTILE = {
    "parent": (OTHER, [(member("../outside"), BATCH)]),
    "parent inside": (OTHER, [(member(f"{FOLDER}/../../outside"), BATCH)]),
    "parent as a batch": (OTHER, [(member(f"{FOLDER}/../{FOLDER}/test_batch.bin"), BATCH)]),
    "absolute": (OTHER, [(member("/tmp/outside"), BATCH)]),
    "another name": (OTHER, [(member(f"{FOLDER}/more.bin"), BATCH)]),
    "deeper": (OTHER, [(member(f"{FOLDER}/{FOLDER}/test_batch.bin"), BATCH)]),
    "beside": (OTHER, [(member("test_batch.bin"), BATCH)]),
    "backslash": (OTHER, [(member(f"{FOLDER}\\test_batch.bin"), BATCH)]),
    "symlink": (KIND, [link(tarfile.SYMTYPE, f"{FOLDER}/test_batch.bin", "/etc/hostname")]),
    "symlink as folder": (OTHER, [link(tarfile.SYMTYPE, FOLDER, "..")]),
    "hard link": (KIND, [link(tarfile.LNKTYPE, f"{FOLDER}/test_batch.bin", f"{FOLDER}/data_batch_1.bin")]),
    "hard link out": (KIND, [link(tarfile.LNKTYPE, f"{FOLDER}/test_batch.bin", "/etc/hostname")]),
    "device": (KIND, [(member(f"{FOLDER}/test_batch.bin", tarfile.CHRTYPE, devmajor=1, devminor=5), b"")]),
    "block device": (KIND, [(member(f"{FOLDER}/test_batch.bin", tarfile.BLKTYPE), b"")]),
    "pipe": (KIND, [(member(f"{FOLDER}/test_batch.bin", tarfile.FIFOTYPE), b"")]),
    "folder as a batch": (KIND, [(member(f"{FOLDER}/test_batch.bin", tarfile.DIRTYPE), b"")]),
    "sparse": (KIND, [(member(f"{FOLDER}/test_batch.bin", tarfile.GNUTYPE_SPARSE), BATCH)]),
    "sparse otherwise": (KIND, [(member(f"{FOLDER}/test_batch.bin", pax_headers=SPARSE_PAX), SPARSE_MAP + BATCH)]),
    "twice": (TWICE, [(member(f"{FOLDER}/test_batch.bin"), BATCH), (member(f"{FOLDER}/test_batch.bin"), BATCH)]),
    "twice a page": (TWICE, [(member(f"{FOLDER}/readme.html"), b"again")]),
    "no whole record": (SIZE, [(member(f"{FOLDER}/test_batch.bin"), BATCH[:-1])]),
    "empty": (SIZE, [(member(f"{FOLDER}/test_batch.bin"), b"")]),
    "a record too many": (SIZE, [(member(f"{FOLDER}/test_batch.bin"), bytes(30_730_000 + 3073))]),
    "a large page": (SIZE, [(member(f"{FOLDER}/batches.meta.txt"), bytes(30_730_001))]),
}


@pytest.mark.parametrize("first", [False, True], ids=["last", "first"])
@pytest.mark.parametrize(("what", "members"), HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_member_is_named_and_nothing_is_written(
    tmp_path: Path, what: str, members: list[tuple[tarfile.TarInfo, bytes]], first: bool
) -> None:
    root = tmp_path / "deep" / "root"
    write(root, {cifar10.ARCHIVE: archive(*members, leave_out=("test_batch.bin",), first=first)})
    before = sorted(tmp_path.rglob("*"))
    says(partial(load_cifar10, root), f"data.root={root}: {cifar10.ARCHIVE}: its member '", what)
    assert sorted(tmp_path.rglob("*")) == before
    assert not Path("/tmp/outside").exists()


def test_cifar10_archive_that_cannot_be_unpacked_leaves_nothing_half(tmp_path: Path) -> None:
    write(tmp_path, {cifar10.ARCHIVE: archive()})
    (tmp_path / FOLDER / "data_batch_1.bin").mkdir(parents=True)  # in the way
    says(partial(load_cifar10, tmp_path), f"{cifar10.ARCHIVE}: it cannot be unpacked here (Is a directory)")
    assert os.listdir(tmp_path / FOLDER) == ["data_batch_1.bin"]


def test_a_member_that_says_it_is_huge_is_refused_before_it_is_read(tmp_path: Path) -> None:
    header = member(f"{FOLDER}/test_batch.bin", size=8 << 30).tobuf(tarfile.GNU_FORMAT)
    write(tmp_path, {cifar10.ARCHIVE: gzip.compress(header)})
    says(partial(load_cifar10, tmp_path), "8,589,934,592 bytes long")


def test_cifar10_archive_that_lacks_files_or_is_damaged(tmp_path: Path) -> None:
    def refused(content: bytes, *parts: str) -> None:
        write(tmp_path, {cifar10.ARCHIVE: content})
        says(partial(load_cifar10, tmp_path), f"data.root={tmp_path}: {cifar10.ARCHIVE}:", *parts)
        assert not any((tmp_path / FOLDER).glob("*"))

    whole = archive()
    missing = ("data_batch_2.bin", "test_batch.bin")
    refused(archive(leave_out=missing), "it lacks data_batch_2.bin, test_batch.bin")
    refused(b"", "not a whole .tar.gz")
    refused(b"<html>not found</html>", "not a whole .tar.gz")
    refused(gzip.compress(b"no tar" * 200), "not a whole .tar.gz")
    for length in [*np.linspace(20, len(whole) - 10, 40).astype(int), len(whole) - 1]:
        refused(whole[:length])
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    refused(bytes(flipped), "not a whole .tar.gz")


def test_cifar10_files_that_are_damaged(tmp_path: Path) -> None:
    for content, what in (
        (b"", "0 bytes are no whole number of records of 3,073"),
        (BATCH[:-1], "12,291 bytes are no whole number"),
        (b"\x0a" + BATCH[1:], "labels up to 10; CIFAR-10 has the classes 0 to 9"),
    ):
        write(tmp_path / FOLDER, {**BATCHES, "data_batch_3.bin": content})
        says(partial(load_cifar10, tmp_path), f"data.root={tmp_path}: data_batch_3.bin: {what}")


# --- arrays --------------------------------------------------------------------------------------------------------

FEATURES = RNG.normal(5.0, 3.0, (50, 4))
CLASSES = np.arange(50) % 3
NUMBERS = RNG.normal(size=(50, 2))


def npz(tmp_path: Path, **held: Any) -> str:
    np.savez(tmp_path / "data.npz", **held)
    return str(tmp_path / "data.npz")


def table(tmp_path: Path, *columns: Any, header: list[str] | None = None, delimiter: str = ",") -> str:
    with open(tmp_path / "data.csv", "w", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerows(([header] if header else []) + list(zip(*columns, strict=True)))
    return str(tmp_path / "data.csv")


def test_npz_classes(tmp_path: Path) -> None:
    data = arrays.load(npz(tmp_path, inputs=FEATURES, targets=CLASSES), standardize=False)
    check_splits(data, torch.from_numpy(FEATURES), torch.from_numpy(CLASSES))
    assert (len(data.train), len(data.val), len(data.test)) == (35, 5, 10)
    assert data.num_classes == 3
    assert data.description == "arrays: data.npz, 50 samples of 4, 3 classes"


def test_npz_regression(tmp_path: Path) -> None:
    data = arrays.load(npz(tmp_path, inputs=FEATURES, targets=NUMBERS), standardize=False)
    check_splits(data, torch.from_numpy(FEATURES), torch.from_numpy(NUMBERS))
    assert isinstance(data.meaning, Numbers)
    assert data.description == "arrays: data.npz, 50 samples of 4, 2 numbers as targets"


def test_the_three_kinds_of_file_hold_the_same(tmp_path: Path) -> None:
    """One set of numbers by four ways. Only tables are split by classes."""
    split = {"stratify": False}
    np.save(tmp_path / "x.npy", FEATURES)
    np.save(tmp_path / "y.npy", CLASSES)
    ways = [
        arrays.load(npz(tmp_path, inputs=FEATURES, targets=CLASSES)),
        arrays.load(str(tmp_path / "x.npy"), targets=str(tmp_path / "y.npy")),
        tables.load(table(tmp_path, *FEATURES.T.tolist(), CLASSES.tolist()), targets=[-1], **split),
        tables.load(
            table(tmp_path, CLASSES.tolist(), *FEATURES.T.tolist(), header=list("kabcd")), targets="k", **split
        ),
    ]
    for data in ways[1:]:
        assert data.num_classes == ways[0].num_classes == 3
        for split in ("train", "val", "test"):
            assert torch.equal(getattr(data, split).inputs, getattr(ways[0], split).inputs)
            assert torch.equal(getattr(data, split).targets, getattr(ways[0], split).targets)


def test_npz_keeps_the_splits_it_has(tmp_path: Path) -> None:
    x = {"inputs": FEATURES[:30], "val_inputs": FEATURES[30:35], "test_inputs": FEATURES[35:]}
    y = {"targets": CLASSES[:30], "val_targets": CLASSES[30:35], "test_targets": CLASSES[35:]}
    data = arrays.load(npz(tmp_path, **x, **y), standardize=False)
    for split, rows_of in (("train", slice(0, 30)), ("val", slice(30, 35)), ("test", slice(35, 50))):
        assert torch.equal(getattr(data, split).inputs, torch.from_numpy(FEATURES[rows_of]))
        assert torch.equal(getattr(data, split).targets, torch.from_numpy(CLASSES[rows_of]))

    for own in ("val", "test"):
        pair = {name: array for name, array in {**x, **y}.items() if name.startswith((own, "inputs", "targets"))}
        data = arrays.load(npz(tmp_path, **pair), standardize=False)
        assert torch.equal(getattr(data, own).inputs, torch.from_numpy(x[f"{own}_inputs"]))
        assert len(data.train) + len(data.val) + len(data.test) == 30 + len(x[f"{own}_inputs"])
        assert min(len(data.train), len(data.val), len(data.test)) > 0


def test_standardized_by_the_training_split_alone(tmp_path: Path) -> None:
    path = npz(tmp_path, inputs=FEATURES * [1, 1e6, 1e-6, 0] + [0, 1e9, 0, 0.1], targets=CLASSES)
    raw, data = arrays.load(path, standardize=False), arrays.load(path)
    assert isinstance(data.train, Samples)
    assert isinstance(data.test, Samples)
    assert isinstance(raw.train, Samples)
    assert isinstance(raw.test, Samples)
    torch.testing.assert_close(data.train.inputs.mean(0), torch.zeros(4).double(), atol=1e-12, rtol=0)
    torch.testing.assert_close(data.train.inputs.std(0, correction=0), torch.tensor([1.0, 1, 1, 0]).double())
    mean, std = raw.train.inputs.mean(0), raw.train.inputs.std(0, correction=0)
    expected = (raw.test.inputs - mean) / std
    torch.testing.assert_close(data.test.inputs[:, :3], expected[:, :3])


def test_a_column_that_is_constant_in_training_is_zero_everywhere(tmp_path: Path) -> None:
    x = np.ones((50, 20)) * RNG.normal(size=20)  # which float32 has to round
    data = arrays.load(npz(tmp_path, inputs=x, targets=CLASSES, test_inputs=x + 7, test_targets=CLASSES))
    for split, count in ((data.train, 45), (data.val, 5), (data.test, 50)):
        assert isinstance(split, Samples)
        assert torch.equal(split.inputs, torch.zeros(count, 20).double())


def test_inputs_of_more_dimensions_share_mean_and_spread(tmp_path: Path) -> None:
    inputs = RNG.normal(3, 2, (50, 3, 4, 4)).astype(np.float32)
    data = arrays.load(npz(tmp_path, inputs=inputs, targets=CLASSES))
    assert isinstance(data.train, Samples)
    assert data.train.inputs.shape == (35, 3, 4, 4)
    assert data.train.inputs.dtype == torch.float32
    assert abs(data.train.inputs.mean()) < 1e-5
    assert abs(data.train.inputs.std(correction=0) - 1) < 1e-5
    assert not data.is_images


KINDS = {np.int64: torch.int64, np.uint8: torch.int64, np.bool_: torch.float32, np.float16: torch.float32}


def test_the_order_in_memory_changes_nothing(tmp_path: Path) -> None:
    """Of columns first, as R and MATLAB write them."""
    for shape in ((50, 4), (50, 3, 5), (50, 2, 3, 4)):
        inputs = RNG.normal(3, 2, shape)
        a = arrays.load(npz(tmp_path, inputs=inputs, targets=CLASSES))
        b = arrays.load(npz(tmp_path, inputs=np.asfortranarray(inputs), targets=CLASSES))
        for split in ("train", "val", "test"):
            assert torch.equal(getattr(a, split).inputs, getattr(b, split).inputs)
        assert abs(float(a.train.inputs.mean())) < 1e-12  # type: ignore[union-attr]


@pytest.mark.parametrize(("kind", "raw"), [*KINDS.items(), ("<f4", torch.float32), (">f8", torch.float64)])
def test_no_kind_of_numbers_loses_digits(tmp_path: Path, kind: Any, raw: torch.dtype) -> None:
    """Whole numbers stay whole unless they are standardised: they may be tokens."""
    path = npz(tmp_path, inputs=RNG.integers(0, 2, (50, 4)).astype(kind), targets=CLASSES)
    data = arrays.load(path, standardize=False)
    assert isinstance(data.train, Samples)
    assert data.train.inputs.dtype == raw
    assert set(data.train.inputs.unique().tolist()) == {0, 1}
    fitted = arrays.load(path).train
    assert isinstance(fitted, Samples)
    assert fitted.inputs.dtype == (torch.float64 if raw == torch.int64 else raw)


def test_one_number_per_row_is_a_column(tmp_path: Path) -> None:
    data = arrays.load(npz(tmp_path, inputs=FEATURES[:, 0], targets=NUMBERS[:, 0]))
    assert isinstance(data.train, Samples)
    assert data.train.inputs.shape == data.train.targets.shape == (35, 1)


@pytest.mark.parametrize(
    ("shape", "order"),
    [((50, 6, 5), None), ((50, 6, 5, 1), (0, 3, 1, 2)), ((50, 6, 5, 3), (0, 3, 1, 2)), ((50, 3, 6, 5), (0, 1, 2, 3))],
)
def test_uint8_arrays_are_images(tmp_path: Path, shape: tuple[int, ...], order: tuple[int, ...] | None) -> None:
    x = RNG.integers(0, 256, shape, dtype=np.uint8)
    data = arrays.load(npz(tmp_path, inputs=x, targets=CLASSES))
    expected = torch.from_numpy(x.transpose(order) if order else x[:, None])
    check_splits(data, expected.contiguous(), torch.from_numpy(CLASSES))
    assert data.is_images


TASKS: list[tuple[Any, str, int | None, int | None, tuple[str, ...]]] = [
    # targets, task, num_classes; then the classes and their names
    (CLASSES, "auto", None, 3, ()),
    (CLASSES, "auto", 5, 5, ()),
    (CLASSES[:, None], "auto", None, 3, ()),
    (CLASSES.astype(np.uint8), "auto", None, 3, ()),
    (CLASSES > 0, "auto", None, 2, ()),
    (CLASSES.astype(float), "auto", None, None, ()),
    (CLASSES.astype(float), "classification", None, 3, ()),
    (CLASSES, "regression", None, None, ()),
    (NUMBERS, "auto", None, None, ()),
    (np.stack([CLASSES, CLASSES], 1), "auto", None, None, ()),
    (np.array(["rose", "iris", "lily"])[CLASSES], "auto", None, 3, ("iris", "lily", "rose")),
]


@pytest.mark.parametrize(("targets", "task", "num_classes", "classes", "names"), TASKS)
def test_task(
    tmp_path: Path, targets: Any, task: str, num_classes: int | None, classes: int | None, names: tuple[str, ...]
) -> None:
    data = arrays.load(npz(tmp_path, inputs=FEATURES, targets=targets), task=task, num_classes=num_classes)
    assert data.num_classes == classes
    assert data.class_names == names
    for split in (data.train, data.val, data.test):
        if classes is None:
            assert split.targets.dtype == torch.float64
            assert split.targets.ndim == 2
        else:
            assert split.targets.dtype == torch.int64
            assert split.targets.ndim == 1


def test_names_of_classes_are_numbered_alike_in_all_splits(tmp_path: Path) -> None:
    names = np.array(["b", "c"] * 25)
    path = npz(tmp_path, inputs=FEATURES, targets=names, test_inputs=FEATURES[:2], test_targets=np.array(["c", "a"]))
    data = arrays.load(path)
    assert data.class_names == ("a", "b", "c")
    assert data.test.targets.tolist() == [2, 0]
    assert set(data.train.targets.tolist()) == {1, 2}


class Bomb:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, ("exploded",)


def test_nothing_is_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    bombs = np.array([Bomb()] * 9, dtype=object)
    np.save("x.npy", bombs, allow_pickle=True)
    np.save("y.npy", CLASSES[:9])
    np.savez("data.npz", inputs=bombs, targets=CLASSES[:9])
    Path("plain.npy").write_bytes(pickle.dumps(Bomb()))
    says(arrays.load, "Python objects, which could run code", path="x.npy", targets="y.npy")
    says(arrays.load, "data.targets=", "Python objects", path="y.npy", targets="x.npy")
    says(arrays.load, "inputs: it holds Python objects", path="data.npz")
    says(arrays.load, "does not begin as an array", path="plain.npy", targets="y.npy")
    assert not Path("exploded").exists()
    os.mkdir("exploded")
    with pytest.raises(FileExistsError):  # the bomb is a real one
        np.load("x.npy", allow_pickle=True)


@pytest.mark.parametrize("kind", [object, bytes])
def test_text_of_another_kind_is_read_as_the_line_says(tmp_path: Path, kind: type) -> None:
    labels = np.array(["cat", "dog"] * 20).astype(kind)
    path = tmp_path / "t.npz"
    np.savez(path, inputs=np.arange(40.0), targets=labels)
    says(arrays.load, "Convert numbers with .astype(float), text with .astype(str).", path=str(path))
    np.savez(path, inputs=np.arange(40.0), targets=labels.astype(str))
    assert arrays.load(str(path)).class_names == ("cat", "dog")


def test_damaged_npy(tmp_path: Path) -> None:
    np.save(tmp_path / "y.npy", CLASSES)
    path = tmp_path / "x.npy"
    np.save(path, FEATURES)
    whole = path.read_bytes()
    load = partial(arrays.load, path=str(path), targets=str(tmp_path / "y.npy"))
    for content, what in (
        (b"", "the file is empty"),
        (b"1,2,3\n", "does not begin as an array"),
        (whole[:60], "does not begin as an array"),
        (whole[:128], "truncated: 128 bytes, its header promises 1,728"),
        (whole[:-1], "truncated: 1,727 bytes, its header promises 1,728"),
        (whole.replace(b"(50, 4)", b"(5, 40)"), "inputs of shape [5, 40] and targets of shape [50]"),
        (whole.replace(b"(50, 4), }    ", b"(50000, 40), }"), "its header promises 16,000,128"),
        (whole[:6] + b"\x09" + whole[7:], "does not begin as an array"),
    ):
        path.write_bytes(content)
        says(load, what)


def test_a_damaged_npy_header_is_never_a_traceback(tmp_path: Path) -> None:
    np.save(tmp_path / "y.npy", CLASSES)
    np.save(tmp_path / "x.npy", FEATURES)
    whole = (tmp_path / "x.npy").read_bytes()
    for _ in range(300):
        changed = bytearray(whole)
        for position in RNG.integers(0, 70, 3):
            changed[position] = RNG.integers(0, 256)
        (tmp_path / "x.npy").write_bytes(changed)
        with contextlib.suppress(UserError):  # it may also be an array still
            arrays.load(str(tmp_path / "x.npy"), targets=str(tmp_path / "y.npy"))


def test_damaged_npz(tmp_path: Path) -> None:
    path = Path(npz(tmp_path, inputs=FEATURES, targets=CLASSES))
    whole = path.read_bytes()
    load = partial(arrays.load, path=str(path))
    for content in (b"", b"text", whole[:10], whole[:-30], whole[: len(whole) // 2]):
        path.write_bytes(content)
        says(load, f"data.path={path}: not a whole .npz")
    place = whole.index(FEATURES.tobytes()[:8]) + 100
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    says(load, "not a whole .npz", "CRC")
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("inputs", "no array")
        file.writestr("targets.npy", "no array")
    says(load, "there is no array inputs; it holds targets")
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("inputs.npy", "no array")
        file.writestr("targets.npy", "no array")
    says(load, "inputs: it does not begin as an array")


def test_npz_with_other_arrays(tmp_path: Path) -> None:
    says(arrays.load, "no array inputs; it holds X, y", path=npz(tmp_path, X=FEATURES, y=CLASSES))
    path = npz(tmp_path, input=FEATURES, targets=CLASSES)
    says(arrays.load, "no array inputs; it holds input, targets. Did you mean input?", path=path)
    path = npz(tmp_path, inputs=FEATURES, targets=CLASSES, val_inputs=FEATURES)
    says(arrays.load, "no array val_targets", path=path)
    path = npz(tmp_path, inputs=FEATURES, targets=CLASSES)
    says(arrays.load, "data.targets=y: an .npz holds its own", path=path, targets="y")


BAD_ARRAYS: dict[str, tuple[dict[str, Any], dict[str, Any], tuple[str, ...]]] = {
    "lengths": ({"targets": CLASSES[1:]}, {}, ("inputs of shape [50, 4] and targets of shape [49]",)),
    "no rows": ({"inputs": FEATURES[:0], "targets": CLASSES[:0]}, {}, ("inputs of shape [0, 4] hold nothing",)),
    "no columns": ({"inputs": FEATURES[:, :0]}, {}, ("inputs of shape [50, 0] hold nothing",)),
    "a single number": ({"inputs": np.float64(1)}, {}, ("inputs of shape []",)),
    "a single target": ({"targets": np.int64(1)}, {}, ("targets of shape []",)),
    "few rows": ({"inputs": FEATURES[:3], "targets": CLASSES[:3]}, {}, ("3 samples are too few to split",)),
    "one row": ({"inputs": FEATURES[:1], "targets": CLASSES[:1]}, {"num_classes": 3}, ("1 samples are too few",)),
    "NaN": (
        {"inputs": np.where(np.arange(200).reshape(50, 4) % 90 == 7, np.nan, FEATURES)},
        {},
        ("3 of the numbers are NaN or infinite, the first in row 1, column 3 (counted from 0) (nan)",),
    ),
    "infinite": (
        {"inputs": np.where(np.arange(200).reshape(50, 4) == 38, np.inf, FEATURES)},
        {},
        ("1 of", "row 9, column 2"),
    ),
    "NaN in val": ({"val_inputs": FEATURES * np.nan, "val_targets": CLASSES}, {}, ("val inputs", "200 of the numbers")),
    "NaN targets": ({"targets": NUMBERS * [1, np.nan]}, {}, ("train targets: 50 of", "row 0, column 1")),
    "NaN classes": ({"targets": NUMBERS[:, 0] * np.nan}, {"task": "classification"}, ("nan in row 0 is no class",)),
    "half classes": ({"targets": CLASSES + 0.5}, {"task": "classification"}, ("0.5 in row 0 is no class",)),
    "ignored labels": ({"targets": np.where(CLASSES, CLASSES, -100)}, {}, ("labels run from -100 to 2", "leave out")),
    "words in one split": (
        {"val_inputs": FEATURES, "val_targets": np.array(["cat", "dog"] * 25)},
        {},
        ("words in one split and numbers in another (train numbers, val words)",),
    ),
    "labels without end": (
        {"targets": np.where(CLASSES, 1e30, 0)},
        {"task": "classification"},
        ("train targets: 1e+30 in row 1 is no class",),
    ),
    "infinite labels": ({"targets": np.where(CLASSES, np.inf, 0)}, {"task": "classification"}, ("inf in row 1 is no",)),
    "labels beyond int64": ({"targets": CLASSES.astype(np.uint64) + np.uint64(2**63)}, {}, ("in row 0 is no class",)),
    "too few classes": ({}, {"num_classes": 2}, ("data.num_classes=2:", "from 0 to 2", "Try data.num_classes=3")),
    "too few classes for val": (
        {"val_inputs": FEATURES, "val_targets": CLASSES + 1},
        {"num_classes": 3},
        ("data.num_classes=3:", "from 0 to 3"),
    ),
    "no classes": ({}, {"num_classes": 0}, ("data.num_classes=0:",)),
    "prices": (
        {"targets": np.arange(50) * 40},
        {},
        ("labels up to 1,960 in 50 rows", "Try data.task=regression, or data.num_classes=50"),
    ),
    "classes of numbers": ({"targets": NUMBERS}, {"num_classes": 3}, ("data.num_classes=3:", "regress on")),
    "two columns of classes": (
        {"targets": np.stack([CLASSES, CLASSES], 1)},
        {"task": "classification"},
        ("2 columns of targets", "Try data.task=regression"),
    ),
    "cubes of classes": (
        {"targets": np.zeros((50, 2, 2))},
        {"task": "classification"},
        ("targets of shape train [N, 2, 2]", "with data.task=regression also [N, ...]"),
    ),
    "targets of two widths": (
        {"targets": NUMBERS, "test_inputs": FEATURES, "test_targets": NUMBERS[:, :1]},
        {},
        ("train [N, 2], test [N, 1]",),
    ),
    "samples of two shapes": (
        {"test_inputs": FEATURES[:, :2], "test_targets": CLASSES},
        {},
        ("train [4], test [2]", "alike in all splits"),
    ),
    "texts as inputs": ({"inputs": FEATURES.astype(str)}, {}, ("train inputs are text",)),
    "texts to regress on": ({"targets": CLASSES.astype(str)}, {"task": "regression"}, ("train targets are text",)),
    "complex": ({"inputs": FEATURES * 1j}, {}, ("it holds complex128",)),
    "dates": ({"inputs": FEATURES.astype("datetime64[s]")}, {}, ("it holds datetime64[s]",)),
    "images of four channels": (
        {"inputs": np.zeros((50, 6, 5, 4), np.uint8)},
        {},
        ("uint8 inputs of shape [50, 6, 5, 4]", "[N, H, W, C]"),
    ),
}


@pytest.mark.parametrize(("held", "arguments", "parts"), BAD_ARRAYS.values(), ids=BAD_ARRAYS.keys())
def test_bad_arrays(tmp_path: Path, held: dict[str, Any], arguments: dict[str, Any], parts: tuple[str, ...]) -> None:
    path = npz(tmp_path, **{"inputs": FEATURES, "targets": CLASSES, **held})
    says(arrays.load, *parts, path=path, **arguments)


def test_files_of_another_kind(tmp_path: Path) -> None:
    says(arrays.load, "data.path=null: no path was given", path=None)
    says(arrays.load, "there is no", path=str(tmp_path / "data.npz"))
    says(arrays.load, "accepted are .npz, .npy or a table (.csv, ", "data=image_folder", path=str(tmp_path))
    (tmp_path / "data.xlsx").touch()
    says(arrays.load, ".xlsx is not read", path=str(tmp_path / "data.xlsx"))
    for suffix in (".csv", ".npz", ".npy"):
        (tmp_path / f"folder{suffix}").mkdir()
        path = str(tmp_path / f"folder{suffix}")
        says(arrays.load, "Is a directory", path=path, targets=path if suffix == ".npy" else None)
    np.save(tmp_path / "x.npy", FEATURES)
    for targets in (None, "y.txt", 3):
        says(arrays.load, f"data.targets={targets or 'null'}:", ".npy", path=str(tmp_path / "x.npy"), targets=targets)
    says(arrays.load, "data.targets=", "there is no", path=str(tmp_path / "x.npy"), targets=str(tmp_path / "gone.npy"))


# --- image folder --------------------------------------------------------------------------------------------------

COLOURS = {"blue": (10, 20, 250), "green": (10, 250, 20), "red": (250, 20, 10)}


def picture(
    path: Path, colour: Any = (10, 20, 30), size: tuple[int, int] = (12, 9), mode: str = "RGB", **save: Any
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path, **save)


def pictures(root: Path, per_class: int = 10) -> Path:
    for name, colour in COLOURS.items():
        for i in range(per_class):
            picture(root / name / f"{i}.png", (*colour[:2], colour[2] - i), size=(12 + i, 9))
    return root


def test_images_lie_in_a_folder_per_class(tmp_path: Path) -> None:
    data = image_folder.load(str(pictures(tmp_path)))
    assert data.class_names == ("blue", "green", "red")
    assert data.num_classes == 3
    assert (len(data.train), len(data.val), len(data.test)) == (21, 3, 6)
    assert data.num_workers == 2
    assert data.is_images
    assert f"{tmp_path}, 30 images, 3 classes" in data.description
    seen = set()
    for split in (data.train, data.val, data.test):
        assert isinstance(split, image_folder.FolderImages)
        split.channels, split.image_size = 3, 8
        for i in range(len(split)):
            image, label = split[i]
            assert image.dtype == torch.uint8
            assert image.shape == (3, 8, 8)
            assert int(image.float().mean((1, 2)).argmax()) == (2, 1, 0)[label] == (2, 1, 0)[split.targets[i]]
            seen.add(split.paths[i])
    assert len(seen) == 30
    again = image_folder.load(str(tmp_path)).val
    assert isinstance(again, image_folder.FolderImages)
    assert isinstance(data.val, image_folder.FolderImages)
    assert again.paths == data.val.paths
    assert again.paths != image_folder.load(str(tmp_path), split_seed=1).val.paths


@pytest.mark.parametrize("val", ["val", "valid", "validation"])
def test_images_lie_in_folders_of_splits(tmp_path: Path, val: str) -> None:
    for split, count in (("train", 3), (val, 2), ("test", 1)):
        pictures(tmp_path / split, count)
    data = image_folder.load(str(tmp_path))
    for split, name, count in ((data.train, "train", 3), (data.val, val, 2), (data.test, "test", 1)):
        assert isinstance(split, image_folder.FolderImages)
        assert split.paths == tuple(
            str(tmp_path / name / label / f"{i}.png") for label in sorted(COLOURS) for i in range(count)
        )
        assert split.targets.tolist() == [label for label in range(3) for _ in range(count)]


def test_a_split_without_a_folder_is_taken_from_training(tmp_path: Path) -> None:
    pictures(tmp_path / "train", 10)
    pictures(tmp_path / "test", 2)
    data = image_folder.load(str(tmp_path))
    assert (len(data.train), len(data.val), len(data.test)) == (27, 3, 6)


def test_what_is_no_image_by_its_name_is_passed_over(tmp_path: Path) -> None:
    root = pictures(tmp_path, 2)
    (root / "red" / "notes.txt").write_text("not an image")
    (root / "red" / "._0.png").write_text("not an image")
    (root / ".cache" / "red").mkdir(parents=True)
    (root / "red" / ".thumbs").mkdir()
    (root / "red" / ".thumbs" / "0.png").write_text("not an image")
    picture(root / "red" / "deeper" / "still" / "one.PNG")
    (root / "readme.txt").touch()
    data = image_folder.load(str(root), val_fraction=0.2)
    assert len(data.train) + len(data.val) + len(data.test) == 7


def one(path: Path, channels: int = 3, image_size: int = 8) -> Tensor:
    files = image_folder.FolderImages([str(path)], torch.tensor([0]))
    files.channels, files.image_size = channels, image_size
    return files[0][0]


def test_the_shorter_side_fits_and_the_middle_stays(tmp_path: Path) -> None:
    """As Pillow has it, one level apart at most, of which there are 256."""
    for size, box in (((36, 12), (12, 0, 24, 12)), ((12, 36), (0, 12, 12, 24)), ((13, 12), (0, 0, 12, 12))):
        image = Image.fromarray(RNG.integers(0, 256, (*size[::-1], 3), dtype=np.uint8))
        image.save(tmp_path / "image.png")
        expected = np.array(image.crop(box).resize((6, 6), Image.Resampling.BILINEAR))
        difference = one(tmp_path / "image.png", image_size=6).int() - torch.from_numpy(expected).permute(2, 0, 1)
        assert difference.abs().max() <= 1
        assert one(tmp_path / "image.png", image_size=50).shape == (3, 50, 50)


def test_an_image_of_the_right_size_keeps_its_pixels(tmp_path: Path) -> None:
    pixels = RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    assert torch.equal(one(tmp_path / "image.png"), torch.from_numpy(pixels).permute(2, 0, 1))


def test_shrinking_averages(tmp_path: Path) -> None:
    board = np.indices((64, 64)).sum(0).astype(np.uint8) % 2 * 200
    Image.fromarray(board).save(tmp_path / "board.png")
    shrunk = one(tmp_path / "board.png", channels=1).float()
    torch.testing.assert_close(shrunk, torch.full((1, 8, 8), 100.0), atol=2, rtol=0)


GREY = {
    "L": 100,
    "LA": (100, 7),
    "RGB": (100, 100, 100),
    "RGBA": (100, 100, 100, 7),
    "I;16": 100 << 8,
    "P": 100,
    "1": 1,
}


@pytest.mark.parametrize("mode", GREY)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_becomes_grey_or_colour(tmp_path: Path, mode: str, channels: int) -> None:
    image = Image.new(mode, (9, 9), GREY[mode])
    if mode == "P":
        image.putpalette([i for i in range(256) for _ in range(3)])
        image.save(tmp_path / "image.png", transparency=bytes(range(256)))
    else:
        image.save(tmp_path / "image.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels = one(tmp_path / "image.png", channels)
    assert pixels.shape == (channels, 8, 8)
    opaque = {"LA": 7, "RGBA": 7, "P": 100}.get(mode, 255) / 255  # the rest is the white behind it
    (level,) = pixels.unique().tolist()
    assert level == 255 if mode == "1" else abs(level - (255 + (100 - 255) * opaque)) <= 1


@pytest.mark.parametrize("suffix", image_folder.SUFFIXES)
def test_every_accepted_name_is_an_accepted_format(tmp_path: Path, suffix: str) -> None:
    picture(tmp_path / f"image{suffix}", 100, mode="L")
    assert (one(tmp_path / f"image{suffix}").float() - 100).abs().max() <= 2


def test_a_photograph_is_turned_upright(tmp_path: Path) -> None:
    left_dark = np.full((8, 8), 250, np.uint8)
    left_dark[:, :4] = 5
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it rotated by 90 degrees clockwise
    Image.fromarray(left_dark).save(tmp_path / "photo.jpg", exif=exif, quality=95)
    upright = one(tmp_path / "photo.jpg", channels=1)[0].float()
    assert upright[:4].max() < 60 < 200 < upright[4:].min()


def test_a_large_jpeg_is_decoded_small_and_looks_alike(tmp_path: Path) -> None:
    noise = Image.fromarray(RNG.integers(0, 256, (30, 40, 3), dtype=np.uint8)).resize(
        (800, 640), Image.Resampling.BICUBIC
    )
    noise.save(tmp_path / "photo.jpg", quality=95)
    noise.save(tmp_path / "photo.png")
    difference = (one(tmp_path / "photo.jpg", image_size=32).float() - one(tmp_path / "photo.png", image_size=32)).abs()
    assert difference.mean() < 2


def damaged(tmp_path: Path) -> dict[str, bytes]:
    picture(tmp_path / "made" / "image.png", size=(40, 40))
    Image.fromarray(RNG.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(tmp_path / "made" / "image.jpg")
    whole = {suffix: (tmp_path / "made" / f"image{suffix}").read_bytes() for suffix in (".png", ".jpg")}
    return {
        "empty.png": b"",
        "text.jpg": b"<html>not found</html>",
        "cut.png": whole[".png"][: len(whole[".png"]) // 2],
        "cut.jpg": whole[".jpg"][: len(whole[".jpg"]) // 2],
        "damaged.png": whole[".png"].replace(b"IDAT", b"IDAT\xff\xff"),
        "script.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n",
    }


def test_damaged_image_is_named(tmp_path: Path) -> None:
    for name, content in damaged(tmp_path).items():
        (tmp_path / name).write_bytes(content)
        says(one, f"data.root: {tmp_path / name} is not a whole image (", path=tmp_path / name)
    # EPS is a program: Pillow would start another one to run it, so it must not even be recognised.
    says(one, "cannot identify image file", path=tmp_path / "script.png")
    says(one, f"{tmp_path / 'gone.png'} is not a whole image", "No such file", path=tmp_path / "gone.png")
    Image.new("F", (9, 9), 0.5).save(tmp_path / "floats.tif")
    says(one, "grey levels of 32 bits", path=tmp_path / "floats.tif")


@pytest.mark.slow
def test_a_worker_s_damaged_image_is_one_line_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also that the split reaches a process started afresh, and that what it sends back is right."""
    for i in range(4):
        picture(tmp_path / f"{i}.png", (i, i, i))
    (tmp_path / "4.png").write_bytes(b"no image")
    files = image_folder.FolderImages([str(tmp_path / f"{i}.png") for i in range(5)], torch.arange(5))
    files.channels, files.image_size = 1, 4
    monkeypatch.setattr(loader, "METHOD", "spawn")
    batches = LoadedBatches(files, torch.device("cpu"), lambda x: x)._load([torch.arange(4), torch.tensor([4])], 1)
    images, targets = next(batches)
    assert torch.equal(images, torch.arange(4, dtype=torch.uint8).view(4, 1, 1, 1).expand(4, 1, 4, 4))
    assert targets.tolist() == [0, 1, 2, 3]
    message = says(lambda: next(batches), f"{tmp_path / '4.png'} is not a whole image")
    assert message.startswith("data.root: ")
    assert message == says(one, path=tmp_path / "4.png")


def test_folders_that_hold_no_classes(tmp_path: Path) -> None:
    load = image_folder.load
    says(load, "data.root=null: no path was given", root=None)
    says(load, "there is no", root=str(tmp_path / "gone"))
    says(load, "there is no folder in it", root=str(tmp_path))
    (tmp_path / "file").touch()
    says(load, "Not a directory", root=str(tmp_path / "file"))
    (tmp_path / "red").mkdir()
    says(load, f"there is no image in {tmp_path / 'red'}; accepted are .jpg", root=str(tmp_path))
    (tmp_path / "train").mkdir()
    says(load, "beside train there is red; accepted are train, val and test", root=str(tmp_path))
    (tmp_path / "red").rmdir()
    says(load, f"there is no folder of a class in {tmp_path / 'train'}", root=str(tmp_path))
    pictures(tmp_path / "train", 4)
    (tmp_path / "val").mkdir()
    says(load, f"there is no folder of a class in {tmp_path / 'val'}", root=str(tmp_path))
    picture(tmp_path / "val/unlabelled.png")
    says(load, "or move val elsewhere and type train predict RUN", root=str(tmp_path))
    picture(tmp_path / "val" / "yellow" / "0.png")
    says(load, f"{tmp_path / 'val' / 'yellow'} is a class that the training images lack", root=str(tmp_path))


def test_too_few_images(tmp_path: Path) -> None:
    says(image_folder.load, "3 samples are too few to split", root=str(pictures(tmp_path, 1)))
