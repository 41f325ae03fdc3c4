"""Every model x loss x data: `matrix.txt` says which trains, its loss falling, and which is refused in one line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trainer.command.folders import CONFIGS
from trainer.errors import UserError

REFUSALS = {
    "i": "wants images",
    "p": "takes probabilities, but model=.* gives logits. Type loss=bce_with_logits",
    "l": "takes logits.* gives probabilities. Type loss=(bce|nll)",
    "n": "takes log_probabilities or probabilities, but model=.* gives logits. Type loss=cross_entropy",
    "c": "takes class labels, but data=.* has float targets. Type loss=mse",
    "r": "takes targets from 0 to 1",
}


def rows() -> list[tuple[str, str, str, str]]:
    """(model, data, loss, what happens)."""
    lines = [line.split() for line in Path(__file__).with_name("matrix.txt").read_text().splitlines() if line[0] != "#"]
    losses = lines[0][2:]
    return [(model, data, loss, x) for model, data, *xs in lines[1:] for loss, x in zip(losses, xs, strict=True)]


# They have no class of their own, or one of another library's; or a loss that needs a model of its own kind.
LEFT_OUT = {"own", "frozen", "timm", "torchvision", "hf", "of_model", "focal", "dice"}
LEFT_OUT |= {"smooth_l1", "poisson_nll", "kl_div", "multi_margin"}  # see test_losses.py, test_tasks.py


def test_the_matrix_is_whole() -> None:
    """Every other shipped model, loss and source stands in it."""
    table = rows()
    for column, group in enumerate(("model", "data", "loss")):
        shipped = {path.stem for path in (CONFIGS / group).glob("*.yaml")} - LEFT_OUT
        assert {row[column] for row in table} == shipped
    assert len(table) == len({row[:3] for row in table}) == 7 * 9 * 9


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "data", "loss", "what"), [pytest.param(*row, id="-".join(row[:3])) for row in rows()]
)
def test_trains_or_is_refused(
    model: str,
    data: str,
    loss: str,
    what: str,
    train: Callable[..., dict[str, Any]],
    sources: dict[str, tuple[str, ...]],
) -> None:
    words = [f"model={model}", f"data={data}", f"loss={loss}", *sources[data], "batch_size=full", "max_steps=8"]
    words += ["monitor=off", "monitor.every=1", "checkpoint.every=null", "eval_every=8", "optimizer.lr=0.005"]
    if model == "frozen_resnet":
        words.append("model.backbone.weights=null")
    if what == "+":
        train(*words)
        (path,) = Path("runs").rglob("metrics.jsonl")
        steps = [json.loads(line) for line in path.read_text().splitlines()]
        losses = [numbers["train/loss"] for numbers in steps if "train/loss" in numbers]
        # Dropout makes a single loss noisy: the last half against the first.
        assert len(losses) == 8
        assert sum(losses[4:]) < sum(losses[:4])
    else:
        with pytest.raises(UserError, match=REFUSALS[what]) as refused:
            train(*words)
        assert "\n" not in str(refused.value)
        assert not Path("runs").exists()
