"""What the jobs of a sweep came to: `results.json`, `results.csv`, and a table with the best first."""

import csv
import io
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.text import Text

from trainer.config.schema import is_larger_better
from trainer.disk import foreign
from trainer.disk.files import write_text
from trainer.disk.folder import read_result
from trainer.disk.lock import refuse_lost
from trainer.errors import UserError, nearest
from trainer.finished.read import is_finite
from trainer.finished.table import Column, open_console, print_lines, table
from trainer.monitor.readable import short
from trainer.sweep.importance import importance_line
from trainer.sweep.plan import Job, told_apart

# Keys of which a setting has several values: the jobs that differ in these alone are averaged.
AVERAGED = ("seed", "data.fold")
_MARKED = ("failed", "pruned", "not over")
_ENDED = ("finished", "pruned")


@dataclass(frozen=True)
class Row:
    """A job and what it came to.

    Args:
        status: finished, pruned, interrupted, stopped, failed, killed, or waiting.
        reason: why it has no good end.
        result: what its `result.json` holds.
    """

    job: Job
    status: str
    reason: str
    result: dict[str, Any]

    @property
    def has_failed(self) -> bool:
        return self.status in ("stopped", "failed", "killed")


def row(job: Job, failures: dict[str, dict[str, str]]) -> Row:
    """What a job came to so far. `failures`: status and reason by the name of the job."""
    result = read_result(job.folder)
    failure = failures.get(job.name)
    if failure is not None:
        return Row(job, failure["status"], failure["reason"], result)
    return Row(job, str(result.get("status", "waiting")), "", result)


def read_failures(folder: Path) -> dict[str, dict[str, str]]:
    """The jobs that had failed when this sweep was run last, with status and reason; none that has ended well since."""
    try:
        rows = json.loads(foreign.text(folder / "results.json", foreign.MAX_RESULTS_BYTES))
        failed = [r for r in rows if r["reason"] and (come_to_since(folder, r) or {}).get("status") not in _ENDED]
        return {r["name"]: {"status": r["status"], "reason": r["reason"]} for r in failed}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}


def come_to_since(folder: Path, record: Mapping[str, Any]) -> dict[str, Any] | None:
    """The result of a job that was continued by itself after the sweep wrote its row; None where the row is still true.

    Args:
        record: a row of `results.json`. Foreign text, but for the texts that it must have.
    """
    name = record["name"]
    if name in (".", "..") or os.path.basename(name) != name:
        return None
    result = read_result(folder / name)
    if not isinstance(result.get("status"), str):
        return None
    texts = {key for key, value in record.items() if isinstance(value, str)}
    was, now = ({k: v for k, v in of.items() if k not in texts and is_finite(v)} for of in (record, result))
    return None if was == now else result


def left_out(folder: Path, rows: Sequence[Row]) -> list[str]:
    """A line where jobs of earlier commands lie in the sweep's folder that no row is of: no mean has them."""
    names = {r.job.name for r in rows}
    others = sorted({path.parent.name for path in folder.glob("*/config.yaml")} - names)
    if not others:
        return []
    which = f"{', '.join(others[:3])}{' ...' if len(others) > 3 else ''}"
    jobs = "1 more job lies" if len(others) == 1 else f"{len(others)} more jobs lie"
    return [f"not in the table: {jobs} there, whose values were not typed the last time: {which}"]


class Table:
    """The results of a sweep on the disk, while its jobs come to their ends.

    Writing takes as long as the sweep has jobs: after each of a thousand it would take a minute in all.

    Args:
        rows: what the jobs came to so far.
    """

    SHARE = 0.05  # of the time, at the most

    def __init__(self, folder: Path, rows: Callable[[], list[Row]]) -> None:
        self.folder, self.rows = folder, rows
        self._next = 0.0

    def refresh(self) -> None:
        """Writes what there is, unless that has just been done."""
        if time.monotonic() >= self._next:
            self.write()

    def write(self) -> list[Row]:
        start = time.monotonic()
        rows = self.rows()
        write_results(self.folder, rows)
        end = time.monotonic()
        self._next = end + (end - start) / self.SHARE
        return rows


def write_results(folder: Path, rows: Sequence[Row]) -> None:
    """`results.json` and `results.csv`: a job each, in the order of the sweep.

    Raises:
        UserError: the folder is not what it was when it was locked.
    """
    refuse_lost(folder)
    records = [
        {"name": r.job.name, "status": r.status, "reason": r.reason, **r.job.swept, **_numbers(r.result)} for r in rows
    ]
    write_text(folder / "results.json", json.dumps(records, indent=1) + "\n")
    columns = list(dict.fromkeys(key for record in records for key in record))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="")
    writer.writeheader()
    writer.writerows(records)
    write_text(folder / "results.csv", text.getvalue())


def _numbers(result: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in result.items() if isinstance(value, int | float)}


def metric_of(rows: Sequence[Row], asked: str | None) -> str:
    """The tag that the jobs are ranked by: the best validation accuracy of each, or the loss where there is none.

    Raises:
        UserError: no job has what was asked for.
    """
    results = [r.result for r in rows if r.result]
    if asked is not None:
        for tag in (f"best/{asked}", asked):
            if any(tag in result for result in results):
                return tag
        known = sorted({tag for result in results for tag in _numbers(result)})
        raise UserError(f"sweep.metric={asked}: no job has it.{nearest(asked, known)}")
    validated = [result for result in results if "best/val/loss" in result]  # one that diverged early never was
    is_everywhere = validated and all("best/val/accuracy" in result for result in validated)
    return "best/val/accuracy" if is_everywhere else "best/val/loss"


@dataclass(frozen=True)
class Setting:
    """The jobs that differ in the seed or the fold alone."""

    swept: dict[str, str]
    rows: list[Row]

    def values(self, tag: str) -> list[float]:
        """Of the jobs that have come to their end; where there is none, what those came to that have not."""
        ended = [r for r in self.rows if r.status == "finished"] or [r for r in self.rows if r.status != "pruned"]
        values = [r.result.get(tag) for r in ended]
        return [v for v in values if isinstance(v, int | float) and math.isfinite(v)]

    def mean(self, tag: str) -> float:
        values = self.values(tag)
        return statistics.fmean(values) if values else math.nan

    def counts(self) -> list[int]:
        """How many of its jobs are what `_MARKED` says."""
        is_over = [r.has_failed or r.status in ("finished", "pruned") for r in self.rows]
        is_pruned = [r.status == "pruned" for r in self.rows]
        return [sum(r.has_failed for r in self.rows), sum(is_pruned), len(is_over) - sum(is_over)]

    def spread(self, tag: str) -> float:
        """The standard deviation over seeds and folds."""
        values = self.values(tag)
        return statistics.stdev(values) if len(values) > 1 else math.nan


def configs_of(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """What jobs were asked for, which says in what direction their metrics are better."""
    return [r.job.request.config for r in rows]


def settings(rows: Sequence[Row], tag: str) -> list[Setting]:
    """The settings, best first; those without a number last."""
    groups: dict[tuple[tuple[str, str], ...], list[Row]] = {}
    for r in rows:
        key = tuple((k, v) for k, v in r.job.swept.items() if k not in AVERAGED)
        groups.setdefault(key, []).append(r)
    sign = -1 if is_larger_better(tag, *configs_of(rows)) else 1

    def rank(setting: Setting) -> tuple[bool, float]:
        mean = setting.mean(tag)
        return math.isnan(mean), sign * mean if not math.isnan(mean) else 0.0

    return sorted((Setting(dict(key), group) for key, group in groups.items()), key=rank)


def heading_of(rows: Sequence[Row]) -> str:
    """What a setting has several of."""
    averaged = [key for key in AVERAGED if key in rows[0].job.swept]
    return "runs" if len(averaged) > 1 else "folds" if averaged == ["data.fold"] else "seeds"


def print_table(rows: Sequence[Row], metric: str) -> None:
    """The settings, best first, with mean and spread over seeds and folds; then which of the keys mattered."""
    found = settings(rows, metric)
    is_averaged = any(len(setting.rows) > 1 for setting in found)
    keys = list(found[0].swept)
    tags = [metric, *(tag for tag in ("best/val/loss", "test/accuracy", "test/loss") if tag != metric)]
    tags = [tag for tag in tags if any(setting.values(tag) for setting in found)]
    columns = [Column(key, told_apart([setting.swept[key] for setting in found])) for key in keys]
    if not keys:
        columns = [Column("setting", ["all"] * len(found))]
    if is_averaged:
        num_runs = [str(len(setting.values(metric))) for setting in found]
        columns.append(Column(heading_of(rows), num_runs, is_number=True))
    for rank, tag in enumerate(tags):
        columns.append(Column(tag, [_cell(setting, tag, is_averaged) for setting in found], is_number=True, rank=rank))
    for word, counts in zip(_MARKED, zip(*(setting.counts() for setting in found), strict=True), strict=True):
        if any(counts):
            columns.append(Column(word, [str(n) if n else "" for n in counts], is_number=True))
    console = open_console()
    lines = table(columns, console)
    if metric.endswith("/loss") and (other := next((k for k in keys if k == "loss" or k.startswith("loss.")), None)):
        known = next((tag for tag in ("val/accuracy", "val/mae") if any(s.values(f"best/{tag}") for s in found)), "...")
        note = f"{other} makes {metric} another number, so this is no order. Type sweep.metric={known}"
        lines.append(Text(note, "yellow"))
    print_lines(lines, console)
    finished = [Setting(setting.swept, [r for r in setting.rows if r.status == "finished"]) for setting in found]
    line = importance_line([(setting.swept, value) for setting in finished for value in setting.values(metric)], metric)
    if line is not None:
        print_lines([line], console)


def print_csv(rows: Sequence[Row], metric: str) -> None:
    """The settings, best first: of each number its mean over seeds and folds, and its standard deviation."""
    found, heading = settings(rows, metric), heading_of(rows)
    tags = list(dict.fromkeys(tag for r in rows for tag in _numbers(r.result)))
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow([*found[0].swept, heading, *_MARKED, *(cell for t in tags for cell in (t, f"{t} std"))])
    for setting in found:
        numbers = [number for tag in tags for number in (setting.mean(tag), setting.spread(tag))]
        cells = ["" if math.isnan(number) else number for number in numbers]
        writer.writerow([*setting.swept.values(), len(setting.values(metric)), *setting.counts(), *cells])


def _cell(setting: Setting, tag: str, is_averaged: bool) -> str:
    if not setting.values(tag):
        return ""
    text = short(setting.mean(tag))
    spread = setting.spread(tag)
    return f"{text} ± {short(spread)}" if is_averaged and not math.isnan(spread) else text
