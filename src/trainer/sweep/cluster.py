"""Jobs on other machines, or in another program's workers: whoever starts them, a disk that all share tells of them."""

import contextlib
import json
import secrets
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer.disk import foreign
from trainer.disk.files import open_to_append, write_text
from trainer.disk.lock import holder
from trainer.errors import UserError
from trainer.exits import waiting
from trainer.sweep.plan import Job
from trainer.sweep.processes import LOG, Pool

INTERRUPTED = 128 + signal.SIGTERM
POST = ".cluster"  # in the sweep's folder
LEAVE = 10  # seconds that a launcher has to see that all of its jobs have ended
GRACE = 60  # seconds that a worker has from its first sign of life to the lock on the job's folder


@dataclass(frozen=True)
class Errand:
    """What workers are to do; goes to each of them as it is.

    Args:
        jobs: of which each worker has one.
        post: the folder where workers tell of their jobs; they stop when there is no file `go` in it.
        home: the folder that the command was typed in.
    """

    jobs: Sequence[Job]
    post: Path
    home: Path

    def __call__(self, number: int) -> None:
        """Runs a job in a process of its own, as a sweep on one machine does, and leaves a note of how it ended."""
        job = self.jobs[number]
        with contextlib.chdir(self.home):
            self._note(number, "began")
            while holder(job.folder) is not None and self._is_wanted():
                time.sleep(1)  # what a command that was killed has left running, ends first
            code, seconds = self._run(job) if self._is_wanted() else (INTERRUPTED, 0.0)
            self._note(number, "ended", code=code, seconds=seconds)

    def _run(self, job: Job) -> tuple[int, float]:
        """Returns the exit code and the seconds."""
        pool = Pool(1, None)
        pool.start([job])
        is_told = False
        try:
            while not (ended := list(pool.ended(0.5))):
                if not is_told and not self._is_wanted():
                    pool.signal(signal.SIGTERM)
                    is_told = True
        except BaseException as error:  # raised by the launcher in its worker, whose time is up
            pool.signal(signal.SIGTERM)
            while not (ended := list(pool.ended(0.5))):
                pass
            if not isinstance(error, Exception):  # it ends at once, and will be started again
                raise
        _, code, seconds = ended[0]
        return code, seconds

    def _is_wanted(self) -> bool:
        return (self.post / "go").exists()

    def _note(self, number: int, what: str, **about: object) -> None:
        with contextlib.suppress(FileNotFoundError):  # nobody waits any more
            write_text(self.post / f"{number}.{what}", json.dumps(about))

    def end(self, number: int) -> tuple[int, float] | None:
        """The exit code and the seconds of a job, where its worker has said so."""
        try:
            note = json.loads(foreign.text(self.post / f"{number}.ended"))
        except (OSError, ValueError):
            return None
        return note["code"], note["seconds"]

    def has_begun(self, number: int) -> bool:
        return (self.post / f"{number}.began").exists()

    def may_live(self, number: int) -> bool:
        """Whether its worker has begun and not certainly died."""
        with contextlib.suppress(OSError):
            age = time.time() - (self.post / f"{number}.began").stat().st_mtime
            return abs(age) < GRACE or holder(self.jobs[number].folder) is not None
        return False


@dataclass(frozen=True, eq=False)
class Handed:
    """A job that was handed over."""

    jobs: list[Job]
    number: int


class Cluster:
    """Runs jobs like `processes.Pool`, but hands them over all at once.

    Args:
        launch: starts a worker for every job, called with what it is to do, and waits for all of them.
        folder: of the sweep.
    """

    at_once = 2**31  # so that none are trained together: each goes to a machine of its own

    def __init__(self, launch: Callable[[Errand], object], folder: Path) -> None:
        self.launch, self.folder = launch, folder
        self.running: list[Handed] = []
        self._errand: Errand | None = None
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    def has_room(self) -> bool:
        return True

    def start(self, jobs: list[Job]) -> None:
        """Takes a job in; it is handed over with all others when their end is asked for."""
        self.running.append(Handed(jobs, len(self.running)))

    def ended(self, seconds: float) -> Iterator[tuple[Handed, int, float]]:
        """Waits so long; gives the jobs that have ended, with exit code and seconds. One that never began is forgotten.

        Raises:
            UserError: the launcher could start none of them.
        """
        if self._errand is None or self._thread is None:
            self._errand, self._thread = self._handed_over()
        errand = self._errand
        self._thread.join(seconds)
        is_over = not self._thread.is_alive()
        is_stopped = not (errand.post / "go").exists()
        if self._failure is not None and not any(errand.has_begun(handed.number) for handed in self.running):
            self._tidy()
            raise UserError(f"no job could be started: {told(self._failure)}")
        for handed in [*self.running]:
            number = handed.number
            end = errand.end(number)
            if end is None and (is_over or is_stopped) and not errand.may_live(number):
                end = errand.end(number)  # it may have come meanwhile
                if end is None and not errand.has_begun(number) and (is_stopped or self._failure is not None):
                    self.running.remove(handed)  # its turn has not come
                    continue
                end = end or self._lost(handed.jobs[0], errand.has_begun(number))
            if end is not None:
                self.running.remove(handed)
                yield handed, *end
        if not self.running:
            self._tidy()

    def signal(self, number: int) -> None:
        """Has every worker stop its job, whatever the signal."""
        if self._errand is not None:
            (self._errand.post / "go").unlink(missing_ok=True)

    def _handed_over(self) -> tuple[Errand, threading.Thread]:
        post = (self.folder / POST / secrets.token_hex(4)).absolute()
        post.mkdir(parents=True)
        (post / "go").touch()
        self._failure = None
        errand = Errand([handed.jobs[0] for handed in self.running], post, Path.cwd())

        def work() -> None:
            try:
                self.launch(errand)
            except BaseException as error:
                self._failure = error

        # Nothing stops a launcher that waits: the process ends without it.
        thread = threading.Thread(target=work, daemon=True)
        waiting.append(thread)
        thread.start()
        return errand, thread

    def _tidy(self) -> None:
        """Removes the notes: workers that an earlier command has left behind end, too."""
        shutil.rmtree(self.folder / POST, ignore_errors=True)
        if self._thread is not None:
            self._thread.join(LEAVE)  # its jobs say themselves that they have ended, and are heard before it
        self._errand = self._thread = None

    def _lost(self, job: Job, has_begun: bool) -> tuple[int, float]:
        """Of a job whose worker says nothing; its log tells why."""
        reason = f"the worker left no word in {self.folder / POST}: all machines must share this folder"
        if has_begun:
            reason = f"the worker was lost{f': {told(self._failure)}' if self._failure else ''}"
        job.folder.mkdir(parents=True, exist_ok=True)
        with open_to_append(job.folder / LOG) as log:
            log.write(f"error: {reason}.\n".encode())
        return UserError.exit_code, 0.0


def told(error: BaseException) -> str:
    """An error of somebody else's, in a line."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {first}"
