"""Ctrl-C, SIGTERM and their like, from the command's first moment to its last."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from types import FrameType

from trainer.errors import Interrupted

# SIGHUP: the terminal was closed, or the connection to it was lost. Windows has none; there it is SIGBREAK, as is
# Ctrl-Break. What Windows calls SIGTERM reaches only the process that raises it. SIGXCPU: the time of the CPU is over
# (ulimit -St). SIGUSR1 and SIGUSR2: the warning of a batch system before it kills (Slurm's --signal, SGE's -notify);
# they would end a process that does not listen.
_WARNING = ("SIGUSR1", "SIGUSR2")
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK", "SIGXCPU", *_WARNING)
ENDING = tuple(signal.Signals[name] for name in _NAMES if hasattr(signal, name))
WARNING = tuple(number for number in ENDING if number.name in _WARNING)


class Signals:
    """What these signals do: end the process at once, or, within `deferred`, wait to be asked for.

    Attributes:
        received: the number of the last signal, 0 before the first.
    """

    def __init__(self) -> None:
        self.received = 0
        self._is_deferred = False
        self._has_raised = False
        self._is_over = False  # what was deferred for has come to its end

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Takes the signals over; SIGHUP not where it is ignored, as under nohup, and no warning that another heeds."""
        if threading.current_thread() is not threading.main_thread():
            yield  # Python gives signals to the main thread alone
            return
        now = {number: signal.getsignal(number) for number in ENDING}
        taken = [n for n in ENDING if n.name != "SIGHUP" or now[n] != signal.SIG_IGN]
        taken = [n for n in taken if n not in WARNING or now[n] == signal.SIG_DFL]
        old = {number: signal.signal(number, self._receive) for number in taken}
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """A signal only sets `received`; a second SIGINT ends the process at once all the same."""
        self.raise_received()  # what was raised in a callback of the interpreter has gone nowhere
        self._is_deferred, self._is_over = True, False
        try:
            yield
            self._is_over = True
        finally:
            self._is_deferred = False

    def raise_received(self) -> None:
        """Raises what ends the process, if a signal has come."""
        if self.received == signal.SIGINT:
            raise KeyboardInterrupt
        if self.received:
            before, after = "before the first step: nothing was trained", "after the end: what was trained is whole"
            raise Interrupted(f"stopped {after if self._is_over else before}.", self.received)

    def raise_what_was_raised(self) -> None:
        """Raises once more what a signal raised in the midst of a library, which may have come out as another error."""
        if self._has_raised:
            self.raise_received()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        is_second = self.received == number == signal.SIGINT
        self.received = number
        if not self._is_deferred:
            self._has_raised = True
            self.raise_received()
        if is_second:
            raise KeyboardInterrupt


@contextlib.contextmanager
def blocked(numbers: Iterable[signal.Signals]) -> Iterator[None]:
    """Within it these signals wait, for this process and for those that it starts. Windows can't have them wait."""
    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def unblock(numbers: Iterable[signal.Signals]) -> None:
    """Has signals come again that the process which started this one has blocked."""
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)


def end_at_once() -> None:
    """Ends this process as SIGKILL does: nothing is saved, and no more code of it runs."""
    # SIGTERM, sent by os.kill, does that on Windows.
    if sys.platform == "win32":
        os.kill(os.getpid(), signal.SIGTERM)
    else:
        os.kill(os.getpid(), signal.SIGKILL)
