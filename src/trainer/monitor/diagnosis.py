"""What the numbers of a run say about its health, in words.

A rule is a pure function of what has been seen so far: it says what is amiss (which layer, which numbers, what that
means, what to type), or None. `RULES` lists them, each with the number of records in a row in which it must see it
before anybody is told. A rule is reported once in a run. All of this is arithmetic on numbers that were logged anyway.

Thresholds without a source of their own were set so that the shipped experiments and the plain command stay silent,
with room to spare, and runs that were made ill do not (`tests/test_diagnosis.py`).
"""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from typing import Any, NamedTuple

from torch import nn

VANISHED = 1e-4  # the first layers' gradient over the last one's
EXPLODED, STILL_PULLS = 100.0, 0.1  # the gradient over the first one
SMALLEST_UPDATE, LARGEST_UPDATE = 1e-4, 1e-2  # |update| / |weights|: a factor of ten around Karpathy's 1e-3
DEAD = SATURATED = 0.5  # shares of units
# A unit that works for one sample in ten is silent in a batch of 32 once in 30 times; smaller batches say too little.
FEWEST_SAMPLES = 32
NO_PULL = 1e-3  # by what share of itself the loss would change if the last layer's weights doubled
BY_HEART = 0.1  # less than this share of what a guess would cost
VERY_FAR_FROM_CHANCE = 5.0  # times; deep networks of ReLUs begin at two or three, and learn
FALLEN = 0.02  # by this share of where it began, or nobody can tell it from noise
LEARNT = 0.5  # less than this share of where it began
GENERALISATION_LOSS = 0.1  # the validation loss over its best, less one
LOST = 0.1  # this share of what was gained on the validation samples
# "For long": so many steps (a usual warm-up has not more) and this share of the run.
LONG_STEPS, LONG_SHARE = 100, 0.1
RECENT = 5  # records over which the training loss is averaged, as that of a single batch is noisy
EARLY_EPOCHS = 5  # in which little can be learnt by heart
ENDED = 0.02  # of the largest learning rate: a schedule has come to its end
# What may come of something else that is wrong.
SYMPTOMS = {"dead ReLUs", "saturated outputs", "exploding gradient", "first update too large", "loss not falling"}
FOLLOWING = SYMPTOMS | {
    *("learning rate too large", "learning rate too small", "vanishing gradient", "overfitting", "one class far worse"),
}
OVERFLOWN = "the numbers have left the range of floating point"


@dataclass(frozen=True)
class Facts:
    """What is known of a run before its first step.

    Args:
        settings: the config, flat: the key as one types it to its value. Advice names no key that is not in it.
        parameters: of the trainable ones, in the model's order, the number of dimensions.
        max_steps: the length of the run.
        num_samples, samples_per_step: of the training split, and of a whole batch of it.
        frozen: layers of which no gradient is asked, without the model being one that freezes them on purpose.
        frozen_on_purpose: the names of the parts that the model itself freezes.
        squashed: layers in front of a module with flat ends, see `squashed_layers`.
        chance: tag to the loss of one who knows nothing, see `chance_loss`.
        guess: tag to the loss of one who says the same of every sample, see `trainer.monitor.facts.guess`.
        is_sum: the loss adds up over samples, and so begins far above any guess.
        gives: what the model's outputs are: logits, probabilities or log_probabilities.
        is_pretrained: whether some of the weights were trained before.
        is_scaled: whether a gradient scaler looks for its scale by letting gradients overflow.
        batch_size: samples that go through the model at once.
        steps_per_epoch: of the training split.

    The rest is what `trainer.monitor.evidence` sees; NaN where it sees nothing.

    Args:
        dropout: the largest probability of any; 0 without.
        equal_units: layers whose units start alike.
        dead_layers: those whose ReLUs let nothing of a sample through.
        has_images: whether samples can be augmented.
        outputs_are: where they should be logits and can't be.
        input_size: the root mean square of the training inputs, and `column_ratio` that of the largest column over the
            median one.
        shift: how far validation inputs lie from training ones, in standard deviations.
        label_shift: 0 for the same shares of classes in training and validation, up to 1.
        largest_share: of the class that is most common in training, in validation.
        shares: of the classes in training.
        is_ordered: the labels of training stand in their order.
        num_val: samples.
        leaked, repeated: see `trainer.data.leaks.Leak`.
        empty_columns: of the inputs, where at least half say nothing.
        target_mean, target_deviation: of numbers.
    """

    settings: Mapping[str, Any]
    parameters: Mapping[str, int]
    max_steps: int
    num_samples: int
    samples_per_step: int
    frozen: Sequence[str] = ()
    frozen_on_purpose: Sequence[str] = ()
    squashed: Sequence[str] = ()
    chance: Mapping[str, float] = field(default_factory=dict)
    guess: Mapping[str, float] = field(default_factory=dict)
    is_sum: bool = False
    gives: str = "logits"
    is_pretrained: bool = False
    is_scaled: bool = False
    batch_size: int = 0
    steps_per_epoch: int = 1
    dropout: float = 0.0
    has_batch_norm: bool = False
    has_attention: bool = False
    has_relus: bool = False
    has_images: bool = True
    equal_units: Sequence[str] = ()
    dead_layers: Sequence[str] = ()
    outputs_are: str = ""
    input_size: float = math.nan
    largest_column: int = 0
    column_ratio: float = 1.0
    shift: float = 0.0
    label_shift: float = 0.0
    largest_share: float = math.nan
    shares: Sequence[float] = ()
    is_ordered: bool = False
    num_val: int = 0
    leaked: float = 0.0
    repeated: float = 0.0
    empty_columns: Sequence[int] = ()
    target_mean: float = math.nan
    target_deviation: float = math.nan

    @property
    def near(self) -> Mapping[str, float]:
        """The guesses of numbers that a loss comes near to early in a run that learns; classes have `chance`."""
        return {} if self.is_sum or self.chance else self.guess

    @property
    def weights(self) -> list[str]:
        """The parameters of two dimensions or more: neither biases nor norms."""
        return [name for name, dims in self.parameters.items() if dims > 1]

    @property
    def biases(self) -> list[str]:
        """The parameters with a number per unit, but for those of the outputs: they go through no ReLU."""
        names = list(self.parameters)[:-1]
        return [name for name in names if self.parameters[name] == 1 and name.rpartition(".")[2].startswith("b")]

    def number(self, key: str) -> float:
        """The value of a key; NaN where it has none, or no number."""
        value = self.settings.get(key)
        return value if isinstance(value, int | float) else math.nan

    @property
    def long(self) -> float:
        """Steps."""
        return max(LONG_STEPS, LONG_SHARE * self.max_steps)

    def samples(self, step: int) -> int:
        """In the batch of a step; the last one of an epoch may be short."""
        rest = self.num_samples % self.samples_per_step
        is_last = step % -(-self.num_samples // self.samples_per_step) == 0
        return rest if rest and is_last else self.samples_per_step


def layer_of(parameter: str) -> str:
    """`conv1` of `conv1.weight`; a parameter of the model itself is a layer of its own."""
    return parameter.rpartition(".")[0] or parameter


def squashed_layers(model: nn.Module) -> list[str]:
    """The layers with parameters that stand in front of a sigmoid, tanh or the like, as far as those are modules."""
    squashing = (nn.Tanh, nn.Sigmoid, nn.Hardtanh, nn.Hardsigmoid, nn.Softsign, nn.Softmax, nn.LogSoftmax)
    layers, last = [], ""
    for name, module in model.named_modules():
        if isinstance(module, squashing) and not isinstance(module, nn.ReLU6):  # which torch derives from Hardtanh
            layers.append(last)
        elif any(True for _ in module.parameters(recurse=False)):
            last = name
    return layers


def chance_loss(criterion: nn.Module, num_classes: int | None) -> float | None:
    """The loss of an even guess, ln K for K classes; None where the criterion has no such number."""
    if num_classes is None or getattr(criterion, "reduction", None) != "mean":
        return None
    return math.log(num_classes) if isinstance(criterion, nn.CrossEntropyLoss | nn.NLLLoss) else None


class Sighting(NamedTuple):
    """What a rule sees in one record; the fields are those of `Finding`."""

    layer: str | None
    numbers: dict[str, float]
    meaning: str
    advice: str


@dataclass(frozen=True)
class Finding:
    """One thing that is amiss.

    Args:
        rule: its name: `vanishing gradient`.
        step: where it was reported.
        layer: where in the model; None for all of it.
        numbers: what the rule saw, by name.
        meaning: what that says.
        advice: what to type, or where to look.
        follows: the rule that explains it, where another finding does.
    """

    rule: str
    step: int
    layer: str | None
    numbers: dict[str, float]
    meaning: str
    advice: str
    follows: str = ""

    @property
    def where(self) -> str:
        return self.rule if self.layer is None else f"{self.rule} in {self.layer}"

    @property
    def seen(self) -> str:
        return " ".join(f"{name}={number:.3g}" for name, number in self.numbers.items())

    def line(self) -> str:
        """For the console."""
        return f"warning: step={self.step} {self.where}: {self.meaning} ({self.seen}). {self.what_to_do}"

    @property
    def what_to_do(self) -> str:
        """What to type, or which finding to mend first."""
        return f"It may follow from what stands first: {self.follows}." if self.follows else self.advice

    def markdown(self) -> str:
        return f"**{self.where}**, step {self.step}: {self.meaning}. {self.what_to_do}\n\n`{self.seen}`"

    def as_dict(self) -> dict[str, Any]:
        """Plain values; what is not finite as a word, which JSON has no number for."""
        numbers = {name: x if math.isfinite(x) else str(x) for name, x in self.numbers.items()}
        return {**asdict(self), "numbers": numbers}


@dataclass
class Seen:
    """What has been observed so far; all but `facts`, `numbers` and what is known at the end goes into a checkpoint.

    Args:
        step, numbers: of this record.
        num_records: those that had gradients.
        losses: the last training losses.
        first_loss: before the first update.
        first_grad_norm: in the first record.
        silent: the layers that have had no gradient yet.
        pending: the sum and the number of the training losses since the last validation.
        train: the mean training loss before the last validation.
        best, best_step, best_train: the best validation loss, its step, and `train` there.
        reported: the rules that have been.
        first_update: the ratio of the first update, see `update`.
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
    numbers: Mapping[str, float] = field(default_factory=dict)
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

    def add(self, step: int, numbers: Mapping[str, float]) -> None:
        self.step, self.numbers = step, numbers
        if "train/loss" in numbers:
            loss = numbers["train/loss"]
            self.losses = [*self.losses, loss][-RECENT:]
            self.pending = [self.pending[0] + loss, self.pending[1] + 1]
            if step == 1:
                self.first_loss = loss
        if "grad_norm" in numbers:
            norms = self.gradients
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
            if self.best is None or numbers["val/loss"] < self.best:
                self.best, self.best_step, self.best_train = numbers["val/loss"], step, self.train

    def _add_sizes(self, step: int, numbers: Mapping[str, float]) -> None:
        """What a record with statistics says of weights, updates and the learning rate."""
        self.norms = [*self.norms, numbers["grad_norm"]][-RECENT:]
        weights = math.hypot(*(numbers.get(f"weight_norm/{name}", 0.0) for name in self.facts.weights))
        if self.first_weights is None:
            self.first_weights = weights
            self.first_update = self.update[1] if self.update is not None else None
        self.moved = self.update
        self.growth = weights / self.first_weights if self.first_weights else None
        rate = max((x for tag, x in numbers.items() if tag.partition("/")[0] == "lr"), default=0.0)
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

    @property
    def has_learnt(self) -> bool:
        """Whether the loss is well below a guess, or where that is not known, where it began; True if neither is."""
        guess = self.chance or self.facts.near.get("train/loss") or self.first_loss
        return guess is None or min(self.loss, self.now) < LEARNT * guess

    @property
    def now(self) -> float:
        """The training loss of the last two records."""
        return sum(self.losses[-2:]) / len(self.losses[-2:]) if self.losses else math.nan

    @property
    def is_ill(self) -> bool:
        """Whether it has not learnt for long, or a symptom has been told of."""
        if self.has_learnt:
            return False
        return self.step >= self.facts.long or bool(SYMPTOMS & {*self.reported})

    @property
    def is_guessing(self) -> bool:
        """Whether no validation was ever better than a guess; False if that is not known."""
        guess = self.facts.guess.get("val/loss")
        return guess is not None and self.best is not None and self.best > guess * (1 - FALLEN)

    @property
    def gradients(self) -> dict[str, float]:
        """The norm of every layer's gradient, in the model's order."""
        parts: dict[str, list[float]] = {}
        for name in self.facts.parameters:
            if f"grad_norm/{name}" in self.numbers:
                parts.setdefault(layer_of(name), []).append(self.numbers[f"grad_norm/{name}"])
        return {layer: math.hypot(*norms) for layer, norms in parts.items()}

    @property
    def update(self) -> tuple[str, float] | None:
        """The median of |update| / |weights| and its layer; without biases, which start near zero."""
        ratios = [(self.numbers.get(f"update_ratio/{name}", math.nan), name) for name in self.facts.weights]
        ratios = sorted((ratio, name) for ratio, name in ratios if math.isfinite(ratio))
        if not ratios:
            return None
        ratio, name = ratios[len(ratios) // 2]
        return layer_of(name), ratio

    @property
    def silent_units(self) -> dict[str, float]:
        """By layer the share of biases whose gradient is exactly zero, of those that ever had one.

        Such a bias belongs to a unit that no sample's gradient passed.
        """
        if self.facts.samples(self.step) < FEWEST_SAMPLES:
            return {}
        shares = {layer_of(name): self.numbers.get(f"grad_zeros/{name}", 0.0) for name in self.facts.biases}
        return {layer: share for layer, share in shares.items() if layer not in self.silent}

    @property
    def largest_lr(self) -> tuple[str, float] | None:
        """The key that sets it, and the largest learning rate that there will be; None for an optimizer without."""
        rates = {key: self.facts.number(key) for key in ("scheduler.max_lr", "optimizer.lr")}
        return next(((key, lr) for key, lr in rates.items() if lr > 0), None)

    def lr_times(self, factor: float) -> str:
        """`optimizer.lr=0.01`: the present one times a factor."""
        if self.largest_lr is None:
            return f"a {'smaller' if factor < 1 else 'larger'} learning rate"
        key, lr = self.largest_lr
        return f"{key}={lr * factor:.2g}"

    @property
    def calmer(self) -> list[str]:
        """Smaller updates."""
        is_clipped = self.facts.settings.get("gradient.clip_norm", 1) is not None
        return [self.lr_times(0.1), *([] if is_clipped else ["gradient.clip_norm=1"])]

    @property
    def better_start(self) -> list[str]:
        """Another way for the weights to start, unless they were trained before."""
        scheme = self.facts.settings.get("model.init", "kaiming")
        return [] if self.facts.is_pretrained or scheme == "kaiming" else ["model.init=kaiming"]


def attempt(words: Sequence[str]) -> str:
    """`Try a, b or c.`"""
    *rest, last = words
    return f"Try {', '.join(rest)} or {last}." if rest else f"Try {last}."


def loss_far_from_chance(seen: Seen) -> Sighting | None:
    """Before the first update a classifier knows nothing: its loss is about ln K for K classes.

    Sources: A. Karpathy, "A Recipe for Training Neural Networks" (2019), "verify loss @ init"; Stanford CS231n, "Neural
    Networks Part 3", "Before learning: sanity checks Tips/Tricks".
    """
    if seen.step != 1:
        return None
    for tag, chance in seen.facts.chance.items():
        loss = seen.numbers.get(tag, chance)
        numbers = {tag: loss, "chance": chance}
        if loss > VERY_FAR_FROM_CHANCE * chance:
            words = seen.better_start
            if seen.facts.settings.get("model.init") == "normal":
                words.append(f"model.init_std={0.1 * seen.facts.number('model.init_std'):.2g}")
            if seen.facts.settings.get("data.normalize") is False:
                words.append("data.normalize=true")
            meaning = "untrained, the network is sure of wrong answers; its weights or its inputs are too large"
            return Sighting(None, numbers, meaning, attempt(words or ["smaller inputs"]))
    return None


def frozen_layer(seen: Seen) -> Sighting | None:
    """A layer with `requires_grad=False` in a model that is not made for it stays as it started.

    Source: PyTorch documentation, "Autograd mechanics", "Setting requires_grad".
    """
    if not seen.facts.frozen:
        return None
    meaning = "requires_grad is False, so that it stays as it is"
    advice = "If that is meant, all is well; if not, look for requires_grad_(False) in the model."
    return Sighting(", ".join(seen.facts.frozen[:5]), {"layers": len(seen.facts.frozen)}, meaning, advice)


def no_gradient(seen: Seen) -> Sighting | None:
    """A layer that the loss does not depend on, or only through a `detach()`, has a gradient of zero at every record.

    Three records, because a layer behind one that starts at zero has no gradient at the first step.

    Source: PyTorch documentation, "Autograd mechanics"; `torch.Tensor.detach`.
    """
    if not seen.silent or seen.num_records < 3 or {*seen.facts.dead_layers} & {*seen.silent}:
        return None
    meaning = "its gradient has been exactly zero from the start"
    advice = (
        "Look in forward() for detach(), .data, no_grad(), argmax, a part that is not used, ReLUs that let nothing by."
    )
    return Sighting(", ".join(seen.silent[:5]), {"layers": len(seen.silent)}, meaning, advice)


def vanishing_gradient(seen: Seen) -> Sighting | None:
    """The first layers' gradient is next to nothing beside the last one's: they do not learn.

    Sources: S. Hochreiter, "Untersuchungen zu dynamischen neuronalen Netzen" (1991); X. Glorot, Y. Bengio,
    "Understanding the difficulty of training deep feedforward neural networks" (AISTATS 2010), section 4.
    """
    weighted = {layer_of(name) for name in seen.facts.weights}
    norms = [(layer, norm) for layer, norm in seen.gradients.items() if layer in weighted]
    if len(norms) < 2:
        return None
    first, norm = max(norms[: max(1, len(norms) // 4)], key=lambda x: x[1])
    last, last_norm = norms[-1]
    if not 0 < norm < VANISHED * last_norm:  # exactly 0 is another illness
        return None
    numbers = {f"grad_norm/{first}": norm, f"grad_norm/{last}": last_norm}
    meaning = "next to nothing arrives at the first layers, they do not learn"
    words = [*seen.better_start, "norm layers between", *([] if seen.facts.has_relus else ["ReLUs for sigmoids"])]
    return Sighting(first, numbers, meaning, attempt(words))


def exploding_gradient(seen: Seen) -> Sighting | None:
    """The gradient has grown a hundredfold and the loss has doubled since the start; or it is not finite any more.

    Sources: R. Pascanu, T. Mikolov, Y. Bengio, "On the difficulty of training recurrent neural networks" (ICML 2013),
    section 3.2 (clipping); I. Goodfellow, Y. Bengio, A. Courville, "Deep Learning" (2016), section 8.2.4.
    """
    loss, norm = seen.numbers["train/loss"], seen.numbers.get("grad_norm", 0.0)
    numbers = {"train/loss": loss, "grad_norm": norm}
    if seen.numbers.get("nonfinite_gradients", 0) and not seen.facts.is_scaled:
        return Sighting(None, numbers, OVERFLOWN, attempt(seen.calmer))
    if seen.first_grad_norm is None or seen.first_loss is None:
        return None
    if loss <= seen.first_loss + abs(seen.first_loss) or norm <= EXPLODED * seen.first_grad_norm:
        return None
    numbers |= {"first_loss": seen.first_loss, "first_grad_norm": seen.first_grad_norm}
    worst = max(seen.gradients.items(), key=lambda x: x[1], default=(None, norm))[0]
    meaning = "every update overshoots, and the next gradient is larger for it"
    return Sighting(worst, numbers, meaning, attempt(seen.calmer))


def learning_rate_too_small(seen: Seen) -> Sighting | None:
    """The weights change by less than a ten-thousandth of themselves a step, while the loss has far to go.

    Where a schedule holds the learning rate down, at the start or the end of a run, this is no fault; nor where the
    gradient is small, too: that is an end that was reached.

    Source: A. Karpathy, CS231n, "Neural Networks Part 3", "Ratio of weights:updates" (should be about 1e-3).
    """
    if seen.has_learnt or (update := seen.update) is None or not 0 < update[1] < SMALLEST_UPDATE:
        return None
    lr = max((x for tag, x in seen.numbers.items() if tag.partition("/")[0] == "lr"), default=math.inf)
    if seen.largest_lr is not None and lr < seen.largest_lr[1] / 2:  # held down
        return None
    if seen.numbers.get("grad_norm", 0.0) < STILL_PULLS * (seen.first_grad_norm or 0.0):
        return None
    if {"vanishing gradient", "dead ReLUs", "saturated outputs"} & set(seen.reported):
        return None  # then the gradient is what is too small
    numbers = {f"update_ratio/{update[0]}": update[1], "train/loss": seen.loss}
    meaning = "a step changes the weights by less than 1e-4 of themselves, and the loss is still high"
    return Sighting(update[0], numbers, meaning, attempt([seen.lr_times(10)]))


def first_update_too_large(seen: Seen) -> Sighting | None:
    """The first update is larger than the weights: what they were initialised to be is lost.

    Optimizers that divide by the gradient's size make first steps of the learning rate's size whatever the gradient is.

    Source: as for `learning_rate_too_large`; D. Kingma, J. Ba, "Adam" (ICLR 2015), section 2.1 (the size of a step).
    """
    if seen.step != 1 or seen.update is None or seen.update[1] <= 1:
        return None
    layer, ratio = seen.update
    meaning = "the first step was larger than the weights themselves, so that their initialisation is lost"
    return Sighting(layer, {f"update_ratio/{layer}": ratio}, meaning, attempt([seen.lr_times(0.1)]))


def dead_relus(seen: Seen) -> Sighting | None:
    """More than half of a layer's units are zero for every sample of a batch: they get no gradient, and stay so.

    Seen in the activations where those are measured, else in the biases' gradients.

    Sources: A. Maas, A. Hannun, A. Ng, "Rectifier nonlinearities improve neural network acoustic models" (ICML 2013),
    section 2; CS231n, "Neural Networks Part 1", "Commonly used activation functions".
    """
    facts = seen.facts
    if facts.samples(seen.step) < FEWEST_SAMPLES:
        return None
    shares = {
        tag.partition("/")[2]: share
        for tag, share in seen.numbers.items()
        if tag.startswith("dead_units/")
        and not any(f"{tag}.".startswith(f"dead_units/{x}.") for x in facts.frozen_on_purpose)
    }
    if not shares:
        shares = {layer: share for layer, share in seen.silent_units.items() if layer not in facts.squashed}
    dead = {layer: share for layer, share in shares.items() if share > DEAD}
    if not dead:
        return None
    # Of equals the last: nothing that comes before a wholly dead layer gets a gradient.
    worst = max(reversed(dead.items()), key=lambda x: x[1])[0]
    numbers = {f"dead_units/{layer}": share for layer, share in list(dead.items())[-5:]}
    meaning = "most of its units get no gradient from any sample and learn nothing any more"
    return Sighting(worst, numbers, meaning, attempt([seen.lr_times(0.1), *seen.better_start, "torch.nn.LeakyReLU"]))


def saturated_outputs(seen: Seen) -> Sighting | None:
    """Sigmoids, tanhs or a softmax are at their ends, where they are flat, and the loss is still high.

    Seen in the activations where those are measured. Else in the biases' gradients; and where the model gives
    probabilities, in the last layer's: to double its weights would change the loss by less than a thousandth.

    Sources: X. Glorot, Y. Bengio, "Understanding the difficulty of training deep feedforward neural networks" (AISTATS
    2010), section 3; "Deep Learning" (2016), section 6.2.2.
    """
    if seen.has_learnt or "grad_norm" not in seen.numbers:
        return None
    meaning = "its outputs are at the flat ends of their function, where no gradient passes"
    words = [seen.lr_times(0.1), *seen.better_start]
    if seen.facts.gives == "probabilities":
        words.append("logits in place of probabilities, with the loss that takes them")
    shares = {tag.partition("/")[2]: share for tag, share in seen.numbers.items() if tag.startswith("saturated_units/")}
    if shares:
        worst = max(shares, key=lambda layer: shares[layer])
        if shares[worst] <= SATURATED:
            return None
        return Sighting(worst, {f"saturated_units/{worst}": shares[worst]}, meaning, attempt(words))
    silent = {layer: share for layer, share in seen.silent_units.items() if layer in seen.facts.squashed}
    worst = max(reversed(silent), key=lambda layer: silent[layer], default="")
    if silent.get(worst, 0.0) > SATURATED:
        return Sighting(worst, {f"saturated_units/{worst}": silent[worst]}, meaning, attempt(words))
    if seen.facts.gives == "logits" or not seen.facts.weights:
        return None
    weight, loss = seen.facts.weights[-1], seen.numbers["train/loss"]
    last = layer_of(weight)
    norm = seen.gradients.get(last, math.nan)
    if not norm * seen.numbers.get(f"weight_norm/{weight}", math.nan) < NO_PULL * abs(loss):
        return None
    return Sighting(last, {f"grad_norm/{last}": norm, "train/loss": loss}, meaning, attempt(words))


def loss_not_falling(seen: Seen) -> Sighting | None:
    """The training loss is where it was before the first update, or where an even guess would be.

    Source: CS231n, "Neural Networks Part 3", "Loss function"; Karpathy, "A Recipe for Training Neural Networks" (2019).
    """
    if len(seen.losses) < RECENT or seen.step < seen.facts.long:
        return None
    first, chance, loss = seen.first_loss, seen.chance, seen.loss
    if seen.has_learnt or seen.has_signal:  # it began below a guess, or there is little to be known
        return None
    has_fallen = first is None or loss < first - FALLEN * abs(first)
    is_guessing = chance is not None and abs(loss - chance) < FALLEN * chance
    if has_fallen and not is_guessing:
        return None
    numbers = {"train/loss": loss} | ({} if first is None else {"first_loss": first})
    numbers |= {} if chance is None else {"chance": chance}
    meaning = f"after {seen.step} steps the network is no better than {'a guess' if is_guessing else 'at the start'}"
    if causes := [rule for rule in seen.reported if rule in CAUSES]:
        advice = f"What was found before may be why: {', '.join(causes)}."
    else:
        ratio = seen.update[1] if seen.update is not None else math.nan
        has_risen = first is not None and loss > first + LEARNT * abs(first)
        larger = [] if ratio > LARGEST_UPDATE or has_risen else [seen.lr_times(10)]
        smaller = [] if ratio < 10 * SMALLEST_UPDATE and not has_risen else [seen.lr_times(0.1)]
        advice = f"{attempt([*larger, *smaller, *seen.better_start])} train remedy tries them."
    return Sighting(None, numbers, meaning, advice)


def overfitting(seen: Seen) -> Sighting | None:
    """The validation loss has risen from its best while the training loss has fallen on: the gap between them grows.

    It must have risen by a tenth of itself, and have lost a tenth of what was gained: where nearly all is known, a few
    more samples that are mistaken double the loss. A validation loss that never was better than a guess is
    `nothing_carries_over`: nothing that was known gets lost.

    Source: L. Prechelt, "Early Stopping - But When?", in "Neural Networks: Tricks of the Trade" (1998), section 2:
    generalisation loss.
    """
    val, settings = seen.numbers.get("val/loss"), seen.facts.settings
    if val is None or seen.best is None or seen.train is None or seen.best_train is None:
        return None
    if val <= seen.best + GENERALISATION_LOSS * abs(seen.best) or seen.train >= seen.best_train or not seen.has_learnt:
        return None
    guess = seen.chance or seen.facts.near.get("train/loss") or seen.start
    if guess is not None and val <= seen.best + LOST * (guess - seen.best):
        return None
    if seen.step - seen.best_step < LONG_SHARE * seen.facts.max_steps or seen.is_guessing:
        return None
    numbers = {"val/loss": val, "best_val/loss": seen.best, "best_step": seen.best_step, "train/loss": seen.train}
    meaning = f"the network learns its training samples by heart; validation was best at step {seen.best_step}"
    words = [f"max_steps={seen.best_step}"]
    if (decay := seen.facts.number("optimizer.weight_decay")) >= 0:
        words.append(f"optimizer.weight_decay={max(0.01, 10 * decay):.2g}")
    if settings.get("data.augment.crop_padding") == 0 and seen.facts.has_images:
        words.append("data.augment.crop_padding=2")
    kept = (
        " checkpoints/best.pt has the weights of that step." if settings.get("checkpoint.metric") == "val/loss" else ""
    )
    return Sighting(None, numbers, meaning, attempt(words) + kept)


def nothing_carries_over(seen: Seen) -> Sighting | None:
    """The training samples are known, and on others the network has never been better than a guess.

    So it is with random targets, where inputs and targets do not belong together, where the splits are of different
    kinds, and with far more weights than samples.

    Source: C. Zhang et al., "Understanding deep learning requires rethinking generalization" (ICLR 2017), section 2.
    """
    val, known = seen.numbers.get("val/loss"), seen.facts.guess.get("train/loss")
    if val is None or known is None or seen.train is None or not seen.is_guessing or seen.train >= BY_HEART * known:
        return None
    numbers = {"train/loss": seen.train, "val/loss": val, "guess": seen.facts.guess["val/loss"]}
    meaning = (
        "the network knows its training samples by heart, and validation has never been better than a guess: nothing "
        "of what it learns holds for other samples"
    )
    words = []
    if (decay := seen.facts.number("optimizer.weight_decay")) >= 0:
        words.append(f"optimizer.weight_decay={max(0.01, 10 * decay):.2g}")
    advice = "Random targets can only be learnt so. Else look whether each input has its own target, in every split."
    return Sighting(None, numbers, meaning, f"{advice} {attempt(['more samples', *words, 'a smaller network'])}")


@dataclass(frozen=True)
class Rule:
    """When a check is made, and how often in a row it must see something.

    Args:
        tag: made at records that have it; others neither count nor interrupt.
        records: in a row.
        is_long: and over `Facts.long` steps.
        rank: of what is found together, the lowest explains the others that are of `FOLLOWING`.
    """

    check: Callable[[Seen], Sighting | None]
    records: int = 1
    is_long: bool = False
    tag: str = "train/loss"
    rank: int = 100

    @cached_property
    def name(self) -> str:
        return self.check.__name__.replace("_", " ").replace("relus", "ReLUs")


# Of a loss that does not fall.
CAUSES = (
    "loss far from chance",
    "frozen layer",
    "no gradient",
    "vanishing gradient",
    "exploding gradient",
    "first update too large",
    "learning rate too small",
    "learning rate too large",
    "dead ReLUs",
    "saturated outputs",
)
RULES = (
    Rule(loss_far_from_chance, rank=30),
    Rule(frozen_layer, rank=20),
    Rule(no_gradient, rank=21),
    Rule(vanishing_gradient, records=2, rank=60),
    Rule(exploding_gradient),
    Rule(first_update_too_large),
    Rule(learning_rate_too_small, records=5, is_long=True, rank=70),
    Rule(dead_relus, records=2),
    Rule(saturated_outputs, records=2),
    Rule(loss_not_falling, records=2),
    Rule(overfitting, records=3, tag="val/loss", rank=90),
    Rule(nothing_carries_over, records=2, tag="val/loss", rank=95),
)


class Diagnosis:
    """Applies the rules to the records of a run.

    Args:
        rules: those that ask whether a symptom was told of come behind the symptoms.

    Attributes:
        told: all that were reported, in the order of their steps.
    """

    def __init__(self, facts: Facts, rules: Sequence[Rule] = RULES) -> None:
        self.told: list[Finding] = []
        self._seen, self._rules = Seen(facts), rules
        self._streaks: dict[str, list[int]] = {}  # rule to the first step of its row of records, and their number

    @property
    def findings(self) -> list[Finding]:
        """All that were reported, what explains the others first."""
        ranks = {rule.name: rule.rank for rule in self._rules}
        ranked = sorted(self.told, key=lambda finding: ranks.get(finding.rule, 100))
        return [
            replace(finding, follows=ranked[0].rule if i and finding.rule in FOLLOWING else "")
            for i, finding in enumerate(ranked)
        ]

    def observe(self, step: int, numbers: Mapping[str, float]) -> list[Finding]:
        """Takes one record, of training or of validation, and returns what it is the first to show."""
        self._seen.add(step, numbers)
        return self._judged(step)

    def concluded(self, step: int, classes: Sequence[Mapping[str, Any]] = ()) -> list[Finding]:
        """What is to be said when the run has come to its end and nothing more will be seen.

        Args:
            classes: rows of the test split, see `trainer.monitor.classes.PerClass`.
        """
        self._seen.is_over, self._seen.classes = True, classes
        return self._judged(step, is_last=True)

    def _judged(self, step: int, is_last: bool = False) -> list[Finding]:
        new = []
        for rule in self._rules:
            if (rule.tag not in self._seen.numbers and not is_last) or rule.name in self._seen.reported:
                continue
            if is_last and rule.rank == 100:  # of symptoms all has been seen
                continue
            sighting = rule.check(self._seen)
            if sighting is None:
                self._streaks.pop(rule.name, None)
                continue
            first, count = self._streaks.get(rule.name, (step, 0))
            self._streaks[rule.name] = [first, count + 1]
            is_enough = count + 1 >= rule.records and (not rule.is_long or step - first >= self._seen.facts.long)
            if is_enough or is_last:
                new.append(Finding(rule.name, step, *sighting))
                self._seen.reported.append(rule.name)
        new.sort(key=lambda finding: next(rule.rank for rule in self._rules if rule.name == finding.rule))
        self.told += new
        return new

    def stopped(self, step: int) -> list[Finding]:
        """What there is to say of a run that ended with a loss or a weight that is not finite."""
        name = Rule(exploding_gradient).name
        if name in self._seen.reported:
            return []
        self._seen.reported.append(name)
        numbers = {"train/loss": self._seen.losses[-1]} if self._seen.losses else {}
        self.told.append(Finding(name, step, None, numbers, OVERFLOWN, attempt(self._seen.calmer)))
        causes = self.concluded(step)
        return [*causes, *(finding for finding in self.told if finding.rule == name)]

    def markdown(self) -> str:
        """All findings, or that there are none."""
        return "\n\n".join(finding.markdown() for finding in self.findings) or "Nothing is amiss."

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers, words, lists and dicts."""
        known = ("facts", "numbers", "is_over", "classes")
        seen = {x.name: getattr(self._seen, x.name) for x in fields(Seen) if x.name not in known}
        findings = [finding.as_dict() for finding in self.told]
        return copy.deepcopy({"seen": seen, "streaks": self._streaks, "findings": findings})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        state = copy.deepcopy(dict(state))
        known = {x.name for x in fields(Seen)}  # a checkpoint may be of another version
        seen = {name: value for name, value in state["seen"].items() if name in known}
        self._seen, self._streaks = Seen(self._seen.facts, **seen), state["streaks"]
        self.told = [
            Finding(**{**finding, "numbers": {name: float(x) for name, x in finding["numbers"].items()}})
            for finding in state["findings"]
        ]
