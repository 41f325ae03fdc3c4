"""What a terminal shows of a run: progress, the loss curve, the last numbers, a bar for the gradient of each layer."""

import math
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping
from typing import TYPE_CHECKING

from trainer.monitor.dots import Plane, Points, braille
from trainer.monitor.readable import duration, short
from trainer.monitor.tags import spread

if TYPE_CHECKING:
    from rich.console import Console, ConsoleRenderable
    from rich.text import Text


class Panel:
    """Progress, loss curve, last numbers, gradients per layer, as high and as wide as the terminal is.

    Args:
        console: where it is drawn.
        max_steps: the last step.
        steps_per_epoch: for the count of epochs.
        step: that a run goes on from.
        before: the points of the losses up to that step, by tag.
    """

    def __init__(
        self, console: "Console", max_steps: int, steps_per_epoch: int, step: int, before: Mapping[str, Points]
    ) -> None:
        self._console, self._max_steps, self._steps_per_epoch = console, max_steps, steps_per_epoch
        self.step = step
        self._is_ascii = console.options.ascii_only
        self._lock = threading.Lock()  # held while numbers come in or are read
        self._numbers: dict[str, float] = {}
        self._changes: dict[str, float] = {}
        self._curves = {tag: list(before.get(tag, ())) for tag in ("train/loss", "val/loss")}
        self._passed: deque[tuple[float, int]] = deque([(time.perf_counter(), step)], maxlen=50)

    def start_clock(self) -> None:
        """The training begins now."""
        self._passed[0] = time.perf_counter(), self.step

    def update(self, step: int, numbers: Mapping[str, float]) -> None:
        """See `trainer.monitor.console.Display`."""
        with self._lock:
            for tag, number in numbers.items():
                if tag in self._numbers:
                    self._changes[tag] = number - self._numbers[tag]
                if tag in self._curves and math.isfinite(number):
                    self._curves[tag].append((step, number))
                    while len(self._curves[tag]) > 4000:  # more than any terminal has columns
                        del self._curves[tag][1:-1:2]
                self._numbers[tag] = number

    def __rich__(self) -> "ConsoleRenderable":
        from rich.panel import Panel as Frame
        from rich.text import Text

        width, height = self._console.size
        # The frame and a space on both sides. Two columns stay free: the terminal itself writes ^C behind the panel,
        # and in a full line that would move all of it.
        inner = min(width - 2, 100) - 4
        with self._lock:
            lines = [self._progress(inner), self._status(inner)]
            free = height - 4 - 2 - len(lines)  # without some lines of what stands above, and without the frame
            layers = _layers(self._numbers)
            num_bars = min(len(layers), max(0, (free - 6) // 2))
            lines += self._curve_and_numbers(inner, min(15, free - (num_bars + 2 if num_bars else 0)))
            if num_bars:
                lines += [Text(), *_bars(layers, num_bars, inner, self._is_ascii)]
        text = Text("\n", no_wrap=True, overflow="crop").join(lines)
        return Frame(text, width=inner + 4, border_style="dim")

    def _progress(self, width: int) -> "Text":
        from rich.text import Text

        done = min(1.0, self.step / self._max_steps) if self._max_steps else 1.0
        label = f" {int(100 * done):3} %"
        full = int(done * (width - len(label)))
        on, off = "=-" if self._is_ascii else "━─"
        return Text.assemble((on * full, "green"), (off * (width - len(label) - full), "dim"), label)

    def _status(self, width: int) -> "Text":
        """`step 512/2,000  epoch 4.1  850 steps/s  0:12 left`, without the epoch where it has no room."""
        from rich.text import Text

        step, now = self.step, time.perf_counter()
        if step > self._passed[-1][1]:
            self._passed.append((now, step))
        (began, first), (ended, last) = self._passed[0], self._passed[-1]
        rate = (last - first) / (ended - began) if last > first else 0.0
        parts = [f"step {step:,}/{self._max_steps:,}"]
        if self._steps_per_epoch > 1:
            parts.append(f"epoch {step / self._steps_per_epoch:.1f}")
        if rate:
            parts.append(
                f"{rate:,.0f} steps/s"
                if rate >= 10
                else f"{rate:.1f} steps/s"
                if rate >= 1
                else f"{1 / rate:.1f} s/step"
            )
            parts.append(f"{duration((self._max_steps - step) / rate)} left")
        if len(parts) == 4 and len("  ".join(parts)) > width:
            del parts[1]
        return Text("  ".join(parts))

    def _curve_and_numbers(self, width: int, num_rows: int) -> "list[Text]":
        """The loss curve on the left, the last numbers and their change on the right."""
        from rich.text import Text

        tags = [tag for tag in self._numbers if tag != "time/samples_per_second" and belongs_in_a_line(tag)]
        tags = tags[: max(0, num_rows)]
        # No name is cut while there is room for a chart, and no chart is narrower than its numbers for it.
        name_width = max(12, min(max(map(len, tags), default=0), width - 18 - _LEAST_CHART))
        table_width = name_width + 18
        table = []
        for tag in tags:
            change = self._changes.get(tag, 0.0)
            table.append(
                Text.assemble(
                    (_cut(tag, name_width).ljust(name_width + 1), "cyan"),
                    (short(self._numbers[tag])[:9].rjust(9), "bold"),
                    (f"{change:+.1g}" if change else "").rjust(8),
                )
            )
        chart_width = width - table_width - 1
        if num_rows < 5 or chart_width < _LEAST_CHART - 1:
            return table
        chart = _chart(self._curves["train/loss"], self._curves["val/loss"], chart_width, num_rows, self._is_ascii)
        table += [Text()] * (num_rows - len(table))
        return [Text.assemble(left, " ", right) for left, right in zip(chart, table, strict=True)]


_LABEL = 8  # columns for the numbers beside the chart
_LEAST_CHART = 21  # columns, with the one between it and the numbers
_DECADES = 4  # that bars span at most


def _cut(name: str, width: int) -> str:
    """A name with its end, by which names are told apart, where it has no room."""
    return name if len(name) <= width else f"..{name[2 - width :]}"


def _chart(train: Points, val: Points, width: int, height: int, is_ascii: bool) -> "list[Text]":
    """`height` lines of `width` columns: the training loss as a curve, the validation loss as marks on it."""
    from rich.text import Text

    if not train and not val:
        return [Text(" " * width)] * height
    plane = Plane([*train, *val], width - _LABEL - 1, height - 2, is_ascii)
    cells: Counter[tuple[int, int]] = Counter()  # row and column to the dots in it
    for dot in set(plane.curve(train)):
        cells[plane.place(dot)] += plane.bit(dot)
    marks = {plane.place(plane.dot(*point)) for point in val}

    lines = []
    for row in range(plane.rows):
        line = Text(plane.label(row)[:_LABEL].rjust(_LABEL) + " ", style="dim")
        for column in range(plane.columns):
            if (row, column) in marks:
                line.append("o" if is_ascii else "●", "not dim magenta")
            else:
                bits = cells[row, column]
                line.append("." if bits and is_ascii else braille(bits), "not dim yellow")
        lines.append(line)
    legend = Text.assemble("loss ", ("." if is_ascii else "⠒", "not dim yellow"), " train", style="dim")
    if val:
        legend.append(" ").append("o" if is_ascii else "●", "not dim magenta").append(" val")
    legend.append(", log" if plane.is_log else "")
    legend.truncate(width, pad=True)
    return [legend, *lines, Text(" " * (_LABEL + 1) + plane.axis, style="dim")]


def _layers(numbers: Mapping[str, float]) -> dict[str, float]:
    """The gradient norm of each layer, in the model's order: of `conv1.weight` and `conv1.bias` together."""
    squares: dict[str, float] = {}
    for tag, number in numbers.items():
        if tag.startswith("grad_norm/"):
            parameter = tag.removeprefix("grad_norm/")
            layer = parameter.rpartition(".")[0] or parameter
            squares[layer] = squares.get(layer, 0.0) + number * number
    return {layer: math.sqrt(square) for layer, square in squares.items()}


def _bars(layers: Mapping[str, float], num_bars: int, width: int, is_ascii: bool) -> "list[Text]":
    """A heading and a bar per layer; of too many layers every so many-th, the first and the last among them."""
    from rich.text import Text

    names = spread(list(layers), num_bars)
    largest = max((layers[name] for name in layers if math.isfinite(layers[name])), default=0.0)
    some = "" if len(names) == len(layers) else f" ({len(names)} of {len(layers)})"
    # As few decades as hold all of them: over four, 0.29 looks like 1.09.
    depth = max((math.log10(largest / x) for x in layers.values() if 0 < x < math.inf), default=0.0)
    decades = min(_DECADES, math.floor(depth) + 1)
    unit = "decade" if decades == 1 else "decades"
    lines = [Text(f"gradient norm per layer{some}, log scale, {decades} {unit}", style="dim")]
    name_width = min(24, max(map(len, names)))
    room = width - name_width - 12
    for name in names:
        norm = layers[name]
        share = max(0.0, 1 + math.log10(norm / largest) / decades) if 0 < norm < math.inf else 0.0
        eighths = round(8 * room * share)
        bar = "#" * round(eighths / 8) if is_ascii else "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()
        lines.append(
            Text.assemble(
                (_cut(name, name_width).ljust(name_width), "cyan"),
                " ",
                (bar.ljust(room), "blue"),
                " ",
                short(norm).rjust(10),
            )
        )
    return lines


def belongs_in_a_line(tag: str) -> bool:
    return tag.startswith(("train/", "val/", "test/")) or tag in (
        "lr",
        "grad_norm",
        "time/samples_per_second",
        "device/memory_mb",
    )
