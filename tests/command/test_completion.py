"""Tab completion knows verbs, runs, groups, options, keys and values, and writes no error into the prompt."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trainer.command import main as cli
from trainer.command.completion import answers, candidates
from trainer.errors import UserError

Train = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs, and a folder of configs."""
    folder = tmp_path_factory.mktemp("completed")
    for name in ("one", "größe, x"):
        words = ("model=two_layer", "monitor=off", "data.limit=40", "max_steps=1", f"run_dir={folder}/runs/{name}")
        assert cli.run_command(list(words)) == 0
    (folder / "conf/model").mkdir(parents=True)
    (folder / "conf/model/mynet.yaml").write_text("# Mine\n_target_: mynet.Net\nwidth: 3\n")
    return folder


@pytest.fixture
def runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def offered(line: str, shell: str = "zsh") -> list[str]:
    return [answer.strip() for answer in answers({"COMP_LINE": line}, shell)]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("train ", ["runs", "compare", "show", "board", "help", "model=", "optimizer.", "seed="]),
        ("train sh", ["show"]),
        ("train show ", ["runs/one"]),
        ("train show runs/o", ["runs/one"]),
        ("train compare runs/one ", ["runs/one", "--png"]),
        ("train runs w", ["where="]),
        ("train board ", ["runs/", "port="]),
        ("train ev", ["evaluate"]),
        ("train predict ", ["runs/one", "out="]),
        ("train export runs/one f", ["format="]),
        ("train help tens", ["tensorboard"]),
        ("train model=le", ["model=lenet"]),
        ("train optimizer=sgd optimizer.m", ["optimizer.momentum="]),
        ("train optimizer.", ["optimizer.lr=", "optimizer.betas="]),
        ("train optimizer.lr=", ["optimizer.lr=0.002"]),
        ("train precision=b", ["precision=bfloat16"]),
        ("train fast=", ["fast=true", "fast=false"]),
        ("train device=", ["device=auto", "device=cuda"]),
        ("train resume=", ["resume=auto", "resume=runs/one"]),
        ("train run_dir=ru", ["run_dir=runs/"]),
        ("train --config-dir co", ["conf/"]),
        ("train --config-dir conf model=my", ["model=mynet"]),
        ("train --config-dir conf model=mynet model.w", ["model.width="]),
        ("train --cfg ", ["job", "all"]),
        ("train --mul", ["--multirun"]),
    ],
)
def test_what_is_offered(runs: None, line: str, expected: list[str]) -> None:
    found = offered(line)
    assert set(expected) <= set(found)
    assert all(answer.startswith(line.rpartition(" ")[2]) for answer in found)


def test_only_the_start_is_taken_where_the_cursor_stands(runs: None) -> None:
    line = "train model=l optimizer=sgd"
    found = answers({"COMP_LINE": line, "COMP_POINT": str(len("train model=l"))}, "zsh")
    assert found == ["model=lenet "]


def test_bash_gets_the_part_behind_the_equals_sign(runs: None) -> None:
    environment = {"COMP_LINE": "train model=l", "COMP_WORDBREAKS": " \t\n\"'><=;|&(:"}
    assert answers(environment, "bash") == ["lenet "]


def test_a_folder_of_an_odd_name_is_offered_as_a_shell_reads_it(runs: None) -> None:
    assert "runs/größe,\\ x" in offered("train show runs/g")
    assert "resume=runs/größe,\\ x" in offered("train resume=runs/gr")


@pytest.mark.parametrize(
    "line",
    [
        "",
        "train",
        "train 'x",
        "train show nope ",
        "train --nope ",
        "train = ",
        "train model=\\",
        "train -sc ",
        "train ~",
    ],
)
def test_nothing_is_ever_raised(runs: None, line: str) -> None:
    assert isinstance(offered(line), list)


def test_where_there_is_nothing(train: Train) -> None:
    assert offered("train show ") == []
    assert candidates([], "") != []


@pytest.mark.parametrize(
    "words", [["-sc"], ["-sc", "install=tcsh"], ["-sc", "qery=bash"], ["--shell-completion", "x=1"]]
)
def test_another_shell_is_refused(train: Train, words: list[str]) -> None:
    with pytest.raises(UserError, match="install=bash, install=zsh, install=fish, uninstall=bash"):
        cli.run_command(words)


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("train sh", ["show "]),
        ("train show runs/o", ["runs/one "]),
        ("train model=le", ["lenet "]),
        ("train optimizer=sgd optimizer.mom", ["optimizer.momentum="]),
        ("train show nope", []),
        ("train --nope x", []),
    ],
)
def test_in_bash(runs: None, tmp_path: Path, words: str, expected: list[str]) -> None:
    """As the shell does it: what `train -sc install=bash` prints is run, then the function is called for a line."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/train").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m trainer "$@"\n')
    (tmp_path / "bin/train").chmod(0o755)
    line = words.split(" ")
    script = (
        'eval "$(train -sc install=bash)"\n'
        f"COMP_WORDS=({' '.join(line).replace('=', ' = ')}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))\n"
        f"COMP_LINE='{words}'; COMP_POINT=${{#COMP_LINE}}\n"
        "_train_complete; printf '%s|' \"${COMPREPLY[@]}\"; complete -p train >&2\n"
    )
    env = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script], env=env, capture_output=True, text=True, timeout=600)
    assert [answer for answer in done.stdout.split("|") if answer] == expected
    assert done.stderr == "complete -o default -o nospace -F _train_complete train\n"
