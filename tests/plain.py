"""A run's parts for a plain PyTorch loop beside it, and the losses that the run wrote."""

import json
from pathlib import Path

from trainer.command.composing import composer
from trainer.command.words import sorted_words
from trainer.config.settings import settings_of
from trainer.run.parts import Parts, build


def parts_of(*words: str) -> Parts:
    """What `train WORDS` would train, before its first step."""
    with composer(list(words), sorted_words(list(words))) as made:
        request = made.request()
    return build(settings_of(request))


def losses(name: str) -> list[float]:
    """Of every step that a run wrote down."""
    lines = map(json.loads, Path("runs", name, "metrics.jsonl").read_text().splitlines())
    return [line["train/loss"] for line in lines if "train/loss" in line]
