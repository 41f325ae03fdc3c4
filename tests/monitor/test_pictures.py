"""Pictures: every tile and every cell stands where it should and shows the number that it should."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from meanings import meaning_of
from trainer.models.lenet import LeNet
from trainer.models.two_layer import TwoLayer
from trainer.monitor import pictures
from trainer.monitor.events import EventFile
from trainer.monitor.pictures import Pixels, confusion_matrix, filters, first_batch, wrong_samples
from trainer.monitor.predictions import Collector, Predictions

CLASSES, PETS, NUMBERS = meaning_of(3), meaning_of(3, "cat", "dog", "cow"), meaning_of(None)


def judged(outputs: Tensor, targets: Tensor, inputs: Tensor | None = None, num_classes: int | None = 3) -> Predictions:
    """Predictions of a model whose outputs are given."""
    inputs = torch.zeros(len(outputs), 1, 8, 8) if inputs is None else inputs
    with Collector(nn.Identity(), len(outputs), meaning_of(num_classes)) as collector:
        collector.add(inputs, outputs, targets)
    return collector.predictions()


def of_classes(true: list[int], taken: list[int], num_classes: int = 3) -> Predictions:
    return judged(torch.eye(num_classes)[taken] * 5, torch.tensor(true), num_classes=num_classes)


def is_picture(pixels: Pixels) -> bool:
    return pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3


def find(picture: Pixels, tile: Pixels) -> list[tuple[int, int]]:
    """Where (row, column) a tile lies in a picture."""
    height, width = tile.shape[:2]
    windows = np.lib.stride_tricks.sliding_window_view(picture[:, :, 0], (height, width))
    corners = (windows[..., 0, 0] == tile[0, 0, 0]) & (windows[..., -1, -1] == tile[-1, -1, 0])
    return [
        (int(y), int(x))
        for y, x in zip(*corners.nonzero(), strict=True)
        if np.array_equal(picture[y : y + height, x : x + width], tile)
    ]


def enlarged(image: Tensor, low: float, high: float, factor: int) -> Pixels:
    """An image `[C, H, W]` as it should look."""
    grey = ((image - low) / (high - low) * 255).clamp(0, 255).round().byte()
    tile = grey.expand(3, -1, -1).repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    return tile.permute(1, 2, 0).numpy()


# --- the first batch --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("channels", "size", "factor"), [(1, 8, 8), (3, 32, 2), (3, 64, 1)])
def test_samples_are_shown_in_their_order_and_size(channels: int, size: int, factor: int) -> None:
    images = torch.randn(5, channels, size, size, generator=torch.Generator().manual_seed(0))
    picture = first_batch(images, torch.arange(5), CLASSES)
    assert is_picture(picture)
    places = [find(picture, enlarged(image, images.min().item(), images.max().item(), factor)) for image in images]
    assert [len(place) for place in places] == [1] * 5
    assert sorted(places) == places  # row by row


def test_large_images_are_shrunk_and_many_left_out() -> None:
    picture = first_batch(torch.rand(100, 3, 224, 224), torch.zeros(100, dtype=torch.int64), CLASSES)
    assert picture.shape[0] < 1300
    assert picture.shape[1] < 1300


def test_class_names_are_drawn_below_the_samples() -> None:
    images = torch.rand(2, 1, 8, 8)
    by_number = first_batch(images, torch.tensor([0, 1]), CLASSES)
    by_name = first_batch(images, torch.tensor([0, 1]), PETS)
    other = first_batch(images, torch.tensor([0, 0]), PETS)
    rows, columns = np.nonzero((by_name != by_number).any(2))
    assert rows.min() > 64
    assert (columns < 70).any()
    assert (columns > 70).any()
    rows, columns = np.nonzero((by_name != other).any(2))
    assert columns.min() > 70, "the first one is a cat in both"


def test_vectors_are_rows_of_numbers() -> None:
    inputs = torch.tensor([[0.0, 1.0, 2.0], [2.0, 1.0, 0.0]])
    picture = first_batch(inputs, torch.zeros(2, 1), NUMBERS)
    assert is_picture(picture)
    assert {0, 128, 255} <= set(np.unique(picture[40:]))
    assert len(find(picture, np.full((128, 112, 3), 128, np.uint8))) >= 1


@pytest.mark.parametrize(
    "inputs",
    [
        torch.full((3, 1, 8, 8), torch.nan),
        torch.zeros(3, 5, 8, 8),
        torch.zeros(1, 1),
        torch.zeros(2, 5000),
        torch.randn(2, 3, 4, 5, 6),
        torch.full((2, 3), torch.inf),
        torch.rand(2, 3, 1, 300, dtype=torch.float64),
    ],
)
def test_inputs_of_any_shape_can_be_looked_at(inputs: Tensor) -> None:
    for targets in (
        torch.zeros(len(inputs), dtype=torch.int64),
        torch.zeros(len(inputs), 2),
        torch.zeros(len(inputs), 1, 4),
    ):
        picture = first_batch(inputs, targets, NUMBERS)
        assert is_picture(picture)
        assert max(picture.shape) < 1100


# --- what it got wrong ------------------------------------------------------------------------------------------------


def test_the_surest_of_the_wrong_ones_come_first() -> None:
    images = torch.rand(4, 1, 24, 24, generator=torch.Generator().manual_seed(0))
    outputs = torch.tensor([[1.0, 0, 0], [9.0, 0, 0], [0, 0, 9.0], [0, 4.0, 0]])
    predictions = judged(outputs, torch.tensor([1, 1, 2, 0]), images)
    picture = wrong_samples(predictions, PETS)
    assert picture is not None
    wrong = images[[1, 3, 0]]
    places = [find(picture, enlarged(image, wrong.min().item(), wrong.max().item(), 4)) for image in wrong]
    assert sorted(places) == places
    assert [len(place) for place in places] == [1, 1, 1]
    assert not find(picture, enlarged(images[2], wrong.min().item(), wrong.max().item(), 4))
    colours = set(map(tuple, picture.reshape(-1, 3).tolist()))
    assert (0x1A, 0x7F, 0x37) in colours, "the true class is green"
    assert (0xC6, 0x28, 0x28) in colours, "the predicted one is red"


@pytest.mark.parametrize("num_classes", [2, 3, 10, 15])
@pytest.mark.parametrize(("channels", "size"), [(1, 8), (1, 28), (3, 32), (3, 64), (3, 224)])
def test_pictures_are_as_wide_as_the_tab_shows_them(num_classes: int, channels: int, size: int) -> None:
    """In one of another width the tab leaves out pixels, or doubles them, and letters are spoilt."""
    images, meaning = torch.rand(40, channels, size, size), meaning_of(num_classes)
    targets = torch.arange(40) % num_classes
    predictions = judged(torch.eye(num_classes)[(targets + 1) % num_classes], targets, images, num_classes)
    drawn = [wrong_samples(predictions, meaning), confusion_matrix(predictions, meaning)]
    drawn += [first_batch(images, targets, meaning), filters(LeNet(num_classes=num_classes), (1, 32, 32))]
    assert [None if picture is None else picture.shape[1] for picture in drawn] == [350] * 4


def test_nothing_wrong_is_said_in_a_line() -> None:
    picture = wrong_samples(of_classes([0, 1], [0, 1]), CLASSES)
    assert picture is not None
    assert picture.shape[0] < 50


def test_there_is_no_picture_of_what_is_no_image_and_no_class() -> None:
    assert wrong_samples(judged(torch.eye(3), torch.tensor([1, 1, 1]), torch.zeros(3, 6)), CLASSES) is None
    regression = judged(torch.zeros(3, 2), torch.zeros(3, 2), num_classes=None)
    assert wrong_samples(regression, NUMBERS) is None
    assert confusion_matrix(regression, NUMBERS) is None


# --- filters ----------------------------------------------------------------------------------------------------------


def test_filters_of_a_convolution() -> None:
    model = LeNet(num_classes=10)
    picture = filters(model, (1, 32, 32))
    assert picture is not None
    limit = model.conv1.weight.abs().max().item()
    places = [find(picture, enlarged(weight.detach(), -limit, limit, 12)) for weight in model.conv1.weight]
    assert [len(place) for place in places] == [1] * 6
    assert sorted(places) == places


def test_filters_of_colour_are_in_colour_and_of_more_channels_one_by_one() -> None:
    colour, many = nn.Conv2d(3, 4, 5), nn.Conv2d(2, 4, 5)
    picture = filters(nn.Sequential(colour), (3, 8, 8))
    assert picture is not None
    limit = colour.weight.abs().max().item()
    assert all(find(picture, enlarged(weight.detach(), -limit, limit, 12)) for weight in colour.weight)
    picture = filters(nn.Sequential(many), (2, 8, 8))
    assert picture is not None
    limit = many.weight.abs().max().item()
    channels = many.weight.detach().flatten(0, 1).unsqueeze(1)
    assert all(find(picture, enlarged(channel, -limit, limit, 12)) for channel in channels)


def test_a_layer_that_sees_all_pixels_has_filters_of_the_images_size() -> None:
    """Both ways to store it: outputs first as `nn.Linear` does, inputs first as H = X W has it; square or not."""
    for hidden in (7, 48):
        linear = nn.Sequential(nn.Flatten(), nn.Linear(48, hidden))
        two_layer = TwoLayer(in_features=48, hidden_features=hidden, out_features=2)
        with torch.no_grad():
            two_layer.w1.copy_(linear[1].weight.T)
        first, second = filters(linear, (3, 4, 4)), filters(two_layer, (3, 4, 4))
        assert first is not None
        assert second is not None
        below, width = 32, min(first.shape[1], second.shape[1])  # the title differs
        assert np.array_equal(first[below:, :width], second[below:, :width])
        limit = linear[1].weight.abs().max().item()
        factor = {7: 16, 48: 11}[hidden]  # more of them are smaller
        tile = enlarged(linear[1].weight[2].detach().view(3, 4, 4), -limit, limit, factor)
        assert find(first, tile)


@pytest.mark.parametrize(
    ("model", "input_shape"),
    [
        (TwoLayer(in_features=6, out_features=2), (6,)),
        (nn.Sequential(nn.Conv2d(3, 8, 1)), (3, 8, 8)),
        (nn.Sequential(nn.Embedding(5, 7)), (4,)),
        (nn.Sequential(nn.Conv1d(3, 8, 3)), (3, 8)),
        (nn.BatchNorm2d(3), (3, 8, 8)),
    ],
)
def test_weights_that_are_no_picture_have_none(model: nn.Module, input_shape: tuple[int, ...]) -> None:
    assert filters(model, input_shape) is None


# --- the confusion matrix ---------------------------------------------------------------------------------------------


def frame(picture: Pixels) -> tuple[int, int, int]:
    """The top and the left edge of the first cell, and how many pixels all of them take."""
    is_line = (picture == 0xC0).all(2)
    rows, columns = (np.nonzero(is_line.sum(axis) > 20)[0] for axis in (1, 0))  # no letter is as long
    assert rows.max() - rows.min() == columns.max() - columns.min()
    return int(rows.min()) + 1, int(columns.min()) + 1, int(rows.max() - rows.min()) - 1


def cells(picture: Pixels, num_classes: int) -> Pixels:
    """The colour of each cell, at its corner, where no number is: `[num_classes, num_classes, 3]`."""
    top, left, side = frame(picture)
    assert side % num_classes == 0
    cell = side // num_classes
    steps = cell * np.arange(num_classes)
    return picture[top + steps][:, left + steps]


@pytest.mark.parametrize("num_classes", [2, 3, 10, 40, 100])
def test_the_colour_of_a_cell_is_its_share_of_the_row(num_classes: int) -> None:
    generator = torch.Generator().manual_seed(0)
    true = torch.randint(num_classes, (400,), generator=generator)
    taken = torch.where(torch.rand(400, generator=generator) < 0.6, true, true.roll(1))
    predictions = of_classes(true.tolist(), taken.tolist(), num_classes)
    picture = confusion_matrix(predictions, CLASSES)
    assert picture is not None
    assert is_picture(picture)
    counts = predictions.confusion().numpy()
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    colours = cells(picture, num_classes).astype(int)
    darkness = 765 - colours.sum(2)
    assert ((darkness == 0) == (counts == 0)).all()
    is_diagonal = np.eye(num_classes, dtype=bool)
    for part in (is_diagonal, ~is_diagonal):
        order = np.argsort(shares[part])
        assert (np.diff(darkness[part][order]) >= 0).all(), "the darker, the larger the share"
    some = counts > 0
    assert (colours[some & is_diagonal][:, 2] > colours[some & is_diagonal][:, 0]).all(), "right is blue"
    assert (colours[some & ~is_diagonal][:, 0] > colours[some & ~is_diagonal][:, 2]).all(), "wrong is red"


def test_the_numbers_stand_in_the_cells() -> None:
    """Twice the samples: the same shares and so the same colours, but other numbers and another title."""
    once = confusion_matrix(of_classes([0, 1, 1, 2], [0, 1, 2, 2]), CLASSES)
    twice = confusion_matrix(of_classes([0, 1, 1, 2] * 2, [0, 1, 2, 2] * 2), CLASSES)
    assert once is not None
    assert twice is not None
    rows, columns = np.nonzero((once != twice).any(2))
    top, left, side = frame(once)
    inside = (rows >= top) & (rows < top + side)
    places = zip((rows[inside] - top) // (side // 3), (columns[inside] - left) // (side // 3), strict=True)
    changed = {(int(i), int(j)) for i, j in places}
    assert changed == {(0, 0), (1, 1), (1, 2), (2, 2)}
    assert (rows[~inside] < top).all()


def test_class_names_stand_at_both_sides() -> None:
    short = confusion_matrix(of_classes([0, 1, 2], [0, 1, 2]), meaning_of(3, "a", "b", "c"))
    longer = confusion_matrix(of_classes([0, 1, 2], [0, 1, 2]), meaning_of(3, "a", "b", "a long name"))
    longest = confusion_matrix(of_classes([0, 1, 2], [0, 1, 2]), meaning_of(3, "a", "b", "n" * 500))
    assert short is not None
    assert longer is not None
    assert longest is not None
    assert short.shape[0] < longer.shape[0] < longest.shape[0] < 400
    blue = [np.flatnonzero((picture == (8, 48, 107)).all(2).any(0)) for picture in (short, longer, longest)]
    assert blue[0].min() < blue[1].min() < blue[2].min(), "the cells begin behind the names"
    assert short.shape[1] == longer.shape[1] == longest.shape[1] == 350


@pytest.mark.parametrize("num_classes", [1, 500, 1000])
def test_many_classes_still_are_a_picture(num_classes: int) -> None:
    predictions = of_classes([0, num_classes - 1], [0, 0], num_classes)
    picture = confusion_matrix(predictions, CLASSES)
    assert picture is not None
    assert num_classes <= picture.shape[0] < 1000 + num_classes


@pytest.mark.slow
def test_of_very_many_classes_the_most_mistaken_are_drawn() -> None:
    true = [*range(4000), 7, 7, 7, 3000]
    taken = [*range(4000), 3999, 3999, 7, 5]
    predictions = of_classes(true, taken, 4000)
    shown = predictions.most_mistaken(4)
    assert shown.tolist() == [5, 7, 3000, 3999]
    expected = [[1, 0, 0, 0], [0, 2, 0, 2], [1, 0, 1, 0], [0, 0, 0, 1]]
    assert predictions.confusion(shown).tolist() == expected
    assert torch.equal(predictions.confusion(shown), predictions.confusion()[shown][:, shown])
    few = confusion_matrix(of_classes(true, taken, 4000), CLASSES)
    more = confusion_matrix(of_classes([*true, 7999], [*taken, 0], 8000), CLASSES)
    assert few is not None
    assert more is not None
    assert few.shape[0] == more.shape[0] < 1500, "no larger with more classes"


@pytest.mark.parametrize("name", ["", "line\nend", "猫", "🐈", "a\udcff", "%s {x} \\"])
def test_names_of_any_letters_are_drawn(name: str) -> None:
    names = meaning_of(3, name, "dog", "cow")
    predictions = of_classes([0, 1, 2], [1, 0, 0])
    assert wrong_samples(predictions, names) is not None
    assert confusion_matrix(predictions, names) is not None
    assert is_picture(first_batch(torch.rand(3, 1, 8, 8), torch.arange(3), names))


def test_only_a_part_of_the_split_is_said_to_be_one() -> None:
    whole, part = of_classes([0], [0]), of_classes([0], [0])
    part = Predictions(**{**vars(part), "num_samples": 12_345})
    assert pictures._of(whole, 1, "right") == "1 of 1 test samples right"
    assert pictures._of(part, 1, "right") == "1 of the first 1 of 12,345 test samples right"


def test_the_event_file_takes_every_picture(tmp_path: Path) -> None:
    predictions = of_classes([0, 1], [0, 2])
    drawn = {
        "first": first_batch(torch.rand(2, 1, 8, 8), torch.arange(2), CLASSES),
        "wrong": wrong_samples(predictions, CLASSES),
        "confusion": confusion_matrix(predictions, CLASSES),
    }
    file = EventFile(tmp_path)
    for tag, picture in drawn.items():
        assert picture is not None
        file.image(tag, 1, picture)
    file.close()
    found = EventAccumulator(str(tmp_path)).Reload()
    for tag, picture in drawn.items():
        stored = Image.open(io.BytesIO(found.Images(tag)[0].encoded_image_string))
        assert np.array_equal(np.asarray(stored), picture)
