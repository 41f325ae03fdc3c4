"""(b) The two-layer network in torch tensors, its backward pass written by hand.

Forward, for a batch X of N rows (`*` multiplies entry by entry, `[H > 0]` is 1 where that holds and 0 elsewhere):

    H = X W1 + b1        [N, hidden]
    H_relu = max(H, 0)   [N, hidden]
    Y = H_relu W2 + b2   [N, out]

Backward, given dL/dY. Y_nk = sum_j H_relu_nj W2_jk + b2_k, so by the chain rule each factor of a product receives the
other one times dL/dY, summed over the index that it lacks:

    dL/dW2_jk = sum_n H_relu_nj dL/dY_nk        dL/dW2     = H_relu^T (dL/dY)
    dL/db2_k  = sum_n dL/dY_nk                  dL/db2     = column sums of dL/dY
    dL/dH_relu_nj = sum_k dL/dY_nk W2_jk        dL/dH_relu = (dL/dY) W2^T

The ReLU passes on the gradient where its input was positive, and the first layer is the second one over again:

    dL/dH  = (dL/dY W2^T) * [H > 0]
    dL/dW1 = X^T (dL/dH) = X^T ((dL/dY W2^T) * [H > 0])
    dL/db1 = column sums of dL/dH
    dL/dX  = (dL/dH) W1^T                       only where the inputs want a gradient

H > 0 exactly where H_relu > 0, so H itself need not be kept: the ReLU overwrites it.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable


class TwoLayer(Function):
    """The formulas above. Differentiable once: asking for a gradient of the gradient is an error."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, w1: Tensor, w2: Tensor, b1: Tensor | None, b2: Tensor | None) -> Tensor:
        hidden = inputs @ w1 if b1 is None else torch.addmm(b1, inputs, w1)
        hidden.relu_()
        ctx.save_for_backward(inputs, hidden, w1, w2)
        return hidden @ w2 if b2 is None else torch.addmm(b2, hidden, w2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        inputs, hidden, w1, w2 = ctx.saved_tensors
        needs_inputs, needs_w1, needs_w2, needs_b1, needs_b2 = ctx.needs_input_grad
        grad_w2 = hidden.T @ grad_outputs if needs_w2 else None
        grad_b2 = grad_outputs.sum(0) if needs_b2 else None
        # A fill, not a product with [H > 0]: 0 times an infinite gradient would be NaN.
        grad_hidden = (grad_outputs @ w2.T).masked_fill_(hidden <= 0, 0)
        grad_w1 = inputs.T @ grad_hidden if needs_w1 else None
        grad_b1 = grad_hidden.sum(0) if needs_b1 else None
        grad_inputs = grad_hidden @ w1.T if needs_inputs else None
        return grad_inputs, grad_w1, grad_w2, grad_b1, grad_b2


def two_layer(inputs: Tensor, w1: Tensor, w2: Tensor, b1: Tensor | None = None, b2: Tensor | None = None) -> Tensor:
    """Y = relu(X W1 + b1) W2 + b2, differentiated by the formulas above.

    Under autocast both passes are computed in autocast's dtype, as autograd would do it. Shapes are those of
    `autograd.py`.
    """
    tensors: tuple[Tensor | None, ...] = (inputs, w1, w2, b1, b2)
    if torch.is_autocast_enabled(inputs.device.type):
        # Autocast does not reach into a hand-written backward pass, where tensors of two dtypes would meet.
        dtype = torch.get_autocast_dtype(inputs.device.type)
        tensors = tuple(t if t is None or t.dtype == torch.float64 else t.to(dtype) for t in tensors)
    return TwoLayer.apply(*tensors)
