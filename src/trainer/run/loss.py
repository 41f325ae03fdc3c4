"""The loss of a run, tried on a few samples together with the model."""

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from trainer import trees
from trainer.config.settings import Settings
from trainer.data.batches import Batch
from trainer.data.prepare import Splits, targets_of
from trainer.data.source import Data
from trainer.errors import UserError
from trainer.evaluate import MOST_AT_ONCE
from trainer.losses import Kind, LossFunction
from trainer.meaning import Classes, Labels, Places, Unread
from trainer.run.environment import Precision, is_out_of_memory
from trainer.run.instantiate import built, is_complaint, words
from trainer.run.model import sizes_to_type
from trainer.trees import called, differentiable, leaves
from trainer.trials import DIFFERENTIATING, undisturbed


def build_loss(
    settings: Settings, data: Data, splits: Splits, model: nn.Module, sample: Batch, precision: Precision
) -> LossFunction:
    """The loss function; it goes with what the data has and the model gives.

    Args:
        sample: a few samples of the validation split.

    Raises:
        UserError: the parts do not fit together, both named; or no gradient leads through them.
    """
    loss_fn = LossFunction(built(settings, "loss"), model, data.meaning, settings.names)
    note_differentiating(loss_fn, model, sample, precision)
    device = sample_device(sample)
    loss_fn.to(device, torch.float64 if settings.dtype == "float64" else torch.float32)
    for samples in (data.train, data.val, data.test):
        targets = sample.targets if data.are_own_targets else targets_of(samples)
        if isinstance(targets, Tensor):
            loss_fn.check_targets(targets)
    # With gradients, to see that there is one.
    with undisturbed(model, device), precision(), torch.enable_grad():
        if loss_fn.differentiates_inputs:
            sample = Batch(differentiable(sample.inputs), sample.targets)
        outputs = tried_outputs(settings, splits, model, sample.inputs)
        try:
            loss_fn.check(outputs, sample.targets)
        except UserError as error:
            raise UserError(f"{error}{sizes_to_type(settings, splits)}") from error
        total, loss_fn.term_names = tried_loss(settings, loss_fn, outputs, sample)
        for term in loss_fn.terms:
            if term.wants is None and not hasattr(term.criterion, "reduction"):
                term.kind = kind_of(loss_fn, model, outputs, sample)
        if isinstance(loss_fn.meaning, Classes) and loss_fn.meaning.scores_of(outputs) is None:
            loss_fn.meaning = Unread(loss_fn.meaning.num_outputs)
        if isinstance(loss_fn.meaning, Places | Labels) and not loss_fn.meaning.judged(outputs, sample.targets):
            loss_fn.meaning = Unread(loss_fn.meaning.num_outputs)
    if not total.requires_grad and any(parameter.requires_grad for parameter in model.parameters()):
        group = "loss" if any(output.requires_grad for output in leaves(outputs)) else "model"
        raise UserError(f"{group}={settings.names[group]}: no gradient leads through it; nothing would be learnt.")
    return loss_fn


def note_differentiating(loss_fn: LossFunction, model: nn.Module, sample: Batch, precision: Precision) -> None:
    """Whether the model differentiates in its forward pass, or the loss by the inputs: then evaluations do, too."""
    for is_tried in (False, True):
        try:
            with undisturbed(model, sample_device(sample)), precision():
                inputs = differentiable(sample.inputs) if loss_fn.differentiates_inputs else sample.inputs
                loss_fn(called(model, inputs), sample.targets, inputs)
            return
        except RuntimeError as error:
            if "does not require grad" not in str(error):
                return  # that is told later
            DIFFERENTIATING.add(model)
            loss_fn.differentiates_inputs = is_tried or "differentiated Tensors" in str(error)
        except Exception:  # likewise
            return


def kind_of(loss_fn: LossFunction, model: nn.Module, outputs: Any, sample: Batch) -> Kind:
    """Whether a loss of the user's is a mean over samples, or a sum, or neither, found by trying.

    A loss that is both for these samples, as 0 is, counts as a mean.
    """

    def loss(batch: Batch, given: Any) -> float:
        outputs = called(model, batch.inputs) if loss_fn.differentiates_inputs else given
        return loss_fn(outputs, batch.targets, batch.inputs).total.item()

    # Samples of different losses: the mean of equal ones is also the root of the mean of their squares.
    outputs = trees.mapped(lambda x: torch.cat([row * 100**i for i, row in enumerate(x.split(1))]), outputs)
    try:
        both, each = loss(sample, outputs), map(loss, sample.parts(1), trees.parts(outputs, 1))
        values = list(each)
    except Exception:  # it wants to see several samples
        return "whole"
    close = partial(math.isclose, both, rel_tol=0.02, abs_tol=1e-6)
    return "mean" if close(sum(values) / len(values)) else "sum" if close(sum(values)) else "whole"


def doubts_of_loss(settings: Settings, loss_fn: LossFunction, model: nn.Module, sample: Batch) -> list[str]:
    """What may be meant but seldom is, a warning each."""
    names, found = settings.names, []
    with undisturbed(model, sample_device(sample)):
        outputs = called(model, sample.inputs)
    for term in loss_fn.terms:
        is_of_logits = term.wants is not None and "probabilities" not in term.wants.outputs
        if is_of_logits and isinstance(outputs, Tensor) and outputs.dim() == 2 and outputs.shape[1] > 1:
            sums = outputs.sum(1)
            if bool((outputs >= 0).all()) and torch.allclose(sums, torch.ones_like(sums), atol=1e-3):
                found.append(
                    f"warning: model={names['model']}: its outputs look like probabilities, which loss={names['loss']} "
                    'does not take. Leave the softmax out; or write gives = "probabilities" into the class, and type '
                    "loss=nll."
                )
    if any(term.kind == "whole" for term in loss_fn.terms):
        found.append(
            f"warning: loss={names['loss']}: is no mean and no sum over samples. Validation and test take it over the "
            f"whole split, up to {MOST_AT_ONCE:,} samples at once; parts of a batch count by their samples."
        )
    elif any(term.kind == "sum" and term.wants is None for term in loss_fn.terms):
        found.append(f"loss={names['loss']}: is a sum over samples")
    return found


def tried_outputs(settings: Settings, splits: Splits, model: nn.Module, inputs: Any) -> Any:
    """What the model gives for the inputs of the sample.

    Raises:
        UserError: it does not take what the data has.
    """
    names = settings.names
    try:
        return called(model, inputs)
    except Exception as error:
        if is_out_of_memory(error) or not is_complaint(settings, "model", error):
            raise
        raise UserError(
            f"model={names['model']}: does not take what data={names['data']} gives, inputs of shape "
            f"{_shape(inputs)}: {words(settings, 'model', error)}.{sizes_to_type(settings, splits)}"
        ) from error


def tried_loss(settings: Settings, loss_fn: LossFunction, outputs: Any, sample: Batch) -> tuple[Tensor, list[str]]:
    """The loss of the sample, and the names of its terms.

    Raises:
        UserError: it can't be taken of such outputs, or is no single number.
    """
    loss = f"loss={settings.names['loss']}"
    try:
        total, terms = loss_fn(outputs, sample.targets, sample.inputs)
    except Exception as error:
        if is_out_of_memory(error) or not is_complaint(settings, "loss", error):
            raise
        raise UserError(
            f"{loss}: can't be taken of outputs {_shape(outputs)} and targets {_shape(sample.targets)} with "
            f"precision={settings.precision}: {words(settings, 'loss', error)}."
        ) from error
    if not isinstance(total, Tensor):
        raise UserError(f"{loss}: gives a {type(total).__name__}; a tensor is needed.")
    if total.dim():
        raise UserError(f"{loss}: gives a tensor of shape {list(total.shape)}; one number is needed.")
    return total, list(terms)


def sample_device(sample: Batch) -> torch.device:
    return leaves(sample.inputs)[0].device


def _shape(tree: Any) -> str:
    """`[2, 10]` of a tensor; its kind, and the shapes in it, of anything else."""
    if isinstance(tree, Tensor):
        return str(list(tree.shape))
    return f"{type(tree).__name__} of {', '.join(str(list(leaf.shape)) for leaf in leaves(tree)) or 'no tensor'}"
