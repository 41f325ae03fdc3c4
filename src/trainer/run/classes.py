"""Unequal classes: what each weighs in the loss, and how often its samples are drawn."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from trainer.config.schema import shown
from trainer.config.settings import Settings
from trainer.data.batches import Batches
from trainer.data.prepare import targets_of
from trainer.data.source import Data
from trainer.errors import UserError
from trainer.losses.criteria import Composite, Focal
from trainer.meaning import Classes, Labels, Places
from trainer.run.instantiate import ours

# torch's criteria with a weight for each class.
WEIGHTED = (nn.CrossEntropyLoss, nn.NLLLoss, nn.MultiMarginLoss, Focal)
MOST_DRAWN = 2**24  # samples that torch.multinomial takes


def weigh_classes(settings: Settings, criterion: nn.Module, data: Data, train: Batches) -> None:
    """Gives a criterion, or the terms of one, the weights of `loss.class_weights`.

    `balanced`: N / (K * N_c) for class c, with N samples of K classes in the training split, of which N_c are of that
    class: what `sklearn.utils.class_weight` calls so. A class without a sample weighs 1. Classes that nobody has looked
    at, as those of the pixels of pictures on disk, are read once for that.

    Of several labels `balanced` is the `pos_weight` (N - N_c) / N_c: what is 1 weighs as much as what is 0. A label
    that all samples have, or none, has 1.

    Args:
        train: the batches of `data.train`.

    Raises:
        UserError: there is no term that takes weights, it has some already, or they are not one for each class.
    """
    wanted = ours(settings, "loss").get("class_weights")
    if wanted is None:
        return
    key = f"loss.class_weights={shown(wanted)}"
    parts = criterion.criteria if isinstance(criterion, Composite) else [criterion]
    if isinstance(data.meaning, Labels):
        weigh_labels(key, settings, wanted, parts, data, train)
        return
    taking = [part for part in parts if isinstance(part, WEIGHTED)]
    if not taking:
        how = "Try loss=cross_entropy"
        if any(isinstance(part, nn.BCEWithLogitsLoss) for part in parts):
            how = "Type data.task=multilabel if the targets are several labels for a sample, or loss.pos_weight=[...]"
        elif not isinstance(data.meaning, Classes | Places):
            how = "Leave it out"
        raise UserError(f"{key}: loss={settings.names['loss']} has no weights of classes. {how}.")
    if any(part.weight is not None for part in taking):
        raise UserError(f"{key}: the loss has weights already. Leave loss.weight out.")
    num_classes = _num_classes(key, settings, data)
    if wanted == "balanced":
        counts = class_counts(key, settings, data, train)
        present = counts > 0
        weights = counts.sum() / (present.sum() * counts.double())
        weights[~present] = 1.0
    else:
        weights = torch.tensor(wanted, dtype=torch.float64)
        if len(weights) != num_classes or not bool(weights.any()):
            raise UserError(f"{key}: must be {num_classes} numbers, one for each class, not all 0.")
    for part in taking:
        part.weight = weights  # becomes the run's dtype with the rest of the loss


def weigh_labels(
    key: str, settings: Settings, wanted: Any, parts: Iterable[nn.Module], data: Data, train: Batches
) -> None:
    """Gives `pos_weight` to the criteria that take it, see `weigh_classes`."""
    taking = [part for part in parts if isinstance(part, nn.BCEWithLogitsLoss)]
    if not taking:
        how = "Try loss=bce_with_logits, which weighs what is 1, for a model that gives logits"
        raise UserError(f"{key}: loss={settings.names['loss']} has no weights of labels. {how}.")
    if wanted != "balanced":
        how = "Type loss.pos_weight=[...], for what is 1 of each, or loss.weight=[...], for all of each"
        raise UserError(f"{key}: data={settings.names['data']} has several labels for a sample. {how}.")
    if any(part.pos_weight is not None for part in taking):
        raise UserError(f"{key}: the loss has weights already. Leave loss.pos_weight out.")
    known = targets_of(data.train)
    counts, num_samples = torch.zeros(data.meaning.num_outputs, dtype=torch.float64), 0
    for targets in [known] if isinstance(known, Tensor) else (batch.targets for batch in train.in_order()):
        counts += targets.double().sum(0).cpu()
        num_samples += len(targets)
    is_mixed = (counts > 0) & (counts < num_samples)
    weights = torch.where(is_mixed, (num_samples - counts) / counts, 1.0)
    for part in taking:
        part.pos_weight = weights  # becomes the run's dtype with the rest of the loss


def balance(settings: Settings, data: Data, train: Batches) -> None:
    """With `data.balance=true`, samples of every class are drawn equally often.

    Raises:
        UserError: the data has no classes, or too many samples.
    """
    if not ours(settings, "data").get("balance"):
        return
    key = "data.balance=true"
    _num_classes(key, settings, data)
    targets = targets_of(data.train)
    if not isinstance(targets, Tensor):
        raise UserError(f"{key}: the classes of data={settings.names['data']} are read while it trains. Leave it out.")
    if targets.dim() != 1 or len(targets) > MOST_DRAWN:
        raise UserError(f"{key}: takes one class for each sample, and up to {MOST_DRAWN:,} samples.")
    counts = class_counts(key, settings, data, train)
    train.weights = 1 / counts[targets.cpu()].double()


def class_counts(key: str, settings: Settings, data: Data, train: Batches) -> Tensor:
    """How many samples (or pixels) of the training split each class has, `[num_classes]`. Ignored ones are left out.

    Args:
        key: what asks for it, for the message.
        train: the batches of that split.
    """
    counts = torch.zeros(_num_classes(key, settings, data), dtype=torch.int64)
    known = targets_of(data.train)
    for targets in [known] if isinstance(known, Tensor) else (batch.targets for batch in train.in_order()):
        if not isinstance(targets, Tensor):
            raise UserError(f"{key}: data={settings.names['data']} has several targets. Leave it out.")
        targets = targets.flatten().cpu()
        is_of_class = (targets >= 0) & (targets < len(counts)) & (targets != data.ignored)  # 255, say, has none
        counts += torch.bincount(targets[is_of_class], minlength=len(counts))
    return counts


def _num_classes(key: str, settings: Settings, data: Data) -> int:
    if not isinstance(data.meaning, Classes | Places):
        raise UserError(f"{key}: data={settings.names['data']} has no classes. Leave it out.")
    return data.meaning.num_classes
