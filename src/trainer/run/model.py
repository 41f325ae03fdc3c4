"""The model of a run, sized by the data."""

import math
from typing import Any

import torch
from torch import nn

from trainer.config import trust
from trainer.config.settings import Settings
from trainer.data.prepare import Splits
from trainer.errors import UserError
from trainer.models.initialise import initialise
from trainer.run.instantiate import built, complaint, found


def facts_of(splits: Splits) -> dict[str, Any]:
    """What a model may be told of the data, by the names of its arguments."""
    shape = splits.input_shape
    facts = {"in_features": math.prod(shape), "num_classes": splits.num_outputs, "out_features": splits.num_outputs}
    if len(shape) == 3:
        facts |= {"in_channels": shape[0], "image_size": shape[-1]}
    return facts


def build_model(settings: Settings, splits: Splits, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """The model with its first weights, on its device.

    Raises:
        UserError: its class complains; or new weights are asked for and others, too.
    """
    config = settings.group("model")
    takes = trust.parameters(found(settings, "model"))
    unknown = {name: fact for name, fact in facts_of(splits).items() if name in takes and config.get(name) is None}
    model: nn.Module = built(settings, "model", unknown)
    if config.get("init", "default") != "default":
        if config.get("weights") is not None:
            raise UserError(f"model.init={config['init']}: would overwrite model.weights. Type model.init=default.")
        try:
            initialise(model, config["init"], config.get("init_std", 1.0))
        except ValueError as error:
            raise complaint(settings, "model", error) from error
    return model.to(device, dtype)


def sizes_to_type(settings: Settings, splits: Splits) -> str:
    """What to type where the config says other sizes than the data has."""
    config = settings.group("model")
    differing = [f"model.{n}={fact}" for n, fact in facts_of(splits).items() if config.get(n) not in (None, fact)]
    return f" Type {' '.join(differing)}." if differing else ""
