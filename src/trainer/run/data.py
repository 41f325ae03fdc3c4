"""The data of a run: what the source gives, checked, and its splits as batches that fit the model."""

import contextlib
import io
from dataclasses import fields, replace

import torch
from torch import Tensor

from trainer.config import shipped, trust
from trainer.config.settings import Settings
from trainer.data.download import only_as_asked
from trainer.data.folds import in_folds, pooled
from trainer.data.given import Asked, as_data
from trainer.data.images import Augmentation
from trainer.data.items import Items
from trainer.data.pixels import refuse_missing_torchvision
from trainer.data.prepare import Splits, check, detached, fingerprint, limited, prepare
from trainer.data.source import Data, ImageFiles, Samples
from trainer.data.tables.read import SUFFIXES
from trainer.draws import seed_all
from trainer.errors import UserError
from trainer.meaning import Places
from trainer.run.classes import balance
from trainer.run.instantiate import built, ours
from trainer.run.overfit import few
from trainer.run.unread import refuse_unread
from trainer.trees import leaves


def build_data(settings: Settings) -> Data:
    """Raises UserError: the source complains, or gives what nothing can be learnt from."""
    seed_all(settings.seed)  # a source of the user's may draw
    name, keys = settings.names["data"], ours(settings, "data")
    asked_for = only_as_asked(shipped.not_asked_for(settings.group("data"), settings.request.typed))
    with asked_for, in_folds(keys.get("folds"), keys.get("fold")) as folds:
        made = built(settings, "data")
        asked = {field.name: keys[field.name] for field in fields(Asked) if keys.get(field.name) is not None}
        ignored = settings.group("loss").get("ignore_index")  # torch's own key: loss and data leave out the same
        data = as_data(made, name, Asked(**asked, **({} if ignored is None else {"ignored": ignored})))
        seed, standardize = (settings.group("data").get(key) for key in ("split_seed", "standardize"))
        data = pooled(detached(data), folds, name, seed if isinstance(seed, int) else 0, standardize is True)
    refuse_unread(settings, data)
    if settings.dry_run:
        for split in data.splits.values():
            if isinstance(split, ImageFiles):
                split.keep(None)
    data = limited(data, keys.get("limit"))
    check(data, name)
    return few(settings, data)


REBUILT = 0.5  # seconds that a source may take to be asked once more
BYTES_REBUILT = 1 << 28


def doubts_of_source(settings: Settings, data: Data, seconds: float) -> list[str]:
    """What the user should know of a source of their own that gives other samples when it is asked again.

    It draws from a generator without a seed, such as `numpy.random.default_rng()`.

    Args:
        data: what the source gave.
        seconds: which that took. One that takes long, or gives much, is not asked again.
    """
    inputs = [leaf for split in data.splits.values() if isinstance(split, Samples) for leaf in leaves(split.inputs)]
    is_cheap = seconds < REBUILT and sum(leaf.nbytes for leaf in inputs) < BYTES_REBUILT
    if not settings.is_own("data") or not is_cheap:
        return []
    first = fingerprint(data)
    try:
        quiet = io.StringIO()  # what it says it has said before
        with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
            second = fingerprint(build_data(settings))
    except Exception:  # of every kind: it may be made to be called once
        return []
    finally:
        seed_all(settings.seed)
    if not any(first[split].difference(second[split]) for split in first):
        return []
    if fingerprint(data) != first:  # items that are others whenever they are read, which is told elsewhere
        return []
    return [
        f"warning: data={settings.names['data']}: gives other samples each time. So runs can't be compared, and none "
        "can be continued. Draw with random, numpy.random or torch, whose generators seed= sets, or with a "
        "generator of your own that has a seed."
    ]


TRANSFORMERS = "trainer.models.libraries.transformers"


def build_splits(settings: Settings, data: Data, device: torch.device, dtype: torch.dtype) -> Splits:
    """The splits as the model wants them.

    Raises:
        UserError: the model wants images, or images of a size, that the data does not have.
    """
    refuse_other_inputs(settings, data)
    config, model = ours(settings, "data"), settings.group("model")
    leaves_out = isinstance(data.meaning, Places) and "ignore_index" in settings.group("loss")
    splits = prepare(
        data,
        device,
        dtype,
        channels=model.get("in_channels"),
        image_size=model.get("image_size") or config.get("image_size"),
        normalize=config.get("normalize", True),
        augment=augmentation(settings, data) or None,
        outside=data.ignored if leaves_out else 0,  # nobody knows what is there
    )
    balance(settings, data, splits.train)
    largest = largest_token(splits)
    return splits if largest is None else replace(splits, vocab_size=largest + 1)


def augmentation(settings: Settings, data: Data) -> Augmentation:
    """Raises UserError: there are no images to augment, or torchvision is missing."""
    found = ours(settings, "data").get("augment") or {}
    asked = {key: value for key, value in found.items() if key not in ("mixup", "cutmix")}
    trust.check_keys("data.augment", asked, Augmentation)
    augment = Augmentation(**asked)
    if augment.policy is not None:
        refuse_missing_torchvision(augment.policy)
    if augment and not data.is_images:
        raise UserError(f"data.augment: data={settings.names['data']} has no images to augment.")
    return augment


def refuse_other_inputs(settings: Settings, data: Data) -> None:
    """Raises UserError: the model wants images, images of a size, or one tensor, and the data has something else."""
    model, names = settings.group("model"), settings.names
    size, wanted = ours(settings, "data").get("image_size"), model.get("image_size")
    if size and wanted and size != wanted:
        raise UserError(
            f"data.image_size={size}: model={names['model']} wants images of {wanted}. "
            f"Type model.image_size={size} too."
        )
    if model.get("in_channels") and not data.is_images and len(data.sample_shape) != 3:
        raise UserError(
            f"model={names['model']}: wants images, but data={names['data']} gives samples of shape "
            f"{list(data.sample_shape)}. Try model=two_layer or model=sequential."
        )
    inputs = data.example[0]
    takes_names = settings.is_own("model") or model.get("_target_") == TRANSFORMERS  # whose inputs have names
    is_sized = not takes_names and any(key in model for key in ("in_channels", "in_features"))
    if is_sized and isinstance(inputs, dict | tuple):
        given = f"a dict of {', '.join(inputs)}" if isinstance(inputs, dict) else f"a tuple of {len(inputs)}"
        # Parts of tensors in memory have no key that chooses among them.
        hint = " Type data.inputs=[<one of them>], or give" if isinstance(data.train, Items) else " Give"
        hint = " Type data.embed=[], or give" if settings.group("data").get("embed") else hint
        raise UserError(
            f"model={names['model']}: takes one tensor, but data={names['data']} gives {given}."
            f"{hint} a model of your own.{as_table(settings)}"
        )
    if is_sized and isinstance(inputs, Tensor) and inputs.dim() == 1:
        raise UserError(
            f"model={names['model']}: an item of data={names['data']} is a single number. "
            f"{as_table(settings).strip() or 'Give tensors, such as torch.tensor([number]).'}"
        )


def as_table(settings: Settings) -> str:
    """What to type where the columns of a file may be meant as one row of numbers."""
    path = str(settings.group("data").get("path")).lower()
    is_file = settings.names["data"] == "hf" and path.endswith(SUFFIXES)
    return " Type data=table for a table of numbers and words." if is_file else ""


TOKENS = (torch.int64, torch.int32, torch.int16, torch.int8)


def largest_token(splits: Splits) -> int | None:
    """Among the inputs of all splits, where they are rows of whole numbers from 0 that lie in memory."""
    found = [getattr(split, "inputs", None) for split in (splits.train, splits.val, splits.test)]
    tokens = [x for x in found if isinstance(x, Tensor) and x.dtype in TOKENS and x.dim() == 2]
    if len(tokens) < len(found) or min(int(x.min()) for x in tokens) < 0:
        return None
    return max(int(x.max()) for x in tokens)
