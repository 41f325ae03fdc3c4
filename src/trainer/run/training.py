"""A training in its folder: what belongs to it from before it is opened until after it is closed."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from trainer.cadence import drawing_period, evaluation_period
from trainer.computation import Work
from trainer.config.request import Config
from trainer.config.schema import leaves
from trainer.data.batches import Batch, Batches
from trainer.disk.checkpoint import Checkpoints
from trainer.loop import Plan
from trainer.monitor.causes import RULES
from trainer.monitor.diagnosis import Diagnosis
from trainer.monitor.evidence import evidence
from trainer.monitor.facts import facts_of
from trainer.run.freeze import epochs
from trainer.run.overfit import verdict
from trainer.run.parts import Parts
from trainer.signals import Signals


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
        return drawing_period(monitor.histogram_every, monitor.every, self.parts.length.max_steps)

    @property
    def ended_by(self) -> str | None:
        """What ended the run before its last step, as it is typed; None at its end."""
        state, settings = self.parts.state, self.parts.settings
        if not state.is_over or state.step >= self.parts.length.max_steps:
            return None
        patience = state.patience
        if patience is None or not patience.is_over:
            return f"max_time={settings.max_time}"
        return patience.told

    @property
    def why_ended(self) -> str:
        """The same in words."""
        state = self.parts.state
        patience, best = state.patience, state.best.get("step")
        if patience is None or not patience.is_over:
            return f"max_time={self.parts.settings.max_time}: the time is over"
        limit = "" if not patience.min_delta else f" by more than {patience.min_delta:g}"
        number = "never a number" if patience.best is None else f"not better than {patience.best:.4g}{limit}"
        where = f", the best is of step {best}" if best and patience.metric == state.best["metric"] else ""
        return f"{patience.metric} was {number} in {patience.count} validations{where}"

    def title(self) -> list[str]:
        """What is about to be trained."""
        parts, names, world, length = self.parts, self.parts.settings.names, self.parts.world, self.parts.length
        begins = f", from step {parts.state.step}" if parts.state.step else ""
        return [
            parts.data.description,
            f"{names['model']}: {self.num_parameters:,} parameters, {self.num_trainable:,} train; {names['loss']}, "
            f"{names['optimizer']}, {parts.device}{f', {world.size} processes' if world.size > 1 else ''}",
            f"{length.max_steps} steps of {length.samples_per_step} samples{begins}, in {self.folder}",
        ]

    @property
    def num_parameters(self) -> int:
        """Those of the loss among them."""
        modules = (self.parts.model, self.parts.loss_fn)
        return sum(parameter.numel() for module in modules for parameter in module.parameters())

    @property
    def num_trainable(self) -> int:
        return self.parts.state.store.values.shape[1]

    def result(self, status: str, computed: str, seconds: float) -> Config:
        """What `result.json` holds."""
        state = self.parts.state
        return {
            **state.last,
            **({} if self.ended_by is None else {"ended_by": self.ended_by, "ended": self.why_ended}),
            "status": status,
            "steps": state.step,
            "seconds": seconds,
            "num_parameters": self.num_parameters,
            "num_trainable": self.num_trainable,
            "computed": computed,
            **({} if (said := verdict(self.parts.settings, state.last)) is None else {"overfit": said}),
            "diagnosis": [finding.as_dict() for finding in self.diagnosis.findings],
        }
