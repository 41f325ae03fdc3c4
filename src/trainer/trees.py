"""Inputs, targets and outputs: a tensor, or dicts, tuples, lists and dataclasses of tensors, at any depth."""

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from itertools import repeat
from typing import Any

import torch
from torch import Tensor, nn

Tree = Any  # Tensor | Mapping[str, Tree] | Sequence[Tree] | a dataclass of Trees | None


def fields_of(tree: Tree) -> dict[str, Tree]:
    """The branches of a dict, a named tuple or a dataclass by name; empty for anything else."""
    if isinstance(tree, Mapping):
        return dict(tree)
    if isinstance(tree, tuple):
        return dict(zip(getattr(tree, "_fields", ()), tree, strict=False))
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        return {field.name: getattr(tree, field.name) for field in dataclasses.fields(tree)}
    return {}


def leaves(tree: Tree) -> list[Tensor]:
    """All tensors of a tree, in their order; whatever is none is left out."""
    if isinstance(tree, Tensor):
        return [tree]
    branches = tree if isinstance(tree, list | tuple) else fields_of(tree).values()
    return [leaf for branch in branches for leaf in leaves(branch)]


def named_leaves(tree: Tree, name: str = "") -> dict[str, Tensor]:
    """All tensors of a tree, in their order, by the keys or the places that lead to them: `mask`, `inputs.0`, `a.b`."""
    if isinstance(tree, Tensor):
        return {name or "inputs": tree}
    fields = fields_of(tree)
    prefix = f"{name}." if name else "" if fields else "inputs."
    places = range(len(tree)) if isinstance(tree, list | tuple) else ()
    branches: Mapping[Any, Tree] = fields or {i: tree[i] for i in places}
    return {
        path: leaf for key, branch in branches.items() for path, leaf in named_leaves(branch, f"{prefix}{key}").items()
    }


def is_per_sample(tree: Tree, num_samples: int) -> bool:
    """Whether every tensor has a row for each sample: then the tree can be cut into parts."""
    return all(leaf.dim() > 0 and len(leaf) == num_samples for leaf in leaves(tree))


def mapped(function: Callable[[Tensor], Any], tree: Tree) -> Tree:
    """The tree with `function(tensor)` in the place of every tensor; whatever is none stays as it is."""
    if isinstance(tree, Tensor):
        return function(tree)
    if type(tree) is dict:
        return {name: mapped(function, branch) for name, branch in tree.items()}
    if isinstance(tree, list | tuple):
        branches = [mapped(function, branch) for branch in tree]
        return type(tree)(*branches) if hasattr(tree, "_fields") else type(tree)(branches)
    return _like(tree, {name: mapped(function, branch) for name, branch in fields_of(tree).items()})


def _like(tree: Tree, branches: Mapping[str, Tree]) -> Tree:
    """A mapping or a dataclass with these branches; whatever is neither as it is."""
    if not branches:
        return tree
    if isinstance(tree, Mapping) and not isinstance(tree, MutableMapping):
        return dict(branches)
    new = copy.copy(tree)
    for name, branch in branches.items():
        if isinstance(tree, MutableMapping):
            new[name] = branch  # of Hugging Face's outputs the attribute, too
        else:
            object.__setattr__(new, name, branch)  # a frozen one, too
    return new


def num_samples(tree: Tree) -> int:
    """N, the first dimension of every tensor of a batch."""
    return len(tree) if isinstance(tree, Tensor) else len(leaves(tree)[0])


def parts(tree: Tree, size: int) -> Iterator[Tree]:
    """The samples of a batch, at most `size` at a time; None again and again of None."""
    if isinstance(tree, Tensor):
        return iter(tree.split(size))
    if not leaves(tree):
        return repeat(tree)
    starts = range(0, num_samples(tree), size)
    return (mapped(lambda tensor, i=i: tensor[i : i + size], tree) for i in starts)  # type: ignore[misc]


def joined(batches: Sequence[Tree]) -> Tree:
    """Batches of the same form as one."""
    first = batches[0]
    if isinstance(first, Tensor):
        return torch.cat([*batches])
    if isinstance(first, list | tuple):
        branches = [joined(branch) for branch in zip(*batches, strict=True)]
        return type(first)(*branches) if hasattr(first, "_fields") else type(first)(branches)
    found = [fields_of(batch) for batch in batches]
    return _like(first, {name: joined([branches[name] for branches in found]) for name in found[0]})


def differentiable(tree: Tree) -> Tree:
    """The same numbers, by which a loss may be differentiated."""
    return mapped(lambda tensor: tensor.detach().requires_grad_(tensor.is_floating_point()), tree)


def called(model: nn.Module, inputs: Tree) -> Tree:
    """What a model gives: `model(tensor)`, `model(*tuple)` or `model(**dict)`."""
    if isinstance(inputs, Tensor):
        return model(inputs)
    return model(**inputs) if isinstance(inputs, Mapping) else model(*inputs)
