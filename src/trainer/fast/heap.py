"""What the C library does with memory that is freed."""

import ctypes
import sys

# Parameters of glibc's mallopt and what they are set to, in bytes (malloc.h; man 3 mallopt).
SETTINGS = {
    -3: 32 << 20,  # M_MMAP_THRESHOLD: smaller blocks come from the heap; the largest that glibc itself would go to
    -1: 1 << 30,  # M_TRIM_THRESHOLD: so much may lie free at the heap's end
    -2: 64 << 20,  # M_TOP_PAD: so much more is asked for at a time
}


def keep_freed_memory() -> None:
    """Has freed memory stay in the process, for the tensors of the next step.

    Otherwise it goes back to the system after every step, and each page of it costs an interrupt when it is touched
    again. Does nothing where the C library is not glibc.
    """
    if sys.platform == "win32":  # which has no library of the process itself
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, size in SETTINGS.items():
            mallopt(parameter, size)
