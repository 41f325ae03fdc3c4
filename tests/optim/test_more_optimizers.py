"""Muon, Lion and L-BFGS: from the command line as in a plain PyTorch loop."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from plain import cut_loose, losses, parts_of, plain_losses, weights
from trainer import load
from trainer.disk import checkpoint
from trainer.errors import UserError
from trainer.optim.lion import Lion

Train = Callable[..., dict[str, Any]]
WORDS = ("model=two_layer", "data.limit=113", "batch_size=40", "max_steps=9", "monitor=off", "monitor.every=1")


def test_lion_is_its_formula() -> None:
    """X. Chen et al., algorithm 2, with two numbers by hand."""
    w = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    optimizer = Lion([w], lr=0.1, betas=(0.9, 0.5), weight_decay=0.2)
    for gradient, expected in (([3.0, -1.0], [0.88, -1.86]), ([-20.0, 9.0], [0.9624, -1.9228])):
        w.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizer.step()
        assert w.tolist() == pytest.approx(expected)


@pytest.mark.parametrize("fast", ["true", "false"])
def test_muon_has_the_matrices_and_adamw_the_rest(fast: str, train: Train) -> None:
    words = (*WORDS, "optimizer=muon", "optimizer.lr=0.01", "optimizer.weight_decay=0.1")
    train(*words, f"fast={fast}", "name=it")
    parts = parts_of(*words)
    model = cut_loose(parts)
    matrices = [p for p in model.parameters() if p.dim() == 2]
    others = [p for p in model.parameters() if p.dim() != 2]
    assert matrices
    assert others

    class Both:
        def __init__(self) -> None:
            muon = torch.optim.Muon(matrices, lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
            self.both = (muon, torch.optim.AdamW(others, lr=0.01, weight_decay=0.1))

        def zero_grad(self, set_to_none: bool) -> None:
            model.zero_grad()

        def step(self) -> None:
            for optimizer in self.both:
                optimizer.step()

    # Muon multiplies in bfloat16.
    assert losses("it") == pytest.approx(plain_losses(parts, Both()), rel=1e-2)  # type: ignore[arg-type]


@pytest.mark.parametrize("fast", ["true", "false"])
def test_lbfgs_gets_its_closure(fast: str, train: Train) -> None:
    words = (*WORDS, "optimizer=lbfgs", "batch_size=full", "max_steps=3", "optimizer.max_iter=4", "dtype=float64")
    assert train(*words, f"fast={fast}", "name=it")["diagnosis"] == []  # the first step is five times the weights
    parts = parts_of(*words)
    model, split = cut_loose(parts), parts.splits.train
    options = {"lr": 1.0, "max_iter": 4, "history_size": 10, "line_search_fn": "strong_wolfe"}
    optimizer = torch.optim.LBFGS(model.parameters(), **options)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(split.inputs), split.targets)
        loss.backward()
        return loss

    expected = [optimizer.step(closure).item() for _ in range(3)]  # each the loss that the step begins with
    assert losses("it") == pytest.approx(expected, rel=1e-6)
    for name, value in weights("it").items():
        torch.testing.assert_close(value, model.get_parameter(name).detach(), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("fast", ["true", "false"])
def test_schedule_free_is_that_of_its_package_and_its_average_is_used(fast: str, train: Train) -> None:
    schedulefree = pytest.importorskip("schedulefree")
    options = {"lr": 0.05, "betas": (0.8, 0.99), "weight_decay": 0.1, "warmup_steps": 4}
    words = (*WORDS, "optimizer=schedule_free", "optimizer.lr=0.05", "optimizer.betas=[0.8,0.99]", "dtype=float64")
    words = (*words, "optimizer.weight_decay=0.1", "optimizer.warmup_steps=4", "eval_every=2", "test=last")
    result = train(*words, f"fast={fast}", "name=it")
    parts = parts_of(*words)
    model, split = cut_loose(parts), parts.splits.val
    optimizer = schedulefree.AdamWScheduleFree(model.parameters(), **options)
    optimizer.train()
    assert losses("it") == pytest.approx(plain_losses(parts, optimizer), rel=1e-9)
    for is_average in (False, True):
        if is_average:
            optimizer.eval()
        state = checkpoint.read(Path("runs/it/checkpoints/last.pt"))
        for name, value in (state["average"] if is_average else state)["model"].items():
            torch.testing.assert_close(value, model.get_parameter(name).detach(), rtol=1e-9, atol=1e-12)
        inputs, targets = next(iter(split.in_order()))
        with torch.no_grad():
            expected = nn.functional.cross_entropy(model(inputs), targets).item()
        assert result["val/average/loss" if is_average else "val/loss"] == pytest.approx(expected, rel=1e-9)
    model = load("it", "average")
    assert model.evaluate()["loss"] == result["test/average/loss"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("optimizer.betas=[0,0.9]",), "the first must be above 0"),
        (("scheduler=cosine",), "takes the place of a schedule. Type scheduler=constant."),
        (("average.decay=0.9",), "keeps an average by itself. Type average.decay=null average.last=null."),
    ],
)
def test_schedule_free_keeps_its_average_alone(words: tuple[str, ...], message: str, train: Train) -> None:
    pytest.importorskip("schedulefree")
    with pytest.raises(UserError, match=re.escape(message)):
        train(*WORDS, "optimizer=schedule_free", *words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "which takes the whole training split. Type batch_size=full."),
        (("batch_size=auto",), "which takes the whole training split. Type batch_size=full."),
        (("batch_size=full", "gradient.clip_norm=1"), "Type gradient.clip_norm=null."),
        (("batch_size=full", "optimizer.lr_times={fc1:2}"), "Leave optimizer.decay, layer_decay and lr_times out."),
    ],
)
def test_lbfgs_refuses_what_would_lead_it_astray(
    words: tuple[str, ...], message: str, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("trainer.run.batch_size.rehearse")  # nothing is tried before
    with pytest.raises(UserError, match=message):
        train("optimizer=lbfgs", *words)
    assert not Path("runs").exists()


@pytest.mark.long
def test_a_function_may_make_the_optimizer(tmp_path: Path, train: Train) -> None:
    """Its keys reach what it calls; one that evaluates the loss several times a step is known by what it says."""
    (tmp_path / "makers.py").write_text(
        "import torch\n\n\ndef sgd(params, **options):\n    return torch.optim.SGD(params, **options)\n\n\n"
        "def lbfgs(params, lr=1.0):\n    return torch.optim.LBFGS(params, lr=lr, max_iter=4, tolerance_change=0)\n\n\n"
        "def told(params) -> torch.optim.LBFGS:\n    return lbfgs(params)\n\n\ndef none(params):\n    pass\n"
    )
    words = ("model=two_layer", "data.limit=113", "max_steps=4", "monitor=off", "threads=1", "trust=[makers]")
    options = ("optimizer.lr=0.1", "optimizer.momentum=0.9")
    found = train(*words, "optimizer._target_=makers.sgd", *options)
    assert found["train/loss"] == pytest.approx(train(*words, "optimizer=sgd", *options)["train/loss"], rel=1e-6)
    assert train(*words, "optimizer._target_=makers.told", "batch_size=full")["train/loss"] < 1
    with pytest.raises(UserError, match=r"gives LBFGS, .* Let the function say so: def lbfgs\(\.\.\.\) -> LBFGS"):
        train(*words, "optimizer._target_=makers.lbfgs", "batch_size=full")
    with pytest.raises(UserError, match=r"made a NoneType; a torch\.optim\.Optimizer is needed"):
        train(*words, "optimizer._target_=makers.none")
