"""The training loop: forward, loss, backward, step."""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor

from trainer.cadence import is_due, is_recorded
from trainer.data.batches import Batch, batch_length
from trainer.distributed import held_back
from trainer.errors import NonFinite
from trainer.finite import is_to_be_skipped, refuse_non_finite, refuse_non_finite_weights
from trainer.losses import Losses, LossFunction
from trainer.state import TrainingState


class Observer(Protocol):
    """Whoever watches a run. None of these is called at a step that is not due, but for `tick`."""

    def before_forward(self, step: int) -> None:
        """The batch of this step goes through the model next."""

    def tick(self, step: int) -> None:
        """After every step; must cost next to nothing."""

    def before_update(self, step: int, losses: Losses) -> None:
        """Loss, gradients and weights belong together here."""

    def after_update(self, step: int) -> None:
        """The same step, with the new weights."""

    def skipped(self, step: int) -> None:
        """The update of this step was left out: a number was not finite."""

    def evaluate(self, step: int) -> tuple[float, bool] | None:
        """Validates; returns the loss, and whether this is the best validation so far. None: a stop was asked for."""

    def save(self, step: int, is_best: bool) -> None:
        """Writes a checkpoint."""


class Wish(NamedTuple):
    """What is asked of the loop between two steps."""

    stop: bool = False
    save: bool = False


@dataclass(frozen=True)
class Plan:
    """How long, and every how many steps something is due; None is never.

    Args:
        num_samples: in the training split.
        samples_per_step: in a whole batch, all ranks' shares together.
        part_size: samples that go through the model at once; a share that is larger is accumulated over parts.
        check_every: steps from one look at the losses to the next: 1 where a look is free (CPU).
        skips_non_finite: a step whose loss or gradient is not finite makes no update, instead of ending the run.
    """

    max_steps: int
    num_samples: int
    samples_per_step: int
    part_size: int
    log_every: int | None
    show_every: int | None
    eval_every: int | None
    save_every: int | None
    check_every: int
    clip_norm: float | None = None
    clip_value: float | None = None
    skips_non_finite: bool = False


def fit(
    state: TrainingState,
    loss_fn: LossFunction,
    batches: Iterator[Batch],
    plan: Plan,
    observer: Observer,
    precision: Callable[[], AbstractContextManager[object]],
    asked: Callable[[], Wish],
) -> bool:
    """Trains from `state.step + 1` to `plan.max_steps`, or until a stop is asked for. Returns whether it is at the end.

    Raises:
        NonFinite: a loss, a validation loss or a weight that is to be saved is not finite. No checkpoint has it.
    """
    store, last = state.store, plan.max_steps
    unchecked: list[Tensor] = []
    state.forward.train()
    is_broken_off = state.evaluated < state.step and is_due(state.step, plan.eval_every, last)  # by the last stop
    if is_broken_off and not validate_and_save(state, plan, observer, asked):
        return False
    steps = range(state.step + 1, last + 1)
    for step, batch in zip(steps, batches, strict=False):  # steps first: draw no batch too many
        is_logged = is_recorded(step, plan.log_every, last) or is_recorded(step, plan.show_every, last)
        if is_logged:
            observer.before_forward(step)
        of = batch_length(plan.num_samples, plan.samples_per_step, step)
        losses = forward_backward(state, loss_fn, batch, of, plan.part_size, precision)

        state.scaler.unscale_(state.optimizer)
        is_skipped = plan.skips_non_finite and is_to_be_skipped(state, losses)
        if not plan.skips_non_finite:
            unchecked.append(losses.total)
            is_looked_at = is_logged or is_due(step, plan.eval_every, last) or is_due(step, plan.save_every, last)
            if is_looked_at or step % plan.check_every == 0:
                refuse_non_finite(step, state.world, unchecked)
                unchecked.clear()

        if is_logged:
            observer.before_update(step, losses)
        if is_skipped:
            observer.skipped(step)
        else:
            store.clip(plan.clip_norm, plan.clip_value)
            state.scaler.step(state.optimizer)
        state.scaler.update()
        state.schedule.step(step)
        state.step = step
        if is_logged:
            observer.after_update(step)
        if not validate_and_save(state, plan, observer, asked):
            return False
    return True


def validate_and_save(state: TrainingState, plan: Plan, observer: Observer, asked: Callable[[], Wish]) -> bool:
    """After a step, where it is due. Returns whether the training goes on."""
    step, last = state.step, plan.max_steps
    is_best = False
    if is_due(step, plan.eval_every, last):
        evaluation = observer.evaluate(step)
        if evaluation is None:
            return False
        loss, is_best = evaluation
        if not math.isfinite(loss) and not plan.skips_non_finite:
            raise NonFinite(f"val/loss={loss} at step {step}: the validation loss is not finite")
        if is_due(step, plan.eval_every, math.inf):  # not what a run adds at its end: a longer one would not have it
            state.schedule.evaluated(loss)
        state.evaluated = step
    wish = asked()
    if is_due(step, plan.save_every, last) or is_best or wish.save:
        refuse_non_finite_weights(state)
        observer.save(step, is_best)
    observer.tick(step)
    return step == last or not wish.stop


def forward_backward(
    state: TrainingState,
    loss_fn: LossFunction,
    batch: Batch,
    of: int,
    part_size: int,
    precision: Callable[[], AbstractContextManager[object]],
) -> Losses:
    """The losses of a batch, detached; its gradients, and no other, are in the store then. A large batch goes in parts.

    Args:
        of: the number of samples of which the batch is this process's share.
    """
    if state.recorded is not None and (recorded := state.recorded(batch)) is not None:
        return recorded
    state.store.zero_grad()
    if len(batch.inputs) <= part_size:
        return differentiated(state, loss_fn, batch, of, precision)
    sums: list[Tensor] = []
    parts = list(batch.parts(part_size))
    for i, part in enumerate(parts):
        with held_back(state.forward, is_held=i < len(parts) - 1):
            losses = differentiated(state, loss_fn, part, of, precision)
        numbers = [losses.total, *losses.terms.values()]
        sums = [a + b for a, b in zip(sums, numbers, strict=True)] if sums else numbers
    return Losses(sums[0], dict(zip(losses.terms, sums[1:], strict=True)))


def differentiated(
    state: TrainingState,
    loss_fn: LossFunction,
    part: Batch,
    of: int,
    precision: Callable[[], AbstractContextManager[object]],
) -> Losses:
    """The losses of samples that go through the model at once, detached; their gradients are added to what is there."""
    if state.compiled is not None and (losses := state.compiled(part, of)) is not None:
        return losses
    with precision():
        losses = loss_fn(state.forward(part.inputs), part.targets, of)
    state.scaler.scale(losses.total).backward()
    return Losses(losses.total.detach(), losses.terms)
