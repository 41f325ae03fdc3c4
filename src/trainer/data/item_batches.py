"""A split of items as batches on the device."""

import itertools
from collections.abc import Callable, Iterator
from functools import cached_property

import torch
from torch import Tensor

from trainer.data.batches import EVALUATION_BATCH, Batch, Batches, Steps, augmented, batch_of, share, with_masks
from trainer.data.images import Augmentation, resized_masks
from trainer.data.items import Items, Key
from trainer.data.loader import read
from trainer.trees import Tree, leaves, mapped

EVALUATION_BYTES = 1 << 26  # of an evaluation's batch, by its first item: what a worker holds stays small


class ItemBatches:
    """
    Attributes:
        weights: see `trainer.data.batches.Batches`.

    Args:
        items: read batch by batch.
        dtype: of real floats; whole numbers stay what they are.
        transform: applied to the inputs of a batch, on the device; None: they are as they come.
        augment: random changes of training images.
        num_workers: processes that read ahead; 0 reads in this one.
        are_own_targets: the targets are the inputs, as the model gets them.
    """

    def __init__(
        self,
        items: Items,
        device: torch.device,
        dtype: torch.dtype,
        transform: Callable[[Tensor], Tensor] | None = None,
        augment: Augmentation | None = None,
        num_workers: int = 0,
        are_own_targets: bool = False,
    ) -> None:
        self.items, self.device, self.dtype = items, device, dtype
        self.transform, self.augment, self.num_workers = transform, augment, num_workers
        self.are_own_targets = are_own_targets
        self.weights: Tensor | None = None

    def __len__(self) -> int:
        return len(self.items)

    @property
    def targets(self) -> Tree:
        """None unless all of them have been looked at: see `trainer.evaluate.whole_of`."""
        return None if self.items.known is None else self.items.known.to(self.device)

    def at(self, rows: Tensor) -> Batch:
        """The items of these numbers, read in this process."""
        found = self._finished(self.items.load(("evaluation", rows.tolist())), len(rows))
        return as_own_targets(found) if self.are_own_targets else found

    def training(
        self, batch_size: int, seed: int, first_step: int, rank: int = 0, world_size: int = 1
    ) -> Iterator[Batch]:
        steps = Steps(len(self), batch_size, seed, first_step, rank, world_size)
        found = enumerate(steps.orders(self.weights), (first_step - 1) // -(-len(self) // batch_size))
        all_keys = ((f"{seed}/{epoch}", rows.tolist()) for epoch, order in found for rows in order.split(steps.size))
        keys, again = itertools.tee(all_keys)
        numbers = (len(rows) for _, rows in again)
        batches = map(self._finished, read(self.items.load, keys, self.num_workers), numbers)
        changed = augmented(batches, self.augment, steps)
        return map(as_own_targets, changed) if self.are_own_targets else changed

    def in_order(self, rank: int = 0, world_size: int = 1) -> Iterator[Batch]:
        rows = range(len(self))[share(len(self), rank, world_size)]
        size = self.evaluation_batch
        keys: list[Key] = [("evaluation", list(rows[i : i + size])) for i in range(0, len(rows), size)]
        # Of one batch nobody would read ahead.
        num_workers = min(self.num_workers, max(0, len(keys) - 1))
        batches = map(self._finished, read(self.items.load, keys, num_workers), [len(rows) for _, rows in keys])
        return map(as_own_targets, batches) if self.are_own_targets else batches

    @cached_property
    def evaluation_batch(self) -> int:
        """Samples of a batch of `in_order`."""
        num_bytes = sum(leaf.nbytes for leaf in leaves(self.items.sample))
        return max(1, min(EVALUATION_BATCH, EVALUATION_BYTES // max(1, num_bytes)))

    @property
    def target_bytes(self) -> int:
        """That the targets of an item take."""
        return sum(leaf.nbytes for leaf in leaves(self.items.sample[1]))

    def _finished(self, batch: tuple[Tree, Tree], number: int) -> Batch:
        """Of so many items."""
        inputs, targets = (mapped(self._placed, tree) for tree in batch)
        if self.transform is None:
            return batch_of(inputs, targets, number)
        fitted = self.transform(inputs)
        if inputs.shape[-2:] != fitted.shape[-2:]:
            targets = with_masks(targets, inputs, lambda masks: resized_masks(masks, fitted.shape[-2:]))
        return batch_of(fitted, targets, number)

    def _placed(self, tensor: Tensor) -> Tensor:
        if self.device.type == "cuda":
            tensor = tensor.pin_memory()  # a GPU copies from there while this process goes on
        dtype = self.dtype if tensor.is_floating_point() else tensor.dtype
        return tensor.to(self.device, dtype, non_blocking=True)


def as_own_targets(batch: Batch) -> Batch:
    """Inputs as their own targets: a copy, for a model may write into what it is given."""
    return batch.like(batch.inputs, mapped(Tensor.clone, batch.inputs))


class OwnTargets:
    """Batches whose inputs, as the model gets them, are their targets, too."""

    weights: Tensor | None = None

    def __init__(self, batches: Batches) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    @property
    def targets(self) -> Tree:
        return None

    def training(
        self, batch_size: int, seed: int, first_step: int, rank: int = 0, world_size: int = 1
    ) -> Iterator[Batch]:
        return map(as_own_targets, self.batches.training(batch_size, seed, first_step, rank, world_size))

    def in_order(self, rank: int = 0, world_size: int = 1) -> Iterator[Batch]:
        return map(as_own_targets, self.batches.in_order(rank, world_size))
