"""The CUSTOM SCALARS tab: curves that belong together, in one chart.

A chart names its curves by regular expressions and no layer by name, so that all runs write the same charts:
TensorBoard merges the layouts of the runs it shows, and draws a chart once if it is the same in all of them.
"""

from tensorboard.compat.proto.summary_pb2 import DATA_CLASS_TENSOR, Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.plugins.custom_scalar.layout_pb2 import Category, Chart, Layout, MultilineChartContent

TAG = "custom_scalars__config__"  # where the tab looks for it


def layout(has_accuracy: bool, has_terms: bool, has_statistics: bool) -> Summary:
    """The charts of a run, as far as it has their numbers.

    Args:
        has_accuracy: it tells classes apart.
        has_terms: its loss is a sum of named terms.
        has_statistics: numbers of every parameter are logged.
    """
    learning = [_chart("loss of train and val", "(train|val)/loss$")]
    if has_terms:
        learning.append(_chart("terms of the loss", "train/loss/"))
    if has_accuracy:
        learning.append(_chart("accuracy", "(train|val|test)/accuracy$"))
    steps = [_chart("learning rate", "lr(/|$)")]
    if has_statistics:
        steps = [
            _chart("gradient norm of every parameter", "grad_norm/"),
            _chart("update ratio of every parameter: |update| / |weights|", "update_ratio/"),
            *steps,
        ]
    return _summary(Layout(category=[Category(title="learning", chart=learning), Category(title="steps", chart=steps)]))


def _chart(title: str, *patterns: str) -> Chart:
    """Curves of all tags that one of the patterns matches from their beginning on."""
    return Chart(title=title, multiline=MultilineChartContent(tag=patterns))


def _summary(content: Layout) -> Summary:
    metadata = SummaryMetadata(
        plugin_data=SummaryMetadata.PluginData(plugin_name="custom_scalars"), data_class=DATA_CLASS_TENSOR
    )
    tensor = TensorProto(dtype=DT_STRING, tensor_shape=TensorShapeProto(), string_val=[content.SerializeToString()])
    return Summary(value=[Summary.Value(tag=TAG, metadata=metadata, tensor=tensor)])
