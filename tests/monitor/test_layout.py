"""The CUSTOM SCALARS layout: which of a run's tags each chart takes."""

import re

from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.custom_scalar import layout_pb2, metadata

from trainer.monitor.layout import MAX_LAYERS, layout
from trainer.monitor.tags import shown_as

NAMES = ("conv.weight", "convxweight", "conv.weight_v", "conv.bias", "fc.weight")
TAGS = [
    *("train/loss", "train/loss/data", "train/loss/penalty", "val/loss", "val/loss/data", "test/loss"),
    *("train/accuracy", "val/accuracy", "test/accuracy", "val/f1", "val/f1xx"),
    *(shown_as(tag) for tag in ("lr", "lr/0", "lr/1", "lrx", "grad_norm")),
    *(shown_as(f"{kind}/{name}") for kind in ("grad_norm", "grad_max", "update_ratio") for name in NAMES),
]


def charts(summary: Summary) -> list[tuple[str, list[str]]]:
    """Titles, and the tags that the tab's own rule (`re.match`) finds for each."""
    (value,) = summary.value
    assert value.tag == metadata.CONFIG_SUMMARY_TAG
    assert value.metadata.plugin_data.plugin_name == metadata.PLUGIN_NAME
    content = layout_pb2.Layout.FromString(value.tensor.string_val[0])
    return [
        (chart.title, [tag for tag in TAGS if any(re.match(pattern, tag) for pattern in chart.multiline.tag)])
        for category in content.category
        for chart in category.chart
    ]


def test_curves_that_belong_together_meet_and_the_loss_comes_first() -> None:
    found = charts(layout(metrics=["accuracy", "f1"], has_terms=True, weights=["conv.weight", "fc.weight"]))
    assert found == [
        ("loss: train and val", ["train/loss", "val/loss"]),
        ("accuracy: val and test", ["val/accuracy", "test/accuracy"]),
        ("f1: val and test", ["val/f1"]),
        ("terms of the loss", ["train/loss/data", "train/loss/penalty"]),
        ("learning rate", ["watch/lr", "watch_lr/0", "watch_lr/1"]),
        ("all parameters together", ["watch/grad_norm"]),
        ("conv.weight", ["watch_grad_norm/conv.weight"]),
        ("fc.weight", ["watch_grad_norm/fc.weight"]),
        ("conv.weight", ["watch_update_ratio/conv.weight"]),
        ("fc.weight", ["watch_update_ratio/fc.weight"]),
    ]


def test_a_run_has_no_chart_that_would_stay_empty() -> None:
    assert charts(layout(metrics=[], has_terms=False, weights=[])) == [
        ("loss: train and val", ["train/loss", "val/loss"]),
        ("learning rate", ["watch/lr", "watch_lr/0", "watch_lr/1"]),
    ]


def test_of_many_layers_some_are_shown_the_first_and_the_last_among_them() -> None:
    titles = [title for title, _ in charts(layout([], False, [f"layer{i}.weight" for i in range(60)]))]
    gradients = titles[titles.index("all parameters together") + 1 :][:MAX_LAYERS]
    assert (gradients[0], gradients[-1]) == ("layer0.weight", "layer59.weight")
    assert len(titles) == 2 + 1 + 2 * MAX_LAYERS
