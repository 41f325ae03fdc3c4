"""A module of every run to layers for all of them."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from trainer.models.sequential import Sequential
from trainer.models.two_layer import TwoLayer
from trainer.stack.layers import Affine, Differentiated, Dropout, Layer, ReLU
from trainer.stack.store import StackedStore
from trainer.system.private import hooks_of

# What looks at each number alone and draws nothing.
ELEMENTWISE = (
    *(nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish),
    *(nn.Tanh, nn.Sigmoid, nn.LogSigmoid, nn.Softplus, nn.Softsign),
    *(nn.Hardtanh, nn.Hardsigmoid, nn.Hardswish, nn.Hardshrink, nn.Softshrink, nn.Tanhshrink),
)


def translated(
    modules: Sequence[nn.Module], store: StackedStore, generators: Sequence[torch.Generator], is_flat: bool
) -> tuple[list[Layer], bool] | None:
    """The layers that compute what these modules do, one of each run; None where they are not known here.

    Args:
        generators: of the runs' dropout.
        is_flat: what comes in has one dimension a sample. Samples of more are handed over flattened, which makes no
            difference to what looks at each number alone.

    Returns:
        the layers, and whether what goes out has one dimension a sample.
    """
    first: Any = modules[0]
    kind = type(first)
    if any(hooks_of(first)):  # they may do anything
        return None
    if kind in (nn.Sequential, Sequential):
        chain: list[Layer] = []
        for children in zip(*modules, strict=True):
            found = translated(children, store, generators, is_flat)
            if found is None:
                return None
            more, is_flat = found
            if chain and isinstance(chain[-1], Affine) and type(children[0]) is nn.ReLU:
                more = [ReLU(is_in_place=True)]
            chain += more
        return chain, is_flat
    if kind is nn.Flatten and (first.start_dim, first.end_dim) == (1, -1):
        return [], True
    if kind is nn.Identity:
        return [], is_flat
    if kind is TwoLayer:
        return two_layer(modules, store), True
    if kind is nn.ReLU:
        return [ReLU(is_in_place=False)], is_flat
    if kind in ELEMENTWISE:
        function = copy.copy(first)
        function.inplace = False
        return [Differentiated(function)], is_flat
    if kind is nn.Dropout:
        return dropout([module.p for module in modules], generators), is_flat  # type: ignore[misc]
    if not is_flat:
        return None
    if kind is nn.Linear:
        return [linear(modules, store)], True
    if kind in (nn.Softmax, nn.LogSoftmax) and first.dim in (1, -1):
        softmax = torch.softmax if kind is nn.Softmax else torch.log_softmax
        return [Differentiated(lambda x: softmax(x, 1))], True
    return None


def linear(modules: Sequence[Any], store: StackedStore) -> Layer:
    bias = None if modules[0].bias is None else store.find([module.bias for module in modules])
    return Affine(store.find([module.weight for module in modules]), bias)


def dropout(shares: Sequence[float], generators: Sequence[torch.Generator]) -> list[Layer]:
    """No layer where nothing is left out."""
    return [Dropout(shares, generators)] if any(shares) else []


def two_layer(modules: Sequence[Any], store: StackedStore) -> list[Layer]:
    """Whoever computes the gradient for a run alone, the numbers are these."""
    has_bias = modules[0].b1 is not None
    b1, b2 = (store.find([getattr(m, name) for m in modules]) if has_bias else None for name in ("b1", "b2"))
    w1, w2 = (store.find([getattr(m, name) for m in modules]) for name in ("w1", "w2"))
    return [Affine(w1, b1, is_inputs_first=True), ReLU(is_in_place=True), Affine(w2, b2, is_inputs_first=True)]
