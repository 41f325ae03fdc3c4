"""The config of a run as plain, typed values: interpolations resolved, every key of ours checked."""

import math
import re
from dataclasses import dataclass
from typing import get_type_hints

from trainer.config import schema, trust
from trainer.config.request import Config, Request, resolved


@dataclass(frozen=True)
class Gradient:
    clip_norm: float | None
    clip_value: float | None
    accumulate: int
    checkpoint: bool | list[str]


@dataclass(frozen=True)
class Checkpoint:
    every: int | None
    every_epochs: int | None
    every_minutes: float | None
    keep: int
    history: int | None
    metric: str


@dataclass(frozen=True)
class Averages:
    decay: float | None
    last: float | None


@dataclass(frozen=True)
class EarlyStopping:
    patience: int | None
    min_delta: float
    metric: str | None


@dataclass(frozen=True)
class Console:
    every: int | None


@dataclass(frozen=True)
class Monitor:
    events: bool
    every: int | None
    histogram_every: int | str | None
    statistics: bool
    activations: bool
    waiting: str
    histograms: bool
    graph: bool
    hparams: bool
    layout: bool
    texts: bool
    images: bool
    curves: bool
    projector: bool


@dataclass(frozen=True)
class Sweep:
    metric: str | None
    jobs: int
    devices: list[int] | None
    share_batches: bool
    stack: str
    verify: int
    on_failure: str
    retry: bool
    prune: str | None
    prune_first: int
    prune_steps: int


@dataclass(frozen=True)
class Settings:
    """What a run is told; keys as in `configs/train.yaml`.

    Args:
        request: what was asked for, interpolations as they were typed.
        config: the whole of it, resolved.
        own: packages whose classes the user trusts.
        names: group to what its choice is called in messages.
    """

    request: Request
    config: Config
    own: tuple[str, ...]
    names: dict[str, str]
    max_steps: int | None
    max_epochs: int | None
    max_time: str | None
    batch_size: int | str
    eval_every: int | None
    seed: int
    order_seed: int
    device: str
    precision: str
    dtype: str
    compile: bool
    fast: bool
    cuda_graphs: bool
    channels_last: bool
    cache_limit: int | str
    deterministic: bool
    on_nan: str
    test: str
    threads: int | str | None
    dry_run: bool
    overfit: int | None
    profile: bool
    gradient: Gradient
    checkpoint: Checkpoint
    average: Averages
    early_stopping: EarlyStopping
    console: Console
    monitor: Monitor
    sweep: Sweep

    def group(self, name: str) -> Config:
        """The keys of `model`, `data`, `loss`, `optimizer` or `scheduler`, resolved."""
        group: Config = self.config[name]
        return group

    @property
    def max_seconds(self) -> float:
        """`max_time`, infinite where there is none."""
        lengths = {"d": 86400, "h": 3600, "m": 60, "s": 1}
        parts = re.findall(r"(\d+)([dhms])", self.max_time or "")
        return sum(int(count) * lengths[unit] for count, unit in parts) or math.inf

    def is_own(self, group: str) -> bool:
        """Whether the class in a group is the user's."""
        return trust.belongs(str(self.group(group).get("_target_")), self.own)


def settings_of(request: Request) -> Settings:
    """Resolves and checks a config, once for the run.

    Raises:
        UserError: a key that nothing reads or that is missing, a value that is not accepted, a class of a package that
            is not trusted, or trust that was not typed.
    """
    config = resolved(request.config)
    schema.check(config)
    # Whose classes may be named comes from what was typed alone, never from a file.
    own = tuple(map(str, config["trust"]))  # `nan` is a number to YAML
    trust.refuse_untyped({"trust": config["trust"]}, request.typed)
    for group in (*schema.GROUPS, "metric"):
        trust.check_names(group, config[group], own)
    kinds = get_type_hints(Settings)
    found = {
        name: kinds[name](**config[name]) if name in schema.SECTIONS else config[name] for name in kinds.keys() & config
    }
    order_seed = config["seed"] if config["order_seed"] is None else config["order_seed"]
    return Settings(request, config, own, request.names, **{**found, "order_seed": order_seed})
