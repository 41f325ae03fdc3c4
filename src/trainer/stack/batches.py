"""The batches of many runs, each in its own order; one batch for all where they have the same."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from trainer.data.batches import Batch, Batches, ResidentBatches, permutation

# Batches that are gathered at once are of this size together, or one: they are read again while a cache has them.
GATHERED_BYTES = 4 * 1024**2


def stacked_batches(split: Batches, batch_size: int, seeds: Sequence[int], first_step: int) -> Iterator[Batch]:
    """For each run the batches that `split.training(batch_size, seed, first_step)` gives.

    Args:
        seeds: of the runs. A batch that several runs have is there once, where as many runs have each, side by side.

    Shapes:
        inputs and targets `[num_batches, N, ...]`: batch i is that of the i-th num_runs / num_batches runs.
    """
    is_plain = isinstance(split, ResidentBatches) and split.transform is None and not split.augment
    is_plain = is_plain and split.weights is None
    distinct = list(dict.fromkeys(seeds))
    if is_plain and batch_size >= len(split):  # the whole split, in its order
        distinct = distinct[:1]
    elif list(seeds) != [seed for seed in distinct for _ in range(len(seeds) // len(distinct))]:
        distinct = list(seeds)
    if is_plain and len(distinct) > 1:
        return gathered(split, batch_size, distinct, first_step)  # type: ignore[arg-type]
    return side_by_side(split, batch_size, distinct, first_step)


def side_by_side(split: Batches, batch_size: int, seeds: Sequence[int], first_step: int) -> Iterator[Batch]:
    """Each order's batches as they come; an order that stands there twice is read once."""
    sources = {seed: split.training(batch_size, seed, first_step) for seed in seeds}
    while True:
        batches = {seed: next(source) for seed, source in sources.items()}
        inputs, targets = zip(*(batches[seed] for seed in seeds), strict=True)
        if len(seeds) == 1:  # no copy
            yield Batch(inputs[0].unsqueeze(0), targets[0].unsqueeze(0))
        else:
            yield Batch(torch.stack(inputs), torch.stack(targets))


def gathered(split: ResidentBatches, batch_size: int, seeds: Sequence[int], first_step: int) -> Iterator[Batch]:
    """Some batches of all orders at once: a batch is then a slice."""
    num_samples = len(split)
    sample_bytes = split.inputs[0].nbytes + split.targets[0].nbytes
    size = batch_size * max(1, GATHERED_BYTES // (len(seeds) * batch_size * sample_bytes))
    epoch, index = divmod(first_step - 1, -(-num_samples // batch_size))
    while True:
        orders = {seed: permutation(seed, epoch, num_samples) for seed in seeds}
        order = torch.stack([orders[seed] for seed in seeds])[:, index * batch_size :].to(split.inputs.device)
        for rows in order.split(size, dim=1):
            inputs, targets = (
                whole.index_select(0, rows.flatten()).unflatten(0, rows.shape)
                for whole in (split.inputs, split.targets)
            )
            yield from map(Batch, inputs.split(batch_size, dim=1), targets.split(batch_size, dim=1))
        epoch, index = epoch + 1, 0


def of_each(x: Tensor, num_runs: int) -> Tensor:
    """`[num_batches, ...]` to `[num_runs, ...]`, each run's own."""
    if len(x) == 1:
        return x.expand(num_runs, *x.shape[1:])
    if len(x) == num_runs:
        return x
    return x.unsqueeze(1).expand(-1, num_runs // len(x), *x.shape[1:]).flatten(0, 1)
