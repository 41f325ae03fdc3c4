"""What `torch.nn` lacks: the sum of squares, named terms with weights, and targets brought to the form a criterion wants."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

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
    """Sum of the absolute values of the trainable weights (not of biases and norm layers: those with 2 dims or more)."""

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
        self.weights = {name: float(term["weight"]) for name, term in kept.items()}
        self.criteria = nn.ModuleDict({name: term["criterion"] for name, term in kept.items()})


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
        self.wants = WANTS.get(type(criterion))
        self.is_log_needed = False
        if self.wants is None:  # the user's own, or one that we don't know: as they come
            return
        if gives not in self.wants.outputs:
            instead = INSTEAD.get((gives, type(criterion)), "another loss")
            raise UserError(
                f"loss={names['loss']}: takes {' or '.join(self.wants.outputs)}, but model={names['model']} gives {gives}. "
                f"Type {instead}."
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
            if outputs.dim() < 2 or outputs.shape[1] != self.num_classes:
                raise UserError(
                    f"{model}: gives outputs of shape {list(outputs.shape)}, but {data} has {self.num_classes} classes. "
                    f"{loss} takes [{len(outputs)}, {self.num_classes}]: an output per class."
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
                    f"loss={self.names['loss']}: takes targets from 0 to 1, but those of data={self.names['data']} go from "
                    f"{low:.4g} to {high:.4g}. Type loss=mse."
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
    """

    def __init__(
        self, criterion: nn.Module, model: nn.Module, num_classes: int | None, names: Mapping[str, str]
    ) -> None:
        super().__init__()
        gives = getattr(model, "gives", "logits")
        parts = criterion.criteria if isinstance(criterion, Composite) else {"loss": criterion}
        self.weights = criterion.weights if isinstance(criterion, Composite) else {}
        self.terms = nn.ModuleDict(
            {
                name: Term(part, gives, num_classes, names)
                for name, part in parts.items()
                if not getattr(part, "is_penalty", False)
            }
        )
        self.penalties = nn.ModuleDict({name: part for name, part in parts.items() if name not in self.terms})
        # Not a submodule: its weights are no weights of the loss.
        self._model = (model,)

    def check(self, outputs: Tensor, targets: Tensor) -> None:
        """See `Term.check`."""
        for term in self.terms.values():
            term.check(outputs, targets)  # type: ignore[operator]

    def check_targets(self, targets: Tensor) -> None:
        """See `Term.check_targets`."""
        for term in self.terms.values():
            term.check_targets(targets)  # type: ignore[operator]

    @property
    def is_sum(self) -> bool:
        """Whether the loss of a batch is a sum over its samples; else it is their mean."""
        reductions = {getattr(term.criterion, "reduction", "mean") for term in self.terms.values()}
        return reductions == {"sum"}

    def share(self, num_samples: int, of: int) -> float:
        """What the loss of `num_samples` samples weighs in the loss of a batch `of` so many."""
        return 1.0 if self.is_sum else num_samples / of

    def forward(self, outputs: Tensor, targets: Tensor) -> Losses:
        if not self.weights:
            return Losses(self.terms["loss"](outputs, targets), {})
        terms = {name: term(outputs, targets) for name, term in self.terms.items()}
        terms |= {name: penalty(self._model[0]) for name, penalty in self.penalties.items()}
        # Starts from the first term, not from 0: one addition less a step.
        weighted = [terms[name] * weight for name, weight in self.weights.items()]
        total = weighted[0]
        for term in weighted[1:]:
            total = total + term
        return Losses(total, {name: term.detach() for name, term in terms.items()})
