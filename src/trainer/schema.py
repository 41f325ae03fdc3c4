"""The typed part of the config: what each key accepts, in one table; and the one line that says what is wrong."""

import math
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.errors import UserError, nearest, one_of


@dataclass(frozen=True)
class Number:
    """A finite number within bounds; `whole` for a count."""

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    whole: bool = False
    optional: bool = False
    words: tuple[str, ...] = ()
    example: str = ""

    @property
    def accepts(self) -> str:
        bounds = [(">=", self.at_least), (">", self.above), ("<=", self.at_most), ("<", self.below)]
        text = " and ".join(f"{sign} {bound}" for sign, bound in bounds if bound is not None)
        text = f"a {'whole ' if self.whole else ''}number {text}".rstrip()
        return one_of([text, *self.words, *(["null"] if self.optional else [])])

    def allows(self, value: Any) -> bool:
        if isinstance(value, str):
            return value in self.words
        if value is None:
            return self.optional
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            return False
        return (
            math.isfinite(value)
            and not (self.whole and not isinstance(value, int))
            and (self.at_least is None or value >= self.at_least)
            and (self.above is None or value > self.above)
            and (self.at_most is None or value <= self.at_most)
            and (self.below is None or value < self.below)
        )


@dataclass(frozen=True)
class Choice:
    """One of some words."""

    words: tuple[str, ...]
    example: str = ""

    @property
    def accepts(self) -> str:
        return one_of(self.words)

    def allows(self, value: Any) -> bool:
        return isinstance(value, str) and value in self.words


@dataclass(frozen=True)
class Flag:
    """true or false."""

    accepts: str = "true or false"
    example: str = ""

    def allows(self, value: Any) -> bool:
        return isinstance(value, bool)


@dataclass(frozen=True)
class Text:
    """A text that a pattern matches."""

    accepts: str
    pattern: str = r".+"
    optional: bool = False
    example: str = ""

    def allows(self, value: Any) -> bool:
        if value is None:
            return self.optional
        if isinstance(value, int | float) and not isinstance(value, bool):
            value = str(value)  # name=7
        return isinstance(value, str) and re.fullmatch(self.pattern, value) is not None


@dataclass(frozen=True)
class ListOf:
    """A list whose every item the rule allows."""

    item: "Rule"
    length: int | None = None
    example: str = ""

    @property
    def accepts(self) -> str:
        return f"a list of {'' if self.length is None else f'{self.length}, each '}{self.item.accepts}"

    def allows(self, value: Any) -> bool:
        return (
            isinstance(value, list)
            and (self.length is None or len(value) == self.length)
            and all(self.item.allows(item) for item in value)
        )


Rule = Number | Choice | Flag | Text | ListOf

_COUNT = Number(at_least=1, whole=True)
_COUNT_OR_NULL = Number(at_least=1, whole=True, optional=True)
_POSITIVE = Number(above=0)
_POSITIVE_OR_NULL = Number(above=0, optional=True)
_NOT_NEGATIVE = Number(at_least=0)
_FRACTION = Number(at_least=0, below=1)
_FLAG = Flag()

# Every key of ours that is no group, and the keys of groups that many classes share. A key of a class that is not
# here is checked against the class's signature alone.
RULES: dict[str, Rule] = {
    "max_steps": Number(at_least=1, whole=True, optional=True, example="max_steps=500"),
    "max_epochs": Number(at_least=1, whole=True, optional=True, example="max_epochs=20"),
    "batch_size": Number(at_least=1, whole=True, words=("full",), example="batch_size=64"),
    "eval_every": _COUNT_OR_NULL,
    "seed": Number(at_least=0, at_most=2**32 - 1, whole=True, example="seed=0"),
    "device": Text("auto, cpu, cuda, cuda:<number> or mps", r"auto|cpu|cuda(:\d+)?|mps", example="device=auto"),
    "precision": Choice(("float32", "bfloat16", "float16")),
    "dtype": Choice(("float32", "float64")),
    "compile": _FLAG,
    "deterministic": _FLAG,
    "threads": _COUNT_OR_NULL,
    # a path below runs/, each part of it a plain name
    "name": Text(
        "letters, digits and ._=,+- with / between folders, or null",
        r"(?!.*(^|/)\.\.?(/|$))[\w.=,+-]{1,200}(/[\w.=,+-]{1,200})*",
        optional=True,
        example="name=try1",
    ),
    "run_dir": Text("the path of a folder, or null", optional=True),
    "resume": Text("the path of a run's folder, auto, or null", optional=True),
    "trust": ListOf(Text("the name of a package", r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*"), example="trust=[mypackage]"),
    "gradient.clip_norm": _POSITIVE_OR_NULL,
    "gradient.clip_value": _POSITIVE_OR_NULL,
    "gradient.accumulate": _COUNT,
    "checkpoint.every": _COUNT_OR_NULL,
    "checkpoint.keep": _COUNT,
    "checkpoint.metric": Text(
        "a validation tag such as val/loss or val/accuracy", r"val/.+", example="checkpoint.metric=val/loss"
    ),
    "console.every": _COUNT_OR_NULL,
    "monitor.every": _COUNT_OR_NULL,
    "monitor.histogram_every": _COUNT_OR_NULL,
    "monitor.statistics": _FLAG,
    "monitor.activations": _FLAG,
    "monitor.histograms": _FLAG,
    "monitor.graph": _FLAG,
    "monitor.layout": _FLAG,
    "monitor.texts": _FLAG,
    "monitor.images": _FLAG,
    "monitor.curves": _FLAG,
    "monitor.projector": _FLAG,
    "monitor.hparams": _FLAG,
    "monitor.events": _FLAG,
    "model.init": Choice(("default", "normal", "xavier", "kaiming")),
    "model.init_std": _POSITIVE,
    "model.in_features": _COUNT_OR_NULL,
    "model.out_features": _COUNT_OR_NULL,
    "model.hidden_features": _COUNT,
    "model.in_channels": _COUNT_OR_NULL,
    "model.image_size": _COUNT_OR_NULL,
    "model.num_classes": _COUNT_OR_NULL,
    "model.dropout": _FRACTION,
    "data.limit": _COUNT_OR_NULL,
    "data.image_size": _COUNT_OR_NULL,
    "data.normalize": _FLAG,
    "data.augment.crop_padding": Number(at_least=0, whole=True),
    "data.augment.horizontal_flip": _FLAG,
    "data.augment.rotation": Number(at_least=0, at_most=180),
    "data.num_samples": _COUNT,
    "data.in_features": _COUNT,
    "data.out_features": _COUNT,
    "data.split_seed": Number(at_least=0, whole=True),
    "data.num_workers": Number(at_least=0, at_most=256, whole=True),
    "data.download": _FLAG,
    "data.val_fraction": Number(above=0, below=1),
    "data.test_fraction": Number(above=0, below=1),
    "loss.delta": _POSITIVE,
    "loss.label_smoothing": Number(at_least=0, at_most=1),
    "optimizer.lr": Number(above=0, example="optimizer.lr=0.01"),
    "optimizer.momentum": _FRACTION,
    "optimizer.dampening": _FRACTION,
    "optimizer.weight_decay": _NOT_NEGATIVE,
    "optimizer.nesterov": _FLAG,
    "optimizer.alpha": _FRACTION,
    "optimizer.rho": _FRACTION,
    "optimizer.eps": _NOT_NEGATIVE,
    "optimizer.lr_decay": _NOT_NEGATIVE,
    "optimizer.momentum_decay": _NOT_NEGATIVE,
    "optimizer.centered": _FLAG,
    "optimizer.amsgrad": _FLAG,
    "optimizer.betas": ListOf(_FRACTION, length=2, example="optimizer.betas=[0.9,0.999]"),
    "scheduler.interval": Choice(("step", "epoch", "evaluation")),
    "scheduler.step_size": _COUNT,
    "scheduler.gamma": _POSITIVE,
    "scheduler.milestones": ListOf(_COUNT),
    "scheduler.T_max": _COUNT_OR_NULL,
    "scheduler.eta_min": _NOT_NEGATIVE,
    "scheduler.max_lr": _POSITIVE_OR_NULL,
    "scheduler.total_steps": _COUNT_OR_NULL,
    "scheduler.pct_start": Number(at_least=0, at_most=1),
    "scheduler.warmup_steps": Number(at_least=0, whole=True),
    "scheduler.min_factor": Number(at_least=0, at_most=1),
    "scheduler.factor": Number(above=0, below=1),
    "scheduler.patience": Number(at_least=0, whole=True),
}
GROUPS = ("model", "data", "loss", "optimizer", "scheduler")
SECTIONS = ("monitor", "checkpoint", "console", "gradient")


def leaves(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key that holds no mapping, dotted, with its value; lists count as values."""
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def shown(value: Any) -> str:
    """A value as a person types it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(map(shown, value))}]"
    return str(value)


def is_larger_better(tag: str) -> bool:
    """Of accuracies; of losses, and all else, the smaller is better."""
    return "accuracy" in tag


def resume_word(folder: Path) -> str:
    """`resume=<folder>`, quoted for Hydra, whose grammar gives commas and equals signs a meaning, and for the shell."""
    path = str(folder)
    if not re.fullmatch(r"[\w./+-]+", path):
        path = '"' + path.replace('"', '\\"') + '"'
    return shlex.quote(f"resume={path}")


def unknown_key(key: str, known: Iterable[str]) -> UserError:
    """The line for a key that nothing reads, with the nearest known one, or with those that stand beside it."""
    known = [k for k in dict.fromkeys(known) if not k.endswith("_target_")]
    section, _, last = key.rpartition(".")
    siblings = sorted(k for k in known if k.rpartition(".")[0] == section)
    same_last = [k for k in known if k.rpartition(".")[2] == last]
    hint = nearest(key, siblings, cutoff=0.8) or (f" Did you mean {same_last[0]}?" if same_last else "")
    hint = hint or nearest(key, known, cutoff=0.7)
    if not hint and siblings:
        hint = f" {section or 'The top level'} has {', '.join(k.rpartition('.')[2] for k in siblings)}."
    return UserError(f"{key}: nothing reads this key.{hint}")


def check(config: Mapping[str, Any]) -> None:
    """Refuses unknown keys of ours, and values of the wrong type or outside their range.

    The keys of a group beyond these rules are checked where its class is known.

    Raises:
        UserError: names key, value, what is accepted and what to type.
    """
    for group in (*GROUPS, *SECTIONS):
        if not isinstance(config.get(group), Mapping):
            raise UserError(
                f"{group}={shown(config.get(group))}: holds keys of its own. Type train --cfg job to see them."
            )
    for key, value in leaves(config):
        rule = RULES.get(key)
        if rule is None:
            if key.split(".")[0] in GROUPS:
                continue
            raise unknown_key(key, sorted(RULES, key=lambda k: k.split(".")[0] in GROUPS))
        if not rule.allows(value):
            hint = f" Try {rule.example}." if rule.example else ""
            if isinstance(rule, Choice):
                hint = nearest(str(value), rule.words)
            raise UserError(f"{key}={shown(value)}: must be {rule.accepts}.{hint}")
