"""Numbers and times as a person reads them."""

import math


def short(number: float) -> str:
    """Four significant digits: `0.1234`, `12.30`, `3.001e+07`, `nan`; and `0`."""
    if number == 0 or not math.isfinite(number):
        return f"{number:.0f}"
    if not 1e-3 <= abs(number) < 1e6:
        return f"{number:.3e}"
    return f"{number:.{max(0, 3 - math.floor(math.log10(abs(number))))}f}"


def duration(seconds: float) -> str:
    """`0:07`, `12:34`, `1:02:03`, `3d 4:05:06`."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    clock = f"{hours}:{minutes:02}:{seconds:02}" if hours or days else f"{minutes}:{seconds:02}"
    return f"{days}d {clock}" if days else clock
