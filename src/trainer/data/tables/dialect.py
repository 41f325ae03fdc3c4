"""How a text file writes its table: told by its first lines, unless it was typed."""

import csv
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from trainer.data.quoting import cut, listed
from trainer.data.tables.columns import APART, MINUS, is_missing, number
from trainer.errors import UserError

SIGNS = {"comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|", "blanks": " ", "caret": "^", "colon": ":"}
ROW_NAMES = "the first line has a name less than the others have cells: the first cells are row names."
MOST_TITLES = 30  # lines above the names of the columns
RARE = ("caret", "colon")  # what cuts lines where none of the others does; a colon stands in times


class Dialect:
    """What cuts lines into cells, how numbers are written, where the table begins, whether its first line has names.

    Args:
        sample: the first lines of the file.
        delimiter, decimal, header, called: as `trainer.data.tables.delimited.read` takes them.

    Attributes:
        num_skipped: lines before the table.
        sample, rows: the lines from there on, and the cells of those that hold something.
        width: cells in a row.
        is_decimal_told: `decimal` was typed, or a cell tells it; else it is a point.
        has_names: the first line is no row.
        columns: the names, or `0`, `1` ...
        head: the cells of the first line.
        heads_below: the lines that hold the same as a first one with names.
        notes: what was taken for granted, to be told.

    Raises:
        UserError: there is nothing, or it can be read in two ways.
    """

    def __init__(
        self, path: Path, sample: list[str], delimiter: str, decimal: str, header: str, called: Sequence[str]
    ) -> None:
        self.path, self.delimiter, self.notes = path, delimiter, list[str]()
        self.num_skipped = self._skip_preamble(sample)
        blank = next((i for i, line in enumerate(sample) if line.strip(" \t\r\n,;|")), None)
        if blank is None:
            raise UserError(f"data.path={path}: the file is empty. Give one with a row per sample.")
        self.num_skipped += blank
        self.sample = sample[blank:]
        num_titles = self._num_titles(called)
        self.num_skipped, self.sample = self.num_skipped + num_titles, self.sample[num_titles:]
        if self.delimiter == "auto":
            self.delimiter = told_delimiter(self.sample)
        rows = self.rows = [row for row in self.cells(self.sample) if any(map(str.strip, row))]
        self.head, self.heads_below = rows[0], list[int]()
        has_row_names = False
        if {len(row) - 1 for row in rows[1:]} == {len(rows[0])}:
            if not any(row[-1].strip() for row in rows[1:]):  # a delimiter behind each row
                rows[0] = [*rows[0], ""]
            elif has_row_names := self._are_row_names([row[0] for row in rows[1:]]):
                rows[0] = ["", *rows[0]]
        self.width = len(rows[0])
        if decimal == "auto":
            decimal = told_decimal(f"data.path={path}", (cell for row in rows for cell in row)) or ""
        self.decimal, self.is_decimal_told = decimal or "point", bool(decimal)
        if self.delimiter == "semicolon" and not decimal:
            self.notes += notes_on_points(cell.strip() for row in rows for cell in row)
        names = self._names(header, called, has_row_names)
        self.has_names = names is not None
        self.columns = names or [str(column) for column in range(self.width)]

    def cells(self, lines: Iterable[str], strict: bool = False) -> Any:
        """Of each line."""
        return parsed(lines, self.delimiter, strict)

    def _skip_preamble(self, sample: list[str]) -> int:
        """How many lines stand before the table, and takes them off: `sep=;`, and remarks that begin with #."""
        num_skipped = 0
        if sample and (said := told_by_a_line(sample[0])) is not None:
            self.delimiter = said if self.delimiter == "auto" else self.delimiter
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

    def _num_titles(self, called: Sequence[str]) -> int:
        """How many lines above the names of the columns hold a title and the like: fewer cells than there are names.

        A title may hold one of the names by chance.

        Args:
            called: names that the user calls columns by; without any it isn't known where the names are.
        """
        wanted = {*called}
        for place, line in enumerate(self.sample[:MOST_TITLES]) if wanted else ():
            if not place or not wanted & _any_cells(line):
                continue
            below = self.sample[place:]
            delimiter = told_delimiter(below) if self.delimiter == "auto" else self.delimiter
            first, *rows = [row for row in parsed(below, delimiter) if any(map(str.strip, row))]
            titles = parsed(self.sample[:place], delimiter)
            if any(sum(bool(cell.strip()) for cell in row) >= len(first) for row in titles):
                return 0
            names = names_of(first)
            if (
                not wanted <= {*names}
                or not rows
                or not any(is_header(names, rows, sign) for sign in ("point", "comma"))
            ):
                continue
            self.notes.append(passed_over(self.num_skipped + place))
            return place
        return 0

    def _are_row_names(self, cells: Sequence[str]) -> bool:
        """Whether the first cells of the rows are what R writes there, and names no column: names, or 1, 2 ..."""
        numbers = [number(cell) for cell in cells]
        is_one = numbers == list(range(1, len(cells) + 1)) or set(numbers) == {None}
        if not is_one or len(set(cells)) < len(cells):
            return False
        self.notes.append(ROW_NAMES)
        return True

    def _names(self, header: str, called: Sequence[str], has_row_names: bool) -> list[str] | None:
        """The columns' names, different from each other; None where the first line is a row like the others."""
        first = names_of(self.rows[0])
        if header == "false" or not (
            header == "true"
            or any(name in first for name in called)
            or has_row_names
            or is_header(first, self.rows[1:], self.decimal)
        ):
            return None
        if header == "auto" and all(number(cell) is not None for cell in first):
            self.notes.append(
                f"the first line ({listed(first, 4)}) is taken for the names of the columns. If it is a row, type "
                "data.header=false."
            )
        return different(first)


_WRITTEN = {
    "comma": re.compile(
        rf"[+-]?(?:\d{{1,3}}(?:[.{APART}]\d{{3}})+,\d*|"
        r"\d*,(?:\d{1,2}|\d{4,})|0+,\d+|\d{4,},\d+)(?:[eE][+-]?\d+)?"
    ),
    "groups": re.compile(
        r"[+-]?[1-9]\d{0,2}(?:\.\d{3}){2}"
    ),  # points between thousands, or somebody's name for a thing
    "either": re.compile(r"[+-]?[1-9]\d{0,2},\d{3}"),
    "point": re.compile(
        r"[+-]?(?:\d{1,3}(?:,\d{3})+\.\d*|\d{1,3}(?:,\d{3}){2,}|\d*\.(?:\d{1,2}|\d{4,})|0+\.\d+|\d{4,}\.\d*)"
        r"(?:[eE][+-]?\d+)?"
    ),
}


def told_decimal(where: str, cells: Iterable[str]) -> str | None:
    """By cells that can be only one of the two, None where all are neither; refuses what may be both.

    Args:
        where: the cells are, for the message.
    """
    seen: dict[str, str] = {}
    for cell in (cell.strip().replace(MINUS, "-") for cell in cells if "," in cell or "." in cell):
        for kind, pattern in _WRITTEN.items():
            if pattern.fullmatch(cell):
                seen.setdefault(kind, cell)
                break
    if "comma" in seen and "point" in seen:
        raise UserError(
            f"{where}: numbers with a decimal comma ({cut(seen['comma'])}) and with a decimal point "
            f"({cut(seen['point'])}). Write all alike; or type data.decimal=point or data.decimal=comma, and the "
            "others are told."
        )
    if "groups" in seen and "point" not in seen:
        return "comma"
    if seen.keys() == {"either"}:
        raise UserError(
            f"{where}: {cut(seen['either'])} may have a decimal comma or a comma between thousands. Type "
            "data.decimal=comma or data.decimal=point."
        )
    return "comma" if "comma" in seen else "point" if "point" in seen else None


def notes_on_points(cells: Iterable[str]) -> list[str]:
    """On 1.234 beside semicolons: it may be a fraction, or a thousand and more where a comma is the decimal sign."""
    found = next((cell for cell in cells if re.fullmatch(r"[+-]?[1-9]\d{0,2}\.\d{3}", cell)), None)
    if found is None:
        return []
    return [
        f"{found} and its like are read with a decimal point. If it stands between thousands, type data.decimal=comma."
    ]


def told_by_a_line(line: str) -> str | None:
    """The delimiter that a first line `sep=;` says, as spreadsheets have it; None where it is no such line."""
    said = re.fullmatch(r"\"?sep=(.)\"?[,;\t]*\s*", line)
    return next((word for word, sign in SIGNS.items() if sign == said[1]), "auto") if said else None


def parsed(lines: Iterable[str], delimiter: str, strict: bool = False) -> Any:
    """The cells of each line."""
    if delimiter == "blanks":
        lines = (f"{' '.join(line.split())}\n" for line in lines)
    return csv.reader(lines, delimiter=SIGNS[delimiter], strict=strict, skipinitialspace=delimiter != "tab")


def told_delimiter(lines: Sequence[str]) -> str:
    """What cuts the lines into equally many cells, most of which are numbers (a comma may be a decimal sign)."""
    best, found = (0.0, 0.0, 0.0), ""
    for name in (name for name in SIGNS if name not in RARE):
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
    return found or next((name for name in RARE if _cuts_all(lines, name)), "comma")


def passed_over(last: int) -> str:
    """The note on titles, of which line `last` is the last."""
    what = "line 1 stands" if last == 1 else f"lines 1 to {last} stand"
    return f"{what} above the names of the columns, and no row is there."


def names_of(cells: Sequence[str]) -> list[str]:
    """Of a first line, as they are called."""
    names = [" ".join(cell.split()) for cell in cells]
    return [names[0].removeprefix("#").strip(), *names[1:]]


def _any_cells(line: str) -> set[str]:
    """What stands between any signs that may cut a line."""
    return {" ".join(cell.strip("\"' ").split()) for cell in [*re.split(r"[,;\t|^:\n]", line), *line.split()]}


def _cuts_all(lines: Sequence[str], delimiter: str) -> bool:
    """Whether several lines are cut into equally many cells, two or more."""
    rows = [row for row in parsed(lines, delimiter) if any(row)]
    return len(rows) > 1 and len({*map(len, rows)}) == 1 and len(rows[0]) > 1


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
