"""What a source of the user's gave, as three splits: a `Data`, a tuple or dict of splits, or one data set."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from trainer.data.dense import are_words, as_targets, as_tensors, is_array
from trainer.data.item_labels import class_names, labels_apart, targets_apart
from trainer.data.item_targets import Labels, Reading, as_numbers
from trainer.data.items import Items
from trainer.data.loader import read
from trainer.data.quoting import listed
from trainer.data.source import SPLITS, Data, ImageFiles, Samples
from trainer.data.split import split_rows, uneven
from trainer.data.targets import are_one_hot, meaning
from trainer.errors import UserError, nearest
from trainer.meaning import IGNORED, Classes, Numbers, Unread
from trainer.trees import leaves

CALLED = {"valid": "val", "validation": "val", "dev": "val", "training": "train", "testing": "test"}
AT_ONCE = 256  # items whose targets are looked at together


@dataclass(frozen=True)
class Asked:
    """What was typed of data whatever its source; None: nothing.

    Args:
        task: classification, multilabel, regression or auto.
        inputs, targets: names of the parts of an item that is a dict; targets may be the word `inputs`.
        num_classes: of labels; they are not looked through then.
        num_workers: processes that read ahead.
        val_fraction, test_fraction: the parts of the training split that become the splits which there are none of.
        split_seed: decides which samples those are.
        stratify: each of them gets its share of every class.
        group: the part of an item that names its group; those of one group fall into one split.
        fixed: an item is the same whenever it is read.
        ignored: the label of places that have no class.
    """

    task: str = "auto"
    inputs: Any = None
    targets: Any = None
    num_classes: int | None = None
    num_workers: int | None = None
    val_fraction: float | None = None
    test_fraction: float | None = None
    split_seed: int | None = None
    stratify: bool | None = None
    group: str | None = None
    fixed: bool | None = None
    ignored: int = IGNORED


def as_data(made: Any, name: str, asked: Asked) -> Data:
    """A `Data` with three splits and a meaning.

    Args:
        made: what the source gave.
        name: what it is called in messages.

    Raises:
        UserError: it is no such thing; what was typed does not go with it.
    """
    data = made if isinstance(made, Data) else Data(**_splits_of(made, name))
    names = data.class_names
    asked = replace(asked, task=data.as_task) if asked.task == "auto" else asked
    data = replace(data, **{split: _split(part, split, data, name, asked) for split, part in data.splits.items()})
    if asked.targets == "inputs":
        data = replace(data, are_own_targets=True)
    if isinstance(data.train, Items):
        data = _understood(data, name, asked)
    else:
        _refuse_unused(asked, name, len(data.splits) == len(SPLITS), isinstance(data.train, ImageFiles))
        data = _reread(data, name, asked)
    data = _completed(_named(data, names, asked), name, asked)
    if not data.description:
        sizes = ", ".join(f"{split} {len(part):,}" for split, part in data.splits.items())
        data = replace(data, description=f"{name}: {sizes}")
    return data


def _splits_of(made: Any, name: str) -> dict[str, Any]:
    """The splits by name."""
    if isinstance(made, Mapping):
        found = {CALLED.get(str(key), str(key)): split for key, split in made.items()}
        for key in found:
            if key not in SPLITS:
                raise UserError(
                    f"data={name}: gives a dict with {key}; its splits are called train, val and test."
                    f"{nearest(key, SPLITS)}"
                )
    elif isinstance(made, tuple) and len(made) == 2 and all(map(is_array, made)) and len(made[0]) != len(made[1]):
        rows = f"inputs of {len(made[0]):,} rows and targets of {len(made[1]):,}"
        raise UserError(f"data={name}: gives {rows}; each row of inputs needs a row of targets.")
    elif _are_splits(made):
        if not 1 <= len(made) <= len(SPLITS):
            raise UserError(
                f"data={name}: gives a tuple of {len(made)}; accepted are (train, val) and (train, val, test)."
            )
        found = dict(zip(SPLITS, made, strict=False))
    elif made is None:
        raise UserError(f"data={name}: made a NoneType; a data set, or a tuple or dict of splits, is needed.")
    else:
        found = {"train": made}
    if found.get("train") is None:
        raise UserError(f"data={name}: gives no train split, only {listed(found)}. Give one.")
    return found


def _are_splits(made: Any) -> bool:
    """Whether it is a tuple of splits, or a list of them, as `torch.utils.data.random_split` gives."""
    if isinstance(made, list):
        return 1 < len(made) <= len(SPLITS) and all(isinstance(part, Dataset) for part in made)
    return isinstance(made, tuple) and not _is_pair_of_arrays(made)


def _is_pair_of_arrays(split: Any) -> bool:
    """Inputs and targets of one length, as arrays or tensors."""
    is_pair = isinstance(split, tuple) and len(split) == 2
    return is_pair and all(map(is_array, split)) and len(split[0]) == len(split[1])


def _split(split: Any, which: str, data: Data, name: str, asked: Asked) -> Any:
    """One split as Samples, ImageFiles or Items."""
    if isinstance(split, Items):
        return replace(split, group=asked.group, reading=Reading(ignored=asked.ignored), fixed=asked.fixed)
    if isinstance(split, ImageFiles):
        return split
    where = f"data={name}: the {which} split"
    if _is_pair_of_arrays(split):
        split = Samples(*split)
    if isinstance(split, Samples):
        inputs = as_tensors(split.inputs, where)
        if not are_words(split.targets):
            return _of_one_length(Samples(inputs, as_targets(split.targets, where)), where)
        split = [*zip(inputs, map(str, np.asarray(split.targets).flat), strict=True)]
    if isinstance(split, DataLoader):
        raise UserError(f"{where} is a DataLoader, which train makes itself. Give its data set.")
    if isinstance(split, IterableDataset) or not (hasattr(split, "__len__") and hasattr(split, "__getitem__")):
        what = "an IterableDataset" if isinstance(split, IterableDataset) else f"a {type(split).__name__}"
        raise UserError(
            f"{where} is {what}, of which no item can be had by its number, so that no run goes on exactly. Give "
            "something with __len__ and __getitem__: a torch Dataset, a list; or for files a data set that opens them "
            "in __getitem__."
        )
    if is_array(split) or isinstance(split, str | bytes):
        raise UserError(
            f"{where} is a {type(split).__name__}. Give trainer.Samples(inputs, targets), or a data set of pairs; of a "
            "table in a file, data=table data.path=<file>."
        )
    try:
        num_items = len(split)
    except (TypeError, ValueError, OverflowError, NotImplementedError) as error:
        raise UserError(f"{where} has no length ({error}). Give its class a method __len__.") from error
    if not num_items:
        raise UserError(f"{where} is empty; it needs at least one sample.")
    inputs, targets = _names("data.inputs", asked.inputs), None
    if asked.targets is not None and asked.targets != "inputs":
        targets = _names("data.targets", asked.targets)
    collate_fn = data.collate_fn or getattr(split, "collate_fn", None)
    if asked.fixed and collate_fn is not None:
        raise UserError(
            f"data.fixed=true: data={name} has a collate_fn, which may give a sample that depends on the others in its "
            "batch. Leave it out."
        )
    reading = Reading(ignored=asked.ignored)
    return Items(split, which, collate_fn, inputs, targets, asked.group, reading, fixed=asked.fixed)


def _of_one_length(split: Samples, where: str) -> Samples:
    shapes = [list(leaf.shape) for leaf in leaves((split.inputs, split.targets))]
    if len({tuple(shape[:1]) for shape in shapes}) > 1:
        raise UserError(f"{where} has arrays of shapes {listed(shapes)}; each needs a row for each sample.")
    return split


def _names(key: str, names: Any) -> tuple[str, ...] | None:
    if names is None:
        return None
    if isinstance(names, str):
        return (names,)
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{key}={names}: names parts of an item that is a dict. Type {key}=[<name>].")
    return tuple(names)


def _refuse_unused(asked: Asked, name: str, has_all: bool, is_files: bool) -> None:
    """Raises UserError for a key that only data read item by item has a use for."""
    of_parts = ("val_fraction", "test_fraction", "split_seed", "stratify")
    of_items = ("inputs", "num_workers", "group", "fixed", *(of_parts if has_all else ()))
    for field in fields(asked):
        if field.name in of_items and getattr(asked, field.name) is not None:
            why = "has image files" if is_files else "is in memory as tensors"
            why = "has all its splits" if field.name in of_parts else why
            raise UserError(f"data.{field.name}: nothing reads this key: data={name} {why}. Leave it out.")
    if asked.targets not in (None, "inputs"):
        raise UserError(
            f"data.targets={asked.targets}: data={name} has its own targets. Leave it out; or type data.targets=inputs "
            "for a model that gives its inputs back."
        )


# --- what targets are ------------------------------------------------------------------------------------------------


def _reread(data: Data, name: str, asked: Asked) -> Data:
    """Tensors with another task than their source said, or with none said."""
    targets = data.train.targets
    if data.are_own_targets or not isinstance(targets, Tensor) or not isinstance(data.train, Samples):
        return data
    _refuse_complex_classes(targets, data, asked, name)
    given = {split: part.targets for split, part in data.splits.items()}
    if _is_column(targets, data, asked):
        given, targets = {split: part.flatten() for split, part in given.items()}, targets.flatten()
        data = _with_targets(data, given)
    if _may_be_one_hot(targets, data, asked) and all(map(are_one_hot, given.values())):
        classes = {split: part.int().argmax(1) for split, part in given.items()}
        return _with_targets(_of_columns(data, targets.shape[1], asked), classes)
    if asked.num_classes is not None and asked.task != "regression":
        data = replace(data, num_classes=asked.num_classes)
    if asked.task == "multilabel":
        cast = {split: part if part.is_floating_point() else part.float() for split, part in given.items()}
        return _with_targets(replace(data, is_multilabel=True, num_classes=None), cast)
    if asked.task == "regression":
        _refuse_classes_of_numbers(asked.num_classes, name)
        cast = {split: as_numbers(part) for split, part in given.items()}
        return _with_targets(replace(data, num_classes=None), cast)
    if asked.task == "classification" and (whole := as_whole(targets)) is not None and targets.is_floating_point():
        given = {split: part if (found := as_whole(part)) is None else found for split, part in given.items()}
        targets = whole
    task = _task(targets, data, asked, name)
    if task == "regression" and targets.dim() == 1:
        return _with_targets(replace(data, ignored=asked.ignored), {s: as_numbers(part) for s, part in given.items()})
    if data.num_classes is None and task == "classification":
        labels, more = _labels_and_names(given, data, name, asked)
        classes = given if labels is None else {split: labels(part) for split, part in given.items()}
        return _with_targets(replace(data, ignored=asked.ignored, **more), classes)
    return replace(data, ignored=asked.ignored)


def _refuse_complex_classes(targets: Any, data: Data, asked: Asked, name: str) -> None:
    is_of_classes = asked.task not in ("auto", "regression") or data.num_classes is not None or data.is_multilabel
    if is_of_classes and isinstance(targets, Tensor) and targets.is_complex():
        raise UserError(f"data={name}: has complex numbers as targets, which are no classes. Leave data.task out.")


def _is_column(targets: Any, data: Data, asked: Asked) -> bool:
    """Whether targets are `[N, 1]` whole numbers, or said to be classes, which are one class each."""
    is_one = isinstance(targets, Tensor) and targets.dim() == 2 and targets.shape[1] == 1 and not data.is_multilabel
    return is_one and (asked.task == "classification" or (asked.task == "auto" and _is_whole(targets)))


def _may_be_one_hot(targets: Any, data: Data, asked: Asked) -> bool:
    """Whether targets that are said to be classes are a row for each sample, and no class for each place of it."""
    is_one = asked.task == "classification" and isinstance(targets, Tensor) and are_one_hot(targets)
    return is_one and (targets.is_floating_point() or leaves(data.example[0])[0].shape[:2] != targets.shape[:2])


def _of_columns(data: Data, num_columns: int, asked: Asked) -> Data:
    """With as many classes as one-hot targets have columns."""
    if asked.num_classes not in (None, num_columns):
        raise UserError(f"data.num_classes={asked.num_classes}: the targets have {num_columns} columns. Leave it out.")
    return replace(data, num_classes=num_columns, ignored=asked.ignored)


def _refuse_classes_of_numbers(num_classes: int | None, name: str) -> None:
    if num_classes is not None:
        raise UserError(f"data.num_classes={num_classes}: data={name} has numbers as targets. Leave it null.")


def _with_targets(data: Data, targets: Mapping[str, Tensor]) -> Data:
    parts: dict[str, Any] = {split: Samples(getattr(data, split).inputs, part) for split, part in targets.items()}
    return replace(data, **parts)


def as_whole(targets: Tensor) -> Tensor | None:
    """`[N]` or `[N, 1]` numbers as `[N]` whole ones; None where they are others, or several."""
    if targets.dim() > 2 or math.prod(targets.shape[1:]) != 1 or targets.is_complex():
        return None
    column = targets.flatten()
    return column.long() if bool((column == column.floor()).all()) else None


def _are_shares(targets: Any) -> bool:
    is_row = isinstance(targets, Tensor) and targets.is_floating_point() and targets.dim() == 2 and targets.shape[1] > 1
    return is_row and bool((targets >= 0).all()) and bool(((targets.sum(1) - 1).abs() < 1e-3).all())


def _is_whole(targets: Tensor) -> bool:
    return not targets.is_floating_point() and not targets.is_complex()


def _labels_of(given: Mapping[str, Tensor], name: str, asked: Asked) -> tuple[Labels | None, dict[str, Any]]:
    """How labels become classes (None: they are classes), and what `Data` is told of these.

    Args:
        given: per split `[N]` labels, or `[N, ...]` of which `asked.ignored` is none.
    """
    if any(part.dim() > 1 for part in given.values()):
        return _labels_of_places(given, name, asked)
    found = {split: part.numpy() for split, part in given.items()}
    meant = meaning(found, f"data={name}", "classification", asked.num_classes)
    more = {"num_classes": meant.num_classes, "class_names": meant.class_names, "notes": tuple(meant.notes)}
    if all(torch.equal(meant.splits[split], torch.from_numpy(found[split])) for split in found):
        return None, more
    labels = Labels(tuple(np.unique(np.concatenate(list(found.values()))).tolist()))
    if asked.ignored in (*labels.found, *range(len(labels.found))):  # which of the two is meant?
        raise UserError(
            f"loss.ignore_index={asked.ignored}: data={name} has the labels {listed(labels.found)}, which are numbered "
            f"from 0. Type loss.ignore_index={IGNORED}, and take out the samples that have no class."
        )
    return labels, more


def _labels_of_names(
    given: Mapping[str, Tensor], named: tuple[str, ...], ignored: int
) -> tuple[Labels | None, dict[str, Any]] | None:
    """Labels that are numbers of classes with names; None where they are others."""
    if not named or not all(map(_is_whole, given.values())):
        return None
    found = torch.cat([part.unique() for part in given.values()])
    found = found[found != ignored]
    if not len(found) or int(found.min()) < 0 or int(found.max()) >= len(named):
        return None
    return None, {"num_classes": len(named), "class_names": named, "notes": ()}


def _labels_and_names(
    given: Mapping[str, Tensor], data: Data, name: str, asked: Asked
) -> tuple[Labels | None, dict[str, Any]]:
    """As `_labels_of`, with the names that the source has for the classes, or else its data set."""
    named = data.class_names or (class_names(data.train) if isinstance(data.train, Items) else ())
    labels, more = _labels_of_names(given, named, asked.ignored) or _labels_of(given, name, asked)
    if data.class_names and len(named) == more["num_classes"]:
        more["class_names"] = named  # of the different labels, in their order
    elif named and not data.class_names and more["class_names"] != named:
        lost = f"classes of data={name}: are {len(named)} names, and its labels are not 0 to {len(named) - 1}."
        more["notes"] = (*more["notes"], f"{lost} The names are left out.")
    return labels, more


def _named(data: Data, names: Sequence[str], asked: Asked) -> Data:
    """With the source's `names` left out where they go with no class, and a line that says so."""
    if not names or data.are_own_targets or isinstance(data.meaning, Unread):
        return data
    told = f"class_names are {len(names)} names"
    if isinstance(data.meaning, Numbers):
        note = f"{told}, and its targets are numbers. If they are 0 and 1 of several labels, type data.task=multilabel."
        notes = data.notes if asked.task == "regression" else (*data.notes, note)
        return replace(data, class_names=(), notes=notes)
    size, kind = data.meaning.num_outputs, "labels" if data.is_multilabel else "classes"
    if data.class_names != tuple(names):
        notes = (*data.notes, f"{told}, and not those of its {size} {kind}. They are left out.")
    elif len(names) > size:
        data, notes = replace(data, class_names=()), (*data.notes, f"{told} for {size} {kind}. They are left out.")
    else:
        more = f"{told} for {size} {kind}. The others are called by their numbers."
        notes = data.notes if len(names) == size else (*data.notes, more)
    return replace(data, notes=notes)


def _labels_of_places(given: Mapping[str, Tensor], name: str, asked: Asked) -> tuple[Labels | None, dict[str, Any]]:
    every = torch.cat([part.unique() for part in given.values()]).unique()
    found = every[every != asked.ignored].tolist()
    if not found:
        raise UserError(f"data={name}: all places have the label {asked.ignored}, which is left out. Give classes.")
    if found == list(range(len(found))):
        return None, {"num_classes": len(found), "class_names": (), "notes": ()}
    if 0 <= asked.ignored < len(found):  # as padding 0 beside words 1, 2 ...: numbered anew, a class would be left out
        if found[0] < 0:
            raise UserError(
                f"loss.ignore_index={asked.ignored}: data={name} has labels from {found[0]}, which are numbered "
                "from 0, and so one of them would be left out. Give labels from 0 on, or another number to what has "
                "no class."
            )
        return None, {"num_classes": found[-1] + 1, "class_names": (), "notes": ()}
    note = (
        f"the labels {listed(found)} are {len(found)} classes, numbered from 0 in this order. If one of them means "
        "that a place has no class, type loss.ignore_index=<that label>."
    )
    return Labels(tuple(found), asked.ignored), {
        "num_classes": len(found),
        "class_names": tuple(map(str, found)),
        "notes": (note,),
    }


def _understood(data: Data, name: str, asked: Asked) -> Data:
    """Items whose targets have a meaning: looked through for their classes, where they are labels."""
    if asked.num_workers is not None:
        data = replace(data, num_workers=asked.num_workers)
    if asked.num_classes is not None:
        data = replace(data, num_classes=asked.num_classes)
    data = replace(data, ignored=asked.ignored)
    _, targets = data.train.sample
    first = data.train.raw_targets(("first", [0]))[0]
    if data.are_own_targets or targets is None or (not isinstance(targets, Tensor) and not _are_words(targets)):
        return data
    _refuse_complex_classes(targets, data, asked, name)
    if _may_be_one_hot(targets, data, asked) and (classes := _one_hot_classes(data, targets.shape[1:])) is not None:
        data = _told(_of_columns(data, targets.shape[1], asked), are_one_hot=True, num_classes=targets.shape[1])
        return replace(data, **{split: replace(getattr(data, split), known=part) for split, part in classes.items()})
    if isinstance(first, np.ndarray) and _is_column(targets, data, asked):
        data, targets, first = _told(data, is_column=True), targets.flatten(), first.item()
    task = _task(targets, data, asked, name)
    if task == "multilabel":
        if _are_words(targets):
            raise UserError(f"data.task=multilabel: data={name} has words as targets. Give 0 and 1 for each label.")
        return _told(replace(data, is_multilabel=True, num_classes=None), is_multilabel=True)
    if task == "regression":
        _refuse_classes_of_numbers(asked.num_classes, name)
        if _are_words(targets):
            raise UserError(f"data.task=regression: data={name} has words as targets. Type data.task=classification.")
        return _told(replace(data, num_classes=None, class_names=()), are_numbers=True)
    if data.num_classes is not None and not _are_words(targets):
        named = data.class_names or class_names(data.train)
        data = replace(data, class_names=named if data.class_names or len(named) == data.num_classes else ())
        return _known(_told(data, num_classes=data.num_classes), name)
    return _counted(data, name, asked, is_scalar=not isinstance(first, np.ndarray))


def _one_hot_classes(data: Data, shape: tuple[int, ...]) -> dict[str, Tensor] | None:
    """The classes of all items by split; None where the target of one is no row of this shape with a single 1."""
    found = {}
    for split, items in data.splits.items():
        rows = _all_targets(items, data.num_workers)
        are_alike = {np.shape(row) for row in rows} == {shape}
        if not are_alike or not are_one_hot(targets := torch.from_numpy(np.stack(rows))):
            return None
        found[split] = targets.int().argmax(1)
    return found


def _known(data: Data, name: str) -> Data:
    """With the labels that the data sets keep apart, where their classes are told."""
    parts: dict[str, Any] = {}
    for split, items in data.splits.items():
        if (labels := labels_apart(items)) is not None:
            try:
                parts[split] = replace(items, known=items.reading(labels))
            except UserError as error:
                hint = " Take out the items that have no class." if int(labels.min()) < 0 else ""
                raise UserError(f"data={name}: the {split} split has {error}.{hint}") from error
    return replace(data, **parts)


def _are_words(targets: Any) -> bool:
    return isinstance(targets, list | tuple) and bool(targets) and isinstance(targets[0], str)


def _task(targets: Any, data: Data, asked: Asked, name: str) -> str:
    if data.is_multilabel:
        return "multilabel"
    if (asked.task == "classification" or data.num_classes is not None) and _are_shares(targets):
        raise UserError(
            f"data={name}: a target is {targets.shape[1]} numbers that add up to 1, a share of each class; accepted is "
            "the number of one class. Give targets.argmax(1), or type data.task=regression loss=cross_entropy, which "
            "takes shares."
        )
    if asked.task != "auto":
        return asked.task
    if data.num_classes is not None or _are_words(targets):
        return "classification"
    if not _is_whole(targets):
        return "regression"
    first = leaves(data.example[0])[0]
    if targets.dim() == 2 and first.shape[:2] != targets.shape[:2]:
        raise UserError(
            f"data={name}: targets are whole numbers of shape {list(targets.shape[1:])}. Type data.task=multilabel for "
            "0 and 1 of several labels, data.task=classification for rows with a single 1 or a class at each place, or "
            "data.task=regression."
        )
    return "classification"


def _told(data: Data, **facts: Any) -> Data:
    """With what all splits of items are told."""
    splits = data.splits.items()
    return replace(data, **{split: replace(its, reading=replace(its.reading, **facts)) for split, its in splits})


def _counted(data: Data, name: str, asked: Asked, is_scalar: bool) -> Data:
    """Looks through the targets of all items for their classes."""
    splits = data.splits
    raw = {split: _all_targets(items, data.num_workers) for split, items in splits.items()}
    for split, part in raw.items():
        if (row := next((row for row, target in enumerate(part) if target is None), None)) is not None:
            raise UserError(f"data={name}: item {row} of the {split} split has no target, others have. Give it one.")
    known: dict[str, Tensor | None] = dict.fromkeys(splits)
    if is_scalar:  # those of a column come as arrays
        raw = {s: [target.item() if isinstance(target, np.ndarray) else target for target in t] for s, t in raw.items()}
    if is_scalar and isinstance(raw["train"][0], str):
        words = {split: np.array(part) for split, part in raw.items()}
        meant = meaning(words, f"data={name}", "classification", data.num_classes)
        # Words are told apart by what they are: in the order of the source's names, where it has all of them.
        named = data.class_names if {*meant.class_names} <= {*data.class_names} else meant.class_names
        by_word = Labels(named)
        labels: Labels | None = by_word
        more: dict[str, Any] = {
            "num_classes": max(len(named), meant.num_classes or 0),
            "class_names": named,
            "notes": tuple(meant.notes),
        }
        known |= {split: by_word(part) for split, part in raw.items()}
    else:
        # Of many places a column of the different ones will do.
        whole = {
            s: np.array(part) if is_scalar else np.concatenate([*map(np.unique, part)])[:, None]
            for s, part in raw.items()
        }
        found = {split: torch.from_numpy(part) for split, part in whole.items()}
        labels, more = _labels_and_names(found, data, name, asked)
        if not is_scalar and len({*whole["train"].flat} - {asked.ignored}) == 1:
            one = "all places of the training items are of one class; there is nothing to tell apart."
            more["notes"] = (*more["notes"], one)
        if is_scalar:
            known |= {split: part.long() if labels is None else labels(part) for split, part in found.items()}
    data = replace(data, **{split: replace(items, known=known[split]) for split, items in splits.items()})
    data = _told(data, labels=labels, num_classes=more["num_classes"])
    more["notes"] = (*data.notes, *more.get("notes", ()))
    return replace(data, **more)


def _all_targets(items: Items, num_workers: int) -> list[Any]:
    """Of all items, as the data set has them; without reading the inputs, where it keeps targets apart."""
    if (apart := targets_apart(items)) is not None:
        return apart
    rows = range(len(items))
    keys = (("targets", list(rows[i : i + AT_ONCE])) for i in range(0, len(items), AT_ONCE))
    return [target for some in read(items.raw_targets, keys, num_workers) for target in some]


# --- splits that there are none of -----------------------------------------------------------------------------------


def _completed(data: Data, name: str, asked: Asked) -> Data:
    """With the splits that there are none of taken from the training split."""
    fractions = {"val": asked.val_fraction or 0.1, "test": asked.test_fraction or 0.2}
    fractions = {split: part for split, part in fractions.items() if split not in data.splits}
    if not fractions:
        if asked.group is not None:
            raise UserError(f"data.group={asked.group}: there is nothing to split: data={name} has all its splits.")
        return data
    train = data.train
    if isinstance(train, ImageFiles):
        raise UserError("data: ImageFiles come in three splits; give val and test, too.")
    targets = train.known if isinstance(train, Items) else train.targets
    is_of_classes = data.num_classes is not None and isinstance(targets, Tensor) and targets.dim() == 1
    labels = targets if is_of_classes and asked.stratify is not False else None
    if isinstance(train, Items) and isinstance(data.meaning, Classes) and targets is None and train.group is None:
        why = "nobody has looked at the labels: the shares of the classes in the splits are as chance has them"
        data = replace(data, notes=data.notes if asked.stratify is False else (*data.notes, why))
    groups = _groups(train, data.num_workers) if isinstance(train, Items) and train.group is not None else None
    rows = split_rows(len(train), asked.split_seed or 0, fractions, labels, groups)
    notes = [] if groups is None else uneven(rows, fractions, groups, "data.group")
    data = replace(data, notes=(*data.notes, *notes))
    parts: dict[str, Any] = {
        split: train.take(index, split) if isinstance(train, Items) else train.take(index)
        for split, index in rows.items()
    }
    return replace(data, by_chance=(*data.by_chance, *fractions), rows={**data.rows, **rows}, **parts)


def _groups(items: Items, num_workers: int) -> NDArray[np.int64]:
    """A number for each item's group, by a look through all items."""
    keys = (("groups", list(range(i, min(i + AT_ONCE, len(items))))) for i in range(0, len(items), AT_ONCE))
    numbers: dict[str | int | float, int] = {}
    groups = itertools.chain.from_iterable(read(items.groups, keys, num_workers))
    return np.array([numbers.setdefault(group, len(numbers)) for group in groups])
