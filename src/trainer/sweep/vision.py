"""Imported by the server that jobs are forked from, where they need torchvision, which takes as long as torch."""

import contextlib

with contextlib.suppress(Exception):  # a job says what is wrong
    import torchvision  # noqa: F401
