"""Processes that this one starts: none imports what lies in the folder that the command was typed in, and all are heard
where the folder for temporary files has a long path.
"""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from multiprocessing import util

# As the flag -P: neither the current folder nor that of a script is searched for modules.
_SAFE_PATH, _OURS = "PYTHONSAFEPATH", "train"
# Bytes of a socket's path, at the most: Linux takes 107, macOS 103. And what multiprocessing puts behind the folder.
_MOST_OF_A_SOCKET = 103
_BEHIND = "/pymp-12345678/listener-12345678"


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


def shorten_sockets() -> None:
    """Has multiprocessing put its sockets below `/tmp` where the path of TMPDIR's folder is too long for them.

    Batch systems give each job such a folder. Until Python 3.14 the server of a sweep's jobs does not start there, and
    workers that read ahead fall silent. The processes that this one starts use the same folder, which goes with it.
    """
    if sys.platform == "win32":
        return
    longest = _MOST_OF_A_SOCKET - len(_BEHIND)
    if len(os.fsencode(before := tempfile.gettempdir())) <= longest:
        return
    for folder in ("/tmp", "/var/tmp"):
        if os.access(folder, os.W_OK | os.X_OK):
            tempfile.tempdir = folder
            try:
                util.get_temp_dir()  # makes it once, and keeps its name
            finally:
                tempfile.tempdir = before
            return
