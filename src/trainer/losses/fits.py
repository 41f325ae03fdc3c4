"""Whether a criterion can take what a model gives and what data has; torch would broadcast without a word."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from trainer.errors import UserError
from trainer.losses.criteria import Dice, Focal, SumSquaredError
from trainer.meaning import Classes, Labels, Meaning, Numbers, Places, Unread


@dataclass(frozen=True)
class Wants:
    """What a criterion takes: `outputs` of the model in one of these forms, and targets in this one."""

    outputs: tuple[str, ...]
    # "index", "values" (class labels become one-hot), "fractions" (values in 0..1), "shares" (that add up to 1), or
    # "masks": a class for each place, or fractions
    targets: str
    # What values must be beside that: "signs" (-1 or 1), or "counts" (0 and more). Class labels are neither.
    only: str = ""
    is_of_places: bool = True  # whether those with an index, or shares, take a class for each place


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
    nn.PoissonNLLLoss: Wants(_VALUES.outputs, "values", "counts"),
    nn.SoftMarginLoss: Wants(("logits",), "values", "signs"),
    nn.HingeEmbeddingLoss: Wants(("logits",), "values", "signs"),
    nn.MultiLabelSoftMarginLoss: Wants(("logits",), "fractions"),
    nn.KLDivLoss: Wants(("log_probabilities", "logits", "probabilities"), "shares", is_of_places=False),
    nn.MultiMarginLoss: Wants(("logits", "log_probabilities"), "index", is_of_places=False),
    Focal: Wants(("logits",), "index"),
    Dice: Wants(("logits",), "masks"),
}


# What to type instead where a criterion can't take what the model gives.
INSTEAD = {
    ("logits", nn.BCELoss): "loss=bce_with_logits",
    ("probabilities", nn.BCEWithLogitsLoss): "loss=bce",
    ("probabilities", nn.CrossEntropyLoss): "loss=nll",
    ("logits", nn.NLLLoss): "loss=cross_entropy",
    ("log_probabilities", nn.BCELoss): "loss=nll",
    ("log_probabilities", nn.BCEWithLogitsLoss): "loss=nll",
    ("probabilities", Focal): "loss=nll",
    ("log_probabilities", Focal): "loss=nll",
    ("probabilities", Dice): "loss=bce",
    ("log_probabilities", Dice): "loss=nll",
    ("probabilities", nn.MultiMarginLoss): "loss=nll",
}


def torchs(criterion: nn.Module) -> type[nn.Module]:
    """The class among `WANTS` that a criterion is, or inherits its `forward` from; `nn.Module` where there is none."""
    kinds = (kind for kind in type(criterion).__mro__ if kind in WANTS)
    return next((kind for kind in kinds if type(criterion).forward is kind.forward), nn.Module)


SUM = 1e-3  # how far the shares of a sample may add up to another number than 1
ONLY = {"signs": "targets of -1 and 1", "counts": "targets of 0 and more"}


def refuse_other_length(key: str, weights: Any, length: int) -> None:
    """Raises UserError where there are weights, and not one for each class or output; or all are 0."""
    if weights is not None and (weights.dim() != 1 or len(weights) != length):
        has = f"{weights.numel()} number{'s' * (weights.numel() != 1)}"
        raise UserError(f"{key}: has {has}; {length} are needed, one for each class or output.")
    if weights is not None and key.endswith(".weight") and not weights.any():
        raise UserError(f"{key}: all are 0, so that nothing counts. Give one above 0.")


def takes_shares(criterion: nn.Module, meaning: Meaning) -> bool:
    """Whether it compares outputs with a share of each class: floats `[N, K]`, as soft and one-hot labels are."""
    is_one = isinstance(criterion, nn.KLDivLoss | nn.CrossEntropyLoss)
    return is_one and isinstance(meaning, Numbers) and meaning.num_outputs > 1


def compared_with(criterion: nn.Module, meaning: Meaning) -> str:
    """What outputs are compared with: a word of `Wants.targets`; `logarithms`; or `others`, which have no numbers."""
    wants = WANTS[torchs(criterion)]
    if takes_shares(criterion, meaning):
        return "others" if getattr(criterion, "log_target", False) else "shares"
    if isinstance(criterion, nn.PoissonNLLLoss):
        return "logarithms" if criterion.log_input else "values"
    return "others" if wants.only == "signs" else wants.targets


def loss_instead(criterion: nn.Module, gives: str, meaning: Meaning) -> str:
    """What to type in the place of a criterion that does not take what the model gives: `loss=nll`."""
    instead = INSTEAD.get((gives, torchs(criterion)), "another loss")
    if instead == "loss=nll" and isinstance(meaning, Numbers):  # which takes class labels
        return "loss=kl_div" if meaning.num_outputs > 1 else "loss=mse"
    if instead == "loss=bce" and isinstance(meaning, Places):  # which takes a number for each output
        return "loss=nll"
    return instead


def refuse_no_fit(criterion: nn.Module, gives: str, meaning: Meaning, names: Mapping[str, str], key: str) -> None:
    """Raises UserError where a criterion can't take what the model gives, or what the targets mean.

    Args:
        key: of the criterion: `loss`, or `loss.terms.kl.criterion`.
    """
    wants = WANTS[torchs(criterion)]
    if isinstance(criterion, nn.KLDivLoss) and criterion.reduction == "mean":
        raise UserError(
            f"{key}.reduction=mean: divides by the number of outputs, too. Type {key}.reduction=batchmean, the mean "
            "over samples."
        )

    if getattr(criterion, "log_target", False) and isinstance(meaning, Classes):
        raise UserError(f"{key}.log_target=true: data={names['data']} has classes. Type {key}.log_target=false.")

    def typed(key: str) -> str:
        return f"{key}={names[key]}"

    if gives not in wants.outputs:
        instead = loss_instead(criterion, gives, meaning)
        raise UserError(
            f"{typed('loss')}: takes {' or '.join(wants.outputs)}, but {typed('model')} gives {gives}. Type {instead}."
        )
    if wants.targets == "index" and not isinstance(meaning, Classes | Places):
        if takes_shares(criterion, meaning):
            return  # whether they are shares is seen once the targets are known
        has = no_labels(names, meaning)
        if isinstance(meaning, Numbers) and meaning.num_outputs > 1:
            has += ", or loss=cross_entropy if they are a share of each class"
    elif isinstance(meaning, Places) and not wants.is_of_places:
        has = f"takes a class for each sample, but {typed('data')} has one for each place. Type loss=cross_entropy"
    elif wants.targets == "shares" and isinstance(meaning, Labels | Unread):
        has = f"takes a share of each class, but {typed('data')} has {meaning.told}. Type loss={meaning.loss_to_type}"
    elif wants.targets == "masks" and isinstance(meaning, Classes):
        has = f"compares masks, but {typed('data')} has one class for each sample. Type loss=cross_entropy"
    elif wants.only and isinstance(meaning, Classes):
        has = f"takes {ONLY[wants.only]}, but {typed('data')} has class labels. Type loss=cross_entropy"
    elif wants.only and isinstance(meaning, Labels):
        has = f"takes {ONLY[wants.only]}, but {typed('data')} has {meaning.told}. Type loss={meaning.loss_to_type}"
    elif wants.targets not in ("index", "masks") and isinstance(meaning, Places):
        has = f"takes a number for each output, but {typed('data')} has a class for each place. Type loss=cross_entropy"
        if meaning.num_classes == 2:
            has += ", or data.task=regression if the model gives one output for each place"
    else:
        return
    raise UserError(f"{typed('loss')}: {has}.")


def no_labels(names: Mapping[str, str], meaning: Numbers | Labels | Unread) -> str:
    """What stands behind a loss of class labels where there are none."""
    return f"takes class labels, but data={names['data']} has {meaning.told}. Type loss={meaning.loss_to_type}"


def refuse_other_shapes(
    criterion: nn.Module, meaning: Meaning, names: Mapping[str, str], key: str, outputs: Tensor, targets: Tensor
) -> None:
    """Raises UserError where shapes do not belong together; torch would broadcast some of them without a word.

    Args:
        key: see `refuse_no_fit`.
        outputs: of a few samples, a tensor.
        targets: of the same samples, in the form that the criterion wants.
    """
    loss, model, data = (f"{key}={names[key]}" for key in ("loss", "model", "data"))
    gives = f"{model}: gives outputs of shape {list(outputs.shape)}, but {data} has"
    weight = getattr(criterion, "weight", None)
    if isinstance(meaning, Places):
        num_classes = meaning.num_classes
        if meaning.classes_second(outputs).shape != (targets.shape[0], num_classes, *targets.shape[1:]):
            is_one = num_classes == 2 and outputs.numel() == targets.numel() and key == "loss"
            how = " For one output for each place type data.task=regression loss=bce_with_logits." if is_one else ""
            raise UserError(
                f"{gives} {num_classes} classes for targets of shape {list(targets.shape)}. {loss} takes one output "
                f"per class and place: [N, {num_classes}, ...], or [N, ..., {num_classes}].{how}"
            )
        refuse_other_length(f"{key}.weight", weight, num_classes)
        return
    if isinstance(criterion, nn.PoissonNLLLoss) and not criterion.log_input and bool((outputs < 0).any()):
        raise UserError(f"{model}: gives numbers below 0, which have no logarithm. Type {key}.log_input=true.")
    if isinstance(meaning, Classes) and WANTS[torchs(criterion)].targets in ("index", "shares"):
        num_classes = meaning.num_classes
        if outputs.dim() != 2 or outputs.shape[1] != num_classes:
            is_one = num_classes == 2 and outputs.shape[1:] == (1,) and not isinstance(criterion, nn.NLLLoss)
            how = f" Or type {key}=bce_with_logits." if is_one and key == "loss" else ""
            needed = f"{loss} takes one output per class: [N, {num_classes}].{how}"
            raise UserError(f"{gives} {num_classes} classes. {needed}")
        refuse_other_length(f"{key}.weight", weight, num_classes)
        return
    if outputs.is_complex() or targets.is_complex():
        refuse_complex(criterion, f"{loss}: takes real numbers", outputs, targets)
    num_outputs = outputs.shape[-1] if outputs.dim() == 2 else 1  # of a mask one number for all places
    for name in ("weight", "pos_weight"):
        numbers = getattr(criterion, name, None)
        is_of_all = isinstance(numbers, Tensor) and numbers.shape == (1,)  # one number for all outputs, as torch has it
        refuse_other_length(f"{key}.{name}", numbers, 1 if is_of_all else num_outputs)
    if targets.shape != outputs.shape:
        how = ""
        if outputs.shape[1:2] == (1,) and outputs.squeeze(1).shape == targets.shape:
            how = " Give outputs.squeeze(1)."
        elif outputs.shape == targets.shape[:1] and (targets.shape[1:] == (1,) or meaning.num_outputs == 2):
            how = " Give outputs.unsqueeze(1)."
        elif outputs.numel() == targets.numel():
            shapes = [", ".join(["N", *map(str, x.shape[1:])]) for x in (outputs, targets)]
            how = f" Give targets [{shapes[0]}], or a model with outputs [{shapes[1]}]."
        raise UserError(f"{gives} targets of shape {list(targets.shape)}. {loss} takes equal shapes.{how}")


def refuse_complex(criterion: nn.Module, takes: str, outputs: Tensor, targets: Tensor) -> None:
    """Raises UserError but for absolute differences, which are real: of others torch may take the real part alone."""
    if isinstance(criterion, nn.L1Loss):
        return
    which = "outputs and targets" if outputs.is_complex() and targets.is_complex() else "outputs"
    which = which if outputs.is_complex() else "targets"
    raise UserError(f"{takes}, and the {which} are complex. Give torch.view_as_real of them, or a loss of your own.")


def refuse_other_targets(criterion: nn.Module, meaning: Meaning, names: Mapping[str, str], targets: Tensor) -> None:
    """Raises UserError for numbers outside what a criterion is defined for; `targets`: all of a split."""
    wants, loss = WANTS[torchs(criterion)], f"loss={names['loss']}"
    if wants.targets == "shares" or takes_shares(criterion, meaning):
        if isinstance(meaning, Numbers) and not are_shares(criterion, targets):
            has = no_labels(names, meaning) if wants.targets == "index" else no_shares(names)
            are_0_and_1 = bool(((targets == 0) | (targets == 1)).all())
            of_labels = "data.task=multilabel loss=bce_with_logits if several can be 1"
            how = of_labels if targets.dim() == 2 else "loss=bce_with_logits if they are masks"
            or_ = f", or {how}" if are_0_and_1 else ""
            raise UserError(f"{loss}: {has}{or_}.")
        return
    is_of_0_to_1 = wants.targets in ("fractions", "masks")
    if isinstance(meaning, Classes | Places) or not (is_of_0_to_1 or wants.only):
        return
    low, high = targets.min().item(), targets.max().item()
    is_wrong = low < 0 or (is_of_0_to_1 and high > 1)
    if wants.only == "signs":
        is_wrong = bool((targets.abs() != 1).any())
    if is_wrong:
        raise UserError(
            f"{loss}: takes {ONLY.get(wants.only, 'targets from 0 to 1')}, but those of "
            f"data={names['data']} go from {low:.4g} to {high:.4g}. Type loss={meaning.loss_to_type}."
        )


def no_shares(names: Mapping[str, str]) -> str:
    return f"takes a share of each class, which add up to 1, but data={names['data']} has other numbers. Type loss=mse"


def are_shares(criterion: nn.Module, targets: Tensor) -> bool:
    """Whether each row `[K]` of targets has numbers of 0 and more that add up to 1; `log_target`: their logarithms."""
    if targets.dim() != 2 or targets.shape[1] < 2:
        return False
    shares = targets.exp() if getattr(criterion, "log_target", False) else targets
    return bool((shares >= 0).all()) and bool(((shares.double().sum(1) - 1).abs() < SUM).all())
