"""A process per job: what one of them does harms no other.

On Linux they are forked from a server process that has imported torch and nothing else has happened in (`forkserver`
of multiprocessing), so that a job starts within milliseconds, and is as new as one that was typed. Elsewhere, where a
fork is not safe or not there, each is started afresh, which takes the seconds that torch takes to import.
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
from trainer.errors import RunStopped, UserError
from trainer.signals import ENDING, WARNING, Signals, blocked, end_at_once, unblock
from trainer.sweep.plan import Job
from trainer.system.interpreters import safe_path, shorten_sockets
from trainer.system.limits import num_cores

LOG = "log.txt"
LIBRARIES = "trainer.models.libraries."
UNKNOWN = 255  # what multiprocessing says of a process whose server was killed
SIGNALLED = tuple(128 + number for number in ENDING)
# A warning is for the sweep, or for the worker of a cluster, which has its jobs stop.
_OF_A_JOB = frozenset(ENDING).difference(WARNING)


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


@dataclass(eq=False)
class Running:
    """The process of one job, or of several that train together.

    Args:
        report: where it says its exit code; closed when it has ended, whoever else has by then.
        orders: where it is told to stop, on Windows; it ends when the process of the sweep does, which closes it.
        code: what it has said.
    """

    jobs: list[Job]
    process: BaseProcess
    report: Any
    orders: Any
    slot: int
    began: float
    code: int | None = None

    def has_ended(self) -> bool:
        """Whether the process is gone. Its parent, who says so too, may have been killed while it runs on."""
        try:
            while self.report.poll():
                self.code = self.report.recv()
        except (EOFError, OSError):
            return True
        return not self.is_watched() and self.process.exitcode != UNKNOWN

    def is_watched(self) -> bool:
        """Whether its parent has not said yet that it's gone."""
        return self.process.is_alive()

    def close(self) -> int:
        """Its exit code, when it has ended; below 0, the signal that killed it; `UNKNOWN` if nobody knows."""
        self.process.join()
        code = self.process.exitcode if self.code is None else self.code
        self.process.close()
        self.report.close()
        self.orders.close()
        return UNKNOWN if code is None else code


class Pool:
    """Runs jobs, some at a time.

    Args:
        at_once: how many processes.
        devices: numbers of the GPUs that are dealt out to them in turn, or None.
        first: of the jobs: what it needs of libraries is imported once for all of them.
    """

    def __init__(self, at_once: int, devices: Sequence[int] | None, first: Request | None = None) -> None:
        self.at_once, self.devices = at_once, devices
        self.share = max(1, num_cores() // at_once) if at_once > 1 else None  # of the cores, for each
        self.context: Any = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
        if sys.platform == "linux":
            vision = ["trainer.sweep.vision"] if first is not None and _needs_torchvision(first) else []
            self.context.set_forkserver_preload(["trainer.sweep.deaf", "trainer.run.run", *vision])
        self.running: list[Running] = []

    def has_room(self) -> bool:
        return len(self.running) < self.at_once

    def start(self, jobs: list[Job]) -> None:
        """Starts a process for one job, or for several that train together; each prints to the log in its folder."""
        slot = next(i for i in range(self.at_once) if all(running.slot != i for running in self.running))
        logs = [job.folder / LOG for job in jobs]
        requests = [self._dealt(job.request, slot) for job in jobs]
        report, said = self.context.Pipe(duplex=False)
        alive, orders = self.context.Pipe(duplex=False)  # it ends with this process, however that does
        process = self._started(work, jobs[0].name, alive, said, requests, logs, self.share)
        for end in (said, alive):
            end.close()
        self.running.append(Running(jobs, process, report, orders, slot, time.monotonic()))

    def _started(self, target: Callable[..., object], name: str, *arguments: Any) -> BaseProcess:
        shorten_sockets()
        process: BaseProcess = self.context.Process(target=target, args=arguments, name=name)
        with safe_path():
            try:
                _serve()
                process.start()
            except (EOFError, ConnectionError):  # the server has just been killed; another is started
                process = self.context.Process(target=target, args=arguments, name=name)
                _serve()
                process.start()
        return process

    def _dealt(self, request: Request, slot: int) -> Request:
        """The request with its share of the machine."""
        config = {**request.config}
        if self.devices:
            config["device"] = f"cuda:{self.devices[slot % len(self.devices)]}"
        return Request(config, request.choices, request.overrides)

    def ended(self, seconds: float) -> Iterator[tuple[Running, int, float]]:
        """Waits so long for processes to end; gives those that did, with exit code and seconds."""
        reports = [running.report for running in self.running]
        wait([*reports, *(running.process.sentinel for running in self.running if running.is_watched())], seconds)
        for running in [running for running in self.running if running.has_ended()]:
            self.running.remove(running)
            yield running, running.close(), time.monotonic() - running.began

    def signal(self, number: int) -> None:
        """Sends a signal to every job."""
        for running in self.running:
            if running.process.pid is not None:
                with contextlib.suppress(ProcessLookupError, OSError):
                    if sys.platform == "win32":  # where whoever is sent SIGTERM is gone, and nothing is saved
                        running.orders.send(number)
                    else:
                        os.kill(running.process.pid, number)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What a function gives, called in a process of its own.

        Raises:
            UserError: the process was killed, as where memory runs out.
        """
        ours, theirs = self.context.Pipe(duplex=False)
        process = self._started(_answer, "check", theirs, function, *arguments)
        theirs.close()
        try:
            return ours.recv()
        except EOFError as error:
            process.join()
            code = process.exitcode or 0
            if code == 1:
                raise RuntimeError("the check of the jobs failed, see above") from error
            how = f"was killed by signal {-code} ({signal.strsignal(-code)})" if code < 0 else "was lost"
            raise UserError(f"the process that builds one of each kind of jobs {how}. Type the same again.") from error
        except BaseException:  # a signal
            process.kill()
            raise
        finally:
            process.join()
            ours.close()


def _serve() -> None:
    """Starts the server, unless it runs: signals for a group of processes are none of its own from its first moment."""
    if sys.platform == "linux":
        from multiprocessing import forkserver, resource_tracker  # Windows has neither

        resource_tracker.ensure_running()  # first: it unblocks what is blocked here
        with blocked(ENDING):
            forkserver.ensure_running()


def _needs_torchvision(request: Request) -> bool:
    """Whether a job imports it, as far as it is known before; timm and transformers do, too."""
    backbone = request.config["model"].get("backbone") or {}
    target = str(backbone.get("_target_"))
    is_of_model = request.choices.get("model") in ("torchvision", "timm", "hf") or target.startswith(LIBRARIES)
    return is_of_model or request.choices.get("data") == "torchvision"


def _answer(pipe: Connection, function: Callable[..., Any], *arguments: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that waits, which ends this one
    unblock(_OF_A_JOB)
    with contextlib.suppress(BrokenPipeError):
        pipe.send(function(*arguments))


def work(alive: Connection, report: Connection, requests: list[Request], logs: list[Path], threads: int | None) -> None:
    """What the process of one job does, or of several that train together.

    Args:
        threads: the most that it takes unless a number was typed; None: all of the machine's.
        alive: a pipe that is closed when the process of the sweep ends, and that brings signals on Windows.
        report: where it says its exit code.
    """
    from trainer.exits import exit_code
    from trainer.run.run import run

    def task(signals: Signals) -> None:
        unblock(_OF_A_JOB)  # of the server (`deaf`)
        threading.Thread(target=obey, args=(alive,), daemon=True).start()
        if len(requests) == 1:
            run(requests[0], signals)
        else:
            from trainer.sweep.together import train_together

            train_together(requests, logs, signals)

    if threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(threads)
    logs[0].parent.mkdir(parents=True, exist_ok=True)
    with open_to_append(logs[0]) as file:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(file.fileno(), stream.fileno())
    code = exit_code(task)
    with contextlib.suppress(OSError):  # the sweep has just been killed
        report.send(code)
    sys.exit(code)


def obey(alive: Connection) -> None:
    """Raises the signals that a pipe brings; ends this process at once when the one at its other end has ended.

    Not by the kernel, as `die_with_parent`: the parent of a job is the server that it was forked from.
    """
    with contextlib.suppress(EOFError, OSError):
        while True:
            signal.raise_signal(alive.recv())
    end_at_once()


def reason(job: Job, code: int) -> str:
    """Why a job has no good end, in a line; empty where it has one."""
    if code < 0:
        return f"was killed by signal {-code} ({signal.strsignal(-code)})"
    status = read_result(job.folder).get("status")
    if (code, status) in ((0, "finished"), (UNKNOWN, "finished"), (RunStopped.exit_code, "pruned")):
        return ""
    if code == UNKNOWN:
        return f"ended without a word (exit code {UNKNOWN}, or the server that would know was killed)"
    lines = foreign.last_lines(job.folder / LOG, 10_000)
    if code == 1 and len(lines) > 1:  # the last line says that it is our fault; the one before it, what happened
        return lines[-2]
    if lines and (lines[-1].startswith("error: ") or code in SIGNALLED):  # it says how far it came
        return lines[-1].removeprefix("error: ")
    return f"ended without a result (exit code {code})"
