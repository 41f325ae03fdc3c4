"""Lines for people: what they quote may be of any length, they are not."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from trainer.errors import UserError, first_line, in_a_line
from trainer.exits import exit_code
from trainer.signals import Signals


@pytest.mark.parametrize("quoted", ["x" * 100_000, ", ".join(f"column {i}" for i in range(5000))])
def test_a_line_keeps_its_beginning_and_what_to_type(quoted: str) -> None:
    line = str(UserError(f"data.path=a.csv: its header has {quoted}. Type data.targets=[-1]."))
    assert len(line) <= 2000
    assert line.startswith("data.path=a.csv: its header has ")
    assert line.endswith(". Type data.targets=[-1].")


def test_a_line_of_usual_length_is_whole() -> None:
    assert str(UserError("a" * 2000)) == "a" * 2000


def test_an_error_that_says_nothing_is_called_by_its_kind() -> None:
    assert first_line(ValueError()) == in_a_line(ValueError()) == "ValueError"
    assert (first_line(ValueError("a b.\nc.")), in_a_line(ValueError("a  b\nc."))) == ("a b", "a b c")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        MemoryError("std::bad_alloc"),
        OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
        RuntimeError("can't start new thread"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: not enough memory: you tried"),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
    ],
    ids=str,
)
def test_too_little_memory_is_a_line_and_no_fault(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    def task(signals: Signals) -> None:
        raise error

    assert exit_code(task) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: there is not enough memory (")
    assert said.count("\n") == 1


def test_no_deterministic_kernel_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    def task(signals: Signals) -> None:
        raise RuntimeError("nll_loss2d does not have a deterministic implementation, but you set 'torch.use_det")

    assert exit_code(task) == 2
    said = capsys.readouterr().err
    assert said.startswith(
        "error: deterministic=true: on a GPU torch has no nll_loss2d that gives the same bits. Type "
    )
    assert said.count("\n") == 1


def test_a_fault_is_a_fault(capsys: pytest.CaptureFixture[str]) -> None:
    def task(signals: Signals) -> None:
        raise RuntimeError("two and two")

    assert exit_code(task) == 1
    said = capsys.readouterr().err
    assert said.startswith("Traceback")
    assert "RuntimeError: two and two\nerror: this is a fault of train itself" in said


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ulimit -v is of Linux")
def test_a_limit_on_memory_is_a_line(tmp_path: Path) -> None:
    command = f'ulimit -v 400000; "{sys.executable}" -m trainer data.limit=40 max_steps=1'  # kB, less than torch itself
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: there is not enough memory (")
    assert done.stderr.count("\n") == 1


def test_a_library_that_waits_for_ever_changes_no_exit_code() -> None:
    """Its handler at the interpreter's end would: it takes the library down under a thread that is in it."""
    code = """
import atexit, os, threading
from trainer.exits import leave, waiting
waiting.append(threading.Thread(target=threading.Event().wait, daemon=True))
waiting[0].start()
atexit.register(os._exit, 1)
print("said")
leave(143)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    assert (done.returncode, done.stdout, done.stderr) == (143, "said\n", "")
