"""What the user did wrong, and what stopped a run: exceptions that carry their exit code and print as one line."""

import difflib
import re
from collections.abc import Iterable


class UserError(Exception):
    """A mistake of the user's or of the environment's: one line on stderr, no traceback, exit code 2.

    The message says where, what was found, what is accepted and what to type:
    ``data.batch_size=0: a batch needs at least one sample. Try batch_size=64.``
    """

    exit_code = 2

    def __init__(self, message: object = "") -> None:
        super().__init__(cut(str(message)))


class RunStopped(Exception):
    """A rule ended the run before its last step: exit code 3."""

    exit_code = 3


class NonFinite(RunStopped):
    """A loss, a gradient or a weight is NaN or infinite.

    Args:
        step: whose number it is; a step that was not finished, where a training loss is.
        split: on which.
    """

    def __init__(self, message: object, step: int, split: str = "train") -> None:
        super().__init__(message)
        self.step, self.split = step, split


def printable(text: str) -> str:
    """The text with `?` for what a terminal would obey: configs, names of files and what they hold are foreign text."""
    return text if text.isprintable() else "".join(sign if sign.isprintable() else "?" for sign in text)


def cut(text: str, most: int = 2000) -> str:
    """The text without its middle where it's longer: it may quote a value or a header of any length."""
    half = (most - 5) // 2
    return text if len(text) <= most else f"{text[:half]} ... {text[-half:]}"


def first_line(error: BaseException) -> str:
    """Of what an error says, without a full stop; its kind where it says nothing."""
    line = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
    asked = re.search(r"DefaultCPUAllocator: .*tried to allocate (\d+) bytes", line)
    return f"{int(asked[1]):,} bytes of memory are needed at once, more than there are" if asked else line


def in_a_line(error: BaseException) -> str:
    """What an error says in all its lines, in one of at most 300 characters, without a full stop."""
    return " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__


class Pruned(RunStopped):
    """The other jobs of a sweep are so much better that this one is not worth its time."""


def nearest(word: str, accepted: Iterable[str], cutoff: float = 0.5) -> str:
    """``" Did you mean lenet?"`` for the nearest of the accepted words, or an empty string where none is near.

    Capital and small letters count as the same.
    """
    small = {known.lower(): known for known in reversed(list(accepted))}
    found = difflib.get_close_matches(word.lower(), small, n=1, cutoff=cutoff)
    return f" Did you mean {small[found[0]]}?" if found else ""


def one_of(words: Iterable[str]) -> str:
    """``a, b or c``."""
    *rest, last = words
    return f"{', '.join(rest)} or {last}" if rest else last


class Interrupted(BaseException):
    """A signal ended the run, and nothing of it is lost: exit code 128 + signal number.

    Like KeyboardInterrupt no Exception, so that nobody takes it for a failure that can be lived with.
    """

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number
