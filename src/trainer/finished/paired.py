"""Is the difference between two runs more than chance? A test by pairs, over the samples that both were tested on."""

import json
import math
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.disk import foreign
from trainer.errors import UserError

FILE = "predictions.npz"
MAX_BYTES = 1 << 30  # of the arrays that are read
RESAMPLES = 2000
WANTED = ("about", "id", "target", "predicted", "loss", "outputs")
Z = 1.96  # 95 % of a normal distribution lie within so many deviations


@dataclass(frozen=True)
class Judged:
    """What a run's `predictions.npz` says. Foreign numbers.

    Args:
        name: of the run.
        arrays: those of `WANTED` that it has.
    """

    name: str
    arrays: dict[str, NDArray[Any]]

    @property
    def num_samples(self) -> int:
        return len(self.arrays["id"])


@dataclass(frozen=True)
class Difference:
    """Of the second run from the first, of a mean over samples.

    Args:
        value: the second's mean less the first's.
        low, high: where 95 % of such tests would find it.
        p: how often chance alone gives as much; None where that was not asked.
    """

    value: float
    low: float
    high: float
    p: float | None = None

    @property
    def is_told(self) -> bool:
        """Whether it is more than chance."""
        return not self.low <= 0 <= self.high

    @property
    def smallest(self) -> float:
        """The smallest difference that so many samples can tell from chance."""
        return (self.high - self.low) / 2


def read(folder: Path, name: str) -> Judged | None:
    """None where a run has left no predictions.

    Raises:
        UserError: the file is damaged, or is none of ours.
    """
    path = folder / FILE
    try:
        with foreign.opened(path) as file, zipfile.ZipFile(file) as archive:
            if sum(member.file_size for member in archive.infolist()) > MAX_BYTES:
                raise ValueError(f"its arrays take more than {MAX_BYTES:,} bytes")
            file.seek(0)
            with np.load(file, allow_pickle=False) as stored:
                found = {key: stored[key] for key in WANTED if key in stored.files}
        json.loads(str(found["about"]))
        number = len(found["id"])
        if any(key != "about" and (array.ndim == 0 or len(array) != number) for key, array in found.items()):
            raise ValueError("its arrays have different lengths")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error, RecursionError) as error:
        raise UserError(f"{path}: can't be read: {' '.join(str(error).split())[:200]}.") from error
    return Judged(name, found)


def unlike(a: Judged, b: Judged) -> str | None:
    """Why two tests can't be compared by pairs; None where they can."""
    if a.num_samples != b.num_samples:
        return f"{a.name} was tested on {a.num_samples:,} samples and {b.name} on {b.num_samples:,}"
    for key, what in (("id", "other samples"), ("target", "other targets")):
        if key not in a.arrays or key not in b.arrays:
            return "one of them has left no targets"
        if not np.array_equal(a.arrays[key], b.arrays[key]):
            return f"{b.name} was tested on {what} than {a.name}"
    return None


def of_accuracy(a: Judged, b: Judged) -> tuple[Difference, int, int] | None:
    """By McNemar's test; and how many samples the first alone has right, and the second. None without classes.

    The interval is Bonett and Price's for paired proportions (2012): one more of each kind of the samples that one run
    alone has right, which keeps its 95 % for few of them, too.
    """
    if "predicted" not in a.arrays or "predicted" not in b.arrays:
        return None
    right = [run.arrays["predicted"] == run.arrays["target"] for run in (a, b)]
    only_a, only_b = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
    number = a.num_samples
    first, second = (only_a + 1) / (number + 2), (only_b + 1) / (number + 2)
    deviation = math.sqrt(max(first + second - (second - first) ** 2, 0) / (number + 2))
    middle = second - first
    low, high = middle - Z * deviation, middle + Z * deviation
    return Difference((only_b - only_a) / number, low, high, mcnemar(only_a, only_b)), only_a, only_b


def mcnemar(only_a: int, only_b: int) -> float:
    """How often a fair coin falls as unevenly, or more, over the samples that one run alone has right (two-sided)."""
    number = only_a + only_b
    if not number:
        return 1.0
    if number > 2000:  # then the normal distribution is the same to three digits
        return math.erfc(max(0, abs(only_a - only_b) - 1) / math.sqrt(2 * number))
    tail = sum(math.comb(number, k) for k in range(min(only_a, only_b) + 1))
    return min(1.0, 2 * tail / 2**number)


def of_loss(a: Judged, b: Judged) -> Difference | None:
    """By a paired bootstrap: samples are drawn with replacement, both runs' losses of each. None without losses."""
    if "loss" not in a.arrays or "loss" not in b.arrays:
        return None
    return bootstrap(b.arrays["loss"].astype(np.float64) - a.arrays["loss"].astype(np.float64))


def of_errors(a: Judged, b: Judged) -> Difference | None:
    """Likewise, of the mean absolute error of each sample. None where outputs are not the numbers that are meant."""
    errors = []
    for run in (a, b):
        outputs, targets = run.arrays.get("outputs"), run.arrays.get("target")
        meant = json.loads(str(run.arrays["about"])).get("outputs")
        is_plain = isinstance(meant, dict) and meant.get("kind") == "numbers" and meant.get("link") == "identity"
        if outputs is None or targets is None or outputs.shape != targets.shape or not is_plain:
            return None
        errors.append(np.abs(outputs.astype(np.float64) - targets).reshape(len(outputs), -1).mean(1))
    return bootstrap(errors[1] - errors[0])


def bootstrap(differences: NDArray[np.float64]) -> Difference | None:
    """The mean of differences by pairs `[N]`; None where one is not finite."""
    if differences.ndim != 1 or not np.isfinite(differences).all():
        return None
    number, draw = len(differences), np.random.default_rng(0)
    at_once = max(1, (1 << 22) // number)
    means: list[NDArray[np.float64]] = []
    for start in range(0, RESAMPLES, at_once):
        rows = draw.integers(0, number, (min(at_once, RESAMPLES - start), number))
        means.append(differences[rows].mean(1))
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return Difference(float(differences.mean()), float(low), float(high))
