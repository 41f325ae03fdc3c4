"""Numbers and times as a person reads them."""

import math
from collections.abc import Iterable


def short(number: float, digits: int = 4) -> str:
    """So many significant digits, of four: `0.1234`, `12.30`, `3.001e+07`, `nan`; and `0`."""
    if number == 0 or not math.isfinite(number):
        return f"{number:.0f}"
    if not 1e-3 <= abs(number) < 1e6:
        return f"{number:.{digits - 1}e}"
    return f"{number:.{max(0, digits - 1 - math.floor(math.log10(abs(number))))}f}"


def digits_apart(numbers: Iterable[float]) -> int:
    """The fewest significant digits, of four to nine, by which numbers look different that are."""
    distinct = {number for number in numbers if math.isfinite(number)}
    return next((n for n in range(4, 9) if len({short(number, n) for number in distinct}) == len(distinct)), 9)


def counted(number: int, what: str) -> str:
    """`1 step`, `1,200 steps`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def percent(share: float) -> str:
    """`61%`; no `-0%`."""
    return f"{round(share, 2) + 0.0:.0%}"


def spoken(seconds: float) -> str:
    """About how long, in one unit: `1 s`, `90 s`, `12 min`, `5 h`."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{math.ceil(seconds)} s"


def duration(seconds: float) -> str:
    """`0:07`, `12:34`, `1:02:03`, `3d 4:05:06`."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    clock = f"{hours}:{minutes:02}:{seconds:02}" if hours or days else f"{minutes}:{seconds:02}"
    return f"{days}d {clock}" if days else clock
