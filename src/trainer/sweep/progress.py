"""What a sweep shows while it goes: a bar and the running jobs on a terminal, a line per job anywhere else."""

import contextlib
import json
import sys
import time
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any

from trainer.disk import foreign
from trainer.disk.folder import read_result
from trainer.finished.table import printable
from trainer.monitor.readable import counted, duration, short
from trainer.sweep.plan import Job
from trainer.sweep.processes import LOG, SIGNALLED, Outcome
from trainer.system.terminal import is_terminal

TAGS = ("val/accuracy", "val/loss", "test/accuracy", "test/loss")


class Progress:
    """Args: num_jobs: of the sweep; num_done: of those that had run before."""

    def __init__(self, num_jobs: int, num_done: int) -> None:
        self.num_jobs, self.num_done = num_jobs, num_done
        self.began = time.monotonic()
        self._live: Any = None
        self._noted: set[str] = set()
        if is_terminal(sys.stdout):
            from rich.live import Live

            self._live = Live(refresh_per_second=4, transient=True)

    def __enter__(self) -> "Progress":
        if self._live is not None:
            self._live.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._live is not None:
            self._live.__exit__(kind, error, at)

    def _say(self, line: str, is_error: bool = False) -> None:
        if self._live is not None:
            self._live.console.print(printable(line), style="red" if is_error else None, markup=False, highlight=False)
        else:
            print(printable(line), file=sys.stderr if is_error else sys.stdout, flush=True)

    def note(self, line: str) -> None:
        self._say(line)

    def note_once(self, line: str) -> None:
        if line not in self._noted:
            self._noted.add(line)
            self._say(line)

    def started(self, jobs: Sequence[Job]) -> None:
        if self._live is None:
            others = f" and {counted(len(jobs) - 1, 'other')}, together" if len(jobs) > 1 else ""
            self._say(f"{jobs[0].name}{others}: started")

    def ended(self, outcome: Outcome) -> None:
        """Says what a job came to, or why it failed and where the whole of it stands."""
        self.num_done += 1
        job = outcome.job
        if outcome.code in SIGNALLED:
            self._say(f"{job.name}: {outcome.reason}")
            return
        if outcome.reason:
            self._say(f"error: {job.name}: {outcome.reason} Log: {job.folder / LOG}", is_error=True)
            return
        result = read_result(job.folder)
        numbers = " ".join(f"{tag}={short(result[tag])}" for tag in TAGS if isinstance(result.get(tag), float))
        if result.get("status") == "pruned":
            numbers = f"pruned after step {result['steps']:,}, {numbers}"
        self._say(f"{job.name}: {numbers} in {outcome.seconds:.1f} s ({self.num_done} of {self.num_jobs})")

    def update(self, running: Iterable[Job]) -> None:
        """Draws the running jobs, each with its last numbers."""
        if self._live is None:
            return
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.text import Text

        spent = duration(time.monotonic() - self.began)
        head = Text(f"{self.num_done} of {self.num_jobs} jobs, {spent}")
        jobs = list(running)[:20]
        lines = [Text(printable(f"  {job.name}  {last_numbers(job)}"), style="dim") for job in jobs]
        self._live.update(Group(head, ProgressBar(self.num_jobs, self.num_done), *lines))


def last_numbers(job: Job) -> str:
    """The last line of a job's metrics."""
    for line in reversed(foreign.last_lines(job.folder / "metrics.jsonl", 4096)):
        with contextlib.suppress(ValueError, TypeError, KeyError):
            record = json.loads(line)
            tags = [tag for tag in ("train/loss", *TAGS) if isinstance(record.get(tag), float)]
            return f"step {record['step']:,} " + " ".join(f"{tag}={short(record[tag])}" for tag in tags)
    return "starting"
