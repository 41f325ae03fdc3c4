"""Where numbers about a run go: `metrics.jsonl`, the event file, the display."""

import contextlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path

from trainer.config.schema import resume_word
from trainer.disk import foreign, lock
from trainer.disk.files import cannot_write, open_to_append, write_atomically
from trainer.errors import UserError
from trainer.monitor.console import Display
from trainer.monitor.events import EventFile
from trainer.monitor.tags import shown_as


def cut_metrics(path: Path, step: int) -> None:
    """Drops the lines after `step`, those of a test, and a torn last one: the run goes on and writes them again."""
    if not path.exists():
        return

    def write(temporary: Path) -> None:
        with open(temporary, "xb") as file:
            for line in foreign.lines(path):  # of which a long run has more than fit into memory
                with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
                    record = json.loads(line)
                    if record["step"] <= step and "test/loss" not in record:
                        file.write(line.rstrip() + b"\n")

    write_atomically(path, write)


class Journal:
    """Writes numbers to every place that is switched on.

    Args:
        folder: of the run; None for a process that leaves writing to another.
        events: the event file, or None.
        display: the terminal or plain lines.
        last: filled with the last value of every tag; part of the training state.
        quiet: tags of numbers that the display does not show.
    """

    def __init__(
        self,
        folder: Path | None,
        events: EventFile | None,
        display: Display,
        last: dict[str, float],
        quiet: frozenset[str] = frozenset(),
    ) -> None:
        self.events, self.display, self.last, self._quiet = events, display, last, quiet
        self._folder, self._path = folder, Path(os.devnull) if folder is None else folder / "metrics.jsonl"
        self._metrics = open_to_append(self._path)
        # Readers go by names. A file whose name is gone, or another's, is written for nobody.
        written = [] if folder is None else [self._path, *([] if events is None else [events.path])]
        self._written = {path: path.lstat() for path in written}

    def write(self, step: int, numbers: dict[str, float], per_parameter: Mapping[str, float] | None = None) -> None:
        """One record of a step.

        Args:
            numbers: by tag; the ones that a person compares.
            per_parameter: by tag; statistics of single tensors, for the event file and the display alone.

        Raises:
            UserError: it can't be written.
        """
        self.last.update(numbers)
        finite = {tag: number if math.isfinite(number) else None for tag, number in numbers.items()}  # JSON has no NaN
        try:
            rest = memoryview((json.dumps({"step": step, **finite}) + "\n").encode())
            while rest:  # a disk that is nearly full takes a part of it, and says nothing yet
                rest = rest[self._metrics.write(rest) :]
        except OSError as error:
            raise cannot_write(self._path, error) from error
        everything = {**numbers, **(per_parameter or {})}
        if self.events is not None:
            self.events.scalars(step, {shown_as(tag): number for tag, number in everything.items()})
        for tag in self._quiet & numbers.keys():
            del everything[tag]
        self.display.update(step, everything)

    def together(self) -> contextlib.AbstractContextManager[None]:
        """Several records within it cost less."""
        return contextlib.nullcontext() if self.events is None else self.events.together()

    def refuse_lost(self) -> None:
        """
        Raises:
            UserError: nobody would find what is written.
        """
        if self._folder is not None:
            lock.refuse_lost(self._folder)
        for path, about in self._written.items():
            with contextlib.suppress(OSError):
                if os.path.samestat(path.lstat(), about):
                    continue
            raise UserError(
                f"{path}: was taken away while the run trains, or something else is in its place. The run ends here; "
                f"what was saved last is whole. To continue, type the same with {resume_word(path.parent)}."
            )

    def close(self) -> None:
        self._metrics.close()
        if self.events is not None:
            self.events.close()
