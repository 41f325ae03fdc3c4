"""The folder that `train` is typed in may be a stranger's: a clone, an archive, a shared disk. Nothing in it runs.

Each trick is shown first to work on whoever is careless.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from trainer.command.main import run_command

SMALL = ("data.limit=40", "max_steps=1", "monitor=off")
SWEEP = ("--multirun", "model=two_layer", *SMALL, "seed=0,1")
Typed = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """What a trick makes."""
    return tmp_path / "it_ran"


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """The stranger's folder."""
    (tmp_path / "theirs").mkdir()
    return tmp_path / "theirs"


@pytest.fixture
def typed(tmp_path: Path, theirs: Path) -> Typed:
    """`train` as pip installs it, in a folder of its own, typed in the stranger's folder."""
    script = tmp_path / "bin" / "train"
    script.parent.mkdir()
    script.write_text("from trainer.command.main import main\nif __name__ == '__main__':\n    main()\n")

    def run(*words: str, start: tuple[str, ...] = (str(script),), **more: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", **more}
        command = [sys.executable, *start, *words]
        return subprocess.run(command, cwd=theirs, env=env, capture_output=True, text=True, timeout=600)

    return run


# --- the configuration of a git repository ------------------------------------------------------------------------

GIT = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org"]


def with_a_monitor(folder: Path, weapon: Path) -> Path:
    """A program that is to say which files have changed."""
    subprocess.run([*GIT, "config", "core.fsmonitor", str(weapon)], cwd=folder, check=True)
    return folder


def with_a_filter(folder: Path, weapon: Path) -> Path:
    """A program that turns a file into what is compared."""
    subprocess.run([*GIT, "config", "filter.x.clean", f"{weapon}; cat"], cwd=folder, check=True)
    (folder / ".gitattributes").write_text("* filter=x\n")
    (folder / "file").write_text("two")
    return folder


def in_a_bare_one(folder: Path, weapon: Path) -> Path:
    """A subfolder that is a repository without files, which a clone carries like any other files."""
    shutil.move(folder / ".git", folder / "below")
    (folder / "below/work").mkdir()
    for key, value in {"core.bare": "false", "core.worktree": "work", "core.fsmonitor": str(weapon)}.items():
        subprocess.run([*GIT, "--git-dir=below", "config", key, value], cwd=folder, check=True)
    return folder / "below"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
@pytest.mark.parametrize("arm", [with_a_monitor, with_a_filter, in_a_bare_one])
def test_a_repository_names_no_program_that_runs(
    arm: Callable[[Path, Path], Path], theirs: Path, marker: Path, tmp_path: Path, typed: Typed
) -> None:
    weapon = tmp_path / "weapon"
    weapon.write_text(f"#!/bin/sh\ntouch {marker}\n")
    weapon.chmod(0o755)
    subprocess.run([*GIT, "init", "-q"], cwd=theirs, check=True)
    (theirs / "file").write_text("one")
    subprocess.run([*GIT, "add", "file"], cwd=theirs, check=True)
    subprocess.run([*GIT, "commit", "-q", "-m", "first"], cwd=theirs, check=True)
    folder = arm(theirs, weapon)
    subprocess.run(["git", "describe", "--always", "--dirty"], cwd=folder, capture_output=True)
    assert marker.exists()
    marker.unlink()
    for other in dict.fromkeys((theirs, folder)):
        done = typed("data.limit=40", "max_steps=1", f"run_dir={tmp_path / other.name}.run")
        assert done.returncode == 0, done.stderr
    assert not marker.exists()


# --- modules that bear the names of Python's own, and of others --------------------------------------------------

NAMES = ("random", "json", "torch", "selectors", "threading", "warnings", "signal", "numpy", "runpy", "yaml", "trainer")


def arm(folder: Path, names: tuple[str, ...], marker: Path) -> None:
    for name in names:
        path = folder / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"open({str(marker)!r}, 'a').write(__name__ + ' ')\n")


@pytest.mark.slow
@pytest.mark.parametrize("words", [SMALL, SWEEP], ids=["a run", "a sweep"])
def test_no_module_of_the_folder_is_imported(words: tuple[str, ...], theirs: Path, marker: Path, typed: Typed) -> None:
    arm(theirs, NAMES, marker)
    subprocess.run([sys.executable, "-c", "import multiprocessing.forkserver"], cwd=theirs, capture_output=True)
    assert marker.exists()
    marker.unlink()
    done = typed(*words)
    assert done.returncode == 0, done.stderr
    assert not marker.exists(), marker.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("words", [SMALL, SWEEP], ids=["a run", "a sweep"])
def test_python_m_searches_it_no_longer_than_python_itself_does(
    words: tuple[str, ...], theirs: Path, marker: Path, typed: Typed
) -> None:
    """A plugin of Hydra's is whatever is found under that name; the others are imported late."""
    names = ("hydra_plugins/theirs", "random", "json", "torch", "numpy", "yaml", "tensorflow")
    arm(theirs, names, marker)
    subprocess.run([sys.executable, "-c", "import hydra_plugins.theirs"], cwd=theirs, capture_output=True)
    assert marker.exists()
    marker.unlink()
    done = typed(*words, start=("-m", "trainer"))
    assert done.returncode == 0, done.stderr
    assert not marker.exists(), marker.read_text()


@pytest.mark.slow
def test_a_sweep_of_ones_own_classes_finds_them_here(theirs: Path, typed: Typed) -> None:
    """And what they start is not told where to search."""
    code = "import os\nfrom trainer.models.two_layer import TwoLayer as Net\nprint(os.environ.get('PYTHONSAFEPATH'))\n"
    (theirs / "mynet.py").write_text(code)
    (theirs / "random.py").write_text("raise AssertionError")
    done = typed(*SWEEP, "model._target_=mynet.Net", "trust=[mynet]", "name=s")
    assert done.returncode == 0, done.stderr
    for job in (theirs / "runs/s").glob("*/log.txt"):
        assert job.read_text().startswith("None\n")


# --- settings of a library ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_picture_is_drawn_with_no_settings_of_the_folder(theirs: Path, marker: Path, typed: Typed) -> None:
    """matplotlib reads them from where it is, and starts LaTeX where they say so."""
    pytest.importorskip("matplotlib")
    (theirs / "matplotlibrc").write_text("text.usetex: True\n")
    (theirs.parent / "bin/latex").write_text(f"#!/bin/sh\ntouch {marker}\nexit 1\n")
    (theirs.parent / "bin/latex").chmod(0o755)
    path = f"{theirs.parent / 'bin'}{os.pathsep}{os.environ['PATH']}"
    code = "from matplotlib.figure import Figure; f = Figure(); f.text(0, 0, 'x'); f.savefig('a.png')"
    careless = [sys.executable, "-c", code]
    subprocess.run(careless, cwd=theirs, env={**os.environ, "PATH": path}, capture_output=True)
    assert marker.exists()
    marker.unlink()
    for name in ("a", "b"):
        assert typed(*SMALL, "model=two_layer", f"name={name}").returncode == 0
    done = typed("compare", "a", "b", "--png", "a.png", PATH=path)
    assert (done.returncode, done.stderr) == (0, "")
    assert not marker.exists()
    assert (theirs / "a.png").exists()


# --- what is printed for copying ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a;touch it_ran", "a$(touch it_ran)b", "a b 'c"])
def test_a_command_that_is_shown_names_a_folder_and_does_nothing_else(
    name: str, train: Callable[..., object], capsys: pytest.CaptureFixture[str]
) -> None:
    """The words of each line, as a shell splits them, hold the folder as one."""
    train(*SMALL[:2], "model=two_layer", "monitor=scalars", f'run_dir="{name}"')
    said = capsys.readouterr().out
    assert run_command(["show", name]) == 0
    shown = capsys.readouterr().out
    commands = re.findall(r"^look at it +(.*)$", said, re.MULTILINE)
    commands += re.findall(r"^  (train (?:board|'?resume=).*)$", shown, re.MULTILINE)
    assert len(commands) == 3
    for command in commands:
        assert any(name in word and word.strip('"').endswith(name) for word in shlex.split(command)), command
