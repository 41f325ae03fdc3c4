"""Parts of a model that do not train, or not yet."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from trainer.config.settings import Settings
from trainer.data.batches import Batch
from trainer.distributed import World
from trainer.errors import UserError
from trainer.optim.groups import refuse_unknown_parts
from trainer.run.instantiate import ours
from trainer.state import Store
from trainer.trials import STILL


def freeze(settings: Settings, model: nn.Module) -> None:
    """With `model.freeze=[...]`, these parts do not train and stay in evaluation mode; the others of a later epoch may.

    Raises:
        UserError: the model has no such part.
    """
    config = ours(settings, "model")
    parts = refuse_unknown_parts("model.freeze", model, config.get("freeze") or [])
    for name, part in parts.items():
        still(part.requires_grad_(False))
        mean_it(model, name)
    for name, part in later(settings, model).items():
        part.requires_grad_(True)  # or else it would have no place among what trains
        mean_it(model, name)


def mean_it(model: nn.Module, name: str) -> None:
    """Tells the diagnosis that a part is frozen on purpose."""
    told: Any = (*getattr(model, "frozen_on_purpose", ()), name)
    model.frozen_on_purpose = told


def still(part: nn.Module) -> None:
    for module in part.modules():
        STILL.add(module.eval())


def later(settings: Settings, model: nn.Module) -> dict[str, nn.Module]:
    """The parts of `model.unfreeze_at`, by name."""
    wanted = epochs(settings)
    return refuse_unknown_parts("model.unfreeze_at", model, list(wanted), wanted)


def epochs(settings: Settings) -> Mapping[str | float, int]:
    """Part to the epoch, counted from 0, with which it begins to train."""
    found: Mapping[str | float, int] = ours(settings, "model").get("unfreeze_at") or {}
    return found


def hold(settings: Settings, model: nn.Module, store: Store, world: World) -> None:
    """Freezes the parts of `model.unfreeze_at`, which have their place in the store already.

    Raises:
        UserError: it is asked for together with what can't wait for a parameter.
    """
    if not epochs(settings):
        return
    if world.size > 1:
        raise UserError(
            "model.unfreeze_at: takes one process: others would not be told of new gradients. Leave it out."
        )
    if settings.compile:
        raise UserError("model.unfreeze_at: a compiled step has its parameters for good. Type compile=false.")
    if not store.is_watched:
        store.watch(world)
    for part in later(settings, model).values():
        still(part.requires_grad_(False))


def thawed(
    settings: Settings, model: nn.Module, batches: Iterator[Batch], step: int, per_epoch: int
) -> Iterator[Batch]:
    """The batches of steps `step`, `step + 1` ...; before the first of an epoch, what is to train from then on does."""
    waiting = dict(epochs(settings))
    if not waiting:
        return batches
    return _thawed(model, waiting, batches, step, per_epoch)


def _thawed(
    model: nn.Module, waiting: dict[str | float, int], batches: Iterator[Batch], step: int, per_epoch: int
) -> Iterator[Batch]:
    for number, batch in enumerate(batches, step):
        for pattern in [name for name, epoch in waiting.items() if (number - 1) // per_epoch >= epoch]:
            del waiting[pattern]
            for part in refuse_unknown_parts("model.unfreeze_at", model, [pattern]).values():
                part.requires_grad_(True)
                for module in part.modules():
                    STILL.discard(module.train())
        yield batch
