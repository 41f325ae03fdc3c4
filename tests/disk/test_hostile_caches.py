"""What runs keep for each other: nobody else's files are taken for it, and no file under another's name."""

import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._inductor.runtime.cache_dir_utils import cache_dir, default_cache_dir

from trainer.disk.cache import Cache, checksum
from trainer.disk.files import cache_folder, make_private, shared_with
from trainer.disk.programs import folder_of_torch, keep_programs_private
from trainer.disk.tensors import load_tensors

RIGHT, WRONG = torch.arange(12.0).view(4, 3), torch.zeros(4, 3)
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can make files of another user")
SOMEBODY = 12345


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A cache with features in it."""
    Cache(tmp_path / "cache/train/features", 10**6, pytest.fail).write("key", RIGHT)
    return tmp_path / "cache/train/features"


def read(folder: Path, key: str = "key") -> tuple[Tensor | None, list[str]]:
    """What is found, and what is said of it."""
    notes: list[str] = []
    return Cache(folder, 10**6, notes.append).read(key), notes


def poison(path: Path, key: str) -> None:
    """Features that nobody computed, as whoever may write the file can leave them."""
    torch.save({"features": WRONG, "checksum": checksum(key, WRONG)}, path)


def test_what_was_kept_is_found(folder: Path) -> None:
    found, notes = read(folder)
    assert found is not None
    assert torch.equal(found, RIGHT)
    assert notes == []


def test_whoever_may_write_the_folder_could_give_wrong_features(folder: Path) -> None:
    """Nothing about the file tells: so it is the folder that must be nobody else's."""
    poison(folder / "key.pt", "key")
    found, notes = read(folder)
    assert found is not None
    assert torch.equal(found, WRONG)
    assert notes == []


def of_another_user(path: Path) -> None:
    os.chown(path, SOMEBODY, SOMEBODY)


def writable(path: Path) -> None:
    path.chmod(stat.S_IMODE(path.stat().st_mode) | 0o002)


def writable_by_a_group(path: Path) -> None:
    os.chown(path, -1, SOMEBODY)
    path.chmod(stat.S_IMODE(path.stat().st_mode) | 0o020)


def sticky(path: Path) -> None:
    """As /tmp: nobody can take our files away, but anybody can leave some."""
    path.chmod(0o1777)


@pytest.mark.parametrize("place", ["features", "train", "cache"])
@pytest.mark.parametrize("share", [of_another_user, writable, writable_by_a_group, sticky])
@needs_root
def test_a_folder_that_others_can_write_to_is_not_used(place: str, share: Callable[[Path], None], folder: Path) -> None:
    where = next(path for path in (folder, *folder.parents) if path.name == place)
    poison(folder / "key.pt", "key")
    share(where)
    if share is sticky and place != "features":
        assert shared_with(folder) == ""  # as ~/.cache/train in /tmp
        return
    notes: list[str] = []
    cache = Cache(folder, 10**6, notes.append)
    assert cache.read("key") is None
    cache.write("other", RIGHT)
    with cache.computing("other", lambda: False):
        pass
    assert [path.name for path in folder.iterdir()] == ["key.pt"]
    (note,) = notes  # said once
    assert note.startswith(f"warning: {folder} is not used: ")
    assert str(where) in note


@pytest.mark.parametrize("share", [of_another_user, writable, writable_by_a_group])
@needs_root
def test_nor_is_a_file(share: Callable[[Path], None], folder: Path) -> None:
    poison(folder / "key.pt", "key")
    share(folder / "key.pt")
    found, (note,) = read(folder)
    assert found is None
    assert "it held is computed again" in note
    assert list(folder.iterdir()) == []


def test_a_link_is_followed_to_whose_folder_it_is(folder: Path, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shutil.move(folder, shared)
    folder.symlink_to(shared)
    assert read(folder)[0] is not None
    shared.chmod(0o777)
    found, (note,) = read(folder)
    assert found is None
    assert f"other users can write to {shared}" in note


def test_the_right_features_under_another_s_name_are_wrong(folder: Path) -> None:
    (folder / "key.pt").rename(folder / "other.pt")
    assert isinstance(load_tensors(folder / "other.pt"), dict)  # a whole file
    found, (note,) = read(folder, "other")
    assert found is None
    assert "the checksum of its features is wrong" in note


def test_what_others_are_kept_from_is_made_so_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        make_private(tmp_path / "a/b")
        Cache(tmp_path / "a/b", 10**6, pytest.fail).write("key", RIGHT)
    finally:
        os.umask(before)
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a", "a/b", "a/b/key.pt")] == [
        0o700,
        0o700,
        0o600,
    ]


@pytest.mark.slow
def test_a_training_computes_its_features_itself(
    train: Callable[..., dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    words = ("model=frozen_resnet", "model.backbone.weights=null", "model.image_size=8", "data.limit=40", "monitor=off")
    words += ("max_steps=12", "batch_size=10")
    first = train(*words, "name=first")
    for path in cache_folder("features").glob("*.pt"):
        features = load_tensors(path)["features"]
        features[10:] = features[10:].flip(0)  # of the first ones a run looks whether they are right
        torch.save({"features": features, "checksum": checksum(path.stem, features)}, path)
    assert train(*words, "name=poisoned")["train/loss"] != first["train/loss"]
    cache_folder("features").chmod(0o777)
    capsys.readouterr()
    assert train(*words, "name=second")["train/loss"] == first["train/loss"]
    assert "is not used: other users can write to" in capsys.readouterr().out


# --- what torch compiles -------------------------------------------------------------------------------------------


@pytest.fixture
def careless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where torch would look for what it has compiled before: a folder that anybody can make first."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "for the fixture to set it back")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    folder = Path(default_cache_dir())
    assert folder.is_relative_to(tmp_path / "tmp")
    folder.mkdir()
    folder.chmod(0o777)
    return folder


def is_private(folder: Path) -> bool:
    return stat.S_IMODE(folder.stat().st_mode) == 0o700 and shared_with(folder) == ""


def test_compiled_programs_lie_in_the_user_s_own_cache(careless: Path, tmp_path: Path) -> None:
    keep_programs_private()
    assert Path(cache_dir()) == tmp_path / "cache/train/compiled"
    assert is_private(tmp_path / "cache/train/compiled")
    assert default_cache_dir() != str(careless)  # headers lie there in any case
    assert is_private(Path(default_cache_dir()).parent)


@pytest.mark.parametrize("name", ["root", "DOMAIN\\\\anna", "a:b"])
def test_torch_s_folder_is_known_without_importing_what_makes_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", name)
    assert str(folder_of_torch()) == default_cache_dir()


def test_a_folder_that_is_ours_is_used(careless: Path) -> None:
    careless.chmod(0o755)
    keep_programs_private()
    assert default_cache_dir() == str(careless)


@pytest.mark.parametrize("kind", ["shared", "a file", "no home"])
def test_where_there_is_no_such_cache_they_lie_in_a_folder_of_this_run(
    kind: str, careless: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "a file":
        (tmp_path / "cache").write_text("")
    elif kind == "shared":
        make_private(tmp_path / "cache/train/compiled")
        (tmp_path / "cache").chmod(0o777)
    else:
        monkeypatch.setenv("XDG_CACHE_HOME", "")
        monkeypatch.setattr(Path, "home", raises_runtime_error)
    keep_programs_private()
    found = Path(cache_dir())
    assert found.parent == tmp_path / "tmp"
    assert found != careless
    assert is_private(found)


def raises_runtime_error() -> Path:
    """What Path.home() does for a user who has none."""
    raise RuntimeError("Could not determine home directory.")


def test_who_names_a_folder_gets_it(careless: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "mine"))
    keep_programs_private()
    assert Path(cache_dir()) == tmp_path / "mine"


@pytest.mark.long
def test_nothing_is_read_from_or_left_in_the_folder_of_all(
    careless: Path, tmp_path: Path, command: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    env = {"PYTHONWARNINGS": "default"}
    done = command("model=two_layer", "compile=true", "monitor=off", "max_steps=3", env=env)
    assert "to compile the step" in done.stdout, done.stderr
    assert list(careless.iterdir()) == []
    assert list((tmp_path / "cache/train/compiled").iterdir())
    assert list((tmp_path / "tmp").iterdir()) == [careless]
