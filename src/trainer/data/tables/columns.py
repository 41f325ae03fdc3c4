"""The columns of a table: numbers, words or dates; and what tells them apart, block by block."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.data.quoting import composed, cut, listed, typed
from trainer.errors import UserError, nearest

# What people and programs write where a value is missing, in small letters.
MISSING = frozenset(
    {
        *("", "na", "n/a", "#n/a", "#na", "<na>", "nan", "-nan", "nat"),
        *("null", "none", "nil", "missing", "?", "-", "--", "."),
    }
)
INTEGER = re.compile(r"[+-]?\d{1,18}")  # fits into int64
PADDED = re.compile(r"0\d+(?:[eE]\d+)?")  # zeros in front: 00123, 001e1
_PADDED_LINE = re.compile(rf"^[ \t]*({PADDED.pattern})[ \t]*$", re.MULTILINE)
EXACT = 2**53  # float64 holds every whole number up to this
# Beyond so many different words, most of them met once, a column is free text: it is not kept.
MOST_WORDS = 100_000

_MONTH = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?"
_CLOCK = r"\d{1,2}:\d{2}(?::\d{2}(?:\.\d+)?)?\s*(?:[ap]m)?\s*(?:z|utc|[+-]\d{2}:?\d{2})?"
_DAY = (
    rf"(?:\d{{4}}[-/.]\d{{1,2}}[-/.]\d{{1,2}}|\d{{1,2}}[-/.]\d{{1,2}}[-/.](?:\d{{4}}|\d{{2}})"
    rf"|\d{{1,2}}[-\s]{_MONTH}[-\s]\d{{2,4}}|{_MONTH}\s\d{{1,2}},?\s\d{{4}})"
)
DATE = re.compile(rf"{_DAY}(?:[t\s]\s*{_CLOCK})?|{_CLOCK}", re.IGNORECASE)
# A number with a sign of percent or money: it is meant as one, but is none.
_WITH_A_SIGN = re.compile(r"[$€£¥]\s*[+-]?[\d.,'\s]*\d[\d.,']*|[+-]?[\d.,'\s]*\d[\d.,']*\s*[%$€£¥]")
# The same where it differs in nearly every row: with a unit, in brackets, with the sign behind, as Fortran writes it.
_WITH_A_UNIT = re.compile(
    r"[+-]?(?:[\d.,'\s]*\d\s+|\d*[.,]\d+)[^\W\d_]{1,3}(?:/[^\W\d_]{1,3})?"
    r"|\([\d.,'\s]*\d[\d.,]*\)|[\d.,]*\d-|[+-]?\d*\.?\d+[dD][+-]?\d+"
)
MINUS = "\u2212"  # as books print it, and programs in Swedish or Norwegian
APART = " '\u00a0\u2009\u202f\u2019"  # between thousands: blanks, and apostrophes of keyboards and of Swiss programs
_GROUPS = {  # thousands apart, by the decimal sign; what begins with 0 is a fraction
    "point": re.compile(rf"[+-]?[1-9]\d{{0,2}}(?:(?:,\d{{3}})+|(?:[{APART}]\d{{3}})+)(?:\.\d*)?"),
    "comma": re.compile(rf"[+-]?[1-9]\d{{0,2}}(?:(?:\.\d{{3}})+|(?:[{APART}]\d{{3}})+)(?:,\d*)?"),
}
_GROUP_SIGNS = {"point": str.maketrans("", "", f",{APART}"), "comma": str.maketrans(",", ".", f".{APART}")}


@dataclass(frozen=True)
class Numbers:
    """A column of numbers.

    Args:
        values: `[N]` float64, NaN where one is missing.
        is_whole: all are written as whole numbers: `3`, not `3.0`.
        padded: a cell that is written with zeros in front, as postal codes are, if there is one.
    """

    values: NDArray[np.float64]
    is_whole: bool = False
    padded: str = ""

    @property
    def missing(self) -> NDArray[np.bool_]:
        return np.isnan(self.values)


@dataclass(frozen=True)
class Words:
    """A column of words.

    Args:
        codes: `[N]` int32, the number of the word in `levels`; -1 where it is missing.
        levels: the different words, in the order in which they come.
    """

    codes: NDArray[np.int32]
    levels: tuple[str, ...]

    @property
    def missing(self) -> NDArray[np.bool_]:
        return self.codes < 0


@dataclass(frozen=True)
class Unused:
    """A column that can't be an input, and why: dates, free text, nothing at all, or one that was not asked for."""

    why: str


@dataclass(frozen=True)
class Mixed:
    """A column that is neither numbers nor words: most are numbers and some aren't.

    Args:
        row: of the first that is no number.
        cell: what is there.
        count: how many there are.
    """

    row: int
    cell: str
    count: int


Column = Numbers | Words | Unused | Mixed


@dataclass
class Table:
    """What a file holds.

    Args:
        columns: by name, in the order of the file.
        num_rows: the samples.
        has_names: the file names its columns; else they are called by their number, from 0.
        lines: `[N]` the line of each row in the file; None where a file has no lines.
        notes: what was decided in reading it that its user should know.
        decimal: the sign of its numbers, `point` or `comma`.
    """

    path: Path
    columns: Mapping[str, Column]
    num_rows: int
    has_names: bool = True
    lines: NDArray[np.int64] | None = None
    notes: list[str] = field(default_factory=list)
    decimal: str = "point"

    def take(self, rows: NDArray[np.int64]) -> "Table":
        """Of these rows alone."""
        lines = None if self.lines is None else self.lines[rows]
        return Table(self.path, Taken(self.columns, rows), len(rows), self.has_names, lines, decimal=self.decimal)

    def place(self, row: int, name: str) -> str:
        """Where a cell is, as a person finds it: `line 7, column age`."""
        where = f"row {row} (counted from 0)" if self.lines is None else f"line {self.lines[row]}"
        return f"{where}, column {cut(name)}{'' if self.has_names else ' (counted from 0)'}"


class Taken(Mapping[str, Column]):
    """Some rows of columns, taken of a column when it is asked for: a copy of all would need as much memory again."""

    def __init__(self, columns: Mapping[str, Column], rows: NDArray[np.int64]) -> None:
        self.columns, self.rows = columns, rows

    def __getitem__(self, name: str) -> Column:
        match column := self.columns[name]:
            case Numbers(values, is_whole):
                return Numbers(values[self.rows], is_whole)
            case Words(codes, levels):
                return Words(codes[self.rows], levels)
        return column

    def __contains__(self, name: object) -> bool:
        return name in self.columns

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)

    def __len__(self) -> int:
        return len(self.columns)


def find(key: str, wanted: Any, names: Sequence[str], path: Path, has_names: bool = True) -> str:
    """The one column that a user calls by its name, or by its number from 0 (negative: from the end).

    Args:
        key: under which it was typed, for the message.

    Raises:
        UserError: there is none, or there are two of that name.
    """
    if isinstance(wanted, str) and has_names and names.count(wanted) == 1:
        return wanted
    name = str(wanted)  # a header of years, say
    is_name = has_names and names.count(name) == 1
    if isinstance(wanted, int) and not isinstance(wanted, bool) and -len(names) <= wanted < len(names):
        if is_name and names[wanted] != name:
            raise UserError(
                f"{key}={name}: it is the name of one column of {path} and the number of another, "
                f"{cut(names[wanted])}. Type {typed(key, [name])} for the name, {key}=[{names.index(name)}] for its "
                "number."
            )
        return names[wanted]
    if is_name and isinstance(wanted, int | float):
        return name
    known = listed(names) if has_names else f"0 to {len(names) - 1}, without names"
    raise UserError(
        f"{key}={cut(str(wanted))}: {path} has no one column of that name or number; it has {known}."
        f"{nearest(str(wanted), names) if has_names else ''}"
    )


def number(cell: str, decimal: str = "point") -> float | None:
    """The number in a cell, NaN where it is missing, None where it is none.

    Args:
        decimal: `point` or `comma`. Thousands may be apart by the other one, a blank or an apostrophe.
    """
    text = cell.strip().replace(MINUS, "-")
    if text.lower() in MISSING:
        return np.nan
    if "_" in text:  # Python takes 1_000 for a number
        return None
    if _GROUPS[decimal].fullmatch(text):
        text = text.translate(_GROUP_SIGNS[decimal])
    elif decimal == "comma":
        if "." in text:
            return None
        text = text.replace(",", ".")
    try:
        return float(text)
    except ValueError:
        return None


def time_of(text: str) -> float | None:
    """Seconds of a date as ISO 8601 writes it, in UTC where it has no zone; None for anything else."""
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def is_missing(cell: str) -> bool:
    return cell.strip().lower() in MISSING


class Gathering:
    """A column while its file is read.

    What it holds is decided by the first block that has a value: all numbers, all dates, or words. A later cell that
    is no number makes a column of numbers `Mixed`.

    Args:
        decimal: the sign of numbers, see `number`; `untold`: no cell has told it so far. Then it is a point, and a
            comma makes the column `Mixed`: it may be a decimal sign, or part thousands.
        use: `auto`; `words`, whatever they look like; `names`: words, of which NA, None and their like are some, too;
            `exact`: words letter by letter, with their blanks; or `none`.
        num_rows: how many rows came before it was met first: they lack it.
        most_rows: so many may come; memory that isn't written to is none. More may come all the same.
    """

    def __init__(self, decimal: str = "point", use: str = "auto", num_rows: int = 0, most_rows: int = 0) -> None:
        self.decimal, self.use = "point" if decimal == "untold" else decimal, use
        self.is_told = decimal != "untold"
        self.kind = {**dict.fromkeys(WORDS, "words"), "none": "none"}.get(use, "empty")
        self.num_rows = 0
        self.is_whole, self.padded = True, ""
        self._kept: NDArray[Any] = np.empty(0)  # longer than what it holds
        self._num_kept, self._most = 0, most_rows
        self._codes: dict[str, int] = {}  # of cells as they are written
        self._levels: dict[str, int] = {}
        self._bad: Mixed | None = None
        if num_rows:
            self.add([""] * num_rows)

    def add(self, cells: Sequence[str]) -> None:
        """The next rows, as they are written."""
        if self.kind == "empty":
            self.kind = self._kind_of(cells)
        if self.kind in ("numbers", "empty"):
            self._add_numbers(cells)
        elif self.kind == "words":
            self._add_words(cells)
        self.num_rows += len(cells)

    def add_values(self, values: NDArray[np.float64], is_whole: bool, padded: str = "") -> None:
        """The next rows of a file that holds numbers itself; `is_whole` and `padded` as of `Numbers`."""
        if self.kind in ("numbers", "empty"):
            self.kind = "numbers" if self.kind == "numbers" or not np.isnan(values).all() else "empty"
            self.is_whole &= is_whole
            self.padded = self.padded or padded
            self._keep(values)
            self.num_rows += len(values)
        else:
            self.add(["" if np.isnan(x) else str(x) for x in values.tolist()])

    def _kind_of(self, cells: Iterable[str]) -> str:
        there = list(dict.fromkeys(cell for cell in cells if not is_missing(cell)))
        if not there:
            return "empty"
        if all(number(cell, self.decimal) is not None for cell in there):
            return "numbers"
        kind = "dates" if _are_dates(there) else "words"
        if kind == "words" and self.num_rows:  # the rows before it had nothing
            self._num_kept = 0
            self._keep(np.full(self.num_rows, -1, np.int32))
        return kind

    def _add_numbers(self, cells: Sequence[str]) -> None:
        written = "\n".join(cells)
        if not self.padded and (found_padded := _PADDED_LINE.search(written)):
            self.padded = found_padded[1]
        self.is_whole = self.is_whole and not any(sign in written for sign in ".,eEnN")
        if "_" not in written and self.decimal == "point":
            try:
                self._keep(np.fromiter(map(float, cells), np.float64, len(cells)))
                return
            except ValueError:
                pass
        found = [number(cell, self.decimal) if self.is_told or "," not in cell else None for cell in cells]
        bad = [row for row, value in enumerate(found) if value is None]
        if bad:
            before = self._bad or Mixed(self.num_rows + bad[0], cells[bad[0]], 0)
            self._bad = Mixed(before.row, before.cell, before.count + len(bad))
        self._keep(np.array([np.nan if value is None else value for value in found]))

    def _add_words(self, cells: Sequence[str]) -> None:
        codes = self._codes
        try:
            self._keep(np.fromiter(map(codes.__getitem__, cells), np.int32, len(cells)))
            return
        except KeyError:
            for cell in cells:
                if cell not in codes:
                    codes[cell] = self._code(cell)
        self._keep(np.fromiter(map(codes.__getitem__, cells), np.int32, len(cells)))
        if self.use == "auto" and len(self._levels) > max(MOST_WORDS, self.num_rows // 2):
            self.kind = "text"
            self._codes, self._levels, self._kept = {}, {}, np.empty(0)

    def _keep(self, values: NDArray[Any]) -> None:
        """Behind those before: parts that are joined at the end would need their memory twice."""
        if not self._num_kept:
            self._kept = np.empty(max(self._most, len(values)), values.dtype)
        start, self._num_kept = self._num_kept, self._num_kept + len(values)
        if self._num_kept > len(self._kept):
            self._kept = np.append(self._kept[:start], np.empty(self._num_kept, values.dtype))
        self._kept[start : self._num_kept] = values

    def _code(self, cell: str) -> int:
        if self.use == "exact" and cell.strip():
            return self._levels.setdefault(cell, len(self._levels))
        if is_missing(cell) and (self.use != "names" or not cell.strip()):
            return -1
        word = composed(" ".join(cell.split()))
        if re.fullmatch(r"[+-]?\d{1,15}\.0*", word):  # a whole number that a program wrote as a fraction
            word = word.partition(".")[0]
        return self._levels.setdefault(word, len(self._levels))

    def done(self) -> Column:
        """The whole column."""
        match self.kind:
            case "none":
                return Unused("not asked for")
            case "text":
                return Unused(TEXT)
            case "dates":
                return Unused(DATES)
            case "empty":
                return Unused(EMPTY)
            case "numbers":
                return self._bad or finite(self._kept[: self._num_kept], self.is_whole, self.padded)
        words = Words(self._kept[: self._num_kept].astype(np.int32, copy=False), tuple(self._levels))
        return words if self.use in WORDS else told(words, self.decimal)


WORDS = ("words", "names", "exact")  # what `use` may say of words
DATES, TEXT, EMPTY = "dates", "texts that differ in nearly every row", "nothing in it"


def finite(values: NDArray[np.float64], is_whole: bool, padded: str = "") -> Numbers | Mixed:
    """`Numbers` of these; infinite ones among them can't be reckoned with."""
    if not (infinite := np.isinf(values)).any():
        return Numbers(values, is_whole, padded)
    row = int(infinite.argmax())
    return Mixed(row, str(values[row]), int(infinite.sum()))


def _are_dates(words: Sequence[str]) -> bool:
    """Whether most are; numbers never are."""
    found = sum(DATE.fullmatch(word.strip()) is not None for word in words)
    return 2 * found > len(words)


def told(words: Words, decimal: str = "point") -> Column:
    """Words as what they are: true and false are numbers; mostly dates, mostly numbers, or nearly all different are
    no words."""
    if not words.levels:
        return Unused(EMPTY)
    if {level.lower() for level in words.levels} <= {"true", "false"}:
        of_level = np.array([float(level.lower() == "true") for level in words.levels] + [np.nan])
        return Numbers(of_level[words.codes], is_whole=True)
    counts = np.bincount(words.codes[words.codes >= 0], minlength=len(words.levels))
    values = [number(level, decimal) for level in words.levels]
    is_number = np.array([value is not None for value in values])
    if is_number.all():
        if any(PADDED.fullmatch(level) for level in words.levels):  # Parquet has such texts: postal codes
            return Unused(TEXT) if _are_texts(words, counts) else words
        are_whole = all(INTEGER.fullmatch(level) for level in words.levels)
        return finite(np.array([*values, np.nan], np.float64)[words.codes], are_whole)
    is_nearly = is_number | np.array([_WITH_A_SIGN.fullmatch(level) is not None for level in words.levels])
    if 2 * counts[is_nearly].sum() >= counts.sum():
        return _mixed(words, is_number)
    if _are_dates(words.levels):
        return Unused(DATES)
    if not _are_texts(words, counts):
        return words
    has_unit = is_nearly | np.array([_WITH_A_UNIT.fullmatch(level) is not None for level in words.levels])
    return _mixed(words, is_number) if 2 * counts[has_unit].sum() >= counts.sum() else Unused(TEXT)


def _mixed(words: Words, is_number: NDArray[np.bool_]) -> Mixed:
    """Of the words that are no numbers, by level."""
    of_code = np.append(~is_number, False)  # the last is what a missing one, -1, looks up
    bad = of_code[words.codes]
    row = int(bad.argmax())
    return Mixed(row, words.levels[words.codes[row]], int(bad.sum()))


def _are_texts(words: Words, counts: NDArray[np.int64]) -> bool:
    """Whether nearly all differ; `counts` are of the levels."""
    return len(words.levels) > 20 and len(words.levels) > 0.5 * int(counts.sum())


def choose_all_auto(names: Sequence[str], has_names: bool) -> Mapping[str, str]:
    """For whom all columns are read as what they look like."""
    return {}


# Told the names of a table's columns, and whether the file has names: column to a `use` of `Gathering`, if not auto.
Choice = Callable[[Sequence[str], bool], Mapping[str, str]]
