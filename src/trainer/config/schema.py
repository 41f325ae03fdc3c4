"""The typed part of the config: what each key accepts, in one table; and the one line that says what is wrong."""

import contextlib
import difflib
import math
import re
import sys
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.config import synonyms
from trainer.config.grammar import written
from trainer.errors import UserError, first_line, nearest, one_of
from trainer.system import shell


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
    """A text that a pattern matches; `as_typed` for a name or a path, which is taken letter by letter."""

    accepts: str
    pattern: str = r".+"
    optional: bool = False
    example: str = ""
    as_typed: bool = False
    words: tuple[str, ...] = ()  # some of what it takes

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
    optional: bool = False
    example: str = ""

    @property
    def accepts(self) -> str:
        text = f"a list{'' if self.length is None else f' of {self.length}'}, each item {self.item.accepts}"
        return f"{text}, or null" if self.optional else text

    def allows(self, value: Any) -> bool:
        if value is None:
            return self.optional
        return (
            isinstance(value, list)
            and (self.length is None or len(value) == self.length)
            and all(self.item.allows(item) for item in value)
        )


@dataclass(frozen=True)
class Either:
    """What one of several rules allows."""

    rules: "tuple[Rule, ...]"
    example: str = ""

    @property
    def accepts(self) -> str:
        return one_of([rule.accepts for rule in self.rules])

    @property
    def words(self) -> tuple[str, ...]:
        return tuple(word for rule in self.rules for word in getattr(rule, "words", ()))

    def allows(self, value: Any) -> bool:
        return any(rule.allows(value) for rule in self.rules)


@dataclass(frozen=True)
class MapOf:
    """Names, each with a value that the rule allows."""

    item: "Rule"
    optional: bool = False
    example: str = ""

    @property
    def accepts(self) -> str:
        return f"names with {self.item.accepts} each{', or null' if self.optional else ''}"

    def allows(self, value: Any) -> bool:
        if not isinstance(value, Mapping):
            return value is None and self.optional
        # A number is the name of a part of an nn.Sequential, and 1.10 of a part of a part.
        return all(type(name) in (str, int, float) and self.item.allows(item) for name, item in value.items())


Rule = Number | Choice | Flag | Text | ListOf | Either | MapOf

# `example` is what the message says to type.
_COUNT = Number(at_least=1, whole=True, example="1")
_COUNT_OR_NULL = Number(at_least=1, whole=True, optional=True, example="null")
_FROM_0 = Number(at_least=0, whole=True, example="0")
_POSITIVE = Number(above=0, example="1")
_POSITIVE_OR_NULL = Number(above=0, optional=True, example="null")
_NOT_NEGATIVE = Number(at_least=0, example="0")
_FRACTION = Number(at_least=0, below=1, example="0.9")
_FRACTION_OR_1 = Number(at_least=0, at_most=1, example="0")
_PART = Number(above=0, below=1, example="0.1")
_FLAG = Flag()
_DISK_SPACE = r"\d+(\.\d+)? ?([kMGT]B)?"
_WEIGHTS = Text(
    "imagenet, the path of a state dict, or null", optional=True, example="null", as_typed=True, words=("imagenet",)
)

# Every key of ours that is no group, and every number, flag and word of the classes that are shipped. Other keys of a
# class, and all those of a user's own, are checked against the class's signature and by the class itself.
RULES: dict[str, Rule] = {
    "max_steps": Number(at_least=1, whole=True, optional=True, example="500"),
    "max_epochs": Number(at_least=1, whole=True, optional=True, example="20"),
    "batch_size": Number(at_least=1, whole=True, words=("full", "auto"), example="64"),
    "eval_every": _COUNT_OR_NULL,
    "seed": Number(at_least=0, at_most=2**32 - 1, whole=True, example="0"),
    "order_seed": Number(at_least=0, at_most=2**32 - 1, whole=True, optional=True, example="0"),
    "device": Text(
        "auto, cpu, cuda, cuda:<number> or mps",
        r"auto|cpu|cuda(:\d+)?|mps",
        example="auto",
        words=("auto", "cpu", "cuda", "mps"),
    ),
    "precision": Choice(("float32", "bfloat16", "float16")),
    "dtype": Choice(("float32", "float64")),
    "compile": _FLAG,
    "fast": _FLAG,
    "cuda_graphs": _FLAG,
    "channels_last": _FLAG,
    "cache_limit": Text("a number of bytes, or of kB, MB, GB or TB; 0 keeps nothing", _DISK_SPACE, example="4GB"),
    "deterministic": _FLAG,
    "threads": Number(at_least=1, at_most=1024, whole=True, optional=True, words=("auto",), example="auto"),
    "on_nan": Choice(("stop", "skip")),
    # a path below runs/, each part of it a plain name
    "name": Text(
        "letters, digits and ._=,+- (200 at most) with / between folders, or null",
        r"(?!.*(^|/)\.\.?(/|$))[\w.=,+-]{1,200}(/[\w.=,+-]{1,200})*",
        optional=True,
        example="try1",
        as_typed=True,
    ),
    "run_dir": Text("the path of a folder, or null", optional=True, example="null", as_typed=True),
    "resume": Text("the path of a run's folder, auto, or null", optional=True, example="null", as_typed=True),
    "trust": ListOf(Text("the name of a package", r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*"), example="[mypackage]"),
    "gradient.clip_norm": _POSITIVE_OR_NULL,
    "gradient.clip_value": _POSITIVE_OR_NULL,
    "gradient.accumulate": _COUNT,
    "gradient.checkpoint": Either((_FLAG, ListOf(Text("the name of a part of the model"))), example="true"),
    "checkpoint.every": _COUNT_OR_NULL,
    "checkpoint.every_epochs": _COUNT_OR_NULL,
    "checkpoint.every_minutes": _POSITIVE_OR_NULL,
    "checkpoint.keep": _COUNT,
    "checkpoint.history": _COUNT_OR_NULL,
    "checkpoint.metric": Text("a validation tag such as val/loss or val/accuracy", r"val/.+", example="val/loss"),
    "console.every": _COUNT_OR_NULL,
    "average.decay": Number(above=0, below=1, optional=True, example="0.999"),
    "average.last": Number(above=0, at_most=1, optional=True, example="0.25"),
    "early_stopping.patience": _COUNT_OR_NULL,
    "early_stopping.min_delta": _NOT_NEGATIVE,
    "early_stopping.metric": Text(
        "a validation tag such as val/loss or val/accuracy, or null", r"val/.+", optional=True, example="val/loss"
    ),
    "max_time": Text(
        "a time such as 2h30m, 45m or 90s, or null",
        r"(?=.*[1-9])(\d{1,6}d)?(\d{1,6}h)?(\d{1,6}m)?(\d{1,6}s)?",
        optional=True,
        example="2h30m",
    ),
    "test": Choice(("best", "last"), example="best"),
    "dry_run": _FLAG,
    "profile": _FLAG,
    "overfit": Number(at_least=1, whole=True, optional=True, example="64"),
    "sweep.metric": Text("a tag of the results such as val/accuracy, or null", optional=True),
    "sweep.on_failure": Choice(("continue", "stop")),
    "sweep.retry": _FLAG,
    "sweep.share_batches": _FLAG,
    "sweep.stack": Choice(("auto", "always", "never")),
    "sweep.verify": Number(at_least=0, whole=True, example="2"),
    "sweep.prune": Text("median or null", "median", optional=True),
    "sweep.prune_first": Number(at_least=1, whole=True, example="5"),
    "sweep.prune_steps": Number(at_least=0, whole=True, example="100"),
    "sweep.jobs": Number(at_least=1, at_most=1024, whole=True),
    "sweep.devices": ListOf(Number(at_least=0, whole=True), optional=True, example="[0,1]"),
    "monitor.every": _COUNT_OR_NULL,
    "monitor.histogram_every": Number(at_least=1, whole=True, optional=True, example="auto", words=("auto",)),
    "monitor.statistics": _FLAG,
    "monitor.activations": _FLAG,
    "monitor.waiting": Choice(("auto", "always", "never"), example="auto"),
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
    "model.hidden_features": Number(at_least=1, whole=True, example="100"),
    "model.bias": _FLAG,
    "model.gradient": Choice(("autograd", "tensors", "numpy", "custom_function")),
    "model.in_channels": _COUNT_OR_NULL,
    "model.image_size": _COUNT_OR_NULL,
    "model.num_classes": _COUNT_OR_NULL,
    "model.kernel_size": Number(at_least=1, whole=True, example="5"),
    "model.dropout": _FRACTION,
    "model.sequence_length": _COUNT_OR_NULL,
    "model.vocab_size": _COUNT_OR_NULL,
    "model.num_tokens": _COUNT_OR_NULL,
    "model.name": Text("the name of a model in its library", example="mobilenet_v3_small"),
    "model.pretrained": _FLAG,
    "model.task": Choice(
        ("auto", "image_classification", "sequence_classification", "token_classification", "causal_lm", "masked_lm")
    ),
    "model.weights": _WEIGHTS,
    "model.backbone.weights": _WEIGHTS,
    "model.unfreeze": ListOf(Text("the name of a part of the backbone"), example="[layer4]"),
    "model.freeze": ListOf(Text("the name of a part of the model"), example="[conv1]"),
    "model.unfreeze_at": MapOf(Number(at_least=1, whole=True), example="{conv1:5}"),
    "data.folds": Number(at_least=2, at_most=1000, whole=True, optional=True, example="5"),
    "data.fold": Number(at_least=0, whole=True, optional=True, example="0"),
    "data.limit": _COUNT_OR_NULL,
    "data.image_size": _COUNT_OR_NULL,
    "data.normalize": _FLAG,
    "data.augment.crop_padding": _FROM_0,
    "data.augment.horizontal_flip": _FLAG,
    "data.augment.rotation": Number(at_least=0, at_most=180, example="15"),
    "data.augment.resized_crop": Number(above=0, at_most=1, optional=True, example="0.5"),
    "data.augment.policy": Text(
        "randaugment, trivialaugment, autoaugment or null",
        "randaugment|trivialaugment|autoaugment",
        optional=True,
        example="randaugment",
        words=("randaugment", "trivialaugment", "autoaugment"),
    ),
    "data.augment.color_jitter": Number(at_least=0, at_most=1, example="0.3"),
    "data.augment.erase": _FRACTION_OR_1,
    "data.augment.mixup": _NOT_NEGATIVE,
    "data.augment.cutmix": _NOT_NEGATIVE,
    "data.num_samples": Number(at_least=1, whole=True, example="64"),
    "data.in_features": Number(at_least=1, whole=True, example="1000"),
    "data.out_features": Number(at_least=1, whole=True, example="10"),
    "data.path": Text("the path of a file", example="mine.csv", as_typed=True),
    "data.task": Choice(("auto", "classification", "multilabel", "regression")),
    "data.num_classes": _COUNT_OR_NULL,
    "data.standardize": _FLAG,
    "data.root": Text("the path of a folder, or null", optional=True, example="null", as_typed=True),
    "data.download": _FLAG,
    "data.urls": ListOf(Text("an address"), example="[https://...]"),
    "data.checksum": Text(
        "sha256:<64 hex digits> or md5:<32 hex digits>", r"(unpacked-)?(sha256:[0-9a-f]{64}|md5:[0-9a-f]{32})"
    ),
    "data.name": Text("a word", r"\w+"),
    "data.about": Text("a line of text", as_typed=True),
    "data.class_names": ListOf(Text("a name")),
    "data.val_fraction": _PART,
    "data.test_fraction": _PART,
    "data.split_seed": _FROM_0,
    "data.max_levels": Number(at_least=1, whole=True, example="50"),
    "data.stratify": _FLAG,
    "data.delimiter": Choice(("auto", "comma", "semicolon", "tab", "pipe", "blanks", "caret", "colon")),
    "data.decimal": Choice(("auto", "point", "comma")),
    "data.encoding": Text("auto, or the name of an encoding", example="auto"),
    "data.background": Choice(("white", "grey", "black")),
    "data.suffix": Text("an ending such as .jpg, or nothing", r"[^/\\]*", example=".jpg"),
    "data.num_workers": Number(at_least=0, at_most=256, whole=True, example="2"),
    "data.cache": Text(
        "a number of bytes, or of kB, MB, GB or TB; null keeps nothing", _DISK_SPACE, optional=True, example="20GB"
    ),
    "data.balance": _FLAG,
    "data.fixed": _FLAG,
    "loss.class_weights": Either(
        (Choice(("balanced",)), ListOf(_NOT_NEGATIVE, optional=True, example="[1,2]")), example="balanced"
    ),
    "loss.weights": MapOf(Number(), example="{kl:0.1}"),
    "loss.teacher": Text("the path of a run's folder, or null", optional=True, example="runs/big", as_typed=True),
    "loss.temperature": _POSITIVE_OR_NULL,
    "loss.teacher_weight": Number(at_least=0, optional=True, example="1"),
    "loss.weight": ListOf(_NOT_NEGATIVE, optional=True, example="[1,2]"),
    "loss.pos_weight": ListOf(_NOT_NEGATIVE, optional=True, example="[1,2]"),
    "loss.gamma": _NOT_NEGATIVE,
    "loss.smooth": _POSITIVE,
    "loss.delta": _POSITIVE,
    "loss.beta": _NOT_NEGATIVE,
    "loss.margin": _POSITIVE,
    "loss.p": Number(at_least=1, at_most=2, whole=True, example="1"),
    "loss.log_input": _FLAG,
    "loss.log_target": _FLAG,
    "loss.full": _FLAG,
    "loss.reduction": Choice(("mean", "sum", "batchmean")),
    "loss.ignore_index": Number(whole=True, example="-100"),
    "loss.label_smoothing": _FRACTION_OR_1,
    "optimizer.decay": Choice(("all", "weights")),
    "optimizer.layer_decay": Number(above=0, at_most=1, optional=True, example="0.75"),
    "optimizer.lr_times": MapOf(Number(above=0), optional=True, example="{conv1:0.1}"),
    "optimizer.lr": Number(above=0, example="0.01"),
    "optimizer.momentum": _FRACTION,
    "optimizer.dampening": _FRACTION,
    "optimizer.weight_decay": _NOT_NEGATIVE,
    "optimizer.nesterov": _FLAG,
    "optimizer.alpha": _FRACTION,
    "optimizer.rho": _FRACTION,
    "optimizer.eps": Number(at_least=0, example="1e-8"),
    "optimizer.lr_decay": _NOT_NEGATIVE,
    "optimizer.momentum_decay": _NOT_NEGATIVE,
    "optimizer.centered": _FLAG,
    "optimizer.amsgrad": _FLAG,
    "optimizer.ns_steps": Number(at_least=1, whole=True, example="5"),
    "optimizer.warmup_steps": Number(at_least=0, whole=True, example="100"),
    "optimizer.max_iter": Number(at_least=1, whole=True, example="20"),
    "optimizer.history_size": Number(at_least=1, whole=True, example="10"),
    "optimizer.line_search_fn": Text("strong_wolfe or null", "strong_wolfe", optional=True, example="strong_wolfe"),
    "optimizer.betas": ListOf(_FRACTION, length=2, example="[0.9,0.999]"),
    "scheduler.interval": Choice(("step", "epoch", "evaluation")),
    "scheduler.step_size": Number(at_least=1, whole=True, example="10"),
    "scheduler.gamma": Number(above=0, example="0.1"),
    "scheduler.milestones": ListOf(_COUNT, example="[10,15]"),
    "scheduler.T_max": _COUNT_OR_NULL,
    "scheduler.eta_min": _NOT_NEGATIVE,
    "scheduler.max_lr": _POSITIVE_OR_NULL,
    "scheduler.total_steps": _COUNT_OR_NULL,
    "scheduler.pct_start": Number(at_least=0, at_most=1, example="0.3"),
    "scheduler.cycle_momentum": _FLAG,
    "scheduler.warmup_steps": Number(at_least=0, whole=True, example="100"),
    "scheduler.min_factor": _FRACTION_OR_1,
    "scheduler.factor": Number(above=0, below=1, example="0.1"),
    "scheduler.metric": Text("a validation tag such as val/loss or val/accuracy", r"val/.+", example="val/loss"),
    "scheduler.patience": Number(at_least=0, whole=True, example="5"),
}
GROUPS = ("model", "data", "loss", "optimizer", "scheduler")
NONE = {"scheduler": "constant", "monitor": "off", "metric": "[]"}  # the options that stand for nothing of a kind
SECTIONS = ("monitor", "average", "checkpoint", "console", "early_stopping", "gradient", "sweep")
# The metrics that are shipped and larger for the better of two runs (`configs/metric/`); all others are smaller.
LARGER_IS_BETTER = frozenset(
    {
        *("accuracy", "auroc", "average_precision", "balanced_accuracy", "dice", "f1", "iou", "kappa", "matthews"),
        *("pearson", "precision", "r2", "recall", "top5"),
    }
)
# Keys of a group that any option takes, whether it lists them or not; most are off until they are typed. Those of a
# user's own class list none: a value there would take the place of what an argument of that name is in the class.
UNLISTED: dict[str, tuple[str, ...]] = {
    "data": (
        *("balance", "fixed"),
        *(f"augment.{key}" for key in ("resized_crop", "policy", "color_jitter", "erase", "mixup", "cutmix")),
    ),
    "loss": ("class_weights", "weights", "teacher", "temperature", "teacher_weight"),
    "model": ("init", "init_std", "weights", "freeze", "unfreeze_at"),
    "optimizer": ("decay", "layer_decay", "lr_times"),
}
# Options whose class takes more keys than their YAML lists.
OPEN = {"model": ("own", "frozen", "timm", "torchvision", "hf")}
# Keys that stand in a group but are read by the run, whatever the group's class: never given to it.
READ_HERE: dict[str, tuple[str, ...]] = {
    "model": UNLISTED["model"],
    "data": (
        *("image_size", "normalize", "augment", "limit", "folds", "fold"),
        *("task", "inputs", "targets", "num_classes", "num_workers"),
        *("val_fraction", "test_fraction", "split_seed", "stratify", "group"),
        *UNLISTED["data"],
    ),
    "loss": UNLISTED["loss"],
    "optimizer": UNLISTED["optimizer"],
    "scheduler": ("interval", "metric"),
}
# What is not read letter by letter: quotes, commas (of a sweep), references, null.
_NEEDS_QUOTES = re.compile(r"""^['"]|[,“”„‘’\r\n]|\$\{|^\s|\s$|^(null)?$""")
_HOLDERS = {key.rpartition(".")[0] for key in RULES} - {""}  # keys that hold keys


def leaves(config: Mapping[str, Any], prefix: str = "", whole: Container[str] = ()) -> Iterator[tuple[str, Any]]:
    """Every key that holds no mapping, dotted, with its value; lists count as values, and so do mappings of `whole`."""
    for key, value in config.items():
        if isinstance(value, Mapping) and value and f"{prefix}{key}" not in whole:
            yield from leaves(value, f"{prefix}{key}.", whole)
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
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{key}:{shown(item)}' for key, item in value.items())}}}"
    return str(value)


def is_larger_better(tag: str, *configs: Mapping[str, Any]) -> bool:
    """Of `val/accuracy` and its like. Of losses, and their terms whatever they are called, the smaller is better.

    Args:
        configs: of the runs that have the tag, nested or dotted: what they say of a metric counts first.
    """
    name = tag.rpartition("/")[2]
    if "loss/" in tag:
        return False
    for config in configs:
        nested = config.get("metric")
        of_metric = nested.get(name) if isinstance(nested, Mapping) else None
        said = of_metric.get("larger_is_better") if isinstance(of_metric, Mapping) else None
        said = config.get(f"metric.{name}.larger_is_better") if said is None else said
        if isinstance(said, bool):
            return said
    return name in LARGER_IS_BETTER


def is_unlisted(key: str) -> bool:
    """Whether any option of the key's group takes it, though none lists it."""
    group, _, rest = key.partition(".")
    return not {rest, rest.partition(".")[0]}.isdisjoint(UNLISTED.get(group, ()))


def is_as_typed(key: str) -> bool:
    """Whether the value of a key is a name or a path, which is taken letter by letter."""
    rule = RULES.get(key)
    return isinstance(rule, Text) and rule.as_typed


def typed(key: str, value: Any) -> str:
    """`key=value` as it is typed in a shell, so that `train` reads this very value."""
    if isinstance(value, Path):
        value = str(value)
        value = f"./{value}" if value in ("auto", "null") or value.startswith("~") else value
    is_plain = is_as_typed(key) and isinstance(value, str) and not _NEEDS_QUOTES.search(value)
    return shell.quote(f"{key}={value if is_plain else written(value)}")


def resume_word(folder: Path) -> str:
    """`resume=<folder>`, for a shell."""
    return typed("resume", folder)


def unknown_key(key: str, known: Iterable[str]) -> UserError:
    """The line for a key that nothing reads, with the right one, or with those that stand beside it."""
    known = [k for k in dict.fromkeys(known) if not k.endswith("_target_")]
    meant = key_meant(key, known)
    return UserError(f"{key}: nothing reads this key.{f' Did you mean {meant}?' if meant else beside(key, known)}")


def beside(key: str, known: Iterable[str]) -> str:
    """``" optimizer has eps, lr."`` for the known keys of a key's section; empty where there is none."""
    section = key.rpartition(".")[0]
    names = sorted(k.rpartition(".")[2] for k in known if k.rpartition(".")[0] == section)
    names = [name for name in names if name != "_target_"]
    return f" {section or 'The top level'} has {', '.join(names)}." if names else ""


def key_meant(key: str, known: Iterable[str]) -> str | None:
    """The one of the known keys that is meant: called so elsewhere, of the same letters, or the nearest."""
    known = list(known)
    called_so = [k for k in synonyms.keys_meant(key) if k in known]
    right = called_so[0] if called_so else synonyms.same_letters(key, known)
    if right is not None:
        return right
    section, _, last = key.rpartition(".")
    siblings = {k.rpartition(".")[2]: k for k in known if k.rpartition(".")[0] == section}
    # The last part alone, too: beside a long section's name any two keys look alike.
    meant = difflib.get_close_matches(key, known, n=1, cutoff=0.9)
    meant += [siblings[name] for name in difflib.get_close_matches(last, siblings, n=1, cutoff=0.6)]
    meant += [k for k in known if k.rpartition(".")[2] == last]
    if not siblings:
        meant += difflib.get_close_matches(key, known, n=1, cutoff=0.7)
    return meant[0] if meant else None


def yaml_problem(error: Exception) -> str:
    """What is wrong with a YAML file, as one line with its place: `line 2, column 1: found duplicate key a`."""
    mark = getattr(error, "problem_mark", None)
    text = getattr(error, "problem", None) or first_line(error)
    return f"line {mark.line + 1}, column {mark.column + 1}: {text}" if mark else text


def check(config: Mapping[str, Any]) -> None:
    """Refuses unknown and missing keys of ours, and values of the wrong type or outside their range.

    The keys of a group beyond these rules are checked where its class is known.

    Raises:
        UserError: names key, value, what is accepted and what to type.
    """
    for group in (*GROUPS, *SECTIONS, "metric"):
        if not isinstance(config.get(group), Mapping):
            value = config.get(group)
            none = NONE.get(group) if value in (None, False) else None
            how = "Type train --cfg job to see them" if none is None else f"For none type {group}={none}"
            if group in SECTIONS and group != "monitor":
                how = _section_to_type(group, value)
            raise UserError(f"{group}={shown(value)}: holds keys of its own. {how}.")
    # `optimizer.: 3` of a file is below as `optimizer` with an empty name, which no rule knows.
    if (dotted := next((key for key in config if "." in key), None)) is not None:
        raise unknown_key(dotted, sorted(RULES, key=lambda k: k.split(".")[0] in GROUPS))
    found = dict(leaves(config, whole=RULES))  # a mapping where a rule wants something else counts as a value, too
    for key, rule in RULES.items():
        if key.split(".")[0] not in GROUPS and key not in found:
            raise UserError(f"{key}: is missing; it must be {rule.accepts}.{_hint(key, rule, None)}")
    for key, value in found.items():
        group, _, rest = key.partition(".")
        is_ours = rest.split(".")[0] in READ_HERE.get(group, ()) and not is_unlisted(key)
        if group in GROUPS and not is_ours and not is_shipped(config[group]):
            continue
        if key in _HOLDERS and value not in (None, {}):
            names = [k.removeprefix(f"{key}.") for k in RULES if k.startswith(f"{key}.")]
            raise UserError(f"{key}={shown(value)}: holds keys of its own, {one_of(names)}. Try {key}.{names[0]}=...")
        if group == "metric":  # every name there is one of the user's; its keys are its class's
            continue
        if key not in RULES and group not in GROUPS:
            raise unknown_key(key, sorted(RULES, key=lambda k: k.split(".")[0] in GROUPS))
        if key == "loss.weights":
            refuse_terms(value, found)
        refuse_value(key, value)
        part = re.fullmatch(r"loss\.terms\.([^.]+)\.criterion\.(\w+)", key)
        if part is not None and is_shipped(config["loss"]["terms"][part[1]]["criterion"]):
            refuse_value(key, value, f"loss.{part[2]}")  # as of a loss of its own


def _section_to_type(section: str, value: Any) -> str:
    """`early_stopping=5` to `early_stopping.patience=5`: the first key is what a section is for."""
    first, *rest = (key for key in RULES if key.startswith(f"{section}."))
    if value in (None, False) and RULES[first].allows(None):
        return f"For none type {first}=null"
    if isinstance(RULES[first], Number) and value not in (None, False) and RULES[first].allows(value):
        return f"Type {first}={shown(value)}"
    return f"They are {', '.join([first, *(key.removeprefix(section) for key in rest)])}"


def refuse_terms(value: Any, found: Mapping[str, Any]) -> None:
    """Raises UserError for `loss.weights=[1,2]` and `{0: 1, 1: 2}`, where other keys weigh."""
    if isinstance(value, Mapping):
        if all(isinstance(name, str) for name in value):
            return
        value = list(value.values())
    keys = [key for key in found if key == "loss.weight" or re.fullmatch(r"loss\.terms\.\w+\.weight", key)]
    if keys:
        is_list = keys == ["loss.weight"] and isinstance(value, list)
        meant = f"loss.weight={shown(value)}" if is_list else f"{keys[0]}=1, or another number"
        raise UserError(f"loss.weights={shown(value)}: weighs the terms of a loss of your own. Type {meant}.")


def refuse_value(key: str, value: Any, rule_of: str | None = None) -> None:
    """Raises UserError where there is a rule for the key, or for `rule_of`, that does not allow the value."""
    rule = RULES.get(rule_of or key)
    if rule is not None and not rule.allows(value):
        raise UserError(f"{key}={shown(value)}: must be {rule.accepts}.{_hint(key, rule, value)}")


def is_open(node: Any) -> bool:
    """Whether keys that the YAML of a class does not list may be its own: a user's class, a model of a library."""
    return isinstance(node, Mapping) and (
        not is_shipped(node) or str(node.get("_target_")).startswith("trainer.models.libraries.")
    )


def is_shipped(group: Mapping[str, Any]) -> bool:
    """Whether the rules know the class of a group: a user's own may give `betas` or `bias` another meaning."""
    return str(group.get("_target_") or "trainer").split(".")[0] in ("trainer", "torch")


def _hint(key: str, rule: Rule, value: Any) -> str:
    """What to type instead of a value that the rule does not allow."""
    said = shown(value)
    if isinstance(value, list) and value and not isinstance(rule, ListOf) and all(map(rule.allows, value)):
        several = f"--multirun {key}={','.join(map(written, value))}"
        return f" Type {several} for a sweep." if len(value) > 1 else f" Type {key}={written(value[0])}."
    is_nobodys = key == "trust" and str(value).split(".")[0] in sys.stdlib_module_names
    is_too_few = is_nobodys or key == "loss.weight"  # a list of one number is none for each class
    if isinstance(rule, ListOf) and not isinstance(value, list) and rule.allows([value]) and not is_too_few:
        return f" Type {key}=[{written(value)}]."
    if rule.allows(None) and synonyms.is_nothing(said):
        return f" Type {key}=null."
    if isinstance(rule, Flag) and (flag := synonyms.flag_meant(said)) is not None:
        return f" Type {key}={flag}."
    if (meant := synonyms.value_meant(key, said, getattr(rule, "words", ()))) is not None:
        return f" Type {key}={meant}."
    if isinstance(rule, Choice):
        return nearest(said, rule.words) if synonyms.flag_meant(said) is None else ""  # always is near to false
    if isinstance(rule, Number) and isinstance(value, str | float):
        with contextlib.suppress(ValueError, OverflowError):  # "64", 64.0 and =64
            number = float(value.strip("=,; ") if isinstance(value, str) else value)
            meant_number = number if not rule.whole else int(number) if number.is_integer() else None
            if meant_number is not None and rule.allows(meant_number):
                is_quoted = isinstance(value, str) and value.strip("=,; ") == value
                return f" Type {key}={meant_number}{', without quotes' if is_quoted else ''}."
    return f" Try {key}={rule.example}." if rule.example else ""
