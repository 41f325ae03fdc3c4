"""`data.cache`: decoded pictures on the disk change no number, whoever fills them and however it ends."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ranks import ended, ranks
from trainer.data import image_files, kept_pictures
from trainer.data.batches import LoadedBatches
from trainer.data.image_files import FolderImages
from trainer.disk.slots import ENDING

COUNT, SIDE = 24, 16
MODEL = ("model=two_layer", "batch_size=8", "max_epochs=2", "monitor=off", "test=last")
AUGMENTED = ("data.augment.crop_padding=2", "data.augment.horizontal_flip=true")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pictures of two classes, and a cache folder that nobody else uses."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(kept_pictures, "SETTLED", 0)
    rng = np.random.default_rng(0)
    for i in range(COUNT):
        path = tmp_path / "pictures" / ("cat", "dog")[i % 2] / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 30, 3), dtype=np.uint8)).save(path)
    return tmp_path / "pictures"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Gets the path of each file that is decoded in this process."""
    found: list[str] = []
    read_picture = image_files.read_picture

    def counted(path: Any, *how: Any) -> torch.Tensor:
        found.append(str(path))
        return read_picture(path, *how)

    monkeypatch.setattr(image_files, "read_picture", counted)
    return found


def files(root: Path, cache: str | None = "1GB", side: int = SIDE) -> FolderImages:
    paths = sorted(map(str, root.rglob("*.jpg")))
    found = FolderImages(paths, torch.zeros(len(paths)))
    found.image_size = side
    found.keep(cache)
    return found


def pictures(files: FolderImages) -> torch.Tensor:
    return torch.stack([files[i][0] for i in range(len(files))])


def store(root: Path) -> list[Path]:
    return list((root.parent / "cache" / "train" / "pictures").glob(f"*{ENDING}"))


def numbers(result: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in result.items() if key.startswith(("train/", "val/", "test/"))}


def result_in(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return found


def test_a_run_comes_to_the_same_numbers(root: Path, train: Callable[..., dict[str, Any]], decoded: list[str]) -> None:
    words = ("data=image_folder", f"data.root={root}", f"data.image_size={SIDE}", *MODEL, *AUGMENTED)
    alone = (*words, "data.num_workers=0")
    plain = numbers(train(*alone))
    train(*alone, "data.cache=1GB", "dry_run=true")
    assert not store(root)
    decoded.clear()
    first = numbers(train(*alone, "data.cache=1GB"))
    assert sorted(decoded) == sorted(map(str, root.rglob("*.jpg")))  # each once
    decoded.clear()
    second = numbers(train(*alone, "data.cache=1GB"))
    assert not decoded
    with_workers = numbers(train(*words, "data.num_workers=2", "data.cache=1GB"))
    train(*alone, "max_epochs=1", "name=continued")
    continued = numbers(train(*alone, "name=continued", "data.cache=1GB"))  # a run may begin without it
    assert plain == first == second == with_workers
    assert plain.items() <= continued.items()  # which was tested at its first end, too
    assert len(store(root)) == 1


def test_workers_read_until_all_is_kept_and_a_thread_from_then_on(root: Path) -> None:
    def epochs(files: FolderImages) -> Iterator[tuple[torch.Tensor, bool]]:
        """The pictures of each epoch, and whether workers read them."""
        batches = LoadedBatches(files, torch.device("cpu"), torch.Tensor.float, num_workers=2).training(8, 0, 2)
        for num_batches in (COUNT // 8 - 1, COUNT // 8, COUNT // 8):  # a run that continues in its first epoch
            found = [next(batches).inputs for _ in range(num_batches)]
            yield torch.cat(found), bool(active_children())
        batches.close()  # type: ignore[attr-defined]

    plain = [pictures for pictures, _ in epochs(files(root, None))]
    for whose in ([True, True, False], [False, False, False]):
        for expected, (found, is_by_workers) in zip(plain, epochs(files(root)), strict=True):
            assert torch.equal(found, expected)
            assert is_by_workers == whose.pop(0)
    (root / "cat" / "0.jpg").write_bytes((root / "dog" / "1.jpg").read_bytes())  # is decoded again
    plain = [pictures for pictures, _ in epochs(files(root, None))]
    assert all(torch.equal(found, expected) for expected, (found, _) in zip(plain, epochs(files(root)), strict=True))


def test_a_table_of_pictures_is_kept_once_for_each_file(
    root: Path, train: Callable[..., dict[str, Any]], decoded: list[str]
) -> None:
    lines = [f"{path.relative_to(root)},{path.parent.name}" for path in sorted(root.rglob("*.jpg"))]
    (root / "labels.csv").write_text("\n".join(["file,label", *lines, *lines]))
    words = ("data=image_table", f"data.path={root / 'labels.csv'}", "data.targets=[label]", *MODEL)
    words = (*words, f"data.image_size={SIDE}", "data.num_workers=0", "max_epochs=1")
    plain = numbers(train(*words))
    decoded.clear()
    assert numbers(train(*words, "data.cache=1GB")) == plain
    assert len(decoded) == len(lines)


def test_other_sizes_and_grounds_have_files_of_their_own(root: Path) -> None:
    for side in (SIDE, 2 * SIDE):
        assert torch.equal(pictures(files(root, side=side)), pictures(files(root, None, side)))
    grey = files(root)
    grey.channels = 1
    assert pictures(grey).shape == (COUNT, 1, SIDE, SIDE)
    black = FolderImages(grey.paths, grey.targets, "black")
    black.image_size = SIDE
    black.keep("1GB")
    pictures(black)
    assert len(store(root)) == 4


def test_a_picture_that_changes_is_decoded_again(root: Path, decoded: list[str]) -> None:
    pictures(files(root))
    path = root / "cat" / "0.jpg"
    before, times = path.read_bytes(), (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    middle = len(before) // 2
    changed = bytes([*before[:middle], before[middle] ^ 1, *before[middle + 1 :]])
    with open(path, "r+b") as file:  # of the same size, with the same number
        file.write(changed)
    os.utime(path, ns=times)  # and the same time, as far as programs set it
    decoded.clear()
    assert torch.equal(pictures(files(root)), pictures(files(root, None)))
    assert decoded == [str(path), *map(str, sorted(root.rglob("*.jpg")))]


def test_a_picture_that_has_just_been_written_is_not_kept(
    root: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be written again within the same tick of the clock."""
    monkeypatch.setattr(kept_pictures, "SETTLED", 1000)
    for _ in range(2):
        decoded.clear()
        pictures(files(root))
        assert len(decoded) == COUNT


@pytest.mark.parametrize("year", [1902, 2106, 2400])
def test_a_picture_is_kept_whatever_its_time(year: int, root: Path, decoded: list[str]) -> None:
    """A camera's clock may be wrong, and that of this machine may have been set back since."""
    seconds = round((year - 1970) * 365.2425 * 86_400)
    for path in root.rglob("*.jpg"):
        os.utime(path, (seconds, seconds))
    first = pictures(files(root))
    decoded.clear()
    assert torch.equal(pictures(files(root)), first)
    assert decoded == []


def test_a_limit_and_a_folder_of_others_are_said_in_a_line(
    root: Path, train: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("data=image_folder", f"data.root={root}", f"data.image_size={SIDE}", *MODEL, "data.num_workers=0")
    plain = numbers(train(*words))
    assert numbers(train(*words, "data.cache=10kB")) == plain
    said = " ".join(capsys.readouterr().out.split())
    assert "data.cache: not all pictures are kept: all need 19,008 bytes, and the limit is 10,000. The others" in said
    assert store(root)[0].stat().st_size <= 10_000
    shutil.rmtree(root.parent / "cache")
    (root.parent / "cache" / "train" / "pictures").mkdir(parents=True)
    (root.parent / "cache" / "train" / "pictures").chmod(0o777)
    assert numbers(train(*words, "data.cache=1GB")) == plain
    assert "other users can write to" in capsys.readouterr().out
    assert not store(root)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # of Python 3.12 on: beside torch's threads
def test_two_that_fill_it_are_killed_half_way_and_no_half_picture_is_read(root: Path) -> None:
    plain, side = pictures(files(root, None, 200)), 200
    for delay in (0.0, 0.002, 0.01, 0.03):
        shutil.rmtree(root.parent / "cache", ignore_errors=True)
        children = []
        for _ in range(2):
            child = os.fork()
            if not child:
                pictures(files(root, side=side))
                signal.pause()
            children.append(child)
        while not store(root):
            time.sleep(0.001)
        time.sleep(delay)
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        assert torch.equal(pictures(files(root, side=side)), plain)


@pytest.mark.long
def test_a_full_disk_is_said_in_a_line(root: Path) -> None:
    """A disk of 1 MB, half of which stays free."""
    cache = root.parent / "small"
    cache.mkdir(mode=0o700)
    mount = f"mount -t tmpfs -o size=1m,mode=700 tmpfs {cache}"
    try:
        subprocess.run(["unshare", "-m", "sh", "-c", mount], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("to mount a disk takes root's rights")
    words = f"data=image_folder data.root={root} data.image_size=200 data.cache=1GB name=x {' '.join(MODEL)}"
    script = f"{mount} && {sys.executable} -m trainer {words} && df --output=avail -B1 {cache} | tail -1"
    env = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    time.sleep(2.1)  # until the pictures count as written
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script], env=env, cwd=root.parent, capture_output=True, text=True, check=True
    )
    assert f"and half of what is free in {cache}/train/pictures is 5" in " ".join(done.stdout.split())
    assert 400_000 < int(done.stdout.split()[-1]) < 600_000


@pytest.mark.long
def test_two_ranks_and_a_sweep_share_what_is_kept(root: Path, command: Callable[..., Any]) -> None:
    words = ("data=image_folder", f"data.root={root}", f"data.image_size={SIDE}", *MODEL, *AUGMENTED, "batch_size=6")
    time.sleep(2.1)  # until the pictures count as written
    found = {}
    for name, more in (("plain", ()), ("first", ("data.cache=1GB",)), ("second", ("data.cache=1GB",))):
        for code, _, err in ended(ranks(root.parent, *words, *more, f"run_dir={name}")):
            assert code == 0, err
        found[name] = numbers(result_in(root.parent / name))
        done = command("--multirun", *words, *more, f"name=sweep_{name}", "seed=0,1", "sweep.jobs=2")
        assert done.returncode == 0, done.stderr
        for job in ("seed=0", "seed=1"):
            (path,) = (root.parent / "runs" / f"sweep_{name}").glob(f"{job}*/result.json")
            found[f"{name} {job}"] = numbers(result_in(path.parent))
    assert found["plain"] == found["first"] == found["second"]
    for job in ("seed=0", "seed=1"):
        assert found[f"plain {job}"] == found[f"first {job}"] == found[f"second {job}"]
    assert len(store(root)) == 1
