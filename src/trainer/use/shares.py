"""What keys contribute to a difference: Shapley values between two runs, variance over the settings of a sweep."""

import itertools
import math
import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Corner = frozenset[str]  # the keys that are as in the second run
FEW = 3  # keys of which all combinations are run


def corners(keys: Sequence[str]) -> list[Corner]:
    """Which runs are needed: all combinations of few keys; of more, one changed at a time from both ends."""
    whole = frozenset(keys)
    if len(keys) <= FEW:
        return [frozenset(c) for size in range(len(keys) + 1) for c in itertools.combinations(keys, size)]
    ones = [frozenset([key]) for key in keys]
    return [frozenset(), *ones, *(whole - one for one in ones), whole]


@dataclass(frozen=True)
class Part:
    """What one key contributes.

    Args:
        mean, spread: over the seeds; NaN for the spread of one.
        alone: changed by itself from the first run.
        last: changed last, when all others are as in the second.
    """

    key: str
    mean: float
    spread: float
    alone: float
    last: float


def parts(keys: Sequence[str], of_seeds: Sequence[Mapping[Corner, float]]) -> list[Part]:
    """The contributions of the keys, the largest first.

    With all combinations they are Shapley values, which add up to the whole difference: L. Shapley, "A value for
    n-person games" (1953). Else the mean of both ends, which is the same where no three keys work together.

    Args:
        of_seeds: for each seed the number that came of each corner.
    """
    whole = frozenset(keys)
    found = []
    for key in keys:
        one = frozenset([key])
        each = [shapley(key, whole, values) if len(keys) <= FEW else ends(key, whole, values) for values in of_seeds]
        alone = statistics.fmean(values[one] - values[frozenset()] for values in of_seeds)
        last = statistics.fmean(values[whole] - values[whole - one] for values in of_seeds)
        spread = statistics.stdev(each) if len(each) > 1 else math.nan
        found.append(Part(key, statistics.fmean(each), spread, alone, last))
    return sorted(found, key=lambda part: -abs(part.mean))


def shapley(key: str, whole: Corner, values: Mapping[Corner, float]) -> float:
    """The mean of what the key adds, over all orders in which the keys may be changed."""
    others, n = whole - {key}, len(whole)
    total = 0.0
    for size in range(n):
        weight = math.factorial(size) * math.factorial(n - size - 1) / math.factorial(n)
        for chosen in itertools.combinations(sorted(others), size):
            before = frozenset(chosen)
            total += weight * (values[before | {key}] - values[before])
    return total


def ends(key: str, whole: Corner, values: Mapping[Corner, float]) -> float:
    one = frozenset([key])
    return (values[one] - values[frozenset()] + values[whole] - values[whole - one]) / 2


def share(part: Part, all_parts: Sequence[Part]) -> float:
    """Of the sum of the sizes of all."""
    total = sum(abs(other.mean) for other in all_parts)
    return abs(part.mean) / total if total else 0.0


# --- of a sweep ---

Point = tuple[Mapping[str, str], float]


def is_grid(points: Sequence[Point], keys: Sequence[str]) -> bool:
    """Whether every combination of the values is there, each as often as the others."""
    counts: dict[tuple[str, ...], int] = {}
    for words, _ in points:
        at = tuple(words[key] for key in keys)
        counts[at] = counts.get(at, 0) + 1
    num_cells = math.prod(len({words[key] for words, _ in points}) for key in keys)
    return len(counts) == num_cells and len(set(counts.values())) == 1


def variances(points: Sequence[Point], keys: Sequence[str]) -> dict[tuple[str, ...], float]:
    """The shares of keys, and of pairs beyond their keys, in the variance of a full grid; what is left is `()`.

    The functional analysis of variance (F. Hutter, H. Hoos, K. Leyton-Brown, ICML 2014), exact for a grid. What is left
    are seeds, and what more than two keys do together.
    """
    numbers = [number for _, number in points]
    total = statistics.pvariance(numbers)
    if total == 0:
        return {}
    found: dict[tuple[str, ...], float] = {}
    for size in (1, 2):
        for some in itertools.combinations(keys, size):
            means = _means(points, some)
            of_some = statistics.pvariance(means)
            found[some] = of_some / total - sum(found[(key,)] for key in some if size == 2)
    found[()] = 1 - sum(found.values())
    return found


def _means(points: Sequence[Point], keys: Sequence[str]) -> list[float]:
    cells: dict[tuple[str, ...], list[float]] = {}
    for words, number in points:
        cells.setdefault(tuple(words[key] for key in keys), []).append(number)
    return [statistics.fmean(numbers) for numbers in cells.values()]


def interval(
    points: Sequence[Point], keys: Sequence[str], part: tuple[str, ...], draws: int = 400
) -> tuple[float, float]:
    """The range of a share of `variances` in 95 % of draws of as many runs of each setting, with replacement."""
    draw = random.Random(0)
    cells: dict[tuple[str, ...], list[Point]] = {}
    for point in points:
        cells.setdefault(tuple(point[0][key] for key in keys), []).append(point)
    found = []
    for _ in range(draws):
        drawn = [draw.choice(cell) for cell in cells.values() for _ in cell]
        found.append(variances(drawn, keys).get(part, 0.0))
    found.sort()
    return found[int(0.025 * draws)], found[int(0.975 * draws)]
