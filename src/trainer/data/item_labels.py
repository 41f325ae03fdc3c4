"""What a data set keeps apart from its items: the names of its classes, and labels that nobody opens a picture for."""

import contextlib
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Subset, TensorDataset

from trainer.data.fixed import is_of_arrow
from trainer.data.item_parts import plain, target_among
from trainer.data.items import Items

LABELS = ("targets", "labels", "_labels", "y")  # what data sets call the labels of all items
PAIRS = ("samples", "_samples")  # and a file with its label of each
COMPARED = 16  # items whose own labels are compared with these


def class_names(items: Items) -> tuple[str, ...]:
    """What a data set says its classes are called, as torchvision's and those of `datasets` do; empty: nothing."""
    dataset = items.inner
    if is_of_arrow(dataset):
        column = _column(items)
        found = None if column is None else getattr(dataset.features[column], "names", None)
    else:
        found = getattr(dataset, "classes", None)
        if _is_of_torchvision(dataset) and _is_of_others(items):  # such as `binary-category` of OxfordIIITPet
            return ()
    if not isinstance(found, list | tuple):
        return ()
    found = [", ".join(name) if type(name) is tuple else name for name in found]  # ImageNet has words of one meaning
    return tuple(found) if all(isinstance(name, str) for name in found) else ()


def targets_apart(items: Items) -> list[Any] | None:
    """All targets of data sets of libraries that have them in a place of their own, and turn them into no others."""
    dataset = items.inner
    if items.collate_fn is not None:
        return None
    if type(dataset) is TensorDataset and len(dataset.tensors) == 2 and dataset.tensors[1].dim() == 1:
        return _of_rows(items.dataset, dataset.tensors[1].tolist())
    if is_of_arrow(dataset) and (column := _column(items)) is not None:
        return _of_rows(items.dataset, [plain(target) for target in dataset[column]])
    if _is_of_torchvision(dataset) and getattr(dataset, "target_transform", 0) is None:
        return _of_attribute(items)
    return None


def labels_apart(items: Items) -> Tensor | None:
    """The classes of all items, `[N]`; also those that a class of the user's own has in an attribute."""
    found = targets_apart(items)
    if found is None and items.collate_fn is None:
        found = _of_attribute(items)
    if found is None or not all(isinstance(label, int) for label in found):
        return None
    return torch.tensor(found, dtype=torch.int64)


def _column(items: Items) -> str | None:
    """The only column of targets of one of Hugging Face's data sets."""
    names = target_among(items.inner.column_names, items.inputs) if items.targets is None else items.targets
    return names[0] if len(names) == 1 else None


def _is_of_torchvision(dataset: Any) -> bool:
    return type(dataset).__module__.startswith("torchvision.datasets")


def _is_of_others(items: Items) -> bool:
    """Whether the labels that an attribute has are not those of the items."""
    has_some = any(_labels(items.inner, name) is not None for name in (*LABELS, *PAIRS))
    return has_some and _of_attribute(items) is None


def _of_rows(dataset: Any, whole: list[Any]) -> list[Any]:
    """Those of a data set's rows, from those of the whole one that it is a part of."""
    if type(dataset) is not Subset:
        return whole
    inner = _of_rows(dataset.dataset, whole)
    return [inner[row] for row in dataset.indices]


def _of_attribute(items: Items) -> list[int] | None:
    """Labels that an attribute has, if some items have the same: it may be of something else."""
    dataset = items.inner
    rows = np.unique(np.linspace(0, len(items) - 1, COMPARED).astype(int)).tolist()
    read = None
    for name in (*LABELS, *PAIRS):
        if (whole := _labels(dataset, name)) is not None:
            found = _of_rows(items.dataset, whole)
            read = items.raw_targets(("labels", rows)) if read is None else read
            if all(isinstance(target, int) for target in read) and [found[row] for row in rows] == read:
                return found
    return None


def _labels(dataset: Any, name: str) -> list[int] | None:
    """A whole number for each item, or None."""
    with contextlib.suppress(Exception):  # of a class of anybody's
        found = getattr(dataset, name)
        found = found.tolist() if isinstance(found, Tensor | np.ndarray) else found
        found = [label for _, label in found] if name in PAIRS else found
        is_whole = isinstance(found, list | tuple) and all(isinstance(label, int) for label in found)
        return list(found) if is_whole and len(found) == len(dataset) else None
    return None
