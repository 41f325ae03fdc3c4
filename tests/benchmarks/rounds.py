"""Ways of doing the same work, timed in alternating rounds: what counts is the ratio of two of them within a round."""

import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

Times = dict[str, list[float]]


@dataclass(frozen=True)
class Row:
    """A line of the table: the ratio of what two contestants take.

    Args:
        work: what is done.
        ours, base: names of contestants.
        goal: what ours / base may be at most; with `is_gain`, what base / ours must be at least. None: only shown.
        with_peers: whether others do the same work; theirs is a ratio to the base, too.
        is_least: the ratio is that of the least figures, not the median of the rounds' ratios.
    """

    work: str
    ours: str
    base: str
    goal: float | None = None
    is_gain: bool = False
    with_peers: bool = False
    is_least: bool = False

    def ratio(self, times: Times, name: str | None = None) -> float | None:
        """The one that counts of those of the rounds; None where there is none."""
        ratios = self.ratios(times, name)
        if not ratios:
            return None
        if self.is_least:
            ours, base = (min(times[of][: len(ratios)]) for of in (name or self.ours, self.base))
            return base / ours if self.is_gain and name is None else ours / base
        return statistics.median(ratios)

    def ratios(self, times: Times, name: str | None = None) -> list[float]:
        """In each round that everybody has finished; of another contestant than ours, its ratio to the base."""
        pairs = list(zip(times.get(name or self.ours, []), times.get(self.base, []), strict=False))
        return [base / ours if self.is_gain and name is None else ours / base for ours, base in pairs]

    def is_met(self, times: Times, slack: float) -> bool | None:
        """Whether the goal is, but for the slack (1.25: a quarter); None without a goal."""
        if self.goal is None:
            return None
        ratio = self.ratio(times)
        if ratio is None:
            return False
        return ratio >= self.goal / slack if self.is_gain else ratio <= self.goal * slack


@dataclass(frozen=True)
class Contest:
    """Contestants that do the same work, and the rows of the table that come of it.

    Args:
        contestants: name to a function that does the work once and gives seconds (or what `unit` says).
        peers: those of them that are other people's trainers.
    """

    rows: Sequence[Row]
    contestants: Mapping[str, Callable[[], float]]
    peers: Sequence[str] = ()
    unit: str = "s"

    def of(self, word: str) -> "Contest":
        """With the rows alone whose work has the word in it, and who is needed for them."""
        rows = [row for row in self.rows if word.lower() in row.work.lower()]
        needed = {name for row in rows for name in (row.ours, row.base)}
        needed |= {name for name in self.peers if any(row.with_peers for row in rows)}
        contestants = {name: work for name, work in self.contestants.items() if name in needed}
        return Contest(rows, contestants, self.peers, self.unit)


def alternating(
    contestants: Mapping[str, Callable[[], float]], num_rounds: int, failed: Callable[[str, Exception], None]
) -> Times:
    """Name to the figure of every round; the order is turned round in every second one.

    Args:
        failed: is told who could not do it, and why; they are left out from then on.
    """
    times: Times = {name: [] for name in contestants}
    for i in range(num_rounds):
        for name in list(times) if i % 2 == 0 else list(times)[::-1]:
            try:
                times[name].append(contestants[name]())
            except Exception as error:  # of every kind: most of them are other people's programs
                failed(name, error)
                del times[name]
    return times


def ratios(ours: Callable[[], float], other: Callable[[], float], num_rounds: int) -> tuple[list[float], list[float]]:
    """Seconds of each of two in every round."""

    def failed(name: str, error: Exception) -> None:
        raise error

    times = alternating({"ours": ours, "other": other}, num_rounds, failed)
    return times["ours"], times["other"]


def line(name: str, ours: list[float], other: list[float]) -> str:
    """`name  ratio (smallest..largest)` of the rounds."""
    ratios = [a / b for a, b in zip(ours, other, strict=True)]
    return f"{name:<58} {spread(statistics.median(ratios), ratios)}, {len(ours)} rounds"


def spread(ratio: float | None, ratios: Sequence[float]) -> str:
    """`ratio (smallest..largest)`."""
    return "-" if ratio is None else f"{ratio:.2f} ({min(ratios):.2f}..{max(ratios):.2f})"


def machine() -> str:
    """What the figures were measured on."""
    model = platform.processor() or platform.machine()
    if (info := Path("/proc/cpuinfo")).exists():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        model = f"{names[0]} ({platform.machine()})" if names else model
    cards = ""
    if (nvidia := shutil.which("nvidia-smi")) is not None:
        query = [nvidia, "--query-gpu=name", "--format=csv,noheader"]
        names = subprocess.run(query, capture_output=True, text=True).stdout.splitlines()
        cards = "".join(f", {name}" for name in names)
    return f"{time.strftime('%Y-%m-%d')}, {model}, {os.cpu_count()} cores{cards}, {platform.system()}"


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Of Python and of those of the packages that are installed."""
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
