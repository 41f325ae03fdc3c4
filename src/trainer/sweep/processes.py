"""A process per job: what one of them does harms no other.

They are forked from a server process that has imported torch and nothing else has happened in (`forkserver` of
multiprocessing), so that a job starts within milliseconds, and is as new as one that was typed.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from trainer.config.request import Request
from trainer.disk import foreign
from trainer.disk.files import open_to_append
from trainer.disk.folder import read_result
from trainer.errors import RunStopped
from trainer.interpreters import safe_path
from trainer.signals import Signals
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


@dataclass(frozen=True, eq=False)
class Running:
    """The process of one job, or of several that train together."""

    jobs: list[Job]
    process: BaseProcess
    slot: int
    began: float


class Pool:
    """Runs jobs, some at a time.

    Args:
        at_once: how many processes.
        devices: numbers of the GPUs that are dealt out to them in turn, or None.
    """

    def __init__(self, at_once: int, devices: Sequence[int] | None) -> None:
        self.at_once, self.devices = at_once, devices
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["trainer.sweep.deaf", "trainer.run.run"])
        self.running: list[Running] = []
        # Every job holds the other end: it ends with this process, however that does.
        self._theirs, self._ours = self.context.Pipe(duplex=False)

    def has_room(self) -> bool:
        return len(self.running) < self.at_once

    def start(self, jobs: list[Job]) -> None:
        """Starts a process for one job, or for several that train together; each prints to the log in its folder."""
        slot = next(i for i in range(self.at_once) if all(running.slot != i for running in self.running))
        logs = [job.folder / LOG for job in jobs]
        requests = [self._dealt(job.request, slot) for job in jobs]
        process = self.context.Process(target=work, args=(self._theirs, requests, logs), name=jobs[0].name)
        with safe_path():
            process.start()
        self.running.append(Running(jobs, process, slot, time.monotonic()))

    def _dealt(self, request: Request, slot: int) -> Request:
        """The request with its share of the machine."""
        config = {**request.config}
        if self.at_once > 1 and config["threads"] is None:
            config["threads"] = max(1, (os.cpu_count() or 1) // self.at_once)
        if self.devices:
            config["device"] = f"cuda:{self.devices[slot % len(self.devices)]}"
        return Request(config, request.choices, request.overrides)

    def ended(self, seconds: float) -> Iterator[tuple[Running, int, float]]:
        """Waits so long for processes to end; gives those that did, with exit code and seconds."""
        wait([running.process.sentinel for running in self.running], seconds)
        for running in [running for running in self.running if not running.process.is_alive()]:
            running.process.join()
            code = running.process.exitcode or 0
            running.process.close()
            self.running.remove(running)
            yield running, code, time.monotonic() - running.began

    def signal(self, number: int) -> None:
        """Sends a signal to every job."""
        for running in self.running:
            if running.process.pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(running.process.pid, number)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What a function gives, called in a process of its own."""
        ours, theirs = self.context.Pipe()
        process = self.context.Process(target=_answer, args=(theirs, function, *arguments))
        with safe_path():
            process.start()
        theirs.close()
        try:
            return ours.recv()
        finally:
            process.join()


def _answer(pipe: Any, function: Callable[..., Any], *arguments: Any) -> None:
    unblock_sigterm()
    pipe.send(function(*arguments))


def unblock_sigterm() -> None:
    """In a process that was forked from the server (`deaf`)."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def work(alive: Connection, requests: list[Request], logs: list[Path]) -> None:
    """What the process of one job does, or of several that train together.

    Args:
        alive: a pipe that is closed when the process of the sweep ends.
    """
    from trainer.exits import exit_code
    from trainer.run.run import run

    def task(signals: Signals) -> None:
        unblock_sigterm()
        if len(requests) == 1:
            run(requests[0], signals)
        else:
            from trainer.sweep.together import train_together

            train_together(requests, logs, signals)

    threading.Thread(target=end_with, args=(alive,), daemon=True).start()
    logs[0].parent.mkdir(parents=True, exist_ok=True)
    with open_to_append(logs[0]) as file:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(file.fileno(), stream.fileno())
    sys.exit(exit_code(task))


def end_with(alive: Connection) -> None:
    """Ends this process at once when the one at the other end of the pipe has ended.

    Not by the kernel, as `die_with_parent`: the parent of a job is the server that it was forked from.
    """
    alive.poll(None)
    os.kill(os.getpid(), signal.SIGKILL)


def reason(job: Job, code: int) -> str:
    """Why a job has no good end, in a line; empty where it has one."""
    if code < 0:
        return f"was killed by signal {-code} ({signal.strsignal(-code)})"
    status = (read_result(job.folder) or {}).get("status")
    if (code, status) in ((0, "finished"), (RunStopped.exit_code, "pruned")):
        return ""
    lines = _last_lines(job.folder / LOG)
    if code == 1 and len(lines) > 1:  # the last line says that it is our fault; the one before it, what happened
        return lines[-2]
    if lines and (lines[-1].startswith("error: ") or code > 128):  # a signal: it says how far it came
        return lines[-1].removeprefix("error: ")
    return f"ended without a result (exit code {code})"


def _last_lines(path: Path) -> list[str]:
    with contextlib.suppress(OSError):
        return foreign.end(path, 10_000).decode(errors="replace").splitlines()
    return []
