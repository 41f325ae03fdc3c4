"""What a run's numbers are called in TensorBoard.

TIME SERIES and SCALARS sort charts by name, put those with the same word before the first slash into a group, and open
the first two groups; HPARAMS shows the first five metrics. So losses and metrics keep their names (`test/`, `train/`,
`val/`), and all that is watched beside them gets one that sorts behind `val`.

`metrics.jsonl`, `result.json`, the console and the diagnosis say `lr`, `grad_norm`, `grad_norm/conv1.weight`.
"""

from collections.abc import Sequence
from functools import cache

FIRST = ("test", "train", "val")
IMAGES = "watch_images/"  # the tags of pictures begin so


@cache
def shown_as(tag: str) -> str:
    """A number's name in TensorBoard: `train/loss` as it is, `lr` as `watch/lr`, `grad_norm/conv1.weight` as
    `watch_grad_norm/conv1.weight`.

    A group for each statistic, not for each layer: gradients that vanish are seen by comparing layers, and whatever the
    depth there are eleven groups (a group for each layer: 41 for a ResNet-18).
    """
    group, slash, _ = tag.partition("/")
    if group in FIRST:
        return tag
    return f"watch_{tag}" if slash else f"watch/{tag}"


def spread(names: Sequence[str], count: int) -> list[str]:
    """At most so many of the names, evenly spread, the first and the last among them."""
    if len(names) <= count:
        return list(names)
    return [names[round(i * (len(names) - 1) / max(1, count - 1))] for i in range(count)]
