"""One pass over a split, to a dict of numbers."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn

from trainer.data.batches import Batches
from trainer.draws import random_state, set_random_state
from trainer.losses import LossFunction


@contextmanager
def evaluating(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Evaluation mode without gradients; leaves the mode of every module and the random state as they were."""
    modes = {module: module.training for module in model.modules()}
    random = random_state(device)
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, was_training in modes.items():
            module.training = was_training
        set_random_state(random, device)


def num_correct(outputs: Tensor, targets: Tensor, threshold: float) -> Tensor:
    """How many class labels `[N]` the largest of the outputs `[N, K]` hits; one output `[N, 1]` is compared."""
    predicted = (outputs > threshold).squeeze(1) if outputs.shape[1] == 1 else outputs.argmax(1)
    return (predicted == targets).sum()


def _to_host(numbers: list[Tensor]) -> list[float]:
    """In one transfer; counts and losses as the widest type among them."""
    values: list[float] = torch.stack([number.to(numbers[0].dtype) for number in numbers]).tolist()
    return values


def evaluate(
    model: nn.Module,
    loss_fn: LossFunction,
    batches: Batches,
    device: torch.device,
    precision: Callable[[], AbstractContextManager[object]],
    keep: Callable[[Tensor, Tensor, Tensor], None] | None = None,
) -> dict[str, float]:
    """The loss over all samples of a split, its terms, and the accuracy where the targets are class labels.

    A short last batch weighs what it should: every sample counts once. One wait for the device, at the end.

    Args:
        keep: called with the inputs, outputs and targets of every batch.

    Returns:
        `loss`, `loss/<term>`, `accuracy` (0..1).
    """
    sums: dict[str, Tensor] = {}
    with evaluating(model, device):
        for inputs, targets in batches.in_order():
            with precision():
                outputs = model(inputs)
                losses = loss_fn(outputs, targets, of=len(batches))
            if keep is not None:
                keep(inputs, outputs, targets)
            numbers = {"loss": losses.total} | {f"loss/{name}": term for name, term in losses.terms.items()}
            if loss_fn.num_classes is not None:
                numbers["accuracy"] = num_correct(outputs, targets, loss_fn.threshold)
            for name, number in numbers.items():
                sums[name] = sums[name] + number if name in sums else number
    results: dict[str, float] = dict(zip(sums, _to_host(list(sums.values())), strict=True))
    if "accuracy" in results:
        results["accuracy"] /= len(batches)  # after whole numbers were added up: exact
    return results
