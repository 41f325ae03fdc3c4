"""The CUSTOM SCALARS layout: which of a run's tags each chart takes."""

import re

from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.custom_scalar import layout_pb2, metadata

from trainer.monitor.layout import layout

TAGS = [
    *("train/loss", "train/loss/data", "train/loss/penalty", "val/loss", "val/loss/data", "test/loss"),
    *("train/accuracy", "val/accuracy", "test/accuracy", "lr", "lr/0", "lr/1", "lrx"),
    *("grad_norm", "grad_norm/fc1.weight", "grad_norm/fc2.bias", "grad_max/fc1.weight", "update_ratio/fc1.weight"),
]


def charts(summary: Summary) -> dict[str, list[str]]:
    """Title to the tags that the tab's own rule (`re.match`) finds for it."""
    (value,) = summary.value
    assert value.tag == metadata.CONFIG_SUMMARY_TAG
    assert value.metadata.plugin_data.plugin_name == metadata.PLUGIN_NAME
    content = layout_pb2.Layout.FromString(value.tensor.string_val[0])
    return {
        chart.title: [tag for tag in TAGS if any(re.match(pattern, tag) for pattern in chart.multiline.tag)]
        for category in content.category
        for chart in category.chart
    }


def test_curves_that_belong_together_meet() -> None:
    assert list(charts(layout(has_accuracy=True, has_terms=True, has_statistics=True)).values()) == [
        ["train/loss", "val/loss"],
        ["train/loss/data", "train/loss/penalty"],
        ["train/accuracy", "val/accuracy", "test/accuracy"],
        ["grad_norm/fc1.weight", "grad_norm/fc2.bias"],
        ["update_ratio/fc1.weight"],
        ["lr", "lr/0", "lr/1"],
    ]


def test_a_run_has_no_chart_that_would_stay_empty() -> None:
    assert list(charts(layout(has_accuracy=False, has_terms=False, has_statistics=False)).values()) == [
        ["train/loss", "val/loss"],
        ["lr", "lr/0", "lr/1"],
    ]
