"""What `torch.nn` lacks: the sum of squares, named terms with weights, and targets in the form a criterion wants."""

import copy
import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from trainer import trees
from trainer.config.schema import shown
from trainer.criteria import Dice, Focal, FromFunction, OfModel, Said, takes_labels, with_labels
from trainer.distributed import ALONE, World
from trainer.errors import UserError
from trainer.meaning import Classes, Meaning, Places, Unread


class Losses(NamedTuple):
    """A loss of one batch: `total` is a scalar to call `backward()` on; `terms` its parts by name, before weighting."""

    total: Tensor
    terms: dict[str, Tensor]


class SumSquaredError(nn.Module):
    """Sum over samples and outputs of (outputs - targets)^2, as the first PyTorch tutorials have it: no mean, no 1/2.

    Shapes: outputs and targets `[N, D]`; returns a scalar.
    """

    reduction = "sum"

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).square().sum()


class L1Penalty(nn.Module):
    """Sum of the absolute values of the trainable weights (those with 2 dims or more: no biases, no norms)."""

    is_penalty = True

    def forward(self, model: nn.Module) -> Tensor:
        return torch.stack([w.abs().sum() for w in _weights(model)]).sum()


class L2Penalty(nn.Module):
    """Half the sum of the squares of the trainable weights: its gradient is the weight, as in `weight_decay`."""

    is_penalty = True

    def forward(self, model: nn.Module) -> Tensor:
        return torch.stack([w.square().sum() for w in _weights(model)]).sum() / 2


def _weights(model: nn.Module) -> list[Tensor]:
    return [p for p in model.parameters() if p.requires_grad and p.dim() > 1]


class Composite(nn.Module):
    """A weighted sum of named terms.

    Args:
        terms: name to `{weight: float, criterion: nn.Module}`. A criterion with `is_penalty = True` is called with the
            model, any other with outputs and targets. A term of `null` is left out.
    """

    def __init__(self, terms: Mapping[str, Mapping[str, Any] | None]) -> None:
        super().__init__()
        kept = {name: term for name, term in terms.items() if term is not None}
        if not kept:
            raise ValueError("terms: a composite loss needs at least one term")
        for name, term in kept.items():
            if not isinstance(term, Mapping) or term.keys() != {"weight", "criterion"}:
                raise ValueError(f"terms.{name}: a term has a weight and a criterion, got {term}")
            weight = term["weight"]
            if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
                raise ValueError(f"terms.{name}.weight={shown(weight)}: must be a number")
        self.names = list(kept)
        self.weights = [float(term["weight"]) for term in kept.values()]
        self.criteria = nn.ModuleList(term["criterion"] for term in kept.values())


@dataclass(frozen=True)
class Wants:
    """What a criterion takes: `outputs` of the model in one of these forms, and targets in this one."""

    outputs: tuple[str, ...]
    # "index", "values" (class labels become one-hot), "fractions" (values in 0..1), or "masks": a class for each place,
    # or fractions
    targets: str


_VALUES = Wants(("logits", "probabilities", "log_probabilities"), "values")
# Torch's criteria by what their documentation says they take.
WANTS: dict[type[nn.Module], Wants] = {
    SumSquaredError: _VALUES,
    nn.MSELoss: _VALUES,
    nn.L1Loss: _VALUES,
    nn.SmoothL1Loss: _VALUES,
    nn.HuberLoss: _VALUES,
    nn.BCELoss: Wants(("probabilities",), "fractions"),
    nn.BCEWithLogitsLoss: Wants(("logits",), "fractions"),
    # The log-softmax of log-probabilities is themselves: cross-entropy takes both.
    nn.CrossEntropyLoss: Wants(("logits", "log_probabilities"), "index"),
    nn.NLLLoss: Wants(("log_probabilities", "probabilities"), "index"),
    Focal: Wants(("logits",), "index"),
    Dice: Wants(("logits",), "masks"),
}
# What to type instead where a criterion can't take what the model gives.
INSTEAD = {
    ("logits", nn.BCELoss): "loss=bce_with_logits",
    ("probabilities", nn.BCEWithLogitsLoss): "loss=bce",
    ("probabilities", nn.CrossEntropyLoss): "loss=nll",
    ("logits", nn.NLLLoss): "loss=cross_entropy",
    ("log_probabilities", nn.BCELoss): "loss=nll",
    ("log_probabilities", nn.BCEWithLogitsLoss): "loss=nll",
    ("probabilities", Focal): "loss=nll",
    ("log_probabilities", Focal): "loss=nll",
    ("probabilities", Dice): "loss=bce",
    ("log_probabilities", Dice): "loss=nll",
}


# How the losses of parts of a batch come to that of the whole: by the parts' shares of its samples; by their shares of
# what its targets weigh; as a sum; or not at all.
Kind = Literal["mean", "weighted mean", "sum", "whole"]


class Whole(NamedTuple):
    """Of what some samples are a part.

    Args:
        num_samples: in it.
        weights: what all its targets weigh, for each part of the loss that is a weighted mean.
    """

    num_samples: int
    weights: Mapping[int, Tensor] = {}


class Term(nn.Module):
    """One criterion with what its outputs and targets need first.

    Args:
        criterion: called with (outputs, targets), and with `inputs` and `model` by name where it has such parameters.
        gives: what the model's outputs are: logits, probabilities or log_probabilities.
        meaning: of the targets.
        names: what the choices are called in messages, of the loss, the model and the data.

    Raises:
        UserError: the criterion can't take what the model gives.
    """

    kind: Kind
    one_hot: Tensor

    def __init__(self, criterion: nn.Module, gives: str, meaning: Meaning, names: Mapping[str, str]) -> None:
        super().__init__()
        self.criterion, self.meaning, self.names = criterion, meaning, names
        self.wants = WANTS.get(type(criterion))
        self.kind = "sum" if getattr(criterion, "reduction", "mean") == "sum" else "mean"
        self.is_log_needed = False
        self.asks_for, self.takes_targets = _asked_for(criterion)
        if self.wants is None:  # the user's own, or one that we don't know: as they come
            return
        if gives not in self.wants.outputs:
            instead = INSTEAD.get((gives, type(criterion)), "another loss")
            raise UserError(
                f"loss={names['loss']}: takes {' or '.join(self.wants.outputs)}, but model={names['model']} "
                f"gives {gives}. Type {instead}."
            )
        self.is_log_needed = isinstance(criterion, nn.NLLLoss) and gives == "probabilities"
        is_index = self.wants.targets == "index"
        if not isinstance(meaning, Classes | Places) and is_index:
            raise UserError(
                f"loss={names['loss']}: takes class labels, but data={names['data']} has {meaning.told}. "
                f"Type loss={meaning.loss_to_type}."
            )
        is_of_masks = self.wants.targets == "masks"
        if is_of_masks and isinstance(meaning, Classes):
            raise UserError(
                f"loss={names['loss']}: compares masks, but data={names['data']} has one class for each sample. Type "
                "loss=cross_entropy."
            )
        if isinstance(meaning, Places) and not is_index and not is_of_masks:
            raise UserError(
                f"loss={names['loss']}: takes a number for each output, but data={names['data']} has a class for each "
                "place. Type loss=cross_entropy."
            )
        is_weighted = is_index and (criterion.weight is not None or criterion.ignore_index >= 0)
        if self.kind == "mean" and (is_weighted or (isinstance(meaning, Places) and is_index)):
            self.kind = "weighted mean"
            summed = copy.copy(criterion)  # its weights are the same
            summed.reduction = "sum"  # type: ignore[assignment]
            self._summed = (summed,)  # no submodule: nothing of it is saved
        if isinstance(meaning, Classes) and not is_index:
            self.register_buffer("one_hot", torch.eye(meaning.num_classes), persistent=False)

    def check(self, outputs: Any, targets: Tensor) -> None:
        """Refuses shapes and values that torch would broadcast or train on without a word.

        Args:
            outputs: of the model for a few samples.
            targets: of the same samples, as the data has them.
        """
        loss, model, data = (f"{key}={self.names[key]}" for key in ("loss", "model", "data"))
        if self.wants is None:
            return
        given, outputs = outputs, self._prediction(outputs)
        if outputs is None:
            raise UserError(
                f"{model}: gives a {type(given).__name__} in which no tensor has {self.meaning.num_outputs} numbers "
                f"for each sample; {loss} takes one. Give a loss of your own."
            )
        if isinstance(self.meaning, Places):
            num_classes, given = self.meaning.num_classes, self.meaning.classes_second(outputs)
            if given.shape != (targets.shape[0], num_classes, *targets.shape[1:]):
                raise UserError(
                    f"{model}: gives outputs of shape {list(outputs.shape)}, but {data} has {num_classes} classes for "
                    f"targets of shape {list(targets.shape)}. {loss} takes one output per class and place: [N, "
                    f"{num_classes}, ...], or [N, ..., {num_classes}]."
                )
            refuse_other_length("loss.weight", getattr(self.criterion, "weight", None), num_classes)
            return
        if isinstance(self.meaning, Classes) and self.wants.targets == "index":
            num_classes = self.meaning.num_classes
            if outputs.dim() != 2 or outputs.shape[1] != num_classes:
                raise UserError(
                    f"{model}: gives outputs of shape {list(outputs.shape)}, but {data} has "
                    f"{num_classes} classes. {loss} takes one output per class: [N, {num_classes}]."
                )
            refuse_other_length("loss.weight", self.criterion.weight, num_classes)
            return
        wanted = self.targets(outputs, targets)
        num_outputs = outputs.shape[-1] if outputs.dim() == 2 else 1  # of a mask one number for all places
        for name in ("weight", "pos_weight"):
            refuse_other_length(f"loss.{name}", getattr(self.criterion, name, None), num_outputs)
        if wanted.shape != outputs.shape:
            raise UserError(
                f"{model}: gives outputs of shape {list(outputs.shape)}, but {data} has targets of shape "
                f"{list(wanted.shape)}. {loss} takes equal shapes."
            )

    def check_targets(self, targets: Tensor) -> None:
        """Refuses targets outside what the criterion is defined for; `targets`: all of a split."""
        is_of_numbers = not isinstance(self.meaning, Classes | Places) and self.wants is not None
        if is_of_numbers and self.wants.targets in ("fractions", "masks"):  # type: ignore[union-attr]
            low, high = targets.min().item(), targets.max().item()
            if low < 0 or high > 1:
                raise UserError(
                    f"loss={self.names['loss']}: takes targets from 0 to 1, but those of data={self.names['data']} "
                    f"go from {low:.4g} to {high:.4g}. Type loss=mse."
                )

    def targets(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The targets in the form that the criterion wants: class labels become one-hot, or 0 and 1 for one output."""
        if not isinstance(self.meaning, Classes) or self.wants is None or self.wants.targets == "index":
            return targets
        if targets.is_floating_point():  # shares of classes, mixed
            return targets[:, 1:] if outputs.shape[1:] == (1,) else targets
        if self.meaning.num_classes == 2 and outputs.shape[1:] == (1,):
            return targets.to(outputs.dtype).unsqueeze(1)
        # A row of the identity costs one index; nn.functional.one_hot costs that, a cast and a range check.
        return self.one_hot.index_select(0, targets)

    def forward(self, outputs: Any, targets: Any, **asked_for: Any) -> Any:
        """A number, or a dict of named ones; or what a model says of itself."""
        if not self.takes_targets:
            return self.criterion(outputs, **asked_for)
        return loss_of(self.criterion, *self._formed(outputs, targets), **asked_for)

    def weighed(self, outputs: Tensor, targets: Tensor, whole: Tensor) -> Tensor:
        """The share of a weighted mean that some samples have, where the targets of all weigh `whole`."""
        total: Tensor = self._summed[0](*self._formed(outputs, targets))
        return total / whole

    def each(self, outputs: Any, targets: Any) -> Tensor | None:
        """The loss of each sample by itself, `[N]`, before they are averaged or added up; None where that is not known.

        Of a weighted mean it is the weight of the sample's class times its loss.
        """
        if self.wants is None or not isinstance(outputs, Tensor):
            return None
        formed = self._formed(outputs, targets)
        if isinstance(self.criterion, SumSquaredError):
            return (formed[0] - formed[1]).square().flatten(1).sum(1)
        single = copy.copy(self.criterion)  # its weights are the same
        single.reduction = "none"  # type: ignore[assignment]
        losses: Tensor = loss_of(single, *formed)
        if losses.dim() < 2:
            return losses
        return losses.flatten(1).sum(1) if self.kind == "sum" else losses.flatten(1).mean(1)

    def weight(self, targets: Tensor) -> Tensor:
        """What targets weigh together in a weighted mean: nothing where they are ignored."""
        weight, ignored = self.criterion.weight, self.criterion.ignore_index
        is_counted = targets != ignored
        if weight is None:
            return is_counted.sum()
        assert isinstance(weight, Tensor)
        return (weight[targets.clamp(0, len(weight) - 1)] * is_counted).sum()

    def _prediction(self, outputs: Any) -> Any:
        """The tensor that torch's criteria take, among what the model gives; None where there is none."""
        if isinstance(outputs, Tensor) or isinstance(self.meaning, Unread):
            return outputs
        return self.meaning.scores_of(outputs)

    def _formed(self, outputs: Any, targets: Any) -> tuple[Any, Any]:
        if self.wants is not None and not isinstance(outputs, Tensor):
            outputs = self._prediction(outputs)
        if isinstance(self.meaning, Places) and self.wants is not None:
            outputs = self.meaning.classes_second(outputs)
        if self.is_log_needed:
            outputs = outputs.clamp_min(torch.finfo(outputs.dtype).tiny).log()
        return outputs, self.targets(outputs, targets)


def loss_of(criterion: nn.Module, outputs: Any, targets: Any, **asked_for: Any) -> Any:
    """What a criterion gives; of outputs that are not numbers, a loss that is none.

    `nn.BCELoss` refuses such an output with an error; on a GPU that ends all that the process does there.
    """
    if not isinstance(criterion, nn.BCELoss):
        return criterion(outputs, targets, **asked_for)
    loss, none = criterion(outputs.masked_fill(outputs.isnan(), 0.5), targets), 0 * outputs.detach()
    return loss + (none if criterion.reduction == "none" else none.sum())


def refuse_other_length(key: str, weights: Any, length: int) -> None:
    """Raises UserError where there are weights, and not one for each class or output."""
    if weights is not None and (weights.dim() != 1 or len(weights) != length):
        raise UserError(f"{key}: has {weights.numel()} numbers; {length} are needed, one for each class or output.")


def _asked_for(criterion: nn.Module) -> tuple[tuple[str, ...], bool]:
    """Which of `inputs` and `model` a criterion wants beside outputs, and whether it wants targets."""
    if type(criterion).__module__.startswith("torch."):
        return (), True
    if isinstance(criterion, FromFunction):
        return tuple(name for name in ("inputs", "model") if name in criterion.asks_for), True
    parameters = [*inspect.signature(criterion.forward).parameters]
    asked_for = tuple(name for name in ("inputs", "model") if name in parameters)
    return asked_for, "targets" in parameters or parameters[1:2] != [*asked_for[:1]]


class LossFunction(nn.Module):
    """What the loop calls: outputs and targets to `Losses`.

    Args:
        criterion: a torch criterion, the user's own, or `Composite`. It gives a number, or a dict of named terms, which
            are added up.
        model: gives `gives`, and is what penalties are of.
        meaning: of the targets.
        names: see `Term`.
        weights: of the terms in a dict that the criterion gives, by name; 1 for the others.

    Attributes:
        meaning: of the model's outputs.
        differentiates_inputs: whether the criterion wants derivatives by the inputs of the model.
        term_names: what `Losses.terms` has; of a criterion that gives a dict it is known once it has been called.

    Raises:
        UserError: a criterion can't take what the model gives; or nothing but penalties, which look at no target.
    """

    def __init__(
        self,
        criterion: nn.Module,
        model: nn.Module,
        meaning: Meaning,
        names: Mapping[str, str],
        weights: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        gives = getattr(model, "gives", "logits")
        self._names = names
        parts = [criterion]
        self.names, self.weights = [""], [1.0]
        if isinstance(criterion, Composite):
            parts, self.names, self.weights = list(criterion.criteria), criterion.names, criterion.weights
        is_penalty = [bool(getattr(part, "is_penalty", False)) for part in parts]
        if all(is_penalty):
            raise UserError(
                f"loss={names['loss']}: has penalties alone, which look at no target. "
                "Give it a term that does, as cross_entropy in loss=composite."
            )
        self.parts = nn.ModuleList(
            part if penalty else Term(part, gives, meaning, names)
            for part, penalty in zip(parts, is_penalty, strict=True)
        )
        self._weighted = {
            i: part for i, part in enumerate(self.parts) if isinstance(part, Term) and part.kind == "weighted mean"
        }
        wants = next((term.wants for term in self.terms if term.wants), None)
        self.meaning = meaning.read_as(gives, wants.targets if wants else "index")
        self.term_names = [name for name in self.names if name]
        self.differentiates_inputs = False
        self.weight_of = dict(weights or {})
        self.is_of_model = isinstance(criterion, OfModel)
        self._labels = takes_labels(model) if self.is_of_model else ((), None)
        # Not a submodule: its weights are no weights of the loss.
        self._model = (model,)

    @property
    def terms(self) -> list[Term]:
        """What looks at outputs and targets; the rest are penalties."""
        return [part for part in self.parts if isinstance(part, Term)]

    @property
    def is_of_whole(self) -> bool:
        """Whether a criterion is no mean and no sum over samples."""
        return any(term.kind == "whole" for term in self.terms)

    @property
    def is_of_inputs(self) -> bool:
        """Whether it looks at what the model is given, beside what comes out."""
        return self.is_of_model or any("inputs" in term.asks_for for term in self.terms)

    def given(self, inputs: Any, targets: Any) -> Any:
        """What the model is called with: the inputs, and the targets where it computes its loss of them itself."""
        names, label = self._labels
        return inputs if label is None or targets is None else with_labels(inputs, targets, names, label)

    @property
    def is_weighted(self) -> bool:
        """Whether a criterion is a mean over what targets weigh: those of a whole split must be known then."""
        return bool(self._weighted)

    def check(self, outputs: Any, targets: Any) -> None:
        """See `Term.check`; says from then on where outputs have their classes."""
        try:
            self.meaning = self.meaning.fitted(outputs, targets)
            for term in self.terms:
                term.meaning = term.meaning.fitted(outputs, targets)
        except ValueError as error:
            raise UserError(f"data={self._names['data']}: {error}.") from error
        for term in self.terms:
            term.check(outputs, targets)

    def check_targets(self, targets: Any) -> None:
        """See `Term.check_targets`."""
        for term in self.terms:
            term.check_targets(targets)

    def whole(self, num_samples: int, targets: Any, world: World = ALONE) -> Whole:
        """What `targets`, all ranks' together, are all of: for `forward` to be called with parts of them."""
        if not self._weighted:
            return Whole(num_samples)
        return Whole(num_samples, {i: world.sum(term.weight(targets)) for i, term in self._weighted.items()})

    def forward(self, outputs: Any, targets: Any, inputs: Any = None, of: Whole | None = None) -> Losses:
        """The losses of some samples.

        Args:
            inputs: of the model, for a criterion that asks for them.
            of: what they are a part of. The losses of all parts then add up to those of the whole: means and penalties
                count by their share of the samples, means over weighted targets by their share of the weights, sums
                as they are.
        """
        share = 1.0 if of is None else trees.num_samples(inputs if targets is None else targets) / of.num_samples
        values: list[Tensor] = []
        terms: dict[str, Tensor] = {}
        for i, part in enumerate(self.parts):
            weight = None if of is None or share == 1.0 else of.weights.get(i)
            value = self._value(part, outputs, targets, inputs, weight)
            if of is None:
                refuse_no_numbers(value)
            numbers, value = _parted(value)
            if share != 1.0 and _kind(part) in ("mean", "whole"):
                numbers = {name: number * share for name, number in numbers.items()}
                value = None if value is None else value * share
            terms |= {name: number.detach() for name, number in numbers.items()}
            if value is None:
                value = _added([self._weighed(name, number) for name, number in numbers.items()])
            elif self.names[i]:
                terms[self.names[i]] = value.detach()
            values.append(value)
        if self.names == [""]:
            return Losses(values[0], terms)
        return Losses(_added([value * weight for value, weight in zip(values, self.weights, strict=True)]), terms)

    def each(self, outputs: Any, targets: Any) -> Tensor | None:
        """The loss of each sample by itself, `[N]`, without penalties; None where a criterion can't tell them apart."""
        found = [part.each(outputs, targets) if isinstance(part, Term) else 0.0 for part in self.parts]
        if any(losses is None for losses in found):
            return None
        pairs = zip(found, self.weights, strict=True)
        return _added([losses * weight for losses, weight in pairs if isinstance(losses, Tensor)])

    def _weighed(self, name: str, number: Tensor) -> Tensor:
        weight = self.weight_of.get(name, 1.0)
        return number if weight == 1.0 else number * weight

    def _value(self, part: nn.Module, outputs: Any, targets: Any, inputs: Any, weight: Tensor | None) -> Any:
        """Of a term or a penalty; a share of it where `weight` says what the targets of the whole weigh."""
        if not isinstance(part, Term):
            return part(self._model[0])
        if weight is not None:
            return part.weighed(outputs, targets, weight)
        if part.asks_for:
            found = {"inputs": inputs, "model": self._model[0]}
            return part(outputs, targets, **{name: found[name] for name in part.asks_for})
        return part(outputs, targets)


def _parted(value: Any) -> tuple[dict[str, Tensor], Tensor | None]:
    """The named numbers in what a criterion gives, and the loss that they are not added up to."""
    if isinstance(value, Said):
        return value.numbers, value.loss
    return (dict(value), None) if isinstance(value, Mapping) else ({}, value)


def refuse_no_numbers(value: Any) -> None:
    """Raises ValueError where a dict of terms is empty, or one of them is no single number in a tensor."""
    if isinstance(value, Mapping) and not value:
        raise ValueError("an empty dict; it needs a term")
    for name, number in value.items() if isinstance(value, Mapping) else ():
        if not isinstance(number, Tensor) or number.dim():
            shape = f"tensor of shape {list(number.shape)}" if isinstance(number, Tensor) else type(number).__name__
            raise ValueError(f"term {name} is a {shape}; one number in a tensor is needed")


def _kind(part: nn.Module) -> Kind:
    return part.kind if isinstance(part, Term) else "mean"


def _added(values: Sequence[Tensor]) -> Tensor:
    """Starts from the first, not from 0: one addition less a step."""
    total = values[0]
    for value in values[1:]:
        total = total + value
    return total
