"""From a training to every use of it, for each kind of model and data: the numbers are the run's everywhere."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trainer.command import main as cli
from trainer.use.find import find
from trainer.use.raw import write_raw_test
from trainer.use.samples import own
from trainer.use.trained import open_run

Train = Callable[..., dict[str, Any]]
NET = """
from torch import nn
class Net(nn.Module):
    def __init__(self, in_features, num_classes):
        super().__init__()
        self.body, self.head = nn.Linear(in_features, 8), nn.Linear(8, num_classes)
    def forward(self, x):
        return {"aside": x, "logits": self.head(self.body(x.flatten(1)).relu())}
"""
LOSS = """
from torch import nn
class Loss(nn.Module):
    def forward(self, outputs, targets):
        return nn.functional.cross_entropy(outputs["logits"], targets)
"""
KINDS: dict[str, tuple[str, ...]] = {
    "lenet on digits": ("data=digits",),
    "lenet on mnist": ("data=mnist",),
    "frozen resnet": ("data=image_folder", "model=frozen_resnet", "model.backbone.weights=null"),
    "table": ("data=table", "model=two_layer", "loss=cross_entropy"),
    "sequential": ("data=arrays", "model=sequential", "loss=nll"),
    "own": ("data=digits", "model._target_=mynet.Net", "loss._target_=mynet.Loss", "trust=[mynet]"),
}


def raw_files(kind: str) -> list[str]:
    """The test split as files that the run has never read."""
    with np.load("runs/x/predictions.npz") as left:
        ids = left["id"].tolist()
    run = open_run(find("x"), {"trust": ["mynet"]} if kind == "own" else {})
    if kind == "frozen resnet":
        for i, path in enumerate(map(Path, ids)):
            Path("new").mkdir(exist_ok=True)
            Path(f"new/{i:03d}.png").write_bytes(path.read_bytes())
        return ["new"]
    if kind == "table":
        head, *lines = Path(run.settings.group("data")["path"]).read_text().splitlines()
        Path("new.csv").write_text("\n".join([head, *(lines[row] for row in ids)]))
        return ["new.csv"]
    write_raw_test(run, own(run, "test").data, Path("new.npy"))
    return ["new.npy"]


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_every_use(
    kind: str,
    train: Train,
    tmp_path: Path,
    sources: dict[str, tuple[str, ...]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("onnxruntime")
    (tmp_path / "mynet.py").write_text(NET + LOSS)
    trust = ["trust=[mynet]"] if kind == "own" else []
    words = [*sources[KINDS[kind][0].partition("=")[2]], *KINDS[kind], "max_steps=12", "name=x", "monitor=off"]
    result = train(*{word.partition("=")[0]: word for word in words}.values())
    expected = {name: result[f"test/{name}"] for name in ("loss", "accuracy")}

    def said(*typed: str) -> str:
        capsys.readouterr()
        assert cli.run_command([*typed, *trust]) == 0
        return capsys.readouterr().out

    assert json.loads(said("evaluate", "x", "--json"))["metrics"] == expected
    with np.load("runs/x/predictions.npz") as left:
        outputs, targets = left["outputs"], left["target"]
    files = raw_files(kind)
    said("predict", "x", *files, "out=p.npz")
    with np.load("p.npz") as found:
        assert np.allclose(found["outputs"], outputs, atol=1e-4 * np.abs(outputs).max())
        names = open_run(find("x"), {"trust": ["mynet"]} if trust else {}).about.outputs
        right = [names.name(t) == c for t, c in zip(targets.tolist(), found["class"].tolist(), strict=True)]  # type: ignore[union-attr]
        assert np.mean(right) == expected["accuracy"]
    for form in ("onnx", "pt2", "safetensors"):
        assert Path(f"runs/x/model.{form}").is_file() or said("export", "x", f"format={form}")
        assert Path(f"runs/x/model.{form}").stat().st_size > 1000
    said("pack", "x", "out=p.zip")
    Path("runs").rename("gone")
    program = (
        "from trainer import load\n"
        f"model = load('p.zip', trust={['mynet'] if trust else []})\n"
        f"found = model.predict({files})\n"
        f"right = [model.classes[t] == p.label for t, p in zip({targets.tolist()}, found, strict=True)]\n"
        "print(sum(right) / len(right), model.metrics['test/accuracy'])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [float(word) for word in done.stdout.split()] == [expected["accuracy"], expected["accuracy"]]
