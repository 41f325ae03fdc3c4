"""Precision and recall of every class at every threshold, for the PR CURVES tab."""

from collections.abc import Mapping

import torch
from tensorboard.compat.proto.summary_pb2 import DATA_CLASS_TENSOR, Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_FLOAT
from tensorboard.plugins.pr_curve.plugin_data_pb2 import PrCurvePluginData
from torch import Tensor

NUM_THRESHOLDS = 201  # evenly spaced from 0 to 1, the tab's own default
MAX_CLASSES = 100  # charts that a browser still draws
NEARLY_ONE = 0.97  # average precision of a curve that is hardly more than its frame


def pr_curves(scores: Tensor, targets: Tensor, num_thresholds: int = NUM_THRESHOLDS) -> Tensor:
    """What each class is found by, against the rest: a sample is found where its score reaches the threshold.

    Args:
        scores: `[N, num_classes]`, 0..1.
        targets: `[N]` class labels; those beyond `num_classes` are of other classes.

    Returns:
        `[num_classes, 6, num_thresholds]` float32: true positives, false positives, true negatives, false negatives,
        precision, recall (0 where nothing is found, or there is nothing to find).
    """
    num_samples, num_classes = scores.shape
    last = num_thresholds - 1
    reached = (scores.double() * last).floor().long()  # the number of the highest threshold
    reached += torch.arange(num_classes) * num_thresholds
    all_of = torch.bincount(reached.flatten(), minlength=num_classes * num_thresholds)
    rows = (targets < num_classes).nonzero().squeeze(1)
    own = reached[rows, targets[rows]]
    positives_of = torch.bincount(own, minlength=num_classes * num_thresholds)
    # Whoever reaches a threshold has reached the lower ones.
    found, true_positives = (
        counts.view(num_classes, num_thresholds).flip(1).cumsum(1).flip(1).double() for counts in (all_of, positives_of)
    )
    positives = true_positives[:, :1]
    false_positives, false_negatives = found - true_positives, positives - true_positives
    true_negatives = num_samples - positives - false_positives
    precision, recall = true_positives / found.clamp_min(1), true_positives / positives.clamp_min(1)
    numbers = [true_positives, false_positives, true_negatives, false_negatives, precision, recall]
    return torch.stack(numbers, 1).float()


def tells_something(curve: Tensor) -> bool:
    """Whether precision is not nearly 1 nearly everywhere, nor the class missing from the targets.

    Args:
        curve: `[6, num_thresholds]`; its average precision is the mean of the precision over the recall.
    """
    precision, recall = curve[4], curve[5]
    gained = recall - torch.cat([recall[1:], recall.new_zeros(1)])
    return bool(recall[0] > 0) and float((gained * precision).sum()) < NEARLY_ONE


def summary(curves: Mapping[str, Tensor]) -> Summary:
    """One record for all curves, `[6, num_thresholds]` by the name of the class."""
    return Summary(value=[_value(name, curve) for name, curve in curves.items()])


def _value(name: str, curve: Tensor) -> Summary.Value:
    rows, num_thresholds = curve.shape
    content = PrCurvePluginData(num_thresholds=num_thresholds).SerializeToString()
    metadata = SummaryMetadata(
        display_name=name,
        plugin_data=SummaryMetadata.PluginData(plugin_name="pr_curves", content=content),
        data_class=DATA_CLASS_TENSOR,
    )
    tensor = TensorProto(
        dtype=DT_FLOAT,
        tensor_shape=TensorShapeProto(dim=[{"size": rows}, {"size": num_thresholds}]),
        tensor_content=curve.contiguous().numpy().astype("<f4").tobytes(),
    )
    return Summary.Value(tag=f"test/pr/{name}", metadata=metadata, tensor=tensor)
