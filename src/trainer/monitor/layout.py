"""The CUSTOM SCALARS tab: curves that belong together, in one chart.

A chart names its curves by regular expressions. TensorBoard merges the layouts of the runs it shows, category by
category, and draws a chart once if it is the same in all of them.
"""

import re
from collections.abc import Sequence

from tensorboard.compat.proto.summary_pb2 import DATA_CLASS_TENSOR, Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.plugins.custom_scalar.layout_pb2 import Category, Chart, Layout, MultilineChartContent

from trainer.monitor.tags import shown_as, spread

TAG = "custom_scalars__config__"  # where the tab looks for it
MAX_LAYERS = 12  # with charts of their own


def layout(metrics: Sequence[str], has_terms: bool, weights: Sequence[str]) -> Summary:
    """The charts of a run, as far as it has their numbers.

    A layer has charts of its own, in which a run is one line, that of the layer's weights. A chart of all parameters is
    a tangle as soon as there are a few runs: 180 lines for 18 of LeNet.

    Args:
        metrics: what is measured beside the loss: accuracy.
        has_terms: its loss is a sum of named terms.
        weights: the parameters of two dimensions or more, one for a layer, if their numbers are logged. Of many layers
            some are shown, the first and the last among them.
    """
    first = [_chart("loss: train and val", "(train|val)/loss$")]
    first += [_chart(f"{name}: val and test", f"(val|test)/{re.escape(name)}$") for name in metrics]
    if has_terms:
        first.append(_chart("terms of the loss", "train/loss/"))
    first.append(_chart("learning rate", f"{shown_as('lr')}$", f"{shown_as('lr/')}"))
    categories = {"loss and metrics": first}
    if weights:
        shown = spread(weights, MAX_LAYERS)
        categories["gradient norm, a chart for each layer"] = [
            _of("all parameters together", "grad_norm"),
            *(_of(name, f"grad_norm/{name}") for name in shown),
        ]
        categories["size of a step's update / size of the weights, a chart for each layer"] = [
            _of(name, f"update_ratio/{name}") for name in shown
        ]
    return _summary(Layout(category=[Category(title=title, chart=charts) for title, charts in categories.items()]))


def _of(title: str, tag: str) -> Chart:
    """The chart of one number."""
    return _chart(title, f"{re.escape(shown_as(tag))}$")


def _chart(title: str, *patterns: str) -> Chart:
    """Curves of all tags that one of the patterns matches from their beginning on."""
    return Chart(title=title, multiline=MultilineChartContent(tag=patterns))


def _summary(content: Layout) -> Summary:
    metadata = SummaryMetadata(
        plugin_data=SummaryMetadata.PluginData(plugin_name="custom_scalars"), data_class=DATA_CLASS_TENSOR
    )
    tensor = TensorProto(dtype=DT_STRING, tensor_shape=TensorShapeProto(), string_val=[content.SerializeToString()])
    return Summary(value=[Summary.Value(tag=TAG, metadata=metadata, tensor=tensor)])
