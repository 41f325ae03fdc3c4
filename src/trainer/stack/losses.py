"""The losses of many runs at once, and their gradients."""

import copy
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from trainer.losses.criteria import L1Penalty, L2Penalty, SumSquaredError
from trainer.losses.function import Losses, LossFunction
from trainer.losses.term import Term, Whole, loss_of
from trainer.meaning import Labels, Places
from trainer.stack.batches import of_each
from trainer.stack.refusal import CannotStack
from trainer.stack.store import StackedStore

# Their value is the mean or the sum over numbers of which each is an output's and its target's alone ...
ELEMENTWISE = (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss, nn.BCELoss, nn.BCEWithLogitsLoss)
# ... or a sample's.
OF_CLASSES = (nn.CrossEntropyLoss, nn.NLLLoss)


class StackedLoss:
    """What `trainer.losses.function.LossFunction` is for one run: `Losses` with a total and terms of `[num_runs]`.

    The terms are the same in all runs, their weights may differ. A criterion that is not known here is called for one
    run after the other.

    Attributes:
        is_additive: whether the losses of parts add up to those of the whole, up to rounding.

    Raises:
        CannotStack: the runs' terms differ, or a penalty is not known here.
    """

    def __init__(self, loss_fns: Sequence[LossFunction], store: StackedStore) -> None:
        first = loss_fns[0]
        if any(loss_fn.names != first.names for loss_fn in loss_fns):
            raise CannotStack("the losses have other terms")
        if first.term_names != [name for name in first.names if name] or first.is_of_model:
            raise CannotStack("the loss gives named terms of its own, or is the model's")
        if isinstance(first.meaning, Places | Labels):
            raise CannotStack("the targets are neither one class for a sample nor numbers")
        self.names, self.meaning = first.names, first.meaning
        self._weights = store.values.new_tensor([loss_fn.weights for loss_fn in loss_fns]).unbind(1)
        self._criteria: dict[int, Criterion] = {}
        self._terms: dict[int, Sequence[Term]] = {}
        self.whole = first.whole
        self._penalties: dict[int, Penalty] = {}
        for i, parts in enumerate(zip(*(loss_fn.parts for loss_fn in loss_fns), strict=True)):
            if len({type(part) for part in parts}) > 1:
                raise CannotStack(f"loss term {self.names[i]}: is another one in other runs")
            if isinstance(parts[0], Term):
                refuse_unknown(parts[0])
                self._criteria[i], self._terms[i] = criterion(parts), parts
            else:
                self._penalties[i] = Penalty(self.names[i], parts[0], store)
        self.is_additive = all(part.is_additive for part in self._criteria.values())

    def __call__(self, outputs: Tensor, targets: Tensor, of: Whole) -> Losses:
        """The losses of some samples of `of`; see `LossFunction.forward`.

        Shapes:
            outputs `[num_runs, N, K]`, targets `[num_batches, N, ...]`, see `trainer.stack.batches`.
        """
        share = targets.shape[1] / of.num_samples
        values = {i: part(outputs, targets) * (1.0 if part.is_sum else share) for i, part in self._criteria.items()}
        for i, weight in of.weights.items():
            each = zip(self._terms[i], outputs, of_each(targets, len(outputs)), strict=True)
            values[i] = torch.stack([term.weighed(o, t, weight) for term, o, t in each])
        return self._together(values | {i: penalty() * share for i, penalty in self._penalties.items()})

    def with_gradient(self, outputs: Tensor, targets: Tensor) -> tuple[Losses, Tensor]:
        """The losses of a batch, and what the gradients of their totals with respect to the outputs are.

        Those of the penalties lead to the parameters: see `add_penalties`.
        """
        values: dict[int, Tensor] = {}
        gradient: Tensor | None = None
        for i, part in self._criteria.items():
            values[i], more = part.with_gradient(outputs, targets)
            if self.names != [""]:
                more = more * self._weights[i].view(-1, 1, 1)
            gradient = more if gradient is None else gradient + more
        assert gradient is not None
        return self._together(values | {i: penalty() for i, penalty in self._penalties.items()}), gradient

    def add_penalties(self) -> None:
        """Adds the penalties' gradients to those in the store."""
        for i, penalty in self._penalties.items():
            penalty.add_gradient(self._weights[i].unsqueeze(1))

    def _together(self, values: dict[int, Tensor]) -> Losses:
        if self.names == [""]:
            return Losses(values[0], {})
        total = values[0] * self._weights[0]
        for i in range(1, len(self.names)):
            total = total + values[i] * self._weights[i]
        return Losses(total, {name: values[i] for i, name in enumerate(self.names)})


def refuse_unknown(term: Term) -> None:
    """Raises CannotStack for a criterion whose losses of parts don't add up by samples, or that wants to see more."""
    name = type(term.criterion).__name__
    if term.kind == "whole":
        raise CannotStack(f"{name}: is a loss of the whole, and no mean over samples")
    if term.asks_for or list(term.criterion.parameters()):
        raise CannotStack(f"{name}: has parameters, or asks for inputs or model")


class Criterion(Protocol):
    """One term of all runs that looks at outputs `[num_runs, N, K]` and targets `[num_batches, N, ...]`."""

    is_sum: bool  # over the samples; else a mean
    is_additive: bool  # see `StackedLoss`

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """`[num_runs]`."""

    def with_gradient(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The value, and its gradient with respect to the outputs."""


class Differentiated:
    """A criterion that autograd goes back through."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor], is_sum: bool, is_additive: bool) -> None:
        self._function, self.is_sum, self.is_additive = function, is_sum, is_additive

    @torch.no_grad()
    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self._function(outputs, targets)

    def with_gradient(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        outputs = outputs.detach().requires_grad_()
        value = self._function(outputs, targets)
        return value.detach(), torch.autograd.grad(value.sum(), outputs)[0]  # no run's is of another's outputs


class CrossEntropy:
    """`nn.CrossEntropyLoss` without weights, its gradient by hand: softmax of the outputs, minus 1 at the target."""

    is_additive = True

    def __init__(self, is_sum: bool) -> None:
        self.is_sum = is_sum

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self._value(torch.log_softmax(outputs.mT, 1), self._at(outputs, targets))

    def with_gradient(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        log_probabilities, at = torch.log_softmax(outputs.mT, 1), self._at(outputs, targets)
        value = self._value(log_probabilities, at)
        minus_one = log_probabilities.new_full((), -1.0).expand(at.shape)
        gradient = log_probabilities.exp_().scatter_add_(1, at, minus_one)
        return value, (gradient if self.is_sum else gradient.div_(at.shape[2])).mT

    def _at(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return of_each(targets, len(outputs)).unsqueeze(1)  # [num_runs, 1, N]

    def _value(self, log_probabilities: Tensor, at: Tensor) -> Tensor:
        of_samples = log_probabilities.gather(1, at).squeeze(1)
        return -(of_samples.sum(1) if self.is_sum else of_samples.mean(1))


def criterion(terms: Sequence[Term]) -> Criterion:
    """One term of all runs."""
    first: Any = terms[0].criterion
    kind, is_sum = type(first), getattr(first, "reduction", "mean") == "sum"

    def settings(term: Term) -> tuple[object, ...]:
        kept = {k: v for k, v in vars(term.criterion).items() if isinstance(v, bool | int | float | str)}
        return type(term.criterion), kept

    # Weights of classes or samples make the mean a weighted one; a class that is ignored is left out of it.
    is_plain = kind in ELEMENTWISE + OF_CLASSES and not list(first.buffers()) and getattr(first, "ignore_index", -1) < 0
    is_plain = is_plain and terms[0].compared_with != "shares"
    is_reduced = is_plain and first.reduction != "none" and all(settings(t) == settings(terms[0]) for t in terms)
    if is_reduced and kind is nn.CrossEntropyLoss and not first.label_smoothing:
        return CrossEntropy(is_sum)
    if not is_reduced and kind is not SumSquaredError:
        return Differentiated(lambda outputs, targets: one_by_one(terms, outputs, targets), is_sum, False)

    plain = copy.copy(first)
    plain.reduction = "none"
    term = terms[0]

    def value(outputs: Tensor, targets: Tensor) -> Tensor:
        if kind in OF_CLASSES:
            if term.is_log_needed:
                outputs = outputs.clamp_min(torch.finfo(outputs.dtype).tiny).log()
            numbers = plain(outputs.mT, of_each(targets, len(outputs)))
        else:
            formed = term.targets(outputs[0], targets.flatten(0, 1)).unflatten(0, targets.shape[:2])
            formed = of_each(formed, len(outputs))
            numbers = (outputs - formed).square() if kind is SumSquaredError else loss_of(plain, outputs, formed)
        numbers = numbers.flatten(1)
        return numbers.sum(1) if is_sum else numbers.mean(1)

    return Differentiated(value, is_sum, True)


def one_by_one(terms: Sequence[Term], outputs: Tensor, targets: Tensor) -> Tensor:
    """Each run's own term, called as alone."""
    each = zip(terms, outputs, of_each(targets, len(outputs)), strict=True)
    return torch.stack([term(*of_run) for term, *of_run in each])


class Penalty:
    """`L1Penalty` or `L2Penalty` of each run.

    Raises:
        CannotStack: it is another one.
    """

    def __init__(self, name: str, penalty: nn.Module, store: StackedStore) -> None:
        if type(penalty) not in (L1Penalty, L2Penalty):
            raise CannotStack(f"loss term {name}: {type(penalty).__name__} is a penalty of the user's own")
        self._store, self._is_l1 = store, type(penalty) is L1Penalty
        # 1 for a weight, 0 for a bias, as `trainer.losses` tells them apart.
        first = store.stores[0]
        self._is_weight = torch.cat([p.new_full((p.numel(),), float(p.dim() > 1)) for p in first.parameters])

    def __call__(self) -> Tensor:
        weights = self._store.values * self._is_weight
        return weights.abs().sum(1) if self._is_l1 else weights.square().sum(1) / 2

    def add_gradient(self, factor: Tensor) -> None:
        """Adds `factor` `[num_runs, 1]` times the gradient to those in the store."""
        values = self._store.values.sign() if self._is_l1 else self._store.values
        self._store.grads.addcmul_(values * self._is_weight, factor)
