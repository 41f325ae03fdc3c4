"""Samples of several tensors, as they come from files, lines and Python: arrays by their names."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainer.data.preparation import Theirs
from trainer.errors import UserError
from trainer.trees import Tree, joined


def of_samples(inputs: Theirs, samples: Any, told: str) -> Tree:
    """As the model takes them, `[N, ...]` each.

    Args:
        samples: a mapping of arrays by name, or a tuple where the model takes one; or a list of such. An array is
            `[N, ...]`, or that of one sample. Where dicts lie in dicts, they may be given so, or by names `text.ids`.

    Raises:
        UserError: a tensor is missing, or is of another form than the model was trained with.
    """
    is_one = isinstance(samples, Mapping) or (inputs.is_tuple and isinstance(samples, tuple))
    return joined([of_arrays(inputs, sample, told) for sample in ([samples] if is_one else samples)])


def of_arrays(inputs: Theirs, arrays: Any, told: str) -> Tree:
    """One of the list of `of_samples`."""
    if not isinstance(arrays, Mapping):
        arrays = {f"inputs.{i}": array for i, array in enumerate(arrays if isinstance(arrays, Sequence) else [arrays])}
    if inputs.is_nested:
        arrays = _by_ways(inputs, arrays)
    wanted = ", ".join(inputs.tensors)
    if set(map(str, arrays)) != set(inputs.tensors):
        raise UserError(f"{told}: it holds {', '.join(map(str, arrays)) or 'nothing'}; the model takes {wanted}.")
    found = {name: _tensor(arrays[name], *form, f"{told}: {name}") for name, form in inputs.tensors.items()}
    lengths = {name: len(tensor) for name, tensor in found.items()}
    if len(set(lengths.values())) > 1:
        numbers = ", ".join(f"{name} {length:,}" for name, length in lengths.items())
        raise UserError(f"{told}: as many samples are needed of each: {numbers}.")
    return inputs.tree(found)


def _by_ways(inputs: Theirs, arrays: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """Arrays in dicts and tuples by the names that lead to them; as they are where one is missing."""
    start = 1 + inputs.is_tuple  # so much of a name is the first key: `text`, `inputs.0`
    ways = {name: name.split(".") for name in inputs.tensors}
    if set(map(str, arrays)) != {".".join(way[:start]) for way in ways.values()}:
        return arrays
    found = {}
    for name, way in ways.items():
        node = arrays[".".join(way[:start])]
        for key in way[start:]:
            try:
                node = node[key] if isinstance(node, Mapping) else node[int(key)]
            except (KeyError, IndexError, TypeError, ValueError):
                return arrays
        found[name] = node
    return found


def _tensor(array: Any, dtype: str, dims: int, told: str) -> Tensor:
    """`[N, ...]`, in the dtype that the model was trained with; numbers with a fraction are never made whole."""
    try:
        tensor = torch.as_tensor(array if isinstance(array, Tensor) else np.asarray(array))
    except (TypeError, ValueError, RuntimeError) as error:  # of words, of lists of several lengths
        raise UserError(f"{told}: no array of numbers. Give one of {dtype}.") from error
    if tensor.dim() == dims - 1:
        tensor = tensor.unsqueeze(0)
    wanted: torch.dtype = getattr(torch, dtype)
    if tensor.dim() != dims:
        form = f"[N{', ...' * (dims > 1)}] of {dims} dimension{'s' * (dims > 1)}"
        raise UserError(f"{told}: an array of shape {list(tensor.shape)}; give {form}.")
    as_wanted = tensor.to(wanted)
    if not wanted.is_floating_point and not torch.equal(as_wanted.to(tensor.dtype), tensor):
        kind = str(tensor.dtype).removeprefix("torch.")
        raise UserError(f"{told}: {kind} with other numbers than {dtype} holds. Give {dtype}.")
    return as_wanted
