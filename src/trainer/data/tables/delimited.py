"""Tables as text: `.csv` and its kin, with the delimiters, decimal signs and encodings of spreadsheets and programs."""

import codecs
import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import accumulate, islice, pairwise
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from trainer.data.memory import refuse_more
from trainer.data.quoting import cut, listed
from trainer.data.tables.columns import Choice, Gathering, Table, is_missing, number
from trainer.disk.foreign import refuse_no_file
from trainer.errors import UserError

SIGNS = {"comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|", "blanks": " "}
MOST_LINE_BYTES = 1 << 22  # a line with 100,000 columns has about one MB
SAMPLE_LINES = 200  # by which delimiter, decimal sign and header are told
BLOCK_ROWS = 512  # what is worked on stays in the CPU's caches; more rows take twice as long
BYTES_PER_CELL = 40  # of memory for a cell that takes few bytes in the file: its number as read, fitted, and cast

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
        delimiter: a word of `SIGNS`, or `auto`: what cuts the first lines into equally many cells. A first line `sep=;`
            says it, as spreadsheets have it.
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
        size = path.stat().st_size
        names = [encoding] if encoding != "auto" else _encodings(path)
        for i, name in enumerate(names):
            try:
                table = _Reader(path, name, size, choose, delimiter, decimal, header, called).table()
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
        raise UserError(
            f"data.path={path}: it cannot be read ({error.strerror or error}). Give a file that you may read."
        ) from error
    raise AssertionError


def _encodings(path: Path) -> list[str]:
    with open(path, "rb") as file:
        start = file.read(4096)
    for mark, name in _BOMS.items():
        if start.startswith(mark):
            return [name]
    if b"\0" in start:
        raise UserError(f"data.path={path}: not a text: it holds zero bytes. Export the table as CSV, in UTF-8.")
    return ["utf-8", "cp1252"]


class _Reader:
    """One way to read a file, see `read`."""

    def __init__(
        self,
        path: Path,
        encoding: str,
        size: int,
        choose: Choice,
        delimiter: str,
        decimal: str,
        header: str,
        called: Sequence[str],
    ) -> None:
        self.path, self.encoding, self.size, self.choose = path, encoding, size, choose
        self.delimiter, self.decimal, self.header, self.called = delimiter, decimal, header, called
        self.notes: list[str] = []

    def table(self) -> Table:
        with open(self.path, newline="", encoding=self.encoding) as file:
            sample = list(islice(self._lines(file), SAMPLE_LINES))
        num_skipped = self._skip_preamble(sample)
        blank = next((i for i, line in enumerate(sample) if line.strip(" \t\r\n,;|")), None)
        if blank is None:
            raise self._error("the file is empty. Give one with a row per sample.")
        num_skipped += blank
        if self.delimiter == "auto":
            self.delimiter = told_delimiter(sample[blank:])
        rows = [row for row in self._parsed(sample[blank:]) if any(map(str.strip, row))]
        has_row_names = False
        if {len(row) - 1 for row in rows[1:]} == {len(rows[0])}:
            if not any(row[-1].strip() for row in rows[1:]):  # a delimiter behind each row
                rows[0] = [*rows[0], ""]
            elif has_row_names := self._are_row_names([row[0] for row in rows[1:]]):
                rows[0] = ["", *rows[0]]
        width = len(rows[0])
        if self.decimal == "auto":
            self.decimal = self._told_decimal(rows)
        names = self._names(rows, has_row_names)
        has_names = names is not None
        columns = names or [str(column) for column in range(width)]
        uses = self.choose(columns, has_names)
        self._refuse_more_than_fits(rows, sample)

        gathered = [Gathering(self.decimal, uses.get(name, "auto")) for name in columns]
        numbers: list[int] = []
        with open(self.path, newline="", encoding=self.encoding) as file:
            text = iter(partial(file.readline, MOST_LINE_BYTES), "")
            reader = self._parsed(islice(text, num_skipped, None), strict=True)
            if has_names:
                next(reader)
            line = reader.line_num
            while rows := list(islice(reader, BLOCK_ROWS)):
                lines: Sequence[int] = range(line + 1 + num_skipped, line + 1 + num_skipped + len(rows))
                if reader.line_num - line != len(rows):  # cells with line breaks in them
                    lines = list(accumulate((1 + sum(c.count("\n") for c in r) for r in rows[:-1]), initial=lines[0]))
                line = reader.line_num
                if set(map(len, rows)) != {width} or not all(row[0].strip() for row in rows):
                    rows, lines = self._whole(rows, lines, width, num_skipped + 1)
                numbers += lines
                for column, cells in zip(gathered, zip(*rows, strict=True), strict=False):
                    column.add(cells)
        if not numbers:
            raise self._error("column names and 0 rows. Give one with a row per sample.")
        return Table(
            self.path,
            {name: column.done() for name, column in zip(columns, gathered, strict=True)},
            len(numbers),
            has_names,
            np.array(numbers),
            self.notes,
        )

    def _are_row_names(self, cells: Sequence[str]) -> bool:
        """Whether the first cells of the rows are what R writes there, and names no column: names, or 1, 2 ..."""
        numbers = [number(cell) for cell in cells]
        is_one = numbers == list(range(1, len(cells) + 1)) or set(numbers) == {None}
        if not is_one or len(set(cells)) < len(cells):
            return False
        self.notes.append("the first line has a name less than the others have cells: the first cells are row names.")
        return True

    def _error(self, what: str) -> UserError:
        return UserError(f"data.path={self.path}: {what}")

    def _lines(self, file: TextIO) -> Iterator[str]:
        """The lines, none of them without end."""
        while line := file.readline(MOST_LINE_BYTES):
            if len(line) == MOST_LINE_BYTES:
                raise self._error(
                    f"a line has {MOST_LINE_BYTES:,} letters and more; it is no table. Give one with a row per sample."
                )
            yield line

    def _skip_preamble(self, sample: list[str]) -> int:
        """How many lines stand before the table, and takes them off: `sep=;`, and remarks that begin with #."""
        num_skipped = 0
        if sample and (said := re.fullmatch(r"\"?sep=(.)\"?[,;\t]*\s*", sample[0])):
            if self.delimiter == "auto" and said[1] in SIGNS.values():
                self.delimiter = next(word for word, sign in SIGNS.items() if sign == said[1])
            del sample[0]
            num_skipped = 1
        remarks = 0
        while remarks < len(sample) and sample[remarks].startswith("#"):
            remarks += 1
        if remarks and remarks < len(sample):
            # The last remark may be the header, as numpy.savetxt writes it.
            delimiter = told_delimiter(sample[remarks:]) if self.delimiter == "auto" else self.delimiter
            widths = [
                len(next(parsed([line.lstrip("# ")], delimiter), [])) for line in sample[remarks - 1 : remarks + 1]
            ]
            is_header = widths[0] == widths[1] > 1
            del sample[: remarks - is_header]
            num_skipped += remarks - is_header
        return num_skipped

    def _parsed(self, lines: Iterable[str], strict: bool = False) -> Any:
        return parsed(lines, self.delimiter, strict)

    def _told_decimal(self, rows: Sequence[Sequence[str]]) -> str:
        """By cells that can be only one of the two; refuses what may be both."""
        seen: dict[str, str] = {}
        for cell in (cell.strip() for row in rows for cell in row if "," in cell or "." in cell):
            for kind, pattern in _WRITTEN.items():
                if pattern.fullmatch(cell):
                    seen.setdefault(kind, cell)
                    break
        if "comma" in seen and "point" in seen:
            raise self._error(
                f"numbers with a decimal comma ({cut(seen['comma'])}) and with a decimal point ({cut(seen['point'])}). "
                "Write all alike; or type data.decimal=point or data.decimal=comma, and the others are told."
            )
        if "either" in seen and not seen.keys() & {"comma", "point"}:
            raise self._error(
                f"{cut(seen['either'])} may have a decimal comma or a comma between thousands. Type data.decimal=comma "
                "or data.decimal=point."
            )
        return "comma" if "comma" in seen else "point"

    def _names(self, rows: Sequence[list[str]], has_row_names: bool) -> list[str] | None:
        """The columns' names, different from each other; None where the first line is a row like the others."""
        first = [" ".join(cell.split()) for cell in rows[0]]
        first[0] = first[0].removeprefix("#").strip()
        if self.header == "false" or not (
            self.header == "true"
            or any(name in first for name in self.called)
            or has_row_names
            or is_header(first, rows[1:], self.decimal)
        ):
            return None
        if self.header == "auto" and all(number(cell) is not None for cell in first):
            self.notes.append(
                f"the first line ({listed(first, 4)}) is taken for the names of the columns. If it is a row, type "
                "data.header=false."
            )
        return different(first)

    def _refuse_more_than_fits(self, rows: Sequence[Sequence[str]], sample: Sequence[str]) -> None:
        num_bytes = sum(len(line.encode("utf-8", "replace")) for line in sample)
        num_cells = sum(map(len, rows))
        refuse_more(
            f"data.path={self.path}",
            self.size / max(num_bytes, 1) * num_cells * BYTES_PER_CELL if self.size > num_bytes else 0,
            "Take rows or columns out of it.",
        )

    def _whole(
        self, rows: list[list[str]], lines: Sequence[int], width: int, first_line: int
    ) -> tuple[list[list[str]], list[int]]:
        """The rows without those that hold nothing, and their lines.

        Raises:
            UserError: a row has more or fewer cells than the first.
        """
        kept = [(row, line) for row, line in zip(rows, lines, strict=True) if any(map(str.strip, row))]
        bad = [(line, len(row)) for row, line in kept if len(row) != width]
        if bad:
            more = f" (and {len(bad) - 1:,} of the lines below it differ, too)" if len(bad) > 1 else ""
            raise self._error(
                f"line {bad[0][0]} has {bad[0][1]:,} columns and line {first_line} has {width:,}{more}. "
                f"Give each line the same number."
            )
        return [row for row, _ in kept], [line for _, line in kept]


_WRITTEN = {
    "comma": re.compile(
        r"[+-]?(?:\d{1,3}(?:[.' \u00a0\u202f]\d{3})+,\d*|\d*,(?:\d{1,2}|\d{4,})|0+,\d+|\d{4,},\d+)(?:[eE][+-]?\d+)?"
    ),
    "either": re.compile(r"[+-]?[1-9]\d{0,2},\d{3}"),
    "point": re.compile(
        r"[+-]?(?:\d{1,3}(?:,\d{3})+\.\d*|\d{1,3}(?:,\d{3}){2,}|\d*\.(?:\d{1,2}|\d{4,})|0+\.\d+|\d{4,}\.\d*)"
        r"(?:[eE][+-]?\d+)?"
    ),
}


def parsed(lines: Iterable[str], delimiter: str, strict: bool = False) -> Any:
    """The cells of each line."""
    if delimiter == "blanks":
        lines = (f"{' '.join(line.split())}\n" for line in lines)
    return csv.reader(lines, delimiter=SIGNS[delimiter], strict=strict, skipinitialspace=delimiter != "tab")


def told_delimiter(lines: Sequence[str]) -> str:
    """What cuts the lines into equally many cells, most of which are numbers (a comma may be a decimal sign)."""
    best, found = (0.0, 0.0, 0.0), "comma"
    for name in SIGNS:
        try:
            rows = [row for row in parsed(lines, name) if any(row)]
        except csv.Error:  # a line of a wide table that is one cell to this delimiter
            continue
        width, count = Counter(map(len, rows[1:] or rows)).most_common(1)[0] if rows else (1, 0)
        if width == 1:
            continue
        cells = [cell for row in rows[1:] or rows for cell in row if not is_missing(cell)]
        decimal = "point" if name == "comma" else "comma"
        are_numbers = sum(
            not cell.endswith(",") and (number(cell) is not None or number(cell, decimal) is not None) for cell in cells
        )
        are_cut = sum(any(sign in cell for sign in ";\t|") and name != "blanks" for cell in cells)
        part = are_numbers / len(cells) if cells else 0.0
        # Rounded, so that a few odd cells decide nothing; within words there are blanks, too.
        consistent = round(count / max(len(rows[1:] or rows), 1), 1) - 0.5 * (name == "blanks" and part < 0.9)
        score = (consistent, round(part - are_cut / max(len(cells), 1), 1), float(width))
        if score > best:
            best, found = score, name
    return found


def is_header(first: Sequence[str], below: Sequence[Sequence[str]], decimal: str = "point") -> bool:
    """Whether a first line names the columns: by what stands below each of its cells."""
    if not below:
        return all(number(cell, decimal) is None for cell in first)
    columns = [[cell for cell in column if not is_missing(cell)] for column in zip(*below, strict=False)]
    numeric = [bool(column) and all(number(cell, decimal) is not None for cell in column) for column in columns]
    mostly = [2 * sum(number(cell, decimal) is not None for cell in column) >= len(column) > 0 for column in columns]
    pairs = list(zip(first, mostly, columns, strict=False))
    if any(is_number and cell and number(cell, decimal) is None for cell, is_number, _ in pairs):
        return True  # a text above numbers
    given = [number(cell, decimal) for cell in first]
    counted = [value for value in given if value is not None and value == value]
    is_counting = _counts(counted)
    if first[0] == "" and len(columns[0]) == len(below) and all(value is None for value in given[1:]):
        return True  # what a spreadsheet or a program writes above a column that counts the rows
    if is_counting and all(numeric):
        # 0, 1, 2 ... or 400, 410, 420 ... over rows that don't count: an array's columns, wavelengths, years.
        is_row_like = _counts([number(cell, decimal) or 0.0 for cell in below[0]])
        has_fractions = any(all(not (number(cell, decimal) or 0.0).is_integer() for cell in c) for c in columns)
        is_long = len(counted) > 3 or (has_fractions and counted[0] in (0, 1))
        return not is_row_like and (first[0] == "" or is_long)
    words = [(cell, column) for cell, is_number, column in pairs if not is_number and column]
    if not words or any(is_missing(cell) for cell, _ in words):
        return False
    # A text that never comes again above words that do.
    is_new = all(cell not in column for cell, column in words)
    is_repeated = all(2 * len(set(column)) <= len(column) for _, column in words)
    return is_new and is_repeated and (is_counting or counted in ([], [0.0]))


def _counts(values: Sequence[float]) -> bool:
    """Whether whole numbers go up, or down, by equal steps."""
    steps = {b - a for a, b in pairwise(values)}
    return len(steps) == 1 and 0 not in steps and all(value.is_integer() for value in values)


def different(names: Sequence[str]) -> list[str]:
    """The names: `a.1` and `a.2` where two are `a`; what is empty is called by its place, unless it is the first."""
    wanted = [name or (f"column {place}" if place else "") for place, name in enumerate(names)]
    counts, taken, again = Counter(wanted), set(wanted), Counter[str]()
    for place, name in enumerate(wanted):
        while counts[name] > 1 and wanted[place] in taken:
            again[name] += 1
            wanted[place] = f"{name}.{again[name]}"
        taken.add(wanted[place])
    return wanted
