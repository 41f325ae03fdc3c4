"""`train replay`: the same bits as recorded, each sample's part in the gradient, and the sample that was planted."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from trainer.command import main as cli
from trainer.data import digits
from trainer.data.batches import Batch
from trainer.errors import RunStopped, UserError
from trainer.losses.function import LossFunction
from trainer.meaning import Classes
from trainer.use import look as looking

Train = Callable[..., dict[str, Any]]
QUICK = ("monitor=off", "monitor.every=5")
# What is better by no more than 9 is not better.
PLATEAU = (
    *("scheduler=plateau", "scheduler.metric=val/accuracy", "scheduler.patience=0", "+scheduler.threshold=9"),
    "eval_every=1",
)
NORMED = """
from torch import nn
class Net(nn.Sequential):
    def __init__(self, in_features: int, num_classes: int):
        super().__init__(nn.Flatten(), nn.Linear(in_features, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3),
                         nn.Linear(16, num_classes))
"""


def replayed(*words: str) -> dict[str, Any]:
    run, step = words[0], next(word for word in words if word.startswith("step="))[5:]
    assert cli.run_command(["replay", *words]) == 0
    name = "worst" if any(word.startswith("worst=") for word in words) else "step"
    found: dict[str, Any] = json.loads(Path("runs", run, "replay", f"step-{step}", f"{name}.json").read_text())
    return found


def test_a_step_with_the_same_bits(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a network whose samples share a batch norm, with dropout; from the checkpoint in the middle."""
    Path("normed17.py").write_text(NORMED)
    words = ("model._target_=normed17.Net", "trust=[normed17]", "monitor=scalars", "monitor.every=1", "max_steps=60")
    train("name=a", *words, "checkpoint.history=8", "checkpoint.keep=1")
    kept = sorted(int(path.stem[5:]) for path in Path("runs/a/checkpoints").glob("step_*.pt"))
    assert kept == [8, 16, 24, 32, 40, 48, 56, 60]
    assert cli.run_command(["evaluate", "a", "checkpoint=40", "trust=[normed17]"]) == 0
    before = {path: path.read_bytes() for path in Path("runs/a").rglob("*") if path.is_file()}
    step = replayed("a", "step=45", "until=46", "trust=[normed17]")
    assert step["from"] == "the checkpoint of step 40"
    assert step["same_bits"] is True
    assert {path: path.read_bytes() for path in before} == before  # nothing of the run itself changes
    records = {r["step"]: r for r in map(json.loads, Path("runs/a/metrics.jsonl").read_text().splitlines())}
    assert step["loss"] == records[45]["train/loss"]
    samples = step["samples"]
    assert np.mean([s["loss"] for s in samples]) == pytest.approx(step["loss"], rel=1e-5)
    assert sum(s["share"] for s in samples) == pytest.approx(1)
    assert len({s["row"] for s in samples}) == 64
    gradient = np.hypot.reduce([of["gradient"][0] for of in step["layers"].values() if "gradient" in of])
    assert gradient == pytest.approx(records[45]["grad_norm"], rel=1e-5)
    assert json.loads(Path("runs/a/replay/step-46/step.json").read_text())["loss"] == records[46]["train/loss"]
    with Image.open("runs/a/replay/step-45/step.png") as image:
        assert image.size[0] > 200
    assert "largest part from" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        ("model._target_=normed18.Net", "trust=[normed18]", "model.freeze=[1,2]"),
        ("model=two_layer", *PLATEAU),
        ("model.unfreeze_at={fc1:1}", "optimizer.lr=0.01"),
        ("optimizer=lbfgs", "model=two_layer", "batch_size=full"),
    ],
    ids=["frozen norms", "a plateau", "thawing", "lbfgs"],
)
def test_what_a_training_does_beside_its_steps_is_done_again(words: tuple[str, ...], train: Train) -> None:
    """Norms of frozen parts stay still, a plateau is told its metric, parts thaw, an optimizer evaluates again."""
    Path("normed18.py").write_text(NORMED)
    trusted = [word for word in words if word.startswith("trust=")]
    train("monitor=off", "monitor.every=1", "data.limit=60", "batch_size=20", "max_steps=5", "name=a", *words)
    assert replayed("a", "step=3", "until=4", *trusted)["same_bits"] is True
    after = json.loads(Path("runs/a/replay/step-4/step.json").read_text())
    assert sum(sample["share"] for sample in after["samples"]) == pytest.approx(1)


def test_gradients_of_samples_are_those_of_single_ones() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Tanh(), torch.nn.Linear(4, 3))
    names = {"model": "m", "loss": "l", "data": "d"}
    loss_fn = LossFunction(torch.nn.CrossEntropyLoss(), model, Classes(3), names)
    inputs, targets = torch.randn(7, 5), torch.arange(7) % 3

    parameters = [*model.parameters()]
    store = SimpleNamespace(parameters=parameters, values=torch.zeros(1, 39))
    run = SimpleNamespace(state=SimpleNamespace(store=store))  # what `gradients` asks of a run's parts
    losses = looking.each_loss(loss_fn, model(inputs), Batch(inputs, targets), inputs, loss_fn.whole(7, targets))
    assert losses is not None
    norms, products = looking.gradients(run, losses)  # type: ignore[arg-type]
    assert norms is not None
    assert products is not None

    def gradient(loss: torch.Tensor) -> torch.Tensor:
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])

    whole = gradient(loss_fn(model(inputs), targets).total)
    for i, one in enumerate(Batch(inputs, targets).parts(1)):
        alone = gradient(loss_fn(model(one.inputs), one.targets).total / 7)
        assert norms[i].item() == pytest.approx(alone.norm().item(), rel=1e-5)
        assert products[i].item() == pytest.approx((alone @ whole).item(), rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("kind", ["digits", "table"])
def test_a_wrong_label_is_among_the_worst(kind: str, train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    if kind == "digits":
        data = digits.load().train
        targets = data.targets.numpy().copy()
        targets[[17, 100, 200]] = (targets[[17, 100, 200]] + 5) % 10  # some may fall into another split
        planted = {(str(target), str((target + 5) % 10)) for target in targets[[17, 100, 200]]}
        np.savez("mine.npz", inputs=data.inputs.numpy(), targets=targets)
        words = ("data=arrays", "data.path=mine.npz")
    else:
        noise = np.random.default_rng(0).normal(size=(300, 2)) / 4
        rows = [f"{3 * (i % 3) + x:.4f},{y - i % 3:.4f},k{i % 3}" for i, (x, y) in enumerate(noise)]
        for i in (30, 60, 90):
            rows[i] = rows[i].replace("k0", "k2")
        planted = {("k2", "k0")}
        Path("mine.csv").write_text("\n".join(["a,b,kind", *rows]))
        words = ("data=table", "data.path=mine.csv", "data.targets=[kind]", "model=two_layer", "optimizer.lr=0.01")
    train("name=a", *words, "max_steps=80", *QUICK)
    found = replayed("a", "step=80", "worst=5")
    assert planted & {(sample["target"], sample["said"]) for sample in found["samples"]}
    lines = Path("mine.csv").read_text().splitlines()[1:] if kind == "table" else None
    labels = [line.rpartition(",")[2] for line in lines] if lines else [*map(str, targets)]
    assert all(sample["target"] == labels[int(sample["id"])] for sample in found["samples"])  # its row in the file
    assert "are their labels right?" in capsys.readouterr().out


def test_what_samples_cost_adds_up_to_the_loss_where_classes_are_weighed(
    train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = "loss.class_weights=[1,1,1,1,1,1,1,1,1,100]"
    train("name=a", "model=two_layer", "data.limit=100", "max_steps=3", weights, *QUICK)
    found = replayed("a", "step=3", "worst=100")["samples"]
    capsys.readouterr()
    assert cli.run_command(["evaluate", "a", "split=train", "checkpoint=3", "--json"]) == 0
    loss = json.loads(capsys.readouterr().out)["metrics"]["loss"]
    assert np.mean([sample["loss"] for sample in found]) == pytest.approx(loss, rel=1e-6)
    assert {sample["target"] for sample in found[:5]} == {"9"}


def test_a_loss_of_the_whole_batch_is_nobodys(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    Path("whole17.py").write_text(
        "from torch.nn.functional import cross_entropy\n"
        "def loss(outputs, targets):\n"
        "    return cross_entropy(outputs, targets) * (1 + outputs.std())\n"
    )
    train("name=a", "loss._target_=whole17.loss", "trust=[whole17]", "model=two_layer", *QUICK, "max_steps=5")
    capsys.readouterr()
    step = replayed("a", "step=5", "trust=[whole17]")
    said = capsys.readouterr().out
    assert {sample["loss"] for sample in step["samples"]} == {None}
    assert "step 5: the samples; the loss is of all of them together" in said
    assert "not finite" not in said


def test_the_step_that_stopped_a_run(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RunStopped):
        train("name=nan", "optimizer=sgd", "optimizer.lr=1e30", "max_steps=60", *QUICK)
    assert cli.run_command(["replay", "nan"]) == 0
    said = capsys.readouterr().out
    assert "the loss is not finite. The first value that is not: output of conv2 (Conv2d)" in said
    assert "nothing: the step" not in said
    assert Path("runs/nan/replay/step-2/step.json").is_file()


def test_a_gradient_that_is_not_finite_under_a_loss_that_is(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The step that stopped the run has weights that are not finite; it says which made them so, and that one why."""
    (tmp_path / "bylog.py").write_text(
        "def loss(outputs, targets):\n    return (outputs[:, 0] * 0 + (outputs[:, 1] * 0).sqrt()).mean()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(RunStopped, match="train replay runs/root shows the step"):
        train("name=root", "model=two_layer", "loss._target_=bylog.loss", "trust=[bylog]", "max_steps=9", *QUICK)
    assert cli.run_command(["replay", "root", "trust=[bylog]"]) == 0
    typed = capsys.readouterr().out.rpartition("made so: train ")[2].split("\n")[0]
    assert typed == "replay runs/root step=1"
    assert cli.run_command([*typed.split(), "trust=[bylog]"]) == 0
    assert (
        "the gradient is not finite, though the loss is: look for a logarithm or root of 0" in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no number stopped it, so say which step. It has 10: type step=10"),
        (["step=11"], "step=11: the run has 10 steps. Type step=10"),
        (["step=12"], "step=12: the run has 10 steps. Type step=10"),
        (["step=5", "until=4"], "until=4: comes before step=5. Type until=6"),
        (["step=5", "until=40"], "until=40: the run has 10 steps. Type until=10"),
        (["step=x"], "step=x: must be a whole number >= 1. Type train replay ... step=100"),
        (["step=5", "until=6", "worst=3"], "worst: is of one step. Leave until= out"),
    ],
)
def test_mistakes_are_a_line(words: list[str], message: str, train: Train) -> None:
    train("name=a", "model=two_layer", "max_steps=10", *QUICK)
    with pytest.raises(UserError, match=message.replace(".", r"\.")):
        cli.run_command(["replay", "a", *words])
    assert not Path("runs/a/replay").exists()
