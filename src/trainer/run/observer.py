"""What happens at the steps that are due: statistics, validation, checkpoints."""

import math
import time
from contextlib import contextmanager
from typing import Any

import torch

from trainer.cadence import is_due, is_recorded
from trainer.config.schema import is_larger_better
from trainer.data.batches import samples_until
from trainer.disk.checkpoint import Saver
from trainer.finished.pruning import MedianRule
from trainer.losses.function import Losses
from trainer.monitor.activations import Activations
from trainer.monitor.histograms import histograms
from trainer.monitor.journal import Journal
from trainer.monitor.statistics import Statistics
from trainer.monitor.tags import shown_as
from trainer.run.records import Records
from trainer.run.training import Training
from trainer.run.validation import better, validated
from trainer.run.waiting import Waiting


class RunObserver:
    """Watches one run; see `trainer.loop.Observer` for when it is called.

    Attributes:
        network, train, val: what is trained and validated, and on what: the model or its head, on inputs or on
            features.
        waiting: how long the training waits for its batches; None where that is not measured.
        pruned_for: why the run is not worth its time, None as long as it may be.
    """

    def __init__(self, training: Training, journal: Journal, saver: Saver) -> None:
        parts, settings = training.parts, training.parts.settings
        monitor, is_main = settings.monitor, parts.world.is_main
        self.parts, self.state, self.journal, self.saver = parts, parts.state, journal, saver
        self.network, self.train, self.val = parts.model, parts.splits.train, parts.splits.val
        self.is_stop_requested, self.diagnosis = training.is_stop_requested, training.diagnosis
        self.max_steps, self.log_every = parts.length.max_steps, monitor.every
        store = parts.state.store
        self.statistics = Statistics(store.names, store.bounds) if monitor.statistics and is_main else None
        self.draw_every = training.draw_every if is_main else None
        self.activations = Activations(parts.model) if monitor.activations and is_main else None
        every_minutes = settings.checkpoint.every_minutes
        self._save_every_seconds = math.inf if every_minutes is None else 60 * every_minutes
        self.save_every = training.save_every
        self._max_seconds = settings.max_seconds
        self.rule = median_rule(training)
        self.pruned_for: str | None = None
        self.waiting: Waiting | None = None
        self.tick = journal.display.tick
        self.records = Records(journal, training.diagnosis, self.statistics)
        self._numbers: dict[str, float] = {}
        self._saved_step: int | None = None
        self.start_clock()

    def start_clock(self) -> None:
        """The training begins now."""
        self.started = time.perf_counter()
        self._logged_at, self._logged_step = self.started, self.state.step
        self._skipped_step = 0  # whose update was left out, and that was said
        self._saved_at = self.started

    def before_forward(self, step: int) -> None:
        if self.activations is not None and is_recorded(step, self.log_every, self.max_steps):
            self.activations.watch()

    def before_update(self, step: int, losses: Losses) -> None:
        stacked = torch.stack([losses.total, *losses.terms.values()])
        values = self.state.world.sum(stacked).tolist()  # the wait for the device
        self._numbers = dict(zip(["train/loss", *(f"train/loss/{name}" for name in losses.terms)], values, strict=True))
        rates = [group["lr"] for group in self.state.optimizer.param_groups]
        self._numbers |= {"lr": rates[0]} if len(rates) == 1 else {f"lr/{i}": rate for i, rate in enumerate(rates)}
        store = self.state.store
        if self.statistics is not None and is_recorded(step, self.log_every, self.max_steps):
            self.statistics.before(store.values, store.grads)
        if self.journal.events is not None and is_recorded(step, self.draw_every, self.max_steps):
            for kind, buffer in (("gradients", store.grads), ("weights", store.values)):
                drawn = histograms(buffer[0], store.bounds)
                tags = [shown_as(f"{kind}/{name}") for name in store.names]
                self.journal.events.histograms(step, dict(zip(tags, drawn, strict=True)))

    def skipped(self, step: int) -> None:
        self.state.last["skipped_steps"] = self.state.num_skipped
        if self.state.num_skipped_in_row == 1:
            # Statistics that have seen this step's gradients can't be asked for earlier ones before its end.
            self._skipped_step = step
            if not is_recorded(step, self.log_every, self.max_steps):
                self.say_skipped()

    def say_skipped(self) -> None:
        """Behind the records of earlier steps."""
        self.records.write()
        self.journal.display.note(
            f"warning: step={self._skipped_step}: the loss or a gradient is not finite; no update is made (on_nan=skip)"
        )

    def after_update(self, step: int) -> None:
        if not is_recorded(step, self.log_every, self.max_steps):
            self.records.add(step, self._numbers, None)
            return
        if self.statistics is not None:
            self.statistics.after(self.state.store.values)
            self._numbers["grad_norm"] = math.nan  # until it is asked for
        now = time.perf_counter()
        seconds, steps = now - self._logged_at, step - self._logged_step
        size, num_train = self.parts.length.samples_per_step, len(self.parts.splits.train)
        before, by_now = (samples_until(num_train, size, at) for at in (self._logged_step, step))
        self._logged_at, self._logged_step = now, step
        self._numbers["time/step_ms"] = 1000 * seconds / steps
        self._numbers["time/samples_per_second"] = (by_now - before) / seconds
        if self.waiting is not None:
            self._numbers["time/waiting"] = self.waiting.seconds() / seconds
        device = self.state.store.values.device
        if device.type == "cuda":  # what torch has allocated: a counter of its own, the device is not asked
            self._numbers["device/memory_mb"] = torch.cuda.memory_allocated(device) / 2**20
        self.saver.refuse_failed()
        layers = {} if self.activations is None else self.activations.numbers()
        self.records.add(step, self._numbers, layers, seconds / steps * (self.log_every or 1))
        if self._skipped_step == step:
            self.say_skipped()

    @contextmanager
    def off_the_clock(self) -> Any:
        """What is no training does not count in the time of a step."""
        start = time.perf_counter()
        yield
        self._logged_at += time.perf_counter() - start

    def evaluate(self, step: int) -> tuple[float, bool] | None:
        with self.off_the_clock():
            numbers = validated(self.parts, self.network, self.train, self.val, self.is_stop_requested)
            return None if numbers is None else self.evaluated(step, numbers)

    def evaluated(self, step: int, numbers: dict[str, float]) -> tuple[float, bool]:
        """Is told what a validation gave, by name; returns the loss, and whether it is the best so far."""
        numbers = {f"val/{name}": number for name, number in numbers.items()}
        self.complain()
        metric = self.parts.settings.checkpoint.metric
        is_best = metric in better(numbers, self.state.last, self.parts.settings.config)
        if is_best:
            self.state.best = {"metric": metric, "step": step, "value": numbers[metric]}
        self.state.last.update(numbers)  # a plateau asks for them, and whoever prunes
        self.records.add(step, numbers, {})
        if self.rule is not None and step < self.max_steps:
            self.pruned_for = self.rule.verdict(step, self.state.last)
        return numbers["val/loss"], is_best

    def complain(self) -> None:
        """Says what the metrics warn of, once."""
        while self.parts.metrics.complaints:
            self.records.write()
            self.journal.display.note(f"warning: metric: {self.parts.metrics.complaints.pop(0)}")

    def seconds(self) -> float:
        """Spent in this run, earlier processes included."""
        return self.state.seconds + time.perf_counter() - self.started

    def is_time_over(self) -> bool:
        """Whether the run has taken `max_time`."""
        return self._max_seconds < math.inf and self.seconds() >= self._max_seconds

    def is_save_overdue(self) -> bool:
        return time.perf_counter() - self._saved_at > self._save_every_seconds

    def save(self, step: int, is_best: bool = False) -> None:
        self.records.write()
        if step == self._saved_step and not is_best:
            return
        self._saved_step = step
        with self.off_the_clock():
            more = {"seconds": self.seconds(), "diagnosis": self.diagnosis.state_dict()}
            state = self.state.state_dict() | more  # every rank adds to it
            if self.state.world.is_main:
                if self.journal.events is not None:
                    self.journal.events.flush()  # what was logged up to a checkpoint is not lost with the process
                self.saver.save(state, is_best)
                if is_due(step, self.save_every, self.max_steps):
                    self.saver.wait()
        self._saved_at = time.perf_counter()


def median_rule(training: Training) -> MedianRule | None:
    """What prunes a run where it is a job of a sweep; on the main process alone, which tells the others."""
    parts, sweep = training.parts, training.parts.settings.sweep
    if sweep.prune is None or not parts.world.is_main or not (training.folder.parent / "sweep.yaml").exists():
        return None
    metric = sweep.metric or f"val/{parts.loss_fn.meaning.decisive}"
    is_larger = is_larger_better(metric, parts.settings.config)
    return MedianRule(training.folder, metric, sweep.prune_first, sweep.prune_steps, is_larger)
