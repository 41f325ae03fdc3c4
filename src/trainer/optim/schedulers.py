"""What `torch.optim.lr_scheduler` lacks: cosine after a warm-up; and when a scheduler is stepped."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from trainer.optim.held import Follower


class OtherLength(ValueError):
    """A schedule was laid out over another length than the run has now, and would continue along another curve."""


def warmup_cosine(optimizer: Optimizer, warmup_steps: int, total_steps: int, min_factor: float = 0.0) -> LambdaLR:
    """From 1/warmup_steps of the learning rate linearly up to all of it, then along half a cosine down to `min_factor`.

    Source: I. Loshchilov, F. Hutter, "SGDR", 2017, eq. 5, one period; warm-up: P. Goyal et al., "Accurate, Large
    Minibatch SGD", 2017, section 2.2.

    Raises:
        ValueError: the warm-up is as long as the run, or longer.
    """
    if not 0 <= warmup_steps < total_steps:
        raise ValueError(
            f"warmup_steps={warmup_steps}: the run has {total_steps} steps; the warm-up takes 0 to {total_steps - 1}. "
            f"Try scheduler.warmup_steps={total_steps // 10}"
        )

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        done = min(1.0, (step - warmup_steps) / (total_steps - warmup_steps))
        return min_factor + (1 - min_factor) * (1 + math.cos(math.pi * done)) / 2

    return LambdaLR(optimizer, factor)


class Schedule:
    """Steps a torch scheduler when its interval is over; with `scheduler=None` the learning rate is constant.

    Args:
        scheduler: of `torch.optim.lr_scheduler`, or None.
        interval: `step`: after every update; `epoch`: after every epoch; `evaluation`: after every validation, with its
            loss (ReduceLROnPlateau).
        steps_per_epoch: updates in an epoch.
        metric: the tag of the number that a plateau is looked for in.
        length: how many intervals the scheduler was laid out over, where that came from the length of the run.
        times: factors of the optimizer's groups. The scheduler, which has a learning rate of its own to go to, is one
            for groups that are alike; what it gives a group is taken times its factor.
        followers: groups of optimizers that the optimizer holds: their rates go along with its own.
    """

    def __init__(
        self,
        scheduler: LRScheduler | None,
        interval: Literal["step", "epoch", "evaluation"] = "step",
        steps_per_epoch: int = 1,
        length: int | None = None,
        metric: str = "val/loss",
        times: Sequence[float] | None = None,
        followers: Sequence[Follower] = (),
    ) -> None:
        if isinstance(scheduler, ReduceLROnPlateau) and interval != "evaluation":
            raise ValueError(f"interval={interval}: a plateau is one of the validation loss; it takes evaluation")
        self.scheduler, self.length, self.metric = scheduler, length, metric
        self.times, self.followers = times, followers
        self._scale()
        self.every = {"step": 1, "epoch": steps_per_epoch, "evaluation": None}[interval]

    def step(self, step: int) -> None:
        """After the update of `step` (from 1)."""
        if self.scheduler is not None and self.every is not None and step % self.every == 0:
            self._take(self.scheduler.step)

    def evaluated(self, number: float) -> None:
        """After a validation. `number`: what `metric` was."""
        if self.scheduler is not None and self.every is None:
            if isinstance(self.scheduler, ReduceLROnPlateau):
                self._take(partial(self.scheduler.step, number))
            else:
                self._take(self.scheduler.step)

    def _take(self, step: Callable[[], object]) -> None:
        if self.times is not None and self.scheduler is not None:
            groups = self.scheduler.optimizer.param_groups
            for group, rate in zip(groups, self.scheduler.get_last_lr(), strict=True):
                group["lr"] = rate
        step()
        self._scale()

    def _scale(self) -> None:
        if self.times is not None and self.scheduler is not None:
            for group, times in zip(self.scheduler.optimizer.param_groups, self.times, strict=True):
                group["lr"] *= times
        for follower in self.followers:
            follower.follow()

    def state_dict(self) -> dict[str, Any]:
        if self.scheduler is None:
            return {}
        return {
            "scheduler": self.scheduler.state_dict(),
            "length": self.length,
            "is_scaled": self.times is not None,
            "is_followed": bool(self.followers),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises OtherLength."""
        if self.scheduler is not None:
            if state["length"] != self.length:
                raise OtherLength(f"its scheduler was laid out over {state['length']} intervals, not {self.length}")
            self.scheduler.load_state_dict(state["scheduler"])
            if not state.get("is_scaled"):  # a checkpoint of an older release: its groups had rates of their own
                self.times = None
            if not state.get("is_followed"):  # the same: what its optimizer holds had rates that stayed
                self.followers = ()
