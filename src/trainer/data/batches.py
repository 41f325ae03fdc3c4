"""Batch number n as a function of (seed, n): no sampler has a state, so a run goes on exactly from any step."""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice, tee
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from trainer.data.images import Augmentation
from trainer.data.loader import read, read_by_thread
from trainer.data.source import ImageFiles
from trainer.draws import seed_from
from trainer.errors import UserError
from trainer.system.private import version_of
from trainer.trees import Tree, is_per_sample, joined, leaves, mapped, num_samples, parts

# Training batches that are gathered at once: one index over many samples costs little more than over few, and
# a batch is then a slice.
BATCHES_PER_GATHER = 32
EVALUATION_BATCH = 512
EVALUATION_FILES = 64  # full-size images: what a worker holds stays small
LOOKED_AT = 32  # of the pictures of an epoch, for whether they are kept


class Batch(NamedTuple):
    """Some samples, on the device of the run: each of the two a tensor, or a dict or tuple of tensors, `[N, ...]`."""

    inputs: Tree
    targets: Tree

    @property
    def num_samples(self) -> int:
        return num_samples(self.inputs)

    def like(self, inputs: Tree, targets: Tree) -> "Batch":
        """A batch of as many samples."""
        return Batch(inputs, targets)

    def parts(self, size: int) -> "Iterator[Batch]":
        """The batch in pieces of at most `size` samples; whole where its tensors can't be cut."""
        return map(Batch, parts(self.inputs, size), parts(self.targets, size))

    def gathered(self, rows: Tensor) -> "Batch":
        """Copies of some of the samples."""
        return Batch(*(mapped(lambda tensor: tensor.index_select(0, rows), tree) for tree in self))

    def rows(self, rows: slice) -> "Batch":
        """Some of the samples: the same memory."""
        return Batch(*(mapped(lambda tensor: tensor[rows], tree) for tree in self))


class Uneven(Batch):
    """One whose tensors do not all have a row for each sample, as a list of boxes, or graphs joined to one, have not.

    Only the `collate_fn` of its data set knows what belongs to which sample, so it is never cut into parts.
    """

    number: int

    def __new__(cls, inputs: Tree, targets: Tree, number: int) -> "Uneven":
        found = super().__new__(cls, inputs, targets)
        found.number = number
        return found

    @property
    def num_samples(self) -> int:
        return self.number

    def like(self, inputs: Tree, targets: Tree) -> Batch:
        return Uneven(inputs, targets, self.number)

    def parts(self, size: int) -> Iterator[Batch]:
        return iter((self,))


def batch_of(inputs: Tree, targets: Tree, number: int) -> Batch:
    """A batch of so many samples."""
    is_even = is_per_sample(inputs, number) and is_per_sample(targets, number)
    return Batch(inputs, targets) if is_even else Uneven(inputs, targets, number)


def derived_seed(seed: int, purpose: str, number: int) -> int:
    """A seed below 2**63 for draw `number` of one purpose: independent streams from one seed of the run."""
    return seed_from(f"{seed}/{purpose}/{number}")


def permutation(seed: int, epoch: int, num_samples: int, weights: Tensor | None = None) -> Tensor:
    """The order of the samples in an epoch (counted from 0).

    Args:
        weights: `[num_samples]` float64 on the CPU: as many samples are drawn, with replacement, each as often as it
            weighs, as `torch.utils.data.WeightedRandomSampler` draws them.
    """
    generator = torch.Generator().manual_seed(derived_seed(seed, "order", epoch))
    if weights is not None:
        return torch.multinomial(weights, num_samples, replacement=True, generator=generator)
    return torch.randperm(num_samples, generator=generator)


def batch_length(num_samples: int, batch_size: int, step: int) -> int:
    """How many samples the batch of a step (from 1) has, on all ranks together: the last of an epoch may be short."""
    steps_per_epoch = -(-num_samples // batch_size)
    return min(batch_size, num_samples - (step - 1) % steps_per_epoch * batch_size)


def samples_until(num_samples: int, batch_size: int, step: int) -> int:
    """How many samples the batches of all steps up to this one have, see `batch_length`."""
    epochs, rest = divmod(step, -(-num_samples // batch_size))
    return epochs * num_samples + rest * batch_size


def smallest_batch(num_samples: int, batch_size: int) -> int:
    """The size of the last batch of an epoch, of which every rank must get a sample."""
    return num_samples % batch_size or batch_size


def share(num_rows: int, rank: int, world_size: int) -> slice:
    """The rows of a rank, as `Tensor.tensor_split` cuts them: contiguous, of sizes that differ by 1 at most."""
    size, larger = divmod(num_rows, world_size)
    start = rank * size + min(rank, larger)
    return slice(start, start + size + (rank < larger))


def share_size(num_rows: int, rank: int, world_size: int) -> int:
    return len(range(num_rows)[share(num_rows, rank, world_size)])


class Steps(NamedTuple):
    """Which batches a rank is given: those of `first_step` (from 1), the next one ... of a split of `num_samples`."""

    num_samples: int
    batch_size: int  # of all ranks together
    seed: int
    first_step: int
    rank: int = 0
    world_size: int = 1

    @property
    def size(self) -> int:
        """The rank's share of every batch but the last of an epoch, whose share is not larger."""
        return share_size(min(self.batch_size, self.num_samples), self.rank, self.world_size)

    def orders(self, weights: Tensor | None) -> Iterator[Tensor]:
        """The samples of the rank, a tensor per epoch: its share of each batch in turn; `weights`: see `Batches`."""
        epoch, index = divmod(self.first_step - 1, -(-self.num_samples // self.batch_size))
        # The order of a batch that is the whole split changes nothing but rounding.
        is_drawn = self.batch_size < self.num_samples or weights is not None
        while True:
            order = (
                permutation(self.seed, epoch, self.num_samples, weights) if is_drawn else torch.arange(self.num_samples)
            )
            if self.world_size > 1:
                batches = order.split(self.batch_size)
                order = torch.cat([batch[share(len(batch), self.rank, self.world_size)] for batch in batches])
            yield order[index * self.size :]
            epoch, index = epoch + 1, 0


def samples_of(split: "Batches", batch_size: int, seed: int, step: int) -> Tensor:
    """Which samples of the training split make the batch of a step (from 1), all ranks' together, in its order."""
    return next(Steps(len(split), batch_size, seed, step).orders(split.weights))[:batch_size]


class Batches(Protocol):
    """A split as batches, wherever its samples lie. A rank of several gets its `share`, and touches no other sample.

    Attributes:
        weights: how often each sample is drawn for training, see `permutation`; None: once an epoch.
    """

    weights: Tensor | None

    def __len__(self) -> int:
        """The number of samples, on all ranks together."""

    @property
    def targets(self) -> Tree:
        """Of all samples, in order."""

    def training(
        self, batch_size: int, seed: int, first_step: int, rank: int = 0, world_size: int = 1
    ) -> Iterator[Batch]:
        """The rank's share of the batches of steps `first_step` (from 1), `first_step + 1` ... without end.

        All ranks' together are the batches of one rank, bit for bit, augmentation included.

        Args:
            batch_size: of all ranks together; none may go empty-handed (see `smallest_batch`).
        """

    def in_order(self, rank: int = 0, world_size: int = 1) -> Iterator[Batch]:
        """The rank's share of the split, in order: each sample once. A rank of more than there are samples has none."""


def first_samples(batches: Batches, size: int) -> Batch:
    """The first samples of a split, as its batches are; all, where it has fewer."""
    if (at := getattr(batches, "at", None)) is not None:  # no worker is started for them
        found: Batch = at(torch.arange(min(size, len(batches))))
        return found
    taken: list[Batch] = []
    for batch in batches.in_order():
        taken.append(batch)
        if sum(batch.num_samples for batch in taken) >= size:
            break
    return next(Batch(*map(joined, zip(*taken, strict=True))).parts(size))


def some_samples(batches: Batches, rows: Tensor) -> Batch:
    """Samples of a split by their numbers, `[n]`, as its batches are; the first, where it is read in order alone."""
    if (at := getattr(batches, "at", None)) is None:
        return first_samples(batches, len(rows))
    found: Batch = at(rows)
    return found


def unspoilt(whole: Batch, is_copied: bool) -> Iterator[Batch]:
    """The same batch without end; copies of it as soon as somebody has written into its inputs.

    Args:
        is_copied: from the first one on; not every way to write into a tensor counts up its version.
    """
    spare, given = mapped(Tensor.clone, whole.inputs), leaves(whole.inputs)
    versions = [version_of(tensor) for tensor in given]
    while not is_copied and None not in versions and [version_of(tensor) for tensor in given] == versions:
        yield whole
    for tensor, kept in zip(given, leaves(spare), strict=True):
        tensor.copy_(kept)
    while True:
        yield Batch(mapped(Tensor.clone, spare), whole.targets)


class ResidentBatches:
    """A split held on the device.

    Args:
        inputs: `[N, ...]`, as the model wants them, or as `transform` wants them; or a dict or tuple of such.
        targets: `[N]` or `[N, D]`; a dict or tuple of such; or None.
        transform: applied to a batch where the transformed split would be too large to hold.
        augment: random changes of training batches.
        evaluation_batch: samples of a batch of `in_order`; None: EVALUATION_BATCH.

    Attributes:
        is_copied: no batch of `training` shares memory with the split.
    """

    def __init__(
        self,
        inputs: Tree,
        targets: Tree,
        transform: Callable[[Tensor], Tensor] | None = None,
        augment: Augmentation | None = None,
        evaluation_batch: int | None = None,
    ) -> None:
        self.inputs, self.targets = inputs, targets
        self.transform, self.augment = transform, augment
        self.evaluation_batch = evaluation_batch or EVALUATION_BATCH
        self.weights: Tensor | None = None
        self.is_copied = False

    def __len__(self) -> int:
        return num_samples(self.inputs)

    def _finished(self, inputs: Tree) -> Tree:
        return inputs if self.transform is None else self.transform(inputs)

    def training(
        self, batch_size: int, seed: int, first_step: int, rank: int = 0, world_size: int = 1
    ) -> Iterator[Batch]:
        steps = Steps(len(self), batch_size, seed, first_step, rank, world_size)
        batches = self._slices(steps)
        if self.transform is None and not self.augment:
            return batches  # no work per batch: none of its cost either
        finished = (Batch(self._finished(inputs), targets) for inputs, targets in batches)
        return augmented(finished, self.augment, steps)

    def at(self, rows: Tensor) -> Batch:
        """The samples of these numbers."""
        found = Batch(self.inputs, self.targets).gathered(rows.to(leaves(self.inputs)[0].device))
        return Batch(self._finished(found.inputs), found.targets)

    def _slices(self, steps: Steps) -> Iterator[Batch]:
        of, whole = len(self), Batch(self.inputs, self.targets)
        if steps.batch_size >= of and self.weights is None:  # the whole split: its order changes nothing but rounding
            return unspoilt(whole.rows(share(of, steps.rank, steps.world_size)), self.is_copied)
        size, device = steps.size, leaves(self.inputs)[0].device
        # Some kernels round otherwise where a batch does not lie on a multiple of 16 bytes: so a step's batch has the
        # same place in a gather wherever the run begins.
        early = (steps.first_step - 1) % -(-of // steps.batch_size) % BATCHES_PER_GATHER
        found = steps._replace(first_step=steps.first_step - early).orders(self.weights)
        gathers = (rows for order in found for rows in order.to(device).split(size * BATCHES_PER_GATHER))
        slices = (batch for rows in gathers for batch in whole.gathered(rows).parts(size))
        return islice(slices, early, None)

    def in_order(self, rank: int = 0, world_size: int = 1) -> Iterator[Batch]:
        mine = share(len(self), rank, world_size)
        for start in range(mine.start, mine.stop, self.evaluation_batch):
            rows = slice(start, min(start + self.evaluation_batch, mine.stop))
            inputs, targets = Batch(self.inputs, self.targets).rows(rows)
            yield Batch(self._finished(inputs), targets)


class LoadedBatches:
    """A split that stays on disk, read batch by batch.

    Args:
        files: the images, resized as they are read.
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
        self.weights: Tensor | None = None

    def __len__(self) -> int:
        return len(self.files)

    @property
    def targets(self) -> Tensor:
        return self.files.targets.to(self.device)

    def at(self, rows: Tensor) -> Batch:
        """The samples of these numbers, read in this process."""
        return next(self._load([rows], 0))

    def _is_kept(self, rows: Tensor) -> bool:
        """Whether these are kept on the disk, by some of them: a thread reads them more quickly than workers do."""
        if not self.num_workers or not self.files.is_keeping or not len(rows):
            return False
        some = torch.linspace(0, len(rows) - 1, min(len(rows), LOOKED_AT)).long()
        return self.files.as_kept(rows[some].tolist()) is not None

    def _epochs(self, orders: Iterator[Tensor], size: int) -> Iterator[Batch]:
        """Those that are kept by a thread; the first that are not, which keeps them, by workers of its own."""
        for number, order in enumerate(orders):
            if self._is_kept(order):
                yield from self._load(order.split(size), 0, is_kept=True)
                continue
            # A run that continues has a part of its first epoch alone. What isn't kept by then has no room.
            epochs = [order] if self.files.is_keeping and number < 2 else chain([order], orders)
            yield from self._load((rows for order in epochs for rows in order.split(size)), self.num_workers)

    def _load(self, batches: Iterable[Tensor], num_workers: int, is_kept: bool = False) -> Iterator[Batch]:
        batches, ahead = tee(batches)
        keys = map(Tensor.tolist, ahead)
        images_of = self._kept(keys) if is_kept else read(_Images(self.files).load, keys, num_workers)
        for rows, images in zip(batches, images_of, strict=False):
            targets = self.files.targets[rows]
            if self.device.type == "cuda":
                images = images.pin_memory()  # a GPU copies from there while this process goes on
            inputs = self.transform(images.to(self.device, non_blocking=True))
            dtype = inputs.dtype if targets.is_floating_point() else targets.dtype  # as those of resident samples
            yield Batch(inputs, targets.to(self.device, dtype, non_blocking=True))

    def _kept(self, batches: Iterable[list[int]]) -> Iterator[Tensor]:
        images = _Images(self.files)
        for rows, found in read_by_thread(self.files.as_kept, batches):
            yield images.load(rows) if found is None else found

    def training(
        self, batch_size: int, seed: int, first_step: int, rank: int = 0, world_size: int = 1
    ) -> Iterator[Batch]:
        steps = Steps(len(self), batch_size, seed, first_step, rank, world_size)
        return augmented(self._epochs(steps.orders(self.weights), steps.size), self.augment, steps)

    def in_order(self, rank: int = 0, world_size: int = 1) -> Iterator[Batch]:
        rows = torch.arange(len(self))[share(len(self), rank, world_size)]
        batches = rows.split(EVALUATION_FILES) if len(rows) else ()
        if self._is_kept(rows):
            return self._load(batches, 0, is_kept=True)
        return self._load(batches, min(self.num_workers, max(0, len(batches) - 1)))  # of one nobody would read ahead


class _Images:
    """Image files, read some at a time; see `trainer.data.loader.read`."""

    def __init__(self, files: ImageFiles) -> None:
        self.files = files
        self.tell: Callable[[], None] | None = None

    def load(self, rows: list[int]) -> Tensor:
        """uint8 `[N, C, H, W]`."""
        return torch.stack([self._image(row) for row in rows])

    def _image(self, row: int) -> Tensor:
        image, shape = self.files[row][0], (self.files.channels, self.files.image_size, self.files.image_size)
        if image.dtype != torch.uint8 or image.shape != shape:
            raise UserError(f"data: image {row} is {image.dtype} {list(image.shape)}; accepted is uint8 {list(shape)}.")
        if self.tell is not None:
            self.tell()
        return image


def augmented(batches: Iterator[Batch], augment: Augmentation | None, steps: Steps) -> Iterator[Batch]:
    """A rank's batches of these steps, augmented: the draws of a whole batch are a function of (seed, step)."""
    if not augment:
        yield from batches
        return
    for step, batch in enumerate(batches, steps.first_step):
        inputs, targets = batch
        draws = derived_seed(steps.seed, "augmentation", step)
        of = batch_length(steps.num_samples, steps.batch_size, step)
        mine = share(of, steps.rank, steps.world_size)

        def moved(part: Tensor, draws: int = draws, of: int = of, mine: slice = mine) -> Tensor:
            return augment.masks(part, torch.Generator().manual_seed(draws), mine, of)

        changed = augment(inputs, torch.Generator().manual_seed(draws), mine, of)
        yield batch.like(changed, with_masks(targets, inputs, moved))


def with_masks(targets: Tree, inputs: Tree, change: Callable[[Tensor], Tensor]) -> Tree:
    """The targets, with those among them that lie over the images changed: all, or parts of a dict or tuple."""
    return mapped(lambda part: change(part) if lies_over(part, inputs) else part, targets)


def lies_over(targets: Tree, inputs: Tree) -> bool:
    """Whether targets are masks of images: a number or more for each pixel."""
    if not (isinstance(targets, Tensor) and isinstance(inputs, Tensor)):
        return False
    return inputs.dim() == 4 and targets.dim() in (3, 4) and targets.shape[-2:] == inputs.shape[-2:]
