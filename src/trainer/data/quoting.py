"""What a message quotes of somebody's file: short, whatever is in there."""

import re
import unicodedata
from collections.abc import Iterable, Sequence

from trainer.config.grammar import quoted
from trainer.system import shell

MOST_LETTERS = 40
_PLAIN = re.compile(r"(?!(?:null|true|false|inf|nan)$)[A-Za-z_][A-Za-z0-9_.-]*", re.IGNORECASE)


def composed(name: str) -> str:
    """A name in one way of writing: macOS writes the a and the dots of an umlaut apart in names of files (NFC, NFD)."""
    return unicodedata.normalize("NFC", name)


def cut(text: str, most: int = MOST_LETTERS) -> str:
    """The text as it is, or its beginning and `...`."""
    return text if len(text) <= most else f"{text[:most]}..."


def listed(words: Iterable[object], most: int = 8, letters: int = MOST_LETTERS) -> str:
    """``a, b, c``, each of them short; of many the first, and how many more there are: ``a, b and 4,998 more``."""
    all_words: Sequence[str] = [str(word) for word in words]
    shown = ", ".join(cut(word, letters) for word in all_words[:most])
    return shown if len(all_words) <= most else f"{shown} and {len(all_words) - most:,} more"


def typed(key: str, names: Sequence[str], are_numbers: bool = False) -> str:
    """``data.drop=[a,b]``, quoted for Hydra and the shell where a name needs that; of long ones their place is shown.

    Args:
        are_numbers: columns without names are called by their numbers, which are typed bare.
    """
    words = [name if are_numbers or _PLAIN.fullmatch(name) else quoted(name) for name in names]
    whole = f"{key}=[{','.join(words)}]"
    if len(whole) > 200 or not whole.isprintable() or "${" in whole:
        return f"{key}=[<their names>]"
    return whole if '"' not in whole else shell.quote(whole)
