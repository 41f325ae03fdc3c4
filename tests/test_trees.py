"""Batches that are trees: what is done to the tensors is done to each, and the form stays."""

from collections import namedtuple

import pytest
import torch
from torch import Tensor, nn

from trainer import trees
from trainer.data.batches import Batch

Pair = namedtuple("Pair", ["left", "right"])
A, B, C = torch.arange(10).view(5, 2), torch.arange(5.0), torch.arange(5) > 2
TREES = {
    "tensor": A,
    "tuple": (A, B),
    "list": [A, B],
    "dict": {"ids": A, "mask": C},
    "named": Pair(A, B),
    "nested": {"x": (A, {"y": B}), "z": [C]},
}


@pytest.mark.parametrize("tree", TREES.values(), ids=TREES)
def test_parts_joined_are_the_whole(tree: trees.Tree) -> None:
    for size in (1, 2, 3, 5, 9):
        parts = list(trees.parts(tree, size))
        assert [trees.num_samples(part) for part in parts][:-1] == [size] * (len(parts) - 1)
        whole = trees.joined(parts)
        assert type(whole) is type(tree)
        assert all(map(torch.equal, trees.leaves(whole), trees.leaves(tree)))


@pytest.mark.parametrize("tree", TREES.values(), ids=TREES)
def test_a_function_meets_every_tensor_once(tree: trees.Tree) -> None:
    seen: list[Tensor] = []
    doubled = trees.mapped(lambda tensor: (seen.append(tensor), tensor + tensor)[1], tree)
    assert list(map(id, seen)) == list(map(id, trees.leaves(tree)))
    assert type(doubled) is type(tree)
    assert all(torch.equal(a, b + b) for a, b in zip(trees.leaves(doubled), trees.leaves(tree), strict=True))


def test_whatever_is_no_tensor_stays() -> None:
    tree = {"a": None, "b": "text", "c": (A, 3)}
    assert trees.mapped(lambda tensor: tensor, tree) == {"a": None, "b": "text", "c": (A, 3)}
    assert trees.leaves(tree) == [A]


class Echo(nn.Module):
    def forward(self, left: Tensor, right: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        return left, right


@pytest.mark.parametrize("inputs", [(A, B), [A, B], Pair(A, B), {"left": A, "right": B}, {"right": B, "left": A}])
def test_a_model_gets_a_tuple_by_position_and_a_dict_by_name(inputs: trees.Tree) -> None:
    left, right = trees.called(Echo(), inputs)
    assert left is A
    assert right is B
    assert trees.called(Echo(), A) == (A, None)


def test_a_batch_without_targets_has_parts_without_targets() -> None:
    parts = list(Batch({"x": A}, None).parts(2))
    assert [part.num_samples for part in parts] == [2, 2, 1]
    assert all(part.targets is None for part in parts)


def test_leaves_are_named_by_keys_and_places() -> None:
    found = trees.named_leaves(TREES["nested"])
    assert {name: leaf.tolist() for name, leaf in found.items()} == {
        "x.0": A.tolist(),
        "x.1.y": B.tolist(),
        "z.0": C.tolist(),
    }
    assert list(trees.named_leaves((A, [B, None]))) == ["inputs.0", "inputs.1.0"]
    assert list(trees.named_leaves(Pair(A, B))) == ["left", "right"]
    assert list(trees.named_leaves({"inputs": {"a": A}, "a": B})) == ["inputs.a", "a"]
    assert list(trees.named_leaves(A)) == ["inputs"]
