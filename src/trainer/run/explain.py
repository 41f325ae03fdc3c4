"""Why a run was stopped by a number that is not finite, in a line."""

from collections.abc import Mapping

from trainer.errors import NonFinite
from trainer.monitor.nonfinite import first_non_finite
from trainer.run.training import Training


def explained(error: NonFinite, training: Training) -> str:
    """The error, the numbers at that step, and where the first of them is that is not finite."""
    parts, state = training.parts, training.parts.state
    lr = state.optimizer.param_groups[0]["lr"]
    numbers = f"lr={lr:.4g}"
    if (norm := state.store.grads.norm().item()) != 0:
        numbers += f" grad_norm={norm:.4g}"
    batch = next(training.batches(parts.splits.train))  # of the step that was not finished: a function of the step
    places = parts.world.gather(first_non_finite(parts.model, batch.inputs, parts.precision))
    place = next((place for place in places if place is not None), None)
    where = place or "the loss itself, of outputs that are finite"
    last = f" Last: {words}." if (words := last_words(state.last)) else ""
    return (
        f"{error}. {numbers}. The first value that is not finite: {where}.{last} Try optimizer.lr={lr / 10:.4g}, "
        f"gradient.clip_norm=1 or on_nan=skip. train replay {training.folder} shows the step."
    )


def last_words(last: Mapping[str, float]) -> str:
    """The last logged losses and gradient norm, `tag=value` each."""
    tags = ("train/loss", "val/loss", "grad_norm")
    return " ".join(f"{tag}={last[tag]:.4g}" for tag in tags if tag in last)
