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
        UserError: the model has no such part, or a part of a later epoch has nothing that may train then.
    """
    found = plan(settings, model)
    refuse_idle(settings, model, found)
    for module, epoch in found.items():
        if epoch is None:
            still(module)
    for module, epoch in found.items():
        if epoch is not None:
            own_gradients(module, True)  # or else it would have no place among what trains
    for name in named_parts(settings, model):
        mean_it(model, name)


def named_parts(settings: Settings, model: nn.Module) -> dict[str, int | None]:
    """The parts that are named, to the epoch with which they begin to train, None for never.

    Of a part that several words name, those of `model.unfreeze_at` decide, and a name before a pattern.
    """
    wanted = epochs(settings)
    never = refuse_unknown_parts("model.freeze", model, ours(settings, "model").get("freeze") or [])
    found: dict[str, int | None] = dict.fromkeys(never)
    for word in sorted(wanted, key=lambda word: not set("*?[") & set(str(word))):
        found |= dict.fromkeys(refuse_unknown_parts("model.unfreeze_at", model, [word], wanted), wanted[word])
    return found


def plan(settings: Settings, model: nn.Module) -> dict[nn.Module, int | None]:
    """Each module that does not train from the start, to the epoch, counted from 0, with which it does; None for never.

    Of parts within parts the innermost that is named decides. Those that hold others come before them.
    """
    named = named_parts(settings, model)
    found: dict[nn.Module, int | None] = {}
    for name, module in model.named_modules(remove_duplicate=False):  # one that has two names may be frozen by either
        parts = name.split(".")
        around = (".".join(parts[:i]) for i in range(len(parts), 0, -1))
        part = next((each for each in around if each in named), None)
        if part is not None and found.get(module) is None:
            found[module] = named[part]
    return found


def refuse_idle(settings: Settings, model: nn.Module, found: Mapping[nn.Module, int | None]) -> None:
    """Raises UserError for a part of a later epoch in which other words have named all that has parameters."""
    for word, epoch in epochs(settings).items():
        parts = refuse_unknown_parts("model.unfreeze_at", model, [word], epochs(settings))
        inside = [each for part in parts.values() for each in part.modules() if [*each.parameters(recurse=False)]]
        if all(found[module] != epoch for module in inside):
            raise UserError(
                f"model.unfreeze_at={{{word}:{epoch}}}: other words of model.freeze or model.unfreeze_at name all that "
                "it holds, and the innermost part decides. Leave one of them out."
            )


def mean_it(model: nn.Module, name: str) -> None:
    """Tells the diagnosis that a part is frozen on purpose."""
    told: Any = (*getattr(model, "frozen_on_purpose", ()), name)
    model.frozen_on_purpose = told


def still(module: nn.Module) -> None:
    """Neither trains nor is in training mode; of what it holds, others speak."""
    own_gradients(module, False)
    STILL.add(module.eval())


def own_gradients(module: nn.Module, does_train: bool) -> None:
    for parameter in module.parameters(recurse=False):
        parameter.requires_grad_(does_train)


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
    for module, epoch in plan(settings, model).items():
        if epoch is not None:
            still(module)


def thawed(
    settings: Settings, model: nn.Module, batches: Iterator[Batch], step: int, per_epoch: int
) -> Iterator[Batch]:
    """The batches of steps `step`, `step + 1` ...; before the first of an epoch, what is to train from then on does."""
    if not epochs(settings):
        return batches
    waiting = {module: epoch for module, epoch in plan(settings, model).items() if epoch is not None}
    return _thawed(waiting, batches, step, per_epoch)


def _thawed(waiting: dict[nn.Module, int], batches: Iterator[Batch], step: int, per_epoch: int) -> Iterator[Batch]:
    for number, batch in enumerate(batches, step):
        for module in [module for module, epoch in waiting.items() if (number - 1) // per_epoch >= epoch]:
            del waiting[module]
            own_gradients(module, True)
            STILL.discard(module.train())
            for inner in module.modules():  # which `train` has reached, too
                if inner in STILL:
                    inner.eval()
        yield batch
