"""One batch under the glass: the loss of each sample, its part in the gradient, and what each layer gives."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trainer import trees
from trainer.data.batches import Batch
from trainer.evaluate import whole_of
from trainer.losses.function import LossFunction
from trainer.losses.term import Whole
from trainer.meaning import Classes
from trainer.monitor.activations import Activations
from trainer.run.parts import Parts
from trainer.trees import called, differentiable, leaves
from trainer.trials import evaluating, undisturbed

AT_ONCE = 1 << 25  # numbers of gradients that are held at once: 128 MB


@dataclass
class Looks:
    """What was seen of the samples of a batch, in its order, on the host.

    Args:
        outputs: of the model, those that its meaning reads; None where it reads none.
        losses: `[N]`, of each sample by itself; None where the loss is none of single samples.
        norms: `[N]`, of the gradient of each sample's part of the loss; None where it can't be told.
        shares: `[N]`, how much of the gradient comes from it, along the gradient's own direction: they add up to 1.
    """

    outputs: Tensor | None
    losses: Tensor | None
    norms: Tensor | None
    shares: Tensor | None


def each_loss(loss_fn: LossFunction, outputs: Any, batch: Batch, inputs: Any, whole: Whole) -> Tensor | None:
    """`[N]`: what each sample adds to the loss of the whole; differentiable. None where that is not known.

    Args:
        inputs: those of the batch, as the model got them.
    """
    inputs = inputs if loss_fn.is_of_inputs else None
    is_cut = trees.is_per_sample((outputs, batch.targets, inputs), batch.num_samples)
    if loss_fn.is_of_whole or not trees.leaves(outputs) or not is_cut:
        return None
    ones = zip(*(trees.parts(tree, 1) for tree in (outputs, batch.targets, inputs)), strict=False)  # None has no end
    return torch.stack([loss_fn(*one, whole).total for one in ones])


def look(parts: Parts, batch: Batch, has_gradients: bool = True) -> tuple[Looks, dict[str, float]]:
    """The batch as the next step sees it: in training mode, with the step's own draws; nothing is changed by it.

    Args:
        has_gradients: whether to look at single samples, too.

    Returns:
        also the root mean square of what each layer gives, by its name.
    """
    loss_fn, model = parts.loss_fn, parts.model
    whole = loss_fn.whole(batch.num_samples, batch.targets)
    found: list[Looks] = []
    with undisturbed(model, parts.device, is_training=True, loss=loss_fn):
        activations = Activations(model)
        activations.watch()
        layers: dict[str, float] = {}
        for part in batch.parts(parts.length.batch_size):
            inputs = differentiable(part.inputs) if loss_fn.differentiates_inputs else part.inputs
            with parts.precision():
                outputs = called(model, inputs)
                losses = each_loss(loss_fn, outputs, part, inputs, whole) if has_gradients else None
            layers = layers or root_mean_squares(activations.numbers())
            norms, products = (None, None) if losses is None else gradients(parts, losses)
            found.append(Looks(_read(loss_fn, outputs, part.num_samples), _host(losses), norms, products))
    outputs, losses, norms, products = (
        None if any(getattr(one, name) is None for one in found) else torch.cat([getattr(one, name) for one in found])
        for name in ("outputs", "losses", "norms", "shares")
    )
    losses = None if losses is None else losses * _times(loss_fn, batch.num_samples)
    total = float(products.sum()) if products is not None else 0.0
    shares = products / total if products is not None and math.isfinite(total) and total > 0 else None
    return Looks(outputs, losses, norms, shares), layers


def _times(loss_fn: LossFunction, num_samples: int) -> int:
    """What a sample's part of a loss is to be multiplied by to be its own: of a mean, each counts 1/N."""
    return 1 if any(term.kind == "sum" for term in loss_fn.terms) else num_samples


def _host(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach().double().cpu()


def _read(loss_fn: LossFunction, outputs: Any, num_samples: int) -> Tensor | None:
    """The tensor among the outputs that is shown; None without a row for each sample."""
    meaning = loss_fn.meaning
    found = meaning.scores_of(outputs) if isinstance(meaning, Classes) else next(iter(leaves(outputs)), None)
    return found.detach().float().cpu() if found is not None and trees.is_per_sample(found, num_samples) else None


def root_mean_squares(numbers: dict[str, float]) -> dict[str, float]:
    """Layer to the root mean square of what it gives."""
    found = {}
    for tag, mean in numbers.items():
        kind, _, layer = tag.partition("/")
        if kind == "activation_mean":
            found[layer] = math.hypot(mean, numbers.get(f"activation_std/{layer}", 0.0))
    return found


def gradients(parts: Parts, losses: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """`[N]` norms of the gradients of single samples' losses, and their scalar products with the sum of all of them.

    One forward pass, and a vector-Jacobian product per sample through it: exact also where samples share a batch norm.
    """
    parameters = [parameter for parameter in parts.state.store.parameters if parameter.requires_grad]
    if not parameters or not losses.requires_grad:
        return None, None
    summed = torch.autograd.grad(losses.sum(), parameters, retain_graph=True, allow_unused=True)
    chunk = max(1, min(len(losses), AT_ONCE // parts.state.store.values.shape[1]))
    norms, products = [], []
    eye = torch.eye(len(losses), dtype=losses.dtype, device=losses.device)
    for rows in eye.split(chunk):
        squares = torch.zeros(len(rows), dtype=torch.float64)
        along = torch.zeros(len(rows), dtype=torch.float64)
        for of_one, of_all in zip(_jacobian(losses, parameters, rows), summed, strict=True):
            if of_one is not None and of_all is not None:
                flat = _flat(of_one)
                squares += flat.square().sum(1).cpu()
                along += (flat @ _flat(of_all[None])[0]).cpu()
        norms.append(squares.sqrt())
        products.append(along)
    return torch.cat(norms), torch.cat(products)


def _flat(tensor: Tensor) -> Tensor:
    """`[N, ...]` to `[N, D]` of real float64."""
    tensor = torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
    return tensor.flatten(1).double()


def _jacobian(losses: Tensor, parameters: Sequence[Tensor], rows: Tensor) -> list[Tensor | None]:
    """For each parameter `[len(rows), *shape]`: all at once by torch.func's vmap; one by one where that can't be."""
    options: dict[str, Any] = {"retain_graph": True, "allow_unused": True}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an operation that vmap makes one by one
            return list(torch.autograd.grad(losses, parameters, rows, is_grads_batched=True, **options))
    except RuntimeError:  # a function of somebody's own, which vmap does not know
        found = [torch.autograd.grad(losses, parameters, row, **options) for row in rows]
        return [None if of[0] is None else torch.stack([*of]) for of in zip(*found, strict=True)]


def losses_in_order(parts: Parts, split: str) -> tuple[list[Tensor], list[Tensor | None]]:
    """The loss of every sample of a split, and what the model says of it, batch by batch; in evaluation mode.

    It is the sample's part of the loss of the split, as `look` has it of a batch: where classes are weighed, those of a
    heavy one cost more.
    """
    losses, outputs = [], []
    batches = getattr(parts.splits, split)
    whole = whole_of(parts.loss_fn, batches)
    with evaluating(parts.model, parts.device):
        for batch in batches.in_order():
            with parts.precision():
                given = called(parts.model, batch.inputs)
                found = each_loss(parts.loss_fn, given, batch, batch.inputs, whole)
            if found is None:
                return [], []
            losses.append(found.detach().double().cpu() * _times(parts.loss_fn, whole.num_samples))
            outputs.append(_read(parts.loss_fn, given, batch.num_samples))
    return losses, outputs
