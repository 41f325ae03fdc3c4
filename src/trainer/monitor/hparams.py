"""What fills the HPARAMS tab: the start and the end of a run, in the run's own event file.

No `Experiment` message is written. TensorBoard takes one of any run for all of them, so that the keys of the others are
lost; without one it gathers all keys, finds each number's range and each word's choices, and offers every scalar as a
metric, the first five ticked (`tensorboard/plugins/hparams/backend_context.py`). `train board` offers what counts
(`trainer/finished/declared.py`).
"""

import hashlib
import json
import time
from collections.abc import Mapping
from typing import Any, Literal

from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_FLOAT
from tensorboard.plugins.hparams.api_pb2 import STATUS_FAILURE, STATUS_SUCCESS
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo

from trainer.config.schema import leaves, shown
from trainer.monitor.events import HPARAMS_PREFIX

# Where a run lies, how it is watched and on what it is computed: keys, and sections, that runs are not compared by.
NOT_COMPARED = (
    *("name", "run_dir", "resume", "trust", "monitor", "console", "checkpoint", "sweep", "dry_run", "profile"),
    *("device", "threads", "cache_limit", "data.cache"),
)
AVERAGED = ("seed", "order_seed", "data.fold")  # the tab averages over them


def flat(config: Mapping[str, Any], names: Mapping[str, str], max_steps: int) -> dict[str, Any]:
    """What a run was started with: the choices by name, and every key that makes it another run. Not the seed.

    Args:
        config: interpolations resolved.
        names: group to what its choice is called.
    """
    values = {
        key: value if isinstance(value, bool | int | float) else shown(value)
        for key, value in leaves(config)
        if (key == "checkpoint.metric" or not {key, key.split(".")[0]}.intersection(NOT_COMPARED))
        and key not in AVERAGED
        and not key.endswith("_target_")
        and value not in (None, {})
    }
    return {**names, **values, "max_steps": max_steps}


def group_of(values: Mapping[str, Any]) -> str:
    """A name for all runs with these values: `adam lr=0.001 lenet digits (5f0c93ab)`.

    The tab averages those that differ in nothing but the seed.
    """
    lr = values.get("optimizer.lr")
    words = [values.get("optimizer"), None if lr is None else f"lr={lr}", values.get("model"), values.get("data")]
    checksum = hashlib.blake2b(json.dumps(values, sort_keys=True).encode(), digest_size=4).hexdigest()
    return " ".join([*(str(word) for word in words if word is not None), f"({checksum})"])


def session_start(hparams: Mapping[str, object], group_name: str) -> Summary:
    """The hyperparameters of a run.

    Args:
        hparams: a flat dict. Booleans stay booleans, numbers become floats, None is shown as `null`, and lists as JSON.
        group_name: the tab averages the metrics of runs that have this name in common, and shows the hyperparameters
            of the first: name a group after everything but the seed, and leave the seed out of `hparams`.
    """
    start = SessionStartInfo(group_name=group_name, start_time_secs=time.time())
    for key, value in hparams.items():
        if isinstance(value, bool):
            start.hparams[key].bool_value = value
        elif isinstance(value, int | float):
            start.hparams[key].number_value = value
        else:
            start.hparams[key].string_value = value if isinstance(value, str) else json.dumps(value, default=str)
    return _summary("session_start_info", HParamsPluginData(session_start_info=start))


def session_end(status: Literal["success", "failure"]) -> Summary:
    """How a run ended."""
    code = {"success": STATUS_SUCCESS, "failure": STATUS_FAILURE}[status]
    end = SessionEndInfo(status=code, end_time_secs=time.time())
    return _summary("session_end_info", HParamsPluginData(session_end_info=end))


def _summary(tag: str, data: HParamsPluginData) -> Summary:
    """The tab reads the plugin's data and no value; the empty tensor is there because a summary must have one."""
    plugin_data = SummaryMetadata.PluginData(plugin_name="hparams", content=data.SerializeToString())
    return Summary(
        value=[
            Summary.Value(
                tag=HPARAMS_PREFIX + tag,
                metadata=SummaryMetadata(plugin_data=plugin_data),
                tensor=TensorProto(dtype=DT_FLOAT, tensor_shape=TensorShapeProto(dim=[{"size": 0}])),
            )
        ]
    )
