"""LeNet for many runs at once."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import conv2d, max_pool2d, relu

from trainer.models.lenet import LeNet
from trainer.stack.layers import Dropout
from trainer.stack.store import StackedStore


def stacked_lenet(
    models: Sequence[LeNet], store: StackedStore, generators: Sequence[torch.Generator]
) -> Callable[[Tensor, bool], Tensor]:
    """Convolutions as convolutions in groups, a group a run; see `trainer.models.lenet.LeNet`.

    Args:
        generators: of the runs' dropout.

    Shapes:
        `[num_batches, N, in_channels, side, side]` to `[num_runs, N, num_classes]`.
    """
    parameters = [
        (store.parameters[f"{name}.weight"].values, store.parameters[f"{name}.bias"].values)
        for name in ("conv1", "conv2", "fc1", "fc2", "fc3")
    ]
    shares = [model.dropout for model in models]
    thinned = Dropout(shares, generators) if any(shares) else None

    def forward(inputs: Tensor, is_training: bool) -> Tensor:
        groups = len(inputs)  # runs with the same batch are one with more channels
        x = inputs.transpose(0, 1).flatten(1, 2)  # [N, groups * channels, side, side]
        for weight, bias in parameters[:2]:
            x = relu(max_pool2d(conv2d(x, weight.flatten(0, 1), bias.flatten(), groups=groups), 2))
            groups = len(models)
        x = x.unflatten(1, (groups, -1)).flatten(2).permute(1, 2, 0)  # [num_runs, features, N]
        for weight, bias in parameters[2:4]:
            x = relu(torch.baddbmm(bias.unsqueeze(2), weight, x))
            x = x if thinned is None else thinned.forward(x, is_training)
        weight, bias = parameters[4]
        return torch.baddbmm(bias.unsqueeze(2), weight, x).mT

    return forward
