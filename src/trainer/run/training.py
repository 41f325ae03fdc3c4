"""A training in its folder: what belongs to it from before it is opened until after it is closed."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from trainer.cadence import drawing_period, evaluation_period
from trainer.computation import Work
from trainer.config.schema import leaves
from trainer.data.batches import Batch, Batches
from trainer.disk.checkpoint import Checkpoints
from trainer.loop import Plan
from trainer.monitor.causes import RULES
from trainer.monitor.diagnosis import Diagnosis
from trainer.monitor.evidence import evidence
from trainer.monitor.facts import facts_of
from trainer.optim.closure import ByClosure
from trainer.run.freeze import epochs
from trainer.run.parts import Parts
from trainer.signals import Signals

# That put a step between two histograms: the 11 million of ResNet-18 take 0.14 s, its step with 64 pictures of 64 x 64
# pixels 0.7 s (2026-11-26, AMD EPYC Zen 4, one thread).
PARAMETERS_A_STEP = 1_000_000


@dataclass
class Training:
    """
    Args:
        log: where it says how it goes, if not on the terminal.
        until: the step after which it is interrupted; None for none. The length of the run stays what it is.
    """

    parts: Parts
    folder: Path
    signals: Signals
    log: TextIO | None = None
    until: int | None = None
    checkpoints: Checkpoints = field(init=False)
    diagnosis: Diagnosis = field(init=False)
    warnings: list[str] = field(init=False)

    def __post_init__(self) -> None:
        parts, settings, length = self.parts, self.parts.settings, self.parts.length
        kept = settings.checkpoint
        self.checkpoints = Checkpoints(self.folder / "checkpoints", kept.keep, kept.history)
        self.warnings = [*parts.warnings]
        store = parts.state.store
        facts = facts_of(
            dict(leaves(settings.config)),
            parts.model,
            parts.loss_fn,
            {name: parameter.dim() for name, parameter in zip(store.names, store.parameters, strict=True)},
            length.max_steps,
            len(parts.splits.train),
            length.samples_per_step,
            parts.state.scaler.is_enabled(),
            isinstance(parts.state.optimizer, ByClosure),
            (parts.splits.train.targets, parts.splits.val.targets),
            length.batch_size,
            evidence(parts.model, parts.loss_fn, parts.splits, parts.leak),
        )
        self.diagnosis = Diagnosis(facts, RULES)

    def is_stop_requested(self) -> bool:
        return self.signals.received != 0

    def work(self) -> Work:
        """The training as far as it is computed."""
        parts, settings, length = self.parts, self.parts.settings, self.parts.length
        return Work(
            state=parts.state,
            loss_fn=parts.loss_fn,
            train=parts.splits.train,
            val=parts.splits.val,
            test=parts.splits.test,
            sample=lambda: parts.sample,
            device=parts.device,
            precision=parts.precision,
            precision_name=settings.precision,
            batch_size=length.batch_size,
            samples_per_step=length.samples_per_step,
            steps_per_epoch=length.steps_per_epoch,
            max_steps=length.max_steps,
            channels_last=settings.channels_last,
            mix=parts.mix,
            is_ours=not (epochs(settings) or any(map(settings.is_own, ("model", "loss", "optimizer")))),
        )

    def batches(self, split: Batches) -> Iterator[Batch]:
        """From the next step on; of the training split, or of its samples in another form."""
        parts = self.parts
        of, seed = parts.length.samples_per_step, parts.settings.order_seed
        first = parts.state.step + 1
        batches = split.training(of, seed, first, parts.world.rank, parts.world.size)
        return batches if parts.mix is None else map(parts.mix, batches, itertools.count(first))

    def plan(self) -> Plan:
        """How long, and when what is due."""
        parts, settings, length = self.parts, self.parts.settings, self.parts.length
        return Plan(
            max_steps=length.max_steps,
            num_samples=len(parts.splits.train),
            samples_per_step=length.samples_per_step,
            log_every=settings.monitor.every,
            show_every=settings.console.every,
            draw_every=self.draw_every,
            eval_every=evaluation_period(settings.eval_every, length.steps_per_epoch),
            save_every=self.save_every,
            history=settings.checkpoint.history,
            # On the CPU a look at the loss is free; elsewhere it waits for the device, so the losses are kept until a
            # step that is logged, evaluated or saved, or until there are many.
            check_every=1 if parts.device.type == "cpu" else 1000,
            clip_norm=settings.gradient.clip_norm,
            clip_value=settings.gradient.clip_value,
            skips_non_finite=settings.on_nan == "skip",
        )

    @property
    def save_every(self) -> int | None:
        """Steps, after which the training waits for a checkpoint."""
        asked = self.parts.settings.checkpoint
        return asked.every if asked.every_epochs is None else asked.every_epochs * self.parts.length.steps_per_epoch

    @property
    def draw_every(self) -> int | None:
        """Steps from one histogram to the next; None where there are none."""
        monitor = self.parts.settings.monitor
        if not (monitor.events and monitor.histograms):
            return None
        at_least = -(-self.parts.state.store.bounds[-1] // PARAMETERS_A_STEP)
        return drawing_period(monitor.histogram_every, monitor.every, self.parts.length.max_steps, at_least=at_least)
