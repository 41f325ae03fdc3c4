"""`dry_run=true`: all is built, some steps are made, and nothing is written."""

import itertools
import statistics
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from trainer.computation import Computation
from trainer.config.request import Config
from trainer.data.batches import Batch, batch_length
from trainer.errors import UserError
from trainer.monitor.summary import summary_table
from trainer.monitor.texts import model_rows
from trainer.run.optimizer import reevaluated
from trainer.run.prepare import chosen, surroundings
from trainer.run.told import title
from trainer.run.training import Training
from trainer.trees import called, leaves
from trainer.trials import set_mode, undisturbed

# Steps that are timed after the first, and the seconds in which no further one is begun.
STEPS, SECONDS = 20, 2.0


def dry_run(training: Training) -> Config:
    """Prints shapes, memory and time per step of a run that is left as it was on the disk.

    Returns:
        the numbers: `seconds_per_step`, and bytes by what they are for.
    """
    if training.parts.settings.profile:
        raise UserError("profile=true dry_run=true: a profile is of a run. Leave one of the two out.")
    parts = training.parts
    with surroundings(training):
        batches = training.batches(parts.splits.train)
        first = next(batches)
        kept = activations(training, first) if parts.world.size == 1 else None
        # As the run would, but for the features of a frozen backbone, which would be written down.
        computation = chosen(training, None, True, print)
        set_mode(computation.network, True)
        step = stepping(training, computation, itertools.chain([first], batches))
        begun, *seconds = timed(step, parts.device)
    state = parts.state
    of_optimizer = sum(leaf.nbytes for leaf in leaves(list(state.optimizer.state_dict()["state"].values())))
    memory = {} if kept is None else {"activations": kept}
    memory |= {"weights": state.store.values.nbytes, "gradients": state.store.grads.nbytes, "optimizer": of_optimizer}
    if parts.device.type == "cuda":
        memory["GPU, at most"] = torch.cuda.max_memory_allocated(parts.device)
    found = {"seconds_first_step": begun, "seconds_per_step": statistics.median(seconds or [begun])}
    if parts.world.is_main:
        show(training, first, computation, memory, found)
    return {**found, **{f"bytes_{what}": number for what, number in memory.items()}}


def activations(training: Training, batch: Batch) -> int | None:
    """The bytes that a forward pass of a batch keeps for its backward pass; None where torch can't count them."""
    parts = training.parts
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.data_ptr()] = max(tensor.nbytes, kept.get(tensor.data_ptr(), 0))
        return tensor

    own = {tensor.data_ptr() for tensor in (*parts.model.parameters(), *parts.model.buffers())}
    size = training.work().part_size
    with undisturbed(parts.model, parts.device, is_training=True):
        try:
            with parts.precision(), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
                part = next(batch.parts(size))
                outputs = called(parts.model, parts.loss_fn.given(part.inputs, part.targets))
                losses = parts.loss_fn(outputs, part.targets, part.inputs)
        except RuntimeError as error:
            if "saved tensor hooks" not in str(error):  # torch.func.grad and its like take none
                raise
            return None
        del losses
    return sum(num_bytes for place, num_bytes in kept.items() if place not in own)


def stepping(training: Training, computation: Computation, batches: Iterator[Batch]) -> Callable[[], None]:
    """What makes the next step, as `trainer.loop.fit` does."""
    parts, length, settings = training.parts, training.parts.length, training.parts.settings
    state, numbers = parts.state, itertools.count(1)

    forward_backward = reevaluated(state, computation.forward_backward)

    def step() -> None:
        of = batch_length(len(parts.splits.train), length.samples_per_step, next(numbers))
        forward_backward(next(batches), of)
        state.scaler.unscale_(state.optimizer)
        state.store.clip(settings.gradient.clip_norm, settings.gradient.clip_value)
        state.scaler.step(state.optimizer)
        state.scaler.update()

    return step


def timed(step: Callable[[], None], device: torch.device) -> list[float]:
    """The seconds of the first step and of some that follow."""
    found: list[float] = []
    while len(found) <= STEPS and sum(found) < SECONDS:
        started = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        found.append(time.perf_counter() - started)
    return found


def show(
    training: Training, batch: Batch, computation: Computation, memory: dict[str, int], found: dict[str, float]
) -> None:
    parts, length = training.parts, training.parts.length
    for line in [*title(training)[:2], *training.warnings]:
        print(line)
    if isinstance(parts.sample.inputs, Tensor):
        for name, kind, shape, count, _ in model_rows(parts.model, parts.sample.inputs):
            print(f"  {name:<28} {kind:<18} {shape:<22} {count}")
    per_step = found["seconds_per_step"]
    rows = [
        ("inputs", told(batch.inputs)),
        ("targets", told(batch.targets)),
        *((what, f"{number / 2**20:,.2f} MiB") for what, number in memory.items()),
        ("first step", f"{1000 * found['seconds_first_step']:.3g} ms"),
        ("a step", f"{1000 * per_step:.3g} ms"),
        ("all steps", f"{length.max_steps:,}: {per_step * length.max_steps:,.1f} s without validation"),
        ("computed", "; ".join(computation.lines)),
        ("dry run", "nothing was written. Leave dry_run=true out to train."),
    ]
    summary_table(rows)


def told(tree: object) -> str:
    """`64 x 1 x 8 x 8 float32`; of several tensors, each."""
    return ", ".join(
        f"{' x '.join(map(str, leaf.shape))} {str(leaf.dtype).removeprefix('torch.')}" for leaf in leaves(tree)
    )
