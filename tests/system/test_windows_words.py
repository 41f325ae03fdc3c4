"""Paths and words as they are typed on Windows: drive letters, backslashes, spaces, quotes."""

import shlex
import types

import pytest

from trainer.command import main as cli
from trainer.system import shell


@pytest.mark.parametrize(
    "path", ["C:\\Users\\me\\data", "C:\\Program Files\\x (1)", "D:\\a\\", "\\\\server\\share\\x", "C:/x/y", "C:a,b=c"]
)
def test_a_path_is_read_letter_by_letter(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run_command(["--cfg", "job", "data=mnist", f"data.root={path}", f"run_dir={path}"]) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert f"root: {path}" in lines
    assert f"run_dir: {path}" in lines


@pytest.mark.parametrize(
    ("word", "quoted"),
    [
        ("run_dir=C:\\a\\b", "run_dir=C:\\a\\b"),
        ("seed=0,1", "seed=0,1"),
        ("C:\\Program Files\\x", '"C:\\Program Files\\x"'),
        ("a b\\", '"a b\\\\"'),
        ('where="a b"', '"where=\\"a b\\""'),
        ("val/loss>1&2", '"val/loss>1&2"'),  # a file and a second command, where it stands bare
        ("", '""'),
    ],
)
def test_what_a_line_says_to_type_is_quoted_as_the_shell_there_reads_it(
    word: str, quoted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert shell.quote(word) == shlex.quote(word)
    monkeypatch.setattr(shell, "sys", types.SimpleNamespace(platform="win32"))
    assert shell.quote(word) == quoted
    assert shell.join([word, "x"]) == f"{quoted} x"
