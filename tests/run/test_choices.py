"""Whatever is chosen for a run, it continues exactly, two processes train as one, and short cuts change no number."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exact import assert_same, states
from plain import losses, together
from ranks import WORDS, ended, ranks
from trainer.disk import checkpoint
from trainer.errors import UserError

Train = Callable[..., dict[str, Any]]
# 113 samples are trained on: three steps of 40, 40 and 33 an epoch.
BASE = ("data.limit=113", "batch_size=40", "max_steps=11", "monitor=off", "monitor.every=1", "checkpoint.every=4")
SMALL = ("model=two_layer", "model.hidden_features=7")
RECIPES = {
    "classes": (*SMALL, "loss.class_weights=balanced", "data.balance=true"),
    "groups": ("optimizer=adamw", "optimizer.decay=weights", "optimizer.layer_decay=0.5", "optimizer.lr_times={fc3:2}"),
    "unfrozen later": ("optimizer=adamw", "model.freeze=[conv1]", "model.unfreeze_at={conv2:1,fc1:3}"),
    "lion": (*SMALL, "optimizer=lion", "optimizer.weight_decay=0.1"),
    "muon": (*SMALL, "optimizer=muon", "scheduler=cosine"),
    "schedule-free": (*SMALL, "optimizer=schedule_free", "optimizer.warmup_steps=2"),
    "L-BFGS": (*SMALL, "optimizer=lbfgs", "batch_size=full", "optimizer.max_iter=2", "dtype=float64"),
    "augmentation": (
        "optimizer=sgd",
        *(f"data.augment.{key}" for key in ("resized_crop=0.5", "color_jitter=0.4", "erase=0.5")),
    ),
    "mixtures": (*SMALL, "optimizer=sgd", "data.augment.mixup=0.3", "data.augment.cutmix=1"),
}
ALONE = ("unfrozen later", "mixtures")  # recipes for one process
STACKED = ("classes", "lion", "augmentation")  # the others are trained one by one


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_run_that_was_killed_continues_exactly(recipe: str, train: Train) -> None:
    words = (*BASE, *RECIPES[recipe])
    unbroken = train(*words, "checkpoint.keep=9", "name=one")
    at_its_end = states("runs/one", 11)
    for path in Path("runs/one/checkpoints").iterdir():  # as a kill just after step 4 leaves it
        if path.name > "step_00000004.pt" or not path.name.startswith("step"):
            path.unlink()
    Path("runs/one/result.json").unlink()
    assert_same(unbroken, train(*words, "checkpoint.keep=9", "name=one"))
    assert_same(at_its_end, states("runs/one", 11))


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_numbers_are_those_of_plain_torch(recipe: str, train: Train) -> None:
    for fast in ("true", "false"):
        train(*BASE, *RECIPES[recipe], f"fast={fast}", f"name={fast}")
    assert losses("true") == pytest.approx(losses("false"), rel=1e-4)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_stack_has_the_numbers_of_a_run_alone_or_is_refused(recipe: str, train: Train) -> None:
    words = (*BASE, *RECIPES[recipe])
    runs = [(*words, f"seed={seed}", f"name=all/{seed}") for seed in (0, 1)]
    if recipe not in STACKED:
        with pytest.raises(UserError, match=r"^they can't be trained together: "):
            together(runs)
        return
    together(runs)
    train(*words, "seed=1", "name=alone")
    assert losses("all/1") == pytest.approx(losses("alone"), rel=1e-4)


@pytest.mark.parametrize("recipe", [name for name in RECIPES if name not in ALONE])
@pytest.mark.long
def test_two_processes_are_one(recipe: str, tmp_path: Path, train: Train) -> None:
    words = (*BASE, *RECIPES[recipe], "dtype=float64")
    two = ended(ranks(tmp_path, *words, "name=two"))
    assert [code for code, _, _ in two] == [0, 0], two
    one = train(*WORDS, *words, "name=one")
    result = json.loads((tmp_path / "runs/two/result.json").read_text())
    numbers = {k: v for k, v in one.items() if isinstance(v, float) and not k.startswith(("time/", "seconds"))}
    assert {k: result[k] for k in numbers} == pytest.approx(numbers, rel=1e-9)
    a, b = (checkpoint.read(Path("runs", name, "checkpoints/last.pt"))["model"] for name in ("one", "two"))
    assert all(a[key].allclose(b[key], rtol=1e-9, atol=1e-12) for key in a)
