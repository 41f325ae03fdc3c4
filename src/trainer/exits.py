"""How a process ends: what is raised becomes a line and an exit code."""

import contextlib
import errno
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from io import TextIOWrapper
from typing import Any, NoReturn, TextIO, cast

from trainer.errors import Interrupted, RunStopped, UserError, first_line, printable
from trainer.signals import ENDING, Signals

# What Python, the loader, the C library, C++, torch, oneDNN and a GPU's libraries say.
_NO_MEMORY = (
    *("can't start new thread", "can't allocate lock", "failed to map segment", "annot allocate memory", "bad_alloc"),
    *("not enough memory", "could not create a primitive", "out of memory", "_STATUS_ALLOC_FAILED"),
)
# What torch says of an operation whose kernel on a GPU adds in no fixed order.
_NOT_DETERMINISTIC = " does not have a deterministic implementation"

# Threads that wait within a library, which nothing but the end of the process ends.
waiting: list[threading.Thread] = []


def leave(code: int) -> NoReturn:
    """Ends the process with that exit code.

    Where one of `waiting` still waits, what the interpreter does at its end is left out: the library would be taken
    down under that thread, which then ends the process itself, with another code (Ray's by 1 or SIGABRT).
    """
    if any(thread.is_alive() for thread in waiting):
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)
    sys.exit(code)


def exit_code(task: Callable[[Signals], object]) -> int:
    """The exit code of the process that `task` is for; prints what it raises, in a line. A number it gives is the code.

    Args:
        task: called with the signals that the process gets.
    """
    open_streams()
    signals = Signals()
    # Under torchrun what all processes have to say is said once.
    is_silent = os.environ.get("RANK", "0") != "0"
    try:
        with signals.listening():
            try:
                result = task(signals)
                sys.stdout.flush()  # Python itself would do it later, and say in its own words what is wrong with it
            except Exception:
                signals.raise_what_was_raised()
                raise
            return result if isinstance(result, int) else 0
    except (UserError, RunStopped, Interrupted) as error:
        if isinstance(error, Interrupted):
            ignore_signals()
        if not is_silent or str(error).startswith("rank "):
            tell(printable(str(error) if isinstance(error, Interrupted) else f"error: {error}"))
        return error.exit_code
    except KeyboardInterrupt:
        ignore_signals()
        tell("stopped.")
        return 130
    except BrokenPipeError:  # `train --help | head -1`
        fall_silent(sys.stdout)
        return 0
    except Exception as error:
        line = line_of(error)
        if line is None:
            tell(traceback.format_exc().rstrip())
            tell("error: this is a fault of train itself; please report the lines above.")
            return 1
        if is_of_the_system(error):
            if getattr(error, "filename", None) is None and not can_flush(sys.stdout):
                line = f"standard output: {line}"
            fall_silent(sys.stdout)  # it may be what is full
        tell(printable(f"error: {line}"))
        return 2


def line_of(error: Exception) -> str | None:
    """What is wrong and what to type, where an error is the machine's or of what torch can't do; None: it is ours."""
    if is_out_of_memory(error):
        reason = first_line(error).partition(". GPU ")[0].rstrip(".")
        return f"there is not enough memory ({reason}). End other programs, or type a smaller batch_size=."
    if is_of_the_system(error):
        return f"{error}. Free what is full, or ask for more of it, and type the same again."
    if isinstance(error, PermissionError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}. Type another path, or get the right to this one."
    if isinstance(error, NotImplementedError) and (lacks := str(error).partition(" for the MPS device"))[1]:
        how = "Type PYTORCH_ENABLE_MPS_FALLBACK=1 before the command, which computes it on the CPU, or device=cpu."
        return f"device=mps: {lacks[0]}. {how}"
    if (lacks := str(error).partition(_NOT_DETERMINISTIC))[1]:
        how = "Type device=cpu, another loss or layer in its place, or deterministic=false."
        return f"deterministic=true: on a GPU torch has no {lacks[0].split()[-1]} that gives the same bits. {how}"
    return None


def open_streams() -> None:
    """Opens stdin, stdout and stderr where they are closed, as by `>&-`.

    Or else the next file that is opened gets their number, and is written into by whoever prints.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)
    for name, number in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            nowhere = open(number, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - to the end of the process
            setattr(sys, name, nowhere)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a console, or a pipe, may know fewer signs than a name or a table has
            stream.reconfigure(errors="replace")


def tell(line: str) -> None:
    """Prints a line on stderr, where somebody may read it."""
    try:
        print(line, file=sys.stderr, flush=True)
    except (OSError, ValueError):
        fall_silent(sys.stderr)


def can_flush(stream: TextIO) -> bool:
    """Whether what was printed finds room: what has found none is still there."""
    try:
        stream.flush()
    except (OSError, ValueError):
        return False
    return True


def fall_silent(stream: TextIO) -> None:
    """Has a stream lead nowhere, as nobody reads on, or its disk is full.

    Python flushes stdout once more when it exits, and would turn exit code 0 into 120.
    """
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class _Unbroken:
    """A stream that falls silent instead of raising an error."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except (OSError, ValueError):
            fall_silent(self._stream)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError):
            fall_silent(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def unbroken_output() -> Iterator[None]:
    """Within it, no closed pipe and no full disk under what is printed ends anything."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast(TextIO, _Unbroken(stream)) for stream in before)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stdout, sys.stderr = before


def is_of_the_system(error: BaseException) -> bool:
    """Whether it is an error of the system's that may meet any line of code: a full disk, too many open files."""
    numbers = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EMFILE, errno.ENFILE)
    return isinstance(error, OSError) and (error.errno in numbers or "temporary directory" in str(error))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the machine, or a limit on this process, has no more memory: each library has its own error for it."""
    of_system = isinstance(error, OSError) and error.errno == errno.ENOMEM
    return isinstance(error, MemoryError) or of_system or any(words in str(error) for words in _NO_MEMORY)


def ignore_signals() -> None:
    """The process is ending: one more Ctrl-C, or the hangup that follows, would only change its exit code."""
    for number in ENDING:
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
