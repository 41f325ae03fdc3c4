"""`loss.teacher=runs/x`: the student follows the teacher as in a plain loop, exactly, and not another one."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from plain import cut_loose, losses, parts_of, weights
from trainer.command import main as cli
from trainer.data.batches import Batch, permutation
from trainer.data.mix import Mix
from trainer.disk import checkpoint
from trainer.errors import UserError
from trainer.losses.distillation import Distillation
from trainer.use.evaluate import evaluation
from trainer.use.find import find
from trainer.use.trained import open_run

Train = Callable[..., dict[str, Any]]
DATA = ("data.limit=113", "batch_size=40", "monitor=off", "monitor.every=1", "optimizer=sgd", "model=two_layer")
BIG = (*DATA, "model.hidden_features=40", "max_steps=30", "name=big", "optimizer.lr=0.1")
SMALL = (*DATA, "model.hidden_features=5", "max_steps=9")
TAUGHT = ("loss.teacher=runs/big", "loss.temperature=3", "loss.teacher_weight=0.5")


@pytest.mark.parametrize("word", ["fast=true", "fast=false", "data.augment.mixup=0.5"])
def test_the_student_is_that_of_a_plain_loop(word: str, train: Train) -> None:
    """Mixed samples were refused: the term of the teacher was taken for one that looks at classes."""
    train(*BIG)
    train(*SMALL, *TAUGHT, word, "name=small")
    teacher, parts = parts_of(*BIG).model.eval(), parts_of(*SMALL)
    teacher.load_state_dict(checkpoint.read(Path("runs/big/checkpoints/best.pt"))["model"])
    student, split, expected = cut_loose(parts), parts.splits.train, []
    optimizer = torch.optim.SGD(student.parameters(), lr=0.01)
    mix = Mix(0.5, 0, 10, 0) if "mixup" in word else None
    for epoch in range(3):
        for rows in permutation(0, epoch, len(split)).split(40):
            batch = Batch(split.inputs[rows], split.targets[rows])
            inputs, targets = batch if mix is None else mix(batch, len(expected) + 1)
            outputs = student(inputs)
            with torch.no_grad():
                shares = (teacher(inputs) / 3).softmax(1)
            mine = (outputs / 3).log_softmax(1)
            distance = (shares * (shares.log() - mine)).sum(1).mean()
            loss = F.cross_entropy(outputs, targets) + 0.5 * 9 * distance
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            expected.append(loss.item())
    assert losses("small") == pytest.approx(expected, rel=1e-5)
    assert not any("teacher" in name for name in weights("small"))
    assert "train/loss/teacher" in Path("runs/small/metrics.jsonl").read_text()


def test_one_output_for_two_classes_is_taught_too() -> None:
    """The softmax of one number is 1, and its divergence 0: by hand of what is for class 1, and what is left."""
    generator = torch.Generator().manual_seed(0)
    inputs, student = torch.randn(6, 3, generator=generator), torch.nn.Linear(3, 1)
    teacher = torch.nn.Linear(3, 1)
    found = Distillation(teacher, temperature=2.0, is_of_classes=True)(student(inputs), torch.zeros(6, 1), inputs)
    wanted, mine = (model(inputs).div(2).sigmoid().flatten() for model in (teacher, student))
    each = wanted * (wanted / mine).log() + (1 - wanted) * ((1 - wanted) / (1 - mine)).log()
    assert found.item() == pytest.approx(4 * each.mean().item(), rel=1e-4)
    found.backward()
    assert student.weight.grad is not None
    assert student.weight.grad.any()


def test_a_run_continues_with_its_teacher_alone(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    train(*BIG)
    whole = train(*SMALL, *TAUGHT, "name=whole")
    train(*SMALL, *TAUGHT, "max_steps=4", "name=part")
    assert train("resume=runs/part", "max_steps=9", "monitor=off", "monitor.every=1")["val/loss"] == whole["val/loss"]
    before = evaluation(open_run(find("part"), {}))
    train("resume=runs/big", "max_steps=60")
    with pytest.raises(UserError, match="the teacher split has weights"):
        train("resume=runs/part", "max_steps=12")
    if importlib.util.find_spec("safetensors"):
        assert cli.run_command(["pack", "part"]) == 0
        assert "evaluate gives all but the loss" in capsys.readouterr().out
    Path("runs/big").rename("away")
    with pytest.raises(UserError, match="must be moved back"):
        train("resume=runs/part", "max_steps=12")
    found = evaluation(open_run(find("part"), {}))
    assert found.numbers == {name: n for name, n in before.numbers.items() if name not in ("loss", "loss/teacher")}
    assert all(map(found.is_as_expected, found.numbers))
    assert "that run is not here" in found.labelled.notes[-1]
    Image.new("L", (8, 8), 90).save("one.png")
    assert cli.run_command(["predict", "part", "one.png"]) == 0


def test_what_can_not_teach_is_refused(train: Train) -> None:
    train(*BIG)
    for name in ("big.zip", "other.zip"):
        Path(name).write_bytes(b"a pack")
    for words, message in (
        (["loss.teacher=runs/big/checkpoints/best.pt"], "is a file; .* Type loss.teacher=runs/big.$"),
        (["loss.teacher=big.zip"], "is a file; .* Type loss.teacher=runs/big.$"),
        (["loss.teacher=other.zip"], "Type train resume=other.zip, .* and then loss.teacher=runs/other.$"),
        (["loss.teacher=runs/none"], "there is no run"),
        (["loss.temperature=2"], "Type loss.teacher=runs/... too, or leave it out."),
        (["loss.teacher=runs/big", "data.split_seed=1"], "was trained on other data: data.split_seed differs."),
        (
            ["loss.teacher=runs/big", "model=lenet", "data.limit=113"],
            "of 8 pixels a side, and model=lenet 1 of 32",
        ),
        (["loss.teacher=big"], "there is no run. Type loss.teacher=runs/big."),
    ):
        with pytest.raises(UserError, match=message):
            train(*DATA, *words, "name=new")
    assert not Path("runs/new").exists()
