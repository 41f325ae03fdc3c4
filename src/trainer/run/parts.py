"""The parts of a run, built one after the other and found to fit together; nothing has been written."""

import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from trainer.cadence import evaluation_period
from trainer.config.schema import is_larger_better
from trainer.config.settings import Averages, Settings
from trainer.data.batches import Batch, Batches, ResidentBatches, derived_seed, first_samples
from trainer.data.leaks import Leak, leaks
from trainer.data.mix import Mix
from trainer.data.prepare import Fingerprint, Splits, doubts, fingerprint
from trainer.data.source import Data
from trainer.distributed import ALONE, World
from trainer.draws import has_drawn_since, seed_all
from trainer.errors import UserError, nearest
from trainer.losses.function import LossFunction
from trainer.metrics import Metrics
from trainer.optim.average import Average, OfOptimizer
from trainer.optim.patience import Patience
from trainer.run.batch_size import sized
from trainer.run.chance import doubts_of_evaluation
from trainer.run.data import build_data, build_splits, doubts_of_source
from trainer.run.environment import (
    Precision,
    autocast,
    doubts_of_precision,
    find_device,
    fitting,
    name_fallbacks,
    refuse_channels_last,
    refuse_float64,
    refuse_graphs,
    set_up_torch,
)
from trainer.run.freeze import hold
from trainer.run.length import Length, length_of, refuse_empty_shares, refuse_lonely_sample
from trainer.run.loss import build_loss
from trainer.run.loss_doubts import doubts_of_loss
from trainer.run.metrics import build_metrics
from trainer.run.mix import build_mix
from trainer.run.model import build_model, load_weights
from trainer.run.optimizer import build_optimizer, build_schedule, keeps_average, refuse_astray
from trainer.run.teacher import told_apart
from trainer.run.threads import enough_threads
from trainer.run.unregistered import own_files, own_objects
from trainer.run.waiting import refuse_unmeasured
from trainer.state import Store, TrainingState
from trainer.trees import called, mapped
from trainer.trials import is_all_ours, undisturbed


@dataclass(frozen=True)
class Parts:
    """What a run is made of.

    Args:
        metrics: beside what the loss and the meaning of the outputs give.
        mix: of training batches, None where they are left as they are.
        warnings: what may be meant but seldom is, a line each.
        leak: what the splits have in common, None where that is nothing.
        is_drawn: the source of the data draws from the generators that the seed sets.
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
    metrics: Metrics
    mix: Mix | None = None
    warnings: list[str] = field(default_factory=list)
    leak: Leak | None = None
    is_drawn: bool = False

    @property
    def sample(self) -> Batch:
        """Two samples of the validation split, as the model is called with them.

        A copy: whoever looks at what the model does may write into it.
        """
        sample = sample_of(self.splits.val)
        return sample.like(self.loss_fn.given(sample.inputs, sample.targets), sample.targets)

    def tags(self, split: str) -> list[str]:
        """What an evaluation of this split gives."""
        return tags_of(self.loss_fn, self.metrics, split, self.state.average is not None and split != "train")


def build(settings: Settings, world: World = ALONE, like: Parts | None = None, is_alone: bool = True) -> Parts:
    """
    Args:
        like: a run with the same data, which is taken from there.
        is_alone: false for a run in a stack, where gradients reach all parameters or none is stacked.

    Raises:
        UserError: what does not fit, both sides named.
    """
    device, dtype, precision = computing(settings, world)
    with fitting(device):
        began = time.monotonic()
        data = world.first_alone(lambda: build_data(settings)) if like is None else like.data
        seconds = time.monotonic() - began
        is_drawn = has_drawn_since(settings.seed) if like is None else like.is_drawn
        # Several processes compare what each of them was given.
        unsteady = doubts_of_source(settings, data, seconds) if like is None and world.size == 1 else []
        splits = build_splits(settings, data, device, dtype) if like is None else like.splits
        seed_all(settings.seed)
        model = world.first_alone(lambda: build_model(settings, splits, device, dtype))
        loaded = load_weights(settings, model)
        loss_fn = build_loss(settings, data, splits, model, sample_of(splits.val), precision)
        metrics = build_metrics(settings, loss_fn, model, sample_of(splits.val), world)
    settings, found = sized(settings, model, loss_fn, splits.train, device, precision, world)
    if settings.threads == "auto" and device.type == "cpu" and is_alone:  # a stack has as much to do as its runs
        at_once = len(splits.train) if isinstance(settings.batch_size, str) else settings.batch_size
        torch.set_num_threads(enough_threads(model, loss_fn, sample_of(splits.val), -(-at_once // world.size)))
    averaged = settings.average != Averages(None, None) or keeps_average(settings)
    refuse_two_periods(settings)
    refuse_other_metric(settings, tags_of(loss_fn, metrics, "val", averaged))
    length = length_of(settings, len(splits.train))
    refuse_empty_shares(settings, splits, length, world)
    sample = sample_of(splits.val)
    given = sample.like(loss_fn.given(sample.inputs, sample.targets), sample.targets)
    refuse_channels_last(settings, given.inputs)
    refuse_lonely_sample(settings, model, given, len(splits.train), length, world, precision)
    try:
        store = Store(model, loss_fn)
    except ValueError as error:
        raise UserError(f"model={settings.names['model']}: {error}.") from error
    chance = []
    if not is_all_ours(model, loss_fn):
        heed_others(model, store, splits, given, precision, world if is_alone else None)
        chance = doubts_of_evaluation(settings, model, given, precision)
    hold(settings, model, store, world)
    told = fingerprint(data) | told_apart(settings)
    state = build_state(settings, model, loss_fn, store, splits, told, length, world)
    if world.rank > 0:  # each its own dropout
        seed_all(derived_seed(settings.seed, "rank", world.rank))
    leak, warnings = leak_and_doubts(settings, data, splits, dtype) if like is None else (like.leak, [])
    warnings += unsteady + found + loaded + chance + doubts_of_loss(settings, loss_fn, model, sample_of(splits.val))
    warnings += doubts_of_patience(settings, length) + doubts_of_precision(settings, device)
    mix = build_mix(settings, data, loss_fn, world)
    found_out = metrics, mix, warnings, leak, is_drawn
    return Parts(settings, world, device, precision, data, splits, model, loss_fn, length, state, *found_out)


def computing(settings: Settings, world: World) -> tuple[torch.device, torch.dtype, Precision]:
    """What a run computes on, and in what. Raises UserError: it can't be had, or does not go with the rest."""
    set_up_torch(settings)
    device = find_device(settings.device, world)
    refuse_float64(settings, device)
    name_fallbacks(device)
    refuse_graphs(settings, device, world)
    refuse_unmeasured(settings, device)
    precision = autocast(settings, device)
    refuse_astray(settings)
    return device, torch.float64 if settings.dtype == "float64" else torch.float32, precision


def heed_others(
    model: nn.Module, store: Store, splits: Splits, sample: Batch, precision: Precision, world: World | None
) -> None:
    """Has the run heed what classes of others may do in a step: rebind parameters, reach a part of them, write into
    samples.

    Args:
        sample: as the model is called with it.
        world: that looks which parameters a gradient reaches; None: nobody does.
    """
    device = next(model.parameters()).device
    # Whether a forward pass in training gives parameters other memory, see `trainer.trials`.
    with suppress(Exception), undisturbed(model, device, is_training=True), precision():
        called(model, sample.inputs)  # what is wrong with it is told elsewhere
    if world is not None:
        store.watch(world)
    for split in (splits.train, splits.val, splits.test):
        if isinstance(split, ResidentBatches):
            split.is_copied = True


def build_state(
    settings: Settings,
    model: nn.Module,
    loss_fn: LossFunction,
    store: Store,
    splits: Splits,
    told: dict[str, Fingerprint],
    length: Length,
    world: World,
) -> TrainingState:
    """What a step changes, as it is before the first."""
    optimizer = build_optimizer(settings, model, store)
    schedule = build_schedule(settings, optimizer, length)
    scaler = GradScaler(store.values.device.type, enabled=settings.precision == "float16")
    others = own_files(settings.own) | own_objects(
        settings.own, optimizer=optimizer, scheduler=schedule, loss=loss_fn, data=splits
    )
    state = TrainingState(
        model, store, optimizer, schedule, scaler, loss=loss_fn, data=told, world=world, others=others
    )
    state.patience, state.average = patience_of(settings), average_of(settings, store, length, optimizer)
    return state


def leak_and_doubts(
    settings: Settings, data: Data, splits: Splits, dtype: torch.dtype
) -> tuple[Leak | None, list[str]]:
    """What the splits have in common, and what may be meant of the data but seldom is."""
    # With overfit= the splits have the same samples on purpose.
    leak = leaks(data.train, data.val, data.test, data.rows) if settings.overfit is None else None
    return leak, doubts(data, settings.names["data"], dtype, leak, getattr(splits.train, "augment", None))


def sample_of(split: Batches) -> Batch:
    """Two samples, a copy."""
    found = first_samples(split, 2)
    return found.like(*(mapped(Tensor.clone, tree) for tree in found))


def tags_of(loss_fn: LossFunction, metrics: Metrics, split: str, is_averaged: bool) -> list[str]:
    terms = [f"loss/{name}" for name in loss_fn.term_names]
    names = list(dict.fromkeys(["loss", *terms, *loss_fn.meaning.metrics, *metrics.names]))
    tags = [f"{split}/{name}" for name in names]
    return [*tags, *(f"{split}/average/{name}" for name in names if is_averaged)]


def refuse_other_metric(settings: Settings, tags: list[str]) -> None:
    """Raises UserError where what decides is not measured: which checkpoint is best, and when to stop."""
    for key in ("checkpoint.metric", "early_stopping.metric", "scheduler.metric"):
        section, _, name = key.partition(".")
        metric = settings.config[section].get(name)
        if metric is not None and metric not in tags:
            raise UserError(
                f"{key}={metric}: is not measured here; there is {', '.join(tags)}.{nearest(metric, tags, 0.6)}"
            )


def refuse_two_periods(settings: Settings) -> None:
    """Raises UserError where checkpoints are asked for every so many steps and every so many epochs."""
    steps, epochs = settings.checkpoint.every, settings.checkpoint.every_epochs
    if steps is not None and epochs is not None:
        raise UserError(
            f"checkpoint.every={steps} checkpoint.every_epochs={epochs}: both say how often. "
            "Type checkpoint.every_epochs=null, or checkpoint.every=null."
        )


def average_of(settings: Settings, store: Store, length: Length, optimizer: Optimizer) -> Average | None:
    """Raises UserError where two kinds are asked for."""
    decay, last = settings.average.decay, settings.average.last
    if keeps_average(settings):
        if decay is not None or last is not None:
            name = f"optimizer={settings.names['optimizer']}"
            raise UserError(f"{name}: keeps an average by itself. Type average.decay=null average.last=null.")
        fill: Any = optimizer
        return OfOptimizer(store.values.clone(), fill=lambda row: fill.average_into(store.views(row)))
    if decay is None and last is None:
        return None
    if decay is not None and last is not None:
        raise UserError(f"average.decay={decay} average.last={last}: one average is kept. Type average.last=null.")
    begins = 0 if last is None else length.max_steps - max(1, round(last * length.max_steps))
    return Average(store.values.clone(), decay, begins)


def patience_of(settings: Settings) -> Patience | None:
    """Raises UserError for a key of early stopping where nothing is stopped early."""
    stopping = settings.early_stopping
    if stopping.patience is None:
        for key, value in (("min_delta", stopping.min_delta), ("metric", stopping.metric)):
            if value:
                raise UserError(
                    f"early_stopping.{key}={value}: nothing is stopped early. Type early_stopping.patience=5 too."
                )
        return None
    metric = stopping.metric or settings.checkpoint.metric
    return Patience(metric, is_larger_better(metric, settings.config), stopping.patience, stopping.min_delta)


def doubts_of_patience(settings: Settings, length: Length) -> list[str]:
    """A line where the whole run is too short for early stopping: the first validation is always the best so far."""
    patience, every = settings.early_stopping.patience, evaluation_period(settings.eval_every, length.steps_per_epoch)
    if patience is None or (patience + 1) * every < length.max_steps:
        return []
    count, often = length.max_steps // every, length.max_steps // (patience + 2)
    return [
        f"early_stopping.patience={patience}: can stop nothing, with {count} validation{'s' * (count != 1)} in "
        f"{length.max_steps} steps. Type {f'eval_every={often}' if often else 'a smaller one'}, or leave it out."
    ]
