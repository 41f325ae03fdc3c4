"""Curves in characters: where a point lies among them, and the dots between points."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

Points = Sequence[tuple[int, float]]  # (step, number)
Dot = tuple[int, int]  # column and row, from above, counted in dots

_BITS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # of a braille sign, [row][column] (Unicode U+2800)


@dataclass
class Plane:
    """`columns` by `rows` characters with a scale.

    It is logarithmic where the numbers are positive and span more than a factor of 50.

    Args:
        every: the points that have to fit; finite numbers; not empty.
        is_plain: a character has one dot instead of 2 by 4.
    """

    every: Points
    columns: int
    rows: int
    is_plain: bool

    def __post_init__(self) -> None:
        self.low, self.high = min(y for _, y in self.every), max(y for _, y in self.every)
        self.first, self.last = min(x for x, _ in self.every), max(x for x, _ in self.every)
        self.is_log = self.low > 0 and self.high / self.low > 50
        self._across, self._down = (1, 1) if self.is_plain else (2, 4)

    def dot(self, step: float, number: float) -> Dot:
        bottom, top, y = (math.log(v) if self.is_log else v for v in (self.low, self.high, number))
        share = (top - y) / ((top - bottom) or 1.0)
        height = self.rows * self._down - 1
        return self._column(step), min(height, max(0, round(share * height)))

    def curve(self, points: Points) -> Iterator[Dot]:
        """Lines between points; a column of dots shows the mean of the points that fall into it."""
        columns: dict[int, list[float]] = {}
        for step, number in points:
            columns.setdefault(self._column(step), []).append(number)
        previous: Dot | None = None
        for column, numbers in sorted(columns.items()):
            point = column, self.dot(self.first, sum(numbers) / len(numbers))[1]
            yield from _line(previous or point, point)
            previous = point

    def place(self, dot: Dot) -> tuple[int, int]:
        """Row and column of the character that a dot is in."""
        return dot[1] // self._down, dot[0] // self._across

    def bit(self, dot: Dot) -> int:
        """Of the dot in its character: what `braille` adds up."""
        return _BITS[dot[1] % self._down][dot[0] % self._across]

    def label(self, row: int) -> str:
        """What stands beside a row: the largest number beside the first, the least beside the last."""
        return f"{self.high:.3g}" if row == 0 else f"{self.low:.3g}" if row == self.rows - 1 else ""

    @property
    def axis(self) -> str:
        """The first and the last step, as wide as the plane."""
        return f"{self.first:,}" + f"{self.last:,}".rjust(self.columns - len(f"{self.first:,}"))

    def _column(self, step: float) -> int:
        width = self.columns * self._across - 1
        return round((step - self.first) / max(1, self.last - self.first) * width)


def braille(bits: int) -> str:
    return chr(0x2800 + bits) if bits else " "


def _line(start: Dot, end: Dot) -> list[Dot]:
    """The dots from one point to another, both included."""
    count = max(abs(end[0] - start[0]), abs(end[1] - start[1]), 1)
    return [
        (round(start[0] + (end[0] - start[0]) * i / count), round(start[1] + (end[1] - start[1]) * i / count))
        for i in range(count + 1)
    ]
