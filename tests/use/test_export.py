"""`train export`: raw samples in, the model's own outputs out, in a process that knows nothing of us."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trainer.command import main as cli
from trainer.errors import UserError
from trainer.use import export as exporting
from trainer.use import portable
from trainer.use.find import find
from trainer.use.proof import judged, own_outputs
from trainer.use.raw import write_raw_test
from trainer.use.samples import own
from trainer.use.trained import open_run

Train = Callable[..., dict[str, Any]]
Sources = dict[str, tuple[str, ...]]
TINY = ("max_steps=6", "name=x", "monitor=off")
KINDS: dict[str, tuple[str, ...]] = {
    "pictures": ("data=digits",),
    "colour": ("data=mnist", "model=two_layer", "data.normalize=false", "data.image_size=20"),
    "table": ("data=table", "model=two_layer", "loss=cross_entropy"),
    "arrays": ("data=arrays", "model=sequential", "loss=nll"),
    "numbers": ("data=random_regression", "model=two_layer", "loss=mse", "data.num_samples=40"),
    "folder": ("data=image_folder", "model=frozen_resnet", "model.backbone.weights=null"),
}
QUICK = ("pictures", "colour", "table", "arrays")


def trained(kind: str, train: Train, sources: Sources) -> dict[str, Any]:
    words = [*sources[KINDS[kind][0].partition("=")[2]], *KINDS[kind], *TINY]
    return train(*{word.partition("=")[0]: word for word in words}.values())


@pytest.mark.parametrize("kind", QUICK)
def test_raw_samples_become_the_same_outputs(kind: str, train: Train, sources: Sources) -> None:
    trained(kind, train, sources)
    run = open_run(find("x"))
    write_raw_test(run, own(run, "test").data, Path("raw.npy"))
    raw = torch.from_numpy(np.load("raw.npy"))
    net = portable.Portable(run.model, portable.of(run.about.inputs, run.dtype), run.about.outputs)
    with torch.no_grad(), np.load("runs/x/predictions.npz") as left:
        outputs, *probabilities = net(raw)
        assert torch.allclose(outputs, torch.from_numpy(left["outputs"]), atol=1e-4)
        assert torch.allclose(probabilities[0].sum(1), torch.ones(len(raw)))


def test_logarithms_come_with_the_numbers_that_they_stand_for(train: Train, tmp_path: Path) -> None:
    """As `train predict` gives them: who runs the file can't know that Poisson's loss took logarithms."""
    x = np.random.default_rng(0).normal(size=(60, 3))
    np.savez(tmp_path / "counts", inputs=x, targets=np.exp(x[:, :2]).round())
    train("data=arrays", f"data.path={tmp_path}/counts.npz", "model=two_layer", "loss=poisson_nll", *TINY)
    assert cli.run_command(["predict", "x", "counts.npz", "out=p.npz"]) == 0
    run = open_run(find("x"))
    net = portable.Portable(run.model, portable.of(run.about.inputs, run.dtype), run.about.outputs)
    with torch.no_grad(), np.load("p.npz") as found:
        for name, part in zip(net.names, net(torch.from_numpy(x)), strict=True):
            assert np.allclose(part, found[name], atol=1e-5)
        assert np.allclose(np.exp(found["outputs"]), found["values"])


@pytest.mark.long
def test_of_several_outputs_one_is_said_to_be_taken(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its loss reads all of them, so that the proof has the other numbers of `result.json` alone."""
    (tmp_path / "twice.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, in_features, out_features):\n"
        "        super().__init__()\n"
        "        self.mean, self.spread = nn.Linear(in_features, out_features), nn.Linear(in_features, out_features)\n"
        "    def forward(self, x):\n"
        "        x.div_(2)  # it writes into what it is given\n"
        "        return {'mean': self.mean(x), 'spread': self.spread(x)}\n"
        "def nll(outputs, targets):\n"
        "    return ((outputs['mean'] - targets).square() * (-outputs['spread']).exp() + outputs['spread']).mean()\n"
    )
    words = ("data=random_regression", "data.num_samples=40", "model._target_=twice.Net", "loss._target_=twice.nll")
    result = train(*words, "trust=[twice]", *TINY)
    np.save("new.npy", np.zeros((2, 1000)))
    line = "the model gives mean, spread, each of which could be meant: mean is taken."
    assert cli.run_command(["predict", "x", "new.npy", "trust=[twice]"]) == 0
    assert capsys.readouterr().err.startswith(line)
    assert cli.run_command(["export", "x", "format=pt2", "trust=[twice]"]) == 0
    told = capsys.readouterr()
    assert told.err.startswith(line)
    assert f"test samples: test/mae {result['test/mae']:.6g} (result.json: {result['test/mae']:.6g})" in told.out


@pytest.mark.parametrize("loss", ["several.of_first", "several.of_both", "of_model"])
def test_a_loss_that_reads_more_than_a_file_gives_proves_nothing(loss: str, train: Train, tmp_path: Path) -> None:
    """`outputs[0]` was the first row of the file's one tensor; the other two were a traceback."""
    (tmp_path / "several.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, in_features, out_features=1):\n"
        "        super().__init__()\n"
        "        self.mean, self.spread = nn.Linear(in_features, out_features), nn.Linear(in_features, out_features)\n"
        "    def forward(self, x, labels=None):\n"
        "        mean, spread = self.mean(x), self.spread(x)\n"
        "        return (mean, spread) if labels is None else ((mean - labels).square().mean(), mean, spread)\n"
        "def of_first(outputs, targets):\n"
        "    return (outputs[0] - targets).square().mean()\n"
        "def of_both(outputs, targets):\n"
        "    mean, spread = outputs\n"
        "    return ((mean - targets).square() * (-spread).exp() + spread).mean()\n"
    )
    words = (f"loss={loss}",) if loss == "of_model" else (f"loss._target_={loss}",)
    data = ("data=random_regression", "data.num_samples=60", "model._target_=several.Net")
    result = train(*data, *words, "trust=[several]", *TINY)
    run = open_run(find("x"), {"trust": ["several"]})
    labelled = own(run, "test")
    numbers = judged(run, labelled, own_outputs(run, labelled.batches))
    assert numbers.keys() == {"mae", "r2"}
    for name in () if loss == "of_model" else numbers:
        assert numbers[name] == pytest.approx(result[f"test/{name}"])


DEEP = """
import torch
from torch import nn


def items():
    rows = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    inputs = [{"numbers": {"a": row, "b": 2 * row}, "c": row[:1]} for row in rows]
    return [{"inputs": each, "label": (each["c"][0] > 0).long()} for each in inputs]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(9, 2)

    def forward(self, numbers, c):
        return self.layer(torch.cat([numbers["a"], numbers["b"], c], 1))


class Line(nn.Linear):
    def __init__(self, in_features):
        super().__init__(in_features, 1)


def slope(outputs, inputs):
    return (torch.autograd.grad(outputs.sum(), inputs, create_graph=True)[0] - 1).square().mean()
"""


def test_dicts_in_dicts_and_a_loss_of_derivatives_prove_what_they_can(train: Train, tmp_path: Path) -> None:
    """Each was a traceback: two keys were taken for two samples, and known outputs have no derivative."""
    (tmp_path / "deep.py").write_text(DEEP)
    nested = ("data._target_=deep.items", "model._target_=deep.Net")
    derived = ("data=random_regression", "data.num_samples=60", "model._target_=deep.Line", "loss._target_=deep.slope")
    for name, words, names in (("a", nested, {"loss", "accuracy"}), ("b", derived, set())):
        result = train(*words, "trust=[deep]", "max_steps=6", "monitor=off", f"name={name}")
        run = open_run(find(name), {"trust": ["deep"]})
        labelled = own(run, "test")
        numbers = judged(run, labelled, own_outputs(run, labelled.batches))
        assert names <= numbers.keys()
        assert "loss" not in numbers or "loss" in names
        for metric, number in numbers.items():
            assert number == pytest.approx(result[f"test/{metric}"])


def test_words_embedded_and_missing(train: Train, sources: Sources) -> None:
    """Each kind of column, against what the recipe itself makes of the same cells."""
    from trainer.data.tables.read import read
    from trainer.data.tables.recipe import Recipe, fit

    Path("t.csv").write_text("a,b,c\n1,x,u\n,y,\n3,,v\n4,z,u\n5,x,w\n")
    table = read(Path("t.csv"))
    for embed, most in ((["c"], 50), ([], 1), (["b", "c"], 50)):
        recipe = Recipe(tuple(fit(table, ["a", "b", "c"], np.array([0, 1, 3]), True, most, embed)))
        found = portable.RowInputs(recipe, torch.float64)(torch.from_numpy(portable.coded(recipe, table)))
        expected = recipe.apply(table, [])
        if isinstance(expected, dict):
            assert all(torch.equal(found[name], expected[name]) for name in expected)
        else:
            assert torch.equal(found, expected)


@pytest.mark.long
@pytest.mark.parametrize("form", ["onnx", "pt2"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_export_proves_itself(
    kind: str, form: str, train: Train, sources: Sources, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")
    result = trained(kind, train, sources)
    capsys.readouterr()
    assert cli.run_command(["export", "x", f"format={form}", f"out=m.{form}"]) == 0
    out = capsys.readouterr().out
    assert "run by itself" in out
    assert f"(result.json: {result['test/loss']:.6g})" in out
    program = {
        "onnx": "import onnxruntime, json, numpy as np\ns = onnxruntime.InferenceSession('m.onnx')\n"
        "about = json.loads(s.get_modelmeta().custom_metadata_map['train'])\n",
        "pt2": "import torch, json\nextra = {'train.json': ''}\nm = torch.export.load('m.pt2', extra_files=extra)\n"
        "about = json.loads(extra['train.json'])\n",
    }[form]
    done = subprocess.run(
        [sys.executable, "-I", "-c", f"{program}print(json.dumps(about))"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    about = json.loads(done.stdout)
    assert about["proof"]["metrics"]["loss"] == pytest.approx(result["test/loss"], rel=1e-3)
    assert about["proof"]["samples"] > 0
    if kind == "table":
        assert about["levels"]["colour"] == ["blue", "red"]


@pytest.mark.long
def test_weights_and_eight_bits(train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    train(*TINY)
    assert cli.run_command(["export", "x", "format=safetensors"]) == 0
    found = safetensors.load_file("runs/x/model.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in open_run(find("x")).model.state_dict().items())
    assert cli.run_command(["export", "x", "quantize=int8", "preprocessing=false", "out=q.onnx"]) == 0
    assert "weights in 8 bits" in capsys.readouterr().out
    assert Path("q.onnx").stat().st_size < 120_000


COLOURED = """
from torch import nn


def net(num_classes):
    return nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(72, num_classes))
"""


@pytest.mark.long
def test_what_onnxruntime_lacks_is_told_with_a_format_that_works(train: Train, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    Path("coloured.py").write_text(COLOURED)
    words = ("model._target_=coloured.net", "trust=[coloured]")
    with pytest.raises(UserError, match=r"have 3 channels, but got 1 .*\. Type model\.in_channels=3: grey images"):
        train(*TINY, *words)
    train(*TINY, *words, "model.in_channels=3", "dtype=float64")
    with pytest.raises(UserError, match=r"onnxruntime can't compute this model: .*Conv.* Type format=pt2; of a model"):
        cli.run_command(["export", "x", "trust=[coloured]", "out=m.onnx"])
    assert not Path("m.onnx").exists()
    assert cli.run_command(["export", "x", "trust=[coloured]", "format=pt2", "out=m.pt2"]) == 0


@pytest.mark.long
def test_of_a_pack_the_file_lies_beside_it(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It lay in a cache, where nobody looks."""
    pytest.importorskip("safetensors")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    train(*TINY)
    assert cli.run_command(["pack", "x", "out=there.zip"]) == 0
    assert cli.run_command(["export", "there.zip", "format=safetensors"]) == 0
    assert [path.name for path in tmp_path.glob("*.safetensors")] == ["there.safetensors"]


@pytest.mark.long
def test_what_is_not_the_model_is_not_left(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(*TINY)

    class Wrong(portable.PictureInputs):
        def forward(self, raw: torch.Tensor) -> torch.Tensor:
            return super().forward(raw).flip(2)

    monkeypatch.setattr(portable, "PictureInputs", Wrong)
    with pytest.raises(UserError, match=r"for another class than the model .* It is not kept"):
        exporting.export("x", None, {}, "pt2")
    assert not list(tmp_path.rglob("*.pt2*"))


@pytest.mark.long
def test_a_model_that_no_graph_can_say(train: Train, tmp_path: Path) -> None:
    (tmp_path / "branchy.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, in_features, num_classes):\n"
        "        super().__init__()\n"
        "        self.layer = nn.Linear(in_features, num_classes)\n"
        "    def forward(self, x):\n"
        "        return self.layer(x.flatten(1)) * (2 if x.sum() > 0 else 1)\n"
    )
    words = ("model._target_=branchy.Net", "trust=[branchy]")
    train(*words, *TINY)
    with pytest.raises(UserError, match=r"format=pt2: torch can't export this model: .*") as caught:
        cli.run_command(["export", "x", "format=pt2", "trust=[branchy]"])
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="trust"):
        cli.run_command(["export", "x", "format=pt2"])
