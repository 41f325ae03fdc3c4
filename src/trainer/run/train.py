"""From the first step of this process to the last: prepared, trained, saved, tested."""

import contextlib
import itertools
import math
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from omegaconf import OmegaConf

from trainer import __version__
from trainer.computation import Computation, ordinary
from trainer.config.request import Config
from trainer.config.schema import resume_word
from trainer.data.batches import Batch, Batches
from trainer.distributed import Agreement
from trainer.errors import Interrupted, NonFinite, Pruned
from trainer.evaluate import evaluate
from trainer.finite import refuse_non_finite_weights
from trainer.loop import Wish, fit
from trainer.monitor.board import Board, Keep
from trainer.monitor.statistics import weight_statistics
from trainer.run.opened import Opened, opened
from trainer.run.training import Training

if TYPE_CHECKING:
    from trainer.fast.features import Features


def train(training: Training) -> Config:
    """Trains to the end, tests, and leaves the result in the run's folder."""
    with training.signals.deferred(), opened(training) as run, surroundings(training):
        batches, computation = prepare(training, run, find_features(training, run))
        agreement = Agreement(training.parts.world)

        def asked() -> Wish:
            is_there = training.until is not None and training.parts.state.step >= training.until
            is_to_stop = is_there or training.is_stop_requested() or run.observer.pruned_for is not None
            return Wish(*agreement(is_to_stop, run.observer.is_save_overdue()))

        with warnings.catch_warnings():
            # A scaler that skips the first updates is no wrong order of calls.
            warnings.filterwarnings("ignore", message=r"Detected call of `lr_scheduler.step\(\)`")
            state, plan = training.parts.state, training.plan()
            is_over = fit(state, computation.forward_backward, batches, plan, run.observer, asked)
        agreement.wait()
        finish(training, run, computation, is_over)
    return run.result


def surroundings(training: Training, num_runs: int = 1) -> AbstractContextManager[None]:
    """What so many trainings like this one compute within."""
    settings = training.parts.settings
    if not settings.fast:
        return contextlib.nullcontext()
    from trainer.fast.choose import products

    return products(training.work(), settings.compile, num_runs)


def find_features(training: Training, run: Opened) -> "Features | None":
    """Of a frozen backbone, unless its layers are to be watched at work."""
    return features_for(training, run.journal.display.note)


def features_for(training: Training, note: Callable[[str], None]) -> "Features | None":
    """The same for a training that is written nowhere."""
    settings = training.parts.settings
    if not settings.fast or settings.monitor.activations:
        return None
    from trainer.disk.cache import num_bytes
    from trainer.fast.choose import features_of

    limit = num_bytes(settings.cache_limit)
    return features_of(training.work(), training.folder, limit, note, training.is_stop_requested)


def prepare(
    training: Training, run: Opened, features: "Features | None", is_alone: bool = True
) -> tuple[Iterator[Batch], Computation]:
    """Before the first step of this process: shows what there is to see of a run that is new, and chooses how.

    Args:
        is_alone: false where it trains in a stack, which has its own way forward and back.

    Returns:
        the batches from the next step on, and what is made of them.
    """
    parts, state = training.parts, training.parts.state
    batches = training.batches(parts.splits.train)
    if state.step == 0 and run.board is not None:
        begin_board(training, run.board)
        first = next(batches)
        run.board.first_batch(*first)
        batches = itertools.chain([first], batches)
    if state.step == 0 and run.journal.events is not None and parts.settings.monitor.statistics:
        # Weights that never change: once is enough.
        frozen = {n: p for n, p in parts.model.named_parameters() if not p.requires_grad}
        run.journal.events.scalars(0, weight_statistics(frozen))
    run.observer.start_clock()
    with run.observer.off_the_clock():
        computation = computed(training, run, features, is_alone)
    run.computed = "; ".join(computation.lines)
    run.observer.network, run.observer.val = computation.network, computation.val
    computation.network.train()
    is_on_others = computation.train is not parts.splits.train
    return training.batches(computation.train) if is_on_others else batches, computation


def computed(training: Training, run: Opened, features: "Features | None", is_alone: bool) -> Computation:
    """How the training is computed."""
    return chosen(training, features, is_alone, run.journal.display.note)


def chosen(training: Training, features: "Features | None", is_alone: bool, note: Callable[[str], None]) -> Computation:
    """The same for a training that is written nowhere; `note` is told what takes its time."""
    settings, work = training.parts.settings, training.work()
    if not settings.fast and not settings.compile:
        return ordinary(work)
    from trainer.fast.choose import choose

    return choose(work, features, settings.fast, settings.compile, is_alone, note)


def begin_board(training: Training, board: Board) -> None:
    parts = training.parts
    yaml = OmegaConf.to_yaml(OmegaConf.create(parts.settings.request.config))
    board.begin(yaml, __version__, parts.device, parts.sample.inputs, has_terms=bool(parts.loss_fn.term_names))


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
        how = f"train {resume_word(training.folder)} sweep.prune=null"
        raise Pruned(f"pruned after step {state.step}: {reason}. To go on all the same: {how}")
    numbers = None
    if is_over:
        numbers = world.shared(test(training, run, computation) if world.is_main else None)
    if numbers is None:
        raise Interrupted(
            f"stopped after step {state.step} and saved. To go on: train {resume_word(training.folder)}",
            signals.received or signal.SIGTERM,  # another process of this training got it
        )
    run.journal.write(state.step, {f"test/{name}": number for name, number in numbers.items()})
    run.observer.report(state.step, training.diagnosis.concluded(state.step))
    if not math.isfinite(numbers["loss"]):
        raise NonFinite(f"test/loss={numbers['loss']}: the loss on the test split is not finite")


def test(training: Training, run: Opened, computation: Computation) -> dict[str, float] | None:
    """The whole test split, on this process alone; None where a stop was asked for."""
    parts = training.parts
    network, split = computation.test()
    with contextlib.ExitStack() as stack:
        keep = None
        if run.board is not None:
            keep = stack.enter_context(run.board.watching(len(split)))
        if keep is not None and split is not parts.splits.test:
            keep = of_inputs(keep, parts.splits.test)
        stop = training.is_stop_requested
        return evaluate(network, parts.loss_fn, split, parts.device, parts.precision, keep, stop)


def of_inputs(keep: Keep, split: Batches) -> Keep:
    """Has `keep` get the inputs of a split, in whose place an evaluation goes through the features."""
    batches = split.in_order()

    def kept(features: object, outputs: object, targets: object) -> None:
        keep(next(batches).inputs, outputs, targets)

    return kept
