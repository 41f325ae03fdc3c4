"""A search: a sweep whose jobs are chosen as it goes, by what those before them came to."""

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from trainer.config.request import Request, resolved
from trainer.config.schema import is_larger_better
from trainer.disk.folder import is_begun
from trainer.errors import UserError
from trainer.exits import unbroken_output
from trainer.signals import Signals
from trainer.sweep.cluster import Cluster
from trainer.sweep.plan import Job, is_finished, plan, refuse_another
from trainer.sweep.processes import Pool
from trainer.sweep.progress import Progress
from trainer.sweep.results import AVERAGED, metric_of, read_failures, row
from trainer.sweep.sweep import close, opened, prove, refuse_unbuildable, run_all, write_words

Trial = Sequence[str]  # the overrides that are its own


class Space(Protocol):
    """What is searched, and by whom."""

    @property
    def num_trials(self) -> int: ...

    def corners(self) -> list[Trial]:
        """Trials that have, one or another, each word of the space and both ends of each interval."""

    def request(self, trial: Trial) -> Request:
        """What a trial asks for."""

    def drive(self, run: Callable[[Sequence[Trial]], list[float | None]], is_larger_better: bool) -> None:
        """Has trials run until there have been enough; `run` gives the number of each, None where it failed."""


class _Ended(Exception):
    """No further trial is wanted."""


@unbroken_output()
def search(space: Space, folder: Path, words: Sequence[str], signals: Signals, cluster: Cluster | None = None) -> int:
    """Runs the trials. Returns how many have failed; a failed one ends nothing.

    The same command goes on: it asks for the same trials, and those that have run are not run again.

    Args:
        folder: of the sweep.
        words: as typed.
        cluster: what runs the jobs; None for processes of this machine.

    Raises:
        UserError: a corner of the space can't be composed or built; nothing has been written then.
        Interrupted: a signal; what was running has been saved.
    """
    is_begun(folder, "sweep")
    corners = [(trial, space.request(trial)) for trial in space.corners()]
    first = corners[0][1]
    config = resolved(first.config)
    settings = config["sweep"]
    pool = Pool(settings["jobs"], settings["devices"], first)
    # Nothing lies there: a trial near a corner may have the name that the corner would have.
    at_corners = [plan([request], folder / "corners", keys_of(trial))[0] for trial, request in corners]
    refuse_another(folder, [replace(at_corners[0], name="")])
    refuse_unbuildable(at_corners, pool)
    metric = settings["metric"] or pool.call(natural_metric, first)
    if config["dry_run"]:
        print(f"a search of {space.num_trials} trials for the best {metric}, chosen as it goes")
        return 0
    warn(settings, keys_of(corners[0][0]))
    jobs: dict[str, Job] = {}
    together: list[Job] = []
    failures = {} if settings["retry"] else read_failures(folder)

    def run(trials: Sequence[Trial]) -> list[float | None]:
        batch = []
        for trial in trials:
            job = job_of(space.request(trial), folder, keys_of(trial), jobs)
            batch.append(jobs.setdefault(job.name, job))
        progress.num_done += sum(job.name in failures or is_finished(job) for job in batch)
        write_words(folder, words, list(jobs.values()))
        known, num_known = list(jobs.values()), len(failures)
        rows = run_all(known, folder, cluster or pool, settings, signals, together, failures, progress)
        if signals.received or (len(failures) > num_known and settings["on_failure"] == "stop"):
            raise _Ended
        if any(r.status == "finished" for r in rows):
            metric_of(rows, settings["metric"])  # says so where no job has it
        return [number(job) for job in batch]

    def number(job: Job) -> float | None:
        result = row(job, failures).result
        value = result.get(f"best/{metric}", result.get(metric))
        if job.name in failures or not isinstance(value, int | float) or not math.isfinite(value):
            return None
        return float(value)

    with signals.deferred(), opened(folder), Progress(space.num_trials, 0) as progress:
        with contextlib.suppress(_Ended):
            space.drive(run, is_larger_better(metric, config))
        rows = [row(job, failures) for job in jobs.values()]
        is_proved = bool(signals.received) or prove(rows, together, settings["verify"], folder, pool)
    return close(rows, space.num_trials, folder, settings, signals) + (not is_proved)


def warn(settings: Mapping[str, Any], keys: Sequence[str]) -> None:
    """Says what may be meant otherwise, with these keys searched."""
    if settings["stack"] == "always" and settings["jobs"] == 1:
        print("sweep.stack=always: a search tries one after the other. sweep.jobs=4 tries four together", flush=True)
    if (key := next((key for key in keys if key in AVERAGED), None)) is not None:
        how = f"Type {key}=0, and then the best settings with --multirun {key}=0,1,2"
        print(f"{key}: is searched, so the best is the luckiest of them, too. {how}", flush=True)


def job_of(request: Request, folder: Path, keys: Sequence[str], others: Mapping[str, Job]) -> Job:
    """The job of a trial, with as many digits in its name as tell it apart, three at least.

    Args:
        others: those that there are by now, by name.
    """
    for digits in range(3, 18):
        with contextlib.suppress(UserError):  # in the folder of that name lies another trial
            (job,) = plan([request], folder, keys, digits)
            if job.name not in others or others[job.name].swept == job.swept:
                return job
    (job,) = plan([request], folder, keys)
    return job


def keys_of(trial: Trial) -> list[str]:
    return [word.lstrip("+~").partition("=")[0] for word in trial]


def natural_metric(request: Request) -> str:
    """The validation accuracy, where the loss has one."""
    from trainer.config.settings import settings_of
    from trainer.run.parts import build

    return f"val/{build(settings_of(request)).loss_fn.meaning.decisive}"
