"""How a process ends: what is raised becomes a line and an exit code."""

import errno
import os
import signal
import sys
import traceback
from collections.abc import Callable

from trainer.errors import Interrupted, RunStopped, UserError, printable
from trainer.signals import Signals


def exit_code(task: Callable[[Signals], object]) -> int:
    """The exit code of the process that `task` is for; prints what it raises, in a line. A number it gives is the code.

    Args:
        task: called with the signals that the process gets.
    """
    signals = Signals()
    # Under torchrun what all processes have to say is said once.
    is_silent = os.environ.get("RANK", "0") != "0"
    try:
        with signals.listening():
            try:
                result = task(signals)
            except Exception:
                signals.raise_what_was_raised()
                raise
            return result if isinstance(result, int) else 0
    except (UserError, RunStopped, Interrupted) as error:
        if isinstance(error, Interrupted):
            ignore_ctrl_c()
        if not is_silent or str(error).startswith("rank "):
            print(printable(str(error) if isinstance(error, Interrupted) else f"error: {error}"), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        ignore_ctrl_c()
        print("stopped.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `train --help | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if is_of_the_system(error):
            hint = "Free what is full, or ask for more of it, and type the same again."
            print(f"error: {error}. {hint}", file=sys.stderr)
            return 2
        traceback.print_exc()
        print("error: this is a fault of train itself; please report the lines above.", file=sys.stderr)
        return 1


def is_of_the_system(error: BaseException) -> bool:
    """Whether it is an error of the system's that may meet any line of code: a full disk, too many open files."""
    numbers = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
    return isinstance(error, OSError) and (error.errno in numbers or "temporary directory" in str(error))


def ignore_ctrl_c() -> None:
    """The process is ending: one more Ctrl-C would only change its exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
