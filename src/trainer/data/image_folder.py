"""A folder of images per class, read when they are needed: data that does not fit in memory."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL
import torch
from PIL import Image, ImageOps
from torch import Tensor

from trainer.data.source import Data, ImageFiles, existing_path, split_off
from trainer.errors import UserError

# What Pillow may take a file for, and by which names files count as images. Not all that it knows: EPS, for one,
# starts another program.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".pgm", ".ppm", ".tif", ".tiff", ".webp")
SPLITS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}


class FolderImages(ImageFiles):
    """Images on disk with their classes. Item `i` is `(uint8 [channels, image_size, image_size], class index)`.

    An image is turned upright as its EXIF data says, resized until its shorter side has `image_size` pixels
    (bilinear, anti-aliased) and cropped to the square in its middle: the ImageNet way, which keeps proportions.

    Raises:
        UserError: on reading an item whose file is not a whole image.
    """

    channels: int = 3
    image_size: int = 224

    def __init__(self, paths: Sequence[str], targets: Tensor) -> None:
        self.paths, self.targets = tuple(paths), targets

    def __len__(self) -> int:
        return len(self.paths)

    def marks(self) -> list[object]:
        """Names, sizes and times of last change; and the release that decodes them."""
        stats = [os.stat(path) for path in self.paths]
        marks = [(p, stat.st_size, stat.st_mtime_ns) for p, stat in zip(self.paths, stats, strict=True)]
        return [PIL.__version__, *marks]

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, size = self.paths[index], (self.image_size, self.image_size)
        mode = "L" if self.channels == 1 else "RGB"
        try:
            with Image.open(path, formats=FORMATS) as image:
                # A JPEG is decoded at the smallest of its built-in scales that is large enough.
                image.draft(mode, (2 * self.image_size, 2 * self.image_size))
                pixels = _upright_8_bit(image).convert(mode)
            pixels = ImageOps.fit(pixels, size, Image.Resampling.BILINEAR)
        except Exception as error:  # Pillow's decoders fail in as many ways as files can be damaged
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(f"data.root: {path} is not a whole image ({reason}). Replace it or take it out.") from error
        numbers = torch.from_numpy(np.array(pixels))
        return numbers.view(*size, self.channels).permute(2, 0, 1).contiguous(), int(self.targets[index])


def _upright_8_bit(image: Image.Image) -> Image.Image:
    if image.mode == "P":  # by way of RGBA: Pillow warns of a palette with transparency
        image = image.convert("RGBA")
    elif image.mode.startswith("I;16"):  # Pillow's own conversion clips at 255 instead of scaling
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError(f"grey levels of 32 bits, mode {image.mode}; accepted are 8 and 16")
    return ImageOps.exif_transpose(image)


def load(
    root: str | None,
    val_fraction: float = 0.1,
    test_fraction: float = 0.2,
    split_seed: int = 0,
    num_workers: int = 2,
) -> Data:
    """Images in `root/<class>/`, or in `root/train/<class>/` with `root/val/<class>/` and `root/test/<class>/`.

    The classes are the names of the folders in alphabetical order. Images may lie deeper in a class's folder; names
    that begin with a dot, and files that are not named as images are (`SUFFIXES`), are passed over.

    Args:
        root: the folder.
        val_fraction, test_fraction: the parts that become the splits which have no folder of their own.
        split_seed: decides which images those are.
        num_workers: processes that read images ahead; 0 reads them in the main one.

    Raises:
        UserError: there is no such folder, it holds no classes, or a class holds no images.
    """
    folder = existing_path("data.root", root)
    try:
        folders = _split_folders(folder)
        class_names = tuple(path.name for path in _subfolders(folders["train"]))
        parts = {split: _find_images(path, class_names) for split, path in folders.items()}
    except OSError as error:
        raise UserError(f"data.root={root}: {error.filename}: {error.strerror}. Give a folder of folders.") from error

    missing = {split: part for split, part in (("val", val_fraction), ("test", test_fraction)) if split not in parts}
    if missing:
        whole = parts["train"]
        for split, rows in split_off(len(whole), split_seed, **missing).items():
            parts[split] = FolderImages([whole.paths[i] for i in rows], whole.targets[rows])
    return Data(
        parts["train"],
        parts["val"],
        parts["test"],
        description=f"image_folder: {folder}, {sum(map(len, parts.values())):,} images, {len(class_names)} classes",
        num_classes=len(class_names),
        class_names=class_names,
        num_workers=num_workers,
    )


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _split_folders(folder: Path) -> dict[str, Path]:
    """The folders of the splits that have one; `folder` itself is `train` where it holds the classes."""
    found = {path.name: path for path in _subfolders(folder)}
    if not found:
        raise UserError(f"data.root={folder}: there is no folder in it. Put the images into a folder per class.")
    if "train" not in found:
        return {"train": folder}
    folders = {split: found[name] for split, names in SPLITS.items() for name in reversed(names) if name in found}
    if others := sorted(found.keys() - {path.name for path in folders.values()}):
        raise UserError(
            f"data.root={folder}: beside train there is {', '.join(others)}; accepted are train, val and test. "
            f"Rename it, or take it out."
        )
    return folders


def _find_images(folder: Path, class_names: tuple[str, ...]) -> FolderImages:
    """All images of one split, class by class."""
    paths: list[str] = []
    labels: list[int] = []
    for subfolder in _subfolders(folder):
        if subfolder.name not in class_names:
            raise UserError(
                f"data.root: {subfolder} is a class that the training images lack; they have {', '.join(class_names)}."
            )
        images = sorted(
            str(path)
            for path in subfolder.rglob("*")
            if path.suffix.lower() in SUFFIXES
            and not any(part.startswith(".") for part in path.relative_to(subfolder).parts)
        )
        if not images:
            raise UserError(f"data.root: there is no image in {subfolder}; accepted are {', '.join(SUFFIXES)}.")
        paths += images
        labels += [class_names.index(subfolder.name)] * len(images)
    if not paths:
        raise UserError(
            f"data.root: there is no folder of a class in {folder}. Put the images into a folder per class."
        )
    return FolderImages(paths, torch.tensor(labels))
