"""A run as it was at an earlier step: from the newest checkpoint before it, trained on with the same bits."""

import math
from collections.abc import Iterator
from dataclasses import replace

from trainer.config.request import Request
from trainer.config.settings import settings_of
from trainer.data.batches import Batch
from trainer.disk import checkpoint
from trainer.disk.folder import read_origin
from trainer.errors import Interrupted, NonFinite, UserError
from trainer.loop import Wish, fit
from trainer.losses.function import Losses
from trainer.monitor.readable import counted
from trainer.run.folder import take_up
from trainer.run.freeze import thawed
from trainer.run.memory import halving
from trainer.run.optimizer import reevaluated
from trainer.run.origin import as_trained
from trainer.run.parts import build
from trainer.run.prepare import chosen, find_features, surroundings
from trainer.run.training import Training
from trainer.run.validation import validated
from trainer.signals import Signals
from trainer.trials import set_mode
from trainer.use.again import Numbers, again, as_long, folder_of


def opened(request: Request, signals: Signals, step: int, is_made: bool) -> tuple[Training, str]:
    """The stored run of `resume=<folder>` as it stood after the newest kept step from which a step can be come to.

    Args:
        is_made: that may be the step itself; false: one before it.

    Returns:
        also where that was from, in words.

    Raises:
        UserError: it can't be built, has no such step, or was trained by several processes.
    """
    folder = folder_of(request)
    entries = read_origin(folder)
    if entries and entries[-1].get("processes", 1) != 1:
        raise UserError(f"{folder}: was trained by {entries[-1]['processes']} processes, and this takes it up in one.")
    settings = as_trained(settings_of(again(request, folder, **as_long(entries))), folder)
    training = Training(build(settings), folder, signals)
    if step > training.parts.length.max_steps:
        most = training.parts.length.max_steps
        raise UserError(f"step={step}: the run has {most:,} steps. Type step={most}.")
    state = newest_before(training.checkpoints, step if is_made else step - 1)
    if state is None:
        return training, "the start"
    take_up(training, state)
    return training, f"the checkpoint of step {training.parts.state.step:,}"


def newest_before(checkpoints: checkpoint.Checkpoints, step: int) -> dict[str, object] | None:
    """The state of the newest whole checkpoint that is not later; None where there is none."""
    found: dict[str, object] | None = None
    for path in [path for path in checkpoints.files() if checkpoint.step_of(path) <= step]:
        try:
            found = checkpoint.read(path)
            break
        except UserError:
            continue
    best = checkpoints.folder / "best.pt"  # a second name of a file that may be gone
    if best.is_file():
        try:
            state = checkpoint.read(best)
        except UserError:
            return found
        if state["step"] <= step and (found is None or state["step"] > int(str(found["step"]))):
            return state
    return found


class Follower:
    """Watches a training that is written nowhere; see `trainer.loop.Observer`. Does what a schedule needs, no more.

    Attributes:
        losses: of every step.
    """

    def __init__(self, training: Training) -> None:
        self.training = training
        self.losses: dict[int, float] = {}

    def coming(self, step: int) -> None:
        """The step before has been made, and this one is next."""

    def before_forward(self, step: int) -> None: ...

    def tick(self, step: int) -> None: ...

    def before_update(self, step: int, losses: Losses) -> None:
        self.losses[step] = losses.total.item()

    def after_update(self, step: int) -> None: ...

    def skipped(self, step: int) -> None: ...

    def evaluate(self, step: int) -> tuple[float, bool]:
        parts = self.training.parts
        numbers = validated(parts, parts.model, parts.splits.train, parts.splits.val, lambda: False)
        assert numbers is not None  # nobody asks for a stop
        parts.state.last.update({f"val/{name}": number for name, number in numbers.items()})
        return numbers["loss"], False

    def save(self, step: int, is_best: bool = False) -> None: ...


def follow(training: Training, until: int, observer: Follower) -> NonFinite | None:
    """Trains on to a step. Returns what ended the training before, if a number did.

    Raises:
        Interrupted: a signal.
    """
    state, signals = training.parts.state, training.signals
    if until <= state.step:
        return None
    begun, plan = state.step, training.plan()
    waits = state.schedule.scheduler is not None and state.schedule.every is None  # for validations
    eval_every = plan.eval_every if waits else None  # it changes nothing else
    plan = replace(
        plan,
        max_steps=until,
        log_every=1,
        show_every=None,
        save_every=None,
        history=None,
        eval_every=eval_every,
        check_every=1,
    )

    def announced(batches: Iterator[Batch]) -> Iterator[Batch]:
        for step, batch in enumerate(batches, begun + 1):
            observer.coming(step)
            yield batch

    with signals.deferred(), surroundings(training):
        computation = chosen(training, find_features(training, print), True, print)
        set_mode(computation.network, True)
        batches, per_epoch = training.batches(computation.train), training.parts.length.steps_per_epoch
        batches = announced(thawed(training.parts.settings, state.model, batches, begun + 1, per_epoch))
        forward_backward = halving(training.work(), computation, print)
        forward_backward = reevaluated(state, forward_backward)
        try:
            fit(state, forward_backward, batches, plan, observer, lambda: Wish(signals.received != 0))
        except NonFinite as error:
            return error
    if signals.received:
        raise Interrupted("stopped; the run is as it was.", signals.received)
    return None


def agreement(losses: dict[int, float], recorded: Numbers) -> tuple[bool | None, str]:
    """Whether the losses of steps are those that were recorded, None where none was; and that in words."""
    both = {step: recorded[step, "train/loss"] for step in sorted(losses) if (step, "train/loss") in recorded}
    for step, before in both.items():
        now = losses[step]
        if before is None and not math.isfinite(now):
            continue
        if now != before:
            return False, f"not the same bits: train/loss of step {step:,} is {now!r}, and {before!r} was recorded"
    if not both:
        return None, "no loss was recorded there that could be compared"
    return True, f"the same bits as recorded (train/loss of {counted(len(both), 'step')})"
