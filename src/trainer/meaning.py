"""What the outputs of a model stand for, in one place.

How targets must look, how outputs become predictions, which numbers judge them, which of these decides and in which
direction, and what a sample is called. Training, evaluation, pictures and tables ask here.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from trainer.trees import Tree, fields_of, leaves

# Targets further from 0 than this, in the mean or by their deviation, are far from what a network gives at first.
FAR = 100.0
HALF = (torch.bfloat16, torch.float16)


def prediction(outputs: Tree, is_one: Callable[[Tensor], bool]) -> Tensor | None:
    """The tensor among outputs that is the prediction: what is called `logits`, or else the first of its form."""
    if isinstance(outputs, Tensor):
        return outputs if is_one(outputs) else None
    found = [leaf for leaf in (fields_of(outputs).get("logits"), *leaves(outputs)) if isinstance(leaf, Tensor)]
    return next((leaf for leaf in found if is_one(leaf)), None)


@dataclass(frozen=True)
class Classes:
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

    @property
    def decisive(self) -> str:
        """The number that tells the better of two runs."""
        return "accuracy"

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
        """Whether outputs have the shape of this meaning."""
        return outputs.shape[1:] in ((self.num_classes,), (1,))

    def scores_of(self, outputs: Tree) -> Tensor | None:
        """The tensor among outputs that has a number for each class: what is called `logits`, or else the first."""
        return prediction(outputs, self.is_readable)

    def predicted(self, outputs: Tensor) -> Tensor:
        """The class of each sample, `[..., K]` to `[...]`: that of the largest output, or a single one compared."""
        if outputs.shape[-1] > 1:
            return outputs.argmax(-1)
        is_logit = self.gives == "logits" and self.compared_with != "values"
        return (outputs > (0.0 if is_logit else 0.5)).squeeze(-1).long()

    def judged(self, outputs: Tree, targets: Tensor) -> dict[str, Tensor]:
        """Sums over samples that become the metrics when they are divided by the number of samples.

        Shapes: outputs `[..., N, K]`, or a tree with such a tensor, targets `[..., N]`; a sum is `[...]`, a whole
        number.
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

    def scores(self, outputs: Tensor) -> Tensor:
        """A number in 0..1 for each class, `[N, num_classes]`.

        Log-probabilities become probabilities. Logits become their softmax, or each its sigmoid where the loss judges
        every output by itself; outputs that were fitted to one-hot targets are estimates of probabilities already, but
        for those that lie outside 0..1. A single output speaks for class 1, and what is left of 1 for class 0.
        """
        outputs = outputs.float()
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

    def name(self, label: int) -> str:
        """A class's name on one line and printable, or its number where it has none."""
        if label >= len(self.names):
            return str(label)
        # The name of a folder may hold line ends, and bytes that are no text.
        return " ".join(self.names[label].encode(errors="replace").decode().split())

    def caption(self, target: Tensor) -> str:
        """What a sample is, for a picture of it; of a mixed one, the classes with their shares."""
        if target.dim():
            shares = sorted(((share, label) for label, share in enumerate(target.tolist()) if share > 0), reverse=True)
            return " + ".join(f"{share:.2g} {self.name(label)}" for share, label in shares[:2])
        return self.name(int(target))

    def chance(self) -> float:
        """The cross-entropy of an even guess, ln K for K classes."""
        return math.log(self.num_classes)


@dataclass(frozen=True)
class Numbers:
    """A sample has numbers, which the outputs come near to.

    Args:
        num_outputs: numbers in a target.

    Shapes:
        targets `[N, D]` float, outputs of the same shape.
    """

    num_outputs: int
    metrics: ClassVar[tuple[str, ...]] = ()

    @property
    def decisive(self) -> str:
        return "loss"

    def read_as(self, gives: str, compared_with: str) -> Self:
        return self

    def wrong_targets(self, targets: Tensor) -> str | None:
        if not targets.is_floating_point() or targets.dim() < 2:
            return f"targets of {targets.dtype}, shape {list(targets.shape)}; regression takes float [N, D]"
        return None if bool(targets.isfinite().all()) else "targets that are NaN or infinite"

    def doubts(self, targets: Mapping[str, Tensor]) -> list[str]:
        train = targets["train"].double()
        mean, deviation = train.mean().item(), train.std(correction=0).item()
        if max(abs(mean), deviation) <= FAR:
            return []
        factor = 10 ** math.ceil(math.log10(max(abs(mean), deviation)))
        return [
            f"the targets are large, mean {mean:.4g}, deviation {deviation:.4g}: a network begins near 0 and may never "
            f"come there. Divide them by {factor:,} in the data."
        ]

    def scores_of(self, outputs: Tree) -> Tensor | None:
        """The tensor among outputs that has as many numbers as a target: what is called `logits`, or the first."""
        return prediction(outputs, lambda x: x.dim() > 1 and x.shape[1:].numel() == self.num_outputs)

    def judged(self, outputs: Tree, targets: Tensor) -> dict[str, Tensor]:
        return {}

    @property
    def facts(self) -> dict[str, int]:
        return {}

    def measured(self, outputs: Tree, targets: Tensor) -> tuple[Tensor, Tensor] | None:
        return (outputs.float() if outputs.dtype in HALF else outputs, targets) if isinstance(outputs, Tensor) else None

    def caption(self, target: Tensor) -> str:
        return f"{target.item():.3g}" if target.numel() == 1 else ""


@dataclass(frozen=True)
class Unread:
    """Outputs that nobody but the user's own loss can read: there is no metric but the loss.

    Args:
        num_outputs: what the data has: classes, or numbers in a target.
    """

    num_outputs: int
    metrics: ClassVar[tuple[str, ...]] = ()

    @property
    def decisive(self) -> str:
        return "loss"

    def read_as(self, gives: str, compared_with: str) -> Self:
        return self

    def wrong_targets(self, targets: Tensor) -> str | None:
        return None

    def doubts(self, targets: Mapping[str, Tensor]) -> list[str]:
        return []

    def scores_of(self, outputs: Tree) -> Tensor | None:
        return None

    def judged(self, outputs: Tree, targets: Tensor) -> dict[str, Tensor]:
        return {}

    @property
    def facts(self) -> dict[str, int]:
        return {}

    def measured(self, outputs: Tree, targets: Tensor) -> tuple[Tensor, Tensor] | None:
        return (outputs.float() if outputs.dtype in HALF else outputs, targets) if isinstance(outputs, Tensor) else None

    def caption(self, target: Tensor) -> str:
        return f"{target.item():.3g}" if target.numel() == 1 else ""


Meaning = Classes | Numbers | Unread
_KINDS: dict[str, type[Meaning]] = {"classes": Classes, "numbers": Numbers, "unread": Unread}
_WORDS = {"gives": ("logits", "probabilities", "log_probabilities"), "compared_with": ("index", "fractions", "values")}
MAX_OUTPUTS = 1 << 24


def as_dict(meaning: Meaning) -> dict[str, Any]:
    """Plain values alone, for JSON."""
    (kind,) = (name for name, kind in _KINDS.items() if type(meaning) is kind)
    return {"kind": kind, **asdict(meaning)}


def from_dict(found: Any) -> Meaning:
    """Of what `as_dict` gave. Foreign text. Raises ValueError: it is something else."""
    if not isinstance(found, Mapping):
        raise ValueError("not what outputs stand for")
    values = dict(found)
    try:
        kind = _KINDS[values.pop("kind")]
        number = values["num_classes" if kind is Classes else "num_outputs"]
        if type(number) is not int or not 1 <= number <= MAX_OUTPUTS:
            raise TypeError("how many outputs there are")
        if kind is Classes:
            names = values["names"] = tuple(values["names"])
            if not all(isinstance(name, str) for name in names) or len(names) not in (0, number):
                raise TypeError("names of classes")
            if any(values[key] not in words for key, words in _WORDS.items()):
                raise TypeError("what outputs are")
        return kind(**values)
    except (KeyError, TypeError) as error:
        raise ValueError(f"not what outputs stand for ({error})") from error
