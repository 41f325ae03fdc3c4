"""From the first step of this process to the last: prepared, trained, saved, tested."""

import math
import signal
import warnings
from collections.abc import Callable
from dataclasses import replace

from trainer.computation import Computation
from trainer.config.request import Config
from trainer.disk.files import cannot_write
from trainer.distributed import Agreement
from trainer.errors import Interrupted, NonFinite, Pruned
from trainer.finite import refuse_non_finite_weights
from trainer.loop import NOTHING, Wish, fit
from trainer.meaning import Classes
from trainer.run.continuing import how_to_continue
from trainer.run.memory import halving
from trainer.run.observer import RunObserver
from trainer.run.opened import Opened, opened
from trainer.run.optimizer import reevaluated
from trainer.run.prepare import find_features, prepare, surroundings
from trainer.run.remembered import Kept, write_predictions
from trainer.run.testing import tested
from trainer.run.training import Training


def train(training: Training) -> Config:
    """Trains to the end, tests, and leaves the result in the run's folder."""
    with training.signals.deferred(), opened(training) as run, surroundings(training):
        batches, computation = prepare(training, run, find_features(training, run.journal.display.note))
        agreement = Agreement(training.parts.world)
        with warnings.catch_warnings():
            # A scaler that skips the first updates is no wrong order of calls.
            warnings.filterwarnings("ignore", message=r"Detected call of `lr_scheduler.step\(\)`")
            is_time_over = training.parts.world.shared(run.observer.is_time_over())
            state, plan = training.parts.state, replace(training.plan(), is_time_over=is_time_over)
            forward_backward = halving(training.work(), computation, run.journal.display.note)
            forward_backward = reevaluated(state, forward_backward)
            asked = wishes(training, run.observer, agreement)
            is_over = fit(state, forward_backward, batches, plan, run.observer, asked)
        agreement.wait()
        finish(training, run, computation, is_over)
    return run.result


def wishes(training: Training, observer: RunObserver, agreement: Agreement) -> Callable[[], Wish]:
    """What is asked of the loop after every step; of one process nearly always nothing, which costs nearly nothing."""
    state, signals = training.parts.state, training.signals
    until = math.inf if training.until is None else training.until

    def alone() -> Wish:
        is_to_stop = signals.received != 0 or observer.pruned_for is not None or state.step >= until
        is_overdue, is_over = observer.is_save_overdue(), observer.is_time_over()
        return Wish(is_to_stop, is_overdue, is_over) if is_to_stop or is_overdue or is_over else NOTHING

    return alone if training.parts.world.size == 1 else lambda: Wish(*agreement(*alone()))


def finish(training: Training, run: Opened, computation: Computation, is_over: bool) -> None:
    """After the last step of this process: saves, and where the training is over tests.

    Raises:
        NonFinite: what was trained is not worth a checkpoint, or fails the test.
        Pruned: it is not worth going on; all is saved.
        Interrupted: it is not over; all is saved.
    """
    state, world, signals = training.parts.state, training.parts.world, training.signals
    refuse_non_finite_weights(state)
    run.observer.save(state.step)
    run.saver.wait()
    reason = world.shared(run.observer.pruned_for)
    if not is_over and reason is not None and not signals.received:
        how = f"{how_to_continue(training)} sweep.prune=null"
        raise Pruned(f"pruned after step {state.step}: {reason}. To continue all the same: {how}")
    found, kept = None, Kept(training.parts.loss_fn, len(training.parts.splits.test))
    if is_over:
        found = world.shared(tested(training, run, computation, kept) if world.is_main else None)
    if found is None:
        raise Interrupted(
            f"stopped after step {state.step} and saved. To continue: {how_to_continue(training)}",
            signals.received or signal.SIGTERM,  # another process of this training got it
        )
    run.journal.refuse_lost()
    run.journal.write(state.step, found.numbers)
    run.facts |= found.facts
    rows = run.facts.get("per_class", ()) if isinstance(training.parts.loss_fn.meaning, Classes) else ()
    run.observer.records.report(training.diagnosis.concluded(state.step, rows))
    for tag, loss in found.losses.items():
        if not math.isfinite(loss):
            raise NonFinite(f"{tag}={loss}: the loss on the test split is not finite", state.step, "test")
    if world.is_main:
        try:
            write_predictions(training.folder, training.parts, kept, found.step)
        except OSError as error:
            raise cannot_write(training.folder, error) from error
