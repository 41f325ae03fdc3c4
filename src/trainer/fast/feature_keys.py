"""What features of a frozen backbone are told by: names for all that makes them what they are."""

import hashlib
import sys
from typing import Any

import torch
from torch import nn

from trainer.data.batches import Batches, LoadedBatches, ResidentBatches
from trainer.data.images import ImageTransform
from trainer.data.item_batches import ItemBatches
from trainer.disk.checkpoint import checksum
from trainer.system.private import hooks_of

CHECKED_ROWS = 4096  # of a split, under one checksum
# Packages whose code is told by their version. What others compute may change without a sign.
VERSIONED = ("torch", "trainer", "torchvision")


def backbone_key(backbone: nn.Module, device: torch.device, precision_name: str) -> str:
    """A name for all that makes the features of an input what they are: code, weights, kernels and precision."""
    is_cuda = device.type == "cuda"
    kernels = torch.cuda.get_device_name(device) if is_cuda else torch.backends.cpu.get_cpu_capability()
    facts: list[Any] = [torch.__version__, f"{device.type} {kernels}", precision_name]
    packages = {type(module).__module__.split(".")[0] for module in backbone.modules()}
    facts += [(package, getattr(sys.modules.get(package), "__version__", None)) for package in sorted(packages)]
    facts += [(name, *_settings(module)) for name, module in backbone.named_modules()]
    tensors = [*backbone.named_parameters(), *backbone.named_buffers()]
    facts += [(name, str(tensor.dtype), tuple(tensor.shape), checksum(tensor)) for name, tensor in tensors]
    return digest(facts)


def split_facts(split: Batches) -> Any:
    """What the inputs of a split are told by: their content, or the names, sizes and times of their files.

    None where nothing tells them from others: items, and files of a class of the user's own.
    """
    if isinstance(split, ItemBatches):
        return None
    if isinstance(split, ResidentBatches):
        if not isinstance(split.transform, ImageTransform | None):
            return None
        sums = [checksum(part) for part in split.inputs.split(CHECKED_ROWS)]
        return str(split.inputs.dtype), tuple(split.inputs.shape), sums, repr(split.transform)
    assert isinstance(split, LoadedBatches)
    marks = split.files.marks()
    return None if marks is None else (marks, split.files.channels, split.files.image_size, repr(split.transform))


def is_known(network: nn.Module) -> bool:
    """Whether versions tell what a network computes: its modules are of known packages, with no hook."""
    modules = list(network.modules())
    is_hooked = any(hooks for module in modules for hooks in hooks_of(module))
    return not is_hooked and all(type(module).__module__.split(".")[0] in VERSIONED for module in modules)


def digest(facts: list[Any]) -> str:
    return hashlib.blake2b(repr(facts).encode(), digest_size=16).hexdigest()


def _settings(module: nn.Module) -> tuple[object, ...]:
    """The class of a layer and what it was given, beside its tensors."""
    plain = (bool, int, float, str, tuple, type(None))
    kept = {name: value for name, value in vars(module).items() if isinstance(value, plain) and name != "training"}
    return f"{type(module).__module__}.{type(module).__qualname__}", module.extra_repr(), sorted(kept.items(), key=str)
