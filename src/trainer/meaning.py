"""What the outputs of a model stand for, in one place.

How targets must look, how outputs become predictions, which numbers judge them, which of these decides and in which
direction, and what a sample is called. Training, evaluation, pictures and tables ask here.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Self, get_args, get_type_hints

import torch
from torch import Tensor

from trainer.trees import Tree, fields_of, leaves

IGNORED = -100  # the label of what has no class: torch's default of `ignore_index`
# Targets further from 0 than this, in the mean or by their deviation, are far from what a network gives at first.
FAR = 100.0
ROUNDING = 1e-12  # a share of squares that float64 has lost in their sum
HALF = (torch.bfloat16, torch.float16)


def prediction(outputs: Tree, is_one: Callable[[Tensor], bool]) -> Tensor | None:
    """The tensor among outputs that is the prediction: what is called `logits`, or else the first of its form."""
    if isinstance(outputs, Tensor):
        return outputs if is_one(outputs) else None
    found = [leaf for leaf in (fields_of(outputs).get("logits"), *leaves(outputs)) if isinstance(leaf, Tensor)]
    return next((leaf for leaf in found if is_one(leaf)), None)


class _Named:
    """What has a number for each class or label, and perhaps a name."""

    names: tuple[str, ...]

    def name(self, label: int) -> str:
        """A class's name on one line and printable, or its number where it has none."""
        if label >= len(self.names):
            return str(label)
        # The name of a folder may hold line ends, and bytes that are no text.
        return " ".join(self.names[label].encode(errors="replace").decode().split())


@dataclass(frozen=True)
class Classes(_Named):
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
    has_labels: ClassVar[bool] = True

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

    def fitted(self, outputs: Tree, targets: Tree) -> Self:
        """The same meaning, once it is known what a model gives for some samples."""
        return self

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

    def caption(self, target: Tensor) -> str:
        """What a sample is, for a picture of it; of a mixed one, the classes with their shares."""
        if target.dim():
            shares = sorted(((share, label) for label, share in enumerate(target.tolist()) if share > 0), reverse=True)
            return " + ".join(f"{share:.2g} {self.name(label)}" for share, label in shares[:2])
        return self.name(int(target))

    def chance(self) -> float:
        """The cross-entropy of an even guess, ln K for K classes."""
        return math.log(self.num_classes)


class _NothingCounted:
    """What has no right and wrong: outputs are compared as the numbers that they are."""

    def judged(self, outputs: Tree, targets: Tensor) -> dict[str, Tensor]:
        return {}

    @property
    def facts(self) -> dict[str, int]:
        return {}

    def measured(self, outputs: Tree, targets: Tensor) -> tuple[Tensor, Tensor] | None:
        return (outputs.float() if outputs.dtype in HALF else outputs, targets) if isinstance(outputs, Tensor) else None

    def concluded(self, sums: dict[str, Any], num_samples: int) -> dict[str, float]:
        return sums

    def fitted(self, outputs: Tree, targets: Tree) -> Self:
        return self

    def caption(self, target: Tensor) -> str:
        return f"{target.item():.3g}" if target.numel() == 1 else ""


@dataclass(frozen=True)
class Numbers(_NothingCounted):
    """A sample has numbers, which the outputs come near to.

    Args:
        num_outputs: numbers in a target.
        is_judged: the outputs have the shape of the targets, `[N, D]`. Pictures and their like are not judged: some of
            their pixels hardly differ from sample to sample, and the R2 of those says nothing.

    Shapes:
        targets `[N, D]` float, outputs of the same shape.
    """

    num_outputs: int
    is_judged: bool = False
    has_labels: ClassVar[bool] = False
    told: ClassVar[str] = "float targets"
    loss_to_type: ClassVar[str] = "mse"

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("mae", "r2") if self.is_judged else ()

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

    def fitted(self, outputs: Tree, targets: Tree) -> Self:
        scores = self.scores_of(outputs)
        is_one = scores is not None and isinstance(targets, Tensor) and scores.shape == targets.shape
        return replace(self, is_judged=is_one and scores is not None and scores.dim() == 2)

    def judged(self, outputs: Tree, targets: Tensor) -> dict[str, Tensor]:
        """Absolute errors, and for each of `D` numbers of a target: squared errors, targets, squared targets.

        Shapes: outputs and targets `[..., N, D]`; sums are `[...]` and `[..., 3 * D]`.
        """
        scores = (outputs if isinstance(outputs, Tensor) else self.scores_of(outputs)) if self.is_judged else None
        if scores is None:
            return {}
        wide = torch.float32 if scores.device.type == "mps" else torch.float64
        targets = targets.to(wide).expand_as(scores)
        errors = scores.to(wide) - targets
        sums = [part.sum(-2) for part in (errors.square(), targets, targets.square())]
        return {"mae": errors.abs().sum((-2, -1)), "r2": torch.cat(sums, -1)}

    def concluded(self, sums: dict[str, Any], num_samples: int) -> dict[str, float]:
        """R2 is the mean over the numbers of a target; where one is always the same, it is 1 without errors, else 0."""
        if "r2" not in sums:
            return sums
        errors, totals, squares = torch.tensor(sums["r2"], dtype=torch.float64).view(3, -1)
        spread = squares - totals.square() / num_samples
        is_spread = spread > ROUNDING * squares
        r2 = torch.where(is_spread, 1 - errors / spread, (errors == 0).double())
        return sums | {"mae": sums["mae"] / (num_samples * self.num_outputs), "r2": r2.mean().item()}


@dataclass(frozen=True)
class Places(_Named):
    """Every place of a sample, a pixel or a token, is of one class among some.

    Args:
        num_classes: 1 or more.
        names: a name per class, or empty.
        ignored: the label of places that have no class, and are not counted.
        is_last: outputs have their classes last, as those of transformers.
        is_of_pixels: a sample has two dimensions or more.

    Shapes:
        targets `[N, ...]` int64: `[N, H, W]`, `[N, T]`; outputs `[N, num_classes, ...]`, or `[N, ..., num_classes]`.
    """

    num_classes: int
    names: tuple[str, ...] = ()
    ignored: int = IGNORED
    is_last: bool = False
    is_of_pixels: bool = False
    has_labels: ClassVar[bool] = True

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("accuracy", "iou") if self.is_of_pixels else ("accuracy",)

    @property
    def num_outputs(self) -> int:
        return self.num_classes

    @property
    def decisive(self) -> str:
        return "accuracy"

    def read_as(self, gives: str, compared_with: str) -> Self:
        return self

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

    def scores_of(self, outputs: Tree) -> Tensor | None:
        """The tensor among outputs that has a number for each class and place: what is `logits`, or the first."""
        return prediction(outputs, lambda x: x.dim() > 2 and self.num_classes in (x.shape[1], x.shape[-1]))

    def judged(self, outputs: Tree, targets: Tensor) -> dict[str, Tensor]:
        scores = self.scores_of(outputs)
        if scores is None or scores.dim() != targets.dim() + 1:
            return {}
        is_counted = targets != self.ignored
        taken = self.classes_second(scores).argmax(1)
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
        return None if found is None else (self.classes_second(found).float().softmax(1), targets)

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


@dataclass(frozen=True)
class Labels(_Named):
    """A sample has several labels at once, or one, or none.

    Args:
        num_outputs: of labels.
        names: a name per label, or empty.
        gives: what the model's outputs are: logits or probabilities.
        compared_with: see `Classes`.

    Shapes:
        targets `[N, num_outputs]` float, 0 or 1; outputs of the same shape.
    """

    num_outputs: int
    names: tuple[str, ...] = ()
    gives: str = "logits"
    compared_with: str = "fractions"
    metrics: ClassVar[tuple[str, ...]] = ("accuracy",)
    has_labels: ClassVar[bool] = False
    told: ClassVar[str] = "several labels for a sample"
    loss_to_type: ClassVar[str] = "bce_with_logits"

    @property
    def decisive(self) -> str:
        return "loss"

    def read_as(self, gives: str, compared_with: str) -> Self:
        return replace(self, gives=gives, compared_with=compared_with)

    def wrong_targets(self, targets: Tensor) -> str | None:
        if not targets.is_floating_point() or targets.dim() != 2:
            return (
                f"targets of {targets.dtype}, shape {list(targets.shape)}; several labels are float [N, K] of 0 and 1"
            )
        if not bool(((targets == 0) | (targets == 1)).all()):
            other = targets[(targets != 0) & (targets != 1)][0].item()
            return f"targets with {other:.4g} among them; several labels are 0 and 1"
        return None

    def doubts(self, targets: Mapping[str, Tensor]) -> list[str]:
        shares = targets["train"].mean(0)
        still = ((shares == 0) | (shares == 1)).nonzero().flatten().tolist()
        if not still:
            return []
        listed = ", ".join(map(self.name, still[:5]))
        return [f"{len(still)} of {len(shares)} labels are the same for all training samples: {listed}."]

    def scores_of(self, outputs: Tree) -> Tensor | None:
        """The tensor among outputs that has a number for each label: what is called `logits`, or the first."""
        return prediction(outputs, lambda x: x.shape[1:] == (self.num_outputs,))

    def judged(self, outputs: Tree, targets: Tensor) -> dict[str, Tensor]:
        scores = self.scores_of(outputs)
        if scores is None or scores.shape != targets.shape:
            return {}
        is_logit = self.gives == "logits" and self.compared_with != "values"
        return {"accuracy": ((scores > (0.0 if is_logit else 0.5)) == (targets > 0.5)).sum()}

    @property
    def facts(self) -> dict[str, int]:
        return {"num_labels": self.num_outputs}

    def measured(self, outputs: Tree, targets: Tensor) -> tuple[Tensor, Tensor] | None:
        """Scores `[N, num_outputs]` in 0..1 and whole labels of that shape."""
        found = self.scores_of(outputs)
        if found is None:
            return None
        return self.scores(found), targets.long()

    def scores(self, outputs: Tensor) -> Tensor:
        """A number in 0..1 for each label, `[N, num_outputs]`."""
        is_logit = self.gives == "logits" and self.compared_with != "values"
        return outputs.float().sigmoid() if is_logit else outputs.float()

    def concluded(self, sums: dict[str, Any], num_samples: int) -> dict[str, float]:
        """The share of all labels, of all samples, that are right."""
        shares = {"accuracy": sums["accuracy"] / (num_samples * self.num_outputs)} if "accuracy" in sums else {}
        return sums | shares

    def fitted(self, outputs: Tree, targets: Tree) -> Self:
        return self

    def caption(self, target: Tensor) -> str:
        found = target.nonzero().flatten().tolist()
        return ", ".join(map(self.name, found))


@dataclass(frozen=True)
class Unread(_NothingCounted):
    """Outputs that nobody but the user's own loss can read: there is no metric but the loss.

    Args:
        num_outputs: what the data has: classes, or numbers in a target; 0 where it has no targets, or several.
    """

    num_outputs: int
    metrics: ClassVar[tuple[str, ...]] = ()
    has_labels: ClassVar[bool] = False
    told: ClassVar[str] = "no targets that it could read"
    loss_to_type: ClassVar[str] = "own"

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


Meaning = Classes | Places | Labels | Numbers | Unread
_KINDS: dict[str, type[Meaning]] = {kind.__name__.lower(): kind for kind in get_args(Meaning)}
_WORDS = {"gives": ("logits", "probabilities", "log_probabilities"), "compared_with": ("index", "fractions", "values")}
_PLAIN: dict[type, Callable[[Any], bool]] = {
    int: lambda value: type(value) is int and abs(value) <= MAX_OUTPUTS,
    bool: lambda value: isinstance(value, bool),
    str: lambda value: isinstance(value, str),
}
MAX_OUTPUTS = 1 << 24


def class_names(meaning: Meaning) -> tuple[str, ...]:
    """Of classes or labels, `0`, `1` ... where they have none; empty of what has no classes."""
    return tuple(map(meaning.name, range(meaning.num_outputs))) if isinstance(meaning, _Named) else ()


def as_dict(meaning: Meaning) -> dict[str, Any]:
    """Plain values alone, for JSON."""
    return {"kind": type(meaning).__name__.lower(), **asdict(meaning)}


def from_dict(found: Any) -> Meaning:
    """Of what `as_dict` gave. Foreign text. Raises ValueError: it is something else."""
    if not isinstance(found, Mapping):
        raise ValueError("not what outputs stand for")
    values = dict(found)
    try:
        kind = _KINDS[values.pop("kind")]
        number = values["num_classes" if "num_classes" in values else "num_outputs"]
        if type(number) is not int or not (kind is not Unread) <= number <= MAX_OUTPUTS:
            raise TypeError("how many outputs there are")
        for name, wanted in get_type_hints(kind).items():
            if name == "names":
                values[name] = tuple(values[name])
                if not all(isinstance(n, str) for n in values[name]) or len(values[name]) not in (0, number):
                    raise TypeError("names of classes")
            elif wanted in _PLAIN and not _PLAIN[wanted](values[name]):
                raise TypeError(name)
        if any(values[key] not in words for key, words in _WORDS.items() if key in values):
            raise TypeError("what outputs are")
        return kind(**values)
    except (KeyError, TypeError) as error:
        raise ValueError(f"not what outputs stand for ({error})") from error


def meaning_of(
    targets: Tree,
    num_classes: int | None = None,
    names: tuple[str, ...] = (),
    is_multilabel: bool = False,
    ignored: int = IGNORED,
) -> Meaning:
    """What the targets of some samples are.

    Args:
        num_classes: of labels; None: they are numbers.
        names: of the classes.
        is_multilabel: 0 and 1 for each label.
        ignored: the label of a place that has no class.
    """
    if not isinstance(targets, Tensor):
        return Unread(num_classes or 0)
    if is_multilabel:
        return Labels(math.prod(targets.shape[1:]), tuple(names))
    if num_classes is None:
        return Numbers(math.prod(targets.shape[1:]))
    if math.prod(targets.shape[1:]) > 1 and not targets.is_floating_point():
        return Places(num_classes, tuple(names), ignored)
    return Classes(num_classes, tuple(names))
