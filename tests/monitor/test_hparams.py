"""The HPARAMS tab averages runs that differ in their seeds alone, and no others."""

from typing import Any

import pytest

from trainer.monitor.hparams import flat, group_of

CONFIG: dict[str, Any] = {
    "seed": 0,
    "order_seed": None,
    "run_dir": "runs/a",
    "device": "auto",
    "dtype": "float32",
    "eval_every": None,
    "average": {"decay": None, "last": None},
    "early_stopping": {"patience": 1},
    "checkpoint": {"metric": "val/loss", "keep": 2},
    "metric": {},
    "monitor": {"every": 50},
    "data": {"fold": 0, "limit": 100},
    "optimizer": {"_target_": "torch.optim.Adam", "lr": 0.1},
}


def group(**changed: Any) -> str:
    return group_of(flat({**CONFIG, **changed}, {"optimizer": "adam"}, max_steps=10))


@pytest.mark.parametrize(
    "changed",
    [
        {"dtype": "float64"},
        {"eval_every": 10},
        {"average": {"decay": 0.9, "last": None}},
        {"early_stopping": {"patience": 4}},
        {"checkpoint": {"metric": "val/f1", "keep": 2}},
        {"metric": {"f1": {"average": "micro"}}},
        {"overfit": 64},
        {"data": {"fold": 0, "limit": 200}},
    ],
)
def test_another_setting_is_another_row(changed: dict[str, Any]) -> None:
    assert group(**changed) != group()


@pytest.mark.parametrize(
    "changed",
    [
        {"seed": 1},
        {"order_seed": 0},
        {"data": {"fold": 1, "limit": 100}},
        {"run_dir": "runs/b"},
        {"device": "cuda:1"},
        {"monitor": {"every": 1}},
        {"checkpoint": {"metric": "val/loss", "keep": 9}},
    ],
)
def test_another_seed_fold_or_place_is_none(changed: dict[str, Any]) -> None:
    assert group(**changed) == group()
