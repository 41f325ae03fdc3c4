"""Event files as TensorBoard itself reads them: by its own reader, and by its http API over the loopback."""

import io
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing import plugin_event_accumulator
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.graph_pb2 import GraphDef
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import masked_crc32c
from torch import Tensor, nn

from trainer.errors import UserError
from trainer.models.lenet import LeNet
from trainer.models.resnet import resnet18
from trainer.models.two_layer import TwoLayer
from trainer.monitor import events, hparams
from trainer.monitor.console import Display
from trainer.monitor.events import EventFile, cut, event_files, records
from trainer.monitor.graph import model_graph
from trainer.monitor.histograms import histogram
from trainer.monitor.journal import Journal, cut_metrics

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)


def read(folder: Path) -> EventAccumulator:
    everything = {"scalars": 0, "histograms": 0, "images": 0, "tensors": 0}  # 0: as many as there are
    return EventAccumulator(str(folder), size_guidance=everything).Reload()


def write_run(folder: Path, steps: range, resume_step: int | None = None) -> None:
    """Scalars and a histogram at every step, a text and a picture at the first."""
    file = EventFile(folder, resume_step)
    for step in steps:
        file.scalars(step, {"train/loss": 1 / step, "val/accuracy": 1 - 1 / step})
        file.histograms(step, {"weights/fc.weight": histogram(torch.arange(-step, step))})
    file.text("config", steps[0], "**lr** 0.1")
    file.image("samples", steps[0], PIXELS)
    file.close()


# --- the file ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [4, 5, 8, 1023, 1024, 1025, 1026, 1027, 1028, 2047, 2048, 2049, 5000])
def test_checksum_is_tensorboards(length: int) -> None:
    data = np.random.default_rng(length).bytes(length)
    assert events._mask(events.crc32c(data)) == masked_crc32c(data)


def test_scalars_record_is_the_message_that_protobuf_writes(tmp_path: Path) -> None:
    numbers = {"train/loss": 0.25, "größe/<x>": -3.5, "lr": 0.0, "t" * 300: 1e-20}
    file = EventFile(tmp_path)
    for step in (1, 127, 128, 2**40):
        file.scalars(step, numbers)
    file.close()
    _, _, *messages = records(file.path)
    for message, step in zip(messages, (1, 127, 128, 2**40), strict=True):
        values = [Summary.Value(tag=tag, simple_value=number) for tag, number in numbers.items()]
        wall_time = Event.FromString(message).wall_time
        assert abs(wall_time - time.time()) < 60
        assert message == Event(wall_time=wall_time, step=step, summary=Summary(value=values)).SerializeToString()


def test_tensorboards_reader_finds_everything(tmp_path: Path) -> None:
    write_run(tmp_path, range(1, 101))
    found = read(tmp_path)
    assert [(event.step, event.value) for event in found.Scalars("train/loss")] == [
        (step, float(np.float32(1 / step))) for step in range(1, 101)
    ]
    assert set(found.Tags()["scalars"]) == {"train/loss", "val/accuracy"}

    of_step_9 = found.Histograms("weights/fc.weight")[8]
    assert of_step_9.step == 9
    value = of_step_9.histogram_value
    assert (value.min, value.max, value.num, value.sum) == (-9, 8, 18, -9)
    assert sum(value.bucket) == 18

    picture = Image.open(io.BytesIO(found.Images("samples")[0].encoded_image_string))
    assert np.array_equal(np.asarray(picture), PIXELS)
    assert found.Tensors("config")[0].tensor_proto.string_val[0] == b"**lr** 0.1"


def test_numbers_that_are_not_finite_or_not_float32(tmp_path: Path) -> None:
    with_trouble = {"a": math.nan, "b": math.inf, "c": 1e300, "d": 1e-300}
    file = EventFile(tmp_path)
    file.scalars(1, with_trouble)
    file.close()
    a, b, c, d = (read(tmp_path).Scalars(tag)[0].value for tag in with_trouble)
    assert math.isnan(a)
    assert (b, c, d) == (math.inf, math.inf, 0)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pictures_of_any_kind(tmp_path: Path, channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, channels), np.uint8)
    expected = pixels.copy()
    file = EventFile(tmp_path)
    file.image("x", 1, pixels)
    pixels[:] = 0  # the caller may use its array again
    file.close()
    found = read(tmp_path).Images("x")[0]
    assert (found.height, found.width) == (4, 6)
    decoded = np.asarray(Image.open(io.BytesIO(found.encoded_image_string)))
    assert np.array_equal(decoded.reshape(4, 6, channels), expected)


def test_wrong_pictures_are_refused(tmp_path: Path) -> None:
    file = EventFile(tmp_path)
    with pytest.raises(ValueError, match=r"expected uint8 \[height, width, 1, 3 or 4\], got float64 \(2, 2\)"):
        file.image("x", 1, np.zeros((2, 2)))
    file.close()


def test_flush_makes_all_of_it_readable(tmp_path: Path) -> None:
    file = EventFile(tmp_path)
    for step in range(1, 51):
        file.scalars(step, {"loss": 0.0})
        file.flush()
        assert len(list(records(file.path))) == 2 + step
    file.close()


def test_the_caller_does_not_wait_for_a_slow_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    may_write = threading.Event()
    framed = events._framed
    monkeypatch.setattr(events, "_framed", lambda message: may_write.wait() and framed(message))
    file = EventFile(tmp_path)
    for step in range(1, 501):
        file.scalars(step, {"loss": 1.0})
    assert file.path.stat().st_size == 0
    may_write.set()
    file.close()
    assert len(read(tmp_path).Scalars("loss")) == 500


def test_a_full_disk_is_reported_once(tmp_path: Path) -> None:
    """A limit on the size of files stands in for the disk: it refuses the same way, in the middle of a record."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    file = EventFile(tmp_path)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))

    def fill() -> None:  # the thread may be as quick as this one, or not
        for step in range(500):
            file.scalars(step, {"loss": 1.0})
        file.flush()

    try:
        with pytest.raises(UserError, match="can't be written: File too large"):
            fill()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    file.scalars(1, {"loss": 1.0})  # dropped: the caller knows
    file.close()
    assert file.path.stat().st_size == 10_000
    assert 100 < len(read(tmp_path).Scalars("loss")) < 300


def test_a_line_of_numbers_that_a_full_disk_takes_in_part_is_reported(tmp_path: Path) -> None:
    """Such a write fails only the next time, with another line behind the part."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    journal = Journal(tmp_path, None, Display(), {})
    journal.write(1, {"loss": 1.0})
    resource.setrlimit(resource.RLIMIT_FSIZE, (30, hard))
    try:
        with pytest.raises(UserError, match=r"metrics.jsonl: can't be written: File too large"):
            journal.write(2, {"loss": 1.0})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    journal.close()
    cut_metrics(tmp_path / "metrics.jsonl", 2)
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1, "loss": 1.0}\n'


def test_an_error_of_the_last_record_reaches_close(tmp_path: Path) -> None:
    file = EventFile(tmp_path)
    file.scalars(-1, {"loss": 1.0})  # no step
    with pytest.raises(ValueError, match="byte must be in range"):
        file.close()
    file.close()


def test_a_folder_that_cannot_be_is_an_error_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="can't be written"):
        EventFile(tmp_path / "file" / "run")


def test_closed_is_closed(tmp_path: Path) -> None:
    file = EventFile(tmp_path)
    file.close()
    file.close()
    with pytest.raises(ValueError, match="is closed"):
        file.scalars(1, {"loss": 1.0})


# --- going on ---------------------------------------------------------------------------------------------------------


def test_a_run_that_goes_on_has_every_step_once(tmp_path: Path) -> None:
    write_run(tmp_path, range(1, 101))
    write_run(tmp_path, range(51, 81), resume_step=50)
    write_run(tmp_path, range(61, 121), resume_step=60)
    assert len(event_files(tmp_path)) == 3
    found = read(tmp_path)
    assert [event.step for event in found.Scalars("train/loss")] == list(range(1, 121))
    assert [event.step for event in found.Histograms("weights/fc.weight")] == list(range(1, 121))
    assert [event.step for event in found.Tensors("config")] == [1, 51, 61]


def test_a_tensorboard_that_stays_open_forgets_what_was_cut(tmp_path: Path) -> None:
    write_run(tmp_path, range(1, 101))
    served = plugin_event_accumulator.EventAccumulator(str(tmp_path), tensor_size_guidance={"scalars": 0}).Reload()
    assert len(served.Tensors("train/loss")) == 100
    write_run(tmp_path, range(51, 61), resume_step=50)
    served.Reload()
    assert [event.step for event in served.Tensors("train/loss")] == list(range(1, 61))


def test_cut_takes_a_torn_record_away(tmp_path: Path) -> None:
    write_run(tmp_path, range(1, 11))
    (path,) = event_files(tmp_path)
    whole = path.read_bytes()
    beside = 2 + 2 * 7  # what stays but for the text and, last of all, the picture: the file's head, and seven steps
    for torn, left in (
        (whole[:-1], beside + 1),
        (whole[:-4] + b"\0\0\0\0", beside + 1),
        (whole + whole[:5], beside + 2),
        (whole + whole[:12] + b"\0" * 40, beside + 2),
    ):
        path.write_bytes(torn)
        cut(tmp_path, 7)
        assert [event.step for event in read(tmp_path).Scalars("train/loss")] == list(range(1, 8))
        assert sum(1 for _ in records(path)) == left
    assert os.listdir(tmp_path) == [path.name]


def test_a_damaged_record_ends_the_file(tmp_path: Path) -> None:
    write_run(tmp_path, range(1, 11))
    (path,) = event_files(tmp_path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert 0 < sum(1 for _ in records(path)) < 2 + 2 * 10 + 2


def test_cut_keeps_the_graph_and_forgets_how_the_run_ended(tmp_path: Path) -> None:
    graph, _ = model_graph(nn.Linear(2, 3), torch.zeros(1, 2))
    assert graph is not None
    file = EventFile(tmp_path)
    file.raw(hparams.session_start({"lr": 0.1}, "a"))
    file.graph(graph)
    file.scalars(3, {"loss": 1.0})
    file.raw(hparams.session_end("failure"), step=3)
    file.close()
    cut(tmp_path, 3)
    found = read(tmp_path)
    assert GraphDef.FromString(found.Graph().SerializeToString()) == graph
    assert found.Tags()["tensors"] == []
    assert found.Tags()["scalars"] == ["loss"]


def test_files_are_read_in_the_order_in_which_they_were_opened(tmp_path: Path) -> None:
    opened = []
    for _ in range(3):  # within one second
        file = EventFile(tmp_path)
        file.close()
        opened.append(file.path)
    assert event_files(tmp_path) == opened


@pytest.mark.slow
def test_importing_needs_neither_torch_nor_tensorflow(tmp_path: Path) -> None:
    """Where a tensorflow is installed, loading it would take seconds; where torch is not needed, it is not loaded."""
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow/__init__.py").write_text("raise RuntimeError('tensorflow was imported')")
    program = """if True:
        import sys
        from pathlib import Path
        from trainer.monitor import hparams
        from trainer.monitor.events import EventFile
        file = EventFile(Path("run"))
        file.scalars(1, {"loss": 1.0})
        file.text("config", 1, "text")
        file.raw(hparams.session_start({"lr": 0.1}, "a"))
        file.close()
        assert "torch" not in sys.modules
        import torch
        from trainer.monitor.activations import Activations
        from trainer.monitor.graph import model_graph
        loaded = set(sys.modules)
        model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU())
        graph, reason = model_graph(model, torch.zeros(1, 2))
        assert graph is not None
        activations = Activations(model)
        activations.watch()
        model(torch.zeros(1, 2))
        assert "dead_units/0" in activations.numbers()
        assert not {"tensorflow", "torch._dynamo", "sympy"} & set(sys.modules), set(sys.modules) - loaded
    """
    path = os.pathsep.join([str(tmp_path), *sys.path])
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, check=True)


# --- the graph --------------------------------------------------------------------------------------------------------


class Seldom(nn.Module):
    """What tracers stumble over: a number read back, a dict, randomness in eval mode, a buffer that counts."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        self.calls += 1
        if x.sum().item() > 1e9:
            x = -x
        return {"a": self.linear(x) + torch.randn(()), "b": torch.from_numpy(x.numpy() * 2)}


MODELS = {
    "lenet": (LeNet(num_classes=10), (1, 1, 32, 32)),
    "resnet18": (resnet18(num_classes=10), (2, 3, 64, 64)),
    **{
        gradient: (TwoLayer(in_features=6, out_features=2, gradient=gradient), (3, 6))
        for gradient in ("autograd", "tensors", "numpy", "custom_function")
    },
    "dropout": (
        nn.Sequential(nn.Linear(4, 3), nn.ReLU(inplace=True), nn.Dropout(), nn.Identity(), nn.Softmax(1)),
        (2, 4),
    ),
    "seldom": (Seldom(), (2, 4)),
}


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_leads_to_the_output(name: str) -> None:
    model, shape = MODELS[name]
    graph, reason = model_graph(model, torch.randn(shape))
    assert graph is not None
    assert reason == ""
    nodes = {node.name: node for node in graph.node}
    assert len(nodes) == len(graph.node), "names are unique"
    reached, front = set(), [node.name for node in graph.node if node.op == "Output"]
    while front:
        node = front.pop()
        if node not in reached:
            reached.add(node)
            front += [edge.split(":")[0] for edge in nodes[node].input]
    assert {path.replace(".", "/") for path, _ in model.named_parameters()} <= reached
    if name != "seldom":  # its second output comes out of nowhere
        assert "input" in reached


def test_shapes_and_modules_are_in_the_graph() -> None:
    model, shape = MODELS["dropout"]
    graph, _ = model_graph(model, torch.zeros(shape))
    assert graph is not None
    nodes = {node.name: node for node in graph.node}
    assert [dim.size for dim in nodes["0/addmm"].attr["_output_shapes"].list.shape[0].dim] == [2, 3]
    assert nodes["2/Dropout"].input == ["1/relu"]
    assert nodes["3/Identity"].input == ["2/Dropout"]
    assert nodes["4/softmax"].input == ["3/Identity"]


@pytest.mark.parametrize("name", MODELS)
def test_drawing_leaves_no_trace(name: str) -> None:
    model, shape = MODELS[name]
    model.train()
    next(iter(model.children()), model).eval()  # as a frozen part is
    modes = {module: module.training for module in model.modules()}
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    inputs = torch.randn(shape)
    random = torch.get_rng_state()
    model_graph(model, inputs)
    assert torch.equal(random, torch.get_rng_state())
    assert modes == {module: module.training for module in model.modules()}
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[key])
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_model_that_fails_has_no_graph() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(3, 3))
    graph, reason = model_graph(model, torch.zeros(1, 2))
    assert graph is None
    assert reason == "RuntimeError: mat1 and mat2 shapes cannot be multiplied (1x2 and 3x3)"
    assert not any(module._forward_hooks for module in model.modules())
    assert model.training


# --- TensorBoard's http API -------------------------------------------------------------------------------------------


Get = Callable[..., Any]  # see conftest.py


@pytest.fixture(scope="module")
def board(
    tmp_path_factory: pytest.TempPathFactory, tensorboard: Callable[[Path], AbstractContextManager[Get]]
) -> Iterator[Get]:
    """Asks a TensorBoard that shows three runs: two of them differ in the seed alone, the third failed."""
    folder = tmp_path_factory.mktemp("board")
    shared = {"model": "lenet", "nesterov": True, "layers": [20, 5], "weight_decay": None}
    for i, (lr, group, status) in enumerate([(0.1, "a", "success"), (0.1, "a", "success"), (0.5, "b", "failure")]):
        file = EventFile(folder / f"run{i}")
        own = {"dropout": 0.3} if group == "b" else {}
        file.raw(hparams.session_start({**shared, **own, "lr": lr}, group))
        graph, _ = model_graph(nn.Linear(2, 3), torch.zeros(1, 2))
        assert graph is not None
        file.graph(graph)
        for step in range(1, 11):
            file.scalars(
                step, {"train/loss": (i + 1) / step, "val/accuracy": (i + step) / 20, "update_ratio/w": math.nan}
            )
            file.histograms(
                step, {"weights/w": histogram(torch.linspace(-1, 2, 100)), "weights/zero": histogram(torch.zeros(3))}
            )
        file.text("config", 0, "**lr** 0.1")
        file.image("samples", 0, PIXELS)
        file.raw(hparams.session_end(status), step=10)  # type: ignore[arg-type]
        file.close()
    with tensorboard(folder) as get:
        deadline = time.monotonic() + 30
        while "val/accuracy" not in get("plugin/scalars/tags").get("run2", {}):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield get


def test_served_scalars(board: Get) -> None:
    assert board("runs") == ["run0", "run1", "run2"]
    tags = board("plugin/scalars/tags")
    assert set(tags["run0"]) == {"train/loss", "val/accuracy", "update_ratio/w"}
    points = board("plugin/scalars/scalars?run=run1&tag=train/loss")
    assert [(step, value) for _, step, value in points] == [(s, pytest.approx(2 / s)) for s in range(1, 11)]


def test_served_histograms(board: Get) -> None:
    points = board("plugin/histograms/histograms?run=run0&tag=weights/w")
    assert [step for _, step, _ in points] == list(range(1, 11))
    buckets = points[0][2]  # [left, right, count]
    assert (buckets[0][0], buckets[-1][1]) == (-1, 2)
    assert sum(count for _, _, count in buckets) == 100
    assert [right for _, right, _ in buckets[:-1]] == [left for left, _, _ in buckets[1:]]
    (zeros,) = board("plugin/histograms/histograms?run=run0&tag=weights/zero")[0][2]
    assert zeros == [0, 0, 3]
    distributions = board("plugin/distributions/distributions?run=run0&tag=weights/w")
    assert len(distributions) == 10


def test_served_graph_text_and_picture(board: Get) -> None:
    graph = board("plugin/graphs/graph?run=run0&large_attrs_key=_too_large_attrs&limit_attr_size=1024").decode()
    assert 'name: "addmm"' in graph
    assert 'input: "weight"' in graph
    (text,) = board("plugin/text/text?run=run0&tag=config")
    assert text["text"] == "<p><strong>lr</strong> 0.1</p>"
    (picture,) = board("plugin/images/images?run=run0&tag=samples&sample=0")
    png = board(f"plugin/images/individualImage?{picture['query']}")
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png))), PIXELS)


def test_served_hyperparameters(board: Get) -> None:
    experiment = board("plugin/hparams/experiment", {"experimentName": ""})
    infos = {info["name"]: info for info in experiment["hparamInfos"]}
    assert set(infos) == {"model", "nesterov", "layers", "weight_decay", "dropout", "lr"}
    assert infos["lr"]["type"] == "DATA_TYPE_FLOAT64"
    assert infos["lr"]["domainInterval"] == {"minValue": 0.1, "maxValue": 0.5}
    assert infos["lr"]["differs"]
    assert infos["nesterov"]["type"] == "DATA_TYPE_BOOL"
    assert infos["model"]["type"] == "DATA_TYPE_STRING"

    statuses = ["STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING", "STATUS_UNKNOWN"]
    body = {"startIndex": 0, "sliceSize": 10, "allowedStatuses": statuses, "colParams": []}
    groups = {group["name"]: group for group in board("plugin/hparams/session_groups", body)["sessionGroups"]}
    assert set(groups) == {"a", "b"}
    assert groups["a"]["hparams"] == {
        "lr": 0.1, "model": "lenet", "nesterov": True, "layers": "[20, 5]", "weight_decay": "null"
    }  # fmt: skip
    assert groups["b"]["hparams"]["dropout"] == 0.3
    assert [session["name"] for session in groups["a"]["sessions"]] == ["run0", "run1"]
    assert [session["status"] for session in groups["a"]["sessions"]] == ["STATUS_SUCCESS"] * 2
    assert [session["status"] for session in groups["b"]["sessions"]] == ["STATUS_FAILURE"]
    metrics = {metric["name"]["tag"]: metric["value"] for metric in groups["a"]["metricValues"] if "value" in metric}
    assert metrics["val/accuracy"] == pytest.approx((10 / 20 + 11 / 20) / 2), "the mean of both seeds"
