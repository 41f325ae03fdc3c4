"""What a verb after `train` does. Imports nothing heavy."""

import os
import re
from collections.abc import Sequence

from trainer.command import using
from trainer.command.listed import ASKING, KEYS
from trainer.errors import UserError, nearest
from trainer.signals import Signals

_FLAGS = ("--csv", "--json")


def run_verb(argv: Sequence[str], signals: Signals | None = None) -> int:
    """What `train VERB ...` asks for. Returns the exit code.

    Args:
        argv: the verb, and the words after it.

    Raises:
        UserError: a word is wrong, or names nothing that is there.
    """
    verb = argv[0]
    if verb in (*using.OPTIONS, *ASKING):
        refuse_ranks(verb)
    if verb in using.OPTIONS:
        return using.use(verb, argv[1:])
    folders, options = sorted_words(verb, argv[1:])
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
        if len(folders) != 1:
            raise UserError(f"train show takes one run, not {len(folders)}. train runs lists them.")
        from trainer.finished.show import show

        return show(folders[0])
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


def sorted_words(verb: str, words: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The folders, and the options with their values.

    Raises:
        UserError: the verb has no such option, or its value is missing.
    """
    folders: list[str] = []
    options: dict[str, str] = {}
    rest = iter(words)
    for word in rest:
        name, is_given, value = word.partition("=")
        if word == "--":  # what follows names folders, whatever it looks like
            folders += rest
        elif name in KEYS[verb] and name not in _FLAGS:
            if not is_given:
                value = next(rest, "") if name.startswith("-") else ""
            if not value:
                raise UserError(f"{name}: has no value. Type train --help for what train {verb} takes.")
            options[name] = value
        elif word in KEYS[verb] and word in _FLAGS:
            options[word] = ""
        elif word.startswith("-") or (re.match(r"[a-z.]+=", word) and not using.is_place(word)):
            hint = nearest(name, KEYS[verb]) or (f" It takes {', '.join(KEYS[verb])}." if KEYS[verb] else "")
            raise UserError(f"{word}: train {verb} has no such word.{hint}")
        else:
            folders.append(word)
    return folders, options
