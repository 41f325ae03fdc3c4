"""A run's parts for a plain PyTorch loop beside it, runs in a stack, and the losses that a run wrote."""

import json
from collections.abc import Sequence
from pathlib import Path

from trainer.command.composing import composer
from trainer.command.words import sorted_words
from trainer.config.request import Request
from trainer.config.settings import settings_of
from trainer.run.parts import Parts, build
from trainer.signals import Signals
from trainer.sweep.together import train_together


def request_of(*words: str) -> Request:
    with composer(list(words), sorted_words(list(words))) as made:
        return made.request()


def parts_of(*words: str) -> Parts:
    """What `train WORDS` would train, before its first step."""
    return build(settings_of(request_of(*words)))


def together(runs: Sequence[Sequence[str]]) -> None:
    """Trains runs, each with a name, as one program in this process."""
    train_together([request_of(*words) for words in runs], [Path(f"{i}.log") for i in range(len(runs))], Signals())


def losses(name: str) -> list[float]:
    """Of every step that a run wrote down."""
    lines = map(json.loads, Path("runs", name, "metrics.jsonl").read_text().splitlines())
    return [line["train/loss"] for line in lines if "train/loss" in line]
