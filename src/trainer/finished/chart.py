"""The curves of several runs over each other, in characters or as a picture."""

import contextlib
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.text import Text

from trainer.disk import foreign
from trainer.disk.files import write_atomically
from trainer.errors import UserError
from trainer.finished.table import printable
from trainer.monitor.dots import Plane, Points, braille

SIGNS = "abcdefghijklmnop"  # a letter per run, where there is no colour
COLOURS = ("yellow", "cyan", "magenta", "green", "red", "blue")
_PNG = b"\x89PNG\r\n\x1a\n"  # how such a file begins
_LABEL = 9  # columns for the numbers beside the chart, and a space


def chart(title: str, curves: Sequence[Points], width: int, height: int, is_plain: bool) -> list[Text]:
    """`height` lines of `width` columns: a title, the curves on a `Plane`, the steps.

    Args:
        curves: one per run, in the order of `SIGNS` and `COLOURS`; finite numbers; not all of them empty.
        is_plain: letters instead of dots, of which only the colour would say whose they are.
    """
    plane = Plane([point for curve in curves for point in curve], width - _LABEL, height - 2, is_plain)
    cells: dict[tuple[int, int], tuple[int, int]] = {}  # row and column to the dots in it, and whose they are
    for index, curve in enumerate(curves):
        for dot in plane.curve(curve):
            place = plane.place(dot)
            bits, owner = cells.get(place, (0, index))
            # Where curves lie on each other, each has its turn.
            owner = index if place[1] % len(curves) == index else owner
            cells[place] = bits | plane.bit(dot), owner

    heading = Text(title + (", log scale:" if plane.is_log else ":"), style="bold")
    for index in (index for index, curve in enumerate(curves) if curve):
        heading.append(f" {SIGNS[index]}", colour(index))
    lines = [heading]
    for row in range(plane.rows):
        line = Text(plane.label(row).rjust(_LABEL - 1) + " ", style="dim")
        for column in range(plane.columns):
            bits, index = cells.get((row, column), (0, 0))
            line.append(SIGNS[index] if bits and is_plain else braille(bits), f"not dim {colour(index)}")
        lines.append(line)
    return [*lines, Text(" " * _LABEL + plane.axis, style="dim")]


def colour(index: int) -> str:
    """Of the run with this number."""
    return COLOURS[index % len(COLOURS)]


def draw_png(path: Path, names: Sequence[str], curves: Mapping[str, Sequence[Points]]) -> None:
    """A picture with a panel per tag and a curve per run.

    Args:
        names: of the runs.
        curves: tag to a curve per run, some of which may be empty.

    Raises:
        UserError: matplotlib is missing, or the file can't be written.
    """
    figure = new_figure(path, 5.5 * len(curves), 4)
    for axes, (tag, of_runs) in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True):
        for index, points in enumerate(of_runs):
            # Every run has its place in the cycle of colours, also where it has no such numbers.
            axes.plot(
                [x for x, _ in points], [y for _, y in points], color=f"C{index % 10}", label=drawable(names[index])
            )
        numbers = [y for points in of_runs for _, y in points]
        if min(numbers) > 0 and max(numbers) / min(numbers) > 50:
            axes.set_yscale("log")
        axes.set(title=tag, xlabel="step")
        axes.grid(alpha=0.3)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(3, len(labels)), frameon=False)
    save_figure(figure, path)


def drawable(text: str) -> str:
    """The text as matplotlib draws it as it is: between two dollar signs it would see a formula, maybe a wrong one."""
    return printable(text).replace("$", r"\$")


def refuse_no_picture(path: Path) -> None:
    """Before the first import of matplotlib: loads it, and looks at what the picture would overwrite.

    Raises:
        UserError: matplotlib is missing; the name says another format; or there is something else than a PNG file.
    """
    if path.suffix.lower() not in ("", ".png"):
        raise UserError(f"--png {path}: a PNG is written. Type --png {path.with_suffix('.png')}.")
    try:
        # It reads settings from the folder that it is in, which may have it start a program (text.usetex).
        with contextlib.chdir(os.sep):
            import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise UserError(f"--png {path}: matplotlib draws it. Type pip install matplotlib.") from error
    try:
        with foreign.opened(path) as file:
            is_picture = file.read(len(_PNG)) in (_PNG, b"")
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError:  # a folder, a pipe, what can't be read
        is_picture = False
    if not is_picture:
        raise UserError(f"--png {path}: is there, and is no PNG file. Give another path.")


def new_figure(path: Path, width: float, height: float) -> Any:
    """An empty picture of so many inches. Raises UserError as `refuse_no_picture`."""
    refuse_no_picture(path)
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: Any, path: Path) -> None:
    """Raises UserError where the file can't be written."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a sign that the font lacks is drawn as a box
        try:
            write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=120))
        except OSError as error:
            raise UserError(f"--png {path}: can't be written: {error.strerror}. Give another path.") from error
