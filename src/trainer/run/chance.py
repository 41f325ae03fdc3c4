"""Whether a model leaves its outputs to chance where it should not: in evaluation mode."""

from contextlib import suppress
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from trainer.config.settings import Settings
from trainer.data.batches import Batch
from trainer.run.environment import Precision
from trainer.trees import called
from trainer.trials import undisturbed

_DROPOUTS = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout, torch.dropout)


class _Dropping(TorchFunctionMode):
    """Names the functions of torch that drop units while it is open."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, None] = {}

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        if function in _DROPOUTS:
            p, is_training = (*args[1:3], given.get("p", 0.5), given.get("training", given.get("train", True)))[:2]
            if len(args) == 2:  # p by its place, training by its name
                is_training = given.get("training", given.get("train", True))
            if p and is_training:
                self.found[f"{function.__name__}(training=True)"] = None
        elif function is F.scaled_dot_product_attention and (args[4] if len(args) > 4 else given.get("dropout_p", 0.0)):
            self.found["scaled_dot_product_attention(dropout_p=...)"] = None
        return function(*args, **given)


def doubts_of_evaluation(settings: Settings, model: nn.Module, sample: Batch, precision: Precision) -> list[str]:
    """A line where a model of somebody else drops units in evaluation mode, too, as `F.dropout` does by default.

    Args:
        sample: as the model is called with it.
    """
    device = next(model.parameters()).device
    with suppress(Exception), undisturbed(model, device), precision(), _Dropping() as dropping:
        called(model, sample.inputs)  # what is wrong with it is told elsewhere
    if not dropping.found:
        return []
    return [
        f"warning: model={settings.names['model']}: drops units in evaluation mode, too: {', '.join(dropping.found)}. "
        "Then val/*, test/* and predictions are left to chance. Unless that is meant, write training=self.training, or "
        "dropout_p=p if self.training else 0."
    ]
