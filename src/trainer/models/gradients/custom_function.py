"""(d) The two-layer network with torch's autograd, but for the ReLU, whose derivative is written by hand."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function


class ReLU(Function):
    """relu(h) = max(h, 0); its derivative is 1 where h > 0 and 0 elsewhere, at h = 0 too, as torch has it.

    The backward pass is given dL/d relu(h) and must know where h was positive, so the forward pass saves its input.
    Works in any floating dtype, under autocast as it is, and can be differentiated twice.
    """

    @staticmethod
    def forward(ctx: Any, inputs: Tensor) -> Tensor:
        ctx.save_for_backward(inputs)
        return inputs.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, grad_outputs: Tensor) -> Tensor:
        (inputs,) = ctx.saved_tensors
        # A fill, not a product with [h > 0]: 0 times an infinite gradient would be NaN.
        return grad_outputs.masked_fill(inputs <= 0, 0)


def two_layer(inputs: Tensor, w1: Tensor, w2: Tensor, b1: Tensor | None = None, b2: Tensor | None = None) -> Tensor:
    """Y = relu(X W1 + b1) W2 + b2; shapes as in `autograd.py`."""
    hidden = ReLU.apply(inputs @ w1 if b1 is None else torch.addmm(b1, inputs, w1))
    return hidden @ w2 if b2 is None else torch.addmm(b2, hidden, w2)
