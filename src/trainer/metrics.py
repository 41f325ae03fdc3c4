"""Numbers over all samples of a split beside the loss: by torchmetrics' classes, or by the user's."""

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from trainer.distributed import ALONE, World
from trainer.meaning import Meaning
from trainer.trees import Tree, joined, leaves, mapped

# Outputs of a split are given to a metric so many numbers at a time: each call has a price of its own.
AT_ONCE = 1 << 22
# Torchmetrics' areas, one for each class or label.
AREAS = tuple(f"{of}{area}" for of in ("Multiclass", "Multilabel") for area in ("AUROC", "AveragePrecision"))
# Torchmetrics' that come to the same of numbers that are all moved, and add up squares, see `Numbers.around`.
MOVED = ("R2Score", "ExplainedVariance", "RelativeSquaredError")


class Metric(Protocol):
    """What a metric has, torchmetrics' or the user's."""

    def update(self, outputs: Any, targets: Any, /) -> object:
        """Some samples."""

    def compute(self) -> Any:
        """The number of all samples since `reset`."""

    def reset(self) -> object:
        """Forgets all samples."""


class Metrics:
    """The metrics of a run by name; each is over all samples, whatever batches they come in and whichever process.

    Args:
        metrics: by name. Torchmetrics' own, and what stands for them, get what `meaning.measured` makes of outputs and
            targets, the user's get outputs and targets as they are.
        meaning: of the targets.

    Attributes:
        complaints: what torchmetrics has warned of since whoever shows it took it away.
    """

    def __init__(self, metrics: Mapping[str, Metric], meaning: Meaning) -> None:
        self._metrics, self._meaning = dict(metrics), meaning
        self._are_read = {name: takes_scores(metric) for name, metric in metrics.items()}
        self._kept: list[tuple[Tree, Tree]] = []
        self._num_kept = 0
        self.complaints: list[str] = []
        self._said: set[str] = set()

    @property
    def names(self) -> list[str]:
        return list(self._metrics)

    def reset(self) -> None:
        for metric in self._metrics.values():
            metric.reset()
        self._kept, self._num_kept = [], 0

    def update(self, outputs: Tree, targets: Tree) -> None:
        """Some samples."""
        self._kept.append((outputs, targets))
        self._num_kept += sum(leaf.numel() for leaf in leaves(outputs))
        if self._num_kept > AT_ONCE:
            self._give()

    def _give(self) -> None:
        if not self._kept:
            return
        kept = [*zip(*self._kept, strict=True)]
        self._kept, self._num_kept = [], 0
        read = self._meaning.measured(*map(joined, kept)) if any(self._are_read.values()) else None
        for name, metric in self._metrics.items():
            if not self._are_read[name]:
                metric.update(*map(joined, kept))  # a copy for each, as it may write into what it is given
            elif read is not None:
                metric.update(*self._formed(type(metric).__name__, *read))

    def _formed(self, name: str, scores: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """What a metric of torchmetrics' takes of what the meaning gives."""
        if name == "Perplexity":
            return logits_of_places(scores, targets)
        if name in MOVED and (center := getattr(self._meaning, "center", ())):
            wide = torch.float32 if targets.device.type == "mps" else torch.float64
            place = torch.tensor(center, dtype=wide, device=targets.device)
            return scores.to(wide) - place, targets.to(wide) - place
        return scores, targets

    def compute(self, world: World = ALONE) -> dict[str, float]:
        """The numbers of all samples since the last `reset`, of all processes."""
        numbers = {}
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            self._give()
            for name, metric in self._metrics.items():
                numbers[name] = number_of(computed(metric, world))
        said = [" ".join(str(warning.message).split()) for warning in caught]
        said += [f"{name} is no number. Such a validation is never the best." for name, x in numbers.items() if x != x]
        for text in said:
            if text not in self._said:
                self._said.add(text)
                self.complaints.append(text)
        self.reset()
        return numbers


class BalancedAccuracy:
    """The mean of the accuracies of classes, over those that there are samples of, as scikit-learn has it.

    Torchmetrics' `MulticlassAccuracy` also counts a class as 0 that no sample is of, but one was taken for.

    Args:
        ignore_index: the label of places that have no class.
    """

    higher_is_better = is_scored = True

    def __init__(self, num_classes: int, ignore_index: int | None = None) -> None:
        self.num_classes, self.ignore_index = num_classes, ignore_index
        self.reset()

    def reset(self) -> None:
        self.counts = torch.zeros(2, self.num_classes, dtype=torch.int64)  # right, of it

    def update(self, scores: Tensor, labels: Tensor) -> None:
        """Scores `[N, num_classes, ...]`, labels `[N, ...]`."""
        taken, is_counted = scores.argmax(1), labels != (-1 if self.ignore_index is None else self.ignore_index)
        for row, classes in enumerate((labels[(taken == labels) & is_counted], labels[is_counted])):
            self.counts[row] += torch.bincount(classes, minlength=self.num_classes).cpu()

    def compute(self) -> float:
        right, there = self.counts.double()
        return float((right / there)[there > 0].mean())


class MeanOfThere:
    """The mean over classes, or labels, of an area that torchmetrics gives for each.

    What no sample is of has no such area, nor has an ROC curve what all samples are of. Torchmetrics counts most of
    these as 0; scikit-learn has no number for them. They are left out here.

    Args:
        metric: one of `AREAS`.
        ignore_index: the label of places that have no class.
    """

    higher_is_better = is_scored = True

    def __init__(self, metric: Any, ignore_index: int | None = None, world: World = ALONE) -> None:
        self.metric, self.ignore_index, self.world = metric, ignore_index, world
        self.average, metric.average = metric.average, "none"
        size = getattr(metric, "num_labels", None) or metric.num_classes
        self.counts = torch.zeros(2, size, dtype=torch.int64, device=metric.device)  # of it, all

    def reset(self) -> None:
        self.metric.reset()
        self.counts.zero_()

    def update(self, scores: Tensor, targets: Tensor) -> None:
        """Scores `[N, num_classes, ...]` and labels `[N, ...]`; of several labels both `[N, num_labels]`."""
        self.metric.update(scores, targets)
        is_counted = targets != (-1 if self.ignore_index is None else self.ignore_index)
        if targets.dim() == scores.dim():
            self.counts += torch.stack([((targets == 1) & is_counted).sum(0), is_counted.sum(0)])
        else:
            there = torch.bincount(targets[is_counted], minlength=self.counts.shape[1])
            self.counts += torch.stack([there, there.sum().expand_as(there)])

    def sync(self) -> None:
        self.metric.sync()
        self.world.sum(self.counts)

    def compute(self) -> float:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is left out
            areas = self.metric.compute()
        there, all_ = self.counts.cpu().double()
        name = type(self.metric).__name__.removeprefix("Multiclass").removeprefix("Multilabel")
        return mean_of_areas(areas.cpu().double(), there, all_, name, self.average)


def mean_of_areas(areas: Tensor, there: Tensor, all_: Tensor, name: str, average: str) -> float:
    """Over those that are there, `[K]` each; NaN where there are none. Warns of what is left out.

    Args:
        there: how many samples are of each class.
        all_: how many samples there are.
        average: macro, or weighted: by the samples of each.
    """
    is_meant = (there > 0) & ((there < all_) | (name != "AUROC"))
    if not bool(is_meant.all()):
        number = int(is_meant.sum())
        warnings.warn(
            f"{name} is the mean over {number} of {len(areas)} classes: no sample, or all, are of the others.",
            stacklevel=2,
        )
    weights = is_meant * (there if average == "weighted" else 1.0)
    return float((areas.where(is_meant, 0.0) * weights).sum() / weights.sum())


class OfMasks:
    """A metric of two classes, of masks of 0 and 1 and one output for each place: what is 0 is a class, too.

    Targets between 0 and 1 are of the nearer one.
    """

    higher_is_better = is_scored = True

    def __init__(self, metric: Any) -> None:
        self.metric = metric

    def reset(self) -> None:
        self.metric.reset()

    def update(self, scores: Tensor, targets: Tensor) -> None:
        """Both `[N, ...]`, from 0 to 1."""
        ones = scores.clamp(0, 1)[:, None]
        self.metric.update(torch.cat([1 - ones, ones], 1), (targets > 0.5).long())

    def sync(self) -> None:
        self.metric.sync()

    def compute(self) -> Any:
        return self.metric.compute()


class OfAll:
    """A function of the outputs and the targets of all samples, on the CPU, as a metric: NumPy may be what it knows."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.reset()

    def reset(self) -> None:
        self._kept: list[tuple[Tree, Tree]] = []

    def update(self, outputs: Tree, targets: Tree) -> None:
        self._kept.append((outputs, targets))

    def compute(self) -> Any:
        outputs, targets = (mapped(Tensor.cpu, joined(parts)) for parts in zip(*self._kept, strict=True))
        return self.function(outputs=outputs, targets=targets)


class OfRanks:
    """A metric of the user's where several processes have a share of the samples each: all of them give it all samples.

    What it adds up by itself nobody could put together.
    """

    def __init__(self, metric: Metric, world: World) -> None:
        self.metric, self.world = metric, world
        self.is_scored = takes_scores(metric)
        self._kept: list[tuple[Tree, Tree]] = []

    def reset(self) -> None:
        self._kept = []

    def update(self, outputs: Tree, targets: Tree) -> None:
        self._kept.append((outputs, targets))

    def sync(self) -> None:
        """Takes in the samples of the others, in the order of the split."""
        device = next((leaf.device for pair in self._kept for leaf in leaves(pair)), torch.device("cpu"))
        gathered = self.world.gather([mapped(Tensor.cpu, pair) for pair in self._kept])
        self._kept = [mapped(lambda tensor: tensor.to(device), pair) for kept in gathered for pair in kept]

    def compute(self) -> Any:
        self.metric.reset()
        for outputs, targets in self._kept:
            self.metric.update(outputs, targets)
        return self.metric.compute()


def takes_scores(metric: Any) -> bool:
    """Whether it takes what `meaning.measured` makes of outputs and targets."""
    return type(metric).__module__.startswith("torchmetrics.") or getattr(metric, "is_scored", False) is True


def computed(metric: Any, world: World) -> Any:
    """What a metric gives, which puts together what the processes have; that of torchmetrics takes it apart again."""
    if world.size > 1:
        metric.sync()
    return metric.compute()


def logits_of_places(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """What `Perplexity` takes, `[N, T, num_classes]` and `[N, T]`; a sample of one class has one place."""
    logits = scores.clamp_min(torch.finfo(scores.dtype).tiny).log()
    return logits.reshape(*logits.shape[:2], -1).movedim(1, 2), labels.reshape(len(labels), -1)


def number_of(found: Any) -> float:
    """Of a tensor, an array, or a number of Python or NumPy. Raises ValueError: it is not one real number."""
    has_one = isinstance(found, Tensor | np.ndarray | np.generic) and math.prod(found.shape) == 1
    one = found.item() if has_one else found
    if isinstance(one, int | float):
        return float(one)
    what = f"numbers of shape {[*one.shape]}" if hasattr(one, "shape") else f"a {type(one).__name__}"
    raise ValueError(f"gives {what}; one number is needed")


def placed(metric: Any, device: torch.device) -> Any:
    """A metric of torchmetrics on the device, which adds up in float64 and speaks with no process by itself."""
    metric.sync_on_compute = metric._to_sync = False  # the test is one process's alone
    metric = metric.to(device)
    return metric.set_dtype(torch.float32 if device.type == "mps" else torch.float64)
