"""Which device a run gets."""

import pytest
import torch

from trainer.run.environment import find_device


def test_a_gpu_with_a_number_becomes_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or else streams, CUDA graphs and pinned memory would be GPU 0's. There is none here: torch is told of two."""
    current: list[torch.device] = []
    for name, found in (("is_available", True), ("device_count", 2)):
        monkeypatch.setattr(torch.cuda, name, lambda found=found: found)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    assert find_device("cuda:1") == torch.device("cuda:1")
    assert find_device("auto") == find_device("cuda") == torch.device("cuda")
    assert current == [torch.device("cuda:1")]
