"""Started from a cell of a notebook, a run prints lines, though it is given a terminal; interrupting the cell saves."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trainer.system.terminal import is_in_notebook

QUICK = ("model=two_layer", "data.limit=60", "max_steps=3", "console.every=1", "threads=1", "monitor=off", "name=a")


def seen(folder: Path, **environment: str) -> str:
    """What a terminal of its own shows of a run."""
    pty = pytest.importorskip("pty")
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


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[Any]:
    """A real one, whose `train` is this one, in an empty folder."""
    manager = pytest.importorskip("jupyter_client.manager")
    pytest.importorskip("ipykernel")
    env = {**os.environ, "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
    running, client = manager.start_new_kernel(cwd=str(tmp_path), env=env)
    try:
        yield running, client
    finally:
        client.stop_channels()
        running.shutdown_kernel(now=True)


def printed(kernel: Any, cell: str, interrupt_at: str = "") -> str:
    """What a cell prints, its error included; the kernel is interrupted where this text comes."""
    running, client = kernel
    texts: list[str] = []
    is_interrupted = False

    def seen(message: dict[str, Any]) -> None:
        nonlocal is_interrupted
        content = message["content"]
        texts.append(content.get("text", content.get("ename", "")))
        if interrupt_at and not is_interrupted and interrupt_at in "".join(texts):
            is_interrupted = True
            running.interrupt_kernel()

    client.execute_interactive(cell, output_hook=seen, timeout=200)
    return "".join(texts)


@pytest.mark.long
def test_cells_of_a_real_kernel(kernel: Any, tmp_path: Path) -> None:
    first = printed(kernel, "!train max_steps=20 console.every=10 monitor=off threads=1 name=first")
    assert "\x1b" not in first
    assert [line.split()[0] for line in first.splitlines() if "train/loss=" in line] == ["step=1", "step=10", "step=20"]
    assert "run folder     runs/first" in first
    assert '"status": "finished"' in (tmp_path / "runs/first/result.json").read_text()

    words = "console.every=50 monitor=off threads=1 checkpoint.every_minutes=null name=long"
    said = printed(kernel, f"!train max_steps=1000000 {words}", interrupt_at="step=50 ")
    assert "\x1b" not in said
    assert "and saved. To continue: train resume=runs/long" in said
    assert list((tmp_path / "runs/long/checkpoints").glob("step_*.pt"))

    again = printed(kernel, "from trainer import load, run\nprint(load('long').step >= 50)")
    assert again.endswith("True\n"), again
    assert printed(kernel, "print(run('max_steps=5', 'monitor=off', name='called').step)").endswith("5\n")
