"""What the targets of items mean, and so what a loss gets of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trainer.data.quoting import listed
from trainer.data.targets import are_one_hot
from trainer.errors import UserError
from trainer.meaning import IGNORED
from trainer.trees import Tree


def as_numbers(targets: Tensor) -> Tensor:
    """Those to regress on, with a dimension beside that of the samples; complex ones keep both of their parts."""
    targets = targets if targets.is_floating_point() or targets.is_complex() else targets.double()
    return targets.unsqueeze(1) if targets.dim() == 1 else targets


@dataclass(frozen=True)
class Labels:
    """Which labels of a data set are classes 0, 1 ...

    Args:
        found: the label of each class, in order: whole numbers, or words.
        ignored: a label that is no class and stays what it is.
    """

    found: tuple[Any, ...]
    ignored: int = IGNORED

    def __call__(self, targets: Any) -> Tensor:
        """Their classes, in the shape of the targets."""
        places = {label: i for i, label in enumerate(self.found)}
        if not isinstance(targets, Tensor):  # words come as a list
            return torch.tensor([places[word] for word in targets])
        known, ignored = torch.tensor(self.found), targets == self.ignored
        classes = torch.searchsorted(known, targets.long().contiguous()).clamp_max(len(known) - 1)
        if not bool(((known[classes] == targets) | ignored).all()):
            other = targets[(known[classes] != targets) & ~ignored].flatten()[0].item()
            raise UserError(f"a target is {other}; the classes are {listed(self.found)}")
        return torch.where(ignored, targets.long(), classes)


@dataclass(frozen=True)
class Reading:
    """How targets are read.

    Args:
        labels: how they become classes; None: as they are.
        num_classes: where they are classes, so many.
        is_multilabel: they are 0 and 1 for each label.
        are_numbers: they are numbers, though whole ones.
        ignored: the label of places that have no class.
        is_column: each is a row of one class, `[N, 1]`.
        are_one_hot: each is a row with a 1 in the place of its class, `[N, num_classes]`.
    """

    labels: Labels | None = None
    num_classes: int | None = None
    is_multilabel: bool = False
    are_numbers: bool = False
    ignored: int = IGNORED
    is_column: bool = False
    are_one_hot: bool = False

    def __call__(self, targets: Any) -> Tree:
        """A batch of targets as losses take them.

        Raises:
            UserError, KeyError: one of them is no class.
        """
        if self.is_column and isinstance(targets, Tensor):
            targets = targets.flatten()
        if self.are_one_hot and isinstance(targets, Tensor):
            if not are_one_hot(targets):
                raise UserError("a target is no row of 0 with one 1, as the others are")
            return targets.int().argmax(1)
        if self.labels is not None and targets is not None:
            return self.labels(targets)
        if not isinstance(targets, Tensor):
            return dict(targets) if isinstance(targets, Mapping) else targets
        if self.is_multilabel:
            if bool((is_other := (targets != 0) & (targets != 1)).any()):
                raise UserError(f"a target is {targets[is_other][0].item():.4g}; several labels are 0 and 1")
            return targets.float() if not targets.is_floating_point() else targets
        if self.are_numbers:
            targets = as_numbers(targets)
        if self.num_classes is None:
            return as_numbers(targets) if targets.is_floating_point() or targets.is_complex() else targets
        if targets.is_floating_point():  # others than whole ones are told by whoever checks the data
            is_whole = targets.dim() == 1 and bool((targets == targets.floor()).all())
            return targets.long() if is_whole else targets
        if targets.numel():
            low, high = (end.item() for end in targets.aminmax())
            if low >= 0 and high < self.num_classes:
                return targets.long()
        counted = targets[targets != self.ignored]
        if counted.numel() and not (int(counted.min()) >= 0 and int(counted.max()) < self.num_classes):
            raise UserError(
                f"labels from {int(counted.min())} to {int(counted.max())}; with {self.num_classes} classes they go "
                f"from 0 to {self.num_classes - 1}"
            )
        return targets.long()
