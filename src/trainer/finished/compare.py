"""`train compare`: what differs between some runs, their results side by side, their curves over each other."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from trainer.config.schema import is_larger_better, shown
from trainer.errors import UserError
from trainer.finished.chart import COLOURS, SIGNS, chart, colour, draw_png
from trainer.finished.read import Run, is_finite, number, read_course, read_samples, run_named
from trainer.finished.runs import PLACE, by_name, cell, differing, other_losses, spent
from trainer.finished.table import Column, open_console, print_lines, table
from trainer.monitor.readable import digits_apart, short

_CURVES = ("train/loss", "val/loss", "val/accuracy")
_METRICS = ("train/loss", "val/loss", "val/accuracy", "test/loss", "test/accuracy")

Rows = list[tuple[str, list[str]]]  # what it is, and a text per run


def compare(words: Sequence[str], png: str | None) -> int:
    """Prints the comparison, and draws the curves where `png` names a file.

    Raises:
        UserError: a word names no run, there are too many, or the picture can't be drawn.
    """
    if len(words) > len(SIGNS):
        raise UserError(f"train compare takes up to {len(SIGNS)} runs, not {len(words)}. train runs compares more.")
    runs = [by_name(run_named(word)) for word in words]
    courses = [read_course(run.folder, _CURVES, run.config) for run in runs]
    steps = [{tag: step for tag, (_, step) in course.best.items()} for course in courses]
    curves = {tag: [course.points(tag) for course in courses] for tag in _CURVES}
    curves = {tag: of_runs for tag, of_runs in curves.items() if any(of_runs)}
    if png is not None:
        if not curves:
            raise UserError(f"--png {png}: none of these runs has a curve. Name runs that logged something.")
        draw_png(Path(png), [f"{sign}  {run.name}" for sign, run in zip(SIGNS, runs, strict=False)], curves)

    console = open_console()
    heads = [Text(f"{SIGNS[i]}  {run.name}", style=colour(i)) for i, run in enumerate(runs)]
    lines = [*heads, *_section("what differs", _differences(runs), console)]
    others = other_losses(runs)
    apart = _other_samples(runs)
    lines += _section("results (* best)", _results(runs, steps, others is None, apart), console)
    lines += [] if others is None else [Text(others, style="dim")]
    if apart:
        lines.append(Text(f"no star for {', '.join(apart)}: these splits have other samples", style="dim"))
    # Dots have nothing but their colour to say whose they are.
    has_colours = console.is_terminal and console.color_system is not None and not console.no_color
    is_plain = not has_colours or console.options.ascii_only or len(runs) > len(COLOURS)
    width = min(console.width, 100) if console.is_terminal else 80
    for tag, of_runs in curves.items():
        if tag.endswith("loss"):
            lines += [Text(), *chart(tag, of_runs, width, 12, is_plain)]
    print_lines(lines, console)
    if png is not None:
        print(f"drawn in {png}")
    return 0


def _section(title: str, rows: Rows, console: Console) -> list[Text]:
    """A table with a row per key and a column per run."""
    columns = [Column(title, [key for key, _ in rows])]
    for i in range(len(rows[0][1])):
        cells = [values[i] for _, values in rows]
        styles = {row: "bold" for row, text in enumerate(cells) if text.startswith("*")}
        columns.append(Column(SIGNS[i], cells, is_number=True, styles=styles, rank=0 if i < 2 else 1))
    return [Text(), *table(columns, console, more=" in this terminal")]


def _is_metric(tag: str) -> bool:
    """`val/f1`, `test/last/f1`; not a term of a loss."""
    return tag.startswith(("val/", "test/")) and "loss/" not in tag


def _differences(runs: Sequence[Run]) -> Rows:
    return [
        (key, [shown(run.config[key]) if key in run.config else "-" for run in runs]) for key in differing(runs, PLACE)
    ] or [("nothing", ["-"] * len(runs))]


def _other_samples(runs: Sequence[Run]) -> list[str]:
    """The splits of which runs have other samples, by their number, targets and files, where all say what they have."""
    told = [read_samples(run.folder) for run in runs]
    known = [split for split in ("train", "val", "test") if all(split in of for of in told)]
    return [split for split in known if any(of[split] != told[0][split] for of in told)]


def _results(runs: Sequence[Run], steps: Sequence[dict[str, int]], is_one_loss: bool, apart: Sequence[str]) -> Rows:
    """The last and the best number of each metric, then what each run was and took.

    Args:
        apart: splits of which none is the best.
    """
    rows: Rows = []
    found = dict.fromkeys([*_METRICS, *(tag for run in runs for tag in run.result if _is_metric(tag))])
    for tag in (tag for metric in found for tag in (metric, f"best/{metric}")):
        numbers = [number(run.result.get(tag)) for run in runs]
        finite = [n for n in numbers if n is not None and is_finite(n)]
        if not finite:
            continue
        top = (max if is_larger_better(tag, *(run.config for run in runs)) else min)(finite)
        is_judged = min(finite) < max(finite) and (is_one_loss or not tag.endswith("/loss"))
        is_judged = is_judged and tag.removeprefix("best/").split("/")[0] not in apart
        digits = digits_apart(finite)  # or else the best would look like another
        texts = [short(n, digits) if isinstance(n, float) else cell(n) for n in numbers]
        cells = [f"{'*' if n == top and is_judged else ''}{text}" for n, text in zip(numbers, texts, strict=True)]
        if tag.startswith("best/"):
            at = [of_run.get(tag.removeprefix("best/")) for of_run in steps]
            cells = [text if step is None else f"{text} at {step}" for text, step in zip(cells, at, strict=True)]
        rows.append((tag, cells))
    rows += [(tag, [cell(run.result.get(tag)) for run in runs]) for tag in ("steps", "num_parameters", "num_trainable")]
    return [*rows, ("time", [spent(run) for run in runs]), ("status", [cell(run.result.get("status")) for run in runs])]
