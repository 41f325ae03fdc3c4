"""The training loop: forward, loss, backward, step."""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple, Protocol

from torch import Tensor, nn
from torch.amp import GradScaler

from trainer.cadence import is_due, is_for_history
from trainer.data.batches import Batch, batch_length
from trainer.distributed import ALONE, World, held_back
from trainer.errors import NonFinite
from trainer.finite import is_to_be_skipped, refuse_non_finite, refuse_non_finite_weights
from trainer.losses.function import Losses, LossFunction
from trainer.losses.term import Whole
from trainer.state import Store, TrainingState
from trainer.trees import called, differentiable


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
    """What is asked of the loop between two steps; `over`: to end here as if this step were the last."""

    stop: bool = False
    save: bool = False
    over: bool = False


NOTHING = Wish()


@dataclass(frozen=True)
class Plan:
    """How long, and every how many steps something is due; None is never.

    Args:
        history: checkpoints over the whole run that are kept.
        num_samples: in the training split.
        samples_per_step: in a whole batch, all ranks' shares together.
        check_every: steps from one look at the losses to the next: 1 where a look is free (CPU).
        skips_non_finite: a step whose loss or gradient is not finite makes no update, instead of ending the run.
        is_time_over: no step is to be made any more.
    """

    max_steps: int
    num_samples: int
    samples_per_step: int
    log_every: int | None
    show_every: int | None
    draw_every: int | None
    eval_every: int | None
    save_every: int | None
    check_every: int
    clip_norm: float | None = None
    clip_value: float | None = None
    skips_non_finite: bool = False
    is_time_over: bool = False
    history: int | None = None

    def is_saved(self, step: int) -> bool:
        """Whether a checkpoint is due after this step."""
        is_kept = self.history is not None and is_for_history(step, self.history, self.max_steps)
        return is_kept or is_due(step, self.save_every, self.max_steps)

    @cached_property
    def _periods(self) -> frozenset[int]:
        return frozenset(every for every in (self.log_every, self.show_every, self.draw_every) if every is not None)

    def is_recorded(self, step: int) -> bool:
        """Whether anybody wants to see this step, see `trainer.cadence.is_recorded`; asked at every step."""
        for every in self._periods:  # noqa: SIM110 - a generator costs twice as much
            if step % every == 0 or step == 1 or step == self.max_steps:
                return True
        return False


# Within it the forward pass and the loss are computed in the run's precision.
Precision = Callable[[], AbstractContextManager[object]]
# What the loop asks of a batch: its losses, detached, and that its gradients, and no other, are in the store then.
# The second argument is the number of samples of which the batch is this process's share.
ForwardBackward = Callable[[Batch, int], Losses]


def fit(
    state: TrainingState,
    forward_backward: ForwardBackward,
    batches: Iterator[Batch],
    plan: Plan,
    observer: Observer,
    asked: Callable[[], Wish],
) -> bool:
    """Trains from `state.step + 1` to `plan.max_steps`, or until a stop is asked for. Returns whether it is over.

    It is over before its last step where `state.is_over` says so.

    Raises:
        NonFinite: a loss, a validation loss or a weight that is to be saved is not finite. No checkpoint has it.
    """
    store, last = state.store, plan.max_steps
    unchecked: list[Tensor] = []
    state.is_over = state.is_over or plan.is_time_over
    is_broken_off = state.evaluated < state.step and is_to_be_validated(state, plan)  # by the last stop
    if is_broken_off and not validate_and_save(state, plan, observer, asked):
        return state.is_over
    if state.is_over:
        return True
    steps = range(state.step + 1, last + 1)
    for step, batch in zip(steps, batches, strict=False):  # steps first: draw no batch too many
        is_logged = plan.is_recorded(step)
        if is_logged:
            observer.before_forward(step)
        losses = forward_backward(batch, batch_length(plan.num_samples, plan.samples_per_step, step))

        state.scaler.unscale_(state.optimizer)
        is_skipped = plan.skips_non_finite and is_to_be_skipped(state, losses)
        if not plan.skips_non_finite:
            unchecked.append(losses.total)
            is_looked_at = is_logged or is_due(step, plan.eval_every, last) or plan.is_saved(step)
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
            if state.average is not None:
                state.average.update(step, store.values)
        state.scaler.update()
        state.schedule.step(step)
        state.step = step
        if is_logged:
            observer.after_update(step)
        if not validate_and_save(state, plan, observer, asked):
            return state.is_over
    return True


def is_to_be_validated(state: TrainingState, plan: Plan) -> bool:
    """Whether a validation is due after this step, which may be the last sooner than was planned."""
    return is_due(state.step, plan.eval_every, state.step if state.is_over else plan.max_steps)


def validate_and_save(state: TrainingState, plan: Plan, observer: Observer, asked: Callable[[], Wish]) -> bool:
    """After a step, where it is due. Returns whether the training goes on."""
    step, last = state.step, plan.max_steps
    is_best: bool | None = False
    if is_to_be_validated(state, plan):
        is_best = validate(state, plan, observer)
    wish = asked() if is_best is not None else Wish(stop=True)
    state.is_over = state.is_over or wish.over
    if is_best is not None and state.evaluated < step and state.is_over and plan.eval_every is not None:
        is_best = validate(state, plan, observer)
    if is_best is None:  # the next process begins with it
        state.is_over = False
        return False
    if plan.is_saved(step) or is_best or wish.save:
        refuse_non_finite_weights(state)
        observer.save(step, is_best)
    observer.tick(step)
    return step == last or not (wish.stop or state.is_over)


def validate(state: TrainingState, plan: Plan, observer: Observer) -> bool | None:
    """Whether this is the best validation so far; None where a stop was asked for."""
    evaluation = observer.evaluate(state.step)
    if evaluation is None:
        return None
    loss, is_best = evaluation
    if not math.isfinite(loss) and not plan.skips_non_finite:
        raise NonFinite(f"val/loss={loss} at step {state.step}: the validation loss is not finite", state.step, "val")
    if is_due(state.step, plan.eval_every, math.inf):  # not what a run adds at its end: a longer one would not have it
        state.validated(loss)
    state.evaluated = state.step
    return is_best


@dataclass(frozen=True)
class Autograd:
    """Forward, loss and backward of samples that go through the model at once; gradients are added to what is there.

    Args:
        precision: what the forward pass and the loss run under.
        scaler: of a loss in float16, whose gradients would be 0 otherwise.
    """

    network: nn.Module
    loss_fn: LossFunction
    precision: Precision = nullcontext
    scaler: GradScaler = field(default_factory=lambda: GradScaler(enabled=False))

    def __call__(self, part: Batch, of: Whole) -> Losses:
        """The losses, detached. `of`: what the samples are a part of."""
        inputs = differentiable(part.inputs) if self.loss_fn.differentiates_inputs else part.inputs
        with self.precision():
            outputs = called(self.network, self.loss_fn.given(inputs, part.targets))
            losses = self.loss_fn(outputs, part.targets, inputs, of, part.num_samples)
        self.scaler.scale(losses.total).backward()
        return Losses(losses.total.detach(), losses.terms)


@dataclass(frozen=True)
class InParts:
    """The ordinary `ForwardBackward`: a batch that is larger than `part_size` goes through the model in parts.

    Args:
        part: forward, loss and backward of one part.
        part_size: samples that go through the model at once.
        network: what the batches go through; it may be spread over several processes.
    """

    part: Callable[[Batch, Whole], Losses]
    loss_fn: LossFunction
    store: Store
    part_size: int
    network: nn.Module
    world: World = ALONE

    def __call__(self, batch: Batch, of: int) -> Losses:
        self.store.zero_grad()
        whole = self.loss_fn.whole(of, batch.targets, self.world)
        if batch.num_samples <= self.part_size:
            return self.part(batch, whole)
        sums: list[Tensor] = []
        parts = list(batch.parts(self.part_size))
        for i, part in enumerate(parts):
            with held_back(self.network, is_held=i < len(parts) - 1):
                losses = self.part(part, whole)
            numbers = [losses.total, *losses.terms.values()]
            sums = [a + b for a, b in zip(sums, numbers, strict=True)] if sums else numbers
        return Losses(sums[0], dict(zip(losses.terms, sums[1:], strict=True)))
