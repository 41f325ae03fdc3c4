"""What several test files need: the command in this process and as one of its own, and samples of every source."""

import os

# As the command does, before NumPy is there: its threads and torch's would wait for each other.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import gzip
import io
import json
import struct
import subprocess
import sys
import tarfile
import threading
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from PIL import Image

from trainer.command import imports
from trainer.command import main as cli

# The same examples each time, whatever else keeps the machine busy; nothing is written beside the tests.
hypothesis.settings.register_profile("here", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("here")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--sample", type=int, default=1, metavar="N", help="one in N of the tests, others every day")


def pytest_configure(config: pytest.Config) -> None:
    os.environ.setdefault("TRAIN_TEST_DAY", date.today().isoformat())  # once for all workers, at midnight, too
    if hasattr(config, "workerinput") or not config.getoption("numprocesses"):  # who hands out the tests runs none
        import torch

        torch.set_num_threads(1)  # two pytest workers share two cores


@pytest.hookimpl(trylast=True)  # after -m and -k
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    share = config.getoption("--sample")
    if share > 1:
        day = os.environ["TRAIN_TEST_DAY"]
        taken = [item for item in items if zlib.crc32(f"{day} {item.nodeid}".encode()) % share == 0]
        config.hook.pytest_deselected(items=[item for item in items if item not in taken])
        items[:] = taken


@pytest.fixture(autouse=True, scope="session")
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing is kept in the cache folder of whoever runs the tests, or found there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def own_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that is called in here leaves the collector of garbage alone, and so do all that come after it."""
    monkeypatch.setattr(imports.Own, "process", False)


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """`train("model=lenet", ...)` runs in an empty folder, in this process, and gives what `result.json` holds.

    Raises what the command would turn into an exit code: UserError, RunStopped.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")

    def run(*words: str) -> dict[str, Any]:
        before = set(tmp_path.rglob("result.json"))
        assert cli.run_command(list(words)) == 0
        new = [p for p in tmp_path.rglob("result.json") if p not in before]
        path = new[0] if new else max(before, key=lambda p: p.stat().st_mtime_ns)
        result: dict[str, Any] = json.loads(path.read_text())
        return result

    return run


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`command("model=lenet", ...)` runs `python -m trainer` as a process of its own, in an empty folder."""

    def run(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "PYTHONWARNINGS": "error", "OMP_NUM_THREADS": "1", **options.pop("env", {})}
        return subprocess.run(
            [sys.executable, "-m", "trainer", *words],
            cwd=options.pop("cwd", tmp_path),
            env=env,
            capture_output=True,
            text=True,
            timeout=600,
            **options,
        )

    return run


@pytest.fixture(scope="session")
def tensorboard() -> Callable[[Path], AbstractContextManager[Callable[..., Any]]]:
    """`with tensorboard(folder) as get:` serves the folder's runs on the loopback; see `get` for asking it."""

    @contextmanager
    def serve(folder: Path) -> Iterator[Callable[..., Any]]:
        command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder), "--load_fast=false"]
        command += ["--host=127.0.0.1", "--port=0", "--reload_interval=1"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
            assert server.stderr is not None
            line = next(line for line in server.stderr if "http://" in line)  # TensorBoard 2.21.0 at http://... (Press
            rest = threading.Thread(target=server.stderr.read)  # so that it can go on writing there
            rest.start()
            address = line.split(" at ")[1].split()[0].rstrip("/")

            def get(path: str, body: object = None) -> Any:
                """What the http API gives for a path: an object where it is JSON, else bytes; `body` is posted."""
                data = None if body is None else json.dumps(body).encode()
                request = urllib.request.Request(f"{address}/data/{path}", data, {"Content-Type": "application/json"})
                with urllib.request.urlopen(request, timeout=20) as reply:
                    content = reply.read()
                return json.loads(content) if reply.headers["Content-Type"].startswith("application/json") else content

            try:
                yield get
            finally:
                server.kill()
                rest.join()

    return serve


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, ...]]:
    """A few samples of every source as files, and the words that name them."""
    root = tmp_path_factory.mktemp("sources")
    draw = np.random.default_rng(0)

    def classes(n: int) -> np.ndarray:
        return np.arange(n, dtype=np.uint8) % 10

    for part, n in (("train", 48), ("t10k", 12)):
        images = draw.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        for kind, magic, array in (("images-idx3", 2051, images), ("labels-idx1", 2049, classes(n))):
            header = struct.pack(f">{1 + array.ndim}i", magic, *array.shape)
            (root / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(header + array.tobytes()))
    with tarfile.open(root / "cifar-10-binary.tar.gz", "w:gz") as archive:
        for name in [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]:
            pixels = draw.integers(0, 256, (10, 3072), dtype=np.uint8)
            record = np.concatenate([classes(10)[:, None], pixels], axis=1).tobytes()
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(record)
            archive.addfile(member, io.BytesIO(record))
        names = b"airplane\nautomobile\nbird\ncat\ndeer\ndog\nfrog\nhorse\nship\ntruck\n"
        member = tarfile.TarInfo("cifar-10-batches-bin/batches.meta.txt")
        member.size = len(names)
        archive.addfile(member, io.BytesIO(names))
    np.savez(root / "mine.npz", inputs=draw.normal(size=(60, 6)).astype(np.float32), targets=np.arange(60) % 3)
    for name in ("cat", "dog"):
        for i in range(12):
            folder = root / "folder" / name
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    listed = [f"folder/{name}/{i}.png,{name}" for name in ("cat", "dog") for i in range(12)]
    (root / "labels.csv").write_text("\n".join(["file,label", *listed]))
    cells = [f"{draw.normal():.3f},{('red', 'blue', '')[i % 3]},{i % 7 or ''},k{i % 3}" for i in range(60)]
    (root / "mine.csv").write_text("\n".join(["size,colour,count,kind", *cells]))
    idx = (f"data.root={root}", "data.limit=40")
    return {
        "digits": ("data.limit=40",),
        "mnist": idx,
        "fashion_mnist": idx,
        "cifar10": idx,
        "random_regression": (),
        "arrays": (f"data.path={root / 'mine.npz'}",),
        "table": (f"data.path={root / 'mine.csv'}", "data.targets=[kind]"),
        "image_folder": (f"data.root={root / 'folder'}", "data.num_workers=0", "data.image_size=32"),
        "image_table": (
            f"data.path={root / 'labels.csv'}",
            "data.targets=[label]",
            "data.num_workers=0",
            "data.image_size=32",
        ),
    }
