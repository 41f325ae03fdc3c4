"""Half precision on a CPU that has no instructions for it: a line says how long that takes."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from plain import request_of
from trainer.config.settings import settings_of
from trainer.run.environment import doubts_of_precision
from trainer.system import vectors

Command = Callable[..., subprocess.CompletedProcess[str]]
QUICK = ("max_steps=2", "monitor=off", "data.limit=60")


@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() == "DEFAULT", reason="no AVX2")
def test_a_line_says_so_and_what_it_says_to_type_has_none(command: Command, tmp_path: Path) -> None:
    env = {"ATEN_CPU_CAPABILITY": "avx2"}
    done = command(*QUICK, "precision=bfloat16", env=env)
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("warning"))
    assert line.startswith("warning: precision=bfloat16: this CPU has no instructions for it")
    *_, word = line.rstrip(".").split()
    done = command(*QUICK, word, env=env)
    assert (done.returncode, "warning" in done.stdout) == (0, False)


@pytest.mark.parametrize(("capability", "is_imitated"), [("AVX2", True), ("AVX512", False), ("DEFAULT", False)])
def test_who_imitates(capability: str, is_imitated: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """DEFAULT is what torch says of an ARM's vectors, too."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert vectors.imitates_half() == is_imitated
    assert vectors.has_wide_vectors() == (capability == "AVX512")
    for precision, has_line in (("bfloat16", is_imitated), ("float16", is_imitated), ("float32", False)):
        settings = settings_of(request_of(f"precision={precision}"))
        assert bool(doubts_of_precision(settings, torch.device("cpu"))) == has_line
        assert not doubts_of_precision(settings, torch.device("cuda"))
