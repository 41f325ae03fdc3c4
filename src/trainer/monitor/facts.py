"""What the diagnosis is told of a run before its first step."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from trainer.losses import LossFunction
from trainer.meaning import Classes
from trainer.monitor.diagnosis import Facts, chance_loss, layer_of, squashed_layers


def facts_of(
    settings: Mapping[str, Any],
    model: nn.Module,
    loss_fn: LossFunction,
    parameters: Mapping[str, int],
    max_steps: int,
    num_samples: int,
    samples_per_step: int,
    is_scaled: bool,
    batch_size: int = 0,
    seen: Mapping[str, Any] | None = None,
) -> Facts:
    """
    Args:
        settings: the config, flat.
        parameters: name to number of dimensions, of those that train.
        num_samples: of the training split.
        batch_size: samples that go through the model at once.
        seen: what `trainer.monitor.evidence` has found.
    """
    on_purpose = {
        f"{name}.{part}".lstrip("."): module.get_submodule(part)
        for name, module in model.named_modules()
        for part in getattr(module, "frozen_on_purpose", ())
    }
    meant = {p for part in on_purpose.values() for p in part.parameters()}
    frozen = [layer_of(n) for n, p in model.named_parameters() if not p.requires_grad and p not in meant]
    chance: dict[str, float] = {}
    if isinstance(loss_fn.meaning, Classes):
        for name, part in zip(loss_fn.names, loss_fn.parts, strict=True):
            loss = chance_loss(part.criterion, loss_fn.meaning.num_classes) if part in loss_fn.terms else None
            if loss is not None:
                chance[f"train/loss/{name}" if name else "train/loss"] = loss
    return Facts(
        settings=settings,
        parameters=parameters,
        max_steps=max_steps,
        num_samples=num_samples,
        samples_per_step=samples_per_step,
        frozen=list(dict.fromkeys(frozen)),
        frozen_on_purpose=list(on_purpose),
        squashed=squashed_layers(model),
        chance=chance,
        gives=getattr(model, "gives", "logits"),
        is_pretrained=any(getattr(module, "is_pretrained", False) for module in model.modules()),
        is_scaled=is_scaled,
        batch_size=batch_size or samples_per_step,
        steps_per_epoch=-(-num_samples // samples_per_step),
        **(seen or {}),
    )
