"""What the diagnosis is told of a run before its first step."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from trainer.losses.fits import WANTS
from trainer.losses.function import LossFunction
from trainer.meaning import Classes, Numbers

# "For long": so many steps (a usual warm-up has not more) and this share of the run.
LONG_STEPS, LONG_SHARE = 100, 0.1


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
        searches: whether a step of the optimizer evaluates the loss several times and looks how far to go, as L-BFGS.
        batch_size: samples that go through the model at once.
        steps_per_epoch: of the training split.

    The rest is what `trainer.monitor.evidence` sees; NaN where it sees nothing.

    Args:
        dropout: the largest probability of any; 0 without.
        equal_units: layers whose units start alike.
        dead_layers: those whose ReLUs let nothing of a sample through.
        has_images: whether samples can be augmented.
        outputs_are: where they should be logits or numbers, and can't be all of them.
        takes_probabilities: the loss to type that takes them, where they are probabilities; empty: there is none.
        out_of_reach: the share of training targets that such outputs can't come to.
        is_linear: several layers of weights are together no more than one.
        telling_columns: of the inputs, which say the target by themselves.
        input_size: the root mean square of the training inputs, and `column_ratio` that of the largest column over the
            median one.
        shift: how far validation inputs lie from training ones, in standard deviations.
        label_shift: 0 for the same shares of classes in training and validation, up to 1.
        largest_share: of the class that is most common in training, in validation.
        shares: of the classes in training.
        is_ordered: the labels of training stand in their order.
        num_val: samples.
        are_labels, are_places: each target is several zeros and ones, or the classes of its pixels or tokens.
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
    searches: bool = False
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
    takes_probabilities: str = ""
    out_of_reach: float = 0.0
    is_linear: bool = False
    telling_columns: Sequence[int] = ()
    input_size: float = math.nan
    largest_column: int = 0
    column_ratio: float = 1.0
    shift: float = 0.0
    label_shift: float = 0.0
    largest_share: float = math.nan
    shares: Sequence[float] = ()
    is_ordered: bool = False
    num_val: int = 0
    are_labels: bool = False
    are_places: bool = False
    leaked: float = 0.0
    repeated: float = 0.0
    empty_columns: Sequence[int] = ()
    target_mean: float = math.nan
    target_deviation: float = math.nan

    @property
    def near(self) -> Mapping[str, float]:
        """The guesses of numbers that a loss comes near to early in a run that learns; classes have `chance`."""
        return {} if self.is_sum or self.chance else self.guess

    @cached_property
    def weights(self) -> list[str]:
        """The parameters of two dimensions or more: neither biases nor norms."""
        return [name for name, dims in self.parameters.items() if dims > 1]

    @cached_property
    def gradient_tags(self) -> list[tuple[str, str]]:
        """Of every parameter its layer, and the tag of its gradient's norm."""
        return [(layer_of(name), f"grad_norm/{name}") for name in self.parameters]

    @cached_property
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


def facts_of(
    settings: Mapping[str, Any],
    model: nn.Module,
    loss_fn: LossFunction,
    parameters: Mapping[str, int],
    max_steps: int,
    num_samples: int,
    samples_per_step: int,
    is_scaled: bool,
    searches: bool,
    targets: tuple[Any, Any],
    batch_size: int = 0,
    seen: Mapping[str, Any] | None = None,
) -> Facts:
    """
    Args:
        settings: the config, flat.
        parameters: name to number of dimensions, of those that train.
        num_samples: of the training split.
        targets: of the training split and of the validation split.
        batch_size: samples that go through the model at once.
        seen: what `trainer.monitor.evidence` has found.
    """
    on_purpose = {
        f"{name}.{part}".lstrip("."): module.get_submodule(part)
        for name, module in model.named_modules()
        for part in getattr(module, "frozen_on_purpose", ())
    }
    meant = {p for part in on_purpose.values() for p in part.parameters()}
    frozen = [layer_of(n) for n, p in model.named_parameters() if not p.requires_grad and p not in meant]
    chance: dict[str, float] = {}
    if isinstance(loss_fn.meaning, Classes):
        for name, part in zip(loss_fn.names, loss_fn.parts, strict=True):
            loss = chance_loss(part.criterion, loss_fn.meaning.num_classes) if part in loss_fn.terms else None
            if loss is not None:
                chance[f"train/loss/{name}" if name else "train/loss"] = loss
    return Facts(
        settings=settings,
        parameters=parameters,
        max_steps=max_steps,
        num_samples=num_samples,
        samples_per_step=samples_per_step,
        frozen=list(dict.fromkeys(frozen)),
        frozen_on_purpose=list(on_purpose),
        squashed=squashed_layers(model),
        chance=chance,
        guess=guess(loss_fn, *targets, samples_per_step),
        is_sum=any(part.kind == "sum" for part in loss_fn.terms),
        gives=getattr(model, "gives", "logits"),
        is_pretrained=any(getattr(module, "is_pretrained", False) for module in model.modules()),
        is_scaled=is_scaled,
        searches=searches,
        batch_size=batch_size or samples_per_step,
        steps_per_epoch=-(-num_samples // samples_per_step),
        **(seen or {}),
    )


def guess(loss_fn: LossFunction, train: Any, val: Any, samples_per_step: int) -> dict[str, float]:
    """The losses of one who says the same of every sample: an even guess among classes, or the mean of the targets.

    Args:
        train, val: the targets of both splits.

    Returns:
        `train/loss` and `val/loss`; empty where the loss is none that has such a number.
    """
    if len(loss_fn.parts) != 1 or len(loss_fn.terms) != 1 or loss_fn.term_names:
        return {}
    (part,) = loss_fn.terms
    if isinstance(loss_fn.meaning, Classes):
        even = chance_loss(part.criterion, loss_fn.meaning.num_classes)
        return {} if even is None else {"train/loss": even, "val/loss": even}
    wants = WANTS.get(type(part.criterion))
    is_known = isinstance(loss_fn.meaning, Numbers) and wants is not None and wants.targets == "values"
    is_known = is_known and not (wants and wants.only)  # of signs and counts a mean of the targets is no output
    if not is_known or not (isinstance(train, Tensor) and isinstance(val, Tensor)):
        return {}
    with torch.no_grad():
        mean = train.mean(0)
        losses = [float(part.criterion(mean.expand_as(targets), targets)) for targets in (train, val)]
    share = samples_per_step / len(train) if part.kind == "sum" else 1.0  # a sum is that of a batch
    return {"train/loss": losses[0] * share, "val/loss": losses[1]}
