"""One pass of many runs over a split."""

from collections.abc import Callable

import torch
from torch import Tensor

from trainer.data.batches import Batches
from trainer.stack.losses import StackedLoss
from trainer.stack.networks import Network


def num_correct(outputs: Tensor, targets: Tensor, threshold: float) -> Tensor:
    """`trainer.evaluate.num_correct` for outputs `[num_runs, N, K]` and targets `[1, N]`; `[num_runs]`."""
    predicted = (outputs > threshold).squeeze(2) if outputs.shape[2] == 1 else outputs.argmax(2)
    return (predicted == targets).sum(1)


@torch.no_grad()
def evaluate(
    network: Network,
    loss_fn: StackedLoss,
    batches: Batches,
    part_size: int,
    is_stop_requested: Callable[[], bool] = lambda: False,
) -> list[dict[str, float]] | None:
    """For each run what `trainer.evaluate.evaluate` gives for it alone; None where a stop was asked for.

    Args:
        part_size: samples that go through all models at once, where the loss can be added up over parts.
    """
    sums: dict[str, Tensor] = {}
    for batch in batches.in_order():
        for inputs, targets in batch.parts(part_size) if loss_fn.is_additive else [batch]:
            if sums and is_stop_requested():
                return None
            outputs, targets = network.forward(inputs.unsqueeze(0), False), targets.unsqueeze(0)
            losses = loss_fn(outputs, targets, of=len(batches))
            numbers = {"loss": losses.total} | {f"loss/{name}": term for name, term in losses.terms.items()}
            if loss_fn.num_classes is not None:
                numbers["accuracy"] = num_correct(outputs, targets, loss_fn.threshold)
            for name, number in numbers.items():
                sums[name] = sums[name] + number if name in sums else number
    values = torch.stack([total.to(sums["loss"].dtype) for total in sums.values()], dim=1).tolist()
    results = [dict(zip(sums, row, strict=True)) for row in values]
    for result in results:
        if "accuracy" in result:
            result["accuracy"] /= len(batches)  # after whole numbers were added up: exact
    return results
