"""What a run's numbers are called in TensorBoard.

TIME SERIES and SCALARS sort charts by name, put those with the same word before the first slash into a group, and open
the first two groups. HPARAMS shows the first five. So losses and metrics keep their names (`test/`, `train/`, `val/`),
and all that is watched beside them gets one that sorts behind `val`.

`metrics.jsonl`, `result.json`, the console and the diagnosis say `lr`, `grad_norm`, `grad_norm/conv1.weight`.
"""

from functools import cache

FIRST = ("test", "train", "val")
_BEHIND = "watch"


@cache
def shown_as(tag: str) -> str:
    """A number's name in TensorBoard: `train/loss` as it is, `lr` as `watch/lr`, `grad_norm/conv1.weight` as
    `watch_grad_norm/conv1.weight`. A name that is one of these already stays.

    A group for each statistic, not for each layer: gradients that vanish are seen by comparing layers, and whatever the
    depth there are eleven groups (a group for each layer: 41 for a ResNet-18).
    """
    group, slash, _ = tag.partition("/")
    if group in FIRST or group.partition("_")[0] == _BEHIND:
        return tag
    return f"{_BEHIND}_{tag}" if slash else f"{_BEHIND}/{tag}"
