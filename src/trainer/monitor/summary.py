"""The table at the end of a run."""

import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TextIO

from trainer.errors import printable
from trainer.monitor.classes import counted
from trainer.monitor.readable import short
from trainer.system import shell
from trainer.system.terminal import is_terminal

if TYPE_CHECKING:
    from rich.text import Text

    from trainer.monitor.finding import Finding

Rows = Sequence[Sequence[str]]


def summary_rows(
    result: Mapping[str, Any], findings: "Sequence[Finding]", folder: Path, has_events: bool
) -> list[tuple[str, str]]:
    """What a run came to.

    Args:
        result: what `result.json` holds.
        has_events: it can be looked at in TensorBoard.
    """
    splits = ("train/loss", "val/", "test/")  # in this order; terms of a loss have another / in their tags
    tags = [tag for split in splits for tag in result if tag.startswith(split) and is_summed_up(tag)]
    found = [(finding.where, f"step {finding.step}: {finding.what_to_do}") for finding in findings]
    return [
        *((tag, short(result[tag])) for tag in tags if tag in result),
        *([("overfit", result["overfit"])] if "overfit" in result else []),
        *tested_row(result),
        *([("worst class", headline(result["per_class"]))] if result.get("per_class") else []),
        *([("ended", result["ended"])] if "ended" in result else []),
        *(found or [("diagnosis", "nothing is amiss")]),
        ("parameters", f"{result['num_parameters']:,}, {result['num_trainable']:,} of them trained"),
        ("time", f"{result['seconds']:.1f} s for {result['steps']} steps"),
        ("run folder", str(folder)),
        *([("look at it", f"train board {shell.quote(str(folder))}")] if has_events else []),
    ]


def is_summed_up(tag: str) -> bool:
    """`val/f1`, `test/average/f1`; not `val/loss/<term>`, not `test/last/f1`."""
    return tag.count("/") == 1 or (tag.split("/")[1] == "average" and tag.count("/") == 2)


def headline(rows: Sequence[Mapping[str, Any]]) -> str:
    """The class that is told the worst, see `trainer.monitor.classes`."""
    worst = min((row for row in rows if row["support"]), key=lambda row: row["F1"])
    numbers = ", ".join(f"{key} {short(worst[key])}" for key in ("F1", "precision", "recall"))
    what = counted(rows).removesuffix("s") if worst["support"] == 1 else counted(rows)
    return f"{worst['name']}: {numbers}, {worst['support']:,} {what}"


def tested_row(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Of which weights `test/...` is, and what the others came to; nothing where the best are the last."""
    other = "last" if result.get("tested") == "best" else "best"
    prefix = f"test/{other}/"
    numbers = {tag.removeprefix(prefix): number for tag, number in result.items() if tag.startswith(prefix)}
    if not numbers:
        return []
    steps = {"best": result["best_step"], "last": result["steps"]}
    shown = ", ".join(f"{name} {short(number)}" for name, number in numbers.items() if "/" not in name)
    return [
        ("tested", f"the {result['tested']}, step {steps[result['tested']]}; the {other}, step {steps[other]}: {shown}")
    ]


def summary_table(rows: Rows, stream: TextIO | None = None) -> None:
    """Print a table whose columns stand under each other: coloured on a terminal, plain anywhere else."""
    stream = stream or sys.stdout
    if rows and is_terminal(stream):
        from rich.console import Console

        console = Console(file=stream)
        console.print(coloured_table(rows, console.width), soft_wrap=True)
    else:
        for line in plain_table(rows):
            print(encodable(line, stream), file=stream)


def plain_table(rows: Rows) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def coloured_table(rows: Rows, width: int) -> "Text":
    """The table in so many columns. No word of it is broken: what has no room beside its name stands below it, whole if
    it can, as a path or a command is to be copied; prose is broken between words.
    """
    from rich.text import Text

    name_width = max(len(name) for name, *_ in rows)
    lines = []
    for name, *values in rows:
        value, room = printable("  ".join(values)), width - name_width - 2
        if len(value) <= room:
            first, rest = value, []
        elif len(value) <= width - 2:
            first, rest = "", [f"  {value}"]
        else:
            first, *rest = textwrap.wrap(value, max(20, room), break_long_words=False, break_on_hyphens=False)
            rest = [" " * (name_width + 2) + line for line in rest]
        lines += [Text.assemble((printable(name).ljust(name_width), "cyan"), "  ", first), *map(Text, rest)]
    return Text("\n").join(lines)


def encodable(text: str, stream: IO[str]) -> str:
    """The text without what the stream's encoding has no sign for, and without what a terminal would obey."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return printable(text).encode(encoding, "replace").decode(encoding)
