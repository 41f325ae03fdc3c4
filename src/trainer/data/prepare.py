"""From a source's samples to batches on the device: checked, fitted to the model, resident where they fit."""

import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trainer.data.batches import Batches, LoadedBatches, ResidentBatches
from trainer.data.images import Augmentation, ImageTransform, channel_statistics
from trainer.data.leaks import leaks
from trainer.data.precision import lost
from trainer.data.source import Data, ImageFiles, Samples
from trainer.disk.checkpoint import checksum
from trainer.errors import UserError
from trainer.limits import num_cores

# A split of fitted images that takes more than this stays uint8 in its own size; its batches are fitted one by one.
RESIDENT_BYTES = 2 * 1024**3
SUMMED = 1 << 20  # numbers at once
SAME = 1e-5  # the largest difference of such sums that is one of rounding
# How many image files are read for mean and standard deviation.
STATISTICS_FILES = 1024


class Fingerprint(NamedTuple):
    """Of a split, see `fingerprint`.

    Args:
        told: in words.
        sums: means of the inputs, of their squares, and of their products with a wave.
    """

    told: str
    sums: tuple[float, ...] = ()

    def difference(self, other: "Fingerprint") -> str | None:
        """How another one differs, in words; None where it is the same."""
        if self.told != other.told:
            return f"{self.told}; the run began with {other.told}"
        scale = max([1e-30, *(abs(x) for x in (*self.sums, *other.sums))])
        if any(abs(a - b) > SAME * scale for a, b in zip(self.sums, other.sums, strict=False)):
            return f"other inputs than the run began with (mean {self.sums[0]:.6g}, was {other.sums[0]:.6g})"
        return None


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


def doubts(data: Data, name: str, dtype: torch.dtype) -> list[str]:
    """What was decided in reading the data, and what may be meant but seldom is (a warning each).

    Args:
        dtype: of float inputs and targets in the run.

    Raises:
        UserError: numbers would become infinite in this type.
    """
    said = [f"data={name}: {note}" for note in data.notes]
    found = [f"warning: data={name}: {note}" for note in lost(data, dtype)]
    cores = num_cores()
    if data.num_workers > cores:
        found.append(
            f"warning: data.num_workers={data.num_workers}: there are {cores} cores for them, for which more "
            f"workers wait. Try data.num_workers={cores}."
        )
    if (leak := leaks(data.train, data.val, data.test)) is not None:
        found.append(f"warning: data={name}: {leak}")
    targets = {split: getattr(data, split).targets for split in ("train", "val", "test")}
    return [*said, *found, *(f"warning: data={name}: {doubt}" for doubt in data.meaning.doubts(targets))]


def fingerprint(data: Data) -> dict[str, Fingerprint]:
    """Split to what tells it from another: its length, a checksum of its targets, three sums over its inputs.

    Sums are compared with some tolerance, for inputs that were standardised on another machine may differ in the last
    bit. Of files whose content is read while training, the names and sizes take the place of the sums.
    """
    return {split: _fingerprint(getattr(data, split)) for split in ("train", "val", "test")}


def _fingerprint(samples: Samples | ImageFiles) -> Fingerprint:
    told = f"{len(samples):,} samples, targets {checksum(samples.targets):08x}"
    if isinstance(samples, ImageFiles):
        content = samples.content()
        return Fingerprint(told if content is None else f"{told}, files {content}")
    inputs = samples.inputs.flatten()
    if inputs.is_complex():
        inputs = torch.view_as_real(inputs).flatten()
    if not inputs.is_floating_point():
        return Fingerprint(f"{told}, inputs {checksum(inputs):08x}")
    # In float64, a part at a time; the wave gives each place a weight of its own.
    sums = torch.zeros(3, dtype=torch.float64)
    for start in range(0, len(inputs), SUMMED):
        part = inputs[start : start + SUMMED].double()
        wave = torch.arange(start, start + len(part), dtype=torch.float64).mul_(0.7).cos_()
        sums += torch.stack([part.sum(), part.square().sum(), (part * wave).sum()])
    return Fingerprint(told, tuple((sums / max(1, len(inputs))).tolist()))


def detached(data: Data) -> Data:
    """The same numbers, without the computation that they may come from; what is no tensor is refused by `check`."""
    splits: dict[str, Any] = {}
    for split in ("train", "val", "test"):
        samples = getattr(data, split)
        if isinstance(samples, Samples):
            parts = (samples.inputs, samples.targets)
            if any(isinstance(part, Tensor) and part.requires_grad for part in parts):
                splits[split] = Samples(*(part.detach() if isinstance(part, Tensor) else part for part in parts))
    return replace(data, **splits) if splits else data


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
    return ResidentBatches(on_device(samples.inputs, device, dtype), on_device(samples.targets, device, dtype))


def on_device(tensor: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Real floats become `dtype`; whole, logical and complex numbers stay what they are."""
    return tensor.to(device, dtype) if tensor.is_floating_point() else tensor.to(device)


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
    targets = on_device(samples.targets, device, transform.dtype)
    num_bytes = len(images) * transform.channels * math.prod(transform.image_size) * transform.dtype.itemsize
    if num_bytes > RESIDENT_BYTES:
        return ResidentBatches(images, targets, transform, augment)
    fitted = torch.cat([transform(part) for part in images.split(1024)])
    return ResidentBatches(fitted, targets, None, augment)
