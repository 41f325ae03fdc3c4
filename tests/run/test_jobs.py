"""The jobs of the manual, as typed there: each reaches the number that stands behind its command.

It is killed with SIGKILL and started again, and ends at the same bits; and two processes train it. A seeded one of them
runs always: `pytest -m long tests/run/test_jobs.py` for all.
"""

import ast
import importlib.util
import json
import operator
import os
import random
import re
import runpy
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch.testing import assert_close

from ranks import ended, ranks
from trainer.command.help import MANUAL
from trainer.disk import checkpoint

Train = Callable[..., dict[str, Any]]
PAGE = (MANUAL / "jobs.md").read_text()
SCRIPTS = re.findall(r"^python (\w+)\.py$", PAGE, re.MULTILINE)  # they write what stands for the user's files
FILES = {name: text for name, text in re.findall(r"`(\w+)\.py`:\n\n```python\n(.*?)```", PAGE, re.DOTALL)}


class Job(NamedTuple):
    """A command, what it needs, and the number that it reaches."""

    words: tuple[str, ...]
    needs: tuple[str, ...]
    tag: str
    sign: str
    number: float

    @property
    def name(self) -> str:
        return next((need.removesuffix(".py") for need in self.needs if need.endswith(".py")), self.words[0][6:])

    @property
    def libraries(self) -> list[str]:
        return [need for need in self.needs if not need.endswith(".py")]


def jobs() -> list[Job]:
    shell = "".join(re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)).replace("\\\n", " ")
    found = []
    for line in shell.splitlines():
        if line.startswith("python "):
            continue
        command, _, comment = line.partition("#")
        match = re.fullmatch(r" needs (.*); (\S+) ([<>]) (\S+)", comment)
        assert match is not None, line
        needs, tag, sign, number = match.groups()
        found.append(Job(tuple(shlex.split(command)[1:]), tuple(needs.split(" and ")), tag, sign, float(number)))
    return found


JOBS = jobs()
LIGHT = [job for job in JOBS if not job.libraries]
SHORT = random.Random(int(os.environ.get("TRAIN_TEST_SEED", "0"))).sample(LIGHT, 1)
CASES = [pytest.param(job, id=job.name, marks=[] if job in SHORT else [pytest.mark.long]) for job in JOBS]
LONG = [pytest.param(job, id=job.name, marks=[pytest.mark.long]) for job in JOBS]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files of the page; the current folder is theirs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name, text in FILES.items():
        Path(f"{name}.py").write_text(text)
        sys.modules.pop(name, None)
    for name in SCRIPTS:
        runpy.run_path(f"{name}.py")


def test_the_page_has_all_that_was_promised() -> None:
    assert len(JOBS) == 14
    assert {job.name for job in JOBS} >= FILES.keys()


def test_the_table_counts_the_lines() -> None:
    """In `train help own`: those of the network, and all others that are no import."""
    rows = re.findall(r"^\| [^|]* \| `([^`]*)` \| (\d+), (\d+) \|$", (MANUAL / "own.md").read_text(), re.MULTILINE)
    counted = {}
    for name, text in FILES.items():
        if name in SCRIPTS:
            text = ""
        lines = text.splitlines()
        networks = [
            node
            for node in ast.parse(text).body
            if isinstance(node, ast.ClassDef) or (isinstance(node, ast.FunctionDef) and node.name in ("net", "make"))
        ]
        network = sum(bool(line.strip()) for n in networks for line in lines[n.lineno - 1 : n.end_lineno])
        all_lines = sum(bool(line.strip()) and not line.startswith(("import ", "from ")) for line in lines)
        counted[name] = network, all_lines - network
    for name, numbers in counted.items():
        (row,) = [row for row in rows if f"={name}." in row[0]]
        assert (int(row[1]), int(row[2])) == numbers, name
        assert numbers[1] <= 10


@pytest.mark.parametrize("job", CASES)
def test_a_job_reaches_its_number(job: Job, train: Train) -> None:
    for library in job.libraries:
        if not importlib.util.find_spec(library):
            pytest.skip(f"needs {library}")
    found = train(*job.words, "monitor=off", "threads=1")
    assert {"<": operator.lt, ">": operator.gt}[job.sign](found[job.tag], job.number)


def state(name: str) -> dict[str, Any]:
    found: dict[str, Any] = checkpoint.read(Path("runs", name, "checkpoints/last.pt"))
    return found


@pytest.mark.parametrize("job", LONG)
def test_a_job_that_is_killed_ends_as_if_nothing_had_been(job: Job) -> None:
    if not all(importlib.util.find_spec(library) for library in job.libraries):
        pytest.skip(f"needs {job.libraries}")
    words = (*job.words, "monitor=off", "threads=1", "max_epochs=null", "max_steps=40", "checkpoint.every=5")
    words = (*words, "console.every=1", "eval_every=10")
    command = [sys.executable, "-m", "trainer", *words]
    subprocess.run([*command, "name=whole"], check=True, capture_output=True, timeout=200)
    with subprocess.Popen([*command, "name=killed"], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        assert any(line.startswith("step=17 ") for line in run.stdout)
        run.send_signal(signal.SIGKILL)
    assert run.returncode == -signal.SIGKILL
    subprocess.run([*command, "name=killed"], check=True, capture_output=True, timeout=200)
    for part in ("model", "loss", "optimizer"):
        assert_close(state("killed")[part], state("whole")[part], rtol=0, atol=0)
    assert state("killed")["last"].keys() == state("whole")["last"].keys()


@pytest.mark.parametrize("job", LONG)
def test_two_processes_train_a_job(job: Job) -> None:
    if not all(importlib.util.find_spec(library) for library in job.libraries):
        pytest.skip(f"needs {job.libraries}")
    words = [word for word in job.words if not word.startswith("max_")]
    two = ended(ranks(Path.cwd(), *words, "max_steps=12", "name=two", "monitor=off", "threads=1"), 300)
    assert [code for code, _, _ in two] == [0, 0], two
    result = json.loads(Path("runs/two/result.json").read_text())
    assert result["status"] == "finished"
    assert all(torch.isfinite(tensor).all() for tensor in state("two")["model"].values() if tensor.is_floating_point())
