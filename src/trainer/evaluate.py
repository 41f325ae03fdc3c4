"""One pass over a split, to a dict of numbers."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn

from trainer.data.batches import Batches
from trainer.distributed import ALONE, World
from trainer.draws import random_state, set_random_state
from trainer.losses import LossFunction
from trainer.state import Store


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


@contextmanager
def rehearsing(model: nn.Module, store: Store) -> Iterator[None]:
    """Training mode with gradients, for a step of which nothing is left.

    Buffers, modes and the random state are what they were then, and the gradients 0.
    """
    before = [buffer.clone() for buffer in model.buffers()]
    with evaluating(model, store.values.device), torch.enable_grad():
        model.train()
        try:
            yield
        finally:
            with torch.no_grad():
                store.zero_grad()
                for buffer, saved in zip(model.buffers(), before, strict=True):
                    buffer.copy_(saved)


def num_correct(outputs: Tensor, targets: Tensor, threshold: float) -> Tensor:
    """How many class labels `[N]` the largest of the outputs `[N, K]` hits; one output `[N, 1]` is compared."""
    predicted = (outputs > threshold).squeeze(1) if outputs.shape[1] == 1 else outputs.argmax(1)
    return (predicted == targets).sum()


def evaluate(
    model: nn.Module,
    loss_fn: LossFunction,
    batches: Batches,
    device: torch.device,
    precision: Callable[[], AbstractContextManager[object]],
    keep: Callable[[Tensor, Tensor, Tensor], None] | None = None,
    is_stop_requested: Callable[[], bool] = lambda: False,
    world: World = ALONE,
) -> dict[str, float] | None:
    """The loss over all samples of a split, its terms, and the accuracy where the targets are class labels.

    A short last batch weighs what it should: every sample counts once. One wait for the device, at the end.

    Args:
        keep: called with the inputs, outputs and targets of every batch.
        is_stop_requested: asked after every batch.
        world: the processes that share the split; alone, this one goes through all of it.

    Returns:
        `loss`, `loss/<term>`, `accuracy` (0..1); None where a stop was asked for, on any rank, before the end.
    """
    sums: dict[str, Tensor] = {}
    is_broken_off = False
    with evaluating(model, device):
        for inputs, targets in batches.in_order(world.rank, world.size):
            if is_broken_off := bool(sums) and is_stop_requested():
                break
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
    device_sums = torch.stack([total.to(sums["loss"].dtype) for total in sums.values()])
    told = torch.cat([device_sums, device_sums.new_tensor([float(is_broken_off)])])
    *values, num_broken_off = world.sum(told).tolist()  # in one transfer; counts and losses as the loss's type
    if num_broken_off:
        return None
    results: dict[str, float] = dict(zip(sums, values, strict=True))
    if "accuracy" in results:
        results["accuracy"] /= len(batches)  # after whole numbers were added up: exact
    return results
