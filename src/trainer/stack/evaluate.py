"""One pass of many runs over a split."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from trainer.data.batches import Batches
from trainer.evaluate import named, parted, worth
from trainer.metrics import Metrics
from trainer.stack.losses import StackedLoss
from trainer.stack.networks import Network


@torch.no_grad()
def evaluate(
    network: Network,
    loss_fn: StackedLoss,
    batches: Batches,
    part_size: int,
    is_stop_requested: Callable[[], bool] = lambda: False,
    metrics: Sequence[Metrics | None] = (),
) -> list[dict[str, float]] | None:
    """For each run what `trainer.evaluate.evaluate` gives for it alone; None where a stop was asked for.

    Args:
        metrics: of each run, in the order of the rows.
        part_size: samples that go through all models at once, where the loss can be added up over parts.
    """
    sums: dict[str, Tensor] = {}
    of = loss_fn.whole(len(batches), batches.targets)
    of_rows = [(row, of_run) for row, of_run in enumerate(metrics) if of_run is not None]
    for _, of_run in of_rows:
        of_run.reset()
    for batch in batches.in_order():
        for inputs, targets in batch.parts(part_size) if loss_fn.is_additive else [batch]:
            if sums and is_stop_requested():
                return None
            outputs, targets = network.forward(inputs.clone().unsqueeze(0), False), targets.unsqueeze(0)
            losses = loss_fn(outputs, targets, of)
            for row, of_run in of_rows:
                of_run.update(outputs[row].clone(), targets[0])  # a stack writes into the same memory again
            numbers = named(losses) | loss_fn.meaning.judged(outputs, targets)
            for name, number in numbers.items():
                sums[name] = sums[name] + number if name in sums else number
    wide = torch.float32 if sums["loss"].device.type == "mps" else torch.float64  # holds losses and counts exactly
    values = torch.cat([total.to(wide).reshape(len(total), -1) for total in sums.values()], 1).tolist()
    shapes = {name: total.shape[1:] for name, total in sums.items()}
    found = [parted(row, shapes) for row in values]
    results = [loss_fn.meaning.concluded(result, len(batches)) for result in found]  # whole numbers until now: exact
    for row, of_run in of_rows:
        results[row] |= of_run.compute()
    return [worth(result) for result in results]
