"""(c) The two-layer network in NumPy, its backward pass written by hand.

Forward, for a batch X of N rows (`*` multiplies entry by entry, `[H > 0]` is 1 where that holds and 0 elsewhere):

    H = X W1 + b1        [N, hidden]
    H_relu = max(H, 0)   [N, hidden]
    Y = H_relu W2 + b2   [N, out]

Backward, given dL/dY (`gradients/tensors.py` derives it index by index):

    dL/dW2 = H_relu^T (dL/dY)
    dL/db2 = column sums of dL/dY
    dL/dH  = (dL/dY W2^T) * [H > 0]
    dL/dW1 = X^T (dL/dH) = X^T ((dL/dY W2^T) * [H > 0])
    dL/db1 = column sums of dL/dH
    dL/dX  = (dL/dH) W1^T      only where the inputs want a gradient

On the CPU a tensor and its array are the same memory, in both directions, so crossing the bridge costs nothing; from
another device the tensors are copied to the CPU, and the results back. NumPy multiplies with its own BLAS and as many
threads as that takes, whatever torch is told.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable


def as_array(tensor: Tensor) -> np.ndarray:
    """The tensor as an array: the same memory on the CPU, a copy from elsewhere.

    NumPy has no bfloat16 and is slow in float16, so half precision is widened to float32 (a copy).
    """
    if tensor.dtype in (torch.bfloat16, torch.float16):
        tensor = tensor.float()
    return tensor.numpy(force=True)  # force: detach, and bring to the CPU where it is elsewhere


class TwoLayer(Function):
    """The formulas above. Differentiable once: asking for a gradient of the gradient is an error."""

    @staticmethod
    @np.errstate(all="ignore")  # as in torch, what overflows becomes inf without a warning
    def forward(ctx: Any, inputs: Tensor, w1: Tensor, w2: Tensor, b1: Tensor | None, b2: Tensor | None) -> Tensor:
        hidden = as_array(inputs) @ as_array(w1)
        if b1 is not None:
            hidden += as_array(b1)
        np.maximum(hidden, 0, out=hidden)
        outputs = hidden @ as_array(w2)
        if b2 is not None:
            outputs += as_array(b2)
        # Saved as tensors, so that autograd notices a weight that is changed between the two passes.
        ctx.save_for_backward(inputs, torch.from_numpy(hidden), w1, w2)
        return torch.from_numpy(outputs).to(inputs.device)

    @staticmethod
    @once_differentiable
    @np.errstate(all="ignore")
    def backward(ctx: Any, grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        inputs, hidden, w1, w2 = (as_array(tensor) for tensor in ctx.saved_tensors)
        grad = as_array(grad_outputs)
        needs_inputs, needs_w1, needs_w2, needs_b1, needs_b2 = ctx.needs_input_grad
        grad_w2 = hidden.T @ grad if needs_w2 else None
        grad_b2 = grad.sum(0) if needs_b2 else None
        grad_hidden = grad @ w2.T
        # A fill, not a product with [H > 0]: 0 times an infinite gradient would be NaN.
        np.copyto(grad_hidden, 0, where=hidden <= 0)
        grad_w1 = inputs.T @ grad_hidden if needs_w1 else None
        grad_b1 = grad_hidden.sum(0) if needs_b1 else None
        grad_inputs = grad_hidden @ w1.T if needs_inputs else None
        grads = (grad_inputs, grad_w1, grad_w2, grad_b1, grad_b2)
        return tuple(None if g is None else torch.from_numpy(g).to(grad_outputs.device) for g in grads)


def two_layer(inputs: Tensor, w1: Tensor, w2: Tensor, b1: Tensor | None = None, b2: Tensor | None = None) -> Tensor:
    """Y = relu(X W1 + b1) W2 + b2, differentiated by the formulas above.

    Autocast has no say over NumPy: the dtype is that of the tensors, half precision widened to float32. Shapes are
    those of `autograd.py`.
    """
    return TwoLayer.apply(inputs, w1, w2, b1, b2)
