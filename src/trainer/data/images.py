"""Images fitted to the model: grey or colour, size, scale, normalisation; and their random augmentation."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from trainer.data.pixels import by_policy, erased, jittered, luma
from trainer.errors import UserError


def to_channels(images: Tensor, channels: int) -> Tensor:
    """`[N, c, H, W]` float to `[N, channels, H, W]`: grey is repeated, colour becomes its luma."""
    if images.shape[1] == channels:
        return images
    if images.shape[1] == 1:
        return images.expand(-1, channels, -1, -1)
    return luma(images).expand(-1, channels, -1, -1)


@dataclass
class ImageTransform:
    """uint8 `[N, c, h, w]` to what the model wants: `[N, channels, size, size]` in `dtype`, normalised.

    Args:
        scale: divides the grey levels so that they span 0..1.
        mean, std: per channel, of the training split in 0..1; None leaves 0..1.
    """

    channels: int
    image_size: tuple[int, int]
    scale: float
    dtype: torch.dtype
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __call__(self, images: Tensor) -> Tensor:
        images = to_channels(images.to(self.dtype) / self.scale, self.channels)
        if tuple(images.shape[-2:]) != self.image_size:
            # Anti-aliased, or else shrinking drops pixels instead of averaging them.
            images = F.interpolate(images, self.image_size, mode="bilinear", antialias=True)
        if self.mean is not None and self.std is not None:
            mean, std = (
                torch.tensor(numbers, dtype=self.dtype, device=images.device).view(1, -1, 1, 1)
                for numbers in (self.mean, self.std)
            )
            images = (images - mean).div_(std)
        return images.contiguous()


def resized_masks(masks: Tensor, size: Sequence[int]) -> Tensor:
    """Targets that lie over their images, `[N, H, W]` or `[N, C, H, W]`, in another size: of the nearest pixel."""
    planes = masks.unsqueeze(1) if masks.dim() == 3 else masks
    found = F.interpolate(planes.float(), [*size], mode="nearest-exact").to(masks.dtype)
    return found.squeeze(1) if masks.dim() == 3 else found


def channel_statistics(images: Tensor, channels: int, scale: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel in 0..1 of uint8 `[N, c, H, W]`, over all pixels, in float64."""
    if images.shape[1] in (1, channels):  # each level is counted, which is quicker than to look at each pixel's
        levels = torch.arange(256, dtype=torch.float64, device=images.device) / scale
        counts = [torch.bincount(channel.flatten(), minlength=256) for channel in images.unbind(1)]
        of_levels = torch.stack(counts).expand(channels, -1).double() / counts[0].sum()
        mean = of_levels @ levels
        return _statistics(mean, of_levels @ levels.square())
    total = torch.zeros(channels, dtype=torch.float64)
    squares = torch.zeros(channels, dtype=torch.float64)
    count = 0
    for part in images.split(1024):
        pixels = to_channels(part.double() / scale, channels)
        total += pixels.sum((0, 2, 3))
        squares += pixels.square().sum((0, 2, 3))
        count += pixels.numel() // channels
    return _statistics(total / count, squares / count)


def _statistics(mean: Tensor, square: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation, given means and mean squares."""
    std = (square - mean.square()).clamp_min(0).sqrt()
    std = torch.where(std > 0, std, torch.ones_like(std))  # a constant channel stays 0 instead of becoming NaN
    return tuple(mean.tolist()), tuple(std.tolist())


@dataclass(frozen=True)
class Augmentation:
    """Random changes of training images, each image its own draw. Zeros (the mean colour, once normalised) fill in.

    Args:
        crop_padding: pixels of padding around the image before a crop of the old size at a random place.
        horizontal_flip: mirrors half of the images.
        rotation: degrees; the angle is uniform in -rotation..rotation, bilinear.
        resized_crop: a crop of at least this share of the area, and 3:4 to 4:3 in shape, is brought to the old size.
        policy: randaugment, trivialaugment or autoaugment, by torchvision.
        color_jitter: how far brightness, contrast and saturation may be from 1.
        erase: the probability that a rectangle becomes 0.

    Attributes:
        levels: mean and standard deviation per channel that the images were normalised with, see `of`.
        outside: the label of pixels of a mask that come in from outside; a mask of fractions has 0 there.
    """

    crop_padding: int = 0
    horizontal_flip: bool = False
    rotation: float = 0.0
    resized_crop: float | None = None
    policy: str | None = None
    color_jitter: float = 0.0
    erase: float = 0.0
    levels: tuple[tuple[float, ...], tuple[float, ...]] | None = field(default=None, init=False)
    outside: int = field(default=0, init=False)

    def __bool__(self) -> bool:
        return bool(self.moving or self.color_jitter or self.erase)

    @property
    def moving(self) -> str | None:
        """The first of the keys that change where things are in an image; None where none does."""
        keys = ("crop_padding", "horizontal_flip", "rotation", "resized_crop", "policy")
        return next((key for key in keys if getattr(self, key)), None)

    def of(self, transform: ImageTransform, outside: int = 0) -> Self:
        """The same for images that were made by this transform, and masks with that label outside."""
        found = replace(self)
        object.__setattr__(found, "outside", outside)
        if transform.mean is not None and transform.std is not None:
            object.__setattr__(found, "levels", (transform.mean, transform.std))
        return found

    def __call__(
        self, images: Tensor, generator: torch.Generator, rows: slice = slice(None), of: int | None = None
    ) -> Tensor:
        """`[N, C, H, W]` to the same shape. `generator` lives on the CPU, so all devices draw the same numbers.

        Args:
            rows, of: the images are these rows of a batch of `of`, and get what they would get in the whole batch.
        """
        of = len(images) if of is None else of
        images = self._moved(images, generator, rows, of, "bilinear")
        if self.policy or self.color_jitter:
            mean, std = self._levels(images)
            plain = (images * std + mean).clamp(0, 1)
            if self.policy:
                whole = (plain * 255).round().to(torch.uint8)
                plain = by_policy(whole, self.policy, generator, rows, of).to(images.dtype) / 255
            if self.color_jitter:
                plain = jittered(plain, self.color_jitter, generator, rows, of)
            images = (plain - mean) / std
        return erased(images, self.erase, generator, rows, of) if self.erase else images

    def _levels(self, images: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = self.levels or ((0.0,) * images.shape[1], (1.0,) * images.shape[1])
        both = torch.tensor([mean, std], dtype=images.dtype, device=images.device)
        return both[0].view(1, -1, 1, 1), both[1].view(1, -1, 1, 1)

    def _moved(self, images: Tensor, generator: torch.Generator, rows: slice, of: int | None, mode: str) -> Tensor:
        n, _, height, width = images.shape
        of = n if of is None else of
        device = images.device
        if self.resized_crop:
            # Source: C. Szegedy et al., "Going Deeper with Convolutions", CVPR 2015, section 6.
            area, ratio, x, y = torch.rand(4, of, generator=generator).to(device, images.dtype).unbind()
            area = self.resized_crop + area * (1 - self.resized_crop)
            ratio = torch.exp((ratio * 2 - 1) * math.log(4 / 3))
            wide, tall = (area * ratio).sqrt().clamp_max(1), (area / ratio).sqrt().clamp_max(1)
            zero = torch.zeros_like(area)
            left, top = (2 * x - 1) * (1 - wide), (2 * y - 1) * (1 - tall)
            matrix = torch.stack([wide, zero, left, zero, tall, top], 1).view(of, 2, 3)
            grid = F.affine_grid(matrix[rows], list(images.shape), align_corners=False)
            images = F.grid_sample(images, grid, mode, padding_mode="border", align_corners=False)
        if self.rotation:
            angle = (torch.rand(of, generator=generator) * 2 - 1) * self.rotation
            angle = torch.deg2rad(angle).to(device, images.dtype)
            cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
            matrix = torch.stack([cos, -sin * height / width, zero, sin * width / height, cos, zero], 1).view(of, 2, 3)
            grid = F.affine_grid(matrix[rows], list(images.shape), align_corners=False)
            images = F.grid_sample(images, grid, mode, align_corners=False)
        if self.horizontal_flip:
            flip = (torch.rand(of, generator=generator)[rows] < 0.5).to(device)
            images = torch.where(flip.view(n, 1, 1, 1), images.flip(3), images)
        if self.crop_padding:
            offsets = torch.randint(0, 2 * self.crop_padding + 1, (2, of, 1), generator=generator)[:, rows].to(device)
            lines = offsets[0] + torch.arange(height, device=device)
            columns = offsets[1] + torch.arange(width, device=device)
            padded = F.pad(images, [self.crop_padding] * 4)
            samples = torch.arange(n, device=device).view(n, 1, 1)
            # Advanced indices around the channel slice put the channels last.
            images = padded[samples, :, lines.unsqueeze(2), columns.unsqueeze(1)].movedim(3, 1).contiguous()
        return images

    def masks(
        self, masks: Tensor, generator: torch.Generator, rows: slice = slice(None), of: int | None = None
    ) -> Tensor:
        """Targets that lie over their images, `[N, H, W]` or `[N, C, H, W]`, moved as the images are.

        Args:
            generator: in the state that the images' was in.

        A pixel takes the target of the nearest one; those that come in from outside are `self.outside`.
        """
        if self.policy:
            raise UserError(f"data.augment.policy={self.policy}: does not move masks with their images. Leave it out.")
        planes = masks.unsqueeze(1) if masks.dim() == 3 else masks
        is_float = planes.is_floating_point()
        outside = 0 if is_float else self.outside
        # Zeros come in. Class numbers are exact in float32 up to 2**24.
        moved = self._moved((planes if is_float else planes.float()) - outside, generator, rows, of, "nearest")
        return (moved + outside).to(masks.dtype).view(masks.shape)
