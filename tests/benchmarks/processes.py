"""Everything is timed in processes of its own, as those who type it would have it."""

import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

from tensorboard.compat.proto.event_pb2 import Event

from trainer.monitor.events import event_files, records

HERE = Path(__file__).parent
# What an installation makes of `[project.scripts]`.
TRAIN = [sys.executable, "-c", "from trainer.command.main import main; main()"]


class Failed(Exception):
    """A process did not do what it was asked for; says why."""


class Ended(NamedTuple):
    """A process that has ended well.

    Args:
        began: `time.time()` before its start.
        seconds: to its end.
        cpu_seconds: of it and of the processes that it started and waited for.
        peak_mib: the largest memory that it held; of the processes that it started, none.
    """

    began: float
    seconds: float
    cpu_seconds: float
    peak_mib: float
    output: str


def run(
    command: Sequence[str],
    folder: Path | str = ".",
    threads: int | None = None,
    until: Callable[[], bool] | None = None,
) -> Ended:
    """Runs a command in a folder to its end, or until something is true, and then kills it.

    This process must stay small: on Linux what it holds when it starts another counts as that one's peak.

    Raises:
        Failed: its exit code is not 0.
    """
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        began, start = time.time(), time.perf_counter()
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=errors, env=_environment(threads))
        ends = os.WEXITED | os.WNOHANG | os.WNOWAIT
        try:
            while until is not None and os.waitid(os.P_PID, process.pid, ends) is None and not until():
                time.sleep(0.001)
            if until is not None:
                process.kill()
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:  # whoever measures is told to end
            process.kill()
            raise
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        for file in (output, errors):
            file.seek(0)
        if process.returncode != 0 and until is None:
            raise Failed(last_line(errors.read()) or f"exit code {process.returncode}")
        unit = 1 if sys.platform == "darwin" else 1024
        return Ended(began, seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit / 2**20, output.read())


def _environment(threads: int | None) -> dict[str, str]:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}  # as it is for a user
    return environment if threads is None else {**environment, "OMP_NUM_THREADS": str(threads)}


def last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else ""


def asked(script: str, question: Mapping[str, Any], threads: int | None = None) -> tuple[Ended, dict[str, Any]]:
    """A new process of a script in this folder, and what it answers to a question."""
    ended = run([sys.executable, str(HERE / script), json.dumps(question)], threads=threads)
    return ended, json.loads(last_line(ended.output))


class Kept:
    """A process of a script in this folder that stays, and answers one question after another, a line of JSON each.

    Args:
        words: for the script; started with the first question.
    """

    def __init__(self, *words: str, threads: int | None = None) -> None:
        self.words, self.threads = words, threads
        self._process: subprocess.Popen[str] | None = None
        self._errors: IO[str] | None = None

    def ask(self, question: Mapping[str, Any]) -> Any:
        """
        Raises:
            Failed: it has ended, or could not do it.
        """
        if self._process is None:
            command = [sys.executable, str(HERE / self.words[0]), *self.words[1:]]
            self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by close()
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env=_environment(self.threads),
                text=True,
            )
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        assert self._errors is not None
        try:
            print(json.dumps(question), file=stdin, flush=True)
            answer = stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            self._errors.seek(0)
            raise Failed(last_line(self._errors.read()) or "it has ended")
        return json.loads(answer)

    def close(self) -> None:
        if self._process is None or self._errors is None:
            return
        self._process.communicate()  # closes its stdin, which ends it
        self._errors.close()
        self._process = None


def answer_questions(answer: Callable[[dict[str, Any]], Any]) -> None:
    """What a `Kept` process does. Whatever else is printed meanwhile goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), file=answers, flush=True)


@contextmanager
def new_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="train-benchmark-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def train(words: Sequence[str], folder: Path, threads: int | None = None, command: Sequence[str] = TRAIN) -> Ended:
    """The command, in a new process; its run is in `folder/run`."""
    return run([*command, *words, "run_dir=run"], folder, threads)


def events(run_folder: Path) -> Iterator[Event]:
    """What stands in the event file of a run, in its order."""
    for path in event_files(run_folder):
        yield from map(Event.FromString, records(path))


def record_times(run_folder: Path) -> dict[int, float]:
    """Step to the `time.time()` at which its losses were logged."""
    return {
        event.step: event.wall_time
        for event in events(run_folder)
        if any(value.tag == "train/loss" for value in event.summary.value)
    }


def seconds_per_step(
    words: Sequence[str], num_steps: int, warm_up: int, threads: int | None = None, command: Sequence[str] = TRAIN
) -> float:
    """Of the steps that come after `warm_up` others, with all that `train` does between them.

    Args:
        num_steps, warm_up: multiples of the period in which numbers are logged.
        command: what takes the words.
    """
    with new_folder() as folder:
        # More than are timed: at the last one of all, everything is logged once more.
        train([*words, f"max_steps={warm_up + num_steps + 50}"], folder, threads, command)
        if times := record_times(folder / "run"):
            return (times[warm_up + num_steps] - times[warm_up]) / num_steps
        # Nobody logs the time, but the cost of the steps between two lines.
        return logged(folder / "run", "time/step_ms", warm_up + 1, warm_up + num_steps) / 1000


def logged(run_folder: Path, tag: str, first: int, last: int | None = None) -> float:
    """The mean of what a run wrote of these steps into `metrics.jsonl`."""
    records = map(json.loads, (run_folder / "metrics.jsonl").read_text().splitlines())
    found = [record[tag] for record in records if tag in record and first <= record["step"] <= (last or math.inf)]
    return sum(found) / len(found)
