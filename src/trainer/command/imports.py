"""What Python's collector of garbage has to do with modules that are imported: nothing, in a process of the command."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


class Own:
    """Whether this process is the command's own; in others, such as a notebook, the collector is their owner's."""

    process = False


@contextmanager
def importing() -> Iterator[None]:
    """Within it no garbage is looked for, and what is there at its end is never looked through for garbage.

    An import makes none, but torch's makes half a million objects. Python looked through them again and again, and took
    them to pieces one by one when it ended. Without that, a run of one step takes 1.6 s of CPU time instead of 2.3
    (2026-11-26, AMD EPYC Zen 4, torch 2.13).
    """
    if not Own.process:
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
