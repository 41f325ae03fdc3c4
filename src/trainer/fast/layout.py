"""Networks whose maps lie in oneDNN's layout: in blocks of channels, which fill a CPU's vectors.

torch's own pool makes little use of them, and maps that leave the blocks after a convolution must go back into them for
the next one. The numbers are the same bits, but for batches of one sample.

Gain: a LeNet step without it takes 1.20 (1.17 to 1.31) of one with it (2026-11-26, AMD EPYC Zen 4, one thread), 1.31 on
a Zen 3 (2026-11-27). The pool of a ResNet gains only where vectors are wide: on the Zen 3, which has AVX2, layers up
to the first stage take 1.12 with it, forward and backward.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d, relu

from trainer.fast.hooks import is_watched
from trainer.models.finetune import Finetune
from trainer.models.lenet import LeNet
from trainer.models.resnet import ResNet


def in_blocks(model: nn.Module) -> nn.Module:
    """What gives the same as the model, with the same parameters; the model itself where nothing is known for it."""
    if type(model) is LeNet:
        return LeNetInBlocks(model)
    if type(model) is ResNet and has_wide_vectors():
        return _with(model, maxpool=PoolInBlocks(model.maxpool))
    if type(model) is Finetune and type(model.backbone) is ResNet and has_wide_vectors():
        return _with(model, backbone=in_blocks(model.backbone))
    return model


def has_wide_vectors() -> bool:
    return torch.backends.cpu.get_cpu_capability() == "AVX512"


class LeNetInBlocks(nn.Module):
    """A LeNet from the first convolution to the last pool in blocks."""

    def __init__(self, lenet: LeNet) -> None:
        super().__init__()
        self.lenet = lenet

    def forward(self, inputs: Tensor) -> Tensor:
        lenet = self.lenet
        if not takes_blocks(inputs) or is_watched(lenet, lenet.conv1, lenet.conv2):
            outputs: Tensor = lenet(inputs)
            return outputs
        maps = inputs.to_mkldnn()
        for conv in (lenet.conv1, lenet.conv2):
            maps = relu(max_pool2d(conv(maps), 2, 2))
        return lenet.classified(maps.to_dense())


class PoolInBlocks(nn.Module):
    """A pool whose maps go into blocks and come out again."""

    def __init__(self, pool: nn.MaxPool2d) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, maps: Tensor) -> Tensor:
        if not takes_blocks(maps) or is_watched(self.pool):
            pooled: Tensor = self.pool(maps)
            return pooled
        pooled = self.pool(maps.to_mkldnn())
        return pooled.to_dense()


def takes_blocks(maps: Tensor) -> bool:
    """Whether maps can lie in that layout, from `to_mkldnn` to `to_dense`. Not where a compiler or a tracer looks."""
    if not isinstance(maps, Tensor) or torch.compiler.is_compiling():
        return False
    has_onednn = maps.device.type == "cpu" and torch.backends.mkldnn.is_available()
    return has_onednn and maps.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")


def _with(model: nn.Module, **parts: nn.Module) -> nn.Module:
    """A twin: the same modules, parameters and hooks, with other modules in some places."""
    twin = copy.copy(model)
    twin._modules = {**model._modules, **parts}
    return twin
