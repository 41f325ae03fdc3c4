"""A folder of images per class, read when they are needed: data that does not fit in memory."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from trainer.data.image_files import SUFFIXES, FolderImages, passed_over
from trainer.data.look import look
from trainer.data.quoting import composed, cut, listed
from trainer.data.source import Data, existing_path
from trainer.data.split import split_rows
from trainer.data.targets import alike
from trainer.errors import UserError

SPLITS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
_JUNK = {"thumbs.db", "desktop.ini"}  # what Windows puts into any folder


def load(
    root: str | None,
    background: str = "white",
    stratify: bool = True,
    val_fraction: float = 0.1,
    test_fraction: float = 0.2,
    split_seed: int = 0,
    num_workers: int = 2,
    cache: str | int | None = None,
) -> Data:
    """Images in `root/<class>/`, or in `root/train/<class>/` with `root/val/<class>/` and `root/test/<class>/`.

    The classes are the names of the folders in alphabetical order. Images may lie deeper in a class's folder, and
    behind links; names that begin with a dot are passed over, and so are files that are not named as images are
    (`SUFFIXES`), which are counted. Every file is looked at before the training begins.

    Args:
        root: the folder.
        background: what shows where a picture is transparent: white, grey or black.
        stratify: each split gets its share of every class.
        val_fraction, test_fraction: the parts that become the splits which have no folder of their own.
        split_seed: decides which images those are.
        num_workers: processes that read images ahead; 0 reads them in the main one.
        cache: see `FolderImages.keep`.

    Raises:
        UserError: there is no such folder, it holds no classes, a class holds no images, or a file is no whole image.
    """
    folder = existing_path("data.root", root)
    others: Counter[str] = Counter()
    try:
        folders = split_folders(folder)
        class_names = tuple(sorted({composed(path.name) for path in _subfolders(folders["train"])}))
        parts = {split: find_images(path, class_names, background, others) for split, path in folders.items()}
    except OSError as error:
        raise UserError(
            f"data.root={root}: {error.filename}: {error.strerror}. Give a folder of folders that you may read."
        ) from error

    together = FolderImages.joined([*parts.values()])
    together.keep(cache)
    notes = [
        *look(together, num_workers),
        *passed_over(dict(others), str(folder)),
        *alike(class_names, "move all into one folder"),
    ]
    rows = torch.arange(len(together)).split([len(part) for part in parts.values()])
    splits: dict[str, Any] = {split: together.take(index) for split, index in zip(parts, rows, strict=True)}
    missing = {split: part for split, part in (("val", val_fraction), ("test", test_fraction)) if split not in parts}
    if missing:
        whole = splits["train"]
        rows = split_rows(len(whole), split_seed, missing, whole.targets if stratify else None)
        splits |= {split: whole.take(index) for split, index in rows.items()}
    return Data(
        **splits,
        description=f"image_folder: {folder}, {len(together):,} images, {len(class_names)} classes",
        num_classes=len(class_names),
        class_names=class_names,
        num_workers=num_workers,
        notes=tuple(notes),
        by_chance=tuple(missing),
    )


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def split_folders(folder: Path) -> dict[str, Path]:
    """The folders of the splits that have one; `folder` itself is `train` where it holds the classes."""
    found = {path.name: path for path in _subfolders(folder)}
    if not found:
        raise UserError(f"data.root={folder}: there is no folder in it. Put the images into a folder per class.")
    if "train" not in found:
        return {"train": folder}
    folders = {split: found[name] for split, names in SPLITS.items() for name in reversed(names) if name in found}
    if others := sorted(found.keys() - {path.name for path in folders.values()}):
        raise UserError(
            f"data.root={folder}: beside train there is {listed(others)}; accepted are train, val and test. "
            f"Rename it, or take it out."
        )
    return folders


def find_images(folder: Path, class_names: tuple[str, ...], background: str, others: Counter[str]) -> FolderImages:
    """All images of one split, class by class; `others` gets the endings of the files that are passed over."""
    paths: list[str] = []
    labels: list[int] = []
    numbers = {composed(name): number for number, name in enumerate(class_names)}
    loose = [path for path in folder.iterdir() if not path.name.startswith(".") and _suffix(path.name) in SUFFIXES]
    others.update(f"{_suffix(path.name)} beside the classes" for path in loose if not path.is_dir())
    for subfolder in _subfolders(folder):
        if (name := composed(subfolder.name)) not in numbers:
            raise UserError(
                f"data.root: {subfolder} is a class that the training images lack; they have {listed(class_names)}."
            )
        images, passed = [], Counter[str]()
        for path in _files(subfolder):
            if path.endswith(SUFFIXES) or (suffix := _suffix(path)) in SUFFIXES:  # the first is quicker
                images.append(path)
            elif os.path.basename(path).lower() not in _JUNK:
                passed[suffix] += 1
        if not images:
            instead = f" It holds {', '.join(f'{suffix} ({n:,})' for suffix, n in passed.items())}." if passed else ""
            raise UserError(
                f"data.root: there is no image in {subfolder}; accepted are {', '.join(SUFFIXES)}.{cut(instead, 200)} "
                f"Put images into it, or take the folder away."
            )
        others.update(passed)
        paths += sorted(images)
        labels += [numbers[name]] * len(images)
    if not paths:
        unlabelled = (
            f", or move {folder.name} elsewhere and type train predict RUN with its new path after the training"
        )
        raise UserError(
            f"data.root: there is no folder of a class in {folder}. "
            f"Put the images into a folder per class{unlabelled if loose and folder.name != 'train' else ''}."
        )
    return FolderImages(paths, torch.tensor(labels), background)


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _files(folder: Path) -> Iterator[str]:
    """The files below a folder, behind links, too, each folder once. Raises OSError: one can't be read."""
    seen: set[tuple[int, int]] = set()
    waiting = [str(folder)]
    while waiting:
        stat = os.stat(waiting[-1])
        with os.scandir(waiting.pop()) as entries:
            if (stat.st_dev, stat.st_ino) in seen:  # a link that leads round in a circle
                continue
            seen.add((stat.st_dev, stat.st_ino))
            for entry in entries:
                if not entry.name.startswith("."):
                    if entry.is_dir():
                        waiting.append(entry.path)
                    else:
                        yield entry.path
