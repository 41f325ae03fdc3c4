"""`train find-lr`: each rate is a run of its own, and the line to type is the best of them."""

import math
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from plain import losses
from trainer.command import main as cli
from trainer.errors import UserError
from trainer.sweep import rates

Train = Callable[..., dict[str, Any]]
WORDS = ("model=two_layer", "model.hidden_features=8", "optimizer=sgd", "data.limit=100", "monitor=off")


def found(out: str) -> tuple[dict[float, float], list[str]]:
    """The loss of each rate, and the words that are proposed."""
    rows = [line.split() for line in out.splitlines()]
    table = {float(row[0]): float(row[1]) for row in rows if len(row) >= 3 and row[2].startswith("#")}
    return table, shlex.split(out.rsplit("type ", 1)[1])[1:]


@pytest.mark.slow
def test_it_finds_the_lowest_loss_and_what_it_says_works(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run_command(["find-lr", *WORDS, "max_steps=40", "name=rates"]) == 0
    out = capsys.readouterr().out
    table, typed = found(out)
    assert list(table) == list(rates.RATES)
    assert "one after the other" not in out
    best = min(table, key=table.__getitem__)
    assert best > 0.01
    assert typed == [*WORDS, f"optimizer.lr={best:g}"]
    train(*typed, "max_steps=40", "monitor.every=1", "name=alone")
    assert table[best] == pytest.approx(sum(losses("alone")[-10:]) / 10, rel=1e-3)
    assert losses(f"rates/lr={best:g}") == pytest.approx(losses("alone"), rel=1e-4)
    assert b"find_lr/loss" in next(Path("runs/rates").glob("events*")).read_bytes()


def test_what_does_not_stack_is_trained_one_by_one_and_a_rate_may_diverge(
    train: Train, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rates, "RATES", (0.01, 1e30))
    words = ("model=two_layer", "model.hidden_features=8", "loss=mse", "optimizer=sgd", "monitor=off", "fast=false")
    assert cli.run_command(["find-lr", *words, "max_steps=20", "name=two"]) == 0
    out = capsys.readouterr().out
    assert "one after the other: they can't be trained together" in out
    assert "not finite" in out
    assert found(out)[1][-1] == "optimizer.lr=0.01"
    assert math.isinf(rates.loss_of(Path("runs/two/lr=1e+30")))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["optimizer.lr=0.1"], "Leave optimizer.lr= out."),
        (["--multirun", "seed=0,1"], "takes the words of one run"),
        (["resume=runs/x"], "Leave resume= out."),
        (["model=lenett"], "Did you mean lenet"),
        (["model.hidden=3"], "model.hidden"),
        (["scheduler=one_cycle", "scheduler.max_lr=0.01"], r"scheduler\.max_lr=0\.01: decides .* Leave it out: then"),
        (["experiment=lenet_mnist"], r"scheduler\.max_lr=0\.005: decides .* Type scheduler\.max_lr=null: then"),
    ],
)
def test_what_has_no_place_is_refused(words: list[str], message: str, train: Train) -> None:
    with pytest.raises(UserError, match=message):
        cli.run_command(["find-lr", *words])
    assert not Path("runs").exists()


def test_rates_that_make_no_difference_are_no_answer(
    train: Train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A schedule of one's own that sets the rate: all runs are the same, and none is the best."""
    (tmp_path / "fixed_rate.py").write_text(
        "from torch.optim.lr_scheduler import LambdaLR\n\n\n"
        "def fixed(optimizer):\n"
        "    return LambdaLR(optimizer, lambda step: 0.01 / optimizer.param_groups[0]['initial_lr'])\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(rates, "RATES", (0.25, 0.5))
    own = ("scheduler._target_=fixed_rate.fixed", "trust=[fixed_rate]", "sweep.stack=never", "max_steps=4", "name=same")
    with pytest.raises(UserError, match=r"^runs/same: all learning rates come to the same loss, .* scheduler=constant"):
        cli.run_command(["find-lr", *WORDS, *own])
