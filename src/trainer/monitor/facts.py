"""What the diagnosis is told of a run before its first step."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from trainer.losses.fits import WANTS
from trainer.losses.function import LossFunction
from trainer.meaning import Classes, Numbers
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
    targets: tuple[Any, Any],
    batch_size: int = 0,
    seen: Mapping[str, Any] | None = None,
) -> Facts:
    """
    Args:
        settings: the config, flat.
        parameters: name to number of dimensions, of those that train.
        num_samples: of the training split.
        targets: of the training split and of the validation split.
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
        guess=guess(loss_fn, *targets, samples_per_step),
        is_sum=any(part.kind == "sum" for part in loss_fn.terms),
        gives=getattr(model, "gives", "logits"),
        is_pretrained=any(getattr(module, "is_pretrained", False) for module in model.modules()),
        is_scaled=is_scaled,
        batch_size=batch_size or samples_per_step,
        steps_per_epoch=-(-num_samples // samples_per_step),
        **(seen or {}),
    )


def guess(loss_fn: LossFunction, train: Any, val: Any, samples_per_step: int) -> dict[str, float]:
    """The losses of one who says the same of every sample: an even guess among classes, or the mean of the targets.

    Args:
        train, val: the targets of both splits.

    Returns:
        `train/loss` and `val/loss`; empty where the loss is none that has such a number.
    """
    if len(loss_fn.parts) != 1 or len(loss_fn.terms) != 1 or loss_fn.term_names:
        return {}
    (part,) = loss_fn.terms
    if isinstance(loss_fn.meaning, Classes):
        even = chance_loss(part.criterion, loss_fn.meaning.num_classes)
        return {} if even is None else {"train/loss": even, "val/loss": even}
    wants = WANTS.get(type(part.criterion))
    is_known = isinstance(loss_fn.meaning, Numbers) and wants is not None and wants.targets == "values"
    if not is_known or not (isinstance(train, Tensor) and isinstance(val, Tensor)):
        return {}
    with torch.no_grad():
        mean = train.mean(0)
        losses = [float(part.criterion(mean.expand_as(targets), targets)) for targets in (train, val)]
    share = samples_per_step / len(train) if part.kind == "sum" else 1.0  # a sum is that of a batch
    return {"train/loss": losses[0] * share, "val/loss": losses[1]}
