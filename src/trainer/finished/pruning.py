"""Whether a job of a sweep is worth its time: what the jobs beside it came to says so."""

import contextlib
import json
import math
import statistics
from collections.abc import Mapping
from pathlib import Path

from trainer.config.schema import is_larger_better
from trainer.disk import foreign
from trainer.disk.folder import read_result


class MedianRule:
    """The median stopping rule of Golovin et al. 2017 (Google Vizier), with the choices of Optuna's MedianPruner.

    What the other jobs came to is read from their folders. So it needs no study, no server and no message between
    jobs, and holds for a grid as for a search, on one machine as on many that share a disk.

    Args:
        folder: of this job; the others lie beside it.
        metric: the validation tag that it is judged by.
        num_first: finished jobs that there must be before any is judged.
        num_steps: steps that every job may take unjudged.
        is_larger: whether a larger number is the better one; None: as the tag says.
    """

    def __init__(
        self, folder: Path, metric: str, num_first: int, num_steps: int, is_larger: bool | None = None
    ) -> None:
        self.folder, self.metric = folder, metric
        self.num_first, self.num_steps = num_first, num_steps
        self.is_larger_better = is_larger_better(metric) if is_larger is None else is_larger
        self._finished: dict[Path, dict[int, float]] = {}

    def verdict(self, step: int, last: Mapping[str, float]) -> str | None:
        """Why the job is hopeless, None where it is not.

        Args:
            step: of the validation that has just been.
            last: the numbers of this job, `best/<metric>` of its validations so far among them.
        """
        best = last.get(f"best/{self.metric}")
        if best is None or step < self.num_steps:
            return None
        for path in self.folder.parent.glob("*/result.json"):
            other = path.parent
            if other in self._finished or other.name == self.folder.name:
                continue
            if read_result(other).get("status") == "finished":
                self._finished[other] = values_by_step(other / "metrics.jsonl", self.metric)
        values = [values[step] for values in self._finished.values() if step in values]
        if len(self._finished) < self.num_first or not values:
            return None
        median = statistics.median(values)
        if best >= median if self.is_larger_better else best <= median:
            return None
        return f"best/{self.metric}={best:.4g}, the median of {len(values)} finished jobs at this step is {median:.4g}"


def values_by_step(path: Path, tag: str) -> dict[int, float]:
    """The finite values of a tag in a run's `metrics.jsonl`."""
    values: dict[int, float] = {}
    with contextlib.suppress(OSError):
        for line in foreign.lines(path):
            if f'"{tag}"'.encode() in line:
                with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
                    record = json.loads(line)
                    if math.isfinite(record[tag]):
                        values[int(record["step"])] = record[tag]
    return values
