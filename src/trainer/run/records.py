"""What was measured at steps and is still to be written, shown and judged.

Records of quick steps wait for one another: by the time that one is due, its program and its tables have left the
processor's caches, and the first look takes several times as long as the next.
"""

import time
from collections.abc import Mapping, Sequence

from trainer.monitor.diagnosis import Diagnosis
from trainer.monitor.finding import Finding
from trainer.monitor.journal import Journal
from trainer.monitor.statistics import Statistics

# Records that wait at the most; seconds from one to the next from which on none waits; after which all are written.
MOST, SLOW, LATEST = 16, 0.1, 0.25


class Records:
    """Hands the numbers of steps to the journal and to the diagnosis, in the order of the steps.

    Args:
        statistics: has seen the steps that are added with a `grad_norm`, which is put in.
    """

    def __init__(self, journal: Journal, diagnosis: Diagnosis, statistics: Statistics | None) -> None:
        self.journal, self.diagnosis, self.statistics = journal, diagnosis, statistics
        self._waiting: list[tuple[int, dict[str, float], Mapping[str, float] | None]] = []
        self._since, self._pace = 0.0, SLOW

    def add(
        self, step: int, numbers: dict[str, float], layers: Mapping[str, float] | None, seconds: float | None = None
    ) -> None:
        """One step.

        Args:
            layers: numbers of single layers, beside those of the statistics; None: the step is shown and no more.
            seconds: until the next record, as far as is known; None: as it was known last.

        Raises:
            UserError: what waits can't be written.
        """
        now = time.perf_counter()
        self._pace = self._pace if seconds is None else seconds
        if not self._waiting:
            self._since = now
        self._waiting.append((step, numbers, layers))
        if self._pace >= SLOW or len(self._waiting) == MOST or now - self._since >= LATEST:
            self.write()

    def write(self) -> None:
        """All that waits."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        self.journal.refuse_lost()
        rows = iter(() if self.statistics is None else self.statistics.numbers().tolist())
        with self.journal.together():
            for step, numbers, layers in waiting:
                if layers is None:
                    self.journal.display.update(step, numbers)
                    continue
                if self.statistics is not None and "grad_norm" in numbers:
                    layers = {**dict(zip(self.statistics.tags, next(rows), strict=True)), **layers}
                    numbers["grad_norm"] = layers.pop("grad_norm")
                self.journal.write(step, numbers, layers)
                self.report(self.diagnosis.observe(step, {**numbers, **layers}))

    def report(self, findings: Sequence[Finding]) -> None:
        """Shows what the diagnosis has just found."""
        for finding in findings:
            self.journal.display.note(finding.line())
