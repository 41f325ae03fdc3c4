"""Why a run was stopped by a number that is not finite, in a line."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch

from trainer.errors import NonFinite, one_of
from trainer.monitor.nonfinite import first_non_finite
from trainer.run.training import Training
from trainer.trees import called, leaves

LARGE = 1000  # an output above it may overflow what is made of it


class Origin(NamedTuple):
    """Where a loss that is not finite comes from.

    Args:
        place: see `first_non_finite`; None: the loss itself makes it, of outputs that are finite.
        is_of_the_loss: and no output is so large that it could not help it.
    """

    place: str | None
    is_of_the_loss: bool


def origin_of(training: Training) -> Origin:
    """Of the step that was not finished. Leaves traces in the model: for a run that has ended."""
    parts = training.parts
    batch = next(training.batches(parts.splits.train))  # a function of the step
    places = parts.world.gather(first_non_finite(parts.model, batch.inputs, batch.targets, parts.precision))
    place = next((place for place in places if place is not None), None)
    if place is not None:
        return Origin(place, False)
    with torch.no_grad(), parts.precision():
        outputs = list(leaves(called(parts.model, batch.inputs)))
    largest = max((float(x.abs().max()) for x in outputs if x.is_floating_point() and x.numel()), default=math.inf)
    return Origin(None, parts.world.size == 1 and largest < LARGE)


def explained(error: NonFinite, training: Training, origin: Origin) -> str:
    """The error, the numbers at that step, and where the first of them is that is not finite."""
    state = training.parts.state
    lr = state.optimizer.param_groups[0]["lr"]
    numbers = f"lr={lr:.4g}"
    if (norm := state.store.grads.norm().item()) != 0:
        numbers += f" grad_norm={norm:.4g}"
    where = origin.place or "the loss itself, of outputs that are finite"
    last = f" Last: {words}." if (words := last_words(state.last)) else ""
    settings = training.parts.settings
    tries = [f"optimizer.lr={lr / 10:.4g}"]
    tries += ["gradient.clip_norm=1"] if (settings.gradient.clip_norm or math.inf) > 1 else []
    tries += ["on_nan=skip"] if settings.on_nan == "stop" else []
    return (
        f"{error}. {numbers}. The first value that is not finite: {where}.{last} Try {one_of(tries)}. "
        f"train replay {training.folder} shows the step."
    )


def last_words(last: Mapping[str, float]) -> str:
    """The last logged losses and gradient norm, `tag=value` each."""
    tags = ("train/loss", "val/loss", "grad_norm")
    return " ".join(f"{tag}={last[tag]:.4g}" for tag in tags if tag in last)
