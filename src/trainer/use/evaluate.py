"""`train evaluate`: what a finished run's model is worth, on the run's own splits or on new data."""

import contextlib
import csv
import json
import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image
from rich.text import Text
from torch import Tensor

from trainer.data.batches import Batch, Batches
from trainer.disk.files import cannot_write, write_atomically
from trainer.distributed import ALONE
from trainer.errors import UserError, in_a_line, nearest
from trainer.evaluate import evaluate
from trainer.finished.table import Column, open_console, print_lines, table
from trainer.kept import put_state
from trainer.losses.function import LossFunction
from trainer.meaning import Classes, Places
from trainer.metrics import Metrics
from trainer.monitor.classes import PerClass, counted, mean
from trainer.monitor.pictures import confusion_matrix, wrong_samples
from trainer.monitor.predictions import Collector, Predictions
from trainer.run.loss import build_loss
from trainer.run.metrics import build_metrics
from trainer.run.parts import sample_of
from trainer.run.teacher import lost_teacher
from trainer.trees import Tree
from trainer.use.find import find
from trainer.use.samples import SPLITS, Labelled, labelled
from trainer.use.trained import Trained, open_run

MOST_CLASSES = 50  # in a table on a terminal; --json has all of them
MOST_COUNTED = 1000  # classes, beyond which their confusion matrix is left out


@dataclass(frozen=True)
class Evaluation:
    """
    Args:
        split: whose; of new data, too.
        numbers: `loss`, its terms and the metrics.
        expected: what the run has measured there itself with these weights; empty where it hasn't.
        classes: a row per class, of samples or of their places; empty where there are none.
        confusion: `[C][C]`, rows are what samples are; empty likewise.
    """

    trained: Trained
    labelled: Labelled
    split: str
    numbers: dict[str, float]
    expected: dict[str, float]
    classes: list[dict[str, Any]]
    confusion: list[list[int]]

    def is_as_expected(self, name: str) -> bool:
        """Whether a number is the very one of `result.json`, which has null for all that are not finite."""
        found, expected = self.numbers[name], self.expected.get(name)
        return found == expected or (expected is not None and not math.isfinite(found) and math.isnan(expected))

    def as_dict(self) -> dict[str, Any]:
        """Plain values alone, for JSON, which has no NaN."""
        return {
            "run": self.trained.found.name,
            "checkpoint": str(self.trained.found.checkpoint),
            "step": self.trained.step,
            "data": self.labelled.told,
            "split": self.split if self.labelled.is_own else None,
            "samples": len(self.labelled.batches),
            "device": str(self.trained.device),
            "metrics": {name: n if math.isfinite(n) else None for name, n in self.numbers.items()},
            "as_in_result": all(self.is_as_expected(name) for name in self.numbers) if self.expected else None,
            "classes": self.classes,
            "confusion": self.confusion,
        }


def evaluation(
    trained: Trained,
    split: str | None = None,
    typed: Mapping[str, Any] | None = None,
    batch_size: int | None = None,
    pictures: Path | None = None,
) -> Evaluation:
    """
    Args:
        split: None: test of the run's own data; of new data its test split, or all of it where it has no splits.
        typed: dotted keys; those of `data` say which new data.
        batch_size: at most so many samples go through the model at once; None as in training.
        pictures: a folder that gets `confusion.png` and `wrong.png`.

    Raises:
        UserError: the data is not there, or is not what the model takes.
    """
    found = labelled(trained, split, typed or {})
    device = trained.device
    batches = found.batches if batch_size is None else InParts(found.batches, batch_size)
    loss_fn, metrics = judges(trained, found)
    meaning, classes = loss_fn.meaning, None
    if isinstance(meaning, Classes) or (isinstance(meaning, Places) and meaning.num_classes <= MOST_COUNTED):
        classes = PerClass(meaning)
    has_places = isinstance(meaning, Places)
    with contextlib.ExitStack() as stack:
        network = stack.enter_context(trained.quick())
        collector = None
        if pictures is not None:
            collector = stack.enter_context(Collector(network, len(batches), loss_fn.meaning))

        def keep(inputs: Tree, outputs: Tree, targets: Tree) -> None:
            if classes is not None and isinstance(targets, Tensor) and (has_places or targets.dim() == 1):
                classes.keep(inputs, outputs, targets)
            if collector is not None:
                collector.add(inputs, outputs, targets)

        numbers = evaluate(network, loss_fn, batches, device, trained.precision, keep, metrics=metrics)
    assert numbers is not None  # nobody asks for a stop
    if (teacher := lost_teacher(trained.settings)) is not None:
        del numbers["loss"]  # without a term of it, it is another number
        lost = f"loss.teacher={teacher}: that run is not here: the loss is left out, its other terms are measured"
        found = replace(found, notes=(*found.notes, lost))
    if pictures is not None and collector is not None:
        draw(pictures, collector.predictions(), loss_fn)
    name = split or "test"
    is_counted = classes is not None and (has_places or int(classes.counts.sum()) == len(batches))
    rows = classes.rows() if classes is not None and is_counted else []
    counts = classes.counts.tolist() if classes is not None and is_counted and len(rows) <= MOST_COUNTED else []
    expected = measured(trained, name, numbers) if found.is_own else {}
    return Evaluation(trained, found, name, numbers, expected, rows, counts)


def measured(trained: Trained, split: str, numbers: Mapping[str, float]) -> dict[str, float]:
    """What `result.json` has of a split for these weights; see `trainer.run.testing.Tested`."""
    result, step = trained.result, trained.step
    is_best, is_last = step == result.get("best_step"), step == result.get("steps")
    average = "average/" if trained.found.is_average else ""
    tags: dict[str, str] = {}
    if split == "test" and (is_best or is_last):
        chosen = result.get("tested", "last")
        is_chosen = is_best if chosen == "best" else is_last
        prefix = "test" if is_chosen else "test/last" if chosen == "best" else "test/best"
        tags = {name: f"{prefix}/{average}{name}" for name in numbers}
    elif is_last and split == "val":  # of the training split it has the last batch
        tags = {name: f"{split}/{average}{name}" for name in numbers}
    elif is_best and split == "val":  # of the others the best may be of another step
        metric = trained.settings.checkpoint.metric
        tags = {name: f"best/{metric}" for name in numbers if metric == f"val/{average}{name}"}
    # None: the number was not finite.
    found = {name: math.nan if result[tag] is None else result[tag] for name, tag in tags.items() if tag in result}
    return {name: n for name, n in found.items() if isinstance(n, float)}


def judges(trained: Trained, found: Labelled) -> tuple[LossFunction, Metrics | None]:
    """The loss with the weights that it had, and the metrics of the run."""
    settings, model = trained.settings, trained.model
    sample = sample_of(found.batches)
    loss_fn = build_loss(settings, found.data, found.splits, model, sample, trained.precision, needs_teacher=False)
    load_loss(trained, loss_fn)
    given = sample.like(loss_fn.given(sample.inputs, sample.targets), sample.targets)
    metrics = build_metrics(settings, loss_fn, model, given, ALONE)
    return loss_fn, metrics if metrics.names else None


def load_loss(trained: Trained, loss_fn: LossFunction) -> None:
    """Gives the loss the parameters and buffers that it had. Raises UserError: they do not fit."""
    try:
        put_state(loss_fn, trained.state.get("loss", {}))
    except Exception as error:  # of every kind: the file may be anybody's
        raise UserError(f"{trained.found.checkpoint}: does not fit the loss: {in_a_line(error)}.") from error


class InParts:
    """A split whose batches have at most so many samples."""

    weights: Tensor | None = None

    def __init__(self, batches: Batches, size: int) -> None:
        self.batches, self.size = batches, size

    def __len__(self) -> int:
        return len(self.batches)

    @property
    def targets(self) -> Tree:
        return self.batches.targets

    def training(
        self, batch_size: int, seed: int, first_step: int, rank: int = 0, world_size: int = 1
    ) -> Iterator[Batch]:
        return self.batches.training(batch_size, seed, first_step, rank, world_size)

    def in_order(self, rank: int = 0, world_size: int = 1) -> Iterator[Batch]:
        for batch in self.batches.in_order(rank, world_size):
            yield from batch.parts(self.size)


def draw(folder: Path, predictions: Predictions, loss_fn: LossFunction) -> None:
    """`confusion.png`, and `wrong.png` of pictures. Raises UserError: there are no classes, or no room."""
    pixels = confusion_matrix(predictions, loss_fn.meaning)
    if pixels is None:
        raise UserError(f"--png {folder}: the model's outputs are no classes; there is no confusion matrix to draw.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        drawn = {"confusion": pixels, "wrong": wrong_samples(predictions, loss_fn.meaning)}
        for name, image in drawn.items():
            if image is not None:
                write_atomically(folder / f"{name}.png", partial(Image.fromarray(image).save, format="png"))
    except OSError as error:
        raise cannot_write(folder, error, instead="another folder after --png") from error


def show_evaluation(
    run: str,
    checkpoint: str | None,
    split: str | None,
    keys: Mapping[str, Any],
    batch_size: int | None,
    form: str,
    pictures: str | None,
) -> int:
    """Prints it.

    Args:
        run: its folder, that of a sweep, or a checkpoint.
        form: "table", "json" or "csv".

    Raises:
        UserError: see `find`, `open_run`, `evaluation`.
    """
    if split is not None and split not in SPLITS:
        hint = nearest(split, SPLITS, cutoff=0.4) or " Try split=test."  # 0.4: validation is val
        raise UserError(f"split={split}: must be train, val, test or all.{hint}")
    folder = None if pictures is None else Path(pictures).expanduser()
    if folder is not None and folder.exists() and not folder.is_dir():
        raise UserError(f"--png {pictures}: is a file; the pictures go into a folder. Type --png drawn.")
    found = find(run, checkpoint)
    trained = open_run(found, keys)
    done = evaluation(trained, split, keys, batch_size, folder)
    for line in (found.note, *done.labelled.notes):
        if line:
            print(line, file=sys.stderr)
    if form == "json":
        print(json.dumps(done.as_dict(), indent=1))
    elif form == "csv":
        facts = done.as_dict()
        writer = csv.writer(sys.stdout, lineterminator="\n")
        heads = ("run", "step", "data", "samples")
        writer.writerow([*heads, *done.numbers])
        writer.writerow([*(facts[head] for head in heads), *done.numbers.values()])
    else:
        print_evaluation(done)
    if folder is not None:
        print(f"drawn in {folder}", file=sys.stderr)
    return 0


def print_evaluation(done: Evaluation) -> None:
    """Every digit of the numbers, and the classes: those that are known worst first where there are many."""
    console = open_console()
    lines = [Text(f"{done.trained.name}: {done.labelled.told}"), Text()]
    names = list(done.numbers)
    columns = [Column("", names), Column("", [repr(done.numbers[name]) for name in names])]
    if done.expected:
        told = ["as in result.json" if done.is_as_expected(n) else _other(done, n) for n in names]
        columns.append(Column("", told))
    lines += table(columns, console)
    if done.classes:
        shown = done.classes
        if len(shown) > MOST_CLASSES:
            shown = sorted(shown, key=lambda row: (row["support"] == 0, row["F1"]))[:MOST_CLASSES]
            lines += [Text(), Text(f"the {MOST_CLASSES} of {len(done.classes):,} classes that are known worst")]
        lines += [Text(), *table(_of_classes([*shown, mean(done.classes)], counted(shown)), console)]
    print_lines(lines, console)


def _other(done: Evaluation, name: str) -> str:
    return f"result.json has {done.expected[name]!r}" if name in done.expected else "not in result.json"


def _of_classes(rows: list[dict[str, Any]], what: str) -> list[Column]:
    shares = {key: [f"{row[key]:.3f}" for row in rows] for key in ("precision", "recall", "F1")}
    return [
        Column("class", [row["name"] for row in rows]),
        *(Column(key, cells, is_number=True) for key, cells in shares.items()),
        Column(what, [f"{row['support']:,}" for row in rows], is_number=True),
    ]
