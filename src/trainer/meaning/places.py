"""A class for each pixel or token."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from trainer.meaning.named import Named
from trainer.meaning.outputs import prediction, single
from trainer.trees import Tree

IGNORED = -100  # the label of what has no class: torch's default of `ignore_index`


@dataclass(frozen=True)
class Places(Named):
    """Every place of a sample, a pixel or a token, is of one class among some.

    Args:
        num_classes: 1 or more.
        names: a name per class, or empty.
        ignored: the label of places that have no class, and are not counted.
        is_last: outputs have their classes last, as those of transformers.
        is_of_pixels: a sample has two dimensions or more.
        gives: what the model's outputs are: logits, probabilities or log_probabilities.

    Shapes:
        targets `[N, ...]` int64: `[N, H, W]`, `[N, T]`; outputs `[N, num_classes, ...]`, or `[N, ..., num_classes]`.
    """

    num_classes: int
    names: tuple[str, ...] = ()
    ignored: int = IGNORED
    is_last: bool = False
    is_of_pixels: bool = False
    gives: str = "logits"

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("accuracy", "iou") if self.is_of_pixels else ("accuracy",)

    @property
    def num_outputs(self) -> int:
        return self.num_classes

    def read_as(self, gives: str, compared_with: str) -> Self:
        return replace(self, gives=gives)

    def wrong_targets(self, targets: Tensor) -> str | None:
        if targets.dtype != torch.int64 or targets.dim() < 2:
            return f"targets of {targets.dtype}, shape {list(targets.shape)}; a class for each place is int64 [N, ...]"
        counted = targets[targets != self.ignored]
        if not counted.numel():
            return f"labels of {self.ignored} alone, which are left out"
        low, high = int(counted.min()), int(counted.max())
        if low < 0 or high >= self.num_classes:
            last = self.num_classes - 1
            return (
                f"labels from {low} to {high}; with {self.num_classes} classes they go from 0 to {last}, and "
                f"loss.ignore_index={self.ignored} has none"
            )
        return None

    def doubts(self, targets: Mapping[str, Tensor]) -> list[str]:
        found = targets["train"][targets["train"] != self.ignored].unique()
        return ["all places of the training samples are of one class."] if len(found) == 1 else []

    def fitted(self, outputs: Tree, targets: Tree) -> Self:
        """Says where the classes stand among the dimensions of the outputs.

        Raises:
            ValueError: there are as many places as classes, so that the shape does not tell.
        """
        scores = self.scores_of(outputs)
        if scores is None or not isinstance(targets, Tensor):
            return self
        is_last = scores.shape == (*targets.shape, self.num_classes)
        if is_last and scores.shape[1] == self.num_classes and scores.dim() == targets.dim() + 1:
            raise ValueError(
                f"outputs of shape {list(scores.shape)}: where are the {self.num_classes} classes? There are as many "
                "places. Type another data.num_classes, one more than there are"
            )
        return replace(self, is_last=is_last, is_of_pixels=targets.dim() > 2)

    def classes_second(self, outputs: Tensor) -> Tensor:
        """Outputs as torch's criteria take them, `[N, num_classes, ...]`."""
        return outputs.movedim(-1, 1) if self.is_last else outputs

    def predicted(self, outputs: Tensor) -> Tensor:
        """The class of each place, `[N, ...]`."""
        return self.classes_second(outputs).argmax(1)

    def scores_of(self, outputs: Tree) -> Tensor | None:
        """The tensor among outputs that has a number for each class and place: what is `logits`, or the first."""
        return prediction(outputs, lambda x: x.dim() > 2 and self.num_classes in (x.shape[1], x.shape[-1]))

    def judged(self, outputs: Tree, targets: Tensor) -> dict[str, Tensor]:
        scores = self.scores_of(outputs)
        if scores is None or scores.dim() != targets.dim() + 1:
            return {}
        is_counted = targets != self.ignored
        taken = self.predicted(scores)
        is_right = (taken == targets) & is_counted
        found = {"accuracy": is_right.sum(), "counted": is_counted.sum()}
        if self.is_of_pixels:  # for each class: right, taken for it, of it
            none, k = targets.new_tensor(self.num_classes), self.num_classes
            each = (targets.where(is_right, none), taken.where(is_counted, none), targets.where(is_counted, none))
            found["iou"] = torch.cat([torch.bincount(part.flatten(), minlength=k + 1)[:k] for part in each])
        return found

    @property
    def facts(self) -> dict[str, int]:
        return {"num_classes": max(2, self.num_classes), "ignore_index": self.ignored}

    def measured(self, outputs: Tree, targets: Tensor) -> tuple[Tensor, Tensor] | None:
        """Scores `[N, num_classes, ...]` in 0..1 and labels `[N, ...]`."""
        found = self.scores_of(outputs)
        if found is None:
            return None
        outputs = single(self.classes_second(found))
        return outputs if self.gives == "probabilities" else outputs.softmax(1), targets

    def concluded(self, sums: dict[str, Any], num_samples: int) -> dict[str, float]:
        """Of all places of a split together, each counts once.

        IoU is the mean over the classes that are there or were taken, as torchmetrics has it.
        """
        found = {name: total for name, total in sums.items() if name != "counted"}
        if "counted" in sums:
            found["accuracy"] = sums["accuracy"] / max(1.0, sums["counted"])
        if "iou" in sums:
            right, taken, there = torch.tensor(sums["iou"], dtype=torch.float64).view(3, -1)
            union = taken + there - right
            is_meant = (union > 0) & (torch.arange(self.num_classes) != self.ignored)
            found["iou"] = (right / union)[is_meant].mean().item() if bool(is_meant.any()) else 0.0
        return found

    def caption(self, target: Tensor) -> str:
        return ""
