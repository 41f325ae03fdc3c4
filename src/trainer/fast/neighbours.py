"""Torch's threads wait for each other asleep, not spinning, while other programs want their cores."""

import atexit
import ctypes
import os
import queue
import threading
import time

import torch

from trainer.system.limits import BOUND
from trainer.system.waiting import gnu_openmp, is_spinning, seconds_in_line

PERIOD = 0.1  # seconds between two looks
# Of the time that the main thread is without a core: they sleep from BUSY on, up to QUIET nobody is there. Beside a
# program that never rests it is 0.3, on a quiet machine 0.003.
BUSY, QUIET = 0.15, 0.02
LOOKS = 3  # that find nobody, one after another, before they spin again
_GRAIN = 32768  # numbers that one thread takes at least (ATen's GRAIN_SIZE)

_watched = 0  # the process that is watched; a fork has another number


def watch_neighbours() -> None:
    """Looks from now on, in a thread of its own, whether other programs want this one's cores. Once in a process.

    The numbers stay the same: so many threads share the work as before.

    Gain: two threads, beside one program that never rests, two cores: a step of LeNet 8.0 ms (48 if they spin for 300
    us), of 64-1000-100-10 0.7 (4). Alone: nothing (2026-11-26, AMD EPYC Zen 4).
    """
    global _watched
    if _watched == os.getpid() or not is_spinning():
        return
    _watched = os.getpid()
    end = threading.Event()
    watcher = threading.Thread(target=_watch, args=(end,), name="neighbours", daemon=True)
    watcher.start()

    def stop() -> None:  # a thread that Python ends within torch's code takes the process with it: SIGABRT
        if _watched == os.getpid():
            end.set()
            watcher.join()

    atexit.register(stop)


def _watch(end: threading.Event) -> None:
    crowd, quiet = Crowd(len(BOUND) + 1), 0  # the library counts cores, not a container's share of their time
    before, then = seconds_in_line(), time.monotonic()
    while not end.wait(PERIOD):
        waited, now = seconds_in_line(), time.monotonic()
        if waited is None or before is None:
            break
        share = (waited - before) / (now - then)
        before, then = waited, now
        quiet = quiet + 1 if share <= QUIET else 0
        if share >= BUSY and not crowd.gather():
            break
        if quiet >= LOOKS:
            crowd.leave()
    crowd.leave()


class Crowd:
    """More threads than cores, which sleep all the time: GNU's OpenMP then has all that wait sleep at once.

    One of them computes something with all the others, and holds them. Source: libgomp, config/linux/wait.h,
    `gomp_throttled_spin_count_var`.

    Args:
        size: how many threads.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._holds: threading.Thread | None = None
        self._end = threading.Event()

    def gather(self) -> bool:
        """Does nothing where they are there, or torch computes with one thread. False: there is no room for them."""
        if self._holds is not None:
            return True
        self._end = threading.Event()
        said: queue.SimpleQueue[bool | None] = queue.SimpleQueue()
        self._holds = threading.Thread(target=_hold, args=(self.size, said, self._end), daemon=True)
        try:
            self._holds.start()
        except RuntimeError:
            self._holds = None
            return False
        found = said.get()
        if not found:
            self.leave()
        return found is not False

    def leave(self) -> None:
        self._end.set()
        if self._holds is not None:
            self._holds.join()
        self._holds = None


def _hold(size: int, said: "queue.SimpleQueue[bool | None]", end: threading.Event) -> None:
    """Says whether it has gathered them: None where nobody needs them, False where there is no room."""
    # What torch computes with is set in each thread when that asks for it first, and may be set anew after that.
    if torch.get_num_threads() == 1 or (library := gnu_openmp()) is None:
        said.put(None)
    elif not _have_room(size):
        said.put(False)
    else:
        ctypes.CDLL(library).omp_set_num_threads(size)
        torch.zeros(size * _GRAIN, dtype=torch.uint8, device="cpu").add_(1)
        said.put(True)
        end.wait()


def _have_room(threads: int) -> bool:
    """Whether so many threads can be started. Where they can't, the library would end the process."""
    end = threading.Event()
    started: list[threading.Thread] = []
    try:
        for _ in range(threads):
            thread = threading.Thread(target=end.wait, daemon=True)
            thread.start()
            started.append(thread)
    except (RuntimeError, MemoryError):
        return False
    finally:
        end.set()
        for thread in started:
            thread.join()
    return True
