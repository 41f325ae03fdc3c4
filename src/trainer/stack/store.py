"""The parameters of several models of one architecture in one buffer, a row each."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from trainer.stack.refusal import CannotStack
from trainer.state import Store


class Parameter(NamedTuple):
    """The same parameter of all runs, `[num_runs, *shape]`, and the place of its gradient; None for a frozen one."""

    values: Tensor
    gradient: Tensor | None


class StackedStore:
    """The trainable parameters of `num_runs` models as rows of one buffer, their gradients as rows of another.

    A model, its store and its optimizer do not notice: the model's parameters and buffers keep their identity and
    become views into its row, and so do `Store.values` and `Store.grads`. What is computed for all rows at once is
    therefore always what each run has, and a run can leave at any time (`take_out`).

    Args:
        models, stores: of the runs, in the order of the rows.

    Attributes:
        values, grads: `[num_runs, num_parameters]`.
        parameters: by name, those of all runs, in the memory of `values` and `grads`; leaves of autograd.
        buffers: name to all runs' buffers, `[num_runs, *shape]`.

    Raises:
        CannotStack: the models differ in more than their numbers.
    """

    def __init__(self, models: Sequence[nn.Module], stores: Sequence[Store]) -> None:
        refuse_others(models, stores)
        first, num_runs = stores[0], len(stores)
        if any(parameter.is_complex() for parameter in first.parameters):
            raise CannotStack("parameters are complex numbers")
        self.stores = list(stores)
        self.values = torch.cat([store.values for store in stores])
        self.grads = torch.cat([store.grads for store in stores])
        for row, store in enumerate(stores):
            place(store, self.values[row : row + 1], self.grads[row : row + 1])
        values = self.values.data  # a tensor of its own, so that updates of the buffer are none of autograd's business
        self.parameters: dict[str, Parameter] = {}
        for name, parameter, (start, end) in zip(first.names, first.parameters, pairwise(first.bounds), strict=True):
            shape = num_runs, *parameter.shape
            columns = values[:, start:end].view(shape).requires_grad_()
            self.parameters[name] = Parameter(columns, self.grads[:, start:end].view(shape))
        self.buffers: dict[str, Tensor] = {}
        for name, _ in models[0].named_buffers():
            each = [model.get_buffer(name) for model in models]
            self.buffers[name] = torch.stack(each)
            for buffer, row_of_it in zip(each, self.buffers[name], strict=True):
                buffer.data = row_of_it

    def __len__(self) -> int:
        return len(self.stores)

    def find(self, parameters: Sequence[Tensor]) -> Parameter:
        """From a parameter of each run to that of all; frozen ones are copied."""
        first = self.stores[0]
        for name, parameter in zip(first.names, first.parameters, strict=True):
            if parameter is parameters[0]:
                return self.parameters[name]
        return Parameter(torch.stack([parameter.detach() for parameter in parameters]), None)

    def clip(self, norm: float | None, value: float | None) -> None:
        """`trainer.state.Store.clip` for each row."""
        if value is not None:
            self.grads.clamp_(-value, value)
        if norm is not None:
            self.grads.mul_((norm / (self.grads.norm(dim=1, keepdim=True) + 1e-6)).clamp_max(1.0))


def refuse_others(models: Sequence[nn.Module], stores: Sequence[Store]) -> None:
    """Raises CannotStack where parameters or buffers have not the same names, shapes, dtypes and devices everywhere."""

    def facts(model: nn.Module, store: Store) -> list[tuple[object, ...]]:
        tensors = [*zip(store.names, store.parameters, strict=True), *model.named_buffers()]
        return [(name, tuple(tensor.shape), tensor.dtype, tensor.device) for name, tensor in tensors]

    first = facts(models[0], stores[0])
    for model, store in zip(models, stores, strict=True):
        for fact, other in zip(first, facts(model, store), strict=False):
            if fact != other:
                raise CannotStack(f"the models differ: {shown(fact)} and {shown(other)}")
        if len(first) != len(facts(model, store)):
            raise CannotStack("the models differ in the number of their parameters")


def shown(fact: tuple[object, ...]) -> str:
    name, shape, *rest = fact
    return f"{name} {shape} {' '.join(map(str, rest))}"


def place(store: Store, values: Tensor, grads: Tensor) -> None:
    """Has a store and its model's parameters use this memory, `[1, num_parameters]`, which holds their numbers."""
    store.values, store.grads = values, grads
    for parameter, (start, end) in zip(store.parameters, pairwise(store.bounds), strict=True):
        parameter.data = values[0, start:end].view(parameter.shape)
        parameter.grad = grads[0, start:end].view(parameter.shape)
    store.flat.data, store.flat.grad = values[0], grads[0]


def take_out(model: nn.Module, store: Store) -> None:
    """Gives a run memory of its own, with the numbers that it has now: what the stack does no longer reaches it."""
    place(store, store.values.clone(), store.grads.clone())
    for buffer in model.buffers():
        buffer.data = buffer.data.clone()
