"""From the first step of this process to the last: prepared, trained, saved, tested."""

import contextlib
import itertools
import math
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING

from omegaconf import OmegaConf

from trainer import __version__
from trainer.computation import Computation, ordinary
from trainer.config.request import Config
from trainer.config.schema import GROUPS
from trainer.data.batches import Batch
from trainer.disk.files import cannot_write
from trainer.distributed import Agreement
from trainer.errors import Interrupted, NonFinite, Pruned
from trainer.evaluate import evaluate
from trainer.finite import refuse_non_finite_weights
from trainer.loop import Wish, fit
from trainer.monitor.board import Board
from trainer.monitor.statistics import weight_statistics
from trainer.monitor.tags import shown_as
from trainer.optim.groups import groups_table
from trainer.run.continuing import how_to_continue
from trainer.run.freeze import thawed
from trainer.run.memory import halving
from trainer.run.opened import Opened, opened
from trainer.run.optimizer import reevaluated
from trainer.run.overfit import BEFORE
from trainer.run.remembered import Kept, write_predictions
from trainer.run.testing import tested
from trainer.run.training import Training
from trainer.system import shell
from trainer.trials import set_mode

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
            return Wish(*agreement(is_to_stop, run.observer.is_save_overdue(), run.observer.is_time_over()))

        with warnings.catch_warnings():
            # A scaler that skips the first updates is no wrong order of calls.
            warnings.filterwarnings("ignore", message=r"Detected call of `lr_scheduler.step\(\)`")
            is_time_over = training.parts.world.shared(run.observer.is_time_over())
            state, plan = training.parts.state, replace(training.plan(), is_time_over=is_time_over)
            forward_backward = halving(training.work(), computation, run.journal.display.note)
            forward_backward = reevaluated(state.optimizer, forward_backward, state.world)
            is_over = fit(state, forward_backward, batches, plan, run.observer, asked)
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
        numbers = weight_statistics(frozen)
        run.journal.events.scalars(0, {shown_as(tag): number for tag, number in numbers.items()})
    if state.step == 0 and parts.settings.overfit is not None:
        before = evaluate(parts.model, parts.loss_fn, parts.splits.val, parts.device, parts.precision)
        state.last[BEFORE] = before["loss"] if before is not None else math.nan
    run.observer.start_clock()
    with run.observer.off_the_clock():
        computation = computed(training, run, features, is_alone)
    run.computed = "; ".join(computation.lines)
    run.observer.network = computation.network
    run.observer.train, run.observer.val = computation.train, computation.val
    set_mode(computation.network, True)
    if computation.train is not parts.splits.train:
        batches = training.batches(computation.train)
    per_epoch = parts.length.steps_per_epoch
    batches = thawed(parts.settings, parts.model, batches, state.step + 1, per_epoch)
    if parts.settings.profile and parts.world.is_main:
        from trainer.run.profile import Profile

        profile = Profile(parts.model, training.folder, parts.device, run.profile)
        batches = profile.watching(batches, parts.length.max_steps - state.step)
    return batches, computation


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
    request = parts.settings.request
    command = shell.join(["train", *request.overrides])
    yaml = OmegaConf.to_yaml(OmegaConf.create(without_nulls(request.config)))
    groups = parts.state.optimizer.param_groups
    if len(groups) > 1 and parts.settings.monitor.texts:
        from trainer.monitor.texts import table

        names = {id(p): name for name, p in zip(parts.state.store.names, parts.state.store.parameters, strict=True)}
        head = ["tag", "lr", "weight decay", "parameters"]
        board.events.text("about/optimizer", 0, table(head, groups_table(groups, names)))
    board.begin(command, yaml, __version__, parts.device, parts.sample.inputs, bool(parts.loss_fn.term_names))


def without_nulls(config: Config) -> Config:
    """The config as somebody reads it: the groups first, and no key that is null, which switches something off."""

    def kept(section: Config) -> Config:
        found = {key: kept(value) if isinstance(value, dict) else value for key, value in section.items()}
        return {key: value for key, value in found.items() if value is not None and value != {}}

    return kept({**{group: config[group] for group in GROUPS}, **config})


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
    run.journal.write(state.step, found.numbers)
    run.facts |= found.facts
    run.observer.report(state.step, training.diagnosis.concluded(state.step))
    for tag, loss in found.losses.items():
        if not math.isfinite(loss):
            raise NonFinite(f"{tag}={loss}: the loss on the test split is not finite")
    if world.is_main:
        try:
            write_predictions(training.folder, training.parts, kept, found.step)
        except OSError as error:
            raise cannot_write(training.folder, error) from error
