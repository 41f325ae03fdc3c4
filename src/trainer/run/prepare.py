"""Before the first step of this process: how a training is computed, and what there is to see of it already."""

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from trainer import __version__
from trainer.computation import Computation, ordinary
from trainer.config.request import Config
from trainer.config.schema import GROUPS
from trainer.data.batches import Batch
from trainer.disk.folder import as_yaml
from trainer.evaluate import evaluate
from trainer.monitor.board import Board
from trainer.monitor.statistics import weight_statistics
from trainer.monitor.tags import shown_as
from trainer.optim.groups import groups_table
from trainer.run.freeze import thawed
from trainer.run.opened import Opened
from trainer.run.overfit import BEFORE
from trainer.run.training import Training
from trainer.run.waiting import waiting
from trainer.system import shell
from trainer.trials import set_mode

if TYPE_CHECKING:
    from trainer.fast.features import Features


def surroundings(training: Training, num_runs: int = 1) -> AbstractContextManager[None]:
    """What so many trainings like this one compute within."""
    settings = training.parts.settings
    if not settings.fast:
        return contextlib.nullcontext()
    from trainer.fast.choose import products

    return products(training.work(), settings.compile, num_runs)


def find_features(training: Training, note: Callable[[str], None]) -> "Features | None":
    """Of a frozen backbone, unless its layers are to be watched at work."""
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
        computation = chosen(training, features, is_alone, run.journal.display.note)
    run.computed = "; ".join(computation.lines)
    run.observer.network = computation.network
    run.observer.train, run.observer.val = computation.train, computation.val
    set_mode(computation.network, True)
    if computation.train is not parts.splits.train:
        batches = training.batches(computation.train)
    if is_alone and (found := waiting(parts.settings, parts.device, computation.train)) is not None:
        run.observer.waiting, batches = found, found.watching(batches)
    per_epoch = parts.length.steps_per_epoch
    batches = thawed(parts.settings, parts.model, batches, state.step + 1, per_epoch)
    if parts.settings.profile and parts.world.is_main:
        from trainer.run.profile import Profile

        profile = Profile(parts.model, training.folder, parts.device, run.profile)
        batches = profile.watching(batches, parts.length.max_steps - state.step)
    return batches, computation


def chosen(training: Training, features: "Features | None", is_alone: bool, note: Callable[[str], None]) -> Computation:
    """How the training is computed; `note` is told what takes its time."""
    settings, work = training.parts.settings, training.work()
    if not (settings.fast or settings.compile or settings.channels_last):
        return ordinary(work)
    from trainer.fast.choose import choose

    return choose(work, features, settings.fast, settings.compile, settings.cuda_graphs, is_alone, note)


def begin_board(training: Training, board: Board) -> None:
    parts = training.parts
    request = parts.settings.request
    command = shell.join(["train", *request.overrides])
    yaml = as_yaml(without_nulls(request.config))
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
