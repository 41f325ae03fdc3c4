"""`train find-lr KEY=VALUE ...`: what may be typed after it."""

from datetime import datetime
from pathlib import Path

from trainer.command.composing import composer
from trainer.command.sweeping import refuse_ranks
from trainer.command.words import Words, sorted_words
from trainer.errors import UserError
from trainer.signals import Signals
from trainer.system import shell

_DECIDED = ("optimizer.lr", "resume", "run_dir", "dry_run", "profile")


def find_lr(argv: list[str], signals: Signals) -> int:
    """Tries learning rates for the run that the words ask for. Returns the exit code.

    Raises:
        UserError: a word has no place here.
    """
    words = sorted_words(argv)
    refuse_ranks("find-lr")
    refuse(words)
    with composer(argv, words) as made:
        request = made.request()
    if "lr" not in request.config["optimizer"]:
        raise UserError(f"optimizer={request.name('optimizer')}: has no key lr. Type train find-lr with another one.")
    name = request.config["name"] or f"find-lr-{datetime.now():%Y-%m-%d_%H%M%S}"
    folder = Path("runs", str(name))
    if folder.exists():
        raise UserError(f"name={name}: {folder} is there already. Type another name=, or none.")
    from trainer.sweep.rates import find_rate

    kept = [word for word in argv if not word.startswith(("name=", "max_steps=", "max_epochs="))]
    return find_rate(request, folder, kept, signals)


def refuse(words: Words) -> None:
    """Raises UserError for what find-lr decides itself, or has no use for."""
    if words.is_sweep or words.is_question or words.of_hydra:
        raise UserError("train find-lr: takes the words of one run. Type train find-lr max_steps=100, for example.")
    for word in words.overrides:
        key = word.lstrip("+~").partition("=")[0]
        if key in _DECIDED:
            raise UserError(f"{shell.quote(word)}: train find-lr has no use for it. Leave {key}= out.")
