"""Where numbers about a run go: `metrics.jsonl`, the event file, the display."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path

from trainer.disk.files import cannot_write, write_text
from trainer.monitor.console import Display
from trainer.monitor.events import EventFile


def cut_metrics(path: Path, step: int) -> None:
    """Drops the lines after `step`, those of a test, and a torn last one: the run goes on and writes them again."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
            if record["step"] <= step and "test/loss" not in record:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
    write_text(path, "".join(kept))


class Journal:
    """Writes numbers to every place that is switched on.

    Args:
        folder: of the run; None for a process that leaves writing to another.
        events: the event file, or None.
        display: the terminal or plain lines.
        last: filled with the last value of every tag; part of the training state.
    """

    def __init__(self, folder: Path | None, events: EventFile | None, display: Display, last: dict[str, float]) -> None:
        self.events, self.display, self.last = events, display, last
        self._path = Path(os.devnull) if folder is None else folder / "metrics.jsonl"
        self._metrics = open(self._path, "ab", buffering=0)  # noqa: SIM115 - closed by close()

    def write(self, step: int, numbers: dict[str, float], per_parameter: Mapping[str, float] | None = None) -> None:
        """One record of a step.

        Args:
            numbers: by tag; the ones that a person compares.
            per_parameter: by tag; statistics of single tensors, for the event file and the display alone.
        """
        self.last.update(numbers)
        finite = {tag: number if math.isfinite(number) else None for tag, number in numbers.items()}  # JSON has no NaN
        try:
            self._metrics.write((json.dumps({"step": step, **finite}) + "\n").encode())
        except OSError as error:
            raise cannot_write(self._path, error) from error
        everything = {**numbers, **(per_parameter or {})}
        if self.events is not None:
            self.events.scalars(step, everything)
        self.display.update(step, everything)

    def close(self) -> None:
        self._metrics.close()
        if self.events is not None:
            self.events.close()
