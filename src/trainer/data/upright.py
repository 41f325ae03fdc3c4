"""A picture as a person sees it: turned as its camera was held, in 8 bits a channel, on a ground."""

import numpy as np
from PIL import Image, ImageOps

# Grey level of what is transparent, by word.
BACKGROUNDS = {"white": 255, "grey": 128, "black": 0}
_BITS, _WHICH_IS_WHITE = 258, 262  # tags of TIFF: BitsPerSample, and PhotometricInterpretation, 0 where 0 is white


# What Pillow does to the levels of a PNG of these bits, by its name for them.
_SCALED = {"L;2": lambda level: level * 85, "L;4": lambda level: level * 17, "RGB;16B": lambda level: level >> 8}


def is_transparent(image: Image.Image) -> bool:
    """Whether a file says that its pixels may be."""
    return image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info


def scale_clear_level(image: Image.Image) -> None:
    """The level, or colour, that a PNG says is transparent: as its pixels will be, not as its file has it.

    Pillow scales pixels alone. Nothing is done to an image that has been decoded: what its file was is forgotten.
    """
    clear = image.info.get("transparency")
    if image.format != "PNG" or not image.tile or isinstance(clear, bytes | None):  # type: ignore[attr-defined]
        return
    if (scaled := _SCALED.get(image.tile[0][3])) is not None:  # type: ignore[attr-defined]
        image.info["transparency"] = tuple(map(scaled, clear)) if isinstance(clear, tuple) else scaled(clear)


def upright_8_bit(image: Image.Image, background: str) -> Image.Image:
    """As its camera was held, in 8 bits a channel, on a background where it is transparent."""
    scale_clear_level(image)
    return in_8_bit(ImageOps.exif_transpose(image), background, image)


def in_8_bit(image: Image.Image, background: str, opened: Image.Image | None = None) -> Image.Image:
    """In 8 bits a channel, on a background where it is transparent; the image itself where it is so already.

    Args:
        opened: what knows of its file, where the image was made of it.

    Raises:
        ValueError: its grey levels have no largest one.
    """
    if has_deep_greys(image):
        return _greys_in_8_bit(image, background, opened or image)
    if is_transparent(image):
        shown = image.convert("RGBA")
        level = BACKGROUNDS[background]
        image = Image.alpha_composite(Image.new("RGBA", shown.size, (level, level, level, 255)), shown)
    elif image.mode == "LAB":  # Pillow makes colours of it alone
        image = image.convert("RGB")
    return image


def has_deep_greys(image: Image.Image) -> bool:
    """Whether it has one channel of more than 8 bits."""
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def _greys_in_8_bit(image: Image.Image, background: str, opened: Image.Image) -> Image.Image:
    """Pillow's own conversion clips at 255 instead of scaling."""
    # Of a PGM with a maximum above 255 Pillow makes levels from 0 to 65,535 in 32 bits.
    if not image.mode.startswith("I;16") and not (image.mode == "I" and opened.format == "PPM"):
        raise ValueError(f"grey levels of 32 bits, mode {image.mode}; accepted are 8 and 16")
    tags = getattr(opened, "tag_v2", {})  # a TIFF's levels are as in the file, whatever its tags say of them
    bits = tags.get(_BITS, (16,))[0]
    levels = np.asarray(image)
    grey = (levels >> (bits - 8)).astype(np.uint8)
    if tags.get(_WHICH_IS_WHITE, 1) == 0:
        grey = 255 - grey
    if isinstance(clear := image.info.get("transparency"), int):
        grey[levels == clear] = BACKGROUNDS[background]
    return Image.fromarray(grey)
