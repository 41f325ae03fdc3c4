"""One criterion, with its outputs and targets in the form that it wants."""

import copy
import inspect
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from trainer.errors import UserError
from trainer.losses.criteria import Focal, SumSquaredError
from trainer.losses.fits import WANTS, compared_with, refuse_no_fit, refuse_other_shapes, refuse_other_targets, torchs
from trainer.losses.own import FromFunction
from trainer.meaning import Classes, Meaning, Numbers, Places, Unread

# How the losses of parts of a batch come to that of the whole: by the parts' shares of its samples; by their shares of
# what its targets weigh; as a sum; or not at all.
Kind = Literal["mean", "weighted mean", "sum", "whole"]
# Criteria whose mean is over what the classes of the targets weigh.
WEIGHING = (nn.CrossEntropyLoss, nn.NLLLoss, Focal)


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
        key: of the criterion: `loss`, or `loss.terms.kl.criterion`.

    Raises:
        UserError: the criterion can't take what the model gives.
    """

    kind: Kind
    one_hot: Tensor

    def __init__(
        self, criterion: nn.Module, gives: str, meaning: Meaning, names: Mapping[str, str], key: str = "loss"
    ) -> None:
        super().__init__()
        self.criterion, self.meaning, self.names, self.key = criterion, meaning, names, key
        self.wants = WANTS.get(torchs(criterion))
        self.kind = "sum" if getattr(criterion, "reduction", "mean") == "sum" else "mean"
        self.is_log_needed = self.is_softmax_needed = False
        self.compared_with = "index"
        self.asks_for, self.takes_targets = _asked_for(criterion)
        if self.wants is None:  # the user's own, or one that we don't know: as they come
            return
        refuse_no_fit(criterion, gives, meaning, names, key)
        self.compared_with = compared_with(criterion, meaning)
        self.is_log_needed = isinstance(criterion, nn.NLLLoss | nn.KLDivLoss) and gives == "probabilities"
        self.is_softmax_needed = isinstance(criterion, nn.KLDivLoss) and gives == "logits"
        is_index = self.compared_with == "index" and isinstance(criterion, WEIGHING)
        is_weighted = is_index and (criterion.weight is not None or criterion.ignore_index >= 0)
        if self.kind == "mean" and (is_weighted or (isinstance(meaning, Places) and is_index)):
            self.kind = "weighted mean"
        if isinstance(meaning, Classes) and self.wants.targets != "index":
            self.register_buffer("one_hot", torch.eye(meaning.num_classes), persistent=False)

    @property
    def is_of_targets(self) -> bool:
        """Whether the criterion looks at the targets; a function is given what it asks for."""
        if isinstance(self.criterion, FromFunction):
            return "targets" in self.criterion.asks_for
        return self.takes_targets

    def check(self, outputs: Any, targets: Tensor) -> None:
        """Refuses shapes and values that torch would broadcast or train on without a word.

        Args:
            outputs: of the model for a few samples.
            targets: of the same samples, as the data has them.
        """
        if self.wants is None:
            return
        found = self._prediction(outputs)
        if found is None:
            raise UserError(
                f"model={self.names['model']}: gives a {type(outputs).__name__} in which no tensor has "
                f"{self.meaning.num_outputs} numbers for each sample; loss={self.names['loss']} takes one. Give a loss "
                "of your own."
            )
        refuse_other_shapes(self.criterion, self.meaning, self.names, self.key, found, self.targets(found, targets))
        self.check_targets(targets)

    @property
    def bounds_targets(self) -> bool:
        """Whether there are numbers that the criterion takes and others that it does not."""
        is_of_numbers = self.wants is not None and isinstance(self.meaning, Numbers)
        return is_of_numbers and self.wants is not None and (self.wants.targets != "values" or bool(self.wants.only))

    def check_targets(self, targets: Tensor) -> None:
        """Refuses targets outside what the criterion is defined for; `targets`: all of a split."""
        if self.wants is not None:
            refuse_other_targets(self.criterion, self.meaning, self.names, targets)

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
        return self.added_up(outputs, targets) / whole

    def added_up(self, outputs: Any, targets: Any) -> Tensor:
        """What a criterion gives that is a mean, as the sum that it divides."""
        formed = self._formed(outputs, targets)
        kept, self.criterion.reduction = self.criterion.reduction, "sum"  # type: ignore[assignment]
        try:
            total: Tensor = self.criterion(*formed)
        finally:
            self.criterion.reduction = kept
        return total

    def each(self, outputs: Any, targets: Any, whole: Tensor | None = None) -> Tensor | None:
        """The loss of each sample by itself, `[N]`, before they are averaged or added up; None where that is not known.

        Args:
            whole: of a weighted mean, what the targets weigh of a sample on average, of all that are looked at. Then
                the mean over all of them is the loss, as it is of other means. None: of these samples.
        """
        if self.wants is None or not isinstance(outputs, Tensor):
            return None
        formed = self._formed(outputs, targets)
        if isinstance(self.criterion, SumSquaredError):
            return (formed[0] - formed[1]).square().flatten(1).sum(1)
        single = copy.copy(self.criterion)  # its weights are the same
        single.reduction = "none"  # type: ignore[assignment]
        losses: Tensor = loss_of(single, *formed)
        if self.kind == "weighted mean":
            whole = self.weight(targets) / len(targets) if whole is None else whole
            return losses.flatten(1).sum(1) / whole if losses.dim() > 1 else losses / whole
        if losses.dim() < 2:
            return losses
        is_sum = self.kind == "sum" or isinstance(self.criterion, nn.KLDivLoss)
        return losses.flatten(1).sum(1) if is_sum else losses.flatten(1).mean(1)

    @property
    def may_weigh(self) -> bool:
        """Whether it is a class of the user's that derives from one of torch's with weights, and is called as that."""
        return self.wants is None and isinstance(self.criterion, WEIGHING) and not self.asks_for

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
        if self.is_softmax_needed:
            outputs = outputs.log_softmax(1)
        return outputs, self.targets(outputs, targets)


def loss_of(criterion: nn.Module, outputs: Any, targets: Any, **asked_for: Any) -> Any:
    """What a criterion gives; of outputs that are not numbers, a loss that is none.

    `nn.BCELoss` refuses such an output with an error; on a GPU that ends all that the process does there.
    """
    if not isinstance(criterion, nn.BCELoss):
        return criterion(outputs, targets, **asked_for)
    loss, none = criterion(outputs.masked_fill(outputs.isnan(), 0.5), targets), 0 * outputs.detach()
    return loss + (none if criterion.reduction == "none" else none.sum())


def _asked_for(criterion: nn.Module) -> tuple[tuple[str, ...], bool]:
    """Which of `inputs` and `model` a criterion wants beside outputs, and whether it wants targets."""
    if type(criterion).__module__.startswith("torch."):
        return (), True
    if isinstance(criterion, FromFunction):
        return tuple(name for name in ("inputs", "model") if name in criterion.asks_for), True
    parameters = [*inspect.signature(criterion.forward).parameters]
    asked_for = tuple(name for name in ("inputs", "model") if name in parameters)
    return asked_for, "targets" in parameters or parameters[1:2] != [*asked_for[:1]]
