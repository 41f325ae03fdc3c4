"""Criteria that `torch.nn` lacks: the sum of squares, focal, dice, penalties, and a sum of named terms."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from trainer.config.schema import shown


class SumSquaredError(nn.Module):
    """Sum over samples and outputs of (outputs - targets)^2, as the first PyTorch tutorials have it: no mean, no 1/2.

    Shapes: outputs and targets `[N, D]`; returns a scalar.
    """

    reduction = "sum"

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).square().sum()


class Focal(nn.Module):
    """Cross-entropy that weighs less where the network is sure: (1 - p)^gamma * -log p of the true class.

    With `gamma = 0` it is `torch.nn.CrossEntropyLoss`, whose mean over weights it takes, too.

    Args:
        gamma: 0 or more.
        weight: `[C]`, of each class.
        ignore_index: the label of what has no class.

    Shapes:
        logits `[N, C]` or `[N, C, ...]`, classes `[N]` or `[N, ...]`; returns a scalar, or `[N, ...]` unreduced.

    Source: Lin et al. 2017, equation 5; `weight` is their alpha.
    """

    weight: Tensor | None

    def __init__(
        self, gamma: float = 2.0, weight: Tensor | None = None, ignore_index: int = -100, reduction: str = "mean"
    ) -> None:
        super().__init__()
        if gamma < 0:
            raise ValueError(f"gamma={gamma}: must be 0 or more")
        self.gamma, self.ignore_index, self.reduction = gamma, ignore_index, reduction
        self.register_buffer("weight", weight)

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        losses = cross_entropy(outputs, targets, reduction="none", ignore_index=self.ignore_index)
        # 1 - p, exact near 0. Of 0 itself a power below 1 has no gradient, and makes NaN of the loss's, which is 0.
        rests = -torch.expm1(-losses)
        losses = rests.clamp_min(torch.finfo(rests.dtype).tiny) ** self.gamma * losses  # 0 where a target is ignored
        is_counted = (targets != self.ignore_index).to(losses.dtype)
        if self.weight is None:
            weights = is_counted
        else:
            weights = is_counted * self.weight[targets.clamp(0, len(self.weight) - 1)]
            losses = weights * losses
        if self.reduction == "none":
            return losses
        return losses.sum() if self.reduction == "sum" else losses.sum() / weights.sum()


class Dice(nn.Module):
    """1 minus the Dice coefficient of probabilities and targets, of each sample and class, in the mean.

    Args:
        smooth: is added above and below, so that a mask with nothing in it has a loss.
        ignore_index: the label of a place that has no class, and is left out.

    Shapes:
        Logits `[N, C, ...]`. Targets are numbers 0..1 of the same shape, each a mask of its own (their sigmoid is
        compared); or classes `[N, ...]` (their softmax is compared). Returns a scalar, or `[N]` unreduced.

    Source: Milletari et al. 2016 (V-Net), with sums in the place of squares.
    """

    def __init__(self, smooth: float = 1.0, ignore_index: int = -100, reduction: str = "mean") -> None:
        super().__init__()
        if smooth <= 0:
            raise ValueError(f"smooth={smooth}: must be above 0")
        self.smooth, self.ignore_index, self.reduction = smooth, ignore_index, reduction

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if targets.is_floating_point():
            scores = outputs.sigmoid()
        else:
            is_ignored = targets == self.ignore_index
            is_counted = ~is_ignored.unsqueeze(1)
            scores = outputs.softmax(1) * is_counted
            classes = targets.masked_fill(is_ignored, 0)  # 255, say, has no place among the classes
            targets = one_hot(classes, outputs.shape[1]).movedim(-1, 1).to(scores.dtype) * is_counted
        both, sums = (x.flatten(2).sum(2) if x.dim() > 2 else x for x in (scores * targets, scores + targets))
        losses = (1 - (2 * both + self.smooth) / (sums + self.smooth)).mean(1)
        if self.reduction == "none":
            return losses
        return losses.sum() if self.reduction == "sum" else losses.mean()


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
