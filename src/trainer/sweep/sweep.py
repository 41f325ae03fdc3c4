"""A sweep from its first job to its table; the same command goes on with it."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from trainer.config import schema
from trainer.config.request import Request, resolved
from trainer.disk.files import cannot_write, write_text
from trainer.disk.folder import is_begun, read_result
from trainer.disk.lock import locked, refuse_lost
from trainer.errors import Interrupted, UserError, nearest, one_of
from trainer.exits import unbroken_output
from trainer.signals import Signals
from trainer.sweep.cluster import Cluster
from trainer.sweep.plan import Job, is_finished, listing, plan, refuse_another, units, why_alone
from trainer.sweep.processes import SIGNALLED, UNKNOWN, Outcome, Pool, reason
from trainer.sweep.progress import Progress
from trainer.sweep.results import Row, Table, left_out, metric_of, print_table, read_failures, row
from trainer.sweep.verify import verify
from trainer.system import shell

# Exit codes of jobs that train together: all is said; a signal.
ENDS_OF_A_STACK = (0, *SIGNALLED)
ENDED = ("finished", "pruned")
# What jobs may differ in and still be built alike: numbers that the schema has looked at already.
NUMBERS = ("seed", "order_seed", "optimizer.", "run_dir", "max_steps", "max_epochs", "eval_every")
# What a result has beside losses and accuracies.
OTHER_METRICS = ("seconds", "steps", "lr", "grad_norm", "time/step_ms", "time/samples_per_second")


@unbroken_output()
def sweep(
    requests: Sequence[Request], folder: Path, words: Sequence[str], signals: Signals, cluster: Cluster | None = None
) -> int:
    """Runs all jobs. Returns how many have failed.

    Args:
        requests: what each job asks for.
        folder: of the sweep.
        words: as typed.
        cluster: what runs the jobs; None for processes of this machine.

    Raises:
        UserError: a job can't be composed or built, or the sweep was begun differently; nothing has been written then.
        Interrupted: a signal; what was running has been saved.
    """
    first = resolved(requests[0].config)
    settings: Mapping[str, Any] = first["sweep"]
    is_begun(folder, "sweep")
    jobs = plan(requests, folder)
    refuse_another(folder, jobs)
    pool = Pool(min(settings["jobs"], len(jobs)), settings["devices"], requests[0])
    refuse_unbuildable(jobs, pool)
    if first["dry_run"]:
        for number, job in enumerate(jobs):
            print(f"{number}: {job.name}{' (finished)' if is_finished(job) else ''}")
        return 0
    is_proved = True
    with signals.deferred(), opened(folder):
        write_words(folder, words, jobs)
        before = {} if settings["retry"] else read_failures(folder)
        failures = {job.name: before[job.name] for job in jobs if job.name in before}
        num_done = sum(job.name in failures or is_finished(job) for job in jobs)
        if num_done:
            print(f"{num_done} of {len(jobs)} jobs have run already", flush=True)
        if failures:
            print(f"{len(failures)} of them failed; sweep.retry=true tries them again", flush=True)
        together: list[Job] = []
        with Progress(len(jobs), num_done) as progress:
            rows = run_all(jobs, folder, cluster or pool, settings, signals, together, failures, progress)
        if not signals.received:
            is_proved = prove(rows, together, settings["verify"], folder, pool)
    return close(rows, len(jobs), folder, settings, signals) + (not is_proved)


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[None]:
    """Makes the folder of a sweep and locks it.

    Raises:
        UserError: it can't be written, or another sweep is at work there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            yield
    except OSError as error:
        raise cannot_write(folder, error, instead="another name=") from error


def write_words(folder: Path, words: Sequence[str], jobs: Sequence[Job]) -> None:
    """`sweep.yaml`: what was typed, over which keys, what ranks the jobs, and the jobs that came of it."""
    refuse_lost(folder)
    metric = resolved(jobs[0].request.config)["sweep"]["metric"]
    told = {"command": list(words), "swept": list(jobs[0].swept), "metric": metric, "jobs": listing(jobs)}
    write_text(folder / "sweep.yaml", OmegaConf.to_yaml(told))


def prove(rows: Sequence[Row], together: Sequence[Job], count: int, folder: Path, pool: Pool) -> bool:
    """Trains some of those once more alone that were trained together. Returns whether they came to the same."""
    whole = [r.job for r in rows if r.status == "finished" and r.job in together]
    if not count:
        return True
    if not whole:
        print("sweep.verify: no job has been trained together with others now, so none is compared", flush=True)
        return True
    line, is_proved = verify(whole, count, folder, pool)
    print(line, file=sys.stdout if is_proved else sys.stderr, flush=True)
    return is_proved


def close(rows: Sequence[Row], num_jobs: int, folder: Path, settings: Mapping[str, Any], signals: Signals) -> int:
    """Prints what the jobs came to. Returns how many have failed, or not come to their end.

    Raises:
        Interrupted: a signal ended the sweep.
    """
    num_left = sum(r.status in ("waiting", "interrupted") for r in rows)
    how = f"To continue, type the same with name={_name(folder)}"
    if signals.received:
        num_left += num_jobs - len(rows)
        raise Interrupted(
            f"stopped with {num_left} of {num_jobs} jobs to go; those that ran are saved. {how}", signals.received
        )
    print_table(rows, metric_of(rows, settings["metric"]))
    for line in left_out(folder, rows):
        print(line)
    if num_left:
        print(f"{num_left} of {num_jobs} jobs have not come to their end. {how}")
    typed = shell.quote(str(folder))
    print(f"sweep folder  {folder}\nlook at it    train compare {typed} --png sweep.png; train board {typed}")
    return sum(r.has_failed for r in rows) + num_left


def _name(folder: Path) -> str:
    return folder.relative_to("runs").as_posix() if folder.is_relative_to("runs") else str(folder)


def run_all(
    jobs: Sequence[Job],
    folder: Path,
    pool: Pool | Cluster,
    settings: Mapping[str, Any],
    signals: Signals,
    together: list[Job],
    failures: dict[str, dict[str, str]],
    progress: Progress,
) -> list[Row]:
    """Runs what is not finished, some jobs at a time.

    Args:
        together: those are added that were trained so to their end.
        failures: status and reason by the name of the job; those that fail are added. With `on_failure=stop` only these
            end the sweep: typed again, it continues behind the one that did.
    """
    left = [job for job in jobs if job.name not in failures and not is_finished(job)]
    killed: set[Job] = set()  # while they trained together
    # Jobs that train together are at every step together: none has finished that another could be measured by.
    of_all = "sweep.prune measures each by those that have finished" if settings["prune"] else ""
    of_all = of_all or ("each goes to a machine of its own" if isinstance(pool, Cluster) else "")
    waiting = units(left, "never" if of_all else settings["stack"], pool.at_once)
    for line in why_alone(waiting, settings["stack"], of_all):
        progress.note_once(line)
    num_known = len(failures)
    to_go = set(left)  # among them those that have ended, and are to be longer now

    def rows() -> list[Row]:
        found = [row(job, failures) for job in jobs]
        return [replace(r, status="waiting") if r.job in to_go and r.status in ENDED else r for r in found]

    table = Table(folder, rows)
    is_told = False
    while waiting or pool.running:
        is_stopping = signals.received != 0 or (len(failures) > num_known and settings["on_failure"] == "stop")
        if is_stopping and not is_told:
            pool.signal(signal.SIGTERM)
            is_told = True
        if is_stopping:
            waiting.clear()
        while waiting and pool.has_room():
            progress.started(waiting[0])
            pool.start(waiting.pop(0))
        for running, code, seconds in pool.ended(0.2):
            ended = running.jobs
            if len(ended) > 1 and code in ENDS_OF_A_STACK:
                together += ended
            elif len(ended) > 1:
                rest = rest_of_a_stack(ended, code, killed, progress)
                waiting[:0] = rest
                ended, code = [job for job in ended if not any(job in unit for unit in rest)], 0
            for job in ended:
                to_go.discard(job)
                outcome = Outcome(job, code, seconds, reason(job, code))
                note(outcome, failures)
                progress.ended(outcome)
            table.refresh()
        progress.update([job for running in pool.running for job in running.jobs])
    return table.write()


def rest_of_a_stack(jobs: Sequence[Job], code: int, killed: set[Job], progress: Progress) -> list[list[Job]]:
    """Those of jobs that trained together which have not come to their ends, in units as they go on.

    A signal comes from outside, and each has its checkpoint: they go on as they were. Killed once more, or ended by an
    error, that may be the fault of one: they go on one by one.

    Args:
        killed: while they trained together; these are added.
    """
    rest = [job for job in jobs if not is_finished(job)]
    was_killed = code < 0 or code == UNKNOWN
    is_again = was_killed and not killed.intersection(rest)
    killed.update(rest)
    if rest:
        how = "together" if is_again else "one by one"
        how += " from their last checkpoints (the same but for rounding)" if was_killed else ""
        progress.note(f"{rest[0].name} and others go on {how}: {reason(rest[0], code)}")
    return [rest] if is_again and rest else [[job] for job in rest]


def note(outcome: Outcome, failures: dict[str, dict[str, str]]) -> None:
    """Keeps why a job failed, and says so at once. An interrupted one has not failed: it goes on the next time."""
    if not outcome.reason or outcome.code in SIGNALLED:
        return
    stopped = read_result(outcome.job.folder).get("status") == "stopped"
    status = "stopped" if stopped else "killed" if outcome.code < 0 else "failed"
    failures[outcome.job.name] = {"status": status, "reason": outcome.reason}


def refuse_unbuildable(jobs: Sequence[Job], pool: Pool) -> None:
    """Builds one of each kind of job, in a process of its own, before the first is run.

    Raises:
        UserError: names the job.
    """
    kinds: dict[str, Job] = {}
    for job in jobs:
        if not is_finished(job):
            leaves = sorted(schema.leaves(resolved(job.request.config)))
            kinds.setdefault(str([leaf for leaf in leaves if not leaf[0].startswith(NUMBERS)]), job)
    problem = pool.call(first_problem, [(job.name, job.request) for job in kinds.values()])
    if problem is not None:
        raise UserError(problem)


def first_problem(requests: Sequence[tuple[str, Request]]) -> str | None:
    """What is wrong with the first request that can't be built."""
    import torch

    from trainer.config.settings import settings_of
    from trainer.run.parts import build

    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - to the end of the process
    tags: list[str] = []
    asked = resolved(requests[0][1].config)["sweep"] if requests else {"devices": None, "metric": None}
    devices, metric = asked["devices"], asked["metric"]
    if devices and max(devices) >= (num_gpus := torch.cuda.device_count()):
        there = schema.shown([*range(num_gpus)] or None)
        return f"sweep.devices={schema.shown(devices)}: the number of GPUs is {num_gpus}. Type sweep.devices={there}."
    for name, request in requests:
        try:
            parts = build(settings_of(request))
        except UserError as error:
            return f"job {name}: {error}"
        tags += [tag for split in ("val", "test", "train") for tag in parts.tags(split) if tag != "train/accuracy"]
    tag = str(metric).removeprefix("best/")
    if metric is None or tag in tags or tag in OTHER_METRICS:
        return None
    known = list(dict.fromkeys([*tags, *OTHER_METRICS]))
    return f"sweep.metric={metric}: is not measured here; there is {one_of(known)}.{nearest(tag, known, 0.6)}"
