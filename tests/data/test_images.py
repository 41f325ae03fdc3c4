"""Images: fitted as Pillow and plain code fit them, and augmented image by image."""

import itertools
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.testing import assert_close

from trainer.data.images import Augmentation, ImageTransform, channel_statistics, to_channels

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def pixels(*shape: int) -> Tensor:
    """uint8, `[N, C, H, W]`."""
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0)).to(torch.uint8)


class TestChannels:
    def test_grey_is_repeated(self):
        grey = pixels(4, 1, 5, 6).double()
        colour = to_channels(grey, 3)
        assert colour.shape == (4, 3, 5, 6)
        assert all(colour[:, c].equal(grey[:, 0]) for c in range(3))

    def test_colour_becomes_the_grey_of_pillow(self):
        colour = pixels(4, 3, 5, 6)
        grey = to_channels(colour.double(), 1)
        for image, found in zip(colour, grey, strict=True):
            expected = np.asarray(Image.fromarray(image.permute(1, 2, 0).numpy()).convert("L"))
            assert_close(found[0], torch.from_numpy(expected.copy()).double(), rtol=0, atol=0.51)  # Pillow rounds

    def test_what_fits_is_left_alone(self):
        colour = pixels(4, 3, 5, 6).double()
        assert to_channels(colour, 3).equal(colour)

    def test_there_and_back_is_where_it_began(self):
        grey = pixels(4, 1, 5, 6).double()
        assert_close(to_channels(to_channels(grey, 3), 1), grey, rtol=1e-12, atol=0)


class TestImageTransform:
    @pytest.mark.parametrize("size", [(32, 32), (5, 5), (3, 11)], ids=str)
    def test_resizes_as_pillow_does(self, size):
        images = pixels(3, 3, 8, 10)
        found = ImageTransform(3, size, 255.0, torch.float32)(images)
        assert found.shape == (3, 3, *size)
        for image, expected in zip(images.flatten(0, 1), found.flatten(0, 1), strict=True):
            by_pillow = Image.fromarray(image.numpy().astype(np.float32)).resize(size[::-1], Image.Resampling.BILINEAR)
            assert_close(expected, torch.from_numpy(np.array(by_pillow)) / 255, rtol=0, atol=1e-6)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
    @pytest.mark.parametrize("scale", [255.0, 16.0])
    def test_scales_and_normalises_each_channel_by_the_formula(self, scale, dtype):
        images = pixels(3, 3, 4, 5)
        mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 2.0)
        found = ImageTransform(3, (4, 5), scale, dtype, mean, std)(images)
        expected = np.empty((3, 3, 4, 5))
        for place, value in np.ndenumerate(images.numpy()):
            expected[place] = (value / scale - mean[place[1]]) / std[place[1]]
        assert found.dtype == dtype
        assert_close(found.double(), torch.from_numpy(expected), rtol=0, atol=1e-15 if dtype == torch.float64 else 1e-5)

    def test_takes_the_grey_of_a_colour_image_before_it_normalises(self):
        images = pixels(3, 3, 4, 5)
        found = ImageTransform(1, (4, 5), 255.0, torch.float64, (0.5,), (0.25,))(images)
        grey = images[:, 0] * 0.299 + images[:, 1] * 0.587 + images[:, 2] * 0.114
        assert_close(found[:, 0], (grey.double() / 255 - 0.5) / 0.25, rtol=0, atol=1e-6)

    def test_an_image_does_not_depend_on_its_neighbours(self):
        transform = ImageTransform(1, (9, 9), 255.0, torch.float32, (0.5,), (0.25,))
        images = pixels(7, 3, 4, 5)
        assert transform(images).equal(torch.cat([transform(images[i : i + 1]) for i in range(7)]))


class TestStatistics:
    def test_are_those_of_all_pixels(self):
        images = pixels(1500, 3, 3, 2)  # more than one part
        mean, std = channel_statistics(images, 3, 16.0)
        expected_std, expected_mean = torch.std_mean(images.double() / 16, dim=(0, 2, 3), correction=0)
        assert mean == pytest.approx(expected_mean.tolist(), rel=1e-12)
        assert std == pytest.approx(expected_std.tolist(), rel=1e-12)

    def test_of_grey_made_from_colour_are_those_of_the_grey(self):
        images = pixels(9, 3, 3, 2)
        grey = to_channels(images.double() / 255, 1)
        assert channel_statistics(images, 1, 255.0) == (
            pytest.approx((grey.mean().item(),)),
            pytest.approx((grey.std(correction=0).item(),)),
        )

    @pytest.mark.parametrize("value", [0, 255])
    def test_a_constant_channel_becomes_zero_and_not_nan(self, value):
        images = pixels(9, 2, 3, 2)
        images[:, 1] = value
        mean, std = channel_statistics(images, 2, 255.0)
        assert (ImageTransform(2, (3, 2), 255.0, torch.float64, mean, std)(images)[:, 1].abs() < 1e-12).all()


def augmented(images: Tensor, seed: int = 0, **arguments: object) -> Tensor:
    before = images.clone()
    result = Augmentation(**arguments)(images, torch.Generator().manual_seed(seed))
    assert images.equal(before)
    assert (result.shape, result.dtype, result.device) == (images.shape, images.dtype, images.device)
    assert result.is_contiguous()
    return result


def windows(image: Tensor, padding: int) -> list[Tensor]:
    """Every crop of the old size out of the image with zeros around it, row by row."""
    channels, height, width = image.shape
    padded = torch.zeros(channels, height + 2 * padding, width + 2 * padding, dtype=image.dtype)
    padded[:, padding : padding + height, padding : padding + width] = image
    places = [(y, x) for y in range(2 * padding + 1) for x in range(2 * padding + 1)]
    return [padded[:, y : y + height, x : x + width] for y, x in places]


def rotated(image: Tensor, angle: float) -> Tensor:
    """Around the middle, pixel by pixel, bilinear, zeros outside."""
    _, height, width = image.shape
    result = torch.zeros_like(image)
    for i in range(height):
        for j in range(width):
            x, y = j - (width - 1) / 2, i - (height - 1) / 2
            column = math.cos(angle) * x - math.sin(angle) * y + (width - 1) / 2
            row = math.sin(angle) * x + math.cos(angle) * y + (height - 1) / 2
            for r in (math.floor(row), math.floor(row) + 1):
                for c in (math.floor(column), math.floor(column) + 1):
                    if 0 <= r < height and 0 <= c < width:
                        result[:, i, j] += image[:, r, c] * (1 - abs(row - r)) * (1 - abs(column - c))
    return result


SINGLE = ({"rotation": 20.0}, {"horizontal_flip": True}, {"crop_padding": 2})


class TestAugmentation:
    def test_a_crop_is_one_of_the_windows_and_every_window_comes_up(self):
        images = pixels(1, 2, 5, 7).expand(500, -1, -1, -1).float() + 1  # no pixel is 0, so windows differ
        choices = windows(images[0], 2)
        found = [
            [i for i, window in enumerate(choices) if window.equal(image)]
            for image in augmented(images, crop_padding=2)
        ]
        assert all(len(matches) == 1 for matches in found)
        counts = torch.bincount(torch.tensor(found).flatten(), minlength=25)
        assert ((counts - 20).abs() < 5 * (500 * 0.04 * 0.96) ** 0.5).all()  # five standard deviations

    def test_a_flip_is_the_mirror_image_of_about_half(self):
        images = pixels(400, 3, 2, 5).float()
        result = augmented(images, horizontal_flip=True)
        num_flipped = 0
        for image, found in zip(images, result, strict=True):
            mirrored = torch.stack([image[:, :, 4 - x] for x in range(5)], 2)
            assert found.equal(image) or found.equal(mirrored)
            num_flipped += found.equal(mirrored)
        assert abs(num_flipped - 200) < 5 * 10

    @pytest.mark.parametrize("shape", [(6, 6), (4, 7)], ids=str)
    def test_a_rotation_is_that_of_plain_code(self, shape):
        images = pixels(5, 2, *shape).double()
        angles = (torch.rand(5, generator=torch.Generator().manual_seed(3)) * 2 - 1) * math.radians(40)
        expected = torch.stack([rotated(image, angle) for image, angle in zip(images, angles.tolist(), strict=True)])
        assert_close(augmented(images, 3, rotation=40.0), expected, rtol=0, atol=1e-3)

    def test_the_angles_fill_the_range_on_both_sides(self):
        """Of a point to the right of the middle: its place tells the angle."""
        images = torch.zeros(300, 1, 41, 41, dtype=torch.float64)
        images[:, 0, 20, 38:41] = 1.0
        result = augmented(images, rotation=60.0)[:, 0]
        rows, columns = torch.meshgrid(torch.arange(41.0) - 20, torch.arange(41.0) - 20, indexing="ij")
        angles = torch.atan2((result * rows).sum((1, 2)), (result * columns).sum((1, 2))).rad2deg()
        assert -61 < angles.min() < -55
        assert 55 < angles.max() < 61
        assert angles.mean().abs() < 5 * 60 / 3**0.5 / 300**0.5

    def test_all_together_are_one_after_another(self):
        images = pixels(6, 3, 8, 8).float()
        generator = torch.Generator().manual_seed(7)
        expected = images
        for single in SINGLE:
            expected = Augmentation(**single)(expected, generator)
        assert augmented(images, 7, rotation=20.0, horizontal_flip=True, crop_padding=2).equal(expected)

    @pytest.mark.parametrize("device", DEVICES)
    @pytest.mark.parametrize("cuts", [(0, 9), (0, 1, 9), (0, 4, 5, 8, 9)], ids=str)
    def test_of_some_rows_is_that_of_these_rows_in_the_whole_batch(self, cuts, device):
        images = pixels(9, 3, 8, 10).float().to(device)
        for arguments in (*SINGLE, {"rotation": 20.0, "horizontal_flip": True, "crop_padding": 2}):
            augment = Augmentation(**arguments)
            parts = [
                augment(images[a:b], torch.Generator().manual_seed(5), slice(a, b), len(images))
                for a, b in itertools.pairwise(cuts)
            ]
            assert torch.cat(parts).equal(augment(images, torch.Generator().manual_seed(5)))

    @pytest.mark.parametrize("device", DEVICES)
    def test_every_device_gets_the_same_draws(self, device):
        images = pixels(6, 3, 8, 8).double()
        arguments = {"rotation": 20.0, "horizontal_flip": True, "crop_padding": 2}
        assert_close(augmented(images.to(device), **arguments).cpu(), augmented(images, **arguments), rtol=0, atol=1e-9)

    def test_nothing_asked_is_nothing_done(self):
        assert not Augmentation()
        assert Augmentation(crop_padding=1)
        assert Augmentation(horizontal_flip=True)
        assert Augmentation(rotation=1.0)
