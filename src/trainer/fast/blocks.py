"""Maps in oneDNN's layout: in blocks of channels, which fill a CPU's vectors whatever a pool or a convolution does."""

import torch
from torch import Tensor, nn


def takes_blocks(maps: Tensor, *layers: nn.Module) -> bool:
    """Whether maps can lie in that layout, from `to_mkldnn` to `to_dense`; the numbers are the same.

    Not where there are hooks on the layers: whoever looks at what they give gets it as it usually is. Nor where a
    compiler or a tracer looks.
    """
    if not isinstance(maps, Tensor) or torch.compiler.is_compiling() or any(layer._forward_hooks for layer in layers):
        return False
    has_onednn = maps.device.type == "cpu" and torch.backends.mkldnn.is_available()
    return has_onednn and maps.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
