"""Convolution, 2x2 max pooling and ReLU as one matrix product, with the batch as the innermost dimension.

The four places of a pool see windows that overlap: together one of `kernel_size + 1` pixels a side, every second pixel.
So the weights, shifted to each of the four, times these windows are all that the pool chooses from, in four blocks of
one matrix: the windows hold 36/4 numbers for each place, with a kernel of 5, where a convolution alone would need 25,
the product has four times as many rows, and everything around it runs over contiguous memory in the batch.

This pays where a compiler makes one loop of each line here (`compile=true` on a CPU). As separate operations it is
slower than torch's own convolution.
"""

from functools import reduce
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn.functional import pad

from trainer.models.lenet import LeNet


class LeNetInWindows(nn.Module):
    """The same as the LeNet within rounding, with its parameters, in the form that a compiler makes fast code of."""

    def __init__(self, lenet: LeNet) -> None:
        super().__init__()
        self.lenet = lenet

    def forward(self, inputs: Tensor) -> Tensor:
        maps = inputs.permute(1, 2, 3, 0).contiguous()
        for conv in (self.lenet.conv1, self.lenet.conv2):
            assert conv.bias is not None
            maps = convolved_pooled_relu(maps, conv.weight, conv.bias)
        return self.lenet.classified(maps.permute(3, 0, 1, 2))


def for_compiler(model: nn.Module, device: torch.device) -> nn.Module:
    """What a compiler is given in the place of a model: the model itself, but for a LeNet on a CPU."""
    return LeNetInWindows(model) if type(model) is LeNet and device.type == "cpu" else model


def convolved_pooled_relu(maps: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """relu(max_pool2d(conv2d(maps, weight, bias), 2)), within rounding; of equal entries the pool takes the first.

    Shapes:
        maps: `[C, H, W, N]`, contiguous, weight: `[O, C, K, K]`, bias: `[O]`.

    Returns:
        maps `[O, (H - K + 1) // 2, (W - K + 1) // 2, N]`.
    """
    _, height, width, num_samples = maps.shape
    num_maps, _, kernel_size, _ = weight.shape
    shifted = torch.stack([pad(weight, (j, 1 - j, i, 1 - i)) for i, j in product((0, 1), repeat=2)])
    places = shifted.view(4 * num_maps, -1) @ Windows.apply(maps, kernel_size + 1)
    largest = Largest.apply(places.view(4, num_maps, -1))
    # The bias and the ReLU change no order: after the pool there is a quarter of the work.
    pooled = torch.relu(largest + bias.unsqueeze(1))
    return pooled.view(num_maps, (height - kernel_size + 1) // 2, (width - kernel_size + 1) // 2, num_samples)


class Windows(Function):
    """The square windows of some pixels a side that begin at every second pixel, one below the other in a matrix.

    Shapes: maps `[C, H, W, N]`, contiguous, and the side S to `[C * S * S, H' * W' * N]` with H' = (H - S) // 2 + 1.
    """

    @staticmethod
    def forward(ctx: Any, maps: Tensor, side: int) -> Tensor:
        ctx.shape, ctx.side = maps.shape, side
        c, h, w, n = maps.shape
        rows, columns = (h - side) // 2 + 1, (w - side) // 2 + 1
        strides = (h * w * n, w * n, n, 2 * w * n, 2 * n, 1)
        windows = maps.as_strided((c, side, side, rows, columns, n), strides)
        return windows.reshape(c * side * side, rows * columns * n)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """Each pixel gets the sum over the windows that it is in: pair of rows by pair of rows, as windows lie."""
        (c, h, w, n), side = ctx.shape, ctx.side
        rows, columns = (h - side) // 2 + 1, (w - side) // 2 + 1
        pairs = -(-side // 2)
        odd = 2 * pairs - side
        grad = pad(grad.view(c, side, side, rows, columns, n), (0, 0, 0, 0, 0, 0, 0, odd, 0, odd))
        grad = grad.view(c, pairs, 2, pairs, 2, rows, columns, n)
        shifted = [
            pad(
                grad[:, i, :, j].permute(0, 3, 1, 4, 2, 5),  # [C, H', 2, W', 2, N]
                (0, 0, 0, 0, j, pairs - 1 - j, 0, 0, i, pairs - 1 - i),
            )
            for i, j in product(range(pairs), repeat=2)
        ]
        height, width = 2 * (rows + pairs - 1), 2 * (columns + pairs - 1)
        total = reduce(torch.add, shifted).reshape(c, height, width, n)
        return pad(total, (0, 0, 0, w - width, 0, h - height)), None


class Largest(Function):
    """The largest of four, `[4, ...]` to `[...]`; of equal ones the first gets the gradient, as in `max_pool2d`."""

    @staticmethod
    def forward(ctx: Any, places: Tensor) -> Tensor:
        a, b, c, d = places.unbind()
        largest = torch.maximum(torch.maximum(a, b), torch.maximum(c, d))
        ctx.save_for_backward(places, largest)
        return largest

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        places, largest = ctx.saved_tensors
        a, b, c = (place == largest for place in places.unbind()[:3])
        zero = grad.new_zeros(())
        return torch.stack(
            [
                torch.where(a, grad, zero),
                torch.where(b & ~a, grad, zero),
                torch.where(c & ~(a | b), grad, zero),
                torch.where(a | b | c, zero, grad),
            ]
        )
