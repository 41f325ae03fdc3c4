"""The training loop for many runs at once: `trainer.loop.fit` with a row of every tensor for each run."""

import contextlib
import math
from collections.abc import Callable, Sequence

from torch import Tensor

from trainer.averaged import average_in_place, norms_of
from trainer.cadence import is_due
from trainer.data.batches import Batches
from trainer.errors import NonFinite
from trainer.finite import is_finite, refuse_non_finite_weights
from trainer.loop import Plan, Wish
from trainer.losses.function import Losses
from trainer.stack.evaluate import evaluate
from trainer.stack.member import Member
from trainer.stack.refusal import CannotStack
from trainer.stack.stack import Stack


def fit_stack(
    members: Sequence[Member],
    train: Batches,
    val: Batches,
    sample: Tensor,
    plan: Plan,
    part_size: int,
    asked: Callable[[], Wish],
) -> bool:
    """Trains all members to `plan.max_steps`, or until a stop is asked for. Returns whether they are at the end.

    A run that is over before its last step leaves the others. A run whose loss, validation loss or weights are not
    finite, or whose observer raises an error, leaves with that as its `error`. The others do not notice.

    Args:
        members: all at the same step.
        train, val: splits that all have.
        sample: a few inputs, `[N, ...]`, on which all models are compared with what they give alone.
        plan: of all.
        part_size: samples that go through a model at once.

    Raises:
        CannotStack: they must be trained one by one, for which they are as good as before.
    """
    refuse_plan(members, plan, part_size)
    step, last = members[0].state.step, plan.max_steps
    stack = Stack(members, train, plan.samples_per_step, sample)
    is_broken_off = is_due(step, plan.eval_every, last) and any(m.state.evaluated < step for m in members)
    if is_broken_off and not validate_and_save(step, stack, val, plan, part_size, asked):
        return False
    stack.let_go()
    while step < last and stack.members:
        step += 1
        losses = stack.forward_backward()
        if not is_finite(losses.total):
            stack.each(refuse_non_finite, step, losses)
            losses = rows_of(losses, stack.let_go())
        if not stack.members:
            break
        is_logged = plan.is_recorded(step)
        if is_logged:
            stack.each(before_update, step, losses)
        stack.store.clip(plan.clip_norm, plan.clip_value)
        stack.step(step)
        if is_logged:
            stack.each(after_update, step)
        if not validate_and_save(step, stack, val, plan, part_size, asked):
            return False
    return True


def validate_and_save(
    step: int, stack: Stack, val: Batches, plan: Plan, part_size: int, asked: Callable[[], Wish]
) -> bool:
    """After a step, where it is due; then those leave who have an error. Returns whether the training goes on."""
    last = plan.max_steps
    is_best = [False] * len(stack.members)
    if is_due(step, plan.eval_every, last):
        metrics = [member.metrics for member in stack.members]
        numbers = evaluate(stack.network, stack.loss_fn, val, part_size, lambda: asked().stop, metrics)
        if numbers is not None and all(member.has_average for member in stack.members):
            numbers = with_averages(stack, numbers, val, part_size, lambda: asked().stop)
        if numbers is None:
            return False
        stack.each(evaluated, step, plan, numbers, is_best)
    wish = asked()
    is_everyone = plan.is_saved(step) or wish.save
    if is_everyone or any(is_best):
        stack.each(save, step, is_everyone, is_best)
    for member in stack.members:
        member.observer.tick(step)
    stack.let_go()
    return not wish.stop


def with_averages(
    stack: Stack, numbers: list[dict[str, float]], val: Batches, part_size: int, is_stop_requested: Callable[[], bool]
) -> list[dict[str, float]] | None:
    """What the averages come to beside the weights, as `average/<name>`."""
    with contextlib.ExitStack() as swapped:
        for member in stack.members:
            swapped.enter_context(average_in_place(member.state))
        metrics = [member.metrics for member in stack.members]
        found = evaluate(stack.network, stack.loss_fn, val, part_size, is_stop_requested, metrics)
    if found is None:
        return None
    return [row | {f"average/{n}": x for n, x in more.items()} for row, more in zip(numbers, found, strict=True)]


# What is done for every member, see `Stack.each`.


def refuse_non_finite(row: int, member: Member, step: int, losses: Losses) -> None:
    """Raises NonFinite where the loss of a run is not finite."""
    loss = losses.total[row].item()
    if not math.isfinite(loss):
        raise NonFinite(f"train/loss={loss} at step {step}: the loss is not finite", step)


def before_update(row: int, member: Member, step: int, losses: Losses) -> None:
    own = Losses(losses.total[row], {name: term[row] for name, term in losses.terms.items()})
    member.observer.before_update(step, own)


def after_update(row: int, member: Member, step: int) -> None:
    member.observer.after_update(step)


def evaluated(
    row: int, member: Member, step: int, plan: Plan, numbers: list[dict[str, float]], is_best: list[bool]
) -> None:
    loss, is_best[row] = member.observer.evaluated(step, numbers[row])
    if not math.isfinite(loss):
        raise NonFinite(f"val/loss={loss} at step {step}: the validation loss is not finite", step, "val")
    if is_due(step, plan.eval_every, math.inf):  # as in trainer.loop
        member.state.validated(loss)
    member.state.evaluated = step


def save(row: int, member: Member, step: int, is_everyone: bool, is_best: list[bool]) -> None:
    if is_everyone or is_best[row]:
        refuse_non_finite_weights(member.state)
        with member.drawing():
            member.observer.save(step, is_best[row])


def rows_of(losses: Losses, rows: list[int]) -> Losses:
    """Those of some runs."""
    return Losses(losses.total[rows], {name: term[rows] for name, term in losses.terms.items()})


def refuse_plan(members: Sequence[Member], plan: Plan, part_size: int) -> None:
    """Raises CannotStack for what `trainer.loop.fit` can do and `fit_stack` can't."""
    states = [member.state for member in members]
    if len({state.step for state in states}) > 1:
        raise CannotStack(f"the runs stand at different steps: {sorted({state.step for state in states})}")
    if part_size < min(plan.samples_per_step, plan.num_samples):
        raise CannotStack("gradient.accumulate: a batch of several runs is not taken in parts")
    if plan.skips_non_finite:
        raise CannotStack("on_nan=skip: a step is made by all runs or by none")
    if any(state.scaler.is_enabled() for state in states):
        raise CannotStack("precision=float16: the runs' gradients are not scaled one by one")
    if any(state.world.size > 1 for state in states):
        raise CannotStack("several processes train one model each")
    if any(s.average is not None and s.average.decay is None and norms_of(s.model) for s in states):
        raise CannotStack("average.last: each run measures the batch norms of its average alone")
