"""How long a run is, and how many samples a step has."""

from dataclasses import dataclass

from torch import nn

from trainer.cadence import num_steps
from trainer.config.settings import Settings
from trainer.data.batches import Batch, smallest_batch
from trainer.data.prepare import Splits
from trainer.distributed import World
from trainer.errors import UserError
from trainer.run.environment import Precision
from trainer.run.overfit import STEPS
from trainer.trees import called
from trainer.trials import undisturbed


@dataclass(frozen=True)
class Length:
    """
    Args:
        batch_size: samples of a batch, all ranks together; the whole split for `batch_size=full`.
        samples_per_step: of `gradient.accumulate` batches.
    """

    batch_size: int
    samples_per_step: int
    steps_per_epoch: int
    max_steps: int


def length_of(settings: Settings, num_samples: int) -> Length:
    """`num_samples`: of the training split."""
    batch_size = num_samples if settings.batch_size == "full" else int(settings.batch_size)
    samples_per_step = min(batch_size * settings.gradient.accumulate, num_samples)
    steps_per_epoch = -(-num_samples // samples_per_step)
    is_open = settings.max_steps is None and settings.max_epochs is None
    wanted = STEPS if is_open and settings.overfit is not None else settings.max_steps
    max_steps = num_steps(wanted, settings.max_epochs, steps_per_epoch)
    return Length(batch_size, samples_per_step, steps_per_epoch, max_steps)


def refuse_empty_shares(settings: Settings, splits: Splits, length: Length, world: World) -> None:
    """Raises UserError where a process would have no sample of a batch, or of a split that is evaluated."""
    num_samples, size = len(splits.train), world.size
    for split, count in (("training", num_samples), ("validation", len(splits.val))):
        if count < size:
            key = f"data={settings.names['data']}" if settings.overfit is None else f"overfit={settings.overfit}"
            more = "give more samples" if settings.overfit is None else f"type overfit={size}"
            raise UserError(
                f"{key}: the samples of {split} are {count}, and the processes {size}. "
                f"Start it with --nproc-per-node={count}, or {more}."
            )
    smallest = smallest_batch(num_samples, length.samples_per_step)
    if smallest < size:
        sizes = range(length.batch_size + 1, num_samples + 1)
        steps = (min(n * settings.gradient.accumulate, num_samples) for n in sizes)
        better = next(n for n, step in zip(sizes, steps, strict=True) if smallest_batch(num_samples, step) >= size)
        raise UserError(
            f"batch_size={settings.batch_size}: {num_samples} samples end with a batch of {smallest}, too "
            f"few for {size} processes. Try batch_size={better}, or start fewer processes."
        )


def refuse_lonely_sample(
    settings: Settings,
    model: nn.Module,
    sample: Batch,
    num_samples: int,
    length: Length,
    world: World,
    precision: Precision,
) -> None:
    """Raises UserError where a batch norm would meet one number in the last batch of an epoch: torch stops there."""
    accumulate = settings.gradient.accumulate
    is_normed = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
    if not is_normed or smallest_part(num_samples, length.batch_size, accumulate, world.size) > 1:
        return
    with undisturbed(model, next(model.parameters()).device, is_training=True), precision():
        try:
            called(model, next(sample.parts(1)).inputs)
        except ValueError as error:
            larger = range(length.batch_size + 1, length.batch_size + 100)
            better = [size for size in larger if smallest_part(num_samples, size, accumulate, world.size) > 1]
            raise UserError(
                f"batch_size={settings.batch_size}: of {num_samples} samples one is left for the last batch, "
                f"too few for a batch norm of model={settings.names['model']}. "
                + (f"Try batch_size={better[0]}." if better else "Give more samples.")
            ) from error


def smallest_part(num_samples: int, batch_size: int, accumulate: int, world_size: int) -> int:
    """How many samples of an epoch go through the model at once, at the least, on whatever rank."""
    step = min(batch_size * accumulate, num_samples)
    shares = {share for n in (step, num_samples % step or step) for share in (n // world_size, -(-n // world_size))}
    size = -(-batch_size // world_size)
    return min(share if share < size else share % size or size for share in shares)
