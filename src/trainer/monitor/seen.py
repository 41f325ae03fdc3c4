"""What has been observed of a run so far, as the rules of the diagnosis ask for it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from trainer.monitor.facts import LONG_STEPS, Facts
from trainer.monitor.record import Record

FALLEN = 0.02  # by this share of where it began, or nobody can tell it from noise
LEARNT = 0.5  # less than this share of where it began
RECENT = 5  # records over which the training loss is averaged, as that of a single batch is noisy
EARLY_EPOCHS = 5  # in which little can be learnt by heart
MUCH = 0.15  # of a guess: a loss below it by this share is no noise
ENDED = 0.02  # of the largest learning rate: a schedule has come to its end
SHRUNK, GROWN = 0.3, 10.0  # the weights' norm over that at the start
# What may come of something else that is wrong.
SYMPTOMS = {"dead ReLUs", "saturated outputs", "exploding gradient", "first update too large", "loss not falling"}


@dataclass
class Seen:
    """What has been observed so far; all but `facts`, `record` and what is known at the end goes into a checkpoint.

    Args:
        step, record: the present one.
        num_records: those that had gradients.
        losses: the last training losses.
        first_loss: before the first update.
        first_grad_norm: in the first record.
        silent: the layers that have had no gradient yet.
        pending: the sum and the number of the training losses since the last validation.
        train: the mean training loss before the last validation.
        best, best_step, best_train: the best validation loss, its step, and `train` there.
        reported: the rules that have been.
        first_update: that of the first update, see `Record.update`.
        moved: the layer and the ratio of the last update that was seen.
        first_weights, growth: the norm of all weights in the first record, and how often that it is now.
        largest_norm: of the last gradients, as the median of `norms`.
        top_rate, ended: the largest learning rate so far, and the first step at which it was next to nothing.
        early: the training loss while samples were new, or nearly: in the first `EARLY_EPOCHS`.
        num_vals, num_bad: validations, and those of the last ones in a row that were no better than a guess.
        best_accuracy, accuracy: of validation.
        is_over: the run has come to its end.
        classes: rows of the test split, once it is over, see `trainer.monitor.classes.PerClass`.
    """

    facts: Facts
    step: int = 0
    num_records: int = 0
    losses: list[float] = field(default_factory=list)
    first_loss: float | None = None
    first_grad_norm: float | None = None
    silent: list[str] = field(default_factory=list)
    pending: list[float] = field(default_factory=lambda: [0.0, 0])
    train: float | None = None
    best: float | None = None
    best_step: int = 0
    best_train: float | None = None
    reported: list[str] = field(default_factory=list)
    first_update: float | None = None
    moved: tuple[str, float] | None = None
    first_weights: float | None = None
    growth: float | None = None
    norms: list[float] = field(default_factory=list)
    top_rate: float = 0.0
    ended: int = 0
    early: float | None = None
    num_vals: int = 0
    num_bad: int = 0
    best_accuracy: float = 0.0
    accuracy: float | None = None
    is_over: bool = False
    classes: Sequence[Mapping[str, Any]] = ()

    def __post_init__(self) -> None:
        self.record = Record(self.facts, self.step)

    @property
    def numbers(self) -> Mapping[str, float]:
        return self.record.numbers

    def add(self, step: int, numbers: Mapping[str, float]) -> None:
        self.step, self.record = step, Record(self.facts, step, numbers)
        self.__dict__.pop("has_learnt", None)  # many rules ask for it
        if "train/loss" in numbers:
            loss = numbers["train/loss"]
            self.losses = [*self.losses, loss][-RECENT:]
            if math.isfinite(loss):  # of on_nan=skip: a step that was left out has taught nothing
                self.pending = [self.pending[0] + loss, self.pending[1] + 1]
            if step == 1:
                self.first_loss = loss
        if "grad_norm" in numbers:
            norms = self.record.gradients
            candidates = self.silent if self.num_records else list(norms)
            self.silent = [layer for layer in candidates if norms.get(layer) == 0]
            self.num_records += 1
            if self.first_grad_norm is None and math.isfinite(numbers["grad_norm"]):
                self.first_grad_norm = numbers["grad_norm"]
            self._add_sizes(step, numbers)
        if "val/loss" in numbers:
            self._add_validation(numbers)
            if self.pending[1]:
                self.train, self.pending = self.pending[0] / self.pending[1], [0.0, 0]
            if math.isfinite(numbers["val/loss"]) and (self.best is None or numbers["val/loss"] < self.best):
                self.best, self.best_step, self.best_train = numbers["val/loss"], step, self.train

    def _add_sizes(self, step: int, numbers: Mapping[str, float]) -> None:
        """What a record with statistics says of weights, updates and the learning rate."""
        self.norms = [*self.norms, numbers["grad_norm"]][-RECENT:]
        weights = math.hypot(*(numbers.get(f"weight_norm/{name}", 0.0) for name in self.facts.weights))
        if self.first_weights is None:
            self.first_weights = weights
            self.first_update = None if self.record.update is None else self.record.update[1]
        self.moved = self.record.update
        self.growth = weights / self.first_weights if self.first_weights else None
        rate = self.record.lr or 0.0
        self.top_rate = max(self.top_rate, rate)
        if rate >= ENDED * self.top_rate:
            self.ended = 0
        elif not self.ended:
            self.ended = step
        if "train/loss" in numbers and 1 < step <= EARLY_EPOCHS * self.facts.steps_per_epoch:
            self.early = numbers["train/loss"]

    def _add_validation(self, numbers: Mapping[str, float]) -> None:
        self.num_vals += 1
        self.accuracy = numbers.get("val/accuracy")
        self.best_accuracy = max(self.best_accuracy, self.accuracy or 0.0)
        self.num_bad = self.num_bad + 1 if self.is_guess(numbers) else 0

    def is_guess(self, numbers: Mapping[str, float]) -> bool:
        """Whether a validation is no better than always saying the same."""
        facts, loss = self.facts, numbers["val/loss"]
        if "val/loss" in facts.near:
            return loss > 0.98 * facts.near["val/loss"]
        if facts.are_places and self.accuracy is not None:  # of so many, a network that knows something has another
            return math.isclose(self.accuracy, facts.largest_share, rel_tol=1e-9)
        if self.chance is None or self.accuracy is None or math.isnan(facts.largest_share):
            return False
        return self.accuracy <= facts.largest_share + 2 * self.accuracy_error

    @property
    def accuracy_error(self) -> float:
        """The standard error of a validation accuracy that is the share of the largest class."""
        share = self.facts.largest_share
        return math.sqrt(share * (1 - share) / max(1, self.facts.num_val)) if 0 <= share <= 1 else math.nan

    @property
    def has_signal(self) -> bool:
        """Whether some validation was better than a guess, though the loss may hardly show it."""
        if "val/loss" in self.facts.near:
            return self.best is not None and self.best < 0.99 * self.facts.near["val/loss"]
        if not self.num_vals or self.chance is None or math.isnan(self.accuracy_error):
            return False
        return self.best_accuracy > self.facts.largest_share + 3 * self.accuracy_error

    @property
    def loss(self) -> float:
        """The training loss of late."""
        return sum(self.losses) / len(self.losses) if self.losses else math.nan

    @property
    def chance(self) -> float | None:
        return self.facts.chance.get("train/loss")

    @property
    def start(self) -> float | None:
        """The loss before the first update, or the lower one of one who knows nothing; None if neither is known."""
        return min((loss for loss in (self.first_loss, self.chance) if loss is not None), default=None)

    @property
    def has_fallen(self) -> bool:
        """Whether the loss is below where it began; True if that is not known."""
        return self.start is None or self.loss < self.start - FALLEN * abs(self.start)

    @cached_property
    def has_learnt(self) -> bool:
        """Whether the loss is well below a guess, or where that is not known, where it began; True if neither is."""
        guess = self.chance or self.facts.near.get("train/loss") or self.first_loss
        return guess is None or min(self.loss, self.now) < LEARNT * guess

    @property
    def now(self) -> float:
        """The training loss of the last two records."""
        return sum(self.losses[-2:]) / len(self.losses[-2:]) if self.losses else math.nan

    @property
    def is_settled(self) -> bool:
        """Whether there was time enough to learn: what has not been learnt by now is no matter of patience."""
        return self.step >= (LONG_STEPS if self.is_over else self.facts.long)

    @property
    def costs(self) -> dict[str, float]:
        """What the network costs now, and what a guess would."""
        found = {"train/loss": self.loss} if self.losses else {}
        return found | ({"chance": self.chance} if self.chance is not None else {})

    @property
    def is_ill(self) -> bool:
        """Whether it has not learnt for long, or a symptom has been told of."""
        if self.has_learnt:
            return False
        return self.step >= self.facts.long or bool(SYMPTOMS & {*self.reported})

    @property
    def is_lost(self) -> bool:
        """Whether training and validation were well below a guess, and half of that is gone again."""
        guess, of_val = (self.facts.guess.get(f"{split}/loss", math.nan) for split in ("train", "val"))
        val, was = self.numbers.get("val/loss"), self.best_train
        if val is None or self.best is None or was is None:
            return False
        if not (was < (1 - MUCH) * guess and self.best < (1 - MUCH) * of_val):
            return False
        return self.now > (was + guess) / 2 and val > (self.best + of_val) / 2

    @property
    def is_guessing(self) -> bool:
        """Whether no validation was ever better than a guess; False if that is not known."""
        guess = self.facts.guess.get("val/loss")
        return guess is not None and self.best is not None and self.best > guess * (1 - FALLEN)

    @property
    def silent_units(self) -> dict[str, float]:
        """By layer the share of biases without a gradient in this record, of layers that ever had one."""
        return {layer: share for layer, share in self.record.silent_units.items() if layer not in self.silent}
