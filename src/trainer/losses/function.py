"""What the loop calls: outputs and targets to losses."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from trainer import trees
from trainer.distributed import ALONE, World
from trainer.errors import UserError
from trainer.losses.criteria import Composite
from trainer.losses.own import OfModel, Said, takes_labels, with_labels
from trainer.losses.term import Kind, Term, Whole
from trainer.meaning import FORMS, Meaning


class Losses(NamedTuple):
    """A loss of one batch: `total` is a scalar to call `backward()` on; `terms` its parts by name, before weighting."""

    total: Tensor
    terms: dict[str, Tensor]


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
        UserError: a criterion can't take what the model gives; that is none of `FORMS`; or there is nothing but
            penalties, which look at no target.
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
        if gives not in FORMS:
            raise UserError(f"model={names['model']}: says gives={gives!r}; accepted are {', '.join(FORMS)}.")
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
            part if penalty else Term(part, gives, meaning, names, f"loss.terms.{name}.criterion" if name else "loss")
            for part, name, penalty in zip(parts, self.names, is_penalty, strict=True)
        )
        self.find_weighted()
        compared = next((term.compared_with for term in self.terms if term.wants), "index")
        self.meaning = meaning.read_as(gives, compared)
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
    def own_buffers(self) -> list[Tensor]:
        """Those of criteria that we don't know, which may change in every step; torch's are constant."""
        own = [part for part in self.parts if not isinstance(part, Term) or part.wants is None]
        return [buffer for part in own for buffer in part.buffers()]

    @property
    def is_of_inputs(self) -> bool:
        """Whether it looks at what the model is given, beside what comes out."""
        return self.is_of_model or any("inputs" in term.asks_for for term in self.terms)

    @property
    def is_of_targets(self) -> bool:
        """Whether anything in it looks at the targets."""
        return self.is_of_model or any(term.is_of_targets for term in self.terms)

    def given(self, inputs: Any, targets: Any) -> Any:
        """What the model is called with: the inputs, and the targets where it computes its loss of them itself."""
        names, label = self._labels
        return inputs if label is None or targets is None else with_labels(inputs, targets, names, label)

    def find_weighted(self) -> None:
        """Is called once more when the kind of a term is known that had to be tried."""
        self._weighted = {
            i: part for i, part in enumerate(self.parts) if isinstance(part, Term) and part.kind == "weighted mean"
        }

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

    @property
    def bounds_targets(self) -> bool:
        """Whether a criterion is not defined for all numbers: then those of a whole split are looked at."""
        return any(term.bounds_targets for term in self.terms)

    def check_targets(self, targets: Any) -> None:
        """See `Term.check_targets`."""
        for term in self.terms:
            term.check_targets(targets)

    def whole(self, num_samples: int, targets: Any, world: World = ALONE) -> Whole:
        """What `targets`, all ranks' together, are all of: for `forward` to be called with parts of them."""
        if not self._weighted:
            return Whole(num_samples)
        return Whole(num_samples, {i: world.sum(term.weight(targets)) for i, term in self._weighted.items()})

    def forward(
        self, outputs: Any, targets: Any, inputs: Any = None, of: Whole | None = None, number: int | None = None
    ) -> Losses:
        """The losses of some samples.

        Args:
            inputs: of the model, for a criterion that asks for them.
            of: what they are a part of. The losses of all parts then add up to those of the whole: means and penalties
                count by their share of the samples, means over weighted targets by their share of the weights, sums
                as they are.
            number: of the samples; None: as many as the targets, or the inputs, have rows.
        """
        if number is None and of is not None:
            number = trees.num_samples(inputs if targets is None else targets)
        share = 1.0 if of is None or number is None else number / of.num_samples
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

    def each(self, outputs: Any, targets: Any, of: Whole | None = None) -> Tensor | None:
        """The loss of each sample by itself, `[N]`, without penalties; None where a criterion can't tell them apart.

        Args:
            of: what they are a part of, see `forward`; None: of nothing. The mean over all of it is the loss, but for
                criteria that are a sum, whose sum it is.
        """
        means = {} if of is None else {i: weight / of.num_samples for i, weight in of.weights.items()}
        found = [
            part.each(outputs, targets, means.get(i)) if isinstance(part, Term) else 0.0
            for i, part in enumerate(self.parts)
        ]
        if any(losses is None for losses in found):
            return None
        pairs = zip(found, self.weights, strict=True)
        return _added([losses * weight for losses, weight in pairs if isinstance(losses, Tensor)])

    def of_term(self, term: Term, outputs: Any, targets: Any, inputs: Any = None) -> Tensor:
        """One criterion alone, without its weight."""
        numbers, value = _parted(self._value(term, outputs, targets, inputs, None))
        return _added([self._weighed(name, number) for name, number in numbers.items()]) if value is None else value

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
    """Raises ValueError where there is nothing, or one term of a dict is no single number in a tensor."""
    if value is None:
        raise ValueError("it gives None; one number in a tensor, or a dict of them, is needed")
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
