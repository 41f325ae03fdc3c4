"""What to type to continue a run: a line that works as it stands."""

import contextlib
import os
import signal
from collections.abc import Iterator

from trainer.config.request import resolved
from trainer.config.schema import leaves, resume_word, shown, typed
from trainer.disk import folder as folders
from trainer.disk.checkpoint import step_of
from trainer.distributed import World
from trainer.errors import Interrupted
from trainer.run.training import Training
from trainer.system import shell

_SAID_BY_THE_FOLDER = ("name", "run_dir", "resume", "trust")


def how_to_continue(training: Training) -> str:
    """The whole command: how the processes are started, the folder, whom to trust, and what was typed since."""
    settings = training.parts.settings
    stored = folders.read_config(training.folder) or {}
    stored.pop("choices", None)
    began, now = dict(leaves(resolved(stored))), dict(leaves(settings.config))
    changed = [key for key in now if key in began and began[key] != now[key] and key not in _SAID_BY_THE_FOLDER]
    words = [resume_word(training.folder), *(typed(key, now[key]) for key in changed)]
    if settings.own:
        words.append(shell.quote(f"trust={shown(list(settings.own))}"))
    return " ".join([started_by(training.parts.world), *words])


def started_by(world: World) -> str:
    """`train`, or what starts as many processes as there are now."""
    if world.size == 1:
        return "train"
    machines = os.environ.get("GROUP_WORLD_SIZE", "1")
    if machines == "1":
        return f"torchrun --nproc-per-node={world.size} -m trainer"
    return f"on each of the {machines} machines, torchrun with the options from before and -m trainer"


@contextlib.contextmanager
def said_when_stopped_at_once(training: Training) -> Iterator[None]:
    """After a second Ctrl-C, which waits for no step and no file: what is saved, and how to continue from there."""
    try:
        yield
    except KeyboardInterrupt:
        saved, how = training.checkpoints.files(), how_to_continue(training)
        if not saved:
            raise Interrupted(f"stopped at once; nothing was saved. To begin again: {how}", signal.SIGINT) from None
        step = step_of(saved[0])
        what = f"stopped at once; step {step} is the last that was saved. To continue from there: {how}"
        raise Interrupted(what, signal.SIGINT) from None
