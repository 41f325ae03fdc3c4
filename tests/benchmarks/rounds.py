"""Two ways of the same work, timed in alternating rounds: what counts is the ratio of the two within a round."""

import platform
import statistics
import time
from collections.abc import Callable

import torch


def ratios(ours: Callable[[], float], other: Callable[[], float], num_rounds: int) -> tuple[list[float], list[float]]:
    """Seconds of each in every round; the order is turned round in every second one."""
    times: tuple[list[float], list[float]] = ([], [])
    for i in range(num_rounds):
        for which in (0, 1) if i % 2 == 0 else (1, 0):
            times[which].append((ours, other)[which]())
    return times


def line(name: str, ours: list[float], other: list[float]) -> str:
    """`name  ratio (smallest..largest)` of the rounds."""
    each = [a / b for a, b in zip(ours, other, strict=True)]
    return f"{name:<58} {statistics.median(each):5.2f}  ({min(each):.2f}..{max(each):.2f}, {len(each)} rounds)"


def machine() -> str:
    """What the figures were measured on."""
    threads = torch.get_num_threads()
    return f"{time.strftime('%Y-%m-%d')}, {platform.machine()}, {threads} threads, torch {torch.__version__}"
