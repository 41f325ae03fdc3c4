"""Tables as text: `.csv` and its kin, with the delimiters, decimal signs and encodings of spreadsheets and programs."""

import codecs
import csv
import io
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import accumulate, chain, islice
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from trainer.data.memory import refuse_more
from trainer.data.quoting import cut
from trainer.data.tables.columns import Choice, Gathering, Table
from trainer.data.tables.dialect import Dialect
from trainer.data.tables.plain import Plain, plain
from trainer.disk.files import cannot_read
from trainer.disk.foreign import refuse_no_file
from trainer.errors import UserError

MOST_LINE_BYTES = 1 << 22  # a line with 100,000 columns has about one MB
SAMPLE_LINES = 200  # by which delimiter, decimal sign and header are told
BLOCK_ROWS = 512  # what is worked on stays in the CPU's caches; more rows take twice as long
PLAIN_LETTERS = 1 << 18  # of a block of numbers alone
BYTES_PER_CELL = 24  # of memory: its number as read, fitted, and cast; 20 were measured with 10 million rows of 21

_BOMS = {  # UTF-32's begins with UTF-16's
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def read(
    path: Path,
    choose: Choice,
    delimiter: str = "auto",
    decimal: str = "auto",
    encoding: str = "auto",
    header: str = "auto",
    called: Sequence[str] = (),
) -> Table:
    """The table in a text file, a row per line.

    Args:
        choose: what is wanted of which column.
        delimiter: a word of `dialect.SIGNS`, or `auto`: what cuts the first lines into equally many cells. A first line
            `sep=;` says it, as spreadsheets have it.
        decimal: `point`, `comma`, or `auto`: what the first lines are written with.
        encoding: a name that Python knows, or `auto`: what a byte order mark says; else UTF-8, or Windows-1252 where
            it is no UTF-8.
        header: `true`, `false`, or `auto`: whether the first line holds names.
        called: names that the user calls columns by: a first line that holds one is a header.

    Raises:
        UserError: it can't be read, is no text, or its lines aren't a table.
    """
    try:
        refuse_no_file(path)
        names = [encoding] if encoding != "auto" else _encodings(path)
        for i, name in enumerate(names):
            try:
                table = _table(path, name, choose, delimiter, decimal, header, called)
            except UnicodeError:
                if i == len(names) - 1:
                    raise
                continue
            if i:
                table.notes.append(
                    "the file is no UTF-8 and was read as Windows-1252. If its letters look wrong, type "
                    "data.encoding=<its name>, such as cp1250, cp1251 or latin-1."
                )
            return table
    except UnicodeError as error:
        raise UserError(
            f"data.path={path}: not a text in {' or '.join(names)} ({cut(str(error), 100)}). Save it as UTF-8, or type "
            "data.encoding=<its name>, such as cp1252 or latin-1."
        ) from error
    except LookupError as error:
        raise UserError(f"data.encoding={cut(encoding)}: nobody knows it. Type data.encoding=utf-8.") from error
    except csv.Error as error:
        raise UserError(f"data.path={path}: not a CSV file ({error}). Export it as one, in UTF-8.") from error
    except OSError as error:
        raise cannot_read(f"data.path={path}", error) from error
    raise AssertionError


def told_encoding(start: bytes) -> str | None:
    """What a byte order mark says, if there is one."""
    return next((name for mark, name in _BOMS.items() if start.startswith(mark)), None)


def _encodings(path: Path) -> list[str]:
    with open(path, "rb") as file:
        start = file.read(4096)
    if (told := told_encoding(start)) is not None:
        return [told]
    if b"\0" in start:
        raise UserError(f"data.path={path}: not a text: it holds zero bytes. Export the table as CSV, in UTF-8.")
    return ["utf-8", "cp1252"]


def _table(path: Path, encoding: str, choose: Choice, *how: Any) -> Table:
    """In one encoding; the rest as for `read`. Raises UnicodeError where the file is none of that."""
    with open(path, newline="", encoding=encoding) as file:
        dialect = Dialect(path, list(islice(_lines(file, path), SAMPLE_LINES)), *how)
    columns = dialect.columns
    uses = choose(columns, dialect.has_names)
    _refuse_more_than_fits(dialect)
    most_rows = int(1.1 * _share(dialect) * len(dialect.rows))
    decimal = dialect.decimal if dialect.is_decimal_told else "untold"
    gathered = [Gathering(decimal, uses.get(name, "auto"), most_rows=most_rows) for name in columns]
    parts: list[NDArray[np.int64]] = []
    for block, numbers in _blocks(dialect, encoding):
        parts.append(np.asarray(numbers, np.int64))
        for place, column in enumerate(gathered):
            block.add_to(column, place)
    if not parts:
        raise UserError(f"data.path={path}: column names and 0 rows. Give one with a row per sample.")
    found = {name: column.done() for name, column in zip(columns, gathered, strict=True)}
    if dialect.heads_below:
        dialect.notes.append(
            f"the names of the columns stand again in {len(dialect.heads_below):,} "
            f"line{'s' * (len(dialect.heads_below) > 1)}, such as line {dialect.heads_below[0]}; they are no rows."
        )
    lines = np.concatenate(parts)
    return Table(path, found, len(lines), dialect.has_names, lines, dialect.notes, dialect.decimal)


def _lines(file: TextIO, path: Path) -> Iterator[str]:
    """The lines, none of them without end."""
    while line := file.readline(MOST_LINE_BYTES):
        if len(line) == MOST_LINE_BYTES:
            raise UserError(
                f"data.path={path}: a line has {MOST_LINE_BYTES:,} letters and more; it is no table. Give one with a "
                "row per sample."
            )
        yield line


class Cells:
    """Rows of cells, as they are written."""

    def __init__(self, rows: list[list[str]]) -> None:
        self.columns = list(zip(*rows, strict=True))

    def add_to(self, column: Gathering, place: int) -> None:
        column.add(self.columns[place])


def _blocks(dialect: Dialect, encoding: str) -> Iterator[tuple[Plain | Cells, Sequence[int]]]:
    """The rows, many at a time, and their lines in the file, from 1.

    From the second block on they are read as numbers alone, as long as they are; then by `csv` to the end.
    """
    with open(dialect.path, newline="", encoding=encoding) as file:
        text = iter(partial(file.readline, MOST_LINE_BYTES), "")
        rows = _Rows(dialect, islice(text, dialect.num_skipped, None), dialect.num_skipped)
        if dialect.has_names:
            next(rows.reader)
        yield from islice(rows.blocks(), 1)
        line, chunk = rows.line, ""
        while chunk := file.read(PLAIN_LETTERS) + file.readline(MOST_LINE_BYTES):
            if (block := plain(chunk, dialect)) is None:
                break
            yield block, range(line + 1, line + 1 + len(block))
            line += len(block)
        yield from _Rows(dialect, chain(io.StringIO(chunk, newline=""), text), line).blocks()


class _Rows:
    """What `csv` finds in lines.

    Args:
        line: of the file, that was read last.
    """

    def __init__(self, dialect: Dialect, text: Iterator[str], line: int) -> None:
        self.dialect, self.reader, self.before = dialect, dialect.cells(text, strict=True), line

    @property
    def line(self) -> int:
        return self.before + int(self.reader.line_num)

    def blocks(self) -> Iterator[tuple[Cells, Sequence[int]]]:
        """`BLOCK_ROWS` rows at a time."""
        line = self.line
        while rows := list(islice(self.reader, BLOCK_ROWS)):
            lines: Sequence[int] = range(line + 1, line + 1 + len(rows))
            if self.line - line != len(rows):  # cells with line breaks in them
                lines = list(accumulate((1 + sum(c.count("\n") for c in r) for r in rows[:-1]), initial=lines[0]))
            line = self.line
            if self.dialect.has_names and self.dialect.head in rows:  # files that were put together
                self.dialect.heads_below += [n for n, row in zip(lines, rows, strict=True) if row == self.dialect.head]
                lines = [n for n, row in zip(lines, rows, strict=True) if row != self.dialect.head]
                rows = [row for row in rows if row != self.dialect.head]
            if set(map(len, rows)) != {self.dialect.width} or not all(row[0].strip() for row in rows):
                rows, lines = _whole(rows, lines, self.dialect)
            if rows:
                yield Cells(rows), lines


def _share(dialect: Dialect) -> float:
    """So many times the bytes of its first lines has the file, 1 where it has no more."""
    num_bytes = sum(len(line.encode("utf-8", "replace")) for line in dialect.sample)
    return max(1.0, dialect.path.stat().st_size / max(num_bytes, 1))


def _refuse_more_than_fits(dialect: Dialect) -> None:
    share = _share(dialect)
    refuse_more(
        f"data.path={dialect.path}",
        share * sum(map(len, dialect.rows)) * BYTES_PER_CELL if share > 1 else 0,
        "Take rows or columns out of it.",
    )


def _whole(rows: list[list[str]], lines: Sequence[int], dialect: Dialect) -> tuple[list[list[str]], list[int]]:
    """The rows without those that hold nothing, and their lines.

    Raises:
        UserError: a row has more or fewer cells than the first.
    """
    kept = [(row, line) for row, line in zip(rows, lines, strict=True) if any(map(str.strip, row))]
    bad = [(line, len(row)) for row, line in kept if len(row) != dialect.width]
    if bad:
        more = f" (and {len(bad) - 1:,} of the lines below it differ, too)" if len(bad) > 1 else ""
        raise UserError(
            f"data.path={dialect.path}: line {bad[0][0]} has {bad[0][1]:,} columns and line {dialect.num_skipped + 1} "
            f"has {dialect.width:,}{more}. Give each line the same number."
        )
    return [row for row, _ in kept], [line for _, line in kept]
