"""Whether a loss of the user's is a mean over samples, a sum, or neither: found by trying."""

import contextlib
import math
from dataclasses import dataclass, field
from functools import partial
from itertools import repeat
from typing import Any

import torch
from torch import Tensor, nn

from trainer import trees
from trainer.data.batches import Batch, Batches, ResidentBatches, Uneven, some_samples
from trainer.errors import UserError
from trainer.losses.function import LossFunction
from trainer.losses.term import Kind, Term
from trainer.trees import called, differentiable, leaves

MOST_SEARCHED = 1 << 26  # numbers of a tensor that are looked through for the smallest and the largest


def kind_of(term: Term, loss_fn: LossFunction, model: nn.Module, outputs: Any, train: Batches, sample: Batch) -> Kind:
    """Whether a loss of the user's is a mean over samples, or a sum, or neither, found by trying.

    A loss that is both for these samples, as 0 is, counts as what it calls itself, or as a mean. A weighted mean is
    what derives from one of torch's, and is its own sum divided by what the targets weigh.

    Args:
        outputs: of `sample`.
        train: where samples are that the loss may leave out, or weigh.
    """
    is_anew = loss_fn.differentiates_inputs or loss_fn.is_of_model
    is_anew = is_anew or not trees.is_per_sample(outputs, sample.num_samples)
    trial = Trial(term, loss_fn, model, is_anew)
    try:
        sample, outputs = trial.unlike_samples(train, sample, outputs)
        if (kind := trial.kind(sample, outputs)) is not None:
            return kind
        is_crossed = False
        if may_be_turned(outputs, sample.targets):
            targets = sample.targets.unsqueeze(1) if sample.targets.dim() == 1 else sample.targets.flatten()
            with contextlib.suppress(Exception):  # it takes no such targets
                is_crossed = trial.kind(sample.like(sample.inputs, targets), outputs) is not None
    except Exception:  # it wants to see several samples
        return "whole"
    if is_crossed:
        refuse_crossed(term.names["loss"], outputs, sample.targets)
    return "weighted mean" if not is_anew and is_weighted_mean(term, outputs, sample.targets) else "whole"


@dataclass
class Trial:
    """How the losses of samples come to that of all of them.

    Args:
        is_anew: outputs are computed for each sample, as they can't be cut, or are differentiated.
        singles: batches of one sample each, of samples that can't be cut.
    """

    term: Term
    loss_fn: LossFunction
    model: nn.Module
    is_anew: bool
    singles: list[Batch] = field(default_factory=list)

    def unlike_samples(self, train: Batches, sample: Batch, outputs: Any) -> tuple[Batch, Any]:
        """Samples that are unlike each other, and what the model gives for them."""
        are_known = isinstance(train.targets, Tensor)
        if not (self.is_anew or self.loss_fn.is_of_inputs or not are_known or not isinstance(outputs, Tensor)):
            rows = unlike(train.targets)
            outputs = trees.mapped(lambda x: x[torch.arange(len(rows)) % len(x)], outputs)
            return Batch(None, train.targets[rows].to(sample.targets)), outputs
        rows = spread(train)
        if are_known and not self.is_anew:
            rows = torch.cat([rows, unlike(train.targets).cpu()])
        rows = rows.unique()
        sample = some_samples(train, rows)
        if isinstance(sample, Uneven):
            self.singles = [some_samples(train, row) for row in rows.split(1)]
        return sample, None if self.is_anew else self.given(sample)

    def kind(self, sample: Batch, outputs: Any) -> Kind | None:
        """A mean or a sum over these samples; None where the loss is neither."""
        # Samples of different losses: the mean of equal ones is also the root of the mean of their squares. And as they
        # are: beside large losses, a small term would not be seen.
        tries = [self.values(sample, outputs, factor) for factor in ((1,) if self.is_anew else (100, 1))]
        tries = [numbers for numbers in tries if math.isfinite(sum([numbers[0], *numbers[2]]))] or tries[-1:]
        is_rough = any(of_all != again for of_all, again, _ in tries)
        is_rough = is_rough or any(x.dtype in (torch.bfloat16, torch.float16) for x in leaves(outputs))
        close = partial(math.isclose, rel_tol=0.02 if is_rough else 1e-4, abs_tol=1e-6)
        is_mean = all(close(of_all, sum(each) / len(each)) for of_all, _, each in tries)
        is_sum = all(close(of_all, sum(each)) for of_all, _, each in tries)
        if is_mean or is_sum:
            return self.term.kind if is_mean and is_sum else "mean" if is_mean else "sum"
        return None

    def values(self, sample: Batch, outputs: Any, factor: float) -> tuple[float, float, list[float]]:
        """Of all samples, twice, and of each; the outputs of every second one times a factor."""
        scaled = None if self.is_anew else trees.mapped(partial(with_every_second, factor=factor), outputs)
        rows = repeat(None) if self.is_anew else trees.parts(scaled, 1)
        parts = self.singles or sample.parts(1)
        return self.loss(sample, scaled), self.loss(sample, scaled), list(map(self.loss, parts, rows))

    def loss(self, batch: Batch, outputs: Any) -> float:
        """Of these samples; `outputs`: of the model, unless they are computed anew."""
        inputs = differentiable(batch.inputs) if self.loss_fn.differentiates_inputs else batch.inputs
        batch = batch.like(inputs, batch.targets)
        outputs = self.given(batch) if self.is_anew else outputs
        return self.loss_fn.of_term(self.term, outputs, *reversed(batch)).item()

    def given(self, batch: Batch) -> Any:
        return called(self.model, self.loss_fn.given(batch.inputs, batch.targets))


def refuse_crossed(name: str, outputs: Any, targets: Tensor) -> None:
    """Raises UserError: outputs and targets make `[N, N]`."""
    shape, other = ("[N]", "[N, 1]") if targets.dim() == 1 else ("[N, 1]", "[N]")
    more, how = f"outputs {other} and ", "outputs = outputs.reshape(targets.shape)"
    if not (isinstance(outputs, Tensor) and outputs.numel() == targets.numel()):
        more, how = "", f"targets = targets.{'unsqueeze(1)' if shape == '[N]' else 'flatten()'}"
    raise UserError(
        f"loss={name}: is given {more}targets {shape}, and compares each sample with each. Write {how} into it."
    )


def may_be_turned(outputs: Any, targets: Any) -> bool:
    """Whether targets are `[N]` or `[N, 1]`, and the other may be compared with them: torch makes `[N, N]` of both.

    Outputs show it; but where they are several numbers for a sample, as two vectors, it may be a distance between them.
    """
    if not isinstance(targets, Tensor) or targets.dim() not in (1, 2) or targets[0].numel() != 1:
        return False
    is_one = isinstance(outputs, Tensor) and outputs.numel() == targets.numel()
    return not is_one or (isinstance(outputs, Tensor) and sorted((outputs.dim(), targets.dim())) == [1, 2])


def is_weighted_mean(term: Term, outputs: Any, targets: Any) -> bool:
    """Whether a criterion that derives from one of torch's with weights still divides a sum over samples by them."""
    is_of_labels = isinstance(targets, Tensor) and not targets.is_floating_point()
    if not term.may_weigh or term.kind != "mean" or not is_of_labels:
        return False
    outputs = trees.mapped(partial(with_every_second, factor=10), outputs)
    rows = zip(trees.parts(outputs, 1), trees.parts(targets, 1), strict=True)
    added = sum(term.added_up(*row).item() for row in rows)
    whole, close = term.added_up(outputs, targets).item(), partial(math.isclose, rel_tol=1e-3)
    return close(whole, added) and close(whole / term.weight(targets).item(), term(outputs, targets).item())


def with_every_second(tensor: Tensor, factor: float) -> Tensor:
    """The same, every second row times a factor."""
    spread = tensor.clone()
    spread[1::2] *= factor
    return spread


def spread(split: Batches) -> Tensor:
    """The numbers of some samples from all over a split: `[n]`.

    Of tensors in memory, such as masks, lengths and weights, those with the smallest and the largest number are among
    them: often that is what a loss leaves out.
    """
    rows = [torch.linspace(0, len(split) - 1, min(len(split), 8)).long()]
    if isinstance(split, ResidentBatches):
        for leaf in leaves((split.inputs, split.targets)):
            if not leaf.is_complex() and 0 < leaf.numel() <= MOST_SEARCHED:
                numbers = leaf.to(torch.uint8) if leaf.dtype == torch.bool else leaf
                rows.append(torch.stack([numbers.argmin(), numbers.argmax()]).cpu() // leaf[0].numel())
    return torch.cat(rows)


def unlike(targets: Tensor) -> Tensor:
    """The numbers of some samples that are unlike each other: `[n]`, from all over the split, and of each label one.

    Of more than 32 labels, or numbers: of the smallest, the largest and those that come most often. One may stand for
    what is missing.
    """
    rows = [torch.linspace(0, len(targets) - 1, min(len(targets), 16)).long()]
    some = targets[: max(16, 2**20 // max(1, targets[0].numel()))].flatten(1) if targets.dim() > 1 else targets[:, None]
    labels, counts = some.unique(return_counts=True)
    if len(labels) > 32:  # what has no class has the first number, or the last: -100, 255; of numbers it may be 0
        labels = torch.cat([labels[:14], labels[-14:], labels[counts.topk(4).indices]])
    return torch.cat([*rows, *((some == label).any(1).nonzero()[0].cpu() for label in labels)]).to(targets.device)
