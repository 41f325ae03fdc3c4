"""Columns that stand under each other: coloured and fitted to a terminal, plain and whole anywhere else."""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.text import Text

from trainer.errors import printable
from trainer.system.terminal import is_in_notebook

GAP = 2  # columns between two columns
_MOST = 24  # characters of a cell on a terminal, but for the first column
_LEAST = 18  # which gives way down to this


@dataclass
class Column:
    """A column of a table.

    Args:
        heading: a dotted key or a tag; on a terminal it takes two lines.
        cells: a text per row.
        is_number: it stands on the right.
        styles: rich's, by row.
        rank: on a terminal without room the columns of the highest rank go, the last of them first; 0 stays.
    """

    heading: str
    cells: list[str]
    is_number: bool = False
    styles: dict[int, str] = field(default_factory=dict)
    rank: float = 0


def cut(text: str, width: int, console: Console) -> str:
    """The end of a text that is too long, since it is in their ends that names differ."""
    if len(text) <= width:
        return text
    ellipsis = "..." if console.options.ascii_only else "…"
    return ellipsis + text[len(text) - width + len(ellipsis) :]


def table(columns: Sequence[Column], console: Console, indent: int = 0, more: str = "") -> list[Text]:
    """The lines of a table; the last names the columns that had no room.

    Args:
        indent: what will stand before each line, in columns.
        more: what else that line says.
    """
    columns, left_out = list(columns), []
    if console.is_terminal:
        room = console.width - indent
        heads = [two_lines(column.heading) for column in columns]
        widths = [max(map(len, [*head, *column.cells])) for head, column in zip(heads, columns, strict=True)]
        most = [max(_MOST, *map(len, head)) for head in heads]
        widths[1:] = map(min, widths[1:], most[1:])
        while min(widths[0], _LEAST) + sum(widths[1:]) + GAP * (len(widths) - 1) > room:
            i = max(range(len(columns)), key=lambda i: (columns[i].rank, i))
            if columns[i].rank == 0:
                break
            left_out.append(columns[i].heading)
            del columns[i], heads[i], widths[i]
        widths[0] = min(widths[0], max(_LEAST, room - sum(widths[1:]) - GAP * (len(widths) - 1)))
    else:
        heads = [("", column.heading) for column in columns]
        widths = [max(map(len, [column.heading, *column.cells])) for column in columns]

    def line(texts: Iterable[str], styles: Iterable[str]) -> Text:
        cells = [
            text.rjust(width) if column.is_number else text.ljust(width)
            for column, width, text in zip(columns, widths, texts, strict=True)
        ]
        if not console.is_terminal:
            return Text((" " * GAP).join(cells))
        return Text(" " * GAP).join(map(Text, cells, styles))

    bold = ["bold"] * len(columns)
    lines = [line(words, bold) for words in zip(*heads, strict=True) if any(words)]
    shown = (
        [cut(printable(text), width, console) for text in column.cells]
        for column, width in zip(columns, widths, strict=True)
    )
    for row, texts in enumerate(zip(*shown, strict=True)):
        lines.append(line(texts, [column.styles.get(row, "") for column in columns]))
    if left_out:
        lines.append(Text(f"no room for {', '.join(left_out[::-1])}{more}", style="dim"))
    return lines


def two_lines(heading: str) -> tuple[str, str]:
    """`optimizer.` above `lr`, `best/val/` above `loss`."""
    start = max(heading.rfind("."), heading.rfind("/")) + 1
    return heading[:start], heading[start:]


def print_lines(lines: Sequence[Text], console: Console) -> None:
    """Lines as they are. On a terminal one that is too long is cut at a blank, unless it has a command in it: that the
    terminal wraps itself, so that it can be copied whole.
    """
    for line in lines:
        line.plain = printable(line.plain)
    if console.is_terminal and lines:
        fitted = [part for line in lines for part in _cut_at_blanks(line, console.width)]
        console.print(Text("\n").join(fitted), soft_wrap=True)
    else:
        # Not through rich: when nobody reads on, it would end the process with its own exit code.
        for line in lines:
            print(line.plain.rstrip())


def _cut_at_blanks(line: Text, width: int) -> list[Text]:
    """The line in parts that are no longer, each below the beginning of the first; a command is not cut."""
    parts: list[Text] = []
    indent = " " * (len(line.plain) - len(line.plain.lstrip()))
    while len(line) > width and "train " not in line.plain:
        end = line.plain.rfind(" ", len(indent) + 1, width + 1)
        if end < 0:
            break
        head, rest = line.divide([end])
        rest = rest[len(rest.plain) - len(rest.plain.lstrip()) :]
        parts.append(head)
        line = Text(indent).append_text(rest)
    return [*parts, line]


def open_console() -> Console:
    """For stdout, which then shows `?` for what its encoding lacks."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")
    return Console(highlight=False, force_terminal=False if is_in_notebook() else None)
