"""Precision, recall and F1 of each class on the test split."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from trainer.meaning import Classes, Places
from trainer.monitor.readable import short
from trainer.trees import Tree

MOST = 50  # classes in a table that is still read


class PerClass:
    """Counts which class is taken for which, a batch at a time.

    Attributes:
        counts: `[num_classes, num_classes]`: samples, or their places, by their class and the class that was predicted.
    """

    def __init__(self, meaning: Classes | Places) -> None:
        self.meaning = meaning
        self.counts = torch.zeros(2 * (meaning.num_classes,), dtype=torch.int64)

    def keep(self, inputs: Tree, outputs: Tree, targets: Tensor) -> None:
        scores = self.meaning.scores_of(outputs)
        if scores is not None:
            size, taken = len(self.counts), self.meaning.predicted(scores)
            if isinstance(self.meaning, Places):
                is_counted = targets != self.meaning.ignored
                taken, targets = taken[is_counted], targets[is_counted]
            pairs = size * targets + taken
            self.counts += torch.bincount(pairs.flatten().cpu(), minlength=size * size).view(size, size)

    def rows(self) -> list[dict[str, Any]]:
        """A row for each class: `name`, `precision`, `recall`, `F1`, `support`; 0 where nothing is to be divided by.

        `of`: places, where those were counted in the place of samples.
        """
        found = []
        of = {"of": "places"} if isinstance(self.meaning, Places) else {}
        right, taken, there = self.counts.diag(), self.counts.sum(0), self.counts.sum(1)
        for label in range(self.meaning.num_classes):
            hits, predicted, support = int(right[label]), int(taken[label]), int(there[label])
            found.append(
                {
                    "name": self.meaning.name(label),
                    "precision": hits / predicted if predicted else 0.0,
                    "recall": hits / support if support else 0.0,
                    "F1": 2 * hits / (predicted + support) if predicted + support else 0.0,
                    "support": support,
                    **of,
                }
            )
        return found


def mean(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The mean of the classes that have samples; `support`: of all of them."""
    there = [row for row in rows if row["support"]] or rows
    means = {key: sum(row[key] for row in there) / len(there) for key in ("precision", "recall", "F1")}
    return {"name": "mean of classes", **means, "support": sum(row["support"] for row in rows)}


def cells(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """The table as texts, its head first."""
    numbers = ("precision", "recall", "F1")
    lines = [[str(row["name"]), *(short(row[key]) for key in numbers), f"{row['support']:,}"] for row in rows]
    return [["class", "precision", "recall", "F1", counted(rows)], *lines]


def counted(rows: Sequence[Mapping[str, Any]]) -> str:
    """What `support` is a number of."""
    return str(rows[0].get("of", "samples"))
