"""What the weights come to on the validation split, and their average beside them."""

import math
from collections.abc import Callable, Mapping

from torch import nn

from trainer.averaged import average_in_place, measure_norms
from trainer.config.request import Config
from trainer.config.schema import is_larger_better
from trainer.data.batches import Batches
from trainer.evaluate import evaluate
from trainer.run.parts import Parts


def validated(
    parts: Parts, network: nn.Module, train: Batches, val: Batches, is_stop_requested: Callable[[], bool]
) -> dict[str, float] | None:
    """The numbers by name, those of the average as `average/<name>`; None where a stop was asked for.

    Args:
        network: the model, or its head where the batches are features.
        train: for norm layers of an average, which has no statistics of its own.
    """
    state = parts.state

    def measured() -> dict[str, float] | None:
        return evaluate(
            network,
            parts.loss_fn,
            val,
            parts.device,
            parts.precision,
            is_stop_requested=is_stop_requested,
            world=state.world,
            metrics=parts.metrics if parts.metrics.names else None,
        )

    state.world.share((*state.model.buffers(), *parts.loss_fn.own_buffers))
    numbers = measured()
    if numbers is None or state.average is None or not state.average.is_there:
        return numbers
    if state.average.decay is None:
        arguments = (state, network, train, parts.device, parts.precision, is_stop_requested)
        if not all(state.world.gather(measure_norms(*arguments))):
            return None
    with average_in_place(state):
        of_average = measured()
    return None if of_average is None else numbers | {f"average/{n}": x for n, x in of_average.items()}


def better(numbers: Mapping[str, float], last: dict[str, float], config: Config) -> list[str]:
    """The tags whose number is better than it ever was; `last` keeps it as `best/<tag>`."""
    found = []
    for tag, number in numbers.items():
        sign = 1 if is_larger_better(tag, config) else -1
        best = last.get(f"best/{tag}")
        if math.isfinite(number) and (best is None or sign * number > sign * best):
            last[f"best/{tag}"] = number
            found.append(tag)
    return found
