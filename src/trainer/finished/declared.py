"""The HPARAMS tab of `train board`: the keys in which the runs differ, beside what they came to.

TensorBoard offers every key of every run and every scalar as a metric, 130 of a LeNet. A run may say which are meant
(an `Experiment` in its event file), but TensorBoard takes what the first run says for all of them, so that the keys of
other models would be lost. Here all runs are known: what TensorBoard has gathered is cut down before it is sent.
"""

from typing import Any

from tensorboard import default
from tensorboard.plugins.hparams import api_pb2, backend_context, hparams_plugin

METRICS = ("val/", "test/")  # in this order; then those of the last weights, which stand behind those of the best
LAST = "test/last/"


class Context(backend_context.Context):
    """What the tab knows of all runs together."""

    def experiment_from_metadata(self, *args: Any, **kwargs: Any) -> Any:
        """The keys that differ, or all of them where none does, and the metrics of validation and test."""
        found = super().experiment_from_metadata(*args, **kwargs)
        differing = [info for info in found.hparam_infos if info.differs]
        metrics = [info for split in METRICS for info in found.metric_infos if info.name.tag.startswith(split)]
        metrics.sort(key=lambda info: info.name.tag.startswith(LAST))  # five are ticked
        return api_pb2.Experiment(hparam_infos=differing or found.hparam_infos, metric_infos=metrics)


class HParams(hparams_plugin.HParamsPlugin):
    """TensorBoard's own tab on that."""

    def __init__(self, context: Any) -> None:
        super().__init__(context)
        self._context = Context(context)


def plugins() -> list[Any]:
    """All tabs of TensorBoard, this one among them."""
    return [HParams if plugin is hparams_plugin.HParamsPlugin else plugin for plugin in default.get_plugins()]
