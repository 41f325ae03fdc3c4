"""F1, precision, recall and AUROC of classes without torchmetrics, whose import takes longer than many a run.

The numbers are torchmetrics' own (a test compares), but for rounding: these are reckoned in float64. AUROC leaves out
the classes that no sample is of, see `trainer.metrics.MeanOfThere`.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from trainer.distributed import ALONE, World
from trainer.meaning import Classes, Meaning
from trainer.metrics import mean_of_areas

PREFIX = "torchmetrics.classification.Multiclass"
AVERAGES = {
    **dict.fromkeys(("F1Score", "Precision", "Recall"), ("macro", "micro", "weighted")),
    "AUROC": ("macro", "weighted"),
}


def standing_for(target: str, options: Mapping[str, Any], meaning: Meaning, device: torch.device, world: World) -> Any:
    """What gives the same as a class of torchmetrics with these options; None where there is nothing of the kind."""
    name = str(target).removeprefix(PREFIX)
    average = options.get("average", "macro")
    is_known = str(target).startswith(PREFIX) and average in AVERAGES.get(name, ()) and options.keys() <= {"average"}
    if not is_known or not isinstance(meaning, Classes):
        return None
    size = meaning.facts["num_classes"]
    return Area(size, average, world) if name == "AUROC" else Counts(name, size, average, device, world)


class Counts:
    """
    Args:
        name: F1Score, Precision or Recall.
        average: over classes that are there or were taken (macro), over samples (micro), by the samples of each class.
    """

    higher_is_better = is_scored = True

    def __init__(self, name: str, num_classes: int, average: str, device: torch.device, world: World = ALONE) -> None:
        self.name, self.average, self.world = name, average, world
        self.counts = torch.zeros(3, num_classes, dtype=torch.int64, device=device)  # right, taken for it, of it

    def reset(self) -> None:
        self.counts.zero_()

    def update(self, scores: Tensor, labels: Tensor) -> None:
        """Scores `[N, num_classes]`, labels `[N]`."""
        taken = scores.argmax(1)
        for row, classes in enumerate((labels[taken == labels], taken, labels)):
            self.counts[row] += torch.bincount(classes, minlength=self.counts.shape[1])

    def sync(self) -> None:
        self.world.sum(self.counts)

    def compute(self) -> float:
        right, taken, there = self.counts.cpu().double()
        if self.average == "micro":
            right, taken, there = (counts.sum(0, keepdim=True) for counts in (right, taken, there))
        numbers = {"F1Score": (taken + there) / 2, "Precision": taken, "Recall": there}[self.name]
        shares = torch.where(numbers > 0, right / numbers, 0.0)
        weights = there if self.average == "weighted" else (taken + there > 0).double()
        return float((shares * weights).sum() / weights.sum())


class Area:
    """Under the ROC curve, of each class against the rest: of all pairs, the share whose scores are in order.

    Source: J. Hanley and B. McNeil, 1982: the statistic of Wilcoxon's test, where equal scores have their mean rank.
    """

    higher_is_better = is_scored = True

    def __init__(self, num_classes: int, average: str, world: World = ALONE) -> None:
        self.num_classes, self.average, self.world = num_classes, average, world
        self.kept: list[tuple[Tensor, Tensor]] = []

    def reset(self) -> None:
        self.kept = []

    def update(self, scores: Tensor, labels: Tensor) -> None:
        self.kept.append((scores, labels))

    def sync(self) -> None:
        device = self.kept[0][0].device
        found = self.world.gather([(scores.cpu(), labels.cpu()) for scores, labels in self.kept])
        self.kept = [(scores.to(device), labels.to(device)) for part in found for scores, labels in part]

    def compute(self) -> float:
        scores, labels = (torch.cat(parts) for parts in zip(*self.kept, strict=True))
        areas = torch.stack([area(scores[:, c], labels == c) for c in range(self.num_classes)])
        there = torch.bincount(labels, minlength=self.num_classes).cpu().double()
        return mean_of_areas(areas.cpu(), there, there.sum(), "AUROC", self.average)


def area(scores: Tensor, is_of: Tensor) -> Tensor:
    """`[N]` scores, and which samples are of the class; 0 where all or none are."""
    ordered, order = scores.sort()
    counts = ordered.unique_consecutive(return_counts=True)[1]
    # Whole numbers are added up: on a GPU torch has no deterministic cumsum of others.
    ranks = (counts.cumsum(0) - (counts - 1).double() / 2).repeat_interleave(counts)
    number = is_of.sum().double()
    pairs = number * (len(scores) - number)
    wins = (ranks * is_of[order]).sum() - number * (number + 1) / 2
    return torch.where(pairs > 0, wins / pairs, 0.0)
