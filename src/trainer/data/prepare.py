"""From a source's samples to batches on the device: checked, fitted to the model, resident where they fit."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trainer.data.batches import Batches, LoadedBatches, ResidentBatches, lies_over, with_masks
from trainer.data.images import Augmentation, ImageTransform, channel_statistics, resized_masks
from trainer.data.item_batches import ItemBatches, OwnTargets
from trainer.data.item_masks import first_picture
from trainer.data.item_parts import Pictures
from trainer.data.items import Items
from trainer.data.leaks import Leak
from trainer.data.precision import lost
from trainer.data.source import SPLITS, Data, ImageFiles, Samples
from trainer.disk.checkpoint import checksum
from trainer.errors import UserError
from trainer.meaning import Numbers
from trainer.system.limits import num_cores
from trainer.trees import Tree, leaves, mapped

# A split of fitted images that takes more than this stays uint8 in its own size; its batches are fitted one by one.
RESIDENT_BYTES = 2 * 1024**3
SUMMED = 1 << 20  # numbers at once
SAME = 1e-5  # the largest difference of such sums that is one of rounding
# How many image files are read for mean and standard deviation.
STATISTICS_FILES = 1024
_LAST = "If their channels come last, move them to the front: [C, H, W]."
LOOKED_AT = 8  # items of a split that tell it from another


class Fingerprint(NamedTuple):
    """Of a split, see `fingerprint`.

    Args:
        told: in words.
        sums: means of the inputs, of their squares, and of their products with a wave.
    """

    told: str
    sums: tuple[float, ...] = ()

    def has_other_files(self, other: "Fingerprint") -> bool:
        """Whether it differs in the content of files alone, not in their number or targets."""
        mine, _, files = self.told.partition(", files ")
        same, _, others = other.told.partition(", files ")
        return mine == same and bool(files) and files != others

    def difference(self, other: "Fingerprint") -> str | None:
        """How another one differs, in words; None where it is the same.

        An older release did not know some targets that this one knows: then sums over items, with their targets, tell.
        """
        short, long = sorted((self.told, other.told), key=len)
        is_one_without = long.startswith(f"{short}, targets ") and self.sums and other.sums
        if short != long and not is_one_without:
            return f"{self.told}; the run began with {other.told}"
        scale = max([1e-30, *(abs(x) for x in (*self.sums, *other.sums))])
        if any(abs(a - b) > SAME * scale for a, b in zip(self.sums, other.sums, strict=False)):
            return f"other inputs than the run began with (mean {self.sums[0]:.6g}, was {other.sums[0]:.6g})"
        return None


@dataclass(frozen=True)
class Sizes:
    """What a model is sized by.

    Args:
        input_shape: of one sample, as the model gets it; empty where inputs are a dict or tuple.
        num_outputs: classes, or numbers in a float target; 0 where there are neither.
        vocab_size: where inputs are tokens: one more than the largest in any split.
    """

    input_shape: tuple[int, ...]
    num_outputs: int
    vocab_size: int | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class Splits(Sizes):
    """The three splits as batches.

    Args:
        transform: what images went through, or will go through; None of other inputs.
    """

    train: Batches
    val: Batches
    test: Batches
    transform: ImageTransform | None = None


def check(data: Data, name: str) -> None:
    """Refuses splits that nothing can be learnt from, whoever made them.

    Raises:
        UserError: an empty split, inputs and targets of different lengths, labels outside the classes, NaN.
    """
    for split in SPLITS:
        samples = getattr(data, split)
        where = f"data={name}: the {split} split"
        kind = next((kind for kind in (Samples, Items, ImageFiles) if isinstance(data.train, kind)), ImageFiles)
        if not isinstance(samples, kind):
            raise UserError(f"{where} is a {type(samples).__name__}; all three are Samples, or all are ImageFiles.")
        if isinstance(samples, Samples):
            _check_trees(samples, where)
        elif isinstance(samples, ImageFiles) and not isinstance(targets := getattr(samples, "targets", None), Tensor):
            raise UserError(f"{where} has targets of type {type(targets).__name__}; they are a torch.Tensor.")
        if len(samples) == 0:
            raise UserError(f"{where} is empty; it needs at least one sample.")
        if isinstance(samples, Items):
            _check_items(data, samples, where)
            continue
        _check_images(samples, where)
        if any(len(part) != len(samples) for part in leaves(samples.targets)):
            lengths = " and ".join(str(len(part)) for part in leaves(samples.targets))
            raise UserError(f"{where} has {len(samples)} inputs but {lengths} targets.")
        if not data.are_own_targets and isinstance(samples.targets, Tensor):
            _refuse_wrong(data, samples.targets, where)
        if isinstance(samples, Samples):
            _check_numbers(data, split, where)


def _check_trees(samples: Samples, where: str) -> None:
    """Raises UserError where a split has something else than tensors, or inputs of different lengths."""
    for part in ("inputs", "targets"):
        tree = getattr(samples, part)
        branches = tree.values() if isinstance(tree, Mapping) else tree if isinstance(tree, tuple) else [tree]
        other = [type(branch).__name__ for branch in branches if not isinstance(branch, Tensor)]
        if other and not (part == "targets" and tree is None):
            raise UserError(f"{where} has {part} of type {other[0]}; they are a torch.Tensor.")
        if len({len(leaf) for leaf in leaves(tree)}) > 1:
            lengths = ", ".join(str(len(leaf)) for leaf in leaves(tree))
            raise UserError(f"{where} has {part} of {lengths} samples; all parts have one length.")


def _refuse_wrong(data: Data, targets: Tensor, where: str) -> None:
    if (wrong := data.meaning.wrong_targets(targets)) is None:
        return
    hint = ""
    if isinstance(data.meaning, Numbers) and not targets.is_floating_point():
        hint = " Type data.task=classification, or data.task=multilabel for 0 and 1 of several labels."
    raise UserError(f"{where} has {wrong}.{hint}")


def _check_images(samples: Samples | ImageFiles, where: str) -> None:
    inputs = getattr(samples, "inputs", None)
    if isinstance(inputs, Tensor) and inputs.dtype == torch.uint8 and inputs.dim() != 4:
        grey = "inputs.unsqueeze(1) for grey images, " if inputs.dim() == 3 else ""
        raise UserError(
            f"{where} has uint8 inputs of shape {list(inputs.shape[1:])}; images are uint8 [N, C, H, W]. Give "
            f"{grey}inputs.float() for numbers, signals and videos, inputs.long() for whole numbers such as tokens."
        )


def _check_numbers(data: Data, split: str, where: str) -> None:
    """Raises UserError for inputs that are not finite, or of another shape than those of the training split."""
    samples, rows = data.splits[split], data.rows.get(split)
    for inputs in leaves(samples.inputs):
        has_nan = inputs.is_floating_point() or inputs.is_complex()
        bad = ~inputs.isfinite() if has_nan else inputs.new_zeros(0, dtype=torch.bool)
        if bool(bad.any()):
            first = bad.nonzero()[0].tolist()
            named = "" if rows is None else f" (row {int(rows[first[0]])} of the data)"
            told = f"{where} has {int(bad.sum())} inputs that are NaN or infinite"
            raise UserError(f"{told}, the first at {first}{named}.")
    for part in ("inputs", "targets"):
        shape, first = (
            mapped(lambda tensor: list(tensor.shape[1:]), getattr(each, part)) for each in (samples, data.train)
        )
        if shape != first:
            raise UserError(f"{where} has {part} of shape {shape}, the train split has {first}; they must be equal.")


def _check_items(data: Data, items: Items, where: str) -> None:
    """Looks at the first item of a split, and at its targets, as far as they are known."""
    inputs, targets = items.sample
    words = [name for name, part in (inputs.items() if isinstance(inputs, dict) else ()) if not leaves(part)]
    if words:
        raise UserError(
            f"{where} has inputs {', '.join(words)} that are no numbers. Choose with data.inputs=[...], or give a "
            "collate_fn that makes tensors of them."
        )
    first = data.train.sample[0]
    kinds = [mapped(lambda tensor: (tensor.dim(), tensor.dtype), tree) for tree in (inputs, first)]
    if kinds[0] != kinds[1]:
        raise UserError(f"{where} has inputs of another form than the train split.")
    if isinstance(targets, Tensor) and not data.are_own_targets:
        _refuse_wrong(data, targets if items.known is None else items.known, where)
    if items.fixed:
        once, again = ([[*map(checksum, row)] for row in _some_rows(items, draws)] for draws in ("once", "again"))
        if once != again:
            raise UserError(f"data.fixed=true: {where} has items that change when they are read again. Leave it out.")


def left_behind(data: Data, augment: Augmentation | None) -> list[str]:
    """A warning of targets that stay as they are where the images are moved, though they may say where things are."""
    if augment is None or augment.moving is None or data.are_own_targets:
        return []
    inputs, targets = data.example
    parts = [part for part in leaves(targets) if not lies_over(part, inputs)]
    places = [part for part in parts if part.dim() > 2]
    is_row = isinstance(targets, Tensor) and isinstance(data.meaning, Numbers)
    numbers = [part for part in parts if part.dim() == 2 and (is_row or part.shape[1] > 1) and part.is_floating_point()]
    if isinstance(targets, Tensor) and not is_row:
        numbers = []  # shares of classes, or several labels
    if not places and not numbers:
        return []
    what = f"of shape {['N', *places[0].shape[1:]]}".replace("'", "") if places else "that are numbers"
    advice = "Give masks in the size of their images, [N, H, W] or [N, C, H, W]; or leave" if places else "Leave"
    return [
        f"warning: data.augment.{augment.moving} moves images; targets {what} stay as they are, which is wrong where "
        f"they are places or directions. {advice} it out."
    ]


def doubts(
    data: Data, name: str, dtype: torch.dtype, leak: Leak | None = None, augment: Augmentation | None = None
) -> list[str]:
    """What was decided in reading the data, and what may be meant but seldom is (a warning each).

    Args:
        dtype: of float inputs and targets in the run.
        leak: what the splits have in common.
        augment: random changes of the training images.

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
    if isinstance(data.train, ImageFiles):
        found += [f"warning: {doubt}" for doubt in data.train.doubts()]
    if leak is not None and leak.said:
        found.append(f"warning: data={name}: {leak.said}")
    if leak is not None and leak.contradicted:
        said.append(f"data={name}: {leak.contradicted}")
    found += left_behind(data, augment)
    if isinstance(data.train, Items) and data.train.has_transparent():
        said.append(
            f"data={name}: pictures of items have an alpha channel; where they are transparent, white shows. For "
            "another ground, give pictures without one: paste them on a picture of that ground."
        )
    if isinstance(data.train, Items) and not data.train.is_repeatable():
        found.append(
            f"warning: data={name}: item 0 differs when it is read again, though torch, NumPy and random draw the same "
            "for it: it has a generator of its own, counts, or asks the clock. So data.num_workers, and stopping and "
            "continuing, change numbers. Draw by torch.rand, numpy.random or random themselves."
        )
    shape = data.sample_shape
    is_like_images = len(shape) == 3 and shape[-1] in (1, 3) and shape[0] not in (1, 2, 3, 4)
    if is_like_images and (data.is_images or shape[0] == shape[1]):
        found.append(f"warning: data={name}: the images have {shape[0]} channels and are {shape[-1]} wide. {_LAST}")
    targets = {name: targets_of(split) for name, split in data.splits.items()}
    if data.are_own_targets or not all(isinstance(part, Tensor) for part in targets.values()):
        return [*said, *found]
    return [*said, *found, *(f"warning: data={name}: {doubt}" for doubt in data.meaning.doubts(targets))]


def targets_of(split: Any) -> Tree:
    """All targets of a split; None where it has none, or where they are read while training."""
    return split.known if isinstance(split, Items) else split.targets


def fingerprint(data: Data) -> dict[str, Fingerprint]:
    """Split to what tells it from another: its length, a checksum of its targets, three sums over its inputs.

    Sums are compared with some tolerance, for inputs that were standardised on another machine may differ in the last
    bit. Of files whose content is read while training, their `content` takes the place of the sums.
    """
    return {name: _fingerprint(split) for name, split in data.splits.items()}


def _fingerprint(samples: Samples | ImageFiles | Items) -> Fingerprint:
    targets = targets_of(samples)
    sums = ", ".join(f"{checksum(part):08x}" for part in leaves(targets))
    told = f"{len(samples):,} samples" + (f", targets {sums}" if sums else "")
    if isinstance(samples, ImageFiles):
        content = samples.content()
        return Fingerprint(told if content is None else f"{told}, files {content}")
    if isinstance(samples, Items):
        return Fingerprint(told, _sums([_real(leaf).double() for row in _some_rows(samples) for leaf in row]))
    whole = [*map(_real, leaves(samples.inputs))]
    exact = ", ".join(f"{checksum(leaf):08x}" for leaf in whole if not leaf.is_floating_point())
    return Fingerprint(
        f"{told}, inputs {exact}" if exact else told, _sums([leaf for leaf in whole if leaf.is_floating_point()])
    )


def _real(tensor: Tensor) -> Tensor:
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def _some_rows(items: Items, draws: str = "fingerprint") -> list[list[Tensor]]:
    """The numbers of some items, evenly spaced."""
    rows = torch.linspace(0, len(items) - 1, min(len(items), LOOKED_AT)).long().unique().tolist()
    return [leaves(items.load((draws, [row]))) for row in rows]


def _sums(tensors: list[Tensor]) -> tuple[float, ...]:
    """Means of numbers, of their squares, and of their products with a wave, which gives each place its own weight."""
    if not tensors:
        return ()
    sums, count = torch.zeros(3, dtype=torch.float64), 0
    for tensor in tensors:
        inputs = tensor.flatten()
        for start in range(0, len(inputs), SUMMED):  # in float64, a part at a time
            part = inputs[start : start + SUMMED].double()
            first = count + start
            wave = torch.arange(first, first + len(part), dtype=torch.float64).mul_(0.7).cos_()
            sums += torch.stack([part.sum(), part.square().sum(), (part * wave).sum()])
        count += len(inputs)
    return tuple((sums / max(1, count)).tolist())


def detached(data: Data) -> Data:
    """The same numbers, without the computation that they may come from; what is no tensor is refused by `check`."""
    splits: dict[str, Any] = {}
    for split, samples in data.splits.items():
        if isinstance(samples, Samples):
            parts = (samples.inputs, samples.targets)
            if any(leaf.requires_grad for leaf in leaves(parts)):
                splits[split] = Samples(*mapped(Tensor.detach, parts))
    return replace(data, **splits)


def limited(data: Data, limit: int | None) -> Data:
    """The first `limit` samples of every split (they are shuffled, or come as the publisher ordered them)."""
    if limit is None:
        return data
    splits: dict[str, Any] = {}
    for split, samples in data.splits.items():
        if isinstance(samples, ImageFiles):
            raise UserError(f"data.limit={limit}: image files are not limited. Type data.limit=null.")
        if isinstance(samples, Items):
            splits[split] = samples.take(torch.arange(min(limit, len(samples))), split)
        else:
            splits[split] = samples.take(slice(limit))
    return replace(data, **splits)


def prepare(
    data: Data,
    device: torch.device,
    dtype: torch.dtype,
    channels: int | None = None,
    image_size: int | None = None,
    normalize: bool = True,
    augment: Augmentation | None = None,
    outside: int = 0,
) -> Splits:
    """Fits the samples to the model and puts them on the device.

    Args:
        dtype: of float inputs and targets.
        channels, image_size: what the model wants of images; None: as they are.
        normalize: images: minus the mean of the training split, divided by its standard deviation, per channel.
        augment: random changes of the training images.
        outside: the class of pixels of a mask that come in from outside, where these move the image.
    """
    num_outputs = data.meaning.num_outputs
    if not data.is_images:
        train, val, test = (_batches(split, device, dtype, data) for split in data.splits.values())
        return Splits(data.sample_shape, num_outputs, train, val, test)
    if isinstance(data.train, Items):
        channels, size = _fit_pictures(data, channels, image_size)
    elif isinstance(data.train, ImageFiles):
        channels = _channels_of_pictures(channels) or 3
        for files in data.splits.values():
            files.channels = channels
            files.image_size = image_size or files.image_size
        size = (data.train.image_size, data.train.image_size)
    else:
        channels = _channels(channels, tuple(data.train.inputs.shape[1:]))
        size = (image_size, image_size) if image_size else tuple(data.train.inputs.shape[-2:])
    transform = ImageTransform(channels, size, data.scale, dtype)
    if normalize:
        transform.mean, transform.std = channel_statistics(_some_images(data.train), channels, data.scale)
    augment = None if augment is None else augment.of(transform, outside)
    train, val, test = (
        _image_batches(split, device, transform, augment if name == "train" else None, data)
        for name, split in data.splits.items()
    )
    if data.are_own_targets:
        num_outputs = channels * math.prod(size)
    return Splits((channels, *size), num_outputs, train, val, test, transform)


def _batches(samples: Samples | Items, device: torch.device, dtype: torch.dtype, data: Data) -> Batches:
    if isinstance(samples, Items):
        return ItemBatches(samples, device, dtype, num_workers=data.num_workers, are_own_targets=data.are_own_targets)
    inputs, targets = (
        mapped(lambda tensor: on_device(tensor, device, dtype), tree) for tree in (samples.inputs, samples.targets)
    )
    # A copy: a model may write into what it is given.
    return ResidentBatches(inputs, mapped(Tensor.clone, inputs) if data.are_own_targets else targets)


def _fit_pictures(data: Data, channels: int | None, image_size: int | None) -> tuple[int, tuple[int, int]]:
    """Tells items that are pictures what the model wants; what they then are."""
    if first_picture(data.train.raw_inputs(("first", [0]))[0]) is not None:
        channels = _channels_of_pictures(channels)
    for items in data.splits.values():
        items.pictures = Pictures(channels, image_size)
        vars(items).pop("sample", None)  # of another size
    shape = tuple(data.train.sample[0].shape[1:])
    return _channels(channels, shape), (image_size, image_size) if image_size else shape[1:]


def _channels_of_pictures(wanted: int | None) -> int | None:
    """Those that Pillow gives. Raises UserError: the model wants others."""
    if wanted not in (None, 1, 3):
        raise UserError(f"model.in_channels={wanted}: pictures become grey or colours. Type 1 or 3.")
    return wanted


def _channels(wanted: int | None, shape: tuple[int, ...]) -> int:
    """Of images of a shape, as a model gets them. Raises UserError: it wants others, and they are not converted."""
    if wanted not in (None, shape[0]) and shape[0] not in (1, 3):
        told = f"the images have {shape[0]} channels; only 1 and 3 are converted."
        raise UserError(f"model.in_channels={wanted}: {told}{f' {_LAST}' if shape[-1] in (1, 3) else ''}")
    return wanted or shape[0]


def on_device(tensor: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Real floats become `dtype`, both parts of complex numbers, too; whole and logical numbers stay what they are."""
    if tensor.is_complex():
        return tensor.to(device, dtype.to_complex())
    return tensor.to(device, dtype) if tensor.is_floating_point() else tensor.to(device)


def _some_images(samples: Samples | ImageFiles | Items) -> Tensor:
    """All images that are in memory, or evenly spaced ones of those that are read while training."""
    if isinstance(samples, Samples):
        return samples.inputs
    chosen = torch.linspace(0, len(samples) - 1, min(len(samples), STATISTICS_FILES)).long().unique()
    if isinstance(samples, Items):
        return samples.load(("statistics", chosen.tolist()))[0]
    return torch.stack([samples[int(i)][0] for i in chosen])


def _image_batches(
    samples: Samples | ImageFiles | Items,
    device: torch.device,
    transform: ImageTransform,
    augment: Augmentation | None,
    data: Data,
) -> Batches:
    if isinstance(samples, Items):
        num_workers, are_own = data.num_workers, data.are_own_targets
        return ItemBatches(samples, device, transform.dtype, transform, augment, num_workers, are_own)
    if isinstance(samples, ImageFiles):
        found: Batches = LoadedBatches(samples, device, transform, augment, data.num_workers)
        return OwnTargets(found) if data.are_own_targets else found
    images = samples.inputs.to(device)
    targets = mapped(lambda tensor: on_device(tensor, device, transform.dtype), samples.targets)
    if tuple(images.shape[-2:]) != transform.image_size:
        targets = with_masks(targets, images, lambda masks: resized_masks(masks, transform.image_size))
    num_bytes = len(images) * transform.channels * math.prod(transform.image_size) * transform.dtype.itemsize
    if num_bytes > RESIDENT_BYTES:
        found = ResidentBatches(images, targets, transform, augment)
        return OwnTargets(found) if data.are_own_targets else found
    fitted = torch.cat([transform(part) for part in images.split(1024)])
    if not data.are_own_targets:
        return ResidentBatches(fitted, targets, None, augment)
    found = ResidentBatches(fitted, fitted.clone(), None, augment)
    return OwnTargets(found) if augment else found
