"""A class for each sample."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from trainer.meaning.named import Named
from trainer.meaning.outputs import prediction, single
from trainer.trees import Tree


@dataclass(frozen=True)
class Classes(Named):
    """A sample is of one class among some.

    Args:
        num_classes: 1 or more.
        names: a name per class, or empty.
        gives: what the model's outputs are: logits, probabilities or log_probabilities.
        compared_with: what the loss compares outputs with: class labels (index), 0 and 1 for each class (fractions), or
            the same fitted as any number is (values).

    Shapes:
        targets `[N]` int64; outputs `[N, num_classes]`, or `[N, 1]` for two classes: how much speaks for class 1.
    """

    num_classes: int
    names: tuple[str, ...] = ()
    gives: str = "logits"
    compared_with: str = "index"
    metrics: ClassVar[tuple[str, ...]] = ("accuracy",)

    @property
    def num_outputs(self) -> int:
        return self.num_classes

    def read_as(self, gives: str, compared_with: str) -> Self:
        """The same classes, for the outputs of a model and the loss that they go into."""
        return replace(self, gives=gives, compared_with=compared_with)

    def wrong_targets(self, targets: Tensor) -> str | None:
        """What is wrong with the targets of a split, in words that follow "the train split has"."""
        if targets.dtype != torch.int64 or targets.dim() != 1:
            return f"targets of {targets.dtype}, shape {list(targets.shape)}; class labels are int64 [N]"
        low, high = int(targets.min()), int(targets.max())
        if low < 0 or high >= self.num_classes:
            last = self.num_classes - 1
            return f"labels from {low} to {high}; with {self.num_classes} classes they go from 0 to {last}"
        return None

    def doubts(self, targets: Mapping[str, Tensor]) -> list[str]:
        """What may be meant but seldom is: a sentence each. `targets`: of each split, by its name."""
        counts = {split: torch.bincount(labels, minlength=self.num_classes) for split, labels in targets.items()}
        found = []
        if int((counts["train"] > 0).sum()) == 1:
            only = self.name(int(counts["train"].argmax()))
            found.append(
                f"all {len(targets['train']):,} training samples are of class {only}; there is nothing to tell apart."
            )
        for split in [split for split in targets if split != "train"]:
            missing = ((counts[split] > 0) & (counts["train"] == 0)).nonzero().flatten().tolist()
            if missing:
                listed = ", ".join(f"{self.name(c)} ({int(counts[split][c]):,} samples)" for c in missing[:5])
                more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
                found.append(f"the {split} split has classes that the train split lacks: {listed}{more}.")
        return found

    def is_readable(self, outputs: Tensor) -> bool:
        """Whether outputs have the shape of this meaning; a single number for each sample tells two classes apart."""
        return outputs.shape[1:] == (self.num_classes,) or (self.num_classes == 2 and outputs.shape[1:] == (1,))

    def scores_of(self, outputs: Tree) -> Tensor | None:
        """The tensor among outputs that has a number for each class: what is called `logits`, or else the first."""
        return prediction(outputs, self.is_readable)

    def predicted(self, outputs: Tensor) -> Tensor:
        """The class of each sample, `[..., K]` to `[...]`: that of the largest output, or a single one compared."""
        if outputs.shape[-1] > 1 or self.num_classes == 1:  # of one class alone a single output says nothing
            return outputs.argmax(-1)
        is_logit = self.gives == "logits" and self.compared_with != "values"
        return (outputs > (0.0 if is_logit else 0.5)).squeeze(-1).long()

    def judged(self, outputs: Tree, targets: Tensor) -> dict[str, Tensor]:
        """Sums over samples, of which `concluded` makes the metrics.

        Shapes: outputs `[..., N, K]`, or a tree with such a tensor, targets `[..., N]`; a sum is `[...]`, a whole
        number. Those of other meanings may be `[..., S]`: several sums that one metric is made of.
        """
        scores = outputs if isinstance(outputs, Tensor) else self.scores_of(outputs)
        return {} if scores is None else {"accuracy": (self.predicted(scores) == targets).sum(-1)}

    @property
    def facts(self) -> dict[str, int]:
        """What a metric may ask for by name."""
        return {"num_classes": max(2, self.num_classes)}

    def measured(self, outputs: Tree, targets: Tensor) -> tuple[Tensor, Tensor] | None:
        """What torchmetrics' classes take: scores `[N, num_classes]` in 0..1 and labels `[N]`."""
        found = self.scores_of(outputs)
        return None if found is None else (self.scores(found), targets)

    def concluded(self, sums: dict[str, Any], num_samples: int) -> dict[str, float]:
        """The metrics of a split, from what `judged` gave added up over it, among other sums that stay."""
        return {name: total / num_samples if name in self.metrics else total for name, total in sums.items()}

    def scores(self, outputs: Tensor) -> Tensor:
        """A number in 0..1 for each class, `[N, num_classes]`.

        Log-probabilities become probabilities. Logits become their softmax, or each its sigmoid where the loss judges
        every output by itself; outputs that were fitted to one-hot targets are estimates of probabilities already, but
        for those that lie outside 0..1. A single output speaks for class 1, and what is left of 1 for class 0.
        """
        outputs = single(outputs)
        if self.num_classes == 1:
            return torch.cat([torch.ones_like(outputs), torch.zeros_like(outputs)], 1)
        if self.gives == "log_probabilities":
            scores = outputs.exp()
        elif self.gives == "probabilities" or self.compared_with == "values":
            scores = outputs
        elif self.compared_with == "fractions" or outputs.shape[1] == 1:
            scores = outputs.sigmoid()
        else:
            scores = outputs.softmax(1)
        scores = scores.nan_to_num(0).clamp(0, 1)
        return torch.cat([1 - scores, scores], 1) if scores.shape[1] == 1 else scores

    def caption(self, target: Tensor) -> str:
        """What a sample is, for a picture of it; of a mixed one, the classes with their shares."""
        if target.dim():
            shares = sorted(((share, label) for label, share in enumerate(target.tolist()) if share > 0), reverse=True)
            return " + ".join(f"{share:.2g} {self.name(label)}" for share, label in shares[:2])
        return self.name(int(target))

    def chance(self) -> float:
        """The cross-entropy of an even guess, ln K for K classes."""
        return math.log(self.num_classes)
