"""Keys of `data` that were typed and that nothing reads, as the data turned out to be: refused, not dropped."""

from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from trainer.config import trust
from trainer.config.schema import shown
from trainer.config.settings import Settings
from trainer.data.prepare import targets_of
from trainer.data.source import Data
from trainer.data.tables.read import TEXTS
from trainer.errors import UserError
from trainer.run.instantiate import found


def refuse_unread(settings: Settings, data: Data) -> None:
    """Raises UserError for a key that was typed and has no use for this data.

    What a config file says is left alone: a value that is also the default does not tell whether somebody meant it.
    """
    mine = set(trust.parameters(found(settings, "data"))) if settings.is_own("data") else set()
    keys = {key: value for key, value in settings.group("data").items() if key not in mine}
    typed = {word.removeprefix("data.") for word in settings.request.typed if word.startswith("data.")}
    for key, why in _unread(keys, data):
        if key in typed and key in keys:
            raise UserError(f"data.{key}: nothing reads this key: data={settings.names['data']} {why}. Leave it out.")


def _unread(keys: dict[str, object], data: Data) -> Iterator[tuple[str, str]]:
    """Each key that nothing reads, and why, as the end of a sentence about the data."""
    for split, called in (("val", "validation"), ("test", "test")):
        if split not in data.by_chance:
            yield f"{split}_fraction", f"has a {called} split of its own"
    if keys.get("folds") is not None:
        yield "val_fraction", f"validates on one of its folds (data.folds={keys['folds']})"
    elif not data.by_chance:
        yield "split_seed", "has all its splits"
    elif keys.get("time") is not None:
        yield "split_seed", f"is split by data.time={shown(keys['time'])}"
    if not data.by_chance:
        yield "stratify", "has all its splits"
    elif keys.get("stratify") is True:
        targets = targets_of(data.train)
        if keys.get("time") is not None:
            yield "stratify", f"is split by data.time={shown(keys['time'])}"
        elif keys.get("group") is not None:
            yield "stratify", f"keeps together what is alike in data.group={keys['group']}"
        elif data.num_classes is not None and targets is None:
            yield "stratify", "is told its classes, so that nobody looks at the labels before they are read"
        elif data.num_classes is None or not isinstance(targets, Tensor) or targets.dim() != 1:
            yield "stratify", "has no class for each sample"
    if data.is_images:
        yield "standardize", "has images, which data.normalize is for"
    else:
        yield from ((key, "has no images") for key in ("image_size", "normalize"))
    if isinstance(path := keys.get("path"), str) and Path(path).suffix.lower() not in TEXTS:
        what = f"is no text but {Path(path).suffix or 'a folder'}"
        yield from ((key, what) for key in ("delimiter", "decimal", "encoding", "header"))
