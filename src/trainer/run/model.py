"""The model of a run, sized by the data."""

import math
import re
from typing import Any

import torch
from torch import nn

from trainer.config import trust
from trainer.config.settings import Settings
from trainer.data.prepare import Splits, on_device
from trainer.draws import random_state, set_random_state
from trainer.errors import UserError
from trainer.models.initialise import initialise
from trainer.private import applied
from trainer.run.instantiate import built, complaint, found, ours


def facts_of(splits: Splits) -> dict[str, Any]:
    """What a model may be told of the data, by the names of its arguments."""
    shape = splits.input_shape
    facts = {"in_features": math.prod(shape), "num_classes": splits.num_outputs, "out_features": splits.num_outputs}
    if len(shape) > 1:  # signals [C, L], images [C, H, W], volumes [C, D, H, W]
        facts["in_channels"] = shape[0]
    if len(shape) == 3:
        facts["image_size"] = shape[-1]
    return facts


def build_model(settings: Settings, splits: Splits, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """The model with its first weights, on its device.

    Raises:
        UserError: its class complains; or new weights are asked for and others, too.
    """
    config, mine = settings.group("model"), ours(settings, "model")
    model = told(settings, splits)
    if mine.get("init", "default") != "default":
        if config.get("weights") is not None:
            raise UserError(f"model.init={mine['init']}: would overwrite model.weights. Type model.init=default.")
        try:
            initialise(model, mine["init"], mine.get("init_std", 1.0))
        except ValueError as error:
            raise complaint(settings, "model", error) from error
    return applied(model, lambda tensor: on_device(tensor, device, dtype))


def told(settings: Settings, splits: Splits) -> nn.Module:
    """The model, told of the data what its class has an argument for.

    One with `**kwargs` is offered everything; what it then has no use for is taken back.
    """
    config, kind = settings.group("model"), found(settings, "model")
    takes, is_open = trust.parameters(kind), trust.takes_any(kind)
    facts = {n: fact for n, fact in facts_of(splits).items() if (n in takes or is_open) and config.get(n) is None}
    random = random_state(torch.device("cpu"))
    while True:
        try:
            model: nn.Module = built(settings, "model", facts)
            return model
        except UserError as error:
            refused = re.search(r"unexpected keyword argument '(\w+)'", str(error))
            if not is_open or refused is None or refused[1] not in facts or refused[1] in takes:
                raise
            del facts[refused[1]]
            set_random_state(random, torch.device("cpu"))


def sizes_to_type(settings: Settings, splits: Splits) -> str:
    """What to type where the config says other sizes than the data has."""
    config = settings.group("model")
    differing = [f"model.{n}={fact}" for n, fact in facts_of(splits).items() if config.get(n) not in (None, fact)]
    return f" Type {' '.join(differing)}." if differing else ""
