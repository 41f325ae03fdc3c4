"""What a verb after `train` does. Imports nothing heavy."""

import os
from collections.abc import Sequence

from trainer.command.listed import ASKING, USING
from trainer.command.options import one_run, places_and_options
from trainer.errors import UserError
from trainer.signals import Signals


def run_verb(argv: Sequence[str], signals: Signals | None = None) -> int:
    """What `train VERB ...` asks for. Returns the exit code.

    Args:
        argv: the verb, and the words after it.

    Raises:
        UserError: a word is wrong, or names nothing that is there.
    """
    verb = argv[0]
    if verb in (*USING, *ASKING):
        refuse_ranks(verb)
    folders, options = places_and_options(verb, argv[1:])
    if verb in USING:
        from trainer.command.using import use

        return use(verb, folders, options)
    if verb in ASKING:
        from trainer.command.asking import ask

        return ask(verb, folders, options, signals or Signals())
    if verb in ("runs", "board"):
        if len(folders) > 1:
            raise UserError(f"{folders[1]}: train {verb} takes one folder. Type the one that holds all of them.")
        folder = folders[0] if folders else "runs"
        if verb == "board":
            from trainer.finished.board import serve

            return serve(folder, options.get("port", "6006"))
        from trainer.finished.runs import print_runs

        form = "json" if "--json" in options else "csv" if "--csv" in options else "table"
        return print_runs(folder, options.get("where"), options.get("sort"), form)
    if verb == "show":
        from trainer.finished.show import show

        return show(one_run(verb, folders))
    if len(folders) == 1:
        from trainer.sweep.compare import compare_sweep, sweep_folder

        sweep = sweep_folder(folders[0])
        if sweep is not None:
            return compare_sweep(sweep, options.get("sweep.metric"), options.get("--png"), "--csv" in options)
    if "--csv" in options:
        raise UserError("--csv: writes the settings of a sweep. Of runs type train runs --csv.")
    if "sweep.metric" in options:
        raise UserError("sweep.metric: ranks the settings of a sweep. Type train compare with the folder of one sweep.")
    if len(folders) < 2:
        raise UserError("train compare takes two runs or more, or one sweep. train runs lists them.")
    from trainer.finished.compare import compare

    done = compare(folders, options.get("--png"))
    if len(folders) == 2:
        from trainer.use.better import print_better

        print_better(folders)
    return done


def refuse_ranks(verb: str) -> None:
    """Raises UserError under torchrun, where each process would compute all of it, and write the same files."""
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise UserError(f"{verb}: is one process. Type train {verb} without torchrun (or unset WORLD_SIZE).")
