"""What to type against what was found: words that the config of the run has."""

import math
from collections.abc import Sequence

from trainer.errors import one_of
from trainer.monitor.facts import Facts

TO_THE_WEIGHTS = 1e-3  # |update| / |weights|: Karpathy, CS231n, "Neural Networks Part 3", "Ratio of weights:updates"


def attempt(words: Sequence[str]) -> str:
    """`Try a, b or c.`"""
    return f"Try {one_of(words)}."


def largest_lr(facts: Facts) -> tuple[str, float] | None:
    """The key that sets it, and the largest learning rate that there will be; None for an optimizer without."""
    rates = {key: facts.number(key) for key in ("scheduler.max_lr", "optimizer.lr")}
    return next(((key, lr) for key, lr in rates.items() if lr > 0), None)


def lr_times(facts: Facts, factor: float) -> str:
    """`optimizer.lr=0.01`: the present one times a factor."""
    found = largest_lr(facts)
    if found is None:
        return f"a {'smaller' if factor < 1 else 'larger'} learning rate"
    key, lr = found
    return f"{key}={lr * factor:.2g}"


def larger_rate(facts: Facts, moved: tuple[str, float] | None) -> str:
    """The learning rate by whose power of ten updates come to a thousandth of the weights.

    Args:
        moved: a layer, and its |update| / |weights|.
    """
    ratio = math.nan if moved is None else moved[1]
    factor = TO_THE_WEIGHTS / ratio if 0 < ratio < math.inf else 10.0
    return lr_times(facts, 10.0 ** min(3, max(1, round(math.log10(factor)))))


def calmer(facts: Facts) -> list[str]:
    """Smaller updates."""
    is_clipped = facts.settings.get("gradient.clip_norm", 1) is not None
    return [lr_times(facts, 0.1), *([] if is_clipped else ["gradient.clip_norm=1"])]


def better_start(facts: Facts) -> list[str]:
    """Another way for the weights to start, unless they were trained before."""
    scheme = facts.settings.get("model.init", "default")
    return [] if facts.is_pretrained or scheme == "kaiming" else ["model.init=kaiming"]
