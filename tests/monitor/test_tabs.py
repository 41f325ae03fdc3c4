"""What runs leave for TensorBoard's tabs: by its own reader, and by its http API over the loopback."""

import io
import json
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import fields
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from meanings import meaning_of
from trainer.command import main as cli
from trainer.config.settings import Monitor
from trainer.monitor.board import Board
from trainer.monitor.events import EventFile

Get = Callable[..., Any]  # see conftest.py
Train = Callable[..., dict[str, Any]]
FAST = ("max_steps=6", "eval_every=3", "monitor.every=1", "checkpoint.every=3", "data.limit=100", "batch_size=32")


def read(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder), size_guidance={"images": 0, "tensors": 0, "scalars": 0}).Reload()


def written(folder: Path) -> dict[str, list[int]]:
    """The steps at which pictures and records of plugins were written, by tag; without the HPARAMS tab's."""
    found = read(folder)
    tags = {tag: [event.step for event in found.Images(tag)] for tag in found.Tags()["images"]}
    tags |= {tag: [event.step for event in found.Tensors(tag)] for tag in found.Tags()["tensors"]}
    return {tag: steps for tag, steps in tags.items() if not tag.startswith("_hparams_")}


CURVES = {f"test/pr/{i}": [6] for i in range(10)}
BEGUN = {"about/command": [0], "about/config": [0], "about/environment": [0], "about/model": [0]}
TEXTS = {**BEGUN, "about/diagnosis": [6], "about/computation": [6], "about/per_class": [6]}
LAYOUT = {"custom_scalars__config__": [0]}
FIRST_BATCH, FILTERS, WRONG, CONFUSION = (
    f"watch_images/{name}" for name in ("first_batch", "filters", "wrong", "confusion")
)
IMAGES = {FIRST_BATCH: [0], FILTERS: [0, 6], WRONG: [6], CONFUSION: [6]}
PROJECTOR = {"points.bytes", "labels.tsv", "sprites.png"}


# --- what is written --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("off", [(), ("layout", "images", "projector"), ("texts", "curves")], ids=str)
def test_each_group_can_be_switched_off(off: tuple[str, ...], train: Train) -> None:
    train("name=run", *FAST, *(f"monitor.{group}=false" for group in off))
    groups = {"layout": LAYOUT, "texts": TEXTS, "images": IMAGES, "curves": CURVES}
    assert written(Path("runs/run")) == {
        tag: steps for group, tags in groups.items() if group not in off for tag, steps in tags.items()
    }
    files = {path.name for path in Path("runs/run/projector").glob("*")}
    assert files == (set() if "projector" in off else PROJECTOR)
    assert Path("runs/run/projector_config.pbtxt").exists() == ("projector" not in off)


def test_presets(train: Train) -> None:
    train("name=scalars", *FAST, "monitor=scalars")
    assert written(Path("runs/scalars")) == {**LAYOUT, **TEXTS}
    train("name=off", *FAST, "monitor=off")
    assert {path.name for path in Path("runs/off").iterdir()} == {
        *("checkpoints", "config.yaml", "metrics.jsonl", "model.json", "origin.json", "overrides.yaml"),
        *("predictions.npz",),
        "result.json",
    }


KINDS = {
    "regression": ("data=random_regression", "model=two_layer", "loss=mse", "dtype=float64"),
    "one output for two classes": ("data=arrays", "model=two_layer", "model.out_features=1", "loss=bce_with_logits"),
    "vectors": ("data=arrays", "model=two_layer", "batch_size=full"),
    "probabilities": ("model=sequential", "loss=nll"),
    "one-hot targets": ("model=two_layer", "loss=mse"),
    "composite, bfloat16": ("model=lenet", "loss=composite", "precision=bfloat16"),
    "files": ("model=lenet", "data=image_folder", "data.augment.horizontal_flip=true"),
    "frozen": ("model=frozen_resnet", "model.backbone.weights=null", "data=cifar10", "max_steps=2", "eval_every=2"),
}
HAS_NO_PICTURES = {"regression", "one output for two classes", "vectors"}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_run_shows_what_has_a_meaning(
    kind: str, train: Train, sources: dict[str, tuple[str, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*FAST, *KINDS[kind]]
    data = next((word.removeprefix("data=") for word in KINDS[kind] if word.startswith("data=")), "digits")
    if data == "arrays":
        np.savez("mine.npz", inputs=np.random.default_rng(0).normal(size=(90, 6)), targets=np.arange(90) % 2)
        words += ["data.path=mine.npz"]
    elif data not in ("digits", "random_regression"):
        words += sources[data]
    if data in ("image_folder", "random_regression"):
        words = [word for word in words if not word.startswith("data.limit")]
    result = train("name=run", *words)
    warned = [line for line in capsys.readouterr().out.splitlines() if "warning" in line]
    assert all(line.startswith("warning: precision=") for line in warned)  # which depends on the CPU
    folder = Path("runs/run")
    tags = written(folder)
    is_classified = kind != "regression"
    assert (CONFUSION in tags) == is_classified
    assert any(tag.startswith("test/pr/") for tag in tags) == is_classified
    assert (WRONG in tags) == (kind not in HAS_NO_PICTURES)
    assert (FILTERS in tags) == (kind not in HAS_NO_PICTURES)
    assert {FIRST_BATCH, "about/model", "about/config", "custom_scalars__config__"} <= set(tags)
    assert (folder / "projector/sprites.png").exists() == (kind not in HAS_NO_PICTURES)

    labels = [line.split("\t") for line in (folder / "projector/labels.tsv").read_text().splitlines()[1:]]
    if is_classified:  # every sample of these small splits is a point
        assert sum(int(line[2]) for line in labels) / len(labels) == pytest.approx(result["test/accuracy"])
    table = read(folder).Tensors("about/model")[0].tensor_proto.string_val[0].decode()
    assert f"**{result['num_parameters']:,}**" in table
    assert f"**{result['num_trainable']:,} trainable" in table


class NoPicture(nn.Module):
    """Does what a run needs, but not what the summary needs: a forward pass of a single sample."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        if len(x) == 1:
            raise RuntimeError("one is too few\nand that is all")
        return self.linear(x)


def test_what_cannot_be_drawn_is_said_and_left_out(tmp_path: Path) -> None:
    events, notes = EventFile(tmp_path), []
    wanted = Monitor(**{**dict.fromkeys((field.name for field in fields(Monitor)), True), "every": 1})
    board = Board(tmp_path, events, wanted, notes.append, NoPicture(), meaning_of(2), (3,))
    board.begin("train", "a: 1\n", "1.0", torch.device("cpu"), torch.zeros(1, 3), has_terms=False)
    with board.watching(4) as keep:
        assert keep is not None
        keep(torch.zeros(4, 3), torch.eye(2)[[0, 1, 0, 1]], torch.tensor([0, 1, 1, 0]))
    (tmp_path / "projector").write_text("a file is where the folder should be")
    board.end(5)
    events.close()
    assert notes[0] == "warning: no texts for TensorBoard: RuntimeError: one is too few"
    assert notes[1].startswith("warning: no projector for TensorBoard: ")
    assert len(notes) == 2
    assert set(written(tmp_path)) == {
        *("about/command", "about/config", "about/environment", "custom_scalars__config__"),
        *(CONFUSION, "test/pr/0", "test/pr/1"),
    }


def test_outputs_that_are_no_tensor_leave_the_filters(tmp_path: Path) -> None:
    """As of a VAE: there is nothing to say which class, and the first layer is drawn at the end all the same."""
    events, notes, model = EventFile(tmp_path), [], nn.Conv2d(1, 2, 3)
    wanted = Monitor(**{**dict.fromkeys((field.name for field in fields(Monitor)), True), "every": 1})
    board = Board(tmp_path, events, wanted, notes.append, model, meaning_of(None), (1, 8, 8))
    with board.watching(4) as keep:
        assert keep is not None
        keep(torch.zeros(4, 1, 8, 8), {"images": torch.zeros(4, 2, 6, 6)}, torch.zeros(4))
    board.end(5)
    events.close()
    assert notes == ["TensorBoard shows no predictions: outputs or targets are not one tensor"]
    assert written(tmp_path) == {FILTERS: [5]}


def test_a_run_has_about_twenty_histograms_of_each_parameter(train: Train) -> None:
    """Between the records of the other numbers, too; the step and its gradients are those that trained."""
    train("name=run", "max_steps=60", "monitor.every=50", "monitor.curves=false", "monitor.projector=false")
    drawn = EventAccumulator("runs/run", size_guidance={"histograms": 0}).Reload()
    for tag in ("watch_gradients/fc3.bias", "watch_weights/conv1.weight"):
        assert [event.step for event in drawn.Histograms(tag)] == [1, *range(3, 61, 3)]
    assert [event.step for event in read(Path("runs/run")).Scalars("watch/lr")] == [1, 50, 60]


def test_watching_costs_the_loss_and_the_accuracy_nothing(train: Train) -> None:
    watched = train("name=a", *FAST)
    alone = train("name=b", *FAST, "monitor=off")
    for tag in ("train/loss", "val/loss", "test/loss", "test/accuracy"):
        assert watched[tag] == alone[tag]


# --- going on ---------------------------------------------------------------------------------------------------------


def test_a_run_that_goes_on_shows_nothing_twice(train: Train) -> None:
    train("name=run", *FAST)
    sprites = Path("runs/run/projector/points.bytes").read_bytes()
    train("name=run", *FAST, "max_steps=12")
    tags = written(Path("runs/run"))
    assert {tag: tags[tag] for tag in (*BEGUN, *LAYOUT, FIRST_BATCH)} == {
        **BEGUN, **LAYOUT, FIRST_BATCH: [0]
    }  # fmt: skip
    assert all(tags[tag] == [12] for tag in ("about/diagnosis", WRONG, CONFUSION, *CURVES))
    assert tags[FILTERS] == [0, 12]
    assert [event.step for event in read(Path("runs/run")).Scalars("test/loss")] == [12]
    assert Path("runs/run/projector/points.bytes").read_bytes() != sprites


def test_a_run_that_died_in_its_end_ends_once(train: Train) -> None:
    """After the pictures, before the result: all steps are done, and what the end writes is written again."""
    train("name=run", *FAST)
    Path("runs/run/result.json").unlink()
    train("name=run", *FAST)
    assert written(Path("runs/run")) == {**LAYOUT, **TEXTS, **IMAGES, **CURVES}
    assert [event.step for event in read(Path("runs/run")).Scalars("test/loss")] == [6]


def test_a_run_that_died_before_its_first_checkpoint_begins_anew(train: Train) -> None:
    train("name=run", *FAST)
    Path("runs/run/result.json").unlink()
    for path in Path("runs/run/checkpoints").iterdir():
        path.unlink()
    train("name=run", *FAST)
    assert written(Path("runs/run")) == {**LAYOUT, **TEXTS, **IMAGES, **CURVES}
    assert [event.step for event in read(Path("runs/run")).Scalars("train/loss")] == list(range(1, 7))


# --- TensorBoard's http API -------------------------------------------------------------------------------------------

SUCCESSFUL = {"startIndex": 0, "sliceSize": 10, "allowedStatuses": ["STATUS_SUCCESS"], "colParams": []}


@pytest.fixture(scope="module")
def board(
    tmp_path_factory: pytest.TempPathFactory, tensorboard: Callable[[Path], AbstractContextManager[Get]]
) -> Iterator[tuple[Get, Path]]:
    """Asks a TensorBoard that shows a LeNet and a regression, and the folder of both."""
    folder = tmp_path_factory.mktemp("served")
    runs = {"lenet": ("model=lenet",), "regression": ("model=two_layer", "data=random_regression", "loss=mse")}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("sys.argv", ["train"])
        for name, words in runs.items():
            assert cli.run_command([f"name={name}", *[word for word in FAST if "limit" not in word], *words]) == 0
    with tensorboard(folder / "runs") as get:
        deadline = time.monotonic() + 30
        # How a run ended is the last that it writes.
        while len(get("plugin/hparams/session_groups", SUCCESSFUL)["sessionGroups"]) < len(runs):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield get, folder / "runs"


def test_all_tabs_are_there(board: tuple[Get, Path]) -> None:
    get, _ = board
    deadline = time.monotonic() + 30
    wanted = {"scalars", "custom_scalars", "images", "graphs", "distributions", "histograms", "text", "pr_curves"}
    wanted |= {"hparams", "projector", "timeseries"}
    while not wanted <= {name for name, about in get("plugins_listing").items() if about["enabled"]}:
        assert time.monotonic() < deadline  # the projector looks for its files in a thread of its own
        time.sleep(0.05)


def test_served_layout(board: tuple[Get, Path]) -> None:
    get, _ = board
    served = {category["title"]: category["chart"] for category in get("plugin/custom_scalars/layout")["category"]}
    first, gradients, updates = served.values()
    assert next(iter(served)) == "loss and metrics"
    assert [chart["title"] for chart in first] == [
        *("loss: train and val", "accuracy: val and test", "learning rate"),
        *("mae: val and test", "r2: val and test"),
    ], "the same charts of both runs are one"  # fmt: skip

    def curves(run: str, chart: dict[str, Any]) -> set[str]:
        found = [get(f"plugin/custom_scalars/scalars?run={run}&tag={quote(x)}") for x in chart["multiline"]["tag"]]
        assert all(reply["regex_valid"] for reply in found)
        return {tag for reply in found for tag in reply["tag_to_events"]}

    assert curves("lenet", first[0]) == curves("regression", first[0]) == {"train/loss", "val/loss"}
    assert curves("lenet", first[1]) == {"val/accuracy", "test/accuracy"}
    assert curves("lenet", first[2]) == {"watch/lr"}
    assert curves("regression", first[3]) == {"val/mae", "test/mae"}
    for charts, tag in ((gradients[1:], "grad_norm"), (updates, "update_ratio")):
        found = {chart["title"]: [curves(run, chart) for run in ("lenet", "regression")] for chart in charts}
        layers = [f"{layer}.weight" for layer in ("conv1", "conv2", "fc1", "fc2", "fc3")]
        assert found == {name: [{f"watch_{tag}/{name}"}, set()] for name in layers} | {
            name: [set(), {f"watch_{tag}/{name}"}] for name in ("w1", "w2")
        }, "a run is one line in each"
    assert curves("lenet", gradients[0]) == curves("regression", gradients[0]) == {"watch/grad_norm"}


def test_losses_and_metrics_come_first(board: tuple[Get, Path]) -> None:
    """TIME SERIES sorts its cards by their tags, opens the first two groups, and shows pictures and histograms, too."""
    get, _ = board
    shown = get("plugin/timeseries/tags")
    tags = {tag for run in shown["scalars"]["runTagInfo"].values() for tag in run}
    tags |= {tag for run in shown["histograms"]["runTagInfo"].values() for tag in run}
    tags |= set(shown["images"]["tagRunSampledInfo"])
    groups = list(dict.fromkeys(tag.partition("/")[0] for tag in sorted(tags)))
    assert groups[:3] == ["test", "train", "val"]
    assert all(group.startswith("watch") for group in groups[3:])
    first = [tag for tag in sorted(tags) if "/last/" not in tag]
    first = [tag for tag in first if not tag.endswith(("/mae", "/r2"))]  # of the other run
    assert first[:5] == ["test/accuracy", "test/loss", "train/loss", "val/accuracy", "val/loss"]
    assert {"watch/lr", "watch/grad_norm", "watch_time/step_ms", "watch_gradients/fc1.bias", CONFUSION} <= tags


def test_served_pictures(board: tuple[Get, Path]) -> None:
    get, folder = board
    tags = get("plugin/images/tags")
    assert {run: set(found) for run, found in tags.items()} == {
        "lenet": set(IMAGES), "regression": {FIRST_BATCH}
    }  # fmt: skip
    for tag, steps in IMAGES.items():
        served = get(f"plugin/images/images?run=lenet&tag={quote(tag)}&sample=0")
        assert [picture["step"] for picture in served] == steps
        stored = [event.encoded_image_string for event in read(folder / "lenet").Images(tag)]
        assert [get(f"plugin/images/individualImage?{picture['query']}") for picture in served] == stored


def test_served_curves(board: tuple[Get, Path]) -> None:
    get, folder = board
    tags = get("plugin/pr_curves/tags")
    assert set(tags["lenet"]) == set(CURVES)
    assert not tags.get("regression")
    lines = (folder / "lenet/projector/labels.tsv").read_text().splitlines()[1:]
    for i in range(10):
        assert tags["lenet"][f"test/pr/{i}"]["displayName"] == str(i)
        (curve,) = get(f"plugin/pr_curves/pr_curves?run=lenet&tag=test/pr/{i}")["lenet"]
        assert curve["step"] == 6
        assert curve["thresholds"][:2] == [0, 0.005]
        num_positives = sum(line.split("\t")[0] == str(i) for line in lines)
        assert (curve["true_positives"][0], curve["false_negatives"][0]) == (num_positives, 0)
        assert curve["recall"][0] == 1
        assert curve["precision"][0] == pytest.approx(num_positives / len(lines))


def test_served_projector(board: tuple[Get, Path]) -> None:
    get, _ = board
    assert set(get("plugin/projector/runs")) == {"lenet", "regression"}
    (info,) = get("plugin/projector/info?run=lenet")["embeddings"]
    assert info["tensorShape"] == [359, 84]
    name = quote(info["tensorName"])
    points = np.frombuffer(get(f"plugin/projector/tensor?run=lenet&name={name}"), np.float32).reshape(359, 84)
    assert np.isfinite(points).all()
    assert points.std() > 0
    labels = get(f"plugin/projector/metadata?run=lenet&name={name}").decode().splitlines()
    assert len(labels) == 1 + 359
    sheet = Image.open(io.BytesIO(get(f"plugin/projector/sprite_image?run=lenet&name={name}")))
    assert (sheet.size, info["sprite"]["singleImageDim"]) == ((19 * 32, 19 * 32), [32, 32])
    (info,) = get("plugin/projector/info?run=regression")["embeddings"]
    assert "sprite" not in info


def test_served_texts(board: tuple[Get, Path]) -> None:
    get, _ = board
    assert {run: set(tags) for run, tags in get("plugin/text/tags").items()} == {
        "lenet": set(TEXTS), "regression": set(TEXTS) - {"about/per_class"}
    }  # fmt: skip

    def text(tag: str) -> str:
        (found,) = get(f"plugin/text/text?run=lenet&tag=about/{tag}")
        assert found["step"] == 0
        return str(found["text"])

    assert sorted(TEXTS)[0] == "about/command", "the tab sorts texts by their tags"
    words = ["train", "name=lenet", *[word for word in FAST if "limit" not in word], "model=lenet"]
    assert " ".join(words) in text("command")
    assert "\nmax_steps: 6\n" in text("config")
    assert text("config").split(">", 2)[2].startswith("model:\n  _target_: trainer.models.lenet.LeNet\n")
    assert "null" not in text("config")
    assert "<td>fc2</td>\n<td>Linear</td>\n<td>N x 84</td>\n<td>10,164</td>\n<td>trainable</td>" in text("model")
    assert f"<td>python</td>\n<td>{platform.python_version()}</td>" in text("environment")


def test_served_metrics_are_filled(board: tuple[Get, Path]) -> None:
    get, folder = board
    for group in get("plugin/hparams/session_groups", SUCCESSFUL)["sessionGroups"]:
        (session,) = group["sessions"]
        metrics = {metric["name"]["tag"]: metric["value"] for metric in group["metricValues"]}
        result = json.loads((folder / session["name"] / "result.json").read_text())
        for tag in ("train/loss", "val/loss", "test/loss", *(["test/accuracy"] if "test/accuracy" in result else [])):
            assert metrics[tag] == pytest.approx(result[tag])


@pytest.mark.slow
def test_frozen_weights_are_measured_once(train: Train) -> None:
    """What never changes needs no curve: one point at the start; what trains has one per record."""
    words = ("model=frozen_resnet", "model.backbone.weights=null", "data.limit=20", "batch_size=10", "max_steps=4")
    train("name=run", *words, "monitor.every=2", "monitor=scalars")
    scalars = read(Path("runs/run"))
    assert [event.step for event in scalars.Scalars("watch_weight_norm/backbone.conv1.weight")] == [0]
    assert [event.step for event in scalars.Scalars("watch_weight_norm/head.weight")] == [1, 2, 4]
    assert "watch_grad_norm/backbone.conv1.weight" not in scalars.Tags()["scalars"]
