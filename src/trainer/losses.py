"""What `torch.nn` lacks: the sum of squares, named terms with weights, and targets in the form a criterion wants."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from trainer.config.schema import shown
from trainer.errors import UserError


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
    targets: str  # "index", "values" (class labels become one-hot) or "fractions" (values in 0..1)


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
}
# What to type instead where a criterion can't take what the model gives.
INSTEAD = {
    ("logits", nn.BCELoss): "loss=bce_with_logits",
    ("probabilities", nn.BCEWithLogitsLoss): "loss=bce",
    ("probabilities", nn.CrossEntropyLoss): "loss=nll",
    ("logits", nn.NLLLoss): "loss=cross_entropy",
    ("log_probabilities", nn.BCELoss): "loss=nll",
    ("log_probabilities", nn.BCEWithLogitsLoss): "loss=nll",
}


class Term(nn.Module):
    """One criterion with what its outputs and targets need first.

    Args:
        criterion: called with (outputs, targets).
        gives: what the model's outputs are: logits, probabilities or log_probabilities.
        num_classes: None for regression.
        names: what the choices are called in messages, of the loss, the model and the data.

    Raises:
        UserError: the criterion can't take what the model gives.
    """

    def __init__(self, criterion: nn.Module, gives: str, num_classes: int | None, names: Mapping[str, str]) -> None:
        super().__init__()
        self.criterion, self.num_classes, self.names = criterion, num_classes, names
        self.one_hot: Tensor
        self.wants = WANTS.get(type(criterion))
        self.is_log_needed = False
        if self.wants is None:  # the user's own, or one that we don't know: as they come
            return
        if gives not in self.wants.outputs:
            instead = INSTEAD.get((gives, type(criterion)), "another loss")
            raise UserError(
                f"loss={names['loss']}: takes {' or '.join(self.wants.outputs)}, but model={names['model']} "
                f"gives {gives}. Type {instead}."
            )
        self.is_log_needed = isinstance(criterion, nn.NLLLoss) and gives == "probabilities"
        if num_classes is None and self.wants.targets == "index":
            raise UserError(
                f"loss={names['loss']}: takes class labels, but data={names['data']} has float targets. Type loss=mse."
            )
        if num_classes is not None and self.wants.targets != "index":
            self.register_buffer("one_hot", torch.eye(num_classes), persistent=False)

    def check(self, outputs: Tensor, targets: Tensor) -> None:
        """Refuses shapes and values that torch would broadcast or train on without a word.

        Args:
            outputs: of the model for a few samples.
            targets: of the same samples, as the data has them.
        """
        loss, model, data = (f"{key}={self.names[key]}" for key in ("loss", "model", "data"))
        if self.wants is None:
            return
        if self.wants.targets == "index":
            if outputs.dim() != 2 or outputs.shape[1] != self.num_classes:
                raise UserError(
                    f"{model}: gives outputs of shape {list(outputs.shape)}, but {data} has "
                    f"{self.num_classes} classes. {loss} takes one output per class: [N, {self.num_classes}]."
                )
            return
        wanted = self.targets(outputs, targets)
        if wanted.shape != outputs.shape:
            raise UserError(
                f"{model}: gives outputs of shape {list(outputs.shape)}, but {data} has targets of shape "
                f"{list(wanted.shape)}. {loss} takes equal shapes."
            )

    def check_targets(self, targets: Tensor) -> None:
        """Refuses targets outside what the criterion is defined for; `targets`: all of a split."""
        if self.num_classes is None and self.wants is not None and self.wants.targets == "fractions":
            low, high = targets.min().item(), targets.max().item()
            if low < 0 or high > 1:
                raise UserError(
                    f"loss={self.names['loss']}: takes targets from 0 to 1, but those of data={self.names['data']} "
                    f"go from {low:.4g} to {high:.4g}. Type loss=mse."
                )

    def targets(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The targets in the form that the criterion wants: class labels become one-hot, or 0 and 1 for one output."""
        if self.num_classes is None or self.wants is None or self.wants.targets == "index":
            return targets
        if self.num_classes == 2 and outputs.shape[1:] == (1,):
            return targets.to(outputs.dtype).unsqueeze(1)
        # A row of the identity costs one index; nn.functional.one_hot costs that, a cast and a range check.
        return self.one_hot.index_select(0, targets)

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if self.is_log_needed:
            outputs = outputs.clamp_min(torch.finfo(outputs.dtype).tiny).log()
        loss: Tensor = self.criterion(outputs, self.targets(outputs, targets))
        return loss


class LossFunction(nn.Module):
    """What the loop calls: outputs and targets to `Losses`.

    Args:
        criterion: a torch criterion, the user's own, or `Composite`.
        model: gives `gives`, and is what penalties are of.
        num_classes: None for regression.
        names: see `Term`.

    Raises:
        UserError: a criterion can't take what the model gives; or nothing but penalties, which look at no target.
    """

    def __init__(
        self, criterion: nn.Module, model: nn.Module, num_classes: int | None, names: Mapping[str, str]
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self._gives = gives = getattr(model, "gives", "logits")
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
            part if penalty else Term(part, gives, num_classes, names)
            for part, penalty in zip(parts, is_penalty, strict=True)
        )
        # Not a submodule: its weights are no weights of the loss.
        self._model = (model,)

    @property
    def terms(self) -> list[Term]:
        """What looks at outputs and targets; the rest are penalties."""
        return [part for part in self.parts if isinstance(part, Term)]

    @property
    def threshold(self) -> float:
        """Above it a single output stands for class 1 of two: 0 for a logit, else 1/2."""
        is_value = any(term.wants is not None and term.wants.targets == "values" for term in self.terms)
        return 0.0 if self._gives == "logits" and not is_value else 0.5

    def check(self, outputs: Tensor, targets: Tensor) -> None:
        """See `Term.check`."""
        for term in self.terms:
            term.check(outputs, targets)

    def check_targets(self, targets: Tensor) -> None:
        """See `Term.check_targets`."""
        for term in self.terms:
            term.check_targets(targets)

    def forward(self, outputs: Tensor, targets: Tensor, of: int | None = None) -> Losses:
        """The losses of some samples.

        Args:
            of: how many samples there are in all, where these are a part. The losses of the parts then add up to those
                of the whole: means and penalties count by their share of the samples, sums as they are. (Where samples
                themselves have weights, as with `weight` or `ignore_index`, this is not exactly the mean of the whole.)
        """
        share = 1.0 if of is None else len(targets) / of
        values: list[Tensor] = []
        for part in self.parts:
            is_term = isinstance(part, Term)
            value = part(outputs, targets) if is_term else part(self._model[0])
            is_sum = is_term and getattr(part.criterion, "reduction", "mean") == "sum"
            values.append(value if is_sum or share == 1.0 else value * share)
        if self.names == [""]:
            return Losses(values[0], {})
        # Starts from the first term, not from 0: one addition less a step.
        total = values[0] * self.weights[0]
        for value, weight in zip(values[1:], self.weights[1:], strict=True):
            total = total + value * weight
        return Losses(total, {name: value.detach() for name, value in zip(self.names, values, strict=True)})
