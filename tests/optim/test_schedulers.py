"""Schedules: the learning rate of every update, from formulas, through pauses, and from torch's own schedulers."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, ExponentialLR, LinearLR, LRScheduler, ReduceLROnPlateau, StepLR

from trainer.optim import schedulers
from trainer.optim.schedulers import Schedule, warmup_cosine

SHIPPED = [
    path
    for path in sorted((Path(__file__).parents[2] / "configs" / "scheduler").glob("*.yaml"))
    if path.stem not in ("own", "constant")
]
LR = 0.5
STEPS_PER_EPOCH = 3
EVAL_EVERY = 2
LOSSES = [3.0, 2.0, 2.5, 2.4, 2.3, 1.0, 1.5, 1.4, 1.3, 1.2, 1.1, 1.05]


def sgd(momentum: float = 0.9) -> SGD:
    return SGD([nn.Parameter(torch.zeros(2))], lr=LR, momentum=momentum)


def rates(optimizer: Optimizer, schedule: Schedule, steps: range) -> list[tuple[float, float]]:
    """Learning rate and momentum that the update of each step is made with."""
    used = []
    for step in steps:
        used.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["momentum"]))
        optimizer.step()
        schedule.step(step)
        if step % EVAL_EVERY == 0:
            schedule.evaluated(LOSSES[step // EVAL_EVERY - 1])
    return used


def learning_rates(make: Callable[[Optimizer], LRScheduler], num_steps: int, *interval: object) -> list[float]:
    optimizer = sgd()
    schedule = Schedule(make(optimizer), *interval)
    return [lr for lr, _ in rates(optimizer, schedule, range(1, num_steps + 1))]


class TestWarmupCosine:
    def test_warms_up_by_equal_steps_from_its_first_part(self):
        used = learning_rates(lambda o: warmup_cosine(o, 4, 10), 5)
        assert used == pytest.approx([LR / 4, LR / 2, LR * 3 / 4, LR, LR], rel=1e-12)

    @pytest.mark.parametrize("min_factor", [0.0, 0.2])
    @pytest.mark.parametrize("warmup_steps", [0, 1, 5])
    def test_is_torchs_linear_warmup_and_then_torchs_cosine(self, warmup_steps, min_factor):
        used = learning_rates(lambda o: warmup_cosine(o, warmup_steps, 20, min_factor), 20)
        cosine = learning_rates(lambda o: CosineAnnealingLR(o, 20 - warmup_steps, min_factor * LR), 20 - warmup_steps)
        warmup = [LR] * warmup_steps
        if warmup_steps > 1:
            warmup = learning_rates(lambda o: LinearLR(o, 1 / warmup_steps, 1.0, warmup_steps - 1), warmup_steps)
        assert used == pytest.approx(warmup + cosine, rel=1e-12)

    def test_ends_at_its_smallest_and_stays_there(self):
        used = learning_rates(lambda o: warmup_cosine(o, 2, 10, 0.1), 15)
        assert used[10:] == pytest.approx([0.1 * LR] * 5, rel=1e-12)
        assert min(used[2:10]) > 0.1 * LR

    @pytest.mark.parametrize("warmup_steps", [-1, 10, 11])
    def test_a_warmup_that_does_not_fit_is_refused_with_both_numbers(self, warmup_steps):
        with pytest.raises(ValueError, match=f"^warmup_steps={warmup_steps}: the run has 10 steps"):
            warmup_cosine(sgd(), warmup_steps, 10)


class TestSchedule:
    @pytest.mark.parametrize(
        ("interval", "period"), [("step", 1), ("epoch", STEPS_PER_EPOCH), ("evaluation", EVAL_EVERY)]
    )
    def test_counts_what_it_is_told_to_count(self, interval, period):
        used = learning_rates(lambda o: ExponentialLR(o, 0.5), 12, interval, STEPS_PER_EPOCH)
        assert used == [LR * 0.5 ** ((step - 1) // period) for step in range(1, 13)]

    def test_a_step_of_epochs_is_the_formula(self):
        used = learning_rates(lambda o: StepLR(o, 2, 0.1), 20, "epoch", STEPS_PER_EPOCH)
        assert used == pytest.approx([LR * 0.1 ** ((step - 1) // (2 * STEPS_PER_EPOCH)) for step in range(1, 21)])

    def test_plateau_gets_the_loss_of_every_validation(self):
        used = learning_rates(lambda o: ReduceLROnPlateau(o, factor=0.5, patience=1), 24, "evaluation")
        by_hand, lr, best, num_bad = [], LR, float("inf"), 0
        for loss in LOSSES:
            by_hand += [lr] * EVAL_EVERY
            best, num_bad = (loss, 0) if loss < best else (best, num_bad + 1)
            if num_bad > 1:
                lr, num_bad = lr / 2, 0
        assert used == by_hand
        assert used[-1] < LR

    @pytest.mark.parametrize("interval", ["step", "epoch"])
    def test_plateau_without_a_loss_is_refused(self, interval):
        with pytest.raises(ValueError, match=f"^interval={interval}: .*evaluation"):
            Schedule(ReduceLROnPlateau(sgd()), interval)

    def test_without_a_scheduler_the_learning_rate_is_constant(self):
        optimizer = sgd()
        schedule = Schedule(None)
        schedule.load_state_dict(schedule.state_dict())
        assert rates(optimizer, schedule, range(1, 7)) == [(LR, 0.9)] * 6


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_schedule_goes_on_from_any_step_as_if_never_stopped(path):
    """Its state and the optimizer's pass through a file that may hold no code."""
    num_steps = 12

    def build() -> tuple[SGD, Schedule]:
        config = OmegaConf.to_container(OmegaConf.load(path))
        interval = config.pop("interval")
        config.pop("metric", None)
        name = config.pop("_target_").rpartition(".")[2]
        missing = {"T_max": num_steps, "total_steps": num_steps, "max_lr": 10 * LR}
        short = {"step_size": 2, "milestones": [1, 3], "patience": 0, "warmup_steps": 4}
        config |= {k: v for k, v in missing.items() if k in config and config[k] is None}
        config |= {k: v for k, v in short.items() if k in config}
        make = getattr(schedulers, name, None) or getattr(torch.optim.lr_scheduler, name)
        optimizer = sgd()
        return optimizer, Schedule(make(optimizer, **config), interval, STEPS_PER_EPOCH)

    unbroken = rates(*build(), range(1, num_steps + 1))
    assert len(set(unbroken)) > 1
    for cut in range(num_steps + 1):
        optimizer, schedule = build()
        rates(optimizer, schedule, range(1, cut + 1))
        file = io.BytesIO()
        torch.save([optimizer.state_dict(), schedule.state_dict()], file)
        file.seek(0)
        of_optimizer, of_schedule = torch.load(file, weights_only=True)
        optimizer, schedule = build()
        optimizer.load_state_dict(of_optimizer)
        schedule.load_state_dict(of_schedule)
        assert rates(optimizer, schedule, range(cut + 1, num_steps + 1)) == unbroken[cut:]
