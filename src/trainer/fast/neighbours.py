"""Torch's threads wait for each other asleep, not spinning, while other programs want their cores."""

import os
import queue
import threading
import time

import torch

from trainer.system.limits import num_cores
from trainer.system.waiting import is_spinning, seconds_in_line

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
    if _watched != os.getpid() and is_spinning():
        _watched = os.getpid()
        threading.Thread(target=_watch, name="neighbours", daemon=True).start()


def _watch() -> None:
    crowd, quiet = Crowd(), 0
    before, then = seconds_in_line(), time.monotonic()
    while True:
        time.sleep(PERIOD)
        waited, now = seconds_in_line(), time.monotonic()
        if waited is None or before is None:
            return
        share = (waited - before) / (now - then)
        before, then = waited, now
        quiet = quiet + 1 if share <= QUIET else 0
        if share >= BUSY:
            crowd.gather()
        elif quiet >= LOOKS:
            crowd.leave()


class Crowd:
    """More threads than cores, which sleep all the time: GNU's OpenMP then has all that wait sleep at once.

    Each of the crowd computes something with as many threads as torch computes with, and then holds them. Source:
    libgomp, config/linux/wait.h, `gomp_throttled_spin_count_var`.
    """

    def __init__(self) -> None:
        self._threads: list[threading.Thread] = []
        self._end = threading.Event()

    def gather(self) -> None:
        """Does nothing where they are there, or torch computes with one thread."""
        if self._threads:
            return
        self._end = threading.Event()
        team = self._hold()
        if team == 1:
            self.leave()
        else:
            for _ in range((num_cores() + 1 - team - 1) // (team - 1)):
                self._hold()

    def leave(self) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()
        self._threads = []

    def _hold(self) -> int:
        """Starts one of the crowd. Returns with how many threads it computes, which only a new thread can tell."""
        team: queue.SimpleQueue[int] = queue.SimpleQueue()

        def hold(end: threading.Event) -> None:
            if torch.get_num_threads() > 1:
                torch.zeros(torch.get_num_threads() * _GRAIN, dtype=torch.uint8).add_(1)
            team.put(torch.get_num_threads())
            end.wait()

        self._threads.append(threading.Thread(target=hold, args=(self._end,), daemon=True))
        self._threads[-1].start()
        return team.get()
