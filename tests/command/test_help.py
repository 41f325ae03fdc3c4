"""`train --help`, `train --version` and the manual: at once, without torch, on a terminal and in a pipe."""

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import trainer
from trainer.command import main as cli
from trainer.command.help import MANUAL, topics
from trainer.errors import UserError


def test_help_lists_the_topics(capsys: Any) -> None:
    assert cli.run_command(["help"]) == 0
    out = capsys.readouterr().out
    for topic, about in topics().items():
        assert f"  {topic} " in out
        assert about in out


@pytest.mark.parametrize("topic", topics())
def test_a_topic_is_its_page(topic: str, capsys: Any) -> None:
    assert cli.run_command(["help", topic]) == 0
    assert capsys.readouterr().out == (MANUAL / f"{topic}.md").read_text()
    assert len(topics()[topic]) > 10


def test_a_verb_is_explained_where_runs_are(capsys: Any) -> None:
    verbs = {**dict.fromkeys(("compare", "show", "board", "RUNS"), "runs"), "find-lr": "choices", "export": "after"}
    for verb, page in verbs.items():
        assert cli.run_command(["help", verb]) == 0
        assert capsys.readouterr().out == (MANUAL / f"{page}.md").read_text()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["tensorbord"], "help tensorbord: there is no such topic. Did you mean tensorboard? There is "),
        (["sweep"], "Did you mean sweeps?"),
        (["x1"], "help x1: there is no such topic. There is "),
        (["Augmentation"], "It is spoken of in choices: type train help choices."),
        (["onnx"], "help onnx: there is no such topic. It is spoken of in after: type train help after. There is "),
        (["keys", "speed"], "help keys speed: there is no such topic."),
        (["../README"], "help ../README: there is no such topic."),
    ],
)
def test_an_unknown_topic_is_one_line(words: list[str], says: str) -> None:
    with pytest.raises(UserError) as caught:
        cli.run_command(["help", *words])
    assert says in str(caught.value)


def test_help_names_the_manual(capsys: Any) -> None:
    assert cli.run_command(["--help"]) == 0
    assert f"train help TOPIC, of {', '.join(topics())}." in capsys.readouterr().out


def test_the_version_is_ours(capsys: Any) -> None:
    for words in (["--version"], ["model=lenet", "--version"]):
        assert cli.run_command(words) == 0
        out = capsys.readouterr().out
        assert out.startswith(f"train {trainer.__version__} (torch {importlib.metadata.version('torch')}, Python 3.")
        assert out.count("\n") == 1


def drawn(words: list[str], columns: int) -> str:
    """What a terminal of so many columns is sent."""
    pty = pytest.importorskip("pty")
    leader, follower = pty.openpty()
    env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(columns)}
    done = subprocess.Popen([sys.executable, "-m", "trainer", *words], stdout=follower, env=env)
    os.close(follower)
    shown = b""
    while True:
        try:
            part = os.read(leader, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        shown += part
    assert done.wait(timeout=30) == 0
    return shown.decode()


def test_on_a_terminal_a_page_is_drawn() -> None:
    """Headings and tables instead of Markdown's signs; no pictures."""
    text = drawn(["help", "tensorboard"], 90)
    assert "\x1b[" in text
    assert "```" not in text
    assert "](" not in text


def test_on_a_narrow_terminal_no_word_is_cut(capsys: Any) -> None:
    """What is explained keeps its column; commands stay whole, to be copied."""
    for words in (["help"], ["--help"]):
        cli.run_command(words)
        whole = capsys.readouterr().out
        lines = drawn(words, 60).splitlines()
        assert " ".join(" ".join(lines).split()) == " ".join(whole.split())
        assert [line for line in lines if len(line) > 60 and not line.startswith("  train ")] == []
    assert "    digits                The 1,797 8x8 scans of handwritten\n" + " " * 26 + "digits" in "\n".join(lines)


@pytest.mark.parametrize(
    "words", [["help"], ["help", "tensorboard"], ["--version"], ["-sc", "install=bash"], ["show", "x"]]
)
def test_what_needs_no_torch_imports_none(words: list[str], tmp_path: Path) -> None:
    code = (
        "import sys; from trainer.command.main import main\n"
        "try: main()\nexcept SystemExit: print('torch' in sys.modules, 'hydra' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=tmp_path, capture_output=True, text=True, timeout=600
    )
    assert done.stdout.splitlines()[-1] == "False False", done.stderr


@pytest.mark.slow
def test_data_and_samples_have_a_short_name() -> None:
    """And asking for them is what imports torch."""
    code = (
        "import sys, trainer; assert 'torch' not in sys.modules\n"
        "from trainer import Data, Samples\n"
        "from trainer.data import source; assert Data is source.Data and Samples is source.Samples\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=600)
    with pytest.raises(AttributeError, match="has no attribute 'Nope'"):
        trainer.__getattr__("Nope")
