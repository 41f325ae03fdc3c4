"""Pictures of Pillow as items of a data set of the user's own, and what lies over them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import Tensor

from refusal import says
from trainer.data.given import Asked, as_data
from trainer.data.image_files import FolderImages
from trainer.data.prepare import doubts, prepare
from trainer.data.source import Data

DRAW = np.random.default_rng(0)
SIZES = ((65, 48), (47, 90), (64, 64), (33, 31))  # width and height


def drawn(width: int, height: int, *channels: int) -> np.ndarray[Any, Any]:
    return DRAW.integers(0, 256, (height, width, *channels), dtype=np.uint8)


def first_batch(items: Any, size: int | None, channels: int | None = None) -> Any:
    data = as_data((items, items, items), "mine", Asked())
    (batch,) = prepare(data, torch.device("cpu"), torch.float32, channels, size, normalize=False).val.in_order()
    return batch


@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_becomes_what_a_file_of_its_pixels_becomes(tmp_path: Path, channels: int) -> None:
    pictures = [Image.fromarray(drawn(*size, 3)) for size in SIZES]
    paths = [str(tmp_path / f"{i}.png") for i in range(len(SIZES))]
    for picture, path in zip(pictures, paths, strict=True):
        picture.save(path)
    files = FolderImages(paths, torch.arange(len(SIZES)))
    for size in (16, 40, 70):
        files.channels, files.image_size = channels, size
        found = first_batch([(picture, i) for i, picture in enumerate(pictures)], size, channels).inputs
        assert torch.equal((found * 255).round().to(torch.uint8), torch.stack([files[i][0] for i in range(len(files))]))


def by_hand(mask: np.ndarray[Any, Any], size: int) -> Tensor:
    """The middle square, and of it the pixel that lies under the middle of each new one."""
    height, width = mask.shape
    side = min(mask.shape)
    middle = mask[(height - side) // 2 :, (width - side) // 2 :][:side, :side]
    places = ((np.arange(size) + 0.5) * side / size).astype(int)
    return torch.from_numpy(middle[np.ix_(places, places)].astype(np.int64))


KINDS: dict[str, Callable[[Any], Any]] = {
    "picture": Image.fromarray,
    "array": lambda mask: mask,
    "tensor": torch.from_numpy,
    "palette": lambda mask: Image.frombytes("P", mask.shape[::-1], mask.tobytes()),
    "16 bits": lambda mask: Image.fromarray(mask.astype(np.uint16)),
    "turned, as its image": lambda mask: turned(Image.fromarray(mask)),
}


def turned(picture: Image.Image) -> Image.Image:
    """As a camera that was held on its side stores it."""
    found = picture.transpose(Image.Transpose.ROTATE_90)
    found.getexif()[0x0112] = 6
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_a_mask_gets_the_size_of_its_picture(kind: str) -> None:
    masks = [drawn(*size) % 3 for size in SIZES]
    change = turned if "turned" in kind else lambda picture: picture
    images = [change(Image.fromarray(np.stack([mask * 100] * 3, 2))) for mask in masks]
    for size in (16, 40):
        expected = torch.stack([by_hand(mask, size) for mask in masks])
        batch = first_batch([*zip(images, map(KINDS[kind], masks), strict=True)], size)
        assert torch.equal(batch.targets, expected)
        parts = [(image, {"mask": KINDS[kind](mask), "rows": 5}) for image, mask in zip(images, masks, strict=True)]
        batch = first_batch(parts, size)
        assert torch.equal(batch.targets["mask"].long(), expected)
        assert batch.targets["rows"].tolist() == [5] * len(SIZES)


def test_a_mask_of_half_the_size_lies_over_all_of_its_picture() -> None:
    mask = drawn(40, 30) % 3
    image = Image.fromarray(np.repeat(np.repeat(mask, 2, 0), 2, 1))
    found = first_batch([(image, Image.fromarray(mask))] * 2, 15).targets[0]
    assert torch.equal(found, by_hand(mask, 15))


@pytest.mark.parametrize("size", [None, 20])
def test_a_mask_is_turned_as_its_picture_is_where_it_was_not_before(size: int | None) -> None:
    """Some programs write masks of the pixels as they are stored, others of the picture as it is seen."""
    mask = drawn(30, 20) % 3
    image = turned(Image.fromarray(mask * 100))
    stored = np.rot90(mask).copy()
    expected = by_hand(mask, size) if size else torch.from_numpy(mask.astype(np.int64))
    for given in (mask, stored):
        for of in (Image.fromarray, np.asarray):
            assert torch.equal(first_batch([(image, of(given))] * 2, size).targets[0].long(), expected)
    for orientation in (5, 7, 8):
        image.getexif()[0x0112] = orientation
        batch = first_batch([(image, Image.fromarray(np.asarray(image) // 100))] * 2, None)
        assert torch.equal((batch.inputs[0, 0] * 255).round().long(), batch.targets[0] * 100)


def test_what_can_t_be_told_of_a_mask_is_refused() -> None:
    square = drawn(20, 20) % 3
    image = turned(Image.fromarray(square * 100))
    line = says(first_batch, "image of 20 x 20 pixels is turned", "orientation 6", items=[(image, square)], size=10)
    assert "Give PIL.ImageOps.exif_transpose(image) if it was, and PIL.Image.fromarray(numpy.asarray(image)) if" in line
    found = first_batch([(ImageOps.exif_transpose(image), square)] * 2, 10).targets[0]
    assert torch.equal(found, by_hand(square, 10))
    stored = np.rot90(square).copy()
    found = first_batch([(Image.fromarray(np.asarray(image)), stored)] * 2, 10).targets[0]
    assert torch.equal(found, by_hand(stored, 10))
    items = [(Image.fromarray(drawn(40, 30)), Image.fromarray(square))]
    says(first_batch, "mask of 20 x 20 pixels lies over an image of 40 x 30", items=items, size=10)


def test_fractions_of_a_picture_stay_fractions() -> None:
    depth = DRAW.random((20, 20)).astype(np.float32)
    items = [(Image.fromarray(drawn(20, 20)), Image.fromarray(depth))] * 2
    assert torch.equal(first_batch(items, None).targets[0], torch.from_numpy(depth))


def test_pictures_of_two_kinds_and_other_channels_are_refused_with_what_to_give() -> None:
    colour, grey = Image.fromarray(drawn(20, 20, 3)), Image.fromarray(drawn(20, 20))
    says(first_batch, "Give picture.convert('RGB') of all, or 'L'.", items=[(colour, 0), (grey, 1)], size=None)
    for mode in ("RGB", "L"):
        first_batch([(colour.convert(mode), 0), (grey.convert(mode), 1)], None)
    says(
        first_batch, "Type data.image_size=224", items=[(colour, 0), (Image.fromarray(drawn(30, 20, 3)), 1)], size=None
    )
    for channels in (2, 4):
        says(first_batch, f"model.in_channels={channels}: ", items=[(colour, 0)] * 2, size=20, channels=channels)


def test_files_have_one_channel_or_three(tmp_path: Path) -> None:
    """It was said of the first file that it is not whole."""
    Image.fromarray(drawn(20, 20)).save(tmp_path / "1.png")
    files = FolderImages([str(tmp_path / "1.png")], torch.zeros(1, dtype=torch.int64))
    data = Data(files, files, files, num_classes=1)
    says(prepare, "Type 1 or 3.", data=data, device=torch.device("cpu"), dtype=torch.float32, channels=4)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "RGB"])
def test_an_alpha_channel_of_items_is_said(mode: str) -> None:
    """White on transparency is all white: what to do is said, and then it is told apart."""
    clear, black = Image.new("RGBA", (8, 8), (255, 255, 255, 0)), Image.new("RGBA", (8, 8), "black")
    clear.paste((255, 255, 255, 255), (0, 0, 4, 8))
    items = [*[(Image.new("RGB", (8, 8)), i) for i in range(4)], (clear.convert(mode), 4)]
    data = as_data((items, items, items), "mine", Asked())
    said = [line for line in doubts(data, "mine", torch.float32) if "alpha" in line]
    assert [line.startswith("data=mine: ") and "white shows" in line for line in said] == [True] * (mode != "RGB")
    assert first_batch(items, 8, 3).inputs[4].min() == 1
    black.paste(clear, mask=clear)  # as the line says
    assert first_batch([(black.convert("RGB"), 4)] * 3, 8, 3).inputs[0, 0, 0].tolist() == [1] * 4 + [0] * 4


def test_masks_of_one_class_are_said() -> None:
    """Of 0 and 255 with `loss.ignore_index=255` one class is left: the loss was 0 and the accuracy 1 without a line."""
    mask = np.zeros((8, 8), np.uint8)
    mask[:3] = 255
    items = [(Image.fromarray(drawn(8, 8, 3)), Image.fromarray(mask))] * 2
    said = "all places of the training items are of one class; there is nothing to tell apart."
    assert as_data((items, items, items), "mine", Asked(ignored=255)).notes == (said,)
    assert said not in as_data((items, items, items), "mine", Asked()).notes
