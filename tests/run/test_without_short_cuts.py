"""With `fast/` and `stack/` gone, everything still trains."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

TUTORIALS = {
    "two layers, autograd": ("experiment=seed_two_layer", "max_steps=20"),
    "two layers, tensors": ("experiment=seed_two_layer", "model.gradient=tensors", "max_steps=20"),
    "two layers, NumPy": ("experiment=seed_two_layer", "model.gradient=numpy", "max_steps=20"),
    "two layers, a Function": ("experiment=seed_two_layer", "model.gradient=custom_function", "max_steps=20"),
    "LeNet, watched": ("model=lenet", "max_steps=3", "monitor=full"),
    "LeNet, 3x3": ("model=lenet", "model.kernel_size=3", "max_steps=3"),
    "ResNet, frozen": ("model=frozen_resnet", "model.backbone.weights=null", "data.limit=40", "max_steps=2"),
    "layers in a list": ("model=sequential", "loss=nll", "max_steps=3"),
    "a module of one's own": ("model._target_=mynet.Net", "trust=[mynet]", "max_steps=3"),
}
# An import of either room raises ModuleNotFoundError, as if its folder were not there.
BLOCKED = """
import sys
sys.modules["trainer.fast"] = sys.modules["trainer.stack"] = None
from trainer.command.main import main, run_command
for words in {words!r}:
    print(words, run_command(["monitor=off", *words, "fast=false"]))
"""
NET = """
from torch import nn

class Net(nn.Module):
    def __init__(self, in_features, num_classes):
        super().__init__()
        self.layer = nn.Linear(in_features, num_classes)

    def forward(self, images):
        return self.layer(images.flatten(1))
"""


def test_the_tutorials_train_without_fast_and_stack(tmp_path: Path) -> None:
    (tmp_path / "mynet.py").write_text(NET)
    code = BLOCKED.format(words=list(TUTORIALS.values()))
    env = {**os.environ, "OMP_NUM_THREADS": "1"}  # two pytest workers share two cores
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(") 0\n") == len(TUTORIALS), done.stdout


@pytest.mark.slow
def test_a_run_that_wants_them_does_not_pass_over_in_silence(tmp_path: Path) -> None:
    """Or else the test above would show nothing."""
    code = BLOCKED.format(words=[("max_steps=2",)]).replace(', "fast=false"', "")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert "trainer.fast" in done.stderr


@pytest.mark.parametrize("fast", ["true", "false"])
def test_what_was_chosen_is_told(fast: str, train: Callable[..., dict[str, str]]) -> None:
    words = ("model=two_layer", "max_steps=2", f"fast={fast}")
    assert train(*words)["computed"].startswith("a recorded step" if fast == "true" else "plain torch")
