"""`from trainer import load, run, runs`: what the command does, for notebooks and services. Imports nothing heavy."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainer.command.words import Words
    from trainer.use.loaded import Loaded

# A run seeds the generators of the whole process, and sets what torch is: one at a time.
_RUNNING = threading.RLock()


def load(
    place: str | Path,
    checkpoint: str | int | None = None,
    device: str | None = None,
    trust: Sequence[str] = (),
    **keys: Any,
) -> "Loaded":
    """The model of a finished run, in evaluation mode, for raw samples.

    Args:
        place: the folder of a run, or of a sweep, whose best run is taken; or a checkpoint.
        checkpoint: `best`, `last`, a step, or `average`: of the weights. None: the weights that `test/*` is of.
        device: None: as `device=auto` finds it, or as the run says.
        trust: packages whose classes the run may name: they run as they are imported. Nothing else of a folder runs.
        keys: `precision`, `threads`.

    Raises:
        trainer.errors.UserError: one line that says what is wrong, and what to do.
    """
    from trainer.run.environment import torch_as_new

    typed = {**keys, **({"device": device} if device else {}), **({"trust": list(trust)} if trust else {})}
    with torch_as_new(keeps_threads="threads" in keys):  # for what is computed with the model
        from trainer.use.loaded import open_model  # here, as rich draws a number from `random` when it is imported

        return open_model(str(place), None if checkpoint is None else str(checkpoint), typed)


def run(*words: str, **keys: Any) -> "Loaded":
    """Trains as the command `train` does, into a folder below `runs/`, and gives the model.

    `run("model=lenet", "optimizer.lr=0.01", max_epochs=3)`. An interrupt ends the step and saves; the same call, with
    `name=`, goes on from there. While another thread trains it waits: two runs at once would draw from each other.

    Args:
        words: as they are typed behind `train`.
        keys: the same as `key=value`; dotted ones by `**{"optimizer.lr": 0.01}`.

    Raises:
        trainer.errors.UserError: one line that says what is wrong, and what to type.
        trainer.errors.RunStopped: the loss is not finite.
        KeyboardInterrupt: it was interrupted, and is saved.
    """
    from trainer.command.listed import VERBS
    from trainer.command.main import refuse_hydra
    from trainer.command.words import sorted_words
    from trainer.errors import UserError

    argv = [*words, *(_word(key, value) for key, value in keys.items())]
    if argv and argv[0] in VERBS:
        raise UserError(f"{argv[0]}: trainer.run trains. Type it behind train; or trainer.load and its methods.")
    found = sorted_words(argv)
    refuse_hydra(argv, found)
    if found.is_sweep or found.is_question:
        raise UserError("trainer.run: trains one run. Type train --multirun in a shell, and trainer.load its folder.")
    with _RUNNING:
        return _trained(argv, found)


def _trained(argv: list[str], words: "Words") -> "Loaded":
    from trainer.command.composing import composer
    from trainer.config.schema import typed
    from trainer.errors import Interrupted, UserError
    from trainer.signals import Signals

    with composer(argv, words) as made:
        request = made.request()
    if request.config["dry_run"] is True:
        raise UserError(
            "dry_run=true: leaves no run, whose model trainer.run would give. Type train dry_run=true in a shell, or "
            "leave it out."
        )
    from trainer.run.environment import torch_as_new  # torch comes with it
    from trainer.run.run import run as train

    folders: list[Path] = []
    signals = Signals()
    try:
        with signals.listening(), torch_as_new():
            train(request, signals, folders.append)
    except Interrupted as error:
        how = f"{error} In Python: run({typed('resume', folders[0])!r})." if folders else str(error)
        raise KeyboardInterrupt(how) from None
    trusted = request.config.get("trust") or []
    return load(folders[0], device=str(request.config["device"]), trust=trusted)


def _word(key: str, value: Any) -> str:
    from trainer.config.grammar import written
    from trainer.config.schema import is_as_typed

    is_text = is_as_typed(key) and isinstance(value, str | Path)
    return f"{key}={value}" if is_text else f"{key}={written(value)}"


class Runs(list[dict[str, Any]]):
    """A mapping for each run: `run`, `folder`, its config and its results, as `train runs --json` has them."""

    def to_pandas(self) -> Any:
        """A DataFrame, a row for each run."""
        import pandas

        return pandas.DataFrame(self).set_index("run")


def runs(folder: str | Path = "runs", where: str = "", sort: str | None = None) -> Runs:
    """The runs below a folder.

    Args:
        where: terms that must hold, as `val/accuracy>0.9 optimizer.lr<0.1`.
        sort: a key or a tag, with `-` before it the other way round; None: by name.
    """
    from trainer.finished.read import existing_folder, runs_below
    from trainer.finished.runs import as_json, by_name, chosen

    found = list(map(by_name, runs_below(existing_folder(str(folder)))[0]))
    return Runs(map(as_json, chosen(found, where, sort)))
