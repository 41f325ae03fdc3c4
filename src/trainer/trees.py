"""Inputs, targets and outputs: a tensor, or dicts, tuples and lists of tensors, at any depth."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import repeat
from typing import Any

import torch
from torch import Tensor, nn

Tree = Any  # Tensor | Mapping[str, Tree] | Sequence[Tree] | None


def leaves(tree: Tree) -> list[Tensor]:
    """All tensors of a tree, in their order; whatever is none is left out."""
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, Mapping):
        tree = tree.values()
    elif not isinstance(tree, list | tuple):
        return []
    return [leaf for branch in tree for leaf in leaves(branch)]


def mapped(function: Callable[[Tensor], Any], tree: Tree) -> Tree:
    """The tree with `function(tensor)` in the place of every tensor; whatever is none stays as it is."""
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, Mapping):
        return {name: mapped(function, branch) for name, branch in tree.items()}
    if isinstance(tree, list | tuple):
        branches = [mapped(function, branch) for branch in tree]
        return type(tree)(*branches) if hasattr(tree, "_fields") else type(tree)(branches)
    return tree


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
    if isinstance(first, Mapping):
        return {name: joined([batch[name] for batch in batches]) for name in first}
    if isinstance(first, list | tuple):
        branches = [joined(branch) for branch in zip(*batches, strict=True)]
        return type(first)(*branches) if hasattr(first, "_fields") else type(first)(branches)
    return first


def differentiable(tree: Tree) -> Tree:
    """The same numbers, by which a loss may be differentiated."""
    return mapped(lambda tensor: tensor.detach().requires_grad_(tensor.is_floating_point()), tree)


def called(model: nn.Module, inputs: Tree) -> Tree:
    """What a model gives: `model(tensor)`, `model(*tuple)` or `model(**dict)`."""
    if isinstance(inputs, Tensor):
        return model(inputs)
    return model(**inputs) if isinstance(inputs, Mapping) else model(*inputs)
