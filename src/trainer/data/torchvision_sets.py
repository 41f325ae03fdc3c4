"""The data sets of torchvision by name, read picture by picture."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trainer.config.schema import shown
from trainer.data.download import data_folder, refuse_unasked
from trainer.data.item_labels import class_names
from trainer.data.item_masks import is_picture
from trainer.data.items import Items
from trainer.data.quoting import cut, listed
from trainer.data.source import Data, existing_path
from trainer.errors import UserError, nearest

# What torchvision calls its splits, by the names of its arguments; of each the first that there is.
SPLITS: dict[str, dict[str, tuple[Any, ...]]] = {
    "train": {"train": (True,), "test": (False,)},
    "split": {
        "train": ("train", "trainval", "train-standard"),
        "val": ("val", "valid", "validation"),
        "test": ("test", "testing"),
    },
    "image_set": {"train": ("train", "trainval"), "val": ("val",), "test": ("test",)},
}


def load(name: str, root: str | None = None, download: bool = False, options: dict[str, Any] | None = None) -> Data:
    """A data set of `torchvision.datasets`, with the splits that it has; of those that it lacks a part is taken.

    Args:
        name: of the class: `CIFAR100`, `SVHN`, `OxfordIIITPet`.
        root: the folder that its files lie in, or are fetched into; None: `torchvision` in the cache folder.
        download: whether files that are missing are fetched.
        options: of the class: `{target_types: segmentation}`. A split that is named here is the only one.

    Raises:
        UserError: torchvision is missing, or has no such data set; it takes other arguments; its files are not there.
    """
    try:
        from torchvision import datasets
    except ImportError as error:
        raise UserError("data=torchvision: needs torchvision. Type pip install torchvision.") from error
    names = [word for word in datasets.__all__ if isinstance(getattr(datasets, word), type)]
    if name not in names:
        raise UserError(f"data.name={name}: torchvision has no such data set.{nearest(name, names)}")
    kind, options = getattr(datasets, name), dict(options or {})
    takes = _arguments(kind)
    _refuse_untaken(name, takes, root, download, options)
    if "root" in takes:
        folder = existing_path("data.root", root) if root and not download else data_folder(root, "torchvision")
        options["root"] = str(folder)
    if "download" in takes:  # some fetch if nobody says that they shall not
        options["download"] = download
    if download:
        refuse_unasked(f"data.name={name}")
    argument = next((key for key in SPLITS if key in takes and key not in options), None)
    if missing := [key for key in _needed(kind) if key not in (*options, argument)]:
        raise UserError(f"data.name={name}: needs {listed(missing)}. Type 'data.options={{{missing[0]}: ...}}'.")
    splits = _splits(kind, name, argument, options)
    first = splits["train"]
    classes = class_names(Items(first, "train")) if type(_target(first)) is int else ()
    return Data(
        **splits,
        description=f"torchvision: {name}, {', '.join(f'{split} {len(part):,}' for split, part in splits.items())}",
        num_classes=len(classes) or None,
        class_names=classes,
    )


def _refuse_untaken(name: str, takes: set[str], root: str | None, download: bool, options: dict[str, Any]) -> None:
    """Raises UserError for what the class can't be told, or is told in two places."""
    for key in options:
        if key in ("root", "download"):
            raise UserError(f"data.options.{key}: has a key of its own. Type data.{key}={shown(options[key])}.")
        if key not in takes:
            raise UserError(f"data.options.{key}: {name} does not take it.{nearest(key, takes)}")
    if root is not None and "root" not in takes:
        raise UserError(f"data.root={root}: {name} reads no files. Leave it out.")
    if download and "download" not in takes:
        hint = " Get its files, and type data.root=<their folder>." if "root" in takes else ""
        raise UserError(f"data.download=true: torchvision does not fetch {name}.{hint or ' Leave it out.'}")


def _arguments(kind: type) -> set[str]:
    """The names of a class's arguments; of one with `**kwargs` those of the classes above it, too."""
    takes: set[str] = set()
    for each in kind.__mro__:
        parameters = inspect.signature(each.__init__).parameters.values()  # type: ignore[misc]
        takes |= {p.name for p in parameters if p.kind is not p.VAR_KEYWORD}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return takes - {"self"}


def _needed(kind: type) -> list[str]:
    """The arguments that have no default, but for the folder."""
    parameters = inspect.signature(kind).parameters.values()
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return [p.name for p in parameters if p.default is p.empty and p.kind not in kinds and p.name != "root"]


def _splits(kind: type, name: str, argument: str | None, options: dict[str, Any]) -> dict[str, Any]:
    if argument is None:
        with _explained(name, options):
            return {"train": kind(**options)}
    found: dict[str, Any] = {}
    said = ""
    for split, called in SPLITS[argument].items():
        for value in called:
            try:
                with _explained(name, options):
                    found[split] = kind(**options, **{argument: value})
                break
            except ValueError as error:  # it has no such split
                said = said or " ".join(str(error).split()).rstrip(".")
    if "train" not in found:
        hint = f" Type 'data.options={{{argument}: ...}}'." if f"argument {argument}" in said else ""
        raise UserError(f"data.name={name}: has no split to train on: {cut(said, 200)}.{hint}")
    return found


@contextmanager
def _explained(name: str, options: dict[str, Any]) -> Iterator[None]:
    """Says what is missing, and where, in a line."""
    try:
        yield
    except (RuntimeError, OSError, TypeError, ImportError) as error:
        said = " ".join(str(error).split()).rstrip(".")
        where = Path(options["root"]) if "root" in options else None
        fetched = "" if options.get("download", True) else ", or data.download=true"
        hint = "" if options.get("download") or where is None else f" Type data.root=<its folder>{fetched}."
        raise UserError(f"data.name={name}: {said}{f' ({where})' if where else ''}.{hint}") from error


def _target(dataset: Any) -> Any:
    item = dataset[0]
    target = item[1] if isinstance(item, tuple) and len(item) == 2 else None
    if target is not None and is_picture(target):
        target.load()  # Pillow closes its file then
    return target
