"""The `train` command: from what was typed to a run, a sweep, a question or a verb; one-line errors and exit codes.

Imports no torch: help, `--cfg job` and tab completion answer before it would be there.
"""

import os
import sys
from pathlib import Path
from typing import NoReturn

import trainer.system.limits  # noqa: F401 - reads which cores there are, before torch is imported
from trainer.command.folders import config_folders, has_own_folder
from trainer.command.help import fitted, help_text, show_help, version_line
from trainer.command.imports import Own, importing
from trainer.command.listed import VERBS
from trainer.command.verbs import run_verb
from trainer.command.words import Words, refuse_long, sorted_words
from trainer.errors import UserError, one_of
from trainer.exits import exit_code, leave
from trainer.signals import Signals
from trainer.system import shell
from trainer.system.waiting import set_waiting


def main() -> NoReturn:
    """The console script. Exits with 0, or with a code of `trainer.errors`; 1 is our own fault, with a traceback."""
    argv = [word.removesuffix("\r") for word in sys.argv[1:]]  # of a script with the line ends of Windows
    set_waiting()  # before torch and NumPy are there
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # NumPy's threads would be in the way of torch's
    Own.process = True
    leave(exit_code(lambda signals: run_command(argv, signals)))


def run_command(argv: list[str], signals: Signals | None = None) -> int:
    """What the words after `train` ask for. Returns the exit code; raises what `main` turns into one."""
    refuse_long(argv)
    if "--help" in argv or "-h" in argv:
        print(fitted(help_text(config_folders(argv))))
        return 0
    if argv[:1] == ["help"]:
        return show_help(argv[1:])
    if argv and argv[0] in VERBS:
        return run_verb(argv, signals)
    if argv[:1] == ["find-lr"]:
        from trainer.command.finding import find_lr

        return find_lr(argv[1:], signals or Signals())
    words = sorted_words(argv)
    if "--version" in words.flags:
        print(version_line())
        return 0
    if {"-sc", "--shell-completion"} & set(words.flags):
        from trainer.command.completion import complete

        return complete(words.overrides)
    if words.is_question:
        from trainer.command.questions import answer

        return answer(argv, words)
    refuse_hydra(argv, words)
    if words.is_sweep:
        from trainer.command.sweeping import run_sweep

        return 1 if run_sweep(argv, words, signals or Signals()) else 0
    return run_once(argv, words, signals)


def refuse_hydra(argv: list[str], words: Words) -> None:
    """Refuses keys of Hydra's own where Hydra would do what nobody has checked, or where they do nothing.

    Raises:
        UserError: says what to type instead.
    """
    word = words.of_hydra
    if word is None:
        return
    if has_own_folder(argv):
        raise UserError(f"{word}: Hydra would do what the folder's own files tell it, too. Type one of the two.")
    key, _, value = word.lstrip("+~").partition("=")
    if not words.is_sweep:
        how = f"Type run_dir={value or '...'}" if key == "hydra.run.dir" else f"Type --multirun {word}"
        raise UserError(f"{word}: Hydra runs nothing here but the plugins of a sweep. {how}.")


def run_once(argv: list[str], words: Words, signals: Signals | None) -> int:
    """A run in this process."""
    with importing():
        from trainer.command.composing import composer
    with composer(argv, words) as made:
        request = made.request()
    refuse_unread(request.overrides)
    try:
        with importing():
            from trainer.run.run import run  # torch comes with it
        run(request, signals)
    except ModuleNotFoundError as error:
        raise UserError(f"the module {error.name} is missing. Type pip install {error.name}.") from error
    return 0


def refuse_unread(overrides: list[str]) -> None:
    """Refuses words that one run has no use for: those of a sweep, and a second place to lie in.

    Raises:
        UserError: says what to type instead.
    """
    typed = [(word, *word.lstrip("+~").partition("=")[::2]) for word in overrides]
    places = {
        key: (Path("runs", value) if key == "name" else Path(value), word)
        for word, key, value in typed
        if key in ("name", "run_dir", "resume") and value not in ("null", "auto", "")
    }
    if len({folder for folder, _ in places.values()}) > 1:
        words = [shell.quote(word) for _, word in places.values()]
        raise UserError(f"{' '.join(words)}: a run lies in one folder. Type {one_of(words)}.")
    for word, key, _ in typed:
        # A job of a sweep that continues heeds some of them.
        if key.startswith("sweep.") and not {"resume", "run_dir"} & places.keys():
            raise UserError(
                f"{word}: is of a sweep. Type --multirun and values of a key, such as seed=0,1; or leave it out."
            )
