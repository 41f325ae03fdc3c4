"""The training loop: forward, loss, backward, step."""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.amp import GradScaler

from trainer.cadence import is_due, is_recorded
from trainer.data.batches import Batch
from trainer.errors import RunStopped
from trainer.losses import Losses, LossFunction
from trainer.state import Store, TrainingState


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

    def evaluate(self, step: int) -> tuple[float, bool]:
        """Validates; returns the loss, and whether this is the best validation so far."""

    def save(self, step: int, is_best: bool) -> None:
        """Writes a checkpoint."""


@dataclass(frozen=True)
class Plan:
    """How long, and every how many steps something is due; None is never.

    Args:
        part_size: samples that go through the model at once; a batch that is larger is accumulated over parts.
        check_every: steps from one look at the losses to the next: 1 where a look is free (CPU).
    """

    max_steps: int
    part_size: int
    log_every: int | None
    show_every: int | None
    eval_every: int | None
    save_every: int | None
    check_every: int
    clip_norm: float | None = None
    clip_value: float | None = None


def fit(
    state: TrainingState,
    loss_fn: LossFunction,
    batches: Iterator[Batch],
    plan: Plan,
    observer: Observer,
    precision: Callable[[], AbstractContextManager[object]],
    is_stop_requested: Callable[[], bool],
) -> None:
    """Trains from `state.step + 1` to `plan.max_steps`; returns early, after a whole step, when a stop is requested.

    Raises:
        RunStopped: a loss, a validation loss or a weight that is to be saved is not finite. No checkpoint has it.
    """
    model, store, last = state.model, state.store, plan.max_steps
    unchecked: list[Tensor] = []
    model.train()
    steps = range(state.step + 1, last + 1)
    for step, batch in zip(steps, batches, strict=False):  # steps first: draw no batch too many
        is_logged = is_recorded(step, plan.log_every, last) or is_recorded(step, plan.show_every, last)
        if is_logged:
            observer.before_forward(step)
        losses = forward_backward(model, loss_fn, batch, plan.part_size, precision, state.scaler)
        is_evaluated = is_due(step, plan.eval_every, last)
        is_saved = is_due(step, plan.save_every, last)

        unchecked.append(losses.total)
        if is_logged or is_evaluated or is_saved or step % plan.check_every == 0:
            refuse_non_finite(step, unchecked)
            unchecked.clear()

        state.scaler.unscale_(state.optimizer)
        if is_logged:
            observer.before_update(step, losses)
        store.clip(plan.clip_norm, plan.clip_value)
        state.scaler.step(state.optimizer)
        state.scaler.update()
        state.schedule.step(step)
        store.zero_grad()
        state.step = step
        if is_logged:
            observer.after_update(step)

        is_best = False
        if is_evaluated:
            loss, is_best = observer.evaluate(step)
            if not math.isfinite(loss):
                raise RunStopped(f"val/loss={loss} at step {step}: the validation loss is not finite")
            state.schedule.evaluated(loss)
        if is_saved or is_best:
            refuse_non_finite_weights(step, store)
            observer.save(step, is_best)
        observer.tick(step)
        if is_stop_requested():
            return


def forward_backward(
    model: nn.Module,
    loss_fn: LossFunction,
    batch: Batch,
    part_size: int,
    precision: Callable[[], AbstractContextManager[object]],
    scaler: GradScaler,
) -> Losses:
    """The losses of a batch, detached; its gradients go to the parameters' own. A large batch goes in parts."""
    if len(batch.inputs) <= part_size:
        with precision():
            losses = loss_fn(model(batch.inputs), batch.targets)
        scaler.scale(losses.total).backward()
        return Losses(losses.total.detach(), losses.terms)
    sums: list[Tensor] = []
    for part in batch.parts(part_size):
        with precision():
            losses = loss_fn(model(part.inputs), part.targets, of=len(batch.inputs))
        scaler.scale(losses.total).backward()
        numbers = [losses.total.detach(), *losses.terms.values()]
        sums = [a + b for a, b in zip(sums, numbers, strict=True)] if sums else numbers
    return Losses(sums[0], dict(zip(losses.terms, sums[1:], strict=True)))


def refuse_non_finite_weights(step: int, store: Store) -> None:
    """Raises RunStopped where weights have left the range of numbers: they are not worth a checkpoint."""
    if not bool(store.values.isfinite().all()):
        raise RunStopped(f"a weight is not finite after step {step}, though the loss was")


def refuse_non_finite(step: int, unchecked: list[Tensor]) -> None:
    """Raises RunStopped at the first loss that is not finite; `unchecked`: those of the steps up to `step`."""
    values = [unchecked[0].item()] if len(unchecked) == 1 else torch.stack(unchecked).tolist()
    for ago, value in zip(range(len(values) - 1, -1, -1), values, strict=True):
        if not math.isfinite(value):
            raise RunStopped(f"train/loss={value} at step {step - ago}: the loss is not finite")
