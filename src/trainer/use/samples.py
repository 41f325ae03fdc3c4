"""The labelled samples that a run is evaluated on: a split of its own, or new ones, prepared as in training."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from trainer.config.request import Config
from trainer.data import fresh
from trainer.data.batches import Batches, LoadedBatches, ResidentBatches
from trainer.data.image_files import FolderImages
from trainer.data.items import Items
from trainer.data.preparation import AsTheyAre, Pictures, Rows, Theirs
from trainer.data.prepare import Fingerprint, Splits, fingerprint, on_device
from trainer.data.quoting import listed
from trainer.data.source import Data, ImageFiles, Samples
from trainer.data.tables.read import SUFFIXES
from trainer.errors import UserError
from trainer.meaning import IGNORED, Classes, Labels, Numbers, Places, Unread, class_names
from trainer.run.data import build_data, build_splits
from trainer.use.form import refuse_other_form, told_form
from trainer.use.trained import Trained

SPLITS = ("train", "val", "test", "all")
# Keys of data that say how it is read, not what.
READING = ("fixed", "num_workers", "download", "urls")


@dataclass(frozen=True)
class Labelled:
    """
    Args:
        data: with the samples in every split of it, for whoever asks for one.
        is_own: whether they are the split that the run had.
        notes: what its user should know.
    """

    data: Data
    splits: Splits
    batches: Batches
    is_own: bool
    told: str
    notes: tuple[str, ...] = ()


def labelled(trained: Trained, split: str | None, typed: Mapping[str, Any]) -> Labelled:
    """
    Args:
        split: train, val, test or all; None for test, and all of new data that has no splits.
        typed: dotted keys; those of `data` say which new data.

    Raises:
        UserError: the data is not there, is not what the model was trained with, or is no longer what it was.
    """
    split = split or "test"
    asked = [key for key in typed if key == "data" or key.startswith("data.")]
    is_new = any(key.rpartition(".")[2] not in READING for key in asked)
    is_another = split == "all" or "data" in typed
    if not is_new or (not is_another and _is_the_same_elsewhere(trained, split)):
        return own(trained, split)
    fresh.refuse_no_text([str(trained.settings.group("data").get("path"))], typed)
    return new(trained, split)


def own(trained: Trained, split: str) -> Labelled:
    """A split of the run's own data. Raises UserError: it has changed since."""
    settings, device = trained.settings, trained.device
    data = build_data(settings)
    splits = build_splits(settings, data, device, trained.dtype)
    if (difference := _difference(trained, data, split)) is not None:
        raise UserError(
            f"data={settings.names['data']}: {difference}. To evaluate on other data than the run's own, say where it "
            "lies: data.path=..., data.root=... or data=... An export is proven on the run's own."
        )
    if split == "all":
        raise UserError("split=all: of the run's own data one split at a time is evaluated. Type split=test.")
    batches: Batches = getattr(splits, split)
    return Labelled(data, splits, batches, True, f"{split} split of {settings.names['data']}")


def _is_the_same_elsewhere(trained: Trained, split: str) -> bool:
    """Whether what was typed leads to the samples that the run had, in another place."""
    try:
        data = build_data(trained.settings)
        build_splits(trained.settings, data, trained.device, trained.dtype)
        return _difference(trained, data, split) is None
    except UserError:
        return False


def _difference(trained: Trained, data: Data, split: str) -> str | None:
    """In words, how a split differs from the run's. Its pictures have the size by then that the model wants."""
    begun = trained.state.get("data", {})
    for name, found in fingerprint(data).items():
        if name in begun and split in (name, "all"):
            difference = found.difference(Fingerprint(*begun[name]))
            if difference is not None:
                return f"the {name} split has {difference}"
    return None


def new(trained: Trained, split: str) -> Labelled:
    """New samples, prepared as those that the model was trained with."""
    settings, inputs, outputs = trained.settings, trained.about.inputs, trained.about.outputs
    config: Config = settings.group("data")
    notes: list[str] = []
    path, root = config.get("path"), config.get("root")
    target = str(config.get("_target_"))
    if isinstance(inputs, Rows):
        if not str(path).lower().endswith(SUFFIXES):
            what = "data" if path is None else f"data.path={path}"
            raise UserError(f"{what}: the model was trained with a table. Type data.path=<a table>.")
        raw, targets = fresh.of_table(path, inputs.recipe, outputs, config, notes)
        return _resident(trained, raw, targets, f"{path}", notes)
    if target == "trainer.data.arrays.load":
        raw, targets = fresh.of_arrays(path, config.get("targets"), outputs, split)
        return _resident(trained, raw, targets, f"{path}", notes)
    if target == "trainer.data.image_folder.load" and isinstance(inputs, Pictures) and isinstance(outputs, Classes):
        files = fresh.of_folder(root, outputs, config.get("background", "white"), split, notes)
        return _of_files(trained, inputs, files, config, f"{root}", notes)
    data = build_data(settings)
    told = f"{split} split of {data.description}"
    if "test" in data.by_chance:  # it comes without splits
        if isinstance(data.test, FolderImages):
            split, told = "test", data.description
            data = replace(data, test=fresh.all_images(data))
        else:
            what = f"{len(data.test):,} of its {len(data.train) + len(data.val) + len(data.test):,} samples"
            data = replace(data, notes=(*data.notes, f"this data has no test split: {what} are taken by chance"))
    if split == "all":
        raise UserError("split=all: this data has splits of its own. Type split=test.")
    if isinstance(getattr(data, split), Items):
        return _of_items(trained, data, split)
    samples = fresh.renumbered(data, split, outputs)
    if isinstance(samples, ImageFiles):
        if not isinstance(inputs, Pictures):
            raise UserError(f"data={settings.names['data']}: has pictures, and the model takes {told_form(inputs)}.")
        return _of_files(trained, inputs, samples, config, told, list(data.notes))
    return _resident(trained, samples.inputs, samples.targets, told, list(data.notes), data.scale)


def _resident(
    trained: Trained, raw: Any, targets: torch.Tensor, told: str, notes: list[str], scale: float | None = None
) -> Labelled:
    inputs = trained.about.inputs
    refuse_other_form(inputs, raw, told)
    if isinstance(inputs, Pictures) and scale is not None and scale != inputs.scale:
        inputs = replace(inputs, scale=scale)  # 0..16 and 0..255 are both 0..1
    if isinstance(trained.about.outputs, Numbers) and targets[0].numel() != trained.about.outputs.num_outputs:
        raise UserError(
            f"{told}: {targets[0].numel()} numbers in a target; the model gives {trained.about.outputs.num_outputs}."
        )
    if isinstance(trained.about.outputs, Labels) and (wrong := trained.about.outputs.wrong_targets(targets)):
        raise UserError(f"{told}: has {wrong}.")
    with_targets = on_device(targets, trained.device, trained.dtype)
    batches: Batches
    if isinstance(inputs, Pictures):
        batches = ResidentBatches(raw.to(trained.device), with_targets, inputs.transform(trained.dtype))
    else:
        batches = ResidentBatches(inputs(raw, trained.device, trained.dtype), with_targets)
    return _whole(trained, Samples(raw, targets), batches, told, notes)


def _of_items(trained: Trained, data: Data, split: str) -> Labelled:
    """Items that are read one by one, whose inputs the model takes as they are, and whose classes are the model's.

    Raises:
        UserError: they are others, or their pictures would be prepared by what is new.
    """
    about, name = trained.about, trained.settings.names["data"]
    if not isinstance(about.inputs, AsTheyAre | Theirs):
        raise UserError(f"data={name}: items of pictures are evaluated as the run had them. In Python: trainer.load.")
    found, known = class_names(data.meaning), class_names(about.outputs)
    if found != known:
        told = " and ".join(listed(names) if names else "none" for names in (found, known))
        raise UserError(f"data={name}: its classes and the model's differ: {told}.")
    if data.meaning.num_outputs != about.outputs.num_outputs:
        sizes = f"{data.meaning.num_outputs} numbers in a target; the model gives {about.outputs.num_outputs}"
        raise UserError(f"data={name}: {sizes}.")
    splits = build_splits(trained.settings, data, trained.device, trained.dtype)
    if splits.input_shape != about.input_shape:
        raise UserError(f"data={name}: samples of shape {list(splits.input_shape)}; give {list(about.input_shape)}.")
    batches: Batches = getattr(splits, split)
    return Labelled(data, splits, batches, False, f"{split} split of {data.description}", data.notes)


def _of_files(
    trained: Trained, inputs: Pictures, files: ImageFiles, config: Config, told: str, notes: list[str]
) -> Labelled:
    if inputs.image_size[0] != inputs.image_size[1]:
        raise UserError(f"{told}: the model takes pictures of {told_form(inputs)}, and files are cropped to squares.")
    files.channels, files.image_size = inputs.channels, inputs.image_size[0]
    transform = replace(inputs, scale=255.0).transform(trained.dtype)
    batches = LoadedBatches(files, trained.device, transform, None, int(config.get("num_workers") or 0))
    return _whole(trained, files, batches, told, notes)


def _whole(trained: Trained, samples: Samples | ImageFiles, batches: Batches, told: str, notes: list[str]) -> Labelled:
    outputs = trained.about.outputs
    data = Data(
        samples,
        samples,
        samples,
        description=told,
        num_classes=outputs.num_outputs if isinstance(outputs, Classes | Places) else None,
        class_names=() if isinstance(outputs, Numbers | Unread) else outputs.names,
        is_multilabel=isinstance(outputs, Labels),
        ignored=outputs.ignored if isinstance(outputs, Places) else IGNORED,
    )
    sizes = trained.about.sizes
    splits = Splits(sizes.input_shape, sizes.num_outputs, batches, batches, batches)
    return Labelled(data, splits, batches, False, f"{told}, {len(batches):,} samples", tuple(notes))
