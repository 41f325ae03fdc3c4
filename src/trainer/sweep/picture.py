"""A sweep as a picture: a heat map of two keys, or a line per setting through an axis for each key."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from trainer.config.schema import is_larger_better
from trainer.errors import UserError
from trainer.finished.chart import drawable, new_figure, refuse_no_picture, save_figure
from trainer.finished.read import is_finite
from trainer.finished.table import two_lines
from trainer.monitor.readable import short
from trainer.sweep.results import Row, Setting, configs_of, heading_of, settings

_LONGEST = 18  # characters of a value or a part of a key; of a longer one its end is shown, where names differ
_MOST_VALUES = 12  # of a key of which each is named
_MOST_KEYS = 24


@dataclass(frozen=True)
class Axis:
    """A swept key.

    Args:
        places: of its values, from 0 to 1 and from below to above. Words stand at equal distances, the one that was
            typed first on top.
        scale: of its numbers; None where they, or words, stand at equal distances.
    """

    key: str
    places: dict[str, float]
    scale: "Scale | None" = None

    def labels(self) -> list[tuple[float, str]]:
        """What stands beside the axis, and where."""
        if self.scale is not None and len(self.places) > _MOST_VALUES:
            return [(self.scale(n), f"{n:g}") for n in self.scale.ticks()]
        return [(place, _value(word)) for word, place in self.places.items()]


class Scale:
    """Numbers to 0 ... 1: by their size, or by their logarithms where these lie more evenly."""

    def __init__(self, numbers: Iterable[float]) -> None:
        numbers = sorted(numbers)
        self.low, self.high = numbers[0], numbers[-1]
        self.is_log = False
        if self.low > 0 and self.high / self.low >= 10:
            middle = statistics.median(numbers)
            by_size = self(middle)
            self.is_log = True
            self.is_log = abs(self(middle) - 0.5) < abs(by_size - 0.5)

    def __call__(self, number: float) -> float:
        if self.low == self.high:
            return 0.5
        low, at, high = (math.log(n) if self.is_log else n for n in (self.low, number, self.high))
        return (at - low) / (high - low)

    def ticks(self) -> list[float]:
        """Some round numbers between the smallest and the largest."""
        from matplotlib.ticker import LogLocator, MaxNLocator

        if self.low == self.high:
            return [self.low]
        locator: Any = MaxNLocator(6, steps=[1, 2, 5, 10])
        if self.is_log:
            locator = LogLocator(subs=(1, 2, 5) if self.high / self.low < 1000 else (1,), numticks=12)
        return [float(n) for n in locator.tick_values(self.low, self.high) if self.low <= n <= self.high]


def axis(key: str, words: Sequence[str]) -> Axis:
    """The axis of a key that had these values."""
    distinct = list(dict.fromkeys(words))
    numbers = {word: number for word in distinct if (number := _number(word)) is not None}
    if len(set(numbers.values())) < len(distinct):  # some are no numbers, or one was typed in two ways
        return Axis(key, _at_equal_distances(distinct[::-1]))
    distinct.sort(key=numbers.__getitem__)
    scale = Scale(numbers.values())
    places = {word: scale(numbers[word]) for word in distinct}
    # Few values of which some would lie on each other: 0, 1e-4, 1e-3.
    if len(distinct) <= _MOST_VALUES and any(b - a < 0.05 for a, b in pairwise(places.values())):
        return Axis(key, _at_equal_distances(distinct))
    return Axis(key, places, scale)


def _at_equal_distances(words: Sequence[str]) -> dict[str, float]:
    return {word: i / (len(words) - 1) if len(words) > 1 else 0.5 for i, word in enumerate(words)}


def _number(word: str) -> float | None:
    try:
        number = float(word)
    except ValueError:
        return None
    return number if is_drawable(number) else None


def is_drawable(number: Any) -> bool:
    """Whether it is a finite number, and not so large that a sum of some is not."""
    return is_finite(number) and abs(number) < 1e300


def draw(path: Path, name: str, rows: Sequence[Row], metric: str) -> None:
    """Draws a sweep into a PNG file; of the jobs that differ in the seed alone, the mean.

    A heat map where two keys are swept and most of their combinations were run; else parallel coordinates.

    Args:
        name: of the sweep.

    Raises:
        UserError: no key is swept or far too many, matplotlib is missing, or the file can't be written.
    """
    found = settings(rows, metric)
    if not found[0].swept:
        raise UserError(f"--png {path}: the jobs differ in the seed alone. Sweep another key to have it drawn.")
    if len(found[0].swept) > _MOST_KEYS:
        raise UserError(f"--png {path}: {len(found[0].swept)} keys are swept; up to {_MOST_KEYS} can be drawn.")
    refuse_no_picture(path)
    axes = [axis(key, [r.job.swept[key] for r in rows]) for key in found[0].swept]
    num_cells = math.prod(len(of_key.places) for of_key in axes)
    is_map = len(axes) == 2 and min(len(of_key.places) for of_key in axes) > 1 and num_cells <= 2 * len(found)
    figure = (_heat_map if is_map else _parallel)(path, axes, found, metric)
    figure.suptitle(_title(name, found, metric), fontsize=10)
    save_figure(figure, path)


def _title(name: str, found: Sequence[Setting], metric: str) -> str:
    num_seeds = max(len(setting.rows) for setting in found)
    mean = f", mean over {num_seeds} {heading_of(found[0].rows)}" if num_seeds > 1 else ""
    best = found[0]
    spread = f" ± {short(best.spread(metric))}" if len(best.values(metric)) > 1 else ""
    words = " ".join(f"{key}={_value(word)}" for key, word in best.swept.items())
    words = words if len(words) <= 70 else f"{words[:69]}…"
    lines = [
        f"{_fitted(name, 50)}: {_fitted(metric, 40)}{mean}",
        f"best {short(best.mean(metric))}{spread} with {words}",
    ]
    return "\n".join(map(drawable, lines))


def _fitted(text: str, most: int = _LONGEST) -> str:
    return text if len(text) <= most else "…" + text[1 - most :]


def _value(word: str) -> str:
    """A value as there is room for it: of a drawn number three digits."""
    number = _number(word)
    return _fitted(word) if number is None or len(word) <= 6 else f"{number:.3g}"


def _heading(key: str) -> str:
    """`optimizer.` above `lr`."""
    return "\n".join(drawable(_fitted(part)) for part in two_lines(key))


def _colours(found: Sequence[Setting], metric: str) -> tuple[Scale, Any]:
    """The scale of the metric, and the colours on it, the darkest for the best."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    configs = configs_of([r for setting in found for r in setting.rows])
    scale = Scale([number for setting in found if math.isfinite(number := setting.mean(metric))])
    shades = colormaps["YlGnBu"]([0.2 + 0.8 * i / 255 for i in range(256)])
    return scale, ListedColormap(shades if is_larger_better(metric, *configs) else shades[::-1])


def _heat_map(path: Path, axes: Sequence[Axis], found: Sequence[Setting], metric: str) -> Any:
    """The key with more values runs from left to right."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm, Normalize
    from matplotlib.patches import Rectangle

    def box(x: int, y: int, **look: Any) -> None:
        panel.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, **look))

    down, across = sorted(axes, key=lambda of_key: len(of_key.places))
    columns, rows = list(across.places), list(down.places)
    figure = new_figure(path, 7, 1.8 + min(0.55 * len(rows), 6))
    panel = figure.subplots()
    scale, colours = _colours(found, metric)
    has_room = len(columns) <= 9 and len(rows) <= 12
    panel.set_facecolor("0.95")
    for setting in found:
        x, y = columns.index(setting.swept[across.key]), rows.index(setting.swept[down.key])
        mean = setting.mean(metric)
        is_known = math.isfinite(mean)
        colour = colours(scale(mean)) if is_known else "0.85"
        hatch = None if is_known else "////"
        box(x, y, facecolor=colour, hatch=hatch, edgecolor="white", linewidth=0.5)
        if has_room:
            is_dark = is_known and sum(colour[:3]) < 1.5
            text = _cell_text(setting, metric)
            panel.text(x, y, text, ha="center", va="center", fontsize=9, color="white" if is_dark else "black")
    x, y = columns.index(found[0].swept[across.key]), rows.index(found[0].swept[down.key])
    box(x, y, fill=False, edgecolor="red", linewidth=2.5)
    for set_ticks, words in ((panel.set_xticks, columns), (panel.set_yticks, rows)):
        every = math.ceil(len(words) / 40)
        set_ticks(range(0, len(words), every), [drawable(_value(word)) for word in words[::every]])
    if sum(len(_value(word)) for word in columns) > 60:
        panel.tick_params(axis="x", rotation=90)
    panel.set(xlim=(-0.5, len(columns) - 0.5), ylim=(-0.5, len(rows) - 0.5))
    panel.set_xlabel(drawable(across.key))
    panel.set_ylabel(drawable(down.key))
    panel.tick_params(length=0)
    if not has_room:
        norm = LogNorm if scale.is_log else Normalize
        figure.colorbar(ScalarMappable(norm(scale.low, scale.high), colours), ax=panel, label=drawable(metric))
    return figure


def _cell_text(setting: Setting, metric: str) -> str:
    """The mean, the spread, and how many jobs have failed."""
    lines = []
    if values := setting.values(metric):
        lines = [short(setting.mean(metric))] + ([f"± {setting.spread(metric):.2g}"] if len(values) > 1 else [])
    for word in ("failed", "pruned"):
        num = sum(r.has_failed if word == "failed" else r.status == word for r in setting.rows)
        if num:
            lines.append(f"{num} {word}" if len(setting.rows) > 1 else word)
    return "\n".join(lines)


def _parallel(path: Path, axes: Sequence[Axis], found: Sequence[Setting], metric: str) -> Any:
    """An axis for each key, the last for the metric; a line per setting, in the metric's colour."""
    num_axes = len(axes) + 1
    figure = new_figure(path, max(7.0, 1.3 * num_axes), 4.5)
    panel = figure.subplots()
    panel.set_axis_off()
    scale, colours = _colours(found, metric)
    ranked = sorted(found, key=lambda s: (math.isfinite(s.mean(metric)), s.mean(metric)))  # from below to above
    order = {id(setting): i for i, setting in enumerate(ranked)}
    places = [_spread_out(of_key, ranked) for of_key in axes]
    width = 2.0 if len(found) <= 30 else 1.2 if len(found) <= 120 else 0.7
    for setting in reversed(found):  # the best above all
        mean = setting.mean(metric)
        points = [of_key[order[id(setting)]] for of_key in places]
        look: dict[str, Any] = {"color": "0.6", "linestyle": ":", "linewidth": width}
        if math.isfinite(mean):
            points.append(scale(mean))
            look = {"color": colours(scale(mean)), "linewidth": width * (2 if setting is found[0] else 1)}
        panel.plot(*_smooth(points), **look)
    for x, of_key in enumerate(axes):
        panel.plot([x, x], [-0.06, 1.06], color="0.3", linewidth=1)
        _labels(panel, x, of_key.labels(), "right")
    last = num_axes - 1
    strip = [[colours(i / 255)] for i in range(256)]
    panel.imshow(strip, extent=(last, last + 0.05, 0, 1), origin="lower", aspect="auto", zorder=3)
    _labels(panel, last + 0.05, [(scale(n), f"{n:g}") for n in scale.ticks()], "left")
    for x, key in enumerate([*(of_key.key for of_key in axes), metric]):
        panel.text(x, 1.09, _heading(key), ha="center", va="bottom", fontsize=10, fontweight="bold")
    without = [setting for setting in found if not math.isfinite(setting.mean(metric))]
    num_pruned = sum(all(r.status == "pruned" for r in setting.rows) for setting in without)
    counts = {"pruned": num_pruned, "without a result": len(without) - num_pruned}
    if without:
        told = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
        panel.text(0, -0.1, f"dotted: {told}", va="top", fontsize=9, color="0.4")
    panel.set(xlim=(-0.35, last + 0.35), ylim=(-0.14, 1.25))
    return figure


def _spread_out(of_key: Axis, ranked: Sequence[Setting]) -> list[float]:
    """Where each setting crosses an axis: those that share a value side by side, so that each line can be followed."""
    at: dict[str, list[int]] = {}
    for i, setting in enumerate(ranked):
        at.setdefault(setting.swept[of_key.key], []).append(i)
    steps = sorted(of_key.places.values())
    gap = min((high - low for low, high in pairwise(steps)), default=0.2)
    found = [0.0] * len(ranked)
    for word, members in at.items():
        for j, i in enumerate(members):
            found[i] = of_key.places[word] + min(0.1, 0.6 * gap) * ((j + 0.5) / len(members) - 0.5)
    return found


def _smooth(points: Sequence[float]) -> tuple[list[float], list[float]]:
    """A curve through them that is level at each axis."""
    parts = [i / 40 for i in range(40)]
    xs = [i + t for i in range(len(points) - 1) for t in parts]
    ys = [low + (high - low) * t * t * (3 - 2 * t) for low, high in pairwise(points) for t in parts]
    return [*xs, len(points) - 1.0], [*ys, points[-1]]


def _labels(panel: Any, x: float, labels: Sequence[tuple[float, str]], side: str) -> None:
    """Words beside an axis, without those that would lie on each other."""
    free = -math.inf
    for place, label in sorted(labels):
        if place >= free:
            free = place + 0.055
            look = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1}
            at = x + (0.03 if side == "left" else -0.03)
            panel.text(at, place, drawable(label), ha=side, va="center", fontsize=9, bbox=look, zorder=4)
