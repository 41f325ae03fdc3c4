"""`profile=true` says where the time goes, and changes no number."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from plain import losses

Train = Callable[..., dict[str, Any]]
WORDS = ("monitor=off", "monitor.every=1", "data.limit=100", "batch_size=40", "model=sequential", "loss=nll")


@pytest.mark.slow
def test_it_lists_operations_and_layers_and_writes_a_trace(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    train(*WORDS, "max_steps=30", "name=plain")
    capsys.readouterr()
    train(*WORDS, "max_steps=30", "profile=true", "name=it")
    said = capsys.readouterr().out
    operations = [line for line in said.splitlines() if line.startswith("ms a step, operation")]
    layers = [line for line in said.splitlines() if line.startswith("ms a step, forward")]
    assert any("aten::addmm" in line for line in operations)
    assert any("(Linear)" in line for line in layers)
    assert any("(Dropout)" in line for line in layers)
    assert json.loads(Path("runs/it/trace.json").read_text())["traceEvents"]
    assert losses("it") == losses("plain")  # dropout, too


def test_a_short_run_has_a_short_one_or_says_so(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    train(*WORDS, "max_steps=8", "profile=true", "name=short")
    assert "(Linear)" in capsys.readouterr().out
    train(*WORDS, "max_steps=2", "profile=true", "name=shorter")
    assert "2 steps are too few. Type max_steps=26" in capsys.readouterr().out
    assert losses("shorter") == losses("short")[:2]
