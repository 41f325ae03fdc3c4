"""The PROJECTOR tab's files, read by the tab's own code."""

from pathlib import Path

import numpy as np
import pytest
import torch
from google.protobuf import text_format
from PIL import Image
from tensorboard.plugins.projector import projector_plugin
from tensorboard.plugins.projector.projector_config_pb2 import EmbeddingInfo, ProjectorConfig
from torch import Tensor, nn

from meanings import meaning_of
from trainer.monitor import projector
from trainer.monitor.predictions import Collector, Predictions


def judged(inputs: Tensor, targets: Tensor, num_classes: int | None, num_outputs: int = 3) -> Predictions:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(inputs[0].numel(), 4), nn.ReLU(), nn.Linear(4, num_outputs))
    with Collector(model, len(inputs), meaning_of(num_classes)) as collector, torch.no_grad():
        collector.add(inputs, model(inputs), targets)
    return collector.predictions()


def written(folder: Path, predictions: Predictions, names: tuple[str, ...] = ()) -> EmbeddingInfo:
    num_classes = None if predictions.scores is None else predictions.scores.shape[1]
    projector.write(folder, predictions, meaning_of(num_classes, *names))
    config = text_format.Parse((folder / "projector_config.pbtxt").read_text(), ProjectorConfig())
    (info,) = config.embeddings
    return info


def points(folder: Path, info: EmbeddingInfo) -> np.ndarray:
    """As the tab reads them: as a table of text first, and as numbers only where that fails."""
    path = projector_plugin._rel_to_abs_asset_path(info.tensor_path, str(folder / "projector_config.pbtxt"))
    with pytest.raises(UnicodeDecodeError):
        projector_plugin._read_tensor_tsv_file(path)
    return projector_plugin._read_tensor_binary_file(path, info.tensor_shape)


def test_the_points_are_the_features(tmp_path: Path) -> None:
    predictions = judged(torch.randn(7, 6), torch.arange(7) % 3, 3)
    info = written(tmp_path, predictions)
    assert predictions.features is not None
    assert np.allclose(points(tmp_path, info), predictions.features, rtol=4e-5, atol=1e-40)
    assert info.tensor_name == "Color by: true - features of 7 test samples"
    assert not info.HasField("sprite"), "vectors have no picture"


@pytest.mark.parametrize("number", [0.0, -0.0, 1.0, -1e-30, 3e38, 2.0**-126, float("nan"), 0.1])
def test_points_of_any_value_are_taken_for_numbers(tmp_path: Path, number: float) -> None:
    predictions = judged(torch.zeros(5, 6), torch.zeros(5, dtype=torch.int64), 3)
    assert predictions.features is not None
    predictions.features.fill_(number)
    found = points(tmp_path, written(tmp_path, predictions))
    expected = 0.0 if np.isnan(number) else number
    assert found == pytest.approx(np.full((5, 4), expected), rel=4e-5, abs=1e-40)


def test_without_features_the_outputs_are_shown(tmp_path: Path) -> None:
    predictions = Predictions(**{**vars(judged(torch.randn(7, 6), torch.arange(7) % 3, 3)), "features": None})
    info = written(tmp_path, predictions)
    assert np.allclose(points(tmp_path, info), predictions.outputs, rtol=4e-5)
    assert info.tensor_name == "Color by: true - outputs of 7 test samples"


def test_a_line_for_each_point_says_what_it_is_and_what_it_was_taken_for(tmp_path: Path) -> None:
    predictions = judged(torch.randn(7, 6), torch.arange(7) % 3, 3)
    info = written(tmp_path, predictions, ("cat", "two\twords\n", "cow"))
    head, *lines = (tmp_path / info.metadata_path).read_text().splitlines()
    assert head.split("\t") == ["true", "predicted", "is right", "sample"]
    assert predictions.predicted is not None
    names = ["cat", "two words", "cow"]
    assert [line.split("\t") for line in lines] == [
        [names[i % 3], names[said], str(int(said == i % 3)), str(i)]
        for i, said in enumerate(predictions.predicted.tolist())
    ]


def test_there_are_as_many_lines_as_points(tmp_path: Path) -> None:
    """Of outputs that are very wide fewer are kept than of features."""
    whole = judged(torch.randn(9, 6), torch.arange(9) % 3, 3)
    assert whole.predicted is not None
    part = {"outputs": whole.outputs[:4], "targets": whole.targets[:4], "predicted": whole.predicted[:4]}
    info = written(tmp_path, Predictions(**{**vars(whole), **part}))
    assert len(points(tmp_path, info)) == len((tmp_path / info.metadata_path).read_text().splitlines()) - 1 == 4


def test_targets_that_are_numbers_are_columns(tmp_path: Path) -> None:
    info = written(tmp_path, judged(torch.randn(3, 6), torch.tensor([[1.5, 2], [3, 4], [5, 6]]), None, 2))
    assert (tmp_path / info.metadata_path).read_text().splitlines() == [
        "target 0\ttarget 1\tsample",
        "1.5\t2\t0",
        "3\t4\t1",
        "5\t6\t2",
    ]


@pytest.mark.parametrize(("channels", "height", "width"), [(1, 8, 8), (3, 10, 6), (5, 4, 4)])
def test_the_sprite_of_each_sample_is_where_the_tab_looks_for_it(
    tmp_path: Path, channels: int, height: int, width: int
) -> None:
    images = torch.rand(7, channels, height, width)
    info = written(tmp_path, judged(images, torch.arange(7) % 3, 3))
    sheet = np.asarray(Image.open(tmp_path / info.sprite.image_path).convert("RGB"))
    assert list(info.sprite.single_image_dim) == [width, height]
    columns = sheet.shape[1] // width
    assert sheet.shape[:2] == (columns * height, columns * width)
    shown = images if channels in (1, 3) else images[:, :1]
    grey = ((shown - shown.min()) / (shown.max() - shown.min()) * 255).round().byte().expand(-1, 3, -1, -1)
    for i in range(7):
        y, x = i // columns * height, i % columns * width
        assert np.array_equal(sheet[y : y + height, x : x + width], grey[i].permute(1, 2, 0))


def test_writing_again_replaces_all_of_it(tmp_path: Path) -> None:
    written(tmp_path, judged(torch.randn(9, 1, 8, 8), torch.arange(9) % 3, 3))
    predictions = judged(torch.randn(2, 1, 4, 4), torch.arange(2), 3)
    info = written(tmp_path, predictions)
    assert list(info.tensor_shape) == [2, 4]
    assert points(tmp_path, info).shape == (2, 4)
    with Image.open(tmp_path / info.sprite.image_path) as sheet:
        assert sheet.size == (8, 8)
    names = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert names == {
        "projector_config.pbtxt", "projector/points.bytes", "projector/labels.tsv", "projector/sprites.png"
    }  # fmt: skip


def test_a_thousand_large_samples_fit_on_a_sheet_that_a_browser_takes(tmp_path: Path) -> None:
    info = written(tmp_path, judged(torch.rand(1000, 1, 96, 96), torch.arange(1000) % 3, 3))
    with Image.open(tmp_path / info.sprite.image_path) as sheet:
        assert max(sheet.size) <= 2048
