"""A picture as a person sees it: turned as its camera was held, in 8 bits a channel, on a ground."""

import numpy as np
from PIL import Image, ImageOps

# Grey level of what is transparent, by word.
BACKGROUNDS = {"white": 255, "grey": 128, "black": 0}


def is_transparent(image: Image.Image) -> bool:
    """Whether a file says that its pixels may be."""
    return image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info


def upright_8_bit(image: Image.Image, background: str) -> Image.Image:
    """As its camera was held, in 8 bits a channel, on a background where it is transparent."""
    return in_8_bit(ImageOps.exif_transpose(image), background)


def in_8_bit(image: Image.Image, background: str) -> Image.Image:
    """In 8 bits a channel, on a background where it is transparent; the image itself where it is so already."""
    if is_transparent(image):
        shown = image.convert("RGBA")
        level = BACKGROUNDS[background]
        image = Image.alpha_composite(Image.new("RGBA", shown.size, (level, level, level, 255)), shown)
    elif image.mode.startswith("I;16"):  # Pillow's own conversion clips at 255 instead of scaling
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError(f"grey levels of 32 bits, mode {image.mode}; accepted are 8 and 16")
    return image
