"""The networks of many runs: all of them forward at once, and back."""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from trainer.stack.layers import Layer
from trainer.stack.store import StackedStore


class Network(Protocol):
    """All runs' networks."""

    def forward(self, inputs: Tensor, is_training: bool) -> Tensor:
        """Inputs `[num_batches, N, ...]` (see `trainer.stack.batches`) to outputs `[num_runs, N, ...]`."""

    def backward(self, gradient: Tensor) -> None:
        """From dL/d outputs of the last forward pass in training to dL/d parameters, in the store's `grads`."""


class Layered:
    """Layers one after another, which know their own gradients.

    Args:
        body: what the inputs go through before, a constant of the training; `[num_batches, N, ...]` to the like.
    """

    def __init__(self, layers: Sequence[Layer], body: Callable[[Tensor], Tensor] | None = None) -> None:
        self._layers, self._body = layers, body
        self._first = next(i for i, layer in enumerate(layers) if layer.learns)

    @torch.no_grad()
    def forward(self, inputs: Tensor, is_training: bool) -> Tensor:
        x = (inputs if self._body is None else self._body(inputs)).flatten(2).mT
        for layer in self._layers:
            x = layer.forward(x, is_training)
        return x.mT

    @torch.no_grad()
    def backward(self, gradient: Tensor) -> None:
        gradient = gradient.mT
        for i in range(len(self._layers) - 1, self._first - 1, -1):
            gradient = self._layers[i].backward(gradient, needs_x=i > self._first)


class Differentiated:
    """Networks that autograd goes back through.

    Args:
        function: of inputs and whether it trains; see `Network.forward`.
        store: whose parameters the function uses.
    """

    def __init__(self, function: Callable[[Tensor, bool], Tensor], store: StackedStore) -> None:
        self._function = function
        self._values = [parameter.values for parameter in store.parameters.values()]
        self._gradients = [parameter.gradient for parameter in store.parameters.values()]

    def forward(self, inputs: Tensor, is_training: bool) -> Tensor:
        if not is_training:
            with torch.no_grad():
                return self._function(inputs, False)
        self._outputs = self._function(inputs, True)
        return self._outputs.detach()

    def backward(self, gradient: Tensor) -> None:
        gradients = torch.autograd.grad(self._outputs, self._values, gradient, materialize_grads=True)
        for place, found in zip(self._gradients, gradients, strict=True):
            place.copy_(found)  # type: ignore[union-attr]
        del self._outputs
