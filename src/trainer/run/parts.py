"""The parts of a run, built one after the other and found to fit together; nothing has been written."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.amp import GradScaler

from trainer.config.settings import Settings
from trainer.data.batches import Batch, Batches, ResidentBatches, derived_seed
from trainer.data.prepare import Splits, doubts, fingerprint
from trainer.data.source import Data
from trainer.distributed import ALONE, World
from trainer.draws import seed_all
from trainer.errors import UserError, nearest
from trainer.losses import LossFunction
from trainer.run.data import build_data, build_splits
from trainer.run.environment import Precision, autocast, find_device, fitting, refuse_float64, set_up_torch
from trainer.run.length import Length, length_of, refuse_empty_shares, refuse_lonely_sample
from trainer.run.loss import build_loss, doubts_of_loss
from trainer.run.model import build_model
from trainer.run.optimizer import build_optimizer, build_schedule
from trainer.state import Store, TrainingState
from trainer.trees import mapped


@dataclass(frozen=True)
class Parts:
    """What a run is made of.

    Args:
        warnings: what may be meant but seldom is, a line each.
    """

    settings: Settings
    world: World
    device: torch.device
    precision: Precision
    data: Data
    splits: Splits
    model: nn.Module
    loss_fn: LossFunction
    length: Length
    state: TrainingState
    warnings: list[str] = field(default_factory=list)

    @property
    def sample(self) -> Batch:
        """Two samples of the validation split, a copy: whoever looks at what the model does may write into it."""
        return sample_of(self.splits.val)

    def tags(self, split: str) -> list[str]:
        """What an evaluation of this split gives."""
        return tags_of(self.loss_fn, split)


def build(settings: Settings, world: World = ALONE, like: Parts | None = None, is_alone: bool = True) -> Parts:
    """
    Args:
        like: a run with the same data, which is taken from there.
        is_alone: false for a run in a stack, where gradients reach all parameters or none is stacked.

    Raises:
        UserError: what does not fit, both sides named.
    """
    set_up_torch(settings)
    device = find_device(settings.device, world)
    refuse_float64(settings, device)
    dtype = torch.float64 if settings.dtype == "float64" else torch.float32
    precision = autocast(settings, device)
    with fitting(device):
        data = world.first_alone(lambda: build_data(settings)) if like is None else like.data
        splits = build_splits(settings, data, device, dtype) if like is None else like.splits
        seed_all(settings.seed)
        model = world.first_alone(lambda: build_model(settings, splits, device, dtype))
        loss_fn = build_loss(settings, data, splits, model, sample_of(splits.val), precision)
    refuse_other_metric(settings, loss_fn)
    length = length_of(settings, len(splits.train))
    refuse_empty_shares(settings, splits, length, world)
    refuse_lonely_sample(settings, model, sample_of(splits.val), len(splits.train), length, world, precision)
    try:
        store = Store(model, loss_fn)
    except ValueError as error:
        raise UserError(f"model={settings.names['model']}: {error}.") from error
    if not is_all_ours(model, loss_fn):
        if is_alone:
            store.watch(world)
        for split in (splits.train, splits.val, splits.test):
            if isinstance(split, ResidentBatches):
                split.is_copied = True
    optimizer = build_optimizer(settings, store)
    schedule = build_schedule(settings, optimizer, length)
    scaler = GradScaler(device.type, enabled=settings.precision == "float16")
    state = TrainingState(model, store, optimizer, schedule, scaler, loss=loss_fn, data=fingerprint(data), world=world)
    if world.rank > 0:  # each its own dropout
        seed_all(derived_seed(settings.seed, "rank", world.rank))
    warnings = doubts(data, settings.names["data"], dtype) if like is None else []
    warnings += doubts_of_loss(settings, loss_fn, model, sample_of(splits.val))
    return Parts(settings, world, device, precision, data, splits, model, loss_fn, length, state, warnings)


def is_all_ours(*modules: nn.Module) -> bool:
    """Whether nothing but classes of this tool's and of torch's take part.

    They use all their parameters in every step, and write into no sample but where it is seen.
    """
    parts = (part for module in modules for part in module.modules())
    return all(type(part).__module__.split(".")[0] in ("trainer", "torch") for part in parts)


def sample_of(split: Batches) -> Batch:
    """Two samples, a copy."""
    first = next(iter(split.in_order()))
    return Batch(*(mapped(Tensor.clone, tree) for tree in next(first.parts(2))))


def tags_of(loss_fn: LossFunction, split: str) -> list[str]:
    terms = [f"{split}/loss/{name}" for name in loss_fn.term_names]
    return [f"{split}/loss", *terms, *(f"{split}/{metric}" for metric in loss_fn.meaning.metrics)]


def refuse_other_metric(settings: Settings, loss_fn: LossFunction) -> None:
    """Raises UserError where what decides which checkpoint is best is not measured."""
    metric, tags = settings.checkpoint.metric, tags_of(loss_fn, "val")
    if metric not in tags:
        raise UserError(
            f"checkpoint.metric={metric}: is not measured here; there is {', '.join(tags)}.{nearest(metric, tags)}"
        )
