"""What it means that two runs end alike: to the last bit."""

from pathlib import Path
from typing import Any

import torch

from trainer.disk import checkpoint


def assert_same(a: Any, b: Any, where: str = "state") -> None:
    """Every tensor of two states bit for bit, every number exactly; only times differ, and how it was computed."""
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        kept = [[key for key in each if not str(key).startswith(("seconds", "time/", "computed"))] for each in (a, b)]
        assert set(kept[0]) == set(kept[1]), where
        for key in kept[0]:
            assert_same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple):
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}.{i}")
    else:
        assert a == b, where


def states(folder: str, step: int) -> dict[str, Any]:
    return checkpoint.read(Path(folder, "checkpoints", f"step_{step:08d}.pt"))
