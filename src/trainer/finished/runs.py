"""`train runs`: a table of runs, what differs between them and what they came to."""

import csv
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from trainer.config.schema import GROUPS, is_larger_better, shown
from trainer.errors import UserError, printable
from trainer.finished.query import conditions, in_order, refuse_unknown
from trainer.finished.read import Run, existing_folder, is_finite, number, runs_below
from trainer.finished.table import Column, open_console, print_lines, table
from trainer.monitor.readable import duration, short

PLACE = ("name", "run_dir", "resume")  # where a run lies says nothing about it
WATCHING = ("trust", "monitor", "console", "checkpoint")  # nor does how it was watched and saved
LENGTH = ("max_steps", "max_epochs")  # the steps that it took are shown
STATUS = {"finished": "green", "running": "cyan", "interrupted": "yellow", "pruned": "yellow"}  # any other: red


def print_runs(word: str, where: str | None, sort: str | None, form: str) -> int:
    """Prints the runs below a folder.

    Args:
        word: the folder.
        where: terms that must hold, or None for all runs.
        sort: a key or a tag, with `-` before it the other way round; None for the best validation first.
        form: "table", "csv" or "json".

    Raises:
        UserError: there is no such folder, no run in it, or no such key.
    """
    runs, broken = runs_below(existing_folder(word))
    runs = list(map(by_name, runs))
    for line in broken:
        print(f"warning: {printable(line)}; skipped.", file=sys.stderr)
    if not runs:
        raise UserError(f"{word}: holds no run of train. Type the folder that runs are in; a run makes runs/.")
    main = main_tag(runs)
    shown_runs = chosen(runs, where or "", sort, main)
    if not shown_runs:
        print(f"none of {len(runs)} runs has {where}", file=sys.stderr)
    if form == "json":
        print(json.dumps([as_json(run) for run in shown_runs], indent=1))
    elif form == "csv":
        _print_csv(shown_runs)
    elif shown_runs:
        _print_table(shown_runs, [(sort or main).removeprefix("-"), *(term.key for term in conditions(where or ""))])
    return 0


def chosen(runs: Sequence[Run], where: str, sort: str | None, usual: str | None = None) -> list[Run]:
    """The runs of which all terms hold, in their order.

    Args:
        sort: with `-` before it the other way round.
        usual: what they are sorted by where nothing was typed; None: they stay as they are.

    Raises:
        UserError: no run has a key of the terms, or the one to sort by.
    """
    terms = conditions(where)
    for term in terms:
        refuse_unknown("where", term.key, runs)
    if sort:
        refuse_unknown("sort", sort.removeprefix("-"), runs)
    found, key = [run for run in runs if all(term.holds(run) for term in terms)], sort or usual or ""
    return in_order(found, key.removeprefix("-"), is_reversed=key.startswith("-")) if key else found


def differing(runs: Sequence[Run], hidden: Sequence[str]) -> list[str]:
    """The keys of the config in which runs differ, choices first.

    Where runs chose differently in a group, its keys count among those runs alone that have them: the kernel size of
    some and the hidden features of others say no more than `model`, but two kernel sizes do.

    Args:
        hidden: keys and sections that are not looked at.
    """
    keys = dict.fromkeys(key for run in runs for key in run.config if key.split(".")[0] not in hidden)
    found = []
    for key in keys:
        group, _, rest = key.partition(".")
        is_implied = rest and group in GROUPS and _differs(group, runs)
        having = [run for run in runs if key in run.config] if is_implied else runs
        if not (is_implied and rest == "_target_") and _differs(key, having):
            found.append(key)
    return found


def other_losses(runs: Sequence[Run]) -> str | None:
    """In words, that the losses of runs are other numbers, of which none is better; None where they are the same."""
    keys = [key for key in differing(runs, PLACE) if key == "loss" or key.startswith("loss.")]
    if not keys:
        return None
    values = dict.fromkeys(f"{keys[0]}={shown(run.config[keys[0]])}" for run in runs if keys[0] in run.config)
    return f"losses are not compared: another {keys[0]} makes them other numbers ({', '.join(values)})"


def by_name(run: Run) -> Run:
    """The run with its own classes called by their names rather than `own`."""
    targets = {group: run.config.get(f"{group}._target_") for group in GROUPS if run.config.get(group) == "own"}
    names = {group: target.rpartition(".")[2] for group, target in targets.items() if isinstance(target, str)}
    return replace(run, config={**run.config, **names}) if names else run


def _differs(key: str, runs: Sequence[Run]) -> bool:
    """1 and 1.0 are the same, 1 and true are not, nor are null and a key that is missing."""
    values = [run.config[key] for run in runs if key in run.config]
    if len(values) == len(runs) and all(value is values[0] for value in values):  # mostly, and soon seen
        return False
    different = {shown(value) if number(value) is None else value for value in values}
    return len(different) + (len(values) < len(runs)) > 1


def main_tag(runs: Sequence[Run]) -> str:
    """What runs are compared by: the best accuracy where any has one, or else the best validation loss."""
    accuracy = "best/val/accuracy"
    return accuracy if any(accuracy in run.result for run in runs) else "best/val/loss"


def chosen_tags(runs: Sequence[Run]) -> list[str]:
    """Of what runs were told to judge by, other than the loss: its best, and what the test gave."""
    told = dict.fromkeys(run.config.get(key) for run in runs for key in ("checkpoint.metric", "sweep.metric"))
    names = [tag.removeprefix("val/") for tag in told if isinstance(tag, str) and tag.startswith("val/")]
    found = [tag for name in names if name != "loss" for tag in (f"best/val/{name}", f"test/{name}")]
    return [tag for tag in found if any(tag in run.result for run in runs)]


def cell(value: Any) -> str:
    """A metric, or whatever else a result may hold."""
    if value is None:
        return "-"
    return short(value) if isinstance(value, float) else shown(value)


def _setting(value: Any) -> str:
    """A value of the config: `1e+09` rather than `1000000000.0`."""
    return f"{value:g}" if isinstance(value, float) else shown(value)


def _print_table(runs: Sequence[Run], asked: Sequence[str]) -> None:
    main = main_tag(runs)
    metric = main.removeprefix("best/val/")
    chosen = chosen_tags(runs)
    tags = dict.fromkeys([main, *chosen, f"val/{metric}", f"test/{metric}", "val/loss"])
    tags |= dict.fromkeys(key for key in asked if key not in ("status", "steps", "seconds"))
    columns = [Column("run", [run.name for run in runs], styles=dict.fromkeys(range(len(runs)), "cyan"))]
    for key in differing(runs, (*PLACE, *WATCHING, *LENGTH)):
        values = [run.config.get(key) for run in runs]
        texts = [_setting(run.config[key]) if key in run.config else "-" for run in runs]
        is_number = all(number(value) is not None for value in values)
        columns.append(Column(key, texts, is_number, rank=1 + 1 / len(set(texts))))  # what differs most stays longest
    for rank, tag in enumerate(tags):
        if any(tag in run.result for run in runs):
            numbers = {i: n for i, run in enumerate(runs) if (n := number(run.result.get(tag))) is not None}
            styles = {}
            if len(runs) > 1 and tag.startswith(("best/", "val/", "test/")) and numbers:
                top = (max if is_larger_better(tag, *(run.config for run in runs)) else min)(numbers.values())
                styles = {i: "bold green" for i, n in numbers.items() if n == top}
            is_asked = tag in (main, *chosen[:1], *asked)
            cells = [cell(run.result.get(tag)) for run in runs]
            columns.append(Column(tag, cells, True, styles, 0 if is_asked else 3 + rank))
    columns += [
        Column("steps", [cell(run.result.get("steps")) for run in runs], True, rank=3),
        Column("time", [spent(run) for run in runs], True, rank=3),
        Column("status", statuses := [cell(run.result.get("status")) for run in runs], rank=2),
    ]
    columns[-1].styles = {i: STATUS.get(status, "red") for i, status in enumerate(statuses)}
    console = open_console()
    print_lines(table(columns, console, more=": train runs --csv has it all"), console)


def spent(run: Run) -> str:
    """Its time, as a clock shows it."""
    seconds = number(run.result.get("seconds"))
    return duration(seconds) if seconds is not None and is_finite(seconds) else "-"


def as_json(run: Run) -> dict[str, Any]:
    """One flat object; what JSON has no number for is null."""
    everything = {"run": run.name, "folder": str(run.folder), **run.values, "diagnosis": run.diagnosis}
    everything |= {"per_class": run.per_class} if run.per_class else {}
    return {key: None if isinstance(v, float) and not is_finite(v) else v for key, v in everything.items()}


def _print_csv(runs: Sequence[Run]) -> None:
    """A line per run: what differs in the config, and the whole result."""
    keys = differing(runs, PLACE)
    tags = dict.fromkeys(tag for run in runs for tag in run.result if tag not in keys)
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(map(printable, ["run", *keys, *tags]))
    for run in runs:
        cells = ("" if (v := run.values.get(key)) is None else shown(v) for key in [*keys, *tags])
        writer.writerow(map(printable, [run.name, *cells]))
