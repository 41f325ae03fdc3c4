"""A run on a GPU: the numbers of the same run on the CPU, the same bits after a kill, what it can't do in a line."""

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exact import assert_same, states
from plain import losses
from too_large import HUNGRY

Train = Callable[..., dict[str, Any]]
Command = Callable[..., subprocess.CompletedProcess[str]]
pytestmark = pytest.mark.cuda

# 48 samples of which 38 are trained on: four steps an epoch, the last of two samples.
QUICK = ("data.limit=48", "batch_size=12", "max_steps=9", "eval_every=3", "monitor.every=1", "monitor=scalars")
SGD = ("optimizer=sgd", "optimizer.momentum=0.9", "optimizer.lr=0.02")
LAYERS = (
    "model.layers=[{_target_:torch.nn.Flatten},{_target_:torch.nn.Linear,in_features:64,out_features:20},"
    "{_target_:torch.nn.BatchNorm1d,num_features:20},{_target_:torch.nn.GELU},"
    "{_target_:torch.nn.Linear,in_features:20,out_features:10}]"
)
PENALTY = "+loss.terms.l2={weight:0.01,criterion:{_target_:trainer.losses.criteria.L2Penalty}}"
OWN = """
import torch
from torch import Tensor, nn

from trainer import Data, Samples


class Net(nn.Module):
    def __init__(self, in_features, num_classes):
        super().__init__()
        self.hidden, self.out = nn.Linear(in_features, 8), nn.Linear(8, num_classes)

    def forward(self, x):
        return {"logits": self.out(self.hidden(x).tanh())}


class Margin(nn.Module):
    def forward(self, outputs: dict[str, Tensor], targets: Tensor) -> Tensor:
        return nn.functional.multi_margin_loss(outputs["logits"], targets)


class Rows(torch.utils.data.Dataset):
    def __init__(self, n):
        draw = torch.Generator().manual_seed(n)
        self.rows, self.n = torch.randn(n, 6, generator=draw), n

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        return self.rows[i], int(self.rows[i, 0] > 0)


def data():
    return Data(Rows(40), Rows(12), Rows(13), num_classes=2)
"""
RECIPES = {
    "lenet": ("model=lenet", *SGD),
    "adam": ("model=lenet",),
    "muon": ("model=two_layer", "optimizer=muon"),
    "tensors": ("model=two_layer", "model.gradient=tensors", *SGD),
    "custom_function": ("model=two_layer", "model.gradient=custom_function", *SGD),
    "batch norm": ("model=sequential", LAYERS, "loss=cross_entropy", *SGD),
    "resnet18": ("model=resnet18", "max_steps=3", *SGD),
    "frozen_resnet": ("model=frozen_resnet", "model.backbone.weights=null", *SGD),
    "regression": ("model=two_layer", "data=random_regression", "loss=mse", "optimizer=adamw"),
    "terms": ("model=two_layer", "loss=composite", PENALTY, *SGD),
    "parts": ("model=lenet", "gradient.accumulate=2", "gradient.clip_norm=0.1", "average.decay=0.9", *SGD),
    "augmented": ("model=lenet", "data.augment.crop_padding=2", "data.augment.horizontal_flip=true", *SGD),
    "recomputed": ("model=resnet18", "max_steps=2", "gradient.checkpoint=true", *SGD),
    "image files": ("model=lenet", "data=image_folder", "data.num_workers=2", *SGD),
    "a table": ("model=two_layer", "data=table", *SGD),
    "own": ("model._target_=mine.Net", "loss._target_=mine.Margin", "data._target_=mine.data", "trust=[mine]", *SGD),
}


def numbers(name: str) -> list[dict[str, float]]:
    """What a run wrote down, without times and what a device says of itself."""
    lines = map(json.loads, Path("runs", name, "metrics.jsonl").read_text().splitlines())
    return [{tag: x for tag, x in line.items() if not tag.startswith(("time/", "device/"))} for line in lines]


def assert_close(name: str, other: str, rel: float) -> None:
    for ours, expected in zip(numbers(name), numbers(other), strict=True):
        assert ours == pytest.approx(expected, rel=rel, abs=rel, nan_ok=True)


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_numbers_of_the_cpu(recipe: str, device: str, train: Train, sources: dict[str, tuple[str, ...]]) -> None:
    """In float64, where nothing is left to how a device rounds."""
    Path("mine.py").write_text(OWN)
    words = RECIPES[recipe]
    source = next((word.partition("=")[2] for word in words if word.startswith("data=")), "")
    given = [word for word in sources.get(source, ()) if not word.startswith("data.num_workers")]
    quick = [word for word in QUICK if not (source or recipe == "own") or not word.startswith("data.limit")]
    words = (*quick, *given, *words, "dtype=float32" if device == "mps" else "dtype=float64")
    there = train(*words, f"device={device}", "name=there")
    train(*words, "device=cpu", "name=here")
    assert there["status"] == "finished"
    assert_close("there", "here", 1e-2 if device == "mps" else 1e-6)


def test_data_may_lie_on_the_device(device: str, train: Train) -> None:
    words = [word for word in (*QUICK, *RECIPES["own"]) if not word.startswith("data.limit")]
    for name, place in (("here", "cpu"), ("there", device)):
        Path(f"{name}.py").write_text(OWN.replace("generator=draw)", f"generator=draw).to({place!r})"))
        own = [word.replace("mine", name) for word in words]
        train(*own, "dtype=float32" if device == "mps" else "dtype=float64", f"device={device}", f"name={name}")
    assert numbers("there") == numbers("here")


def test_a_metric_may_be_a_function_of_numpy_s(device: str, train: Train) -> None:
    judged = "(outputs.numpy().argmax(1) == targets.numpy()).mean()"
    Path("judged.py").write_text(f"def right(outputs, targets):\n    return {judged}\n")
    words = (*QUICK, "model=two_layer", "metric.right._target_=judged.right", "metric.right.larger_is_better=true")
    result = train(*words, "trust=[judged]", f"device={device}", "name=judged")
    assert result["test/right"] == pytest.approx(result["test/accuracy"])


def test_float32_is_near(device: str, train: Train) -> None:
    """A convolution may go by TF32, of ten bits."""
    words = (*QUICK, "model=lenet", *SGD, "eval_every=9")
    train(*words, f"device={device}", "name=there")
    train(*words, "device=cpu", "name=here")
    assert losses("there") == pytest.approx(losses("here"), rel=2e-2)


def skip_minutes(model: str, device: str) -> None:
    if (model, device) == ("resnet18", "cpu"):
        pytest.skip("takes minutes on a CPU")


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("model", ["lenet", "resnet18"])
def test_half_precision_learns(precision: str, model: str, device: str, train: Train) -> None:
    skip_minutes(model, device)
    words = (f"precision={precision}", "monitor=scalars", "monitor.every=1", "data.limit=200", "batch_size=20")
    result = train(*words, f"model={model}", f"device={device}", "max_steps=40", "name=half")
    first, last = losses("half")[:10], losses("half")[-10:]
    assert all(map(math.isfinite, last))
    assert sum(last) < 0.8 * sum(first)
    assert math.isfinite(result["test/loss"])


def killed_at(step: int, command: list[str], folder: Path) -> None:
    """Kills a run after it has printed this step."""
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert any(line.startswith(f"step={step} train/") for line in process.stdout)
        process.send_signal(signal.SIGKILL)
        process.stdout.read()
    assert process.returncode == -signal.SIGKILL


@pytest.mark.parametrize("model", ["lenet", "resnet18"])
def test_the_same_bits_after_a_kill(
    model: str, device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Callable[..., None]
) -> None:
    """With dropout, whose draws are the device's."""
    skip_minutes(model, device)
    dropout = ("model.dropout=0.3",) if model == "lenet" else ("data.augment.crop_padding=1",)
    words = (f"model={model}", *dropout, "data.limit=120", "batch_size=20", "max_steps=60", "console.every=1")
    words += ("checkpoint.every=7", "deterministic=true", f"device={device}", "monitor=scalars", "threads=1")
    command = [sys.executable, "-m", "trainer", *words]
    for name in ("whole", "again"):
        done = subprocess.run([*command, f"name={name}"], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    for step in (5, 33):
        killed_at(step, [*command, "name=broken"], tmp_path)
    done = subprocess.run([*command, "name=broken"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    monkeypatch.chdir(tmp_path)
    assert_same(states("runs/again", 60), states("runs/whole", 60))
    assert_same(states("runs/broken", 60), states("runs/whole", 60))
    record_property("after a kill", "the same bits")


def test_how_long_the_device_waits_for_its_batches(device: str, train: Train) -> None:
    """Nearly all of the time where each sample takes 5 ms; hardly any where they lie in memory."""
    if device == "mps":
        pytest.skip("Apple's GPUs are not measured")
    slow = OWN.replace("return self.rows[i],", "time.sleep(0.005); return self.rows[i],").replace(
        "torch\n", "time, torch\n", 1
    )
    Path("mine.py").write_text(slow)
    words = ("batch_size=8", "max_steps=30", "monitor.every=10", "monitor.waiting=always", f"device={device}")
    train(*words, *RECIPES["own"], "name=slow")
    train(*words, "name=quick")
    slow_share, quick_share = (
        [json.loads(line).get("time/waiting") for line in Path("runs", name, "metrics.jsonl").read_text().splitlines()]
        for name in ("slow", "quick")
    )
    assert all(share is None or 0.5 < share <= 1 for share in slow_share[1:])  # a device begins slowly
    assert all(share is None or 0 <= share < 0.5 for share in quick_share[1:])
    assert sum(share is not None for share in slow_share) == 4


def test_pictures_in_channels_last_have_the_same_numbers(device: str, train: Train) -> None:
    words = ("data.limit=48", "batch_size=12", "max_steps=5", "monitor=off", "monitor.every=1", f"device={device}")
    words += ("model=lenet", "dtype=float32" if device == "mps" else "dtype=float64")
    train(*words, "name=plain")
    train(*words, "channels_last=true", "name=turned")
    assert_close("turned", "plain", 1e-2 if device == "mps" else 1e-6)


def test_a_run_is_used_on_another_device(device: str, train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    """Trained there, evaluated here, continued here."""
    dtype = "dtype=float32" if device == "mps" else "dtype=float64"
    words = (*QUICK, "model=lenet", dtype, "name=moved")
    result = train(*words, f"device={device}")
    capsys.readouterr()
    train("evaluate", "moved", "device=cpu", "--json")
    found = json.loads(capsys.readouterr().out)["metrics"]
    assert found["loss"] == pytest.approx(result["test/loss"], rel=1e-5)
    assert train(*words, "device=cpu", "max_steps=12")["steps"] == 12


def test_a_step_that_does_not_fit_is_made_in_halves(
    device: str, train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("hungry.py").write_text(HUNGRY)
    words = ("model._target_=hungry.Net", "trust=[hungry]", "monitor=off", "monitor.every=1", "data.limit=100")
    words += ("batch_size=40", "max_steps=6", f"device={device}")
    train(*words, "model.most=1000", "name=whole")
    capsys.readouterr()
    train(*words, "name=halves")
    assert "out of memory with 40 samples at once: this step and all that follow go in parts of 20." in (
        capsys.readouterr().out
    )
    assert losses("halves") == pytest.approx(losses("whole"), rel=1e-4)


@pytest.mark.parametrize("loss", ["nll", "bce"])
def test_a_run_that_diverges_says_so(loss: str, device: str, command: Command) -> None:
    """And ends in no error of the device."""
    words = ("model=sequential", f"loss={loss}", "optimizer=sgd", "optimizer.lr=1e30", "max_steps=20", "monitor=off")
    done = command(*words, f"device={device}")
    assert (done.returncode, done.stderr.count("\n")) == (3, 1), done.stderr
    assert "the loss is not finite" in done.stderr


def test_a_device_that_is_not_there_is_a_line(device: str, command: Command, tmp_path: Path) -> None:
    done = command("device=cuda:9")
    assert done.returncode == 2
    assert done.stderr.startswith("error: device=cuda:9: is not there; there is cpu")
    assert done.stderr.endswith("Type device=auto for the best of them.\n")
    assert not os.listdir(tmp_path)
