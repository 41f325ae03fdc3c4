"""The loss of a run, tried on a few samples together with the model."""

import re
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from trainer import trees
from trainer.config.settings import Settings
from trainer.data.batches import Batch, Uneven
from trainer.data.given import as_whole
from trainer.data.item_leaks import some_targets
from trainer.data.items import Items
from trainer.data.prepare import Splits, targets_of
from trainer.data.quoting import listed
from trainer.data.source import Data
from trainer.errors import UserError, nearest
from trainer.exits import is_out_of_memory
from trainer.losses.function import LossFunction
from trainer.meaning import IGNORED, Classes, Meaning, Numbers, Unread
from trainer.run.classes import weigh_classes
from trainer.run.environment import Precision
from trainer.run.instantiate import built, is_complaint, ours, words
from trainer.run.loss_kind import kind_of
from trainer.run.model import has_lazy, placed, sizes_to_type
from trainer.run.teacher import with_teacher
from trainer.run.unregistered import refuse_unregistered, unregistered
from trainer.trees import called, differentiable, leaves
from trainer.trials import DIFFERENTIATING, undisturbed

USUAL_SIZES = (28, 32, 64, 96, 128, 224, 227, 299)  # pixels a side: of MNIST, LeNet, CIFAR, ..., ImageNet's networks


def build_loss(
    settings: Settings,
    data: Data,
    splits: Splits,
    model: nn.Module,
    sample: Batch,
    precision: Precision,
    needs_teacher: bool = True,
) -> LossFunction:
    """The loss function; it goes with what the data has and the model gives.

    Args:
        sample: a few samples of the validation split.
        needs_teacher: False: without the term of a teacher whose run is not here.

    Raises:
        UserError: the parts do not fit together, both named; or no gradient leads through them.
    """
    criterion = built(settings, "loss")
    weigh_classes(settings, criterion, data, splits.train)
    criterion = with_teacher(settings, criterion, data, splits, model, sample.inputs, needs_teacher)
    weights = ours(settings, "loss").get("weights")
    # Inputs that are targets have the size that the model gets them in.
    meaning = Numbers(splits.num_outputs) if data.are_own_targets and splits.num_outputs else data.meaning
    try:
        loss_fn = LossFunction(criterion, model, meaning, settings.names, weights)
    except UserError as error:
        raise UserError(f"{error}{task_to_type(settings, data) if 'class labels' in str(error) else ''}") from error
    refuse_numbered(settings, loss_fn)
    device = sample_device(sample)
    placed(loss_fn, device, torch.float64 if settings.dtype == "float64" else torch.float32)
    materialize(settings, loss_fn, model, sample, precision)
    note_differentiating(loss_fn, model, sample, precision)
    check_targets(data, loss_fn, sample)
    # With gradients, to see that there is one.
    with undisturbed(model, device, loss=loss_fn), precision(), torch.enable_grad():
        if loss_fn.differentiates_inputs:
            sample = sample.like(differentiable(sample.inputs), sample.targets)
        apart = unregistered(model, loss_fn)
        outputs = tried_outputs(settings, splits, model, loss_fn.given(sample.inputs, sample.targets))
        refuse_turned(settings, splits, loss_fn, model, sample, outputs)
        try:
            loss_fn.check(outputs, sample.targets)
        except UserError as error:
            raise UserError(f"{error}{sizes_to_type(settings, splits)}") from error
        total, loss_fn.term_names = tried_loss(settings, loss_fn, outputs, sample)
        refuse_unregistered(settings, apart, total, outputs, model, loss_fn)
        refuse_other_weights(settings, loss_fn)
        for term in loss_fn.terms:
            if term.wants is None:
                term.kind = kind_of(term, loss_fn, model, outputs, splits.train, sample)
        loss_fn.find_weighted()
        if isinstance(loss_fn.meaning, Numbers) and isinstance(splits.train.targets, Tensor):
            loss_fn.meaning = loss_fn.meaning.around(splits.train.targets)
        if is_unread(loss_fn, outputs, sample.targets):
            loss_fn.meaning = Unread(loss_fn.meaning.num_outputs)
    if not total.requires_grad and any(parameter.requires_grad for parameter in model.parameters()):
        group = "loss" if any(output.requires_grad for output in leaves(outputs)) else "model"
        raise UserError(f"{group}={settings.names[group]}: no gradient leads through it; nothing would be learnt.")
    return loss_fn


def check_targets(data: Data, loss_fn: LossFunction, sample: Batch) -> None:
    """Looks at the targets of all splits, or at some of those that are read while it trains. Raises UserError."""
    for samples in data.splits.values():
        targets = sample.targets if data.are_own_targets else targets_of(samples)
        if targets is None and isinstance(samples, Items) and loss_fn.bounds_targets:
            targets = some_targets(samples)
        if isinstance(targets, Tensor):
            loss_fn.check_targets(targets)


def is_unread(loss_fn: LossFunction, outputs: Any, targets: Any) -> bool:
    """Whether nobody but the loss knows which of the outputs stands for the classes or labels of the targets."""
    meaning = loss_fn.meaning
    if isinstance(meaning, Numbers | Unread):
        return False
    # Which of several outputs would be compared with targets that the loss does not look at?
    is_named = isinstance(outputs, Tensor) or "logits" in trees.fields_of(outputs)
    if not (loss_fn.is_of_targets or is_named):
        return True
    return meaning.scores_of(outputs) is None if isinstance(meaning, Classes) else not meaning.judged(outputs, targets)


def materialize(
    settings: Settings, loss_fn: LossFunction, model: nn.Module, sample: Batch, precision: Precision
) -> None:
    """Gives lazy parameters of a loss their shapes and first numbers."""
    if not has_lazy(loss_fn):
        return
    with undisturbed(model, sample_device(sample)), precision(), torch.no_grad():
        outputs = called(model, loss_fn.given(sample.inputs, sample.targets))
        loss_fn.eval()
        tried_loss(settings, loss_fn, outputs, sample)
        loss_fn.train()
    if has_lazy(loss_fn):
        raise UserError(f"loss={settings.names['loss']}: has a lazy layer that it does not call. Leave it out.")


def refuse_numbered(settings: Settings, loss_fn: LossFunction) -> None:
    """Raises UserError where the label that a loss leaves out is one of those that are numbered from 0."""
    meaning = loss_fn.meaning
    labels = meaning.names if isinstance(meaning, Classes) else ()
    for term in loss_fn.terms:
        ignored = getattr(term.criterion, "ignore_index", IGNORED)
        if str(ignored) in labels and labels.index(str(ignored)) != ignored:
            raise UserError(
                f"{term.key}.ignore_index={ignored}: data={settings.names['data']} has the labels {listed(labels)}, "
                f"which are numbered from 0. Type {term.key}.ignore_index={IGNORED}, and take out the samples that "
                "have no class."
            )


def are_taken_for_classes(settings: Settings, meaning: Meaning) -> bool:
    """Whether the data has whole numbers that may be no classes: nobody said so."""
    is_open = settings.group("data").get("task") == "auto"
    return is_open and isinstance(meaning, Classes) and all(name.lstrip("-").isdecimal() for name in meaning.names)


def task_to_type(settings: Settings, data: Data) -> str:
    """What to type where the targets are numbers that look like classes, or classes that look like numbers."""
    targets = data.example[1]
    if are_taken_for_classes(settings, data.meaning):
        return " Or data.task=regression, if these are numbers and no classes."
    if (
        settings.group("data").get("task") == "regression"
        or not isinstance(data.meaning, Numbers)
        or not isinstance(targets, Tensor)
        or as_whole(targets) is None
    ):
        return ""
    return " Or data.task=classification, if these whole numbers are classes."


def note_differentiating(loss_fn: LossFunction, model: nn.Module, sample: Batch, precision: Precision) -> None:
    """Whether the model differentiates in its forward pass, or the loss by the inputs: then evaluations do, too."""
    for is_tried in (False, True):
        try:
            with undisturbed(model, sample_device(sample), loss=loss_fn), precision(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of shapes, say: that is told later
                inputs = differentiable(sample.inputs) if loss_fn.differentiates_inputs else sample.inputs
                loss_fn(called(model, loss_fn.given(inputs, sample.targets)), sample.targets, inputs)
            return
        except RuntimeError as error:
            if "does not require grad" not in str(error):
                return  # that is told later
            DIFFERENTIATING.add(model)
            loss_fn.differentiates_inputs = is_tried or "differentiated Tensors" in str(error)
        except Exception:  # likewise
            return


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
        advice = ""
        if "types: Long, Int" in str(error):
            is_scaled = settings.group("data").get("standardize") is True
            whole = "in the file, type data.standardize=false" if is_scaled else "such as tokens, give inputs.long()"
            advice = f" If they are whole numbers {whole}."
        elif "type" in str(error) and any(not (x.is_floating_point() or x.is_complex()) for x in leaves(inputs)):
            advice = " They are whole numbers. If they stand for quantities, give inputs.float()."
        advice = advice or _channels_to_type(splits, str(error)) or sizes_to_type(settings, splits)
        raise UserError(
            f"model={names['model']}: does not take what data={names['data']} gives, inputs of shape "
            f"{_shape(inputs)}: {words(settings, 'model', error)}."
            f"{advice or _image_size_to_type(splits, model, inputs)}"
        ) from error


def refuse_turned(
    settings: Settings, splits: Splits, loss_fn: LossFunction, model: nn.Module, sample: Batch, outputs: Any
) -> None:
    """Raises UserError for outputs without a row for each sample, which two samples of two classes do not show."""
    is_known = all(term.wants is not None for term in loss_fn.terms)
    is_hidden = isinstance(outputs, Tensor) and outputs.shape[:2] == (2, 2) and not isinstance(sample, Uneven)
    if not is_known or not is_hidden or sample.num_samples != 2:
        return
    three = sample.gathered(torch.tensor([0, 1, 0], device=outputs.device))
    found = tried_outputs(settings, splits, model, loss_fn.given(three.inputs, three.targets))
    if isinstance(found, Tensor) and found.dim() == outputs.dim() and len(found) != 3:
        how = "outputs.movedim(1, 0)" if found.shape[:2] == (2, 3) else "a row for each sample"
        raise UserError(
            f"model={settings.names['model']}: gives outputs of shape {list(found.shape)} for three samples; the first "
            f"dimension is that of the samples. Give {how}."
        )


def _channels_to_type(splits: Splits, said: str) -> str:
    """What makes grey or coloured images those that a model complains it was not given."""
    wanted = re.search(r"(?:to have|[Ee]xpected) ([13])(?: channels)?,? but got ([13])\b", said)
    shape = splits.input_shape
    if splits.transform is None or wanted is None or len(shape) != 3 or shape[0] != int(wanted[2]):
        return ""
    return f" Type model.in_channels={wanted[1]}: grey images become colours and colours grey."


def _image_size_to_type(splits: Splits, model: nn.Module, inputs: Any) -> str:
    """The first usual size of images that a model takes where it does not take theirs: each is tried."""
    if splits.transform is None or not isinstance(inputs, Tensor) or inputs.dim() != 4:
        return ""
    for size in USUAL_SIZES:
        try:
            with torch.no_grad():
                called(model, inputs.new_zeros(*inputs.shape[:2], size, size))
        except Exception:  # of the model: it does not take this size either
            continue
        return f" Type data.image_size={size}."
    return ""


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
            f"precision={settings.precision}: {words(settings, 'loss', error)}.{by_a_function(loss_fn, error)}"
        ) from error
    if not isinstance(total, Tensor):
        raise UserError(f"{loss}: gives a {type(total).__name__}; a tensor is needed.")
    if total.dim():
        raise UserError(f"{loss}: gives a tensor of shape {list(total.shape)}; one number is needed.")
    if total.is_complex():
        raise UserError(f"{loss}: gives a complex number; a real one is needed, as its abs() or .real.")
    return total, list(terms)


def by_a_function(loss_fn: LossFunction, error: Exception) -> str:
    """What to do with a criterion of torch's that takes more than outputs and targets."""
    are_ours = all(type(term.criterion).__module__.startswith("torch.") for term in loss_fn.terms)
    is_one = are_ours and isinstance(error, TypeError) and "missing" in str(error)
    return " Call it in a function of your own: train help own." if is_one else ""


def refuse_other_weights(settings: Settings, loss_fn: LossFunction) -> None:
    """Raises UserError where loss.weights weighs what the loss does not add up."""
    loss, names = f"loss={settings.names['loss']}", loss_fn.term_names
    for name in loss_fn.weight_of:
        if loss_fn.is_of_model:
            raise UserError(f"loss.weights.{name}: {loss} is added up by the model. Leave it out.")
        if loss_fn.names != [""]:
            raise UserError(f"loss.weights.{name}: {loss} has weights of its own. Type loss.terms.{name}.weight=...")
        if name not in names:
            has = f"{loss} has the terms {', '.join(names)}" if names else f"{loss} gives one number and no terms"
            are_weighed = any(hasattr(term.criterion, "weight") for term in loss_fn.terms)
            else_ = " Classes are weighed by loss.weight=[1,2,...]." if are_weighed else " Leave it out."
            raise UserError(f"loss.weights.{name}: {has}.{nearest(name, names) or else_}")


def sample_device(sample: Batch) -> torch.device:
    return leaves(sample.inputs)[0].device


def _shape(tree: Any) -> str:
    """`[2, 10]` of a tensor; its kind, and the shapes in it, of anything else."""
    if isinstance(tree, Tensor):
        return str(list(tree.shape))
    return f"{type(tree).__name__} of {', '.join(str(list(leaf.shape)) for leaf in leaves(tree)) or 'no tensor'}"
