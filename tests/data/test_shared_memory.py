"""Batches come out of workers as they went in, in memory of their own, whatever is handed over next."""

import threading
from collections import namedtuple
from typing import Any

import pytest
import torch
from torch import Tensor

from trainer.data import shared_memory
from trainer.data.batches import Batch
from trainer.data.shared_memory import Hands
from trainer.trees import leaves

Pair = namedtuple("Pair", "left right")


def numbers(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.arange(torch.Size(shape).numel()).reshape(shape).to(dtype)


@pytest.mark.parametrize(
    "batch",
    [
        numbers(3, 4),
        torch.tensor(3.5),
        torch.zeros(0, 5),
        numbers(2, 3, 4, 5).to(memory_format=torch.channels_last),
        numbers(6, 4).t(),
        numbers(8)[::2],
        numbers(1, 4).expand(3, 4),
        torch.randn(3, dtype=torch.complex64).conj(),
        {"image": numbers(2, 3), "more": [numbers(1), None, "word", 7], "pair": Pair(numbers(3), (numbers(2),))},
        *(numbers(7, dtype=kind) for kind in (torch.bool, torch.uint8, torch.int64, torch.float16, torch.bfloat16)),
        numbers(3, dtype=torch.float64).requires_grad_(),
        "no tensor at all",
    ],
    ids=lambda batch: type(batch).__name__,
)
def test_a_batch_comes_as_it_was_given(batch: Any) -> None:
    hands = Hands(1, 2)
    for _ in range(5):
        found = hands.take(hands.give(0, batch))
        assert type(found) is type(batch)
        for x, y in zip(leaves(found), leaves(batch), strict=True):
            assert (x.dtype, x.shape, x.layout) == (y.dtype, y.shape, y.layout)
            assert torch.equal(x, y)
            assert x.stride() == torch.empty_like(y).stride()
    if isinstance(batch, dict):
        assert found["more"][1:] == [None, "word", 7]
        assert isinstance(found["pair"], Pair)


def test_a_batch_stays_what_it_was() -> None:
    hands = Hands(2, 3)
    found = [hands.take(hands.give(i % 2, Batch(torch.full((1 + i % 5,), float(i)), None))) for i in range(20)]
    for i, batch in enumerate(found):
        assert batch.inputs.tolist() == [float(i)] * (1 + i % 5)


def test_memory_is_used_again() -> None:
    hands, given = Hands(1, 3), []
    for i in range(9):
        given.append(hands.give(0, numbers(10 + i % 2)))
        if i >= 1:  # two are on their way
            hands.take(given[i - 1])
    assert [handed.number for handed in given] == [0, 1, 2] * 3
    assert sum(handed.piece is not None for handed in given) == 3


def test_who_has_no_piece_left_waits_for_one() -> None:
    hands = Hands(1, 1)
    first, second = hands.give(0, numbers(3)), []
    waiting = threading.Thread(target=lambda: second.append(hands.give(0, 2 * numbers(3))))
    waiting.start()
    waiting.join(0.05)
    assert not second
    assert hands.take(first).tolist() == [0, 1, 2]
    waiting.join()
    assert hands.take(second[0]).tolist() == [0, 2, 4]


def test_little_shared_memory_gives_fewer_pieces_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    hands, share, count = Hands(1, 3), Tensor.share_memory_, 0

    def limited(tensor: Tensor) -> Tensor:
        nonlocal count
        count += 1
        if count > 2:
            raise RuntimeError("unable to allocate shared memory")
        return share(tensor)

    monkeypatch.setattr(Tensor, "share_memory_", limited)
    monkeypatch.setattr(shared_memory, "_MOMENT", 0.0)
    for i in range(8):
        assert hands.take(hands.give(0, numbers(4) + i)).tolist() == [i, i + 1, i + 2, i + 3]
    none = Hands(1, 3)
    for i in range(8):
        for its, size in ((hands, 2 + i), (none, 4)):  # larger than the pieces that there are
            assert its.take(its.give(0, numbers(size) + i)).tolist() == [i + j for j in range(size)]
    assert count == 4  # after the first that fails, nothing is tried
