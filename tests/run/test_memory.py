"""When memory is not enough: activations are computed again, and a step is made in halves, to the same numbers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from exact import assert_same
from plain import losses, parts_of, request_of, weights
from too_large import HUNGRY
from trainer.disk import checkpoint
from trainer.errors import UserError
from trainer.run.run import run

Train = Callable[..., dict[str, Any]]
QUIET = ("monitor=off", "monitor.every=1", "optimizer=sgd")
LAYERS = (
    "model=sequential",
    "loss=cross_entropy",
    "model.layers=[{_target_:torch.nn.Flatten},{_target_:torch.nn.Linear,in_features:64,out_features:20},"
    "{_target_:torch.nn.BatchNorm1d,num_features:20},{_target_:torch.nn.Dropout,p:0.5},"
    "{_target_:torch.nn.Linear,in_features:20,out_features:10}]",
)


@pytest.mark.slow
def test_blocks_computed_again_give_the_same_bits(train: Train) -> None:
    words = ("model=resnet18", "data.limit=24", "batch_size=12", "max_steps=2", *QUIET)
    train(*words, "name=kept")
    train(*words, "gradient.checkpoint=true", "name=again")
    assert losses("again") == losses("kept")
    assert_same(weights("again"), weights("kept"))


@pytest.mark.slow
def test_parts_by_name_with_dropout_and_a_batch_norm_take_less_memory(train: Train) -> None:
    words = (*LAYERS, *QUIET, "data.limit=100", "batch_size=40", "max_steps=9")
    names = [name for name, _ in parts_of(*words).model.named_modules() if name.endswith(("1", "2"))]
    assert len(names) == 2
    asked = f"gradient.checkpoint=[{','.join(names)}]"
    train(*words, "name=kept")
    train(*words, asked, "name=again")
    assert losses("again") == losses("kept")
    assert_same(weights("again"), weights("kept"))
    resnet = ("model=resnet18", "data.limit=16", "batch_size=8", "dry_run=true", *QUIET)
    kept, again = (
        run(request_of(*resnet, *words))["bytes_activations"] for words in ([], ["gradient.checkpoint=true"])
    )
    assert again < kept / 2


def test_a_step_that_does_not_fit_is_made_in_halves(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    Path("hungry.py").write_text(HUNGRY)
    words = ("model._target_=hungry.Net", "trust=[hungry]", *QUIET, "data.limit=100", "batch_size=40", "dtype=float64")
    train(*words, "model.most=1000", "max_steps=9", "name=whole")
    capsys.readouterr()
    train(*words, "max_steps=4", "name=halves")
    said = capsys.readouterr().out
    assert "out of memory with 40 samples at once: this step and all that follow go in parts of 20." in said
    assert "parts of 10." in said
    assert checkpoint.read(Path("runs/halves/checkpoints/last.pt"))["part_size"] == 10
    train(*words, "max_steps=9", "name=halves")
    assert "out of memory" not in capsys.readouterr().out
    assert losses("halves") == pytest.approx(losses("whole"), rel=1e-12)
    for name, value in weights("halves").items():
        torch.testing.assert_close(value, weights("whole")[name], rtol=1e-12, atol=1e-15)


def test_what_can_not_be_is_refused(train: Train) -> None:
    for words, message in (
        (["gradient.checkpoint=true"], r"model=lenet has no blocks .* gradient.checkpoint=\[conv1\]\."),
        (["gradient.checkpoint=true", "model=two_layer"], r"no blocks .*nn.ModuleList. Leave it out\."),
        (["gradient.checkpoint=[conv]"], "^gradient.checkpoint=conv: the model's parts are conv1"),
        (["gradient.checkpoint=conv1"], r"must be true or false or a list"),
    ):
        with pytest.raises(UserError, match=message):
            train(*words)
    assert not Path("runs").exists()
