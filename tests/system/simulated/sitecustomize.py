"""Has `trainer`, in this process and in those that it starts, run as on Windows or macOS.

Python imports this module by itself where its folder is in PYTHONPATH. `SIMULATED` says which system. Modules of
`trainer` alone are shown a poorer Python: Python's own library and torch have been ported by others. What is shown is
what the documentation of Python 3.11 says of each function ("Availability"), and of Windows' files:

- who has a file open keeps all others from renaming or removing it;
- os.open changes the ends of lines without O_BINARY, opens no folder, and knows no dir_fd;
- os.kill ends a process at once, whatever the signal, 0 included;
- a file opened to be read can't be synced;
- only a few signals can be listened to; a file without an encoding is in another than UTF-8.
"""

import builtins
import ctypes
import errno
import multiprocessing
import os
import signal
import sys
import types
import warnings
from pathlib import Path
from typing import Any

SYSTEM = os.environ.get("SIMULATED", "")
REAL_IMPORT = builtins.__import__
O_BINARY = 1 << 40  # of no other flag; taken off before the system sees it

WINDOWS_LACKS: dict[str, str] = {
    "os": "fork forkpty getuid geteuid getgid getegid getgroups getpgid getpgrp getsid killpg setsid setpgid nice "
    "sysconf sysconf_names pread pwrite preadv pwritev readv writev mkfifo mknod statvfs fstatvfs chown fchown lchown "
    "fchmod O_NOFOLLOW O_NONBLOCK O_CLOEXEC O_DIRECTORY O_SYNC O_DSYNC O_NOCTTY sched_getaffinity sched_setaffinity "
    "sched_yield ttyname openpty posix_fallocate posix_fadvise fdatasync sync wait wait3 wait4 WNOHANG WIFEXITED "
    "WEXITSTATUS WIFSIGNALED WTERMSIG uname register_at_fork sendfile lockf chroot fchdir confstr getloadavg "
    "getpriority setpriority ctermid pathconf fpathconf setxattr getxattr listxattr posix_spawn pipe2 getresuid "
    "memfd_create eventfd",
    "signal": "SIGHUP SIGQUIT SIGKILL SIGUSR1 SIGUSR2 SIGPIPE SIGALRM SIGCHLD SIGCONT SIGSTOP SIGTSTP SIGTTIN SIGTTOU "
    "SIGWINCH SIGXCPU SIGXFSZ SIGIO SIGBUS pthread_sigmask pthread_kill SIG_BLOCK SIG_UNBLOCK SIG_SETMASK sigwait "
    "sigpending sigwaitinfo sigtimedwait alarm setitimer getitimer siginterrupt pause",
    "socket": "AF_UNIX send_fds recv_fds sethostname",
    "time": "tzset clock_gettime clock_settime pthread_getcpuclockid",
    "sys": "abiflags",
}
MACOS_LACKS = {"os": "sched_getaffinity sched_setaffinity memfd_create eventfd getxattr setxattr listxattr"}
NO_MODULE = {
    "fcntl",
    "grp",
    "pwd",
    "resource",
    "termios",
    "tty",
    "pty",
    "curses",
    "readline",
    "syslog",
    "posix",
}
WINDOWS_SIGNALS = {signal.SIGABRT, signal.SIGFPE, signal.SIGILL, signal.SIGINT, signal.SIGSEGV, signal.SIGTERM}


class View(types.ModuleType):
    """A module as `trainer` sees it."""

    def __init__(self, real: types.ModuleType, lacks: str, **instead: Any) -> None:
        self.__dict__.update(_real=real, _lacks=set(lacks.split()), _instead=instead, __name__=real.__name__)

    def __getattr__(self, name: str) -> Any:
        if name in self._lacks:
            raise AttributeError(f"module '{self._real.__name__}' has no attribute '{name}' on {SYSTEM}")
        return self._instead[name] if name in self._instead else getattr(self._real, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._real, name, value)


def refuse_open_on(path: Any) -> None:
    """What Windows does with a file that is open anywhere; here it counts in the folder of the test alone."""
    wanted = os.path.realpath(path)
    if not wanted.startswith(os.environ["SIMULATED_IN"]):
        return
    for process in Path("/proc").glob("[0-9]*/fd"):
        try:
            names = {os.readlink(file) for file in process.iterdir()}
        except OSError:  # another user's, or gone
            continue
        if wanted in names:
            raise PermissionError(errno.EACCES, "The file is open elsewhere", str(path))


def guarded(function: Any) -> Any:
    def call(*paths: Any, **options: Any) -> Any:
        for path in paths:
            if options.get("dir_fd") is None:
                refuse_open_on(path)
        return function(*paths, **options)

    return call


def opened(path: Any, flags: int, mode: int = 0o777, *, dir_fd: Any = None) -> int:
    if dir_fd is not None:
        raise NotImplementedError("dir_fd unavailable on this platform")
    if os.path.isdir(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))
    assert flags & O_BINARY or path == os.devnull, f"{path} is opened as text"
    return REAL_OS["open"](path, flags & ~O_BINARY, mode)


def killed(number: int, sent: int) -> None:
    REAL_OS["kill"](number, signal.SIGKILL)


def synced(file: int) -> None:
    import fcntl

    if fcntl.fcntl(file, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise OSError(errno.EBADF, "Bad file descriptor")
    os.fsync(file)


def unlinked(path: Any, *, dir_fd: Any = None) -> None:
    if dir_fd is not None:
        raise NotImplementedError("dir_fd unavailable on this platform")
    os.unlink(path)


def listened(number: int, handler: Any) -> Any:
    if number not in WINDOWS_SIGNALS:
        raise ValueError("invalid signal value")
    return signal.signal(number, handler)


def locking(file: int, mode: int, num_bytes: int) -> None:
    """msvcrt's, from where the file stands."""
    import fcntl

    assert mode == 2
    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, num_bytes, os.lseek(file, 0, os.SEEK_CUR))


def library(name: Any, *arguments: Any) -> Any:
    if name is None:
        if SYSTEM == "windows":
            raise TypeError("bad argument type for built-in operation")
        return types.SimpleNamespace()
    return ctypes.CDLL(name, *arguments)


def context(name: str | None = None) -> Any:
    assert name == "spawn", f"{name}: only spawn is there on Windows, and safe on macOS"
    return multiprocessing.get_context(name)


def seen(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:
    asker = (globals or {}).get("__package__") or (globals or {}).get("__name__") or ""
    if level == 0 and asker.split(".")[0] == "trainer":
        if SYSTEM == "windows" and name in NO_MODULE:
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)
        if name in VIEWS:
            return VIEWS[name]
    return REAL_IMPORT(name, globals, locals, fromlist, level)


REAL_OS = {name: getattr(os, name) for name in ("open", "kill")}
if SYSTEM:
    lacks = WINDOWS_LACKS if SYSTEM == "windows" else MACOS_LACKS
    VIEWS: dict[str, types.ModuleType] = {
        "sys": View(sys, lacks.get("sys", ""), platform="win32" if SYSTEM == "windows" else "darwin"),
        "os": View(os, lacks["os"]),
        "ctypes": View(ctypes, "", CDLL=library),
        "multiprocessing": View(multiprocessing, "", get_context=context),
    }
    if SYSTEM == "windows":
        for function in ("unlink", "remove", "rename", "replace"):
            setattr(os, function, guarded(getattr(os, function)))
        about = {
            "name": "nt",
            "open": opened,
            "kill": killed,
            "fsync": synced,
            "unlink": unlinked,
            "O_BINARY": O_BINARY,
        }
        VIEWS["os"] = View(os, lacks["os"], **about)
        VIEWS["signal"] = View(signal, lacks["signal"], signal=listened)
        VIEWS["socket"] = View(REAL_IMPORT("socket"), lacks["socket"])
        VIEWS["time"] = View(REAL_IMPORT("time"), lacks["time"])
        VIEWS["msvcrt"] = types.SimpleNamespace(LK_NBLCK=2, LK_UNLCK=0, locking=locking)  # type: ignore[assignment]
        warnings.filterwarnings("ignore", category=EncodingWarning)  # others' ports are their own
        warnings.filterwarnings("error", category=EncodingWarning, module=r"trainer(\.|$)")
    builtins.__import__ = seen
