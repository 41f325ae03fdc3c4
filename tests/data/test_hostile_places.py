"""A stranger's config says whom to ask for data and where to write it: nobody is asked, and nothing is written.

The config lies in the folder of a run that goes on, or in a folder of configs. What was typed, and what the package
says, is done.
"""

import hashlib
import shlex
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from trainer.config.shipped import CONFIGS, not_asked_for
from trainer.disk.files import cache_folder
from trainer.errors import UserError

Train = Callable[..., dict[str, Any]]
Command = Callable[..., subprocess.CompletedProcess[str]]
IDX = [f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
SMALL = ("model=two_layer", "monitor=off", "max_steps=1")


class Server:
    """Serves a folder on this machine's own address, and remembers what it was asked for."""

    def __init__(self, folder: Path) -> None:
        self.asked: list[str] = []
        asked = self.asked

        class Handler(SimpleHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                asked.append(self.path)

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


@pytest.fixture
def theirs(sources: dict[str, tuple[str, ...]]) -> Iterator[Server]:
    server = Server(root_of(sources))
    yield server
    server.http.shutdown()
    server.http.server_close()


def root_of(sources: dict[str, tuple[str, ...]]) -> Path:
    return Path(sources["mnist"][0].removeprefix("data.root="))


@pytest.fixture
def places(theirs: Server, tmp_path: Path, sources: dict[str, tuple[str, ...]]) -> dict[str, dict[str, Any]]:
    """By source, what a stranger would have a machine do: ask them, and keep it elsewhere."""
    sums = {n: f"sha256:{hashlib.sha256((root_of(sources) / f'{n}.gz').read_bytes()).hexdigest()}" for n in IDX}
    archive = (root_of(sources) / "cifar-10-binary.tar.gz").read_bytes()
    elsewhere = {"root": str(tmp_path / "elsewhere, of mine"), "urls": [theirs.url]}
    return {
        "mnist": {**elsewhere, "checksums": sums},
        "cifar10": {**elsewhere, "checksum": f"sha256:{hashlib.sha256(archive).hexdigest()}"},
    }


def send(train: Train, source: str, sources: dict[str, tuple[str, ...]], places: dict[str, Any]) -> None:
    """A run of that source, as somebody sent it, with those places in its config."""
    train(f"data={source}", *sources[source], *SMALL, "name=it")
    path = Path("runs/it/config.yaml")
    config = yaml.safe_load(path.read_text())
    config["data"] |= places
    path.write_text(yaml.safe_dump(config))


def all_of(folder: Path) -> set[str]:
    return {str(path) for path in [*folder.rglob("*"), *cache_folder("").parent.rglob("*")]}


def refusal(train: Train, *words: str) -> str:
    """The line that refuses it; nothing has been written."""
    before = all_of(Path.cwd())
    with pytest.raises(UserError) as caught:
        train(*words)
    assert "\n" not in str(caught.value)
    assert all_of(Path.cwd()) == before
    return str(caught.value)


def added(line: str) -> list[str]:
    """The words that a line says to add."""
    return shlex.split(line.partition("If you trust it, add ")[2])


@pytest.mark.parametrize("source", ["mnist", "cifar10"])
def test_a_run_that_somebody_sent_fetches_nothing_until_that_is_typed(
    source: str, train: Train, theirs: Server, places: dict[str, Any], sources: dict[str, tuple[str, ...]]
) -> None:
    send(train, source, sources, places[source])
    line = refusal(train, "resume=runs/it", "max_steps=2")
    assert theirs.asked == []
    assert train("resume=runs/it", "max_steps=2", *added(line))["steps"] == 2
    assert theirs.asked
    assert list(Path("elsewhere, of mine").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("source", ["mnist", "cifar10"])
def test_nor_does_a_folder_of_configs(
    source: str,
    train: Train,
    command: Command,
    theirs: Server,
    places: dict[str, Any],
    sources: dict[str, tuple[str, ...]],
) -> None:
    Path("conf/data").mkdir(parents=True)
    option = {"defaults": [source], **places[source], "limit": 40}
    Path("conf/data/theirs.yaml").write_text(yaml.safe_dump(option, sort_keys=False))
    words = ("--config-dir=conf", "data=theirs", *SMALL)
    line = refusal(train, *words)
    before = all_of(Path.cwd())
    assert command("--multirun", *words, "seed=0,1").stderr == f"error: job seed=0: {line}\n"
    assert all_of(Path.cwd()) == before
    assert theirs.asked == []
    assert train(*words, *added(line))["steps"] == 1
    assert theirs.asked


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"root": "elsewhere"}, ["data.root=elsewhere"]),
        ({"urls": ["https://example.org/a,b"]}, ['data.urls=["https://example.org/a,b"]']),
        # The user's own MNIST would be spoilt for all runs to come, or the features of other runs.
        ({"name": "fashion_mnist"}, ["data.name=fashion_mnist"]),
        ({"name": "features"}, ["data.name=features"]),
        ({"checksums": {"train-images-idx3-ubyte": "md5:" + 32 * "0"}}, ["data.checksums={train-images-idx3-ubyte:"]),
    ],
)
def test_each_of_the_keys_is_typed(
    change: dict[str, Any], words: list[str], train: Train, sources: dict[str, tuple[str, ...]]
) -> None:
    send(train, "mnist", sources, {"root": None, **change})
    line = refusal(train, "resume=runs/it", "max_steps=2")
    assert [word[: len(wanted)] for word, wanted in zip(added(line), words, strict=True)] == words


def test_an_archive_is_not_unpacked_where_a_stranger_says(
    train: Train, sources: dict[str, tuple[str, ...]], tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    send(train, "cifar10", sources, {"root": str(tmp_path / "elsewhere")})
    shutil.copy(root_of(sources) / "cifar-10-binary.tar.gz", "elsewhere")
    line = refusal(train, "resume=runs/it", "max_steps=2")
    assert train("resume=runs/it", "max_steps=2", *added(line))["steps"] == 2


def test_files_that_lie_there_are_read_for_whoever_goes_on(train: Train, sources: dict[str, tuple[str, ...]]) -> None:
    train("data=mnist", *sources["mnist"], *SMALL, "name=it")
    assert train("resume=runs/it", "max_steps=2")["steps"] == 2


def test_what_the_package_says_and_what_was_typed_is_done() -> None:
    mnist = yaml.safe_load((CONFIGS / "data/mnist.yaml").read_text())
    assert not_asked_for(mnist, []) == ""
    assert not_asked_for({**mnist, "root": "x"}, ["data.root"]) == ""
    assert not_asked_for({**mnist, "checksums": {}}, ["data.checksums.train-images-idx3-ubyte"]) == ""
    assert not_asked_for({**mnist, "root": "x"}, ["data", "model.root"]) == "data.root=x"
    assert not_asked_for({"_target_": "mine.data", "root": "x"}, []) == ""  # it is trusted to do what it likes
