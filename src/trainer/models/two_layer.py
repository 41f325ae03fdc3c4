"""The two-layer network: H = X W1, ReLU, Y = H_relu W2, and a choice of who computes its gradient."""

import math

import torch
from torch import Tensor, nn

from trainer.errors import nearest, one_of
from trainer.models.gradients import autograd, custom_function, numpy, tensors
from trainer.models.sizes import refuse_no_size

GRADIENTS = {
    "autograd": autograd.two_layer,
    "tensors": tensors.two_layer,
    "numpy": numpy.two_layer,
    "custom_function": custom_function.two_layer,
}


class TwoLayer(nn.Module):
    """Y = relu(X W1 + b1) W2 + b2.

    The parameters `w1`, `w2` (and `b1`, `b2`) are the same for every `gradient`, so a checkpoint of one loads into
    another. They start as those of `nn.Linear` do: uniform within 1/sqrt(number of inputs) of zero.

    Args:
        in_features: numbers per sample; inputs of more dimensions are flattened.
        hidden_features: units between the two layers.
        out_features: numbers per output.
        bias: whether b1 and b2 are there.
        gradient: who computes both passes, a file of `trainer/gradients/`: autograd, tensors, numpy, custom_function.

    Shapes:
        inputs `[N, ...]` of in_features numbers per sample to outputs `[N, out_features]`.
    """

    def __init__(
        self,
        *,
        in_features: int,
        hidden_features: int = 100,
        out_features: int,
        bias: bool = True,
        gradient: str = "autograd",
    ) -> None:
        super().__init__()
        refuse_no_size(in_features=in_features, hidden_features=hidden_features, out_features=out_features)
        if gradient not in GRADIENTS:
            raise ValueError(f"gradient={gradient}: accepted are {one_of(GRADIENTS)}.{nearest(gradient, GRADIENTS)}")
        self.gradient = gradient
        self.w1 = nn.Parameter(torch.empty(in_features, hidden_features))
        self.w2 = nn.Parameter(torch.empty(hidden_features, out_features))
        self.b1 = nn.Parameter(torch.empty(hidden_features)) if bias else None
        self.b2 = nn.Parameter(torch.empty(out_features)) if bias else None
        for weight, vector in ((self.w1, self.b1), (self.w2, self.b2)):
            bound = 1 / math.sqrt(len(weight))
            nn.init.uniform_(weight, -bound, bound)
            if vector is not None:
                nn.init.uniform_(vector, -bound, bound)

    def forward(self, inputs: Tensor) -> Tensor:
        return GRADIENTS[self.gradient](inputs.flatten(1), self.w1, self.w2, self.b1, self.b2)

    def extra_repr(self) -> str:
        return f"{' -> '.join(map(str, (*self.w1.shape, self.w2.shape[1])))}, gradient={self.gradient}"
