"""A process per job: what one of them does harms no other.

They are forked from a server process that has imported torch and nothing else has happened in (`forkserver` of
multiprocessing), so that a job starts within milliseconds, and is as new as one that was typed.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from trainer.request import Request
from trainer.sweep.plan import Job

LOG = "log.txt"


@dataclass(frozen=True)
class Outcome:
    """How the process of a job ended.

    Args:
        code: exit code; below 0, the signal that killed it.
        reason: in a line, empty where all is well.
    """

    job: Job
    code: int
    seconds: float
    reason: str = ""


class Pool:
    """Runs jobs, some at a time.

    Args:
        at_once: how many processes.
        devices: numbers of the GPUs that are dealt out to them in turn, or None.
    """

    def __init__(self, at_once: int, devices: Sequence[int] | None) -> None:
        self.at_once, self.devices = at_once, devices
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["trainer.run"])
        self.running: dict[Job, tuple[BaseProcess, float]] = {}
        self._slots: dict[Job, int] = {}

    def has_room(self) -> bool:
        return len(self.running) < self.at_once

    def start(self, job: Job) -> None:
        """Starts the process of a job; what it prints goes to the log in its folder."""
        slot = next(i for i in range(self.at_once) if i not in self._slots.values())
        config = {**job.request.config}
        if self.at_once > 1 and config["threads"] is None:
            config["threads"] = max(1, (os.cpu_count() or 1) // self.at_once)
        if self.devices:
            config["device"] = f"cuda:{self.devices[slot % len(self.devices)]}"
        request = Request(config, job.request.choices, job.request.overrides)
        process = self.context.Process(target=work, args=(request, job.folder / LOG), name=job.name)
        process.start()
        self.running[job], self._slots[job] = (process, time.monotonic()), slot

    def ended(self, seconds: float) -> list[Outcome]:
        """Waits so long for processes to end; tells how those ended that did."""
        wait([process.sentinel for process, _ in self.running.values()], seconds)
        outcomes = []
        for job, (process, began) in list(self.running.items()):
            if not process.is_alive():
                process.join()
                code = process.exitcode or 0
                process.close()
                del self.running[job], self._slots[job]
                outcomes.append(Outcome(job, code, time.monotonic() - began, reason(job, code)))
        return outcomes

    def signal(self, number: int) -> None:
        """Sends a signal to every job."""
        for process, _ in self.running.values():
            if process.pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, number)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What a function gives, called in a process of its own."""
        ours, theirs = self.context.Pipe()
        process = self.context.Process(target=_answer, args=(theirs, function, *arguments))
        process.start()
        theirs.close()
        try:
            return ours.recv()
        finally:
            process.join()


def _answer(pipe: Any, function: Callable[..., Any], *arguments: Any) -> None:
    pipe.send(function(*arguments))


def work(request: Request, log: Path) -> None:
    """What the process of a job does."""
    from trainer.cli import exit_code
    from trainer.distributed import die_with_parent
    from trainer.run import run

    die_with_parent()
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab", buffering=0) as file:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(file.fileno(), stream.fileno())
    sys.exit(exit_code(lambda signals: run(request, signals)))


def reason(job: Job, code: int) -> str:
    """Why a job has no good end, in a line."""
    if code < 0:
        return f"was killed by signal {-code} ({signal.strsignal(-code)})"
    if code > 0:
        lines = _last_lines(job.folder / LOG)
        said = next((line for line in reversed(lines) if line.startswith("error: ")), "")
        if code == 1 and len(lines) > 1:  # the line says that it is our fault; the one before it, what happened
            said = lines[-2]
        return said.removeprefix("error: ") or f"ended with exit code {code}"
    from trainer.folder import read_result

    result = read_result(job.folder)
    return "" if result is not None and result.get("status") == "finished" else "ended without a result (exit code 0)"


def _last_lines(path: Path) -> list[str]:
    with contextlib.suppress(OSError), path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 10_000))
        return file.read().decode(errors="replace").splitlines()
    return []
