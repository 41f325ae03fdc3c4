"""Why a run was stopped by a number that is not finite, in a line."""

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch

from trainer.data.batches import Batch, samples_of
from trainer.data.items import Items
from trainer.errors import NonFinite, one_of
from trainer.monitor.diagnosis import STOPPED
from trainer.monitor.nonfinite import first_non_finite
from trainer.run.parts import Parts
from trainer.run.training import Training
from trainer.trees import called, leaves
from trainer.trials import evaluating

LARGE = 1000  # an output above it may overflow what is made of it
OF_DATA = ("inputs", "targets")


class Origin(NamedTuple):
    """Where a loss that is not finite comes from.

    Args:
        place: see `first_non_finite`; None: the loss itself makes it, of outputs that are finite.
        cause: a word of `trainer.monitor.diagnosis.STOPPED`, where it is known.
    """

    place: str | None
    cause: str | None = None


def origin_of(training: Training, split: str) -> Origin:
    """Of the step that was not finished, or of another split. Leaves traces in the model: for a run that has ended."""
    parts = training.parts
    if split == "train":
        batches = [next(training.batches(parts.splits.train))]  # a function of the step
        places = parts.world.gather(_place_in(training, split, batches))
    else:
        with evaluating(parts.model, parts.device):
            batches = getattr(parts.splits, split).in_order(parts.world.rank, parts.world.size)
            places = parts.world.gather(_place_in(training, split, batches))
    place, cause = next((found for found in places if found[0] is not None), places[0])
    return Origin(place, cause if place is not None or parts.world.size == 1 else None)


def _place_in(training: Training, split: str, batches: Iterable[Batch]) -> tuple[str | None, str | None]:
    """Place and cause, see `Origin`, in the first batch that has one."""
    parts, first, largest = training.parts, 0, 0.0
    for batch in batches:
        place = first_non_finite(parts.model, batch.inputs, batch.targets, parts.precision)
        for part in OF_DATA:
            if place == f"the {part} of the batch":
                return f"the {part} of {_item(training, split, first, batch, part)}", part
        if place is not None:
            is_alone = split != "train" and place.startswith("output of ") and _is_finite_in_training(parts, batch)
            return (f"{place}, in evaluation mode alone", "evaluation") if is_alone else (place, None)
        with torch.no_grad(), parts.precision():
            outputs = list(leaves(called(parts.model, batch.inputs)))
        sizes = [float(x.abs().max()) for x in outputs if x.is_floating_point() and x.numel()]
        largest = max([largest, *sizes] if sizes else [math.inf])
        first += batch.num_samples
    return None, "loss" if largest < LARGE else None


def _is_finite_in_training(parts: Parts, batch: Batch) -> bool:
    if parts.world.size > 1:  # a norm layer may wait for the other processes, which have other batches
        return False
    parts.model.train()  # `evaluating` puts the modes back
    return first_non_finite(parts.model, batch.inputs, batch.targets, parts.precision) is None


def _item(training: Training, split: str, first: int, batch: Batch, part: str) -> str:
    """The first sample of a batch with a number that is not finite, by its number in the split where that is known.

    Args:
        first: the number of the batch's first sample in an evaluation.
        part: of the batch: `inputs` or `targets`.
    """
    parts, of = training.parts, getattr(training.parts.splits, split)
    bad = [(~leaf.isfinite()).flatten(1).any(1) for leaf in leaves(getattr(batch, part)) if leaf.dim()]
    is_told = {len(rows) for rows in bad} == {batch.num_samples}
    if parts.world.size > 1 or (split == "train" and parts.mix is not None) or not is_told:
        return f"a batch of the {split} split"
    place = int(torch.stack(bad).any(0).nonzero()[0])
    row = first + place
    if split == "train":
        length, seed = parts.length, parts.settings.order_seed
        row = int(samples_of(of, length.samples_per_step, seed, parts.state.step + 1)[place])
    items = getattr(parts.data, split)
    number = items.number_of(row) if isinstance(items, Items) else row
    return f"item {row} of the {split} split" + (f" (item {number} of the whole data set)" if number != row else "")


def explained(error: NonFinite, training: Training, origin: Origin) -> str:
    """The error, the numbers at that step, and where the first of them is that is not finite."""
    state = training.parts.state
    lr = state.optimizer.param_groups[0]["lr"]
    numbers = f"lr={lr:.4g}"
    if (norm := state.store.grads.norm().item()) != 0:
        numbers += f" grad_norm={norm:.4g}"
    where = origin.place or "the loss itself, of outputs that are finite"
    last = f" Last: {words}." if (words := last_words(state.last)) else ""
    shown = f" train replay {training.folder} shows the step." if error.split == "train" else ""
    found = f"{error}. {numbers}. The first value that is not finite: {where}.{last}"
    return f"{found} {_cure(error, training, origin)}{shown}"


def _cure(error: NonFinite, training: Training, origin: Origin) -> str:
    settings = training.parts.settings
    if origin.cause not in (None, "loss"):
        return STOPPED[origin.cause][2]
    lr = training.parts.state.optimizer.param_groups[0]["lr"]
    tries = [f"optimizer.lr={lr / 10:.4g}"]
    tries += ["gradient.clip_norm=1"] if (settings.gradient.clip_norm or math.inf) > 1 else []
    tries += ["on_nan=skip"] if settings.on_nan == "stop" and error.split == "train" else []
    if origin.cause == "loss" and training.parts.loss_fn.is_weighted and tries[-1] == "on_nan=skip":
        return "Perhaps no sample of it counts (ignored, or of weight 0). Try on_nan=skip or a larger batch_size."
    return f"Try {one_of(tries)}."


def last_words(last: Mapping[str, float]) -> str:
    """The last logged losses and gradient norm, `tag=value` each."""
    tags = ("train/loss", "val/loss", "grad_norm")
    return " ".join(f"{tag}={last[tag]:.4g}" for tag in tags if tag in last)
