"""`train explain A B`: which of the keys that differ made the difference; `train explain SWEEP`: which of the swept."""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rich.text import Text

from trainer.config.request import Request, resolved
from trainer.config.schema import is_larger_better
from trainer.disk.folder import read_result
from trainer.errors import UserError
from trainer.finished.chart import drawable, new_figure, save_figure
from trainer.finished.table import Column, open_console, print_lines, table
from trainer.monitor.readable import counted, percent, short, spoken
from trainer.run.folder import as_stored
from trainer.signals import Signals
from trainer.sweep.compare import read_rows, told_metric
from trainer.sweep.importance import importance_line
from trainer.sweep.plan import is_finished, plan
from trainer.sweep.results import AVERAGED, metric_of, settings
from trainer.sweep.sweep import opened, sweep, write_words
from trainer.use.again import folder_of
from trainer.use.changes import changed, differing, job, reusable, reuse, shown
from trainer.use.shares import Corner, Part, corners, interval, is_grid, parts, share, variances

MOST_KEYS = 20
TOGETHER = 0.5  # of what a key adds at one end, that it adds at the other is so much more or less


def explain(
    words: Sequence[Request],
    signals: Signals,
    command: Sequence[str],
    seeds: int,
    is_asked: bool,
    name: str | None,
    metric: str | None,
    png: str | None,
) -> int:
    """Trains what lies between two runs, as one sweep that the same command continues, and says which key did what.

    Args:
        words: of both runs, as each would continue.
        command: as typed.
        seeds: runs of each kind, with seeds from 0.
        is_asked: false for `yes=true`: nobody is asked whether to begin.
        name: of the sweep; None for one made of the runs' names.

    Returns:
        the exit code.
    """
    folders = [folder_of(request) for request in words]
    # A key that is taken from the other run stands for what it stood for there.
    a, b = (replace(one, config=resolved(one.config)) for one in map(as_stored, words))
    keys = differing(a, b)
    refuse_inexplicable(keys, folders, metric)
    jobs = {
        (corner, seed): job(changed(a, dict.fromkeys(sorted(corner), b)), keys, seed)
        for corner in corners(keys)
        for seed in range(seeds)
    }
    folder = Path("runs", name or f"explain-{folders[0].name}-{folders[1].name}")
    print_differing(keys, a, b)
    planned = plan([*jobs.values()], folder)
    made = reusable(planned, folders)
    left = sum(not is_finished(one) and one not in made for one in planned)
    seconds = sum(float(read_result(f).get("seconds") or 0.0) for f in folders) / 2
    time = f", about {spoken(left * seconds)} one after the other" if left else ""
    print(f"{counted(len(planned), 'run')}, {left} to go{time}", flush=True)
    if left and is_asked and not _is_wanted():
        return 0
    if made:
        with opened(folder):
            write_words(folder, command, planned)
            reuse(made)
    failed = sweep([*jobs.values()], folder, command, signals)
    tag = metric_of(read_rows(folder), metric)
    numbers = {key: _number(one.folder, tag) for key, one in zip(jobs, planned, strict=True)}
    missing = [one.name for one, number in zip(planned, numbers.values(), strict=True) if number is None]
    if missing:
        raise UserError(f"{folder}: {len(missing)} runs have no {tag}, the first {missing[0]}; nothing can be said.")
    of_seeds: list[dict[Corner, float]] = [
        {corner: number for (corner, of), number in numbers.items() if of == seed and number is not None}
        for seed in range(seeds)
    ]
    found = parts(keys, of_seeds)
    print()
    tell(found, of_seeds, tag, a, b)
    if png is not None:
        draw(Path(png), found, tag)
        print(f"drawn in {png}")
    return int(failed > 0)


def refuse_inexplicable(keys: Sequence[str], folders: Sequence[Path], metric: str | None) -> None:
    """Raises UserError where no key differs, too many do, or the loss does and is what the runs are compared by."""
    if not keys:
        raise UserError(
            f"{folders[0]} and {folders[1]}: no key differs that changes a number. train compare shows both."
        )
    if (other := next((key for key in keys if key == "loss" or key.startswith("loss.")), None)) is not None:
        results = [read_result(folder) for folder in folders]
        known = [tag for tag in ("val/accuracy", "val/mae", "val/r2") if all(tag in result for result in results)]
        if (metric or "val/loss").endswith("/loss") and (metric is not None or "val/accuracy" not in known):
            how = f"sweep.metric={known[0]}" if known else "sweep.metric= with another"
            raise UserError(f"{other}: differs, and makes {metric or 'val/loss'} another number. Type {how}.")
    if len(keys) > MOST_KEYS:
        raise UserError(f"{len(keys)} keys differ; at most {MOST_KEYS} are explained. train compare lists them.")


def print_differing(keys: Sequence[str], a: Request, b: Request) -> None:
    """A table of the keys that differ, with their values in both runs."""
    console = open_console()
    told = Text(f"{len(keys)} keys differ" if len(keys) > 1 else "1 key differs", style="bold")
    columns = [Column("", [*keys]), *(Column(x, [shown(r, k) for k in keys]) for x, r in (("A", a), ("B", b)))]
    print_lines([told, *table(columns, console)], console)


def _is_wanted() -> bool:
    """Asks. Raises UserError where nobody is there to answer."""
    if not sys.stdin.isatty():
        raise UserError("nobody is there to be asked whether to begin. Type the same with yes=true.")
    return input("Begin? [y/N] ").strip().lower() in ("y", "yes")


def _number(run: Path, tag: str) -> float | None:
    """Of a metric, what a run came to."""
    found = read_result(run).get(tag)
    return float(found) if isinstance(found, int | float) and math.isfinite(found) else None


def tell(found: Sequence[Part], of_seeds: Sequence[Mapping[Corner, float]], tag: str, a: Request, b: Request) -> None:
    """Prints what each key contributes."""
    keys = [part.key for part in found]
    whole = frozenset(keys)
    before, after = (sum(of[c] for of in of_seeds) / len(of_seeds) for c in (frozenset[str](), whole))
    columns = [
        Column("key", keys),
        Column("A", [shown(a, key) for key in keys], rank=1),
        Column("B", [shown(b, key) for key in keys], rank=1),
        Column("adds", [_signed(part.mean, part.spread) for part in found], is_number=True),
        Column("share", [percent(share(part, found)) for part in found], is_number=True),
        Column("alone", [_signed(part.alone) for part in found], is_number=True, rank=2),
        Column("last", [_signed(part.last) for part in found], is_number=True, rank=3),
    ]
    console = open_console()
    better = "B is better" if (after > before) == is_larger_better(tag, a.config, b.config) else "A is better"
    seeds = counted(len(of_seeds), "seed")
    lines = [Text(f"{tag}: A {short(before)}, B {short(after)}, means of {seeds}: {better}", style="bold")]
    if before == after:
        lines = [Text(f"{tag}: {short(before)} of both, means of {seeds}", style="bold")]
    lines.append(Text(f"what each key adds to {tag}"))
    print_lines([*lines, *table(columns, console), *map(Text, sentences(found))], console)


def _signed(number: float, spread: float = math.nan) -> str:
    text = f"{number:+.3g}"
    return text if math.isnan(spread) else f"{text} ± {spread:.2g}"


def sentences(found: Sequence[Part]) -> list[str]:
    """What the numbers say."""
    first = found[0]
    said = []
    if not math.isnan(first.spread) and abs(first.mean) < 2 * first.spread:
        return ["no key contributes more than the seeds do: the difference may be chance"]
    said.append(f"{first.key} makes {percent(share(first, found))} of the difference")
    size = max(abs(part.mean) for part in found)
    for part in found:
        if abs(part.last - part.alone) > max(TOGETHER * size, 2 * (0 if math.isnan(part.spread) else part.spread)):
            others = "the others" if len(found) > 2 else next(p.key for p in found if p is not part)
            how = f"adds {_signed(part.alone)} alone and {_signed(part.last)} together with {others}"
            said.append(f"{part.key} {how}: they work together")
    return said


def draw(path: Path, found: Sequence[Part], tag: str) -> None:
    """A bar for each key, with its spread."""
    figure = new_figure(path, 6, 1 + 0.4 * len(found))
    axes = figure.subplots()
    rows = range(len(found))[::-1]
    spreads = [0.0 if math.isnan(part.spread) else part.spread for part in found]
    axes.barh(rows, [part.mean for part in found], xerr=spreads, color="C0", capsize=3)
    axes.set_yticks(rows, [drawable(part.key) for part in found])
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlabel(f"what it adds to {tag}")
    save_figure(figure, path)


def explain_sweep(folder: Path, metric: str | None) -> int:
    """Says which of a sweep's keys made the difference between its jobs, from what they came to; trains nothing."""
    rows = read_rows(folder)
    tag = metric_of(rows, metric or told_metric(folder))
    ended = [row for row in rows if row.status == "finished"]
    points = [(s.swept, value) for s in settings(ended, tag) for value in s.values(tag)]
    keys = [key for key in (points[0][0] if points else {}) if len({words[key] for words, _ in points}) > 1]
    if not keys:
        told = " and ".join(AVERAGED)
        raise UserError(f"{folder}: no key but {told} differs between jobs that have {tag}; nothing can be explained.")
    console = open_console()
    if not is_grid(points, keys):
        line = importance_line(points, tag)
        note = Text("the jobs are no whole grid with as many seeds of each, so a forest guesses", style="dim")
        print_lines([note, line or Text("nothing can be told apart")], console)
        return 0
    found = variances(points, keys)
    if not found:
        print(f"all {len(points)} jobs came to the same {tag}")
        return 0
    named = sorted((part for part in found if part), key=lambda part: -found[part])
    has_seeds = len(points) > math.prod(len({words[key] for words, _ in points}) for key in keys)
    ranges: list[tuple[float, float]] = []
    for part in named if has_seeds else ():
        ranges.append(interval(points, keys, part))
    columns = [
        Column(f"of the variance of {tag}", [*(" x ".join(part) for part in named), "seeds and the rest"]),
        Column("share", [percent(found[part]) for part in [*named, ()]], is_number=True),
    ]
    if ranges:
        cells = [f"{percent(low)} to {percent(high)}" for low, high in ranges]
        columns.append(Column("95 % of draws", [*cells, ""], is_number=True))
    print_lines(table(columns, console), console)
    return 0
