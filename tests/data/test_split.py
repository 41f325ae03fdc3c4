"""Who falls into which split: equal shares of every class, whole groups, and always the same."""

import numpy as np
import pytest
import torch

from refusal import says
from trainer.data.folds import in_folds, shares
from trainer.data.source import split_off
from trainer.data.split import split_by_time, split_rows, uneven

PARTS = {"val": 0.1, "test": 0.2}


def test_without_classes_and_groups_it_is_the_plain_split() -> None:
    plain, ours = split_off(101, 7, **PARTS), split_rows(101, 7, PARTS)
    assert plain.keys() == ours.keys()
    assert all(torch.equal(plain[split], ours[split]) for split in plain)


@pytest.mark.parametrize("counts", [(100,), (90, 10), (50, 30, 13, 7), (400, 3, 2, 1), (1,) * 30], ids=str)
@pytest.mark.parametrize("seed", [0, 1])
def test_each_split_gets_its_share_of_every_class(counts: tuple[int, ...], seed: int) -> None:
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    parts = split_rows(len(labels), seed, PARTS, labels)
    assert sorted(torch.cat(list(parts.values())).tolist()) == list(range(len(labels)))
    plain = split_off(len(labels), seed, **PARTS)
    assert {split: len(rows) for split, rows in parts.items()} == {split: len(rows) for split, rows in plain.items()}
    for split, rows in parts.items():
        share = len(rows) / len(labels)
        for label, count in enumerate(counts):
            assert abs(int((labels[rows] == label).sum()) - share * count) <= 1.01, (split, label)


def test_rows_of_a_split_are_shuffled_and_fixed_by_the_seed() -> None:
    labels = torch.arange(300) % 3
    a, b, c = (split_rows(300, seed, PARTS, labels)["train"] for seed in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert not torch.equal(a, a.sort().values)
    assert len({tuple(labels[a[i : i + 3]].tolist()) for i in range(0, 200, 3)}) > 9  # not one class after the other


@pytest.mark.parametrize(
    "sizes", [[1] * 50, [4] * 20, [40, 5, 5, 5, 5], [1, 1, 98], [3, 9, 1, 22, 7, 15, 2, 30]], ids=str
)
@pytest.mark.parametrize("seed", range(4))
def test_a_group_is_in_one_split_and_no_split_is_empty(sizes: list[int], seed: int) -> None:
    groups = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)) * 10 + 3, sizes))
    parts = split_rows(len(groups), seed, PARTS, groups=groups)
    assert sorted(torch.cat(list(parts.values())).tolist()) == list(range(len(groups)))
    of_split = [set(groups[rows.numpy()].tolist()) for rows in parts.values()]
    assert all(of_split)
    assert sum(map(len, of_split)) == len(sizes)


def test_shares_of_groups_are_near_those_asked_for() -> None:
    groups = np.arange(1000) // 5
    sizes = {split: len(rows) for split, rows in split_rows(1000, 0, PARTS, groups=groups).items()}
    assert sizes == {"train": 700, "val": 100, "test": 200}


def test_sizes_that_groups_spoil_are_said() -> None:
    even, giant = np.arange(60) // 4, np.maximum(np.arange(60), 50)
    for groups, said in ((even, False), (giant, True)):
        for num_folds in (None, 5):
            with in_folds(num_folds, None if num_folds is None else 0):
                parts = split_rows(60, 0, PARTS, groups=groups)
                notes = uneven(parts, PARTS, groups, "data.group")
            assert len(notes) == said
            if said:
                assert notes[0].startswith("data.group keeps up to 51 of 60 samples together")
    with in_folds(5, 0):
        assert shares(parts, PARTS) == pytest.approx({"train": 38.4, "val": 9.6, "test": 12})  # 48 in 5 folds


def test_too_few_groups() -> None:
    message = says(
        split_rows,
        "there are 2 groups for 3 splits",
        num_samples=40,
        split_seed=0,
        fractions=PARTS,
        groups=np.arange(40) % 2,
    )
    assert message.startswith("data.group: ")
    says(split_rows, "3 samples are too few", num_samples=3, split_seed=0, fractions=PARTS, labels=torch.arange(3))


@pytest.mark.parametrize("counts", [[1] * 101, [10] * 10, [70, 1, 30], [1, 98, 1, 1], [1, 1, 99]], ids=str)
def test_later_times_are_in_later_splits(counts: list[int]) -> None:
    times = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)) * 1.5 - 3, counts))
    parts = split_by_time(times, PARTS)
    assert [*parts] == ["train", "val", "test"]
    assert sorted(torch.cat(list(parts.values())).tolist()) == list(range(sum(counts)))
    train, val, test = (times[rows.numpy()] for rows in parts.values())
    assert train.max() < val.min() <= val.max() < test.min()
    if max(counts) == 1:
        assert [len(train), len(val), len(test)] == [71, 10, 20]


def test_too_few_times() -> None:
    says(split_by_time, "data.time: there are 2 times for 3 splits", times=np.arange(40) % 2, fractions=PARTS)
