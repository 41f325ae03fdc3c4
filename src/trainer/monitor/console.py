"""What a run shows while it goes: a live panel on a terminal, lines that `grep` can read anywhere else.

All displays have the same five methods, so the loop knows neither. `tick` is one assignment and may be called every
step; `update` gets the numbers of a step, by their TensorBoard tags, whenever there are any.
"""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, TextIO

from trainer.exits import fall_silent
from trainer.monitor.panel import Panel, Points, belongs_in_a_line
from trainer.monitor.readable import short
from trainer.monitor.summary import Rows, coloured_table, encodable, plain_table
from trainer.system.terminal import is_terminal

if TYPE_CHECKING:
    from rich.console import Console


Curves = Callable[[], Mapping[str, Points]]


class Display:
    """What the loop and the run know of a display. This one shows nothing, as a process leaves speaking to another."""

    def start(self, title: Sequence[str]) -> None:
        """Show what is about to be trained, a string per line."""

    def tick(self, step: int) -> None:
        """Step `step` is done. Costs next to nothing."""

    def update(self, step: int, numbers: Mapping[str, float]) -> None:
        """Numbers of a step, by tag: `train/loss`, `val/accuracy`, `lr`, `grad_norm/<parameter>` ..."""

    def note(self, line: str) -> None:
        """A message that stays."""

    def stop(self, rows: Rows = ()) -> None:
        """End the display and show a table. Stopping twice is stopping once."""


def open_display(
    max_steps: int, steps_per_epoch: int, every: int, first_step: int = 0, before: Curves | None = None
) -> "Terminal | Lines":
    """A `Terminal` where stdout is one that can move its cursor, else `Lines`.

    Args:
        max_steps: the last step.
        steps_per_epoch: for the count of epochs.
        every: steps between two lines where stdout is not a terminal.
        first_step: the step that a run goes on from.
        before: gives the points of the losses up to that step, by tag; is called for a terminal alone.
    """
    if is_terminal(sys.stdout):
        return Terminal(max_steps, steps_per_epoch, first_step, before() if before is not None else {})
    return Lines(every, max_steps)


@lru_cache(maxsize=64)
def _in_a_line(tags: tuple[str, ...]) -> tuple[str, ...]:
    """Those of a record are the same at most steps."""
    return tuple(tag for tag in tags if belongs_in_a_line(tag))


class Lines(Display):
    """A line per `every` steps, `step=500 train/loss=0.1234 lr=0.1000 ...`, and one for each evaluation.

    When stdout is closed under it (`train | head -3`), it falls silent and the training goes on.

    Args:
        every: steps between two lines; 0 for evaluations alone.
        max_steps: the last step, which always has its line.
        stream: stdout if None.
    """

    def __init__(self, every: int, max_steps: int, stream: TextIO | None = None) -> None:
        self._every = every
        self._max_steps = max_steps
        self._stream: TextIO | None = stream or sys.stdout
        self._last = -1  # the step of the last line
        self._is_stopped = False

    def start(self, title: Sequence[str]) -> None:
        for line in title:
            self.note(line)

    def update(self, step: int, numbers: Mapping[str, float]) -> None:
        is_due = self._every > 0 and (step // self._every > self._last // self._every or step == self._max_steps)
        tags = _in_a_line(tuple(numbers))
        if is_due or any(tag.startswith(("val/", "test/")) for tag in tags):
            shown = [f"{tag}={short(numbers[tag])}" for tag in tags]
            if shown:
                self.note(f"step={step} {' '.join(shown)}")
        if is_due:
            self._last = step

    def note(self, line: str) -> None:
        if self._stream is None:
            return
        try:
            print(encodable(line, self._stream), file=self._stream, flush=True)
        except (OSError, ValueError):  # nobody reads on; ValueError: the stream was closed on our side
            if self._stream is sys.stdout:
                fall_silent(self._stream)
            self._stream = None

    def stop(self, rows: Rows = ()) -> None:
        if not self._is_stopped:
            self._is_stopped = True
            for line in plain_table(rows):
                self.note(line)


class Terminal(Display):
    """A panel that is drawn again up to ten times a second: progress, loss curve, last numbers, gradients per layer.

    A thread of its own draws it, from numbers that are on the host already. It rests 40 times as long as drawing took,
    so that it never takes more than a fortieth of the interpreter from the training.

    Args:
        max_steps: the last step.
        steps_per_epoch: for the count of epochs.
        first_step: the step that a run goes on from.
        before: the points of the losses up to that step, by tag.
        console: rich's, made for stdout if None.
    """

    def __init__(
        self,
        max_steps: int,
        steps_per_epoch: int,
        first_step: int = 0,
        before: Mapping[str, Points] | None = None,
        console: "Console | None" = None,
    ) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = console or Console(highlight=False)
        self._panel = Panel(self._console, max_steps, steps_per_epoch, first_step, before or {})
        self._is_over = threading.Event()
        self._drawing = threading.RLock()  # rich goes up as many lines as it wrote last, whoever wrote them
        self._thread = threading.Thread(target=self._draw, name="terminal", daemon=True)
        self._live = Live(
            get_renderable=lambda: self._panel, console=self._console, auto_refresh=False
        )  # draws at once

    def start(self, title: Sequence[str]) -> None:
        for line in title:
            self.note(line)
        self._panel.start_clock()
        with contextlib.suppress(OSError):
            self._live.start()
        self._thread.start()

    def tick(self, step: int) -> None:
        self._panel.step = step

    def update(self, step: int, numbers: Mapping[str, float]) -> None:
        self._panel.update(step, numbers)

    def note(self, line: str) -> None:
        from rich.text import Text

        with contextlib.suppress(OSError), self._drawing:
            self._notice_width()
            self._console.print(Text(encodable(line, self._console.file)))  # above the panel

    def stop(self, rows: Rows = ()) -> None:
        if self._is_over.is_set():
            return
        self._is_over.set()
        if self._thread.is_alive():
            self._thread.join()
        with contextlib.suppress(OSError):
            self._notice_width()
            self._live.stop()
            if rows:
                self._console.print(coloured_table(rows, self._console.width), soft_wrap=True)

    def _draw(self) -> None:
        pause = 0.1
        while not self._is_over.wait(pause):
            began = time.thread_time()
            try:
                with self._drawing:
                    self._notice_width()
                    self._live.refresh()
            except (OSError, ValueError):  # the terminal is gone, or lacks a sign
                return
            pause = min(1.0, max(0.1, 40 * (time.thread_time() - began)))

    def _notice_width(self) -> None:
        """Before something is drawn: the panel that stands there is erased as high as it is by now.

        A terminal that has become narrower has broken the panel's lines, and rich goes up as many as it wrote.
        """
        drawn = self._live._live_render
        if drawn._shape is not None and (width := self._console.size.width) < drawn._shape[0]:
            drawn._shape = width, drawn._shape[1] * -(-drawn._shape[0] // width)
