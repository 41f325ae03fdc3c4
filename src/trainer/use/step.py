"""A step that is seen once more: its samples and its layers, as plain values."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from torch import Tensor

from trainer.data.batches import Batch, samples_of
from trainer.losses.function import Losses
from trainer.meaning import Classes
from trainer.monitor.facts import layer_of
from trainer.monitor.readable import short
from trainer.run.parts import Parts
from trainer.run.remembered import id_of
from trainer.run.training import Training
from trainer.trees import is_per_sample
from trainer.use.back import Follower
from trainer.use.look import Looks, look


@dataclass(frozen=True)
class Sample:
    """One sample of a batch, as plain values.

    Args:
        id: its path, its row in the file or data set of its user, or its place in the training split, which is `row`.
        target, said: class names, or numbers.
        probability: of the class that is said; None where there is none.
        loss, gradient_norm, share: see `trainer.use.look.Looks`; None where they are not known or not finite.
    """

    id: str
    row: int
    target: str
    said: str
    probability: float | None
    loss: float | None
    gradient_norm: float | None = None
    share: float | None = None

    @property
    def is_wrong(self) -> bool:
        return self.probability is not None and self.said != self.target


@dataclass
class Step:
    """What was seen of a step.

    Args:
        layers: to the norms of its activations (root mean square), gradient and update, by these names.
    """

    step: int
    loss: float = math.nan
    samples: list[Sample] = field(default_factory=list)
    layers: dict[str, dict[str, float]] = field(default_factory=dict)
    inputs: Any = None
    targets: Any = None

    @property
    def norm(self) -> float:
        return math.hypot(*(numbers.get("gradient", 0.0) for numbers in self.layers.values()))


class Watcher(Follower):
    """Looks at the layers in all steps of a window, and at the samples of some of them.

    Args:
        window: steps.
        wanted: those of them whose samples are looked at.
    """

    def __init__(self, training: Training, window: range, wanted: range) -> None:
        super().__init__(training)
        self.window, self.wanted = window, wanted
        self.steps: dict[int, Step] = {}
        self._batches: Iterator[Batch] | None = None
        self._before: Tensor | None = None

    def coming(self, step: int) -> None:
        if step not in self.window:
            return
        parts = self.training.parts
        if self._batches is None:
            of, seed = parts.length.samples_per_step, parts.settings.order_seed
            self._batches = parts.splits.train.training(of, seed, step)
        batch = next(self._batches)
        seen = self.steps[step] = Step(step)
        looks, activations = look(parts, batch, has_gradients=step in self.wanted)
        seen.layers = {layer: {"activation": number} for layer, number in activations.items()}
        if step in self.wanted:
            of, seed = parts.length.samples_per_step, parts.settings.order_seed
            rows = samples_of(parts.splits.train, of, seed, step)
            targets = batch.targets if is_per_sample(batch.targets, batch.num_samples) else None
            seen.samples = samples(parts, targets, looks, rows.tolist())
            seen.inputs, seen.targets = batch.inputs, batch.targets

    def before_update(self, step: int, losses: Losses) -> None:
        super().before_update(step, losses)
        if step in self.window:
            self.steps[step].loss = self.losses[step]
            self._note(step, "gradient", self.training.parts.state.store.grads)
            self._before = self.training.parts.state.store.values.clone()

    def after_update(self, step: int) -> None:
        if step in self.window and self._before is not None:
            self._note(step, "update", self.training.parts.state.store.values - self._before)

    def _note(self, step: int, what: str, buffer: Tensor) -> None:
        for layer, norm in norms_by_layer(self.training.parts, buffer).items():
            self.steps[step].layers.setdefault(layer, {})[what] = norm


def norms_by_layer(parts: Parts, buffer: Tensor) -> dict[str, float]:
    """Of a buffer `[1, num_parameters]`: the norm of each layer's part."""
    store = parts.state.store
    found: dict[str, float] = {}
    for name, (start, end) in zip(store.names, pairwise(store.bounds), strict=True):
        norm = buffer[0, start:end].double().norm().item()
        found[layer_of(name)] = math.hypot(found.get(layer_of(name), 0.0), norm)
    return found


def samples(
    parts: Parts, targets: Any, looks: Looks, rows: Sequence[int], places: Sequence[int] | None = None
) -> list[Sample]:
    """
    Args:
        targets, looks: of a batch; None where there is no row for each sample.
        rows: the places of its samples in the training split.
        places: of those in the batch that `rows` are of; None for all.
    """
    found = []
    for i, row in zip(range(len(rows)) if places is None else places, rows, strict=True):
        target, said, probability = words(parts, targets, looks.outputs, i)
        of = [finite(None if t is None else t[i].item()) for t in (looks.losses, looks.norms, looks.shares)]
        found.append(Sample(str(id_of(parts.data, "train", row)), row, target, said, probability, *of))
    return found


def words(parts: Parts, targets: Any, outputs: Tensor | None, i: int) -> tuple[str, str, float | None]:
    """Target and output of a sample in words, and the probability of what is said."""
    meaning = parts.loss_fn.meaning
    if isinstance(meaning, Classes) and outputs is not None and isinstance(targets, Tensor):
        one = outputs[i : i + 1]
        label = int(meaning.predicted(one)[0])
        said = meaning.scores(one)[0]
        return meaning.name(int(targets[i])), meaning.name(label), float(said[label]) if label < len(said) else None
    return _number(targets, i), _number(outputs, i), None


def _number(values: Any, i: int) -> str:
    """The first numbers of a sample."""
    if not isinstance(values, Tensor) or not values[i].numel():
        return "-"
    first = values[i].flatten()[:3].tolist()
    return " ".join(short(float(x)) for x in first) + (" ..." if values[i].numel() > 3 else "")


def finite(number: float | None) -> float | None:
    return number if number is not None and math.isfinite(number) else None
