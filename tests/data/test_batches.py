"""Batch n is a function of (seed, n): from wherever one starts, and wherever the samples lie."""

from itertools import islice

import pytest
import torch
from torch import Tensor

from trainer.data import batches as room
from trainer.data.batches import (
    BATCHES_PER_GATHER,
    Batch,
    LoadedBatches,
    ResidentBatches,
    batch_length,
    derived_seed,
    first_samples,
    permutation,
    share,
    smallest_batch,
)
from trainer.data.images import Augmentation
from trainer.data.source import ImageFiles

CPU = torch.device("cpu")
# (samples, batch size): a short last batch, none, a batch that is all or more, one sample, more batches than one gather
SIZES = [(10, 3), (8, 4), (7, 7), (5, 9), (6, 1), (2 * BATCHES_PER_GATHER + 11, 2)]


def images(num_samples: int, size: int = 6) -> Tensor:
    """Grey images whose first pixel is the number of the sample and whose others differ."""
    pixels = torch.randint(0, 256, (num_samples, 1, size, size), generator=torch.Generator().manual_seed(0))
    pixels[:, 0, 0, 0] = torch.arange(num_samples)
    return pixels.to(torch.uint8)


class Files(ImageFiles):
    """As files on disk are seen, from memory."""

    channels, image_size = 1, 6

    def __init__(self, num_samples: int) -> None:
        self.pixels, self.targets = images(num_samples), torch.arange(num_samples) + 1000
        self.read: list[int] = []

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        self.read.append(index)
        return self.pixels[index], int(self.targets[index])


def resident(num_samples: int, augment: Augmentation | None = None, is_lazy: bool = False) -> ResidentBatches:
    targets = torch.arange(num_samples) + 1000
    if is_lazy:
        return ResidentBatches(images(num_samples), targets, Tensor.float, augment)
    return ResidentBatches(images(num_samples).float(), targets, None, augment)


def loaded(num_samples: int, augment: Augmentation | None = None, num_workers: int = 0) -> LoadedBatches:
    return LoadedBatches(Files(num_samples), CPU, Tensor.float, augment, num_workers)


MAKERS = {"resident": resident, "loaded": loaded}
ALL_MAKERS = {**MAKERS, "lazy": lambda n, augment=None: resident(n, augment, is_lazy=True)}


def numbers(batch: Batch) -> list[int]:
    """Of the samples in a batch; inputs and targets must belong together."""
    assert batch.inputs[:, 0, 0, 0].long().equal(batch.targets - 1000)
    return (batch.targets - 1000).tolist()


def by_hand(num_samples: int, batch_size: int, seed: int, step: int) -> list[int]:
    """The samples of batch `step`, one formula for all."""
    steps_per_epoch = (num_samples + batch_size - 1) // batch_size
    epoch, place = (step - 1) // steps_per_epoch, (step - 1) % steps_per_epoch
    order = permutation(seed, epoch, num_samples).tolist() if batch_size < num_samples else list(range(num_samples))
    return order[place * batch_size : (place + 1) * batch_size]


class TestOrder:
    @pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
    @pytest.mark.parametrize(("num_samples", "batch_size"), SIZES)
    def test_from_any_first_step_each_batch_is_that_of_its_number(self, make, num_samples, batch_size):
        num_steps = 3 * -(-num_samples // batch_size) + 1
        expected = [by_hand(num_samples, batch_size, 5, step) for step in range(1, num_steps + 1)]
        batches = make(num_samples)
        unbroken = [numbers(batch) for batch in islice(batches.training(batch_size, 5, 1), num_steps)]
        assert unbroken == expected
        for first_step in range(1, num_steps + 1):
            ahead = min(4, num_steps - first_step + 1)
            found = [numbers(batch) for batch in islice(batches.training(batch_size, 5, first_step), ahead)]
            assert found == expected[first_step - 1 : first_step - 1 + ahead], first_step

    @pytest.mark.parametrize(("num_samples", "batch_size"), SIZES)
    def test_an_epoch_holds_every_sample_once(self, num_samples, batch_size):
        steps_per_epoch = -(-num_samples // batch_size)
        batches = resident(num_samples).training(batch_size, 0, 1)
        for _ in range(3):
            epoch = [number for batch in islice(batches, steps_per_epoch) for number in numbers(batch)]
            assert sorted(epoch) == list(range(num_samples))

    def test_epochs_and_seeds_have_orders_of_their_own(self):
        orders = {tuple(permutation(seed, epoch, 20).tolist()) for seed in range(5) for epoch in range(5)}
        assert len(orders) == 25

    def test_a_permutation_is_fair(self):
        """Each sample comes first about as often as any other: within five standard deviations."""
        firsts = torch.tensor([int(permutation(0, epoch, 4)[0]) for epoch in range(2000)])
        counts = torch.bincount(firsts, minlength=4)
        assert ((counts - 500).abs() < 5 * (2000 * 0.25 * 0.75) ** 0.5).all()

    @pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # of Python 3.12 on: torch forks beside threads
    def test_workers_change_nothing(self):
        alone, helped = ([*islice(loaded(10, None, n).training(3, 0, 2), 7)] for n in (0, 2))
        assert [numbers(batch) for batch in alone] == [numbers(batch) for batch in helped]

    @pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
    def test_draws_nothing_from_the_models_random_numbers(self, make):
        before = torch.get_rng_state()
        batches = make(10, Augmentation(1, True, 10.0))
        list(islice(batches.training(3, 0, 1), 9))
        list(batches.in_order())
        assert torch.get_rng_state().equal(before)

    def test_the_seeds_of_draws_are_those_of_the_first_release(self):
        """A run may go on under a later version: pinned."""
        assert derived_seed(0, "order", 0) == 3471081512423777433
        assert permutation(0, 0, 8).tolist() == [2, 4, 1, 6, 5, 0, 7, 3]

    def test_every_purpose_and_number_has_a_seed_of_its_own(self):
        seeds = {
            derived_seed(seed, purpose, number)
            for seed in range(10)
            for purpose in ("order", "augmentation")
            for number in range(50)
        }
        assert len(seeds) == 1000
        assert all(0 <= seed < 2**63 for seed in seeds)


class TestInOrder:
    @pytest.mark.parametrize("make", ALL_MAKERS.values(), ids=ALL_MAKERS)
    @pytest.mark.parametrize("num_samples", [1, 63, 64, 65, 200])
    def test_gives_every_sample_once_in_order(self, make, num_samples, monkeypatch):
        monkeypatch.setattr(room, "EVALUATION_BATCH", 64)
        batches = make(num_samples)
        assert [number for batch in batches.in_order() for number in numbers(batch)] == list(range(num_samples))
        assert len(batches) == num_samples

    def test_augments_nothing(self):
        (batch,) = resident(9, Augmentation(2, True, 45.0)).in_order()
        assert batch.inputs.equal(images(9).float())


class TestShares:
    """What the ranks have together is what one has alone, bit for bit."""

    @pytest.mark.parametrize("augment", [None, Augmentation(2, True, 30.0)], ids=["plain", "augmented"])
    @pytest.mark.parametrize("make", ALL_MAKERS.values(), ids=ALL_MAKERS)
    @pytest.mark.parametrize("world_size", [1, 2, 3])
    @pytest.mark.parametrize(
        ("num_samples", "batch_size"),
        # a last batch of a sample a rank; none; one batch larger than all; sizes that 2 and 3 don't divide; 2 gathers
        [(11, 4), (12, 6), (5, 9), (33, 10), (2 * BATCHES_PER_GATHER * 3 + 13, 5)],
    )
    def test_of_a_batch_are_the_batch(self, make, num_samples, batch_size, world_size, augment):
        steps_per_epoch = -(-num_samples // batch_size)
        for first_step in (1, steps_per_epoch, steps_per_epoch + 2):
            num_steps = min(steps_per_epoch + 2, 9)
            whole = [*islice(make(num_samples, augment).training(batch_size, 5, first_step), num_steps)]
            ranks = [
                [*islice(make(num_samples, augment).training(batch_size, 5, first_step, rank, world_size), num_steps)]
                for rank in range(world_size)
            ]
            for batch, *shares in zip(whole, *ranks, strict=True):
                for mine, expected in zip(shares, batch.targets.tensor_split(world_size), strict=True):
                    assert mine.targets.equal(expected)
                assert torch.cat([mine.inputs for mine in shares]).equal(batch.inputs)

    @pytest.mark.parametrize("make", ALL_MAKERS.values(), ids=ALL_MAKERS)
    @pytest.mark.parametrize("world_size", [1, 2, 3, 7])
    @pytest.mark.parametrize("num_samples", [1, 2, 64, 65, 200])
    def test_of_a_split_are_the_split(self, make, num_samples, world_size, monkeypatch):
        monkeypatch.setattr(room, "EVALUATION_BATCH", 16)
        ranks = [[*make(num_samples).in_order(rank, world_size)] for rank in range(world_size)]
        assert [number for rank in ranks for batch in rank for number in numbers(batch)] == list(range(num_samples))
        sizes = [sum(len(batch.targets) for batch in rank) for rank in ranks]
        assert sizes == [len(part) for part in torch.arange(num_samples).tensor_split(world_size)]
        assert all(len(batch.targets) for rank in ranks for batch in rank)

    def test_no_rank_reads_what_is_not_its_own(self):
        batches = loaded(20)
        given = [numbers(batch) for batch in islice(batches.training(6, 0, 2, 1, 3), 9)]
        assert batches.files.read == [number for batch in given for number in batch]
        batches.files.read.clear()
        list(batches.in_order(2, 3))
        assert batches.files.read == list(range(14, 20))

    def test_no_rank_gathers_what_is_not_its_own(self):
        """A rank's batches are slices of one gathered tensor: it holds their rows and no more."""
        mine = next(resident(100).training(10, 0, 1, 0, 2))
        assert mine.inputs.untyped_storage().nbytes() == 50 * mine.inputs[0].nbytes
        whole = resident(100)
        mine = next(whole.training(100, 0, 1, 1, 2))
        assert mine.inputs.data_ptr() == whole.inputs[50].data_ptr()

    def test_are_those_of_tensor_split(self):
        for world_size in range(1, 9):
            for num_rows in range(30):
                parts = torch.arange(num_rows).tensor_split(world_size)
                found = [torch.arange(num_rows)[share(num_rows, rank, world_size)] for rank in range(world_size)]
                assert [part.tolist() for part in found] == [part.tolist() for part in parts]

    @pytest.mark.parametrize(("num_samples", "batch_size"), SIZES)
    def test_lengths_are_known_without_the_batches(self, num_samples, batch_size):
        steps_per_epoch = -(-num_samples // batch_size)
        epochs = [*islice(resident(num_samples).training(batch_size, 0, 1), 2 * steps_per_epoch)]
        lengths = [len(batch.targets) for batch in epochs]
        assert [batch_length(num_samples, batch_size, step) for step in range(1, len(epochs) + 1)] == lengths
        assert smallest_batch(num_samples, batch_size) == min(lengths)


class TestAugmentation:
    AUGMENT = Augmentation(crop_padding=2, horizontal_flip=True, rotation=30.0)

    @pytest.mark.parametrize("first_step", [2, 3, 6, 7])
    def test_is_a_function_of_seed_and_step(self, first_step):
        unbroken = [*islice(resident(10, self.AUGMENT).training(3, 0, 1), 9)]
        for make in ALL_MAKERS.values():
            for found, expected in zip(
                make(10, self.AUGMENT).training(3, 0, first_step), unbroken[first_step - 1 :], strict=False
            ):
                assert found.inputs.equal(expected.inputs)
                assert found.targets.equal(expected.targets)

    def test_differs_from_step_to_step_and_from_seed_to_seed(self):
        """The batch is the whole split, so that the images are the same and only the draws differ."""
        first, second = islice(resident(5, self.AUGMENT).training(5, 0, 1), 2)
        other = next(resident(5, self.AUGMENT).training(5, 1, 1))
        assert not first.inputs.equal(second.inputs)
        assert not first.inputs.equal(other.inputs)

    def test_leaves_the_samples_and_their_order_as_they_are(self):
        batches = resident(10, self.AUGMENT)
        plain = [batch.targets.tolist() for batch in islice(resident(10).training(3, 0, 1), 8)]
        assert [batch.targets.tolist() for batch in islice(batches.training(3, 0, 1), 8)] == plain
        assert batches.inputs.equal(images(10).float())


def test_a_batch_lies_where_it_would_in_a_run_that_was_not_stopped() -> None:
    """Products round by where their operands lie: 9 rows of 7 numbers begin at a multiple of 4 bytes, not of 16."""
    split = ResidentBatches(torch.randn(700, 7), torch.arange(700))
    places = [batch.inputs.data_ptr() % 64 for batch in islice(split.training(9, 0, 1), 100)]
    assert len(set(places)) > 4
    for first in (2, 33, 34, 60, 79, 80):  # 78 steps in an epoch
        again = islice(split.training(9, 0, first), 5)
        assert [batch.inputs.data_ptr() % 64 for batch in again] == places[first - 1 : first + 4]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 9])
def test_the_parts_of_a_batch_are_the_batch(size):
    whole = Batch(torch.arange(10).view(5, 2), torch.arange(5))
    parts = [*whole.parts(size)]
    assert torch.cat([part.inputs for part in parts]).equal(whole.inputs)
    assert torch.cat([part.targets for part in parts]).equal(whole.targets)
    assert [len(part.inputs) for part in parts] == [len(part.targets) for part in parts]
    assert max(len(part.inputs) for part in parts) == min(size, 5)


def test_the_first_samples_are_read_alone_and_in_this_process() -> None:
    """Workers would read ahead what nobody asks for."""
    batches = loaded(200, num_workers=2)
    assert numbers(first_samples(batches, 2)) == batches.files.read == [0, 1]
    assert numbers(first_samples(batches, 300)) == list(range(200))
