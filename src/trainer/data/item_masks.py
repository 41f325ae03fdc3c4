"""Targets of items that lie over their pictures of Pillow: turned, cropped and resized as these are."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainer.data.dense import as_tensors, is_array
from trainer.errors import UserError

_ORIENTATION = 0x0112  # the tag of EXIF data that says how a camera was held
_ON_ITS_SIDE = (5, 6, 7, 8)  # of its values: height and width change places


def is_picture(part: Any) -> bool:
    """Whether it is one of Pillow's."""
    return type(part).__module__.startswith("PIL.")


def first_picture(inputs: Any) -> Any:
    """The first picture among the inputs of an item; None: it has none."""
    if isinstance(inputs, Mapping | tuple):
        branches = inputs.values() if isinstance(inputs, Mapping) else inputs
        return next((found for branch in branches if (found := first_picture(branch)) is not None), None)
    return inputs if is_picture(inputs) else None


def numbers_of(picture: Any) -> Tensor:
    """Its levels or places in its palette, `[H, W]`, or `[C, H, W]` of several channels: int64, or float32 of floats.

    It is turned as its own EXIF data says.
    """
    from PIL import ImageOps

    levels = np.asarray(ImageOps.exif_transpose(picture))
    numbers = torch.from_numpy(levels.astype(np.float32 if levels.dtype.kind == "f" else np.int64))
    return numbers.movedim(-1, 0) if numbers.dim() == 3 else numbers


def over(target: Any, image: Any, size: tuple[int, int] | None) -> Any:
    """A target that lies over a picture, in the size that the picture gets; any other as it is.

    Args:
        target: a picture; or an array `[..., H, W]` of the height and width of `image`.
        image: a picture of Pillow whose pixels have been read; it is turned as its EXIF data says.
        size: height and width that the middle of `image` gets; None: all of it stays as it is.

    Raises:
        UserError: nothing says whether the target was turned as its image is, or it has other proportions.
    """
    from trainer.data.image_files import fitted_mask

    stored = image.height, image.width
    turn = image.getexif().get(_ORIENTATION, 1)
    upright = stored[::-1] if turn in _ON_ITS_SIDE else stored
    if is_picture(target):
        mask = numbers_of(target)
    elif is_array(target) and np.ndim(target) >= 2 and tuple(target.shape[-2:]) in (stored, upright):
        mask = as_tensors(target, "data: an item")
    else:
        return target
    its = (mask.shape[-2], mask.shape[-1])
    if turn in range(2, 9) and not (is_picture(target) and target.getexif().get(_ORIENTATION, 1) == turn):
        is_as_stored, is_upright = (its == whole or _are_alike(its, whole) for whole in (stored, upright))
        if is_as_stored and is_upright:
            raise UserError(
                f"data: an image of {stored[1]} x {stored[0]} pixels is turned as its EXIF data says (orientation "
                f"{turn}), and its mask does not say whether it was turned before. Give "
                "PIL.ImageOps.exif_transpose(image) if it was, and PIL.Image.fromarray(numpy.asarray(image)) if not."
            )
        if is_as_stored:
            mask = _turned(mask, turn)
            its = its[::-1]
    if size is None:
        return mask
    if not _are_alike(its, upright):
        raise UserError(
            f"data: a mask of {its[1]} x {its[0]} pixels lies over an image of {upright[1]} x {upright[0]}, whose "
            "middle is taken. Resize the mask to the size of its image (NEAREST), or crop both."
        )
    return fitted_mask(mask, *size, upright)


def _are_alike(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether they have the same proportions, but for a pixel that is lost in rounding."""
    return abs(size[0] * other[1] - size[1] * other[0]) <= max(other)


def _turned(mask: Tensor, orientation: int) -> Tensor:
    """As `PIL.ImageOps.exif_transpose` turns a picture of this orientation, `[..., H, W]`."""
    mirrored = mask.transpose(-2, -1)
    return {
        5: mirrored,
        6: mirrored.flip(-1),
        7: mirrored.flip(-2, -1),
        8: mirrored.flip(-2),
    }[orientation]
