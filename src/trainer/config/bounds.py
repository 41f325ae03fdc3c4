"""How long a word may be that is typed: Hydra's parser takes ten minutes for a list of 40,000 numbers."""

from collections.abc import Iterable

from trainer.errors import UserError

MAX_WORD = 10_000  # characters; a list of 5,000 numbers takes some seconds


def refuse_long_words(words: Iterable[str]) -> None:
    """Raises UserError for a word of more than `MAX_WORD` characters."""
    for word in words:
        if len(word) > MAX_WORD:
            raise UserError(
                f"{word[:40]}...: has {len(word):,} characters; a word has at most {MAX_WORD:,}. Write the value into "
                "a config file: --config-dir=conf experiment=mine."
            )
