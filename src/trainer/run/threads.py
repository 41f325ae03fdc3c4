"""`threads=auto`: as many threads as find enough to do in one of a model's products.

The number is counted, not timed: the same command gives the same bits on a machine, and on a busy machine a trial would
choose otherwise each time. Threads meet at the end of every operation; where those that wait sleep, each needs more to
do (`system/waiting.py`). Million multiplications in a product, and two threads as a share of the time of one:

| network | products | spinning | asleep |
|---|---|---|---|
| 64-32-10, batch 64 | 0.1 | 1.05 | 1.9 |
| 64-512-10, batch 64 | 1.2 | 0.91 to 1.7 | 1.5 |
| 1000-100-10, batch 64 | 3.2 | 0.72 | 1.3 |
| 64-2048-10, batch 64 | 4.9 | 0.70 | 1.24 |
| LeNet, batch 64 | 5.3 | 0.60 | 1.06 |
| 64-2048-10, batch 256 | 20 | 0.75 to 1.0 | 1.06 |

AMD EPYC (Zen 4), 2 cores, torch 2.13, 2026-11-26: medians of steps on a quiet machine, three runs in turns; asleep on a
busy one, in turns of a few steps, the least of them.
"""

from typing import Any

import torch
from torch import nn

from trainer.data.batches import Batch
from trainer.losses.function import LossFunction
from trainer.run.environment import most_threads
from trainer.system.private import Watching, flop_counts
from trainer.system.waiting import is_spinning
from trainer.trees import called
from trainer.trials import undisturbed

# Multiplications of a product's forward pass that a thread must find, where threads spin and where they sleep: about
# 60 and 330 microseconds.
SPINNING, SLEEPING = 1_500_000, 8_000_000


def enough_threads(model: nn.Module, loss_fn: LossFunction, sample: Batch, batch_size: int) -> int:
    """So many threads that each has enough multiplications in the mean product of a model's forward pass.

    Args:
        sample: a few samples.
        batch_size: that go through the model at once.
    """
    most = most_threads()
    found = products(model, loss_fn, sample) if most > 1 else []
    if not found:  # one core, or nobody knows
        return most
    mean = sum(found) / len(found) * batch_size / sample.num_samples
    return max(1, min(most, int(mean / (SPINNING if is_spinning() else SLEEPING))))


def products(model: nn.Module, loss_fn: LossFunction, sample: Batch) -> list[int]:
    """The multiplications of each product that a forward pass makes; none where they can't be counted."""
    device = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    try:
        with undisturbed(model, device, loss=loss_fn), torch.enable_grad(), _Products() as counted:
            called(model, loss_fn.given(sample.inputs, sample.targets))
    except Exception:  # of every kind: a number of threads is no reason to end a run
        return []
    return [] if counted.is_unknown else counted.found


class _Products(Watching):
    """Counts the multiplications of products, convolutions and attention."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[int] = []
        self.is_unknown = False  # whether a recurrent layer runs as one operation, of which nobody knows how much

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outputs = func(*args, **(kwargs or {}))
        self.is_unknown |= "rnn" in func.__name__
        if (count := flop_counts().get(func.overloadpacket)) is not None:
            self.found.append(count(*args, **(kwargs or {}), out_val=outputs) // 2)
        return outputs
