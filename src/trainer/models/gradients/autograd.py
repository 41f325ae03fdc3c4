"""(a) The two-layer network with torch's autograd: only the forward pass is written."""

import torch
from torch import Tensor


def two_layer(inputs: Tensor, w1: Tensor, w2: Tensor, b1: Tensor | None = None, b2: Tensor | None = None) -> Tensor:
    """Y = relu(X W1 + b1) W2 + b2.

    Shapes:
        inputs: `[N, in]`, w1: `[in, hidden]`, w2: `[hidden, out]`, b1: `[hidden]`, b2: `[out]`.

    Returns:
        outputs `[N, out]`.
    """
    # Not torch.nn.functional.linear, which multiplies by a transpose: the gradient would be one, too, and added slowly.
    hidden = torch.relu(inputs @ w1 if b1 is None else torch.addmm(b1, inputs, w1))
    return hidden @ w2 if b2 is None else torch.addmm(b2, hidden, w2)
