"""From what was asked for to a run, on one page: a new one, or one that continues where it stopped."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from trainer.config import schema, trust
from trainer.config.request import Config, Request
from trainer.config.settings import Settings, settings_of
from trainer.data.prepare import Fingerprint, fingerprint
from trainer.distributed import World, find_world, joined
from trainer.errors import RunStopped, UserError
from trainer.run.continuing import said_when_stopped_at_once
from trainer.run.environment import find_device
from trainer.run.folder import as_begun, as_stored, find_folder, finished, load, refuse_another, take_folder
from trainer.run.instantiate import libraries_in
from trainer.run.overfit import refuse_unlearnt
from trainer.run.parts import Parts, build
from trainer.run.train import train
from trainer.run.training import Training
from trainer.signals import Signals


def run(
    request: Request,
    signals: Signals | None = None,
    tell: Callable[[Path], object] = lambda folder: None,
    until: int | None = None,
    is_again: bool = False,
) -> Config:
    """Trains, or continues a training. Returns what `result.json` holds.

    Args:
        signals: those of the command; without them none is listened to.
        tell: called with the run's folder, before anything is done in it.
        until: a step after which it is interrupted, saved.
        is_again: what may be meant otherwise has been said of the first run, and is not said once more.

    Raises:
        UserError: a mistake in the config, the data or the environment; nothing has been written then.
        RunStopped: a loss that is not finite.
        Interrupted: a signal, or `until`; the run has been saved.
    """
    world = find_world()
    with contextlib.ExitStack() as undo:  # of what is written before it is clear that the run can go on
        settings = settings_of(as_stored(request, undo, world))
        folder = find_folder(settings)
        refuse_another(settings, folder)
        settings = as_begun(settings, folder)
        with joined(world, find_device(settings.device, world)):
            folder = world.shared(folder)
            tell(folder)
            refuse_other_configs(world, settings)
            parts = world.together(lambda: build(settings, world))
            refuse_unequal_data(world, parts)
            if not settings.dry_run and (result := finished(folder, parts)) is not None:
                undo.pop_all()
                return result
            training = Training(parts, folder, signals or Signals(), until=until)
            if is_again:
                training.warnings.clear()
            if settings.dry_run:
                from trainer.run.dry import dry_run

                return dry_run(training)
            with contextlib.ExitStack() as closing, blaming(settings):
                world.together(lambda: take_folder(folder, parts, closing))
                world.together(lambda: load(training))
                undo.pop_all()
                with said_when_stopped_at_once(training):
                    result = train(training)
            refuse_unlearnt(settings, result)
            return result


def refuse_other_configs(world: World, settings: Settings) -> None:
    """Raises UserError where two processes were not started with the same config."""
    mine, *others = world.gather(dict(schema.leaves(settings.config)))
    for rank, other in enumerate(others, 1):
        for key in {**mine, **other}:
            if mine.get(key) != other.get(key):
                raise UserError(
                    f"{key}={schema.shown(other.get(key))}: on rank {rank}, but {key}={schema.shown(mine.get(key))} on "
                    "rank 0. Start all processes with the same command."
                )


def refuse_unequal_data(world: World, parts: Parts) -> None:
    """Raises UserError where two processes have other samples: one would learn what another tests.

    Items that are another whenever they are read, as by a generator without a seed, tell nothing: only how many there
    are, and their targets, must be the same then.
    """
    mine = parts.state.data
    found = world.gather(mine)
    if all(other == found[0] for other in found):
        return
    again = fingerprint(parts.data)
    unsteady = {split for moving in world.gather([s for s in again if again[s] != mine[s]]) for split in moving}
    for rank, other in enumerate(found):
        for split, first in found[0].items():
            one, two = (Fingerprint(it.told) if split in unsteady else it for it in (first, other[split]))
            if one.difference(two) is not None:
                name = parts.settings.names["data"]
                raise UserError(
                    f"data={name}: the {split} split of rank {rank} is not that of rank 0. Have every process "
                    "build the same: draw with random, numpy.random or torch, whose generators seed= sets, or with a "
                    "generator of your own that has a seed; and read the same files."
                )


@contextlib.contextmanager
def blaming(settings: Settings) -> Iterator[None]:
    """Says in one line what went wrong in a class of the user's, or in a model of another library."""
    try:
        yield
    except (UserError, RunStopped):
        raise
    except Exception as error:
        if not trust.place(error, settings.own):
            libraries = libraries_in(settings, "model")
            if not trust.place(error, libraries):
                raise
            told = f"model={settings.names['model']}: {trust.told(error, libraries)}: raised by {libraries[0]}"
            raise UserError(
                f"{told}. It takes the samples where it is evaluated, not where it trains. Try a larger "
                "model.image_size= or batch_size=."
            ) from error
        raise UserError(f"{trust.told(error, settings.own)}: raised by a class of yours.") from error
