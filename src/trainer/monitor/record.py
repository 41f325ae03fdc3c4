"""What the numbers of one step say of its layers."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

from trainer.monitor.facts import Facts, layer_of

# A unit that works for one sample in ten is silent in a batch of 32 once in 30 times; smaller batches say too little.
FEWEST_SAMPLES = 32


@dataclass(frozen=True)
class Record:
    """The numbers of one step by tag, and what several rules ask of them: it is found once."""

    facts: Facts
    step: int = 0
    numbers: Mapping[str, float] = field(default_factory=dict)

    def of_kind(self, kind: str) -> dict[str, float]:
        """`x` and the number of `<kind>/x`, for all `x`."""
        return {tag.partition("/")[2]: self.numbers[tag] for tag in _tags_of(kind, tuple(self.numbers))}

    @cached_property
    def gradients(self) -> dict[str, float]:
        """The norm of every layer's gradient, in the model's order."""
        parts: dict[str, list[float]] = {}
        for layer, tag in self.facts.gradient_tags:
            if (norm := self.numbers.get(tag)) is not None:
                parts.setdefault(layer, []).append(norm)
        return {layer: math.hypot(*norms) for layer, norms in parts.items()}

    @cached_property
    def update(self) -> tuple[str, float] | None:
        """The median of |update| / |weights| and its layer; without biases, which start near zero."""
        ratios = [(self.numbers.get(f"update_ratio/{name}", math.nan), name) for name in self.facts.weights]
        ratios = sorted((ratio, name) for ratio, name in ratios if math.isfinite(ratio))
        if not ratios:
            return None
        ratio, name = ratios[len(ratios) // 2]
        return layer_of(name), ratio

    @cached_property
    def lr(self) -> float | None:
        """The largest of all groups."""
        found = [*self.of_kind("lr").values(), *([self.numbers["lr"]] if "lr" in self.numbers else [])]
        return max(found, default=None)

    @cached_property
    def silent_units(self) -> dict[str, float]:
        """By layer the share of biases whose gradient is exactly zero.

        Such a bias belongs to a unit that no sample's gradient passed.
        """
        if self.facts.samples(self.step) < FEWEST_SAMPLES:
            return {}
        return {layer_of(name): self.numbers.get(f"grad_zeros/{name}", 0.0) for name in self.facts.biases}


@lru_cache(maxsize=64)
def _tags_of(kind: str, tags: tuple[str, ...]) -> tuple[str, ...]:
    """Those of a record are the same at most steps."""
    return tuple(tag for tag in tags if tag.startswith(f"{kind}/"))
