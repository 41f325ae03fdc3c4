"""Whether the numbers of a training are still numbers."""

import math

import torch
from torch import Tensor

from trainer.distributed import World
from trainer.errors import NonFinite
from trainer.losses.function import Losses
from trainer.state import TrainingState

# Steps without an update that are borne in a row, with on_nan=skip.
MAX_SKIPPED = 100


def is_finite(numbers: Tensor) -> bool:
    """Whether every number is finite. A sum is, where all are, unless it overflows: then they are looked at singly."""
    return math.isfinite(numbers.sum().item()) or bool(numbers.isfinite().all())


def is_to_be_skipped(state: TrainingState, losses: Losses) -> bool:
    """Whether the loss or a gradient is not finite; counts such steps. What a scaler makes of its own is its business.

    Raises:
        NonFinite: too many in a row: nothing is left to be trained.
    """
    total = state.world.sum(losses.total.clone())
    if is_finite(total) and (state.scaler.is_enabled() or is_finite(state.store.grads)):
        state.num_skipped_in_row = 0
        return False
    state.num_skipped += 1
    state.num_skipped_in_row += 1
    if state.num_skipped_in_row > MAX_SKIPPED:
        loss = f"train/loss={total.item()} at step {state.step + 1}"
        raise NonFinite(
            f"{loss}: {MAX_SKIPPED} steps in a row were skipped, their numbers were not finite", state.step + 1
        )
    return True


def refuse_non_finite_weights(state: TrainingState) -> None:
    """Raises NonFinite where weights have left the range of numbers: they are not worth a checkpoint."""
    buffers = [buffer for buffer in state.model.buffers() if buffer.is_floating_point()]
    if not all(is_finite(numbers) for numbers in (state.store.values, *buffers)):
        raise NonFinite(f"a weight is not finite after step {state.step}, though the loss was", state.step)


def refuse_non_finite(step: int, world: World, unchecked: list[Tensor]) -> None:
    """Raises NonFinite at the first loss that is not finite; `unchecked`: this rank's of the steps up to `step`."""
    if len(unchecked) == 1 and world.size == 1:
        values = [unchecked[0].item()]
    else:
        values = world.sum(torch.stack(unchecked)).tolist()
    for ago, value in zip(range(len(values) - 1, -1, -1), values, strict=True):
        if not math.isfinite(value):
            raise NonFinite(f"train/loss={value} at step {step - ago}: the loss is not finite", step - ago)
