"""What a layer computes for many runs at once, forward and backward, in memory that is used again in every step.

Between layers the batch is the last dimension, `[num_runs, features, N]`: then biases, activations and softmaxes go
along the memory, where a last dimension of ten classes would leave most of a vector register empty. Before the first
weights there may be fewer rows than runs: one for each batch, see `trainer.stack.batches`.

That the backward pass is written out and its memory kept is for small networks, whose step is little more than the
bookkeeping: no graph is built, and no new page of memory is asked for.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from trainer.stack.batches import of_each
from trainer.stack.store import Parameter


class Layer(Protocol):
    """One step of a forward pass, and the same step back."""

    learns: bool  # whether it has parameters whose gradients are asked for

    def forward(self, x: Tensor, is_training: bool) -> Tensor:
        """`[num_batches or num_runs, in, N]` to `[num_batches or num_runs, out, N]`."""

    def backward(self, gradient: Tensor, needs_x: bool) -> Tensor:
        """From dL/d outputs of the last forward pass in training to dL/dx; anything where that is not needed.

        Leaves dL/d parameters in their places.
        """


class Memory:
    """A tensor that is the same every time it is asked for in a shape."""

    def __init__(self) -> None:
        self._tensors: dict[torch.Size, Tensor] = {}

    def __call__(self, like: Tensor, *shape: int) -> Tensor:
        size = torch.Size(shape)
        if size not in self._tensors:
            self._tensors[size] = like.new_empty(size)
        return self._tensors[size]


# Numbers in a weight above which each run's product is one call: there is enough to do in it, and its result may lie
# anywhere. One call for many matrices wants them in one piece, which a copy of small ones costs little.
LARGE = 1 << 15


class Affine:
    """W x + b of each run.

    Args:
        weight: `[num_runs, out, in]`, or with `is_inputs_first` `[num_runs, in, out]`, as `TwoLayer` has it.
        bias: `[num_runs, out]`, or None.
    """

    def __init__(self, weight: Parameter, bias: Parameter | None, is_inputs_first: bool = False) -> None:
        self._is_inputs_first = is_inputs_first
        self._weight = weight.values.mT if is_inputs_first else weight.values
        self._bias = None if bias is None else bias.values.unsqueeze(2)
        self._of_weight, self._of_bias = weight.gradient, None if bias is None else bias.gradient
        self._is_large = self._weight[0].numel() > LARGE
        self.learns = self._of_weight is not None or self._of_bias is not None
        self._outputs, self._of_x, self._product = Memory(), Memory(), Memory()

    def forward(self, x: Tensor, is_training: bool) -> Tensor:
        self._x = x = of_each(x.mT, len(self._weight)).mT  # what comes in first has its features last in memory
        shape = *self._weight.shape[:2], x.shape[2]
        outputs = self._outputs(x, *shape) if is_training else x.new_empty(shape)
        if self._is_large:
            each_product(self._weight, x, outputs)
            return outputs if self._bias is None else outputs.add_(self._bias)
        if self._bias is None:
            return torch.bmm(self._weight, x, out=outputs)
        return torch.baddbmm(self._bias, self._weight, x, out=outputs)

    def backward(self, gradient: Tensor, needs_x: bool) -> Tensor:
        if self._of_weight is not None:
            factors = (self._x, gradient.mT) if self._is_inputs_first else (gradient, self._x.mT)
            if self._is_large:
                each_product(*factors, self._of_weight)
            else:
                product = self._product(self._of_weight, *self._of_weight.shape)
                self._of_weight.copy_(torch.bmm(*factors, out=product))
        if self._of_bias is not None:
            torch.sum(gradient, 2, out=self._of_bias)
        if not needs_x:
            return gradient
        return torch.bmm(self._weight.mT, gradient, out=self._of_x(self._x, *self._x.shape))


def each_product(a: Tensor, b: Tensor, out: Tensor) -> None:
    """`torch.bmm` into memory where each run's result is in one piece, and not all of them are."""
    for factors in zip(a, b, out, strict=True):
        torch.mm(*factors[:2], out=factors[2])


class ReLU:
    """max(x, 0), in the memory of x where that is nobody else's; the gradient comes to lie there, too."""

    learns = False

    def __init__(self, is_in_place: bool) -> None:
        self._is_in_place = is_in_place

    def forward(self, x: Tensor, is_training: bool) -> Tensor:
        self._y = x.relu_() if self._is_in_place else x.relu()
        return self._y

    def backward(self, gradient: Tensor, needs_x: bool) -> Tensor:
        # Who had y as an input has been through its own backward pass, and needs it no more.
        return torch.ops.aten.threshold_backward.grad_input(gradient, self._y, 0, grad_input=self._y)


class Dropout:
    """`torch.nn.functional.dropout` for each run, from its own stream of random numbers.

    On a CPU torch draws the mask of `[N, features]` numbers with one call of `bernoulli_` in the order of the memory,
    and divides it by the share that is kept. With a generator in the state of torch's own these are the same bits.

    Args:
        shares: of the numbers that are left out, 0..1, of each run.
        generators: of the runs; they are advanced.
    """

    learns = False

    def __init__(self, shares: Sequence[float], generators: Sequence[torch.Generator]) -> None:
        self._rows = list(zip(shares, generators, strict=True))
        self._masks = Memory()

    def forward(self, x: Tensor, is_training: bool) -> Tensor:
        if not is_training:
            return x
        masks = self._masks(x, len(self._rows), x.shape[2], x.shape[1])
        for mask, (share, generator) in zip(masks, self._rows, strict=True):
            if share in (0.0, 1.0):  # there torch draws nothing
                mask.fill_(1.0 - share)
            else:
                mask.bernoulli_(1 - share, generator=generator).div_(1 - share)
        self._mask = masks.mT
        return of_each(x.mT, len(masks)).mT * self._mask

    def backward(self, gradient: Tensor, needs_x: bool) -> Tensor:
        return gradient * self._mask


class Differentiated:
    """A function without parameters, differentiated by autograd."""

    learns = False

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self._function = function

    def forward(self, x: Tensor, is_training: bool) -> Tensor:
        if not is_training:
            return self._function(x)
        with torch.enable_grad():
            self._x = x.detach().requires_grad_()
            self._y = self._function(self._x)
        return self._y.detach()

    def backward(self, gradient: Tensor, needs_x: bool) -> Tensor:
        return torch.autograd.grad(self._y, self._x, gradient)[0]
