"""From a source's samples to batches on the device: checked, fitted to the model, resident where they fit."""

import math
import os
import zlib
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from trainer.data.batches import Batches, LoadedBatches, ResidentBatches
from trainer.data.images import Augmentation, ImageTransform, channel_statistics
from trainer.data.source import Data, ImageFiles, Samples
from trainer.errors import UserError

# A split of fitted images that takes more than this stays uint8 in its own size; its batches are fitted one by one.
RESIDENT_BYTES = 2 * 1024**3
# How many image files are read for mean and standard deviation.
STATISTICS_FILES = 1024


@dataclass(frozen=True)
class Splits:
    """The three splits as batches, and what a model is sized by.

    Args:
        input_shape: of one sample, as the model gets it.
        num_outputs: classes, or numbers in a float target.
    """

    train: Batches
    val: Batches
    test: Batches
    input_shape: tuple[int, ...]
    num_outputs: int


def check(data: Data, name: str) -> None:
    """Refuses splits that nothing can be learnt from, whoever made them.

    Raises:
        UserError: an empty split, inputs and targets of different lengths, labels outside the classes, NaN.
    """
    for split in ("train", "val", "test"):
        samples = getattr(data, split)
        where = f"data={name}: the {split} split"
        if not isinstance(samples, Samples if isinstance(data.train, Samples) else ImageFiles):
            raise UserError(f"{where} is a {type(samples).__name__}; all three are Samples, or all are ImageFiles.")
        for part in ("inputs", "targets") if isinstance(samples, Samples) else ("targets",):
            kind = type(getattr(samples, part, None))
            if not issubclass(kind, Tensor):
                raise UserError(f"{where} has {part} of type {kind.__name__}; they are a torch.Tensor.")
        if len(samples) == 0:
            raise UserError(f"{where} is empty; it needs at least one sample.")
        targets = samples.targets
        if isinstance(samples, Samples) and samples.inputs.dtype == torch.uint8 and samples.inputs.dim() != 4:
            shape = list(samples.inputs.shape[1:])
            raise UserError(f"{where} has images of shape {shape}; they are uint8 [N, C, H, W].")
        if len(targets) != len(samples):
            raise UserError(f"{where} has {len(samples)} inputs but {len(targets)} targets.")
        if (wrong := data.meaning.wrong_targets(targets)) is not None:
            raise UserError(f"{where} has {wrong}.")
        if isinstance(samples, Samples) and samples.inputs.is_floating_point():
            bad = ~samples.inputs.isfinite()
            if bool(bad.any()):
                first = bad.nonzero()[0].tolist()
                raise UserError(f"{where} has {int(bad.sum())} inputs that are NaN or infinite, the first at {first}.")
        if isinstance(samples, Samples):
            for part in ("inputs", "targets"):
                shape, first = (list(getattr(s, part).shape[1:]) for s in (samples, data.train))
                if shape != first:
                    raise UserError(
                        f"{where} has {part} of shape {shape}, the train split has {first}; they must be equal."
                    )


def doubts(data: Data, name: str) -> list[str]:
    """What may be meant but seldom is, a warning each."""
    found = []
    num_cores = os.cpu_count() or 1
    if data.num_workers > num_cores:
        found.append(
            f"warning: data.num_workers={data.num_workers}: this machine has {num_cores} cores, for which more workers "
            f"wait. Try data.num_workers={num_cores}."
        )
    targets = {split: getattr(data, split).targets for split in ("train", "val", "test")}
    return [*found, *(f"warning: data={name}: {doubt}" for doubt in data.meaning.doubts(targets))]


def fingerprint(data: Data) -> dict[str, str]:
    """Split to what tells it from another: its length, and a checksum of its targets.

    Not of its inputs: standardised on another machine they may differ in the last bit.
    """
    found = {}
    for split in ("train", "val", "test"):
        targets = getattr(data, split).targets.contiguous()
        found[split] = f"{len(targets):,} samples, targets {zlib.crc32(targets.numpy().tobytes()):08x}"
    return found


def limited(data: Data, limit: int | None) -> Data:
    """The first `limit` samples of every split (they are shuffled, or come as the publisher ordered them)."""
    if limit is None:
        return data
    splits: dict[str, Any] = {}
    for split in ("train", "val", "test"):
        samples = getattr(data, split)
        if isinstance(samples, ImageFiles):
            raise UserError(f"data.limit={limit}: image files are not limited. Type data.limit=null.")
        splits[split] = Samples(samples.inputs[:limit], samples.targets[:limit])
    return replace(data, **splits)


def prepare(
    data: Data,
    device: torch.device,
    dtype: torch.dtype,
    channels: int | None = None,
    image_size: int | None = None,
    normalize: bool = True,
    augment: Augmentation | None = None,
) -> Splits:
    """Fits the samples to the model and puts them on the device.

    Args:
        dtype: of float inputs and targets.
        channels, image_size: what the model wants of images; None: as they are.
        normalize: images: minus the mean of the training split, divided by its standard deviation, per channel.
        augment: random changes of the training images.
    """
    num_outputs = data.meaning.num_outputs
    if not data.is_images:
        assert isinstance(data.train, Samples)
        resident = {s: _resident(getattr(data, s), device, dtype) for s in ("train", "val", "test")}
        return Splits(**resident, input_shape=tuple(data.train.inputs.shape[1:]), num_outputs=num_outputs)
    if isinstance(data.train, ImageFiles):
        channels = channels or 3
        for files in (data.train, data.val, data.test):
            assert isinstance(files, ImageFiles)
            files.channels = channels
            files.image_size = image_size or files.image_size
        size = (data.train.image_size, data.train.image_size)
    else:
        stored = data.train.inputs.shape[1]
        if channels not in (None, stored) and stored not in (1, 3):
            raise UserError(
                f"model.in_channels={channels}: the images have {stored} channels; only 1 and 3 are converted."
            )
        channels = channels or stored
        size = (image_size, image_size) if image_size else tuple(data.train.inputs.shape[-2:])  # type: ignore[assignment]
    transform = ImageTransform(channels, size, data.scale, dtype)
    if normalize:
        transform.mean, transform.std = channel_statistics(_some_images(data.train), channels, data.scale)
    batches = {
        split: _image_batches(getattr(data, split), device, transform, augment if split == "train" else None, data)
        for split in ("train", "val", "test")
    }
    return Splits(**batches, input_shape=(channels, *size), num_outputs=num_outputs)


def _resident(samples: Samples, device: torch.device, dtype: torch.dtype) -> ResidentBatches:
    return ResidentBatches(samples.inputs.to(device, dtype), _on_device(samples.targets, device, dtype))


def _on_device(targets: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    return targets.to(device, dtype) if targets.is_floating_point() else targets.to(device)


def _some_images(samples: Samples | ImageFiles) -> Tensor:
    """All images that are in memory, or evenly spaced ones of those on disk."""
    if isinstance(samples, Samples):
        return samples.inputs
    chosen = torch.linspace(0, len(samples) - 1, min(len(samples), STATISTICS_FILES)).long().unique()
    return torch.stack([samples[int(i)][0] for i in chosen])


def _image_batches(
    samples: Samples | ImageFiles,
    device: torch.device,
    transform: ImageTransform,
    augment: Augmentation | None,
    data: Data,
) -> Batches:
    if isinstance(samples, ImageFiles):
        return LoadedBatches(samples, device, transform, augment, data.num_workers)
    images = samples.inputs.to(device)
    targets = _on_device(samples.targets, device, transform.dtype)
    num_bytes = len(images) * transform.channels * math.prod(transform.image_size) * transform.dtype.itemsize
    if num_bytes > RESIDENT_BYTES:
        return ResidentBatches(images, targets, transform, augment)
    fitted = torch.cat([transform(part) for part in images.split(1024)])
    return ResidentBatches(fitted, targets, None, augment)
