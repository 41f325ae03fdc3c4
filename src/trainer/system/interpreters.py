"""Python interpreters that this process starts: none imports what lies in the folder that the command was typed in."""

import contextlib
import os
from collections.abc import Iterator

# As the flag -P: neither the current folder nor that of a script is searched for modules.
_SAFE_PATH, _OURS = "PYTHONSAFEPATH", "train"


@contextlib.contextmanager
def safe_path() -> Iterator[None]:
    """Within it, a new interpreter does not search the current folder for modules.

    multiprocessing starts its servers by `python -c`, which looks there before it looks into the standard library: a
    `random.py` of the user's, or of a stranger whose folder it is, would be run in place of Python's own.
    """
    if os.environ.get(_SAFE_PATH):
        yield
        return
    os.environ[_SAFE_PATH] = _OURS
    try:
        yield
    finally:
        forget()


def forget() -> None:
    """Takes that back in the environment of this process: programs that a user's own code starts are none of ours."""
    if os.environ.get(_SAFE_PATH) == _OURS:
        del os.environ[_SAFE_PATH]
