"""Which of two runs is better, in words: the end of `train compare A B`. Without torch."""

import statistics
from collections.abc import Sequence
from pathlib import Path

from rich.text import Text

from trainer.errors import UserError
from trainer.finished.paired import Difference, Judged, of_accuracy, of_errors, of_loss, read, unlike
from trainer.finished.read import run_named
from trainer.finished.runs import other_losses
from trainer.finished.table import open_console, print_lines


def print_better(words: Sequence[str]) -> None:
    """Says whether the second differs from the first by more than chance. Raises UserError: a file is damaged."""
    runs = [run_named(word) for word in words]
    lines = better([run.folder for run in runs], other_losses(runs) is None)
    print_lines([Text(), Text("which is better", style="bold"), *map(Text, lines)], open_console())


def better(folders: Sequence[Path], is_one_loss: bool = True) -> list[str]:
    """A sentence for each number that both runs have, and how far seeds move it.

    Args:
        is_one_loss: false where the losses of both are other numbers; then absolute errors take their place.
    """
    names = [folder.name for folder in folders]
    if names[0] == names[1]:
        names = [str(folder) for folder in folders]
    tests = [read(folder, name) for folder, name in zip(folders, names, strict=True)]
    if None in tests:
        missing = names[tests.index(None)]
        return [f"not known: {missing} has left no predictions (of an earlier train, or without its test)"]
    first, second = (test for test in tests if test is not None)
    if (reason := unlike(first, second)) is not None:
        return [f"not compared: {reason}. Give both the same data and data.split_seed=."]
    lines = []
    if (found := of_accuracy(first, second)) is not None:
        difference, only_a, only_b = found
        counts = (
            f"{only_a:,} sample{'' if only_a == 1 else 's'} only {first.name} has right, {only_b:,} only {second.name}"
        )
        lines.append(told(difference, first, second, "points of accuracy", 100, True))
        lines.append(f"  (McNemar's test: p = {difference.p:.2g}; {counts})")
    if is_one_loss and (loss := of_loss(first, second)) is not None:
        lines.append(told(loss, first, second, "of the mean loss", 1, False))
    if not is_one_loss and (error := of_errors(first, second)) is not None:
        lines.append(told(error, first, second, "of the mean absolute error", 1, False))
    if not lines:
        return ["not known: there is no number that both can be judged by"]
    return [*lines, *over_seeds(folders, names)]


def told(difference: Difference, a: Judged, b: Judged, what: str, scale: float, is_larger_better: bool) -> str:
    """`b is better by 0.8 points of accuracy (0.3 to 1.3); 1,000 test samples can tell differences of 0.5`."""
    sign = 1 if (difference.value > 0) == is_larger_better else -1
    winner = b.name if sign > 0 else a.name
    factor = scale * (1 if difference.value > 0 else -1)
    ends = sorted((factor * difference.low, factor * difference.high))
    span = f"{ends[0]:.3g} to {ends[1]:.3g}"
    limit = f"{a.num_samples:,} test samples can tell differences of {scale * difference.smallest:.2g}"
    size = f"{abs(scale * difference.value):.3g} {what}"
    if difference.is_told:
        return f"{winner} is better by {size} (95 % interval {span}); {limit}"
    if difference.value == 0:
        return f"no difference: {size}" + (f"; {limit}" if difference.smallest else "")
    return f"no difference can be told: {winner} is ahead by {size} (95 % interval {span}); {limit}"


def over_seeds(folders: Sequence[Path], names: Sequence[str]) -> list[str]:
    """What other seeds came to, of runs that are jobs of a sweep; or that nobody knows."""
    lines = []
    for folder, name in zip(folders, names, strict=True):
        for tag in ("test/accuracy", "test/loss"):
            numbers = of_seeds(folder, tag)
            if len(numbers) > 1:
                mean, deviation = statistics.mean(numbers), statistics.stdev(numbers)
                lines.append(f"{name}: {tag} {mean:.4g} ± {deviation:.2g} over {len(numbers)} seeds")
                break
    return lines or ["one seed of each: another may change more than this. train --multirun seed=0,1,2 tells"]


def of_seeds(folder: Path, tag: str) -> list[float]:
    """The numbers of the jobs of a sweep that differ from this one in their seed alone, this one among them."""
    if not (folder.parent / "results.json").is_file():
        return []
    from trainer.sweep.compare import read_rows

    try:
        rows = read_rows(folder.parent)
    except UserError:
        return []

    def setting(swept: dict[str, str]) -> dict[str, str]:
        return {key: value for key, value in swept.items() if key != "seed"}

    mine = next((row for row in rows if row.job.name == folder.name), None)
    if mine is None:
        return []
    alike = [row for row in rows if setting(row.job.swept) == setting(mine.job.swept) and row.status == "finished"]
    return [row.result[tag] for row in alike if tag in row.result]
