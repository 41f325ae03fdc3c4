"""Words as they are typed in a shell: what a line says to type does what it says when it is pasted."""

import re
import shlex
import sys
from collections.abc import Iterable

# What cmd and PowerShell both take as it stands.
_PLAIN = re.compile(r"[\w=.,/\\:+@\[\]-]+", re.ASCII)


def quote(word: str) -> str:
    """One word; on Windows in double quotes where it needs any, which cmd and PowerShell both know."""
    if sys.platform != "win32":
        return shlex.quote(word)
    if _PLAIN.fullmatch(word):
        return word
    # Microsoft C's rules: backslashes count before a quote alone, and are doubled there.
    escaped = re.sub(r'(\\*)("|\Z)', lambda found: 2 * found[1] + (found[2] and '\\"'), word)
    return f'"{escaped}"'


def join(words: Iterable[str]) -> str:
    """A command line of these words."""
    return " ".join(map(quote, words))
