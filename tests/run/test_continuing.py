"""The line that says how to continue works as it stands, and data that has moved is the same data."""

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trainer.command.verbs import run_verb
from trainer.errors import UserError

WORDS = ("data=table", "data.targets=[label]", "model=two_layer", "monitor=off", "name=it")


def table(path: Path, power: int = 1) -> Path:
    path.parent.mkdir(exist_ok=True)
    rows = [f"{(i % 7) ** power},{i % 5},{'yn'[(i % 7) * (i % 5) > 5]}" for i in range(100)]
    path.write_text("\n".join(["a,b,label", *rows]) + "\n")
    return path


@pytest.fixture
def moved(tmp_path: Path, train: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of ten steps on a table that lies in another folder now."""
    monkeypatch.chdir(tmp_path)
    table(tmp_path / "a.csv")
    train(*WORDS, "data.path=a.csv", "max_steps=10")
    (tmp_path / "else").mkdir()
    return (tmp_path / "a.csv").rename(tmp_path / "else/b.csv")


def test_a_table_that_has_moved_is_the_same_data(moved: Path, train: Callable[..., Any]) -> None:
    assert train("resume=runs/it", "data.path=else/b.csv", "max_steps=20")["steps"] == 20
    assert train(*WORDS, "data.path=else/b.csv", "max_steps=20")["steps"] == 20  # finished, and the same


def test_a_run_that_was_made_longer_says_how_long_it_is(
    train: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """What `train show` says to type makes it longer once more, and does not ask for less than it has."""
    words = ("model=two_layer", "data.limit=50", "monitor=off", "name=it")
    train(*words, "max_steps=5")
    train(*words, "max_steps=20")
    capsys.readouterr()
    for length in (40, 80):
        assert run_verb(["show", "it"]) == 0
        (line,) = [line.split() for line in capsys.readouterr().out.splitlines() if "resume=" in line]
        assert line == ["train", "resume=runs/it", f"max_steps={length}"]
        assert train(*line[1:])["steps"] == length
        capsys.readouterr()
    assert run_verb(["runs", "where=max_steps=80", "--csv"]) == 0
    assert "it," in capsys.readouterr().out


@pytest.mark.parametrize("max_steps", [10, 20])  # finished; not
def test_another_table_in_its_place_is_refused(moved: Path, train: Callable[..., Any], max_steps: int) -> None:
    table(moved, power=2)
    with pytest.raises(UserError, match=r"runs/it: the checkpoint does not fit: .*began with"):
        train("resume=runs/it", "data.path=else/b.csv", f"max_steps={max_steps}")


def test_a_run_that_saved_nothing_keeps_its_path(
    tmp_path: Path, train: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    table(tmp_path / "a.csv")
    train(*WORDS, "data.path=a.csv", "max_steps=10")
    for path in (tmp_path / "runs/it/checkpoints").iterdir():
        path.unlink()
    with pytest.raises(UserError, match=r"started differently: data.path=b.csv \(was a.csv\)"):
        train(*WORDS, f"data.path={table(tmp_path / 'b.csv').name}", "max_steps=20")


def test_from_another_folder_the_line_names_where_the_data_lies(
    moved: Path, train: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved.rename(tmp_path / "a.csv")
    monkeypatch.chdir(tmp_path / "else")
    with pytest.raises(UserError, match=r"data\.path=a\.csv: is not in this folder, but in") as refused:
        train("resume=../runs/it", "max_steps=20")
    word = str(refused.value).partition("Type ")[2].partition(", or")[0]
    assert train("resume=../runs/it", "max_steps=20", *shlex.split(word))["steps"] == 20


def test_a_schedule_that_was_laid_out_over_the_run_says_what_to_type(train: Callable[..., Any]) -> None:
    words = ("model=two_layer", "monitor=off", "scheduler=cosine", "name=it")
    train(*words, "max_steps=4")
    says = "laid out over 4 intervals, not 6. Type max_steps= or max_epochs= as it was begun with, or another name="
    with pytest.raises(UserError, match=says):
        train(*words, "max_steps=6")


@pytest.mark.slow
def test_the_line_repeats_what_was_typed_since(moved: Path, tmp_path: Path) -> None:
    """The stored config has the length that was told last, and the old path, which would refuse to continue."""
    words = ["resume=runs/it", "data.path=else/b.csv", "max_steps=100000000", "console.every=1000"]
    command = [sys.executable, "-m", "trainer"]
    with subprocess.Popen([*command, *words], cwd=tmp_path, stdout=-1, stderr=-1, text=True, env=quiet()) as run:
        assert run.stdout is not None
        assert any(line.startswith("step=") for line in run.stdout)
        run.send_signal(signal.SIGTERM)
        _, errors = run.communicate(timeout=60)
    line = errors.rpartition("To continue: ")[2].strip()
    assert line == "train resume=runs/it console.every=1000 data.path=else/b.csv"
    config = (tmp_path / "runs/it/config.yaml").read_text()
    assert "max_steps: 100000000\n" in config
    again = [*command, *shlex.split(line)[1:], "max_steps=10"]
    said = subprocess.run(again, cwd=tmp_path, capture_output=True, text=True, timeout=60, env=quiet())
    assert "is at step" in said.stderr, "all else is accepted"


def quiet() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}
