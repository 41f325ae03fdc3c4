"""(a) The two-layer network with torch's autograd: only the forward pass is written."""

import torch
from torch import Tensor
from torch.nn.functional import linear


def two_layer(inputs: Tensor, w1: Tensor, w2: Tensor, b1: Tensor | None = None, b2: Tensor | None = None) -> Tensor:
    """Y = relu(X W1 + b1) W2 + b2.

    Shapes:
        inputs: `[N, in]`, w1: `[in, hidden]`, w2: `[hidden, out]`, b1: `[hidden]`, b2: `[out]`.

    Returns:
        outputs `[N, out]`.
    """
    hidden = torch.relu(linear(inputs, w1.T, b1))  # torch's linear multiplies by the transpose of what it is given
    return linear(hidden, w2.T, b2)
