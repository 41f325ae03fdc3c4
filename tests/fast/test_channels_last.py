"""`channels_last=true`: the same numbers, by maps that lie in memory in another way."""

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from plain import losses, request_of
from trainer.config.settings import settings_of
from trainer.errors import UserError
from trainer.fast.channels_last import InChannelsLast
from trainer.models.resnet import resnet18
from trainer.run.environment import refuse_channels_last

Train = Callable[..., dict[str, Any]]
WORDS = ("data.limit=60", "batch_size=20", "max_steps=6", "monitor.every=1", "monitor=off", "dtype=float64")
# Keeps how what it is given lies in memory, for each number of samples.
SEEING = """
import torch
from torch import nn

seen = {}


class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.conv, self.out = nn.Conv2d(3, 4, 3), nn.Linear(4, num_classes)

    def forward(self, x):
        seen.setdefault(len(x), set()).add(x.is_contiguous(memory_format=torch.channels_last))
        return self.out(self.conv(x).mean((2, 3)))
"""


class Named(nn.Module):
    def forward(self, image: Tensor, scale: Tensor, name: str = "") -> list[Any]:
        return [image.stride(), scale.stride(), name]


@pytest.mark.parametrize("num_samples", [1, 5])
def test_the_loss_and_the_gradients_of_the_model(num_samples: int) -> None:
    torch.manual_seed(0)
    model, inputs = resnet18(num_classes=4).double().eval(), torch.randn(num_samples, 3, 40, 33, dtype=torch.float64)
    found = []
    for network in (model, InChannelsLast(model)):
        loss = network(inputs).square().mean()
        found.append([loss.detach(), *torch.autograd.grad(loss, list(model.parameters()))])
    assert_close(*found, rtol=1e-10, atol=1e-12)


def test_pictures_alone_are_turned() -> None:
    image, scale = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4)
    turned = [(60, 1, 15, 3), (12, 4, 1), "x"]
    network = InChannelsLast(Named())
    assert network(image, scale, name="x") == network(image=image, scale=scale, name="x") == turned


@pytest.mark.parametrize("fast", ["true", "false"])
def test_a_run_has_the_same_numbers(fast: str, train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    words = (*WORDS, "model=lenet", f"fast={fast}")
    plain, turned = train(*words, "name=plain"), train(*words, "channels_last=true", "name=turned")
    assert "pictures in channels_last" in turned["computed"]
    assert losses("turned") == pytest.approx(losses("plain"), rel=1e-8)
    assert turned["test/loss"] == pytest.approx(plain["test/loss"], rel=1e-6)
    capsys.readouterr()
    train("evaluate", "turned", "--json")
    assert json.loads(capsys.readouterr().out)["metrics"]["loss"] == turned["test/loss"]


def test_the_model_is_given_them_in_training_validation_and_test(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("seeing.py").write_text(SEEING)
    seeing = importlib.import_module("seeing")
    inputs = torch.randint(0, 256, (97, 3, 8, 8), dtype=torch.uint8).numpy()
    arrays = {"inputs": inputs[:40], "val_inputs": inputs[40:57], "test_inputs": inputs[:31]}
    targets = {name.replace("inputs", "targets"): [i % 2 for i in range(len(part))] for name, part in arrays.items()}
    np.savez("images.npz", **arrays, **targets)
    words = ("data=arrays", "data.path=images.npz", "model._target_=seeing.Net", "trust=[seeing]", "channels_last=true")
    train(*WORDS[1:], *words)
    assert seeing.seen[20] == seeing.seen[17] == seeing.seen[31] == {True}  # of a step, a validation, the test


def test_without_pictures_it_is_refused() -> None:
    settings = settings_of(request_of("channels_last=true"))
    refuse_channels_last(settings, {"image": torch.zeros(2, 3, 4, 4), "scale": torch.zeros(2, 1)})
    with pytest.raises(UserError, match=r"an input is \[8\], \[2, 3\]\. Type channels_last=false\."):
        refuse_channels_last(settings, (torch.zeros(2, 8), torch.zeros(2, 2, 3)))


def test_a_frozen_backbone_runs_in_every_step_and_a_line_says_why(
    train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("model=frozen_resnet", "model.backbone.weights=null", "max_steps=3", "data.limit=30")
    result = train(*WORDS[1:2], *words, "channels_last=true")
    assert "the frozen backbone runs at every step: channels_last=true" in capsys.readouterr().out
    assert result["computed"].startswith("pictures in channels_last; autograd")
