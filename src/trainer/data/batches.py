"""Batch number n as a function of (seed, n): no sampler has a state, so a run goes on exactly from any step."""

import hashlib
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from trainer.data.images import Augmentation
from trainer.data.source import ImageFiles

# Training batches that are gathered at once: one index over many samples costs little more than over few, and
# a batch is then a slice.
BATCHES_PER_GATHER = 32
EVALUATION_BATCH = 512


class Batch(NamedTuple):
    """`inputs` `[N, ...]` and `targets` `[N]` or `[N, D]`, on the device of the run."""

    inputs: Tensor
    targets: Tensor

    def parts(self, size: int) -> "Iterator[Batch]":
        """The batch in pieces of at most `size` samples."""
        return (Batch(*pair) for pair in zip(self.inputs.split(size), self.targets.split(size), strict=True))


def derived_seed(seed: int, purpose: str, number: int) -> int:
    """A seed below 2**63 for draw `number` of one purpose: independent streams from one seed of the run."""
    digest = hashlib.blake2b(f"{seed}/{purpose}/{number}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def permutation(seed: int, epoch: int, num_samples: int) -> Tensor:
    """The order of the samples in an epoch (counted from 0)."""
    generator = torch.Generator().manual_seed(derived_seed(seed, "order", epoch))
    return torch.randperm(num_samples, generator=generator)


class Batches(Protocol):
    """A split as batches, wherever its samples lie."""

    def __len__(self) -> int:
        """The number of samples."""

    def training(self, batch_size: int, seed: int, first_step: int) -> Iterator[Batch]:
        """The batches of steps `first_step` (from 1), `first_step + 1` ... without end."""

    def in_order(self) -> Iterator[Batch]:
        """Every sample once, in order."""


class ResidentBatches:
    """A split held on the device as one tensor.

    Args:
        inputs: `[N, ...]`, as the model wants them, or as `transform` wants them.
        targets: `[N]` or `[N, D]`.
        transform: applied to a batch where the transformed split would be too large to hold.
        augment: random changes of training batches.
    """

    def __init__(
        self,
        inputs: Tensor,
        targets: Tensor,
        transform: Callable[[Tensor], Tensor] | None = None,
        augment: Augmentation | None = None,
    ) -> None:
        self.inputs, self.targets = inputs, targets
        self.transform, self.augment = transform, augment

    def __len__(self) -> int:
        return len(self.inputs)

    def _finished(self, inputs: Tensor) -> Tensor:
        return inputs if self.transform is None else self.transform(inputs)

    def training(self, batch_size: int, seed: int, first_step: int) -> Iterator[Batch]:
        batches = self._slices(batch_size, seed, first_step)
        if self.transform is None and not self.augment:
            return batches  # no work per batch: none of its cost either
        return (
            Batch(augmented(self._finished(inputs), self.augment, seed, step), targets)
            for step, (inputs, targets) in enumerate(batches, first_step)
        )

    def _slices(self, batch_size: int, seed: int, first_step: int) -> Iterator[Batch]:
        num_samples = len(self)
        if batch_size >= num_samples:  # the whole split: its order changes nothing but rounding
            whole = Batch(self.inputs, self.targets)
            while True:
                yield whole
        epoch, index = divmod(first_step - 1, -(-num_samples // batch_size))
        gather = batch_size * BATCHES_PER_GATHER
        while True:
            order = permutation(seed, epoch, num_samples).to(self.inputs.device)
            for start in range(index * batch_size, num_samples, gather):
                rows = order[start : start + gather]
                yield from Batch(self.inputs[rows], self.targets[rows]).parts(batch_size)
            epoch, index = epoch + 1, 0

    def in_order(self) -> Iterator[Batch]:
        for inputs, targets in Batch(self.inputs, self.targets).parts(EVALUATION_BATCH):
            yield Batch(self._finished(inputs), targets)


class LoadedBatches:
    """A split that stays on disk, read by the workers of a DataLoader.

    Args:
        files: the images, resized by the workers.
        transform: uint8 images on the device to the model's inputs.
        num_workers: processes that read ahead; 0 reads in this one.
    """

    def __init__(
        self,
        files: ImageFiles,
        device: torch.device,
        transform: Callable[[Tensor], Tensor],
        augment: Augmentation | None = None,
        num_workers: int = 0,
    ) -> None:
        self.files, self.device = files, device
        self.transform, self.augment, self.num_workers = transform, augment, num_workers

    def __len__(self) -> int:
        return len(self.files)

    def _load(self, rows: "Iterator[list[int]] | list[list[int]]") -> Iterator[Batch]:
        loader: DataLoader[tuple[Tensor, int]] = DataLoader(
            self.files,
            batch_sampler=rows,  # any iterable of lists serves
            num_workers=self.num_workers,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # or else the loader draws from the model's random numbers
        )
        for images, targets in loader:
            images = images.to(self.device, non_blocking=True)
            yield Batch(self.transform(images), targets.to(self.device, non_blocking=True))

    def training(self, batch_size: int, seed: int, first_step: int) -> Iterator[Batch]:
        batches = self._load(_rows(len(self), batch_size, seed, first_step))
        for step, (inputs, targets) in enumerate(batches, first_step):
            yield Batch(augmented(inputs, self.augment, seed, step), targets)

    def in_order(self) -> Iterator[Batch]:
        size = 64  # full-size images: what a worker holds stays small
        return self._load([list(range(i, min(i + size, len(self)))) for i in range(0, len(self), size)])


def _rows(num_samples: int, batch_size: int, seed: int, first_step: int) -> Iterator[list[int]]:
    """The sample numbers of batch `first_step` and all that follow: those of `ResidentBatches`."""
    epoch, index = divmod(first_step - 1, -(-num_samples // batch_size))
    while True:
        order = permutation(seed, epoch, num_samples) if batch_size < num_samples else torch.arange(num_samples)
        for rows in order.split(batch_size)[index:]:
            yield rows.tolist()
        epoch, index = epoch + 1, 0


def augmented(inputs: Tensor, augment: Augmentation | None, seed: int, step: int) -> Tensor:
    """The augmented batch of `step`: its draws are a function of (seed, step) alone."""
    if not augment:
        return inputs
    return augment(inputs, torch.Generator().manual_seed(derived_seed(seed, "augmentation", step)))
