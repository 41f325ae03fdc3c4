"""`batch_size=auto`: the largest batch that fits a share of the memory, found by steps of which nothing is left."""

import threading
import time
from collections.abc import Callable

import torch
from torch import nn

from trainer.config.request import Request
from trainer.config.settings import Settings, settings_of
from trainer.data.batches import Batch, Batches, Uneven, first_samples
from trainer.distributed import World
from trainer.errors import UserError
from trainer.exits import is_out_of_memory
from trainer.losses.function import LossFunction
from trainer.run.environment import Precision
from trainer.run.memory import free_memory
from trainer.trees import called, differentiable, mapped
from trainer.trials import undisturbed

# Of what is free. A machine has other programs, and a validation and a file that is written take some of it, too.
SHARES = {"cpu": 0.5, "cuda": 0.8}
# Gradients, three numbers for each weight in the optimizer, and two copies for the statistics: there are none yet.
PER_WEIGHT = 6
# So many samples are read for a rehearsal, and repeated.
SAMPLES = 64
# A rehearsed step that takes longer, in seconds, is the last: each further one would need twice its memory.
LONGEST = 1.0


def sized(
    settings: Settings,
    model: nn.Module,
    loss_fn: LossFunction,
    train: Batches,
    device: torch.device,
    precision: Precision,
    world: World,
) -> tuple[Settings, list[str]]:
    """The settings with a number in the place of `batch_size=auto`, and a line that says so; else as they are.

    Raises:
        UserError: there are several processes, or nobody says how much memory there is.
    """
    if settings.batch_size != "auto":
        return settings, []
    if world.size > 1:
        raise UserError(f"batch_size=auto: is found by one process, and these are {world.size}. Type batch_size=64.")
    free = free_memory(device) if device.type in SHARES else 0
    if not free:
        raise UserError(f"batch_size=auto: nobody says what memory of device={device} is free. Type batch_size=64.")
    weights = sum(p.nbytes for module in (model, loss_fn) for p in module.parameters() if p.requires_grad)
    budget = int(SHARES[device.type] * free) - PER_WEIGHT * weights
    few = first_samples(train, SAMPLES)
    if isinstance(few, Uneven):
        raise UserError("batch_size=auto: batches of this collate_fn can't be made larger by hand. Type batch_size=64.")

    def step(size: int) -> None:
        rehearse(model, loss_fn, repeated(few, size), device, precision)

    step(min(2, len(train)))  # what a first step loads is no part of any other
    size = largest(meter(device, step), len(train), budget)
    why = f"the training split has {len(train):,} samples"
    if 2 * size <= len(train):
        why = f"twice as many would need more than the {budget / 2**20:,.0f} MiB that may be taken"
    return with_size(settings, size), [f"batch_size=auto: {size:,}; {why}"]


def with_size(settings: Settings, size: int | str) -> Settings:
    """The same settings, as if this number had been typed."""
    request = settings.request
    return settings_of(Request({**request.config, "batch_size": size}, request.choices, request.overrides))


def largest(needed: Callable[[int], int], num_samples: int, budget: int) -> int:
    """The largest power of two, up to `num_samples`, whose step stays within `budget`.

    Nothing is tried that would need more, if twice the samples need no more than twice the memory.

    Args:
        needed: makes a step with so many samples, and says how many bytes that took.
    """
    size, found, seconds = min(2, num_samples), 0, 0.0
    while 2 * size <= num_samples and 2 * found <= budget:
        if seconds <= LONGEST:
            started = time.perf_counter()
            try:
                more = needed(2 * size)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                break
            seconds = time.perf_counter() - started
        else:
            more = 2 * found
        if more > budget:
            break
        size, found = 2 * size, more
    return size


def meter(device: torch.device, step: Callable[[int], None]) -> Callable[[int], int]:
    """Makes a step and gives the most bytes it took at a time, beyond what this process has now."""
    if device.type == "cuda":
        taken = torch.cuda.memory_allocated(device)

        def needed(size: int) -> int:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
            step(size)
            return torch.cuda.max_memory_allocated(device) - taken

        return needed
    import psutil

    process = psutil.Process()
    has = process.memory_info().rss

    def watched(size: int) -> int:
        most, is_over = has, threading.Event()

        def watch() -> None:
            nonlocal most
            while not is_over.wait(0.001):
                most = max(most, process.memory_info().rss)

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            step(size)
        finally:
            is_over.set()
            watcher.join()
        return max(most, process.memory_info().rss) - has

    return watched


def repeated(few: Batch, size: int) -> Batch:
    """A batch of so many samples, made of a few."""
    rows = torch.arange(size) % few.num_samples
    return Batch(*(mapped(lambda tensor: tensor[rows.to(tensor.device)], tree) for tree in few))


def rehearse(model: nn.Module, loss_fn: LossFunction, batch: Batch, device: torch.device, precision: Precision) -> None:
    """Forward, loss and backward as in a step."""
    parameters = [p for module in (model, loss_fn) for p in module.parameters() if p.requires_grad]
    with undisturbed(model, device, is_training=True, loss=loss_fn):
        inputs = differentiable(batch.inputs) if loss_fn.differentiates_inputs else batch.inputs
        with precision():
            total = loss_fn(called(model, loss_fn.given(inputs, batch.targets)), batch.targets, inputs).total
        torch.autograd.grad(total, parameters, allow_unused=True)
