"""The loss of a run, tried on a few samples together with the model."""

from typing import Any

import torch
from torch import Tensor, nn

from trainer.config.settings import Settings
from trainer.data.batches import Batch
from trainer.data.prepare import Splits
from trainer.data.source import Data
from trainer.errors import UserError
from trainer.losses import LossFunction
from trainer.run.environment import Precision, is_out_of_memory
from trainer.run.instantiate import built, is_complaint, words
from trainer.run.model import sizes_to_type
from trainer.trees import called, leaves
from trainer.trials import undisturbed


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
    device = sample_device(sample)
    loss_fn.to(device, torch.float64 if settings.dtype == "float64" else torch.float32)
    for samples in (data.train, data.val, data.test):
        loss_fn.check_targets(samples.targets)
    # With gradients, to see that there is one.
    with undisturbed(model, device), precision(), torch.enable_grad():
        outputs = tried_outputs(settings, splits, model, sample)
        try:
            loss_fn.check(outputs, sample.targets)
        except UserError as error:
            raise UserError(f"{error}{sizes_to_type(settings, splits)}") from error
        total, loss_fn.term_names = tried_loss(settings, loss_fn, outputs, sample)
    if not total.requires_grad and any(parameter.requires_grad for parameter in model.parameters()):
        group = "loss" if any(output.requires_grad for output in leaves(outputs)) else "model"
        raise UserError(f"{group}={settings.names[group]}: no gradient leads through it; nothing would be learnt.")
    return loss_fn


def tried_outputs(settings: Settings, splits: Splits, model: nn.Module, sample: Batch) -> Any:
    """What the model gives for the sample.

    Raises:
        UserError: it does not take what the data has.
    """
    names = settings.names
    try:
        return called(model, sample.inputs)
    except Exception as error:
        if is_out_of_memory(error) or not is_complaint(settings, "model", error):
            raise
        raise UserError(
            f"model={names['model']}: does not take what data={names['data']} gives, inputs of shape "
            f"{_shape(sample.inputs)}: {words(settings, 'model', error)}.{sizes_to_type(settings, splits)}"
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
