"""Started from a cell of a notebook, a run prints lines, though it is given a terminal."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from trainer.system.terminal import is_in_notebook

QUICK = ("model=two_layer", "data.limit=60", "max_steps=3", "console.every=1", "threads=1", "monitor=off", "name=a")


def seen(folder: Path, **environment: str) -> str:
    """What a terminal of its own shows of a run."""
    ours, theirs = pty.openpty()
    env = {**os.environ, "TERM": "xterm-color", "FORCE_COLOR": "1", **environment}
    with subprocess.Popen(
        [sys.executable, "-m", "trainer", *QUICK], cwd=folder, env=env, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        text = b""
        while True:
            try:
                piece = os.read(ours, 4096)
            except OSError:  # Linux says so at the end
                break
            if not piece:
                break
            text += piece
        os.close(ours)
    assert process.returncode == 0, text
    return text.decode()


def test_a_cell_prints_a_line_a_record_without_escape_codes(tmp_path: Path) -> None:
    shown = seen(tmp_path, JPY_PARENT_PID="1")
    assert "\x1b" not in shown
    assert [line.split()[0] for line in shown.splitlines() if "train/loss=" in line] == ["step=1", "step=2", "step=3"]


@pytest.mark.parametrize(
    "environment",
    [{"JPY_PARENT_PID": "7"}, {"COLAB_RELEASE_TAG": "x"}, {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}],
)
def test_whose_cell_it_is(environment: dict[str, str]) -> None:
    assert is_in_notebook(environment)
    assert not is_in_notebook({"MPLBACKEND": "agg", "TERM_PROGRAM": "vscode"})
