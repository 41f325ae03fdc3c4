"""Blocks of a text that hold numbers alone, read by a few operations on all cells at once, not cell by cell."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer.data.tables.columns import Gathering, number
from trainer.data.tables.dialect import SIGNS, Dialect

NEW_LINE, POINT, MINUS, PLUS, ZERO = b"\n.-+0"
WRITTEN_WITH = b"0123456789+-.eE\n"
LONGEST = 40  # letters of a cell
MOST_ODD = 0.1  # the share of cells that may be read one by one here
# A quotient of two numbers that float64 holds exactly is rounded once, as `float` rounds (W. D. Clinger, "How to Read
# Floating Point Numbers Accurately", 1990): so many digits, and so many of them behind the point.
EXACT, POWERS = 2.0**53, np.array([float(f"1e{i}") for i in range(23)])
_TIMES, _PLUS = np.ones(256), np.zeros(256)  # by letter: what a digit behind it does to a number
_TIMES[ZERO : ZERO + 10], _PLUS[ZERO : ZERO + 10] = 10.0, np.arange(10)


@dataclass(frozen=True)
class Plain:
    """Rows of cells, all of which are numbers or missing.

    Args:
        values: `[rows, columns]`, NaN where one is missing.
        starts, ends: `[rows, columns]`, where they stand in `text`.
        is_whole, padded: of each column, see `columns.Numbers`.
    """

    values: NDArray[np.float64]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    text: str
    is_whole: NDArray[np.bool_]
    padded: list[str]

    def __len__(self) -> int:
        return len(self.values)

    def add_to(self, column: Gathering, place: int) -> None:
        """The cells of a column."""
        if column.kind in ("numbers", "empty"):
            column.add_values(self.values[:, place].copy(), bool(self.is_whole[place]), self.padded[place])
        elif column.kind != "none":
            cuts = zip(self.starts[:, place].tolist(), self.ends[:, place].tolist(), strict=True)
            column.add([self.text[start:end] for start, end in cuts])


def plain(text: str, dialect: Dialect) -> Plain | None:
    """The cells of whole lines; None where one of them is no number, or the lines are no rows of a table.

    The numbers are those that `columns.number` finds, bit by bit.
    """
    if dialect.decimal != "point" or dialect.delimiter == "blanks" or not text.isascii():
        return None
    sign = SIGNS[dialect.delimiter]
    text = text.replace("\r\n", "\n")
    raw = text.encode("ascii")
    if not raw.endswith(b"\n"):
        raw += b"\n"
    if raw.translate(None, WRITTEN_WITH + sign.encode()):
        return None
    letters = np.frombuffer(raw, np.uint8)
    ends = np.flatnonzero((letters == ord(sign)) | (letters == NEW_LINE))
    if len(ends) % dialect.width:
        return None
    shape = len(ends) // dialect.width, dialect.width
    is_last = letters[ends].reshape(shape) == NEW_LINE
    starts = np.append(0, ends[:-1] + 1)
    lengths = ends - starts
    has_any = (lengths > 0).reshape(shape).any(1)
    if not is_last[:, -1].all() or is_last[:, :-1].any() or not has_any.all() or lengths.max() > LONGEST:
        return None
    values, has_fraction, is_odd = _numbers(letters, starts, ends)
    is_padded = (letters[starts] == ZERO) & (letters[np.minimum(starts + 1, ends)] - ZERO < 10) & ~has_fraction
    is_padded = is_padded.reshape(shape)
    cells = (is_padded.argmax(0) * dialect.width + np.arange(dialect.width)).tolist()
    padded = [text[starts[i] : ends[i]] if is_any else "" for i, is_any in zip(cells, is_padded.any(0), strict=True)]
    odd = np.flatnonzero(is_odd).tolist()
    if len(odd) > MOST_ODD * len(ends):
        return None
    for i in odd:
        cell = text[starts[i] : ends[i]]
        if (found := number(cell)) is None:
            return None
        values[i] = found
        has_fraction[i] |= "e" in cell.lower()
    is_whole = np.logical_not(has_fraction.reshape(shape).any(0, keepdims=True))[0]
    return Plain(values.reshape(shape), starts.reshape(shape), ends.reshape(shape), text, is_whole, padded)


def _numbers(
    letters: NDArray[np.uint8], starts: NDArray[np.int64], ends: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
    """Of each cell its number, whether it has a point, and whether it is no sign, digits and point that are exact."""
    first = letters[starts]
    is_signed = (first == MINUS) | (first == PLUS)
    values = np.zeros(len(starts))
    num_digits, num_behind, num_points = (np.zeros(len(starts), np.uint8) for _ in range(3))
    at = starts.copy()
    for _ in range(int((ends - starts).max())):
        letter = letters.take(at)  # at the end of a cell, what cuts it off
        is_digit = letter - ZERO < 10  # what is less than zero is large: the numbers have no sign
        values *= _TIMES.take(letter)
        values += _PLUS.take(letter)
        num_digits += is_digit
        num_behind += is_digit & (num_points > 0)
        num_points += letter == POINT
        at += 1
        np.minimum(at, ends, out=at)
    is_odd = (num_digits == 0) | (is_signed + num_digits + num_points != ends - starts) | (num_points > 1)
    is_odd |= (values >= EXACT) | (num_behind >= len(POWERS))
    values /= POWERS.take(num_behind, mode="clip")
    np.negative(values, out=values, where=first == MINUS)
    return values, num_points > 0, is_odd
