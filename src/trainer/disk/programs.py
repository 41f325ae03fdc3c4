"""Where torch keeps what it compiles: libraries that it loads again, so that nobody else may have put them there."""

import contextlib
import getpass
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from multiprocessing.util import Finalize
from pathlib import Path

from trainer.disk.files import cache_folder, make_private, shared_with

_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"


def keep_programs_private() -> None:
    """Has torch keep what it compiles in the user's cache folder. Before the first compilation.

    By default that is a folder of /tmp with a name that anybody can make first. Some of it (headers) lies there in any
    case: where it is somebody else's, this process has temporary files in a folder of its own.
    """
    if not os.environ.get(_VARIABLE):
        folder = _private(lambda: cache_folder("compiled"))
        os.environ[_VARIABLE] = str(folder or _passing())
    if _private(folder_of_torch) is None:
        tempfile.tempdir = os.environ["TMPDIR"] = str(_passing())


def folder_of_torch() -> Path:
    """torch's own choice, `default_cache_dir` of its `cache_dir_utils`. To import that would be to make the folder."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError, ImportError):
        user = "user"
        if sys.platform != "win32":
            user = f"uid_{os.getuid()}"
    return Path(tempfile.gettempdir(), "torchinductor_" + re.sub(r'[\\/:*?"<>|]', "_", user))


def _private(find: Callable[[], Path]) -> Path | None:
    """The folder, which is made where it's missing; None where others can write to it."""
    with contextlib.suppress(OSError, RuntimeError):  # RuntimeError: no home folder
        folder = find()
        make_private(folder)
        if not shared_with(folder):
            return folder
    return None


def _passing() -> Path:
    """A folder that goes with this process."""
    folder = Path(tempfile.mkdtemp(prefix="train-"))
    # Not by atexit, which the jobs of a sweep end without.
    Finalize(None, shutil.rmtree, (folder,), {"ignore_errors": True}, exitpriority=0)
    return folder
