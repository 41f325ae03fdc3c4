"""Whether somebody watches a stream on a terminal that can move its cursor."""

import os
from collections.abc import Mapping
from typing import TextIO

# Backends of Matplotlib that kernels set for themselves and for what is started from a cell.
_INLINE = ("module://matplotlib_inline", "module://ipykernel", "module://google.colab")


def is_in_notebook(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this process was started from a cell of a notebook, as by `!train`: Jupyter, Colab, VS Code.

    A cell gives its programs a terminal of their own (IPython's `system` does, by a pty), and FORCE_COLOR=1, but shows
    neither a cursor that moves nor lines that are drawn over.
    """
    is_kernel = "JPY_PARENT_PID" in environment or "COLAB_RELEASE_TAG" in environment
    return is_kernel or environment.get("MPLBACKEND", "").startswith(_INLINE)


def is_terminal(stream: TextIO | None) -> bool:
    """False for a file, a pipe, `TERM=dumb`, a notebook, and where there is no stream."""
    return stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb" and not is_in_notebook()
