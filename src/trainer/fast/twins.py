"""Twins of known networks: the same parameters and numbers, by ways through a CPU that take less time.

Maps in oneDNN's layout, in blocks of channels, fill a CPU's vectors. torch's own pool makes little use of them, and
maps that leave the blocks after a convolution must go back into them for the next one. The numbers are the same bits,
but for batches of one sample.
Gain: a LeNet step without it takes 1.20 (1.17 to 1.31) of one with it (2026-11-26, AMD EPYC Zen 4, one thread), 1.31 on
a Zen 3 (2026-11-27). The pool of a ResNet gains only where vectors are wide: on the Zen 3, which has AVX2, the layers
up to the first stage take 1.12 with it, forward and backward.

Convolutions whose output is one place, as the last stage of a ResNet has them for pictures of 32 pixels: most of their
taps meet padding alone. What is left is a linear layer. The numbers may differ in the last digit.
Gain: a step of ResNet-18 on pictures of 32 pixels, batch 64, takes 1.9 without it (2026-11-27, Zen 3, one thread).
Where vectors are narrow, convolutions of few places and many channels are a matrix product of the unfolded map.
Gain: a step on pictures of 64 pixels takes 1.12 without it (likewise).
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, max_pool2d, relu, unfold

from trainer.fast.hooks import is_watched
from trainer.models.finetune import Finetune
from trainer.models.lenet import LeNet
from trainer.models.recompute import recomputed_like
from trainer.models.resnet import ResNet
from trainer.system.vectors import has_wide_vectors

CHANNELS_PER_PLACE = 32  # and more of them: few places for the size of the kernel


def twin(model: nn.Module) -> nn.Module:
    """What gives the same as the model, with the same parameters; the model itself where nothing is known for it."""
    if type(model) is LeNet:
        return LeNetInBlocks(model)
    if type(model) is ResNet:
        quick = without_padding(model)
        return _with(quick, maxpool=PoolInBlocks(model.maxpool)) if has_wide_vectors() else quick
    if type(model) is Finetune and type(model.backbone) is ResNet:
        return _with(model, backbone=twin(model.backbone))
    return model


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


class ConvOfFewPlaces(nn.Conv2d):
    """A ResNet's convolution: padded to half the kernel, with a stride, without a bias, dilation or groups."""

    def forward(self, maps: Tensor) -> Tensor:
        height, width = ((size - 1) // self.stride[0] + 1 for size in maps.shape[-2:])
        if is_plain(maps) and height == width == 1:
            return self._of_one_place(maps)
        has_few = height * width * CHANNELS_PER_PLACE <= self.out_channels and self.kernel_size[0] > 1
        if has_few and is_plain(maps) and not has_wide_vectors():
            columns = unfold(maps, self.kernel_size, padding=self._half, stride=self.stride)
            places = linear(columns.transpose(1, 2), self.weight.flatten(1))  # one product, not one for each sample
            return places.transpose(1, 2).unflatten(2, (height, width))
        return super().forward(maps)

    @property
    def _half(self) -> tuple[int, int]:
        height, width = self.kernel_size
        return height // 2, width // 2

    def _of_one_place(self, maps: Tensor) -> Tensor:
        above, left = self._half
        taps = self.weight[:, :, above : above + maps.shape[2], left : left + maps.shape[3]]
        seen = maps[:, :, : taps.shape[2], : taps.shape[3]]  # a stride of 2 and a kernel of 1: not all of the map
        return linear(seen.flatten(1), taps.flatten(1))[:, :, None, None]


def without_padding(model: nn.Module) -> nn.Module:
    """The model with each convolution that trains as a `ConvOfFewPlaces`; hooks and all other layers are its own.

    A frozen one stays torch's: the features of a frozen backbone have the bits of a step that computes them again.
    """
    if type(model) is nn.Conv2d and model.weight.requires_grad:
        quick = copy.copy(model)
        quick.__class__ = ConvOfFewPlaces
        return recomputed_like(quick)
    parts = {name: without_padding(part) for name, part in model.named_children()}
    return _with(model, **parts) if parts else model


def is_plain(maps: Tensor) -> bool:
    """Whether they are float32 on a CPU, and neither autocast nor a compiler nor a tracer looks."""
    if not isinstance(maps, Tensor) or torch.compiler.is_compiling():
        return False
    return maps.device.type == "cpu" and maps.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")


def takes_blocks(maps: Tensor) -> bool:
    """Whether maps can lie in oneDNN's layout, from `to_mkldnn` to `to_dense`."""
    return is_plain(maps) and torch.backends.mkldnn.is_available()


def _with(model: nn.Module, **parts: nn.Module) -> nn.Module:
    """A twin: the same modules, parameters and hooks, with other modules in some places."""
    other = copy.copy(model)
    other._modules = {**model._modules, **parts}
    return recomputed_like(other)
