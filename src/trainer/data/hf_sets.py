"""Data sets in the form of Hugging Face's `datasets`, from files on this disk: memory-mapped, larger than memory."""

import glob
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.data.given import CALLED
from trainer.data.item_parts import target_among
from trainer.data.items import Items
from trainer.data.quoting import listed
from trainer.data.source import SPLITS, Data, existing_path
from trainer.disk.files import cache_folder, make_private
from trainer.errors import UserError, nearest

READERS = {".parquet": "parquet", ".json": "json", ".jsonl": "json", ".csv": "csv", ".tsv": "csv", ".arrow": "arrow"}


def load(path: str | None, inputs: list[str] | str | None = None, targets: list[str] | str | None = None) -> Data:
    """A data set that lies on this disk; nothing is asked of the network.

    Args:
        path: a folder that `save_to_disk` wrote, a folder of files, a .parquet, .json, .jsonl, .csv or .arrow file, or
            several of one kind, one behind the other: `[a.csv,b.csv]`.
        inputs, targets: the columns that are what. One is a tensor, several are a dict, by keyword to the model. None:
            the target is what is called so, and inputs are all others. Targets may be the word `inputs`.

    Raises:
        UserError: `datasets` is missing; there is no data set; it has no such column.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before the import
    try:
        import datasets
    except ImportError as error:
        raise UserError("data=hf: needs datasets. Type pip install datasets.") from error
    datasets.disable_progress_bars()
    files = _files(path)
    file = files[0]
    are_own = targets == "inputs"
    names = {"data.inputs": _listed(inputs), "data.targets": None if are_own else _listed(targets)}
    found, notes = _splits(_opened(datasets, files))
    columns = found["train"].column_names
    for key, wanted in names.items():
        for name in wanted or ():
            if name not in columns:
                raise UserError(f"{key}=[{name}]: {file} has {listed(columns)}.{nearest(name, columns)}")
    its_inputs, its_targets = names.values()
    if its_targets is None and not are_own:
        its_targets = target_among(columns, its_inputs)
    target = its_targets[0] if its_targets and len(its_targets) == 1 else None
    if target is not None:
        found, more = _labelled(datasets, found, target)
        notes += more
    for which, part in found.items():
        used = its_inputs or tuple(name for name in columns if name not in (its_targets or ()))
        _refuse_gaps(part, which, used, its_targets or ())
    items: dict[str, Any] = {which: Items(part, which, None, its_inputs, its_targets) for which, part in found.items()}
    feature = found["train"].features[target] if target is not None else None
    classes = tuple(feature.names) if isinstance(feature, datasets.ClassLabel) else ()
    sizes = ", ".join(f"{which} {len(part):,}" for which, part in found.items())
    return Data(
        **items,
        description=f"hf: {' + '.join(each.name for each in files)}, {sizes}",
        num_classes=len(classes) or None,
        class_names=classes,
        notes=tuple(notes),
        are_own_targets=are_own,
    )


def _labelled(datasets: Any, found: dict[str, Any], target: str) -> tuple[dict[str, Any], list[str]]:
    """Without validation and test splits whose labels are all kept back, as publishers of contests do; and notes."""
    feature = found["train"].features[target]
    is_label = isinstance(feature, datasets.ClassLabel) or str(getattr(feature, "dtype", "")).startswith(("int", "str"))
    hidden = {None, -1}
    others = [which for which in found if which != "train"] if is_label else []
    lacking = [which for which in others if set(found[which].unique(target)) <= hidden]
    if not lacking or hidden & set(found["train"].unique(target)):
        return found, []
    notes = [f"the {which} split has no labels, and is left out" for which in lacking]
    return {which: part for which, part in found.items() if which not in lacking}, notes


def _refuse_gaps(part: Any, which: str, inputs: tuple[str, ...], targets: tuple[str, ...]) -> None:
    """Raises UserError where rows have nothing in a column that is used."""
    for key, names in (("data.inputs", inputs), ("data.targets", targets)):
        for name in names:
            if not part.data.column(name).null_count:  # of the whole table, of which this may be a part
                continue
            if missing := part.with_format("arrow")[name].null_count:
                raise UserError(
                    f"{key}=[{name}]: {missing:,} of {len(part):,} rows of the {which} split have nothing there. Take "
                    "them out: filter(...).save_to_disk(...)."
                )


def _listed(names: list[str] | str | None) -> tuple[str, ...] | None:
    return None if names is None else (names,) if isinstance(names, str) else tuple(map(str, names))


def _files(path: str | None) -> list[Path]:
    """The path, or those of a list. Raises UserError: one is not there, or they are of several kinds."""
    text = str(path)
    is_list = text[:1] + text[-1:] == "[]" and not os.path.lexists(os.path.expanduser(text))
    if not is_list:
        return [existing_path("data.path", path)]
    files = [existing_path("data.path", name.strip()) for name in text[1:-1].split(",")]
    if len({file.suffix.lower() for file in files}) > 1 or any(file.is_dir() for file in files):
        raise UserError(f"data.path={path}: several files must be of one kind. Give one folder that holds them.")
    if len(set(files)) < len(files):
        raise UserError(f"data.path={path}: a file is there twice. Type each once.")
    return files


def _opened(datasets: Any, files: list[Path]) -> Any:
    file = files[0]
    try:
        if file.is_dir() and any((file / name).exists() for name in ("state.json", "dataset_dict.json")):
            return datasets.load_from_disk(str(file))
        cache = cache_folder("datasets")
        make_private(cache)
        if file.is_dir():
            return datasets.load_dataset(str(file), cache_dir=str(cache))
        if (reader := READERS.get(file.suffix.lower())) is None:
            raise UserError(
                f"data.path={file}: is not read; accepted are {', '.join(READERS)}, a folder of such files, or one "
                "that save_to_disk wrote."
            )
        names = [glob.escape(str(each)) for each in files]  # a name with brackets is no pattern
        more = {"sep": "\t"} if file.suffix.lower() == ".tsv" else {}
        return datasets.load_dataset(reader, data_files=names, split="train", cache_dir=str(cache), **more)
    except UserError:
        raise
    except Exception as error:  # of the many kinds that its readers have
        said = " ".join(str(error.__cause__ or error).split())[:300].rstrip(".")
        raise UserError(f"data.path={file}: datasets can't read it ({said}). Write it with save_to_disk.") from error


def _splits(found: Any) -> tuple[dict[str, Any], list[str]]:
    """The splits by our names, and a note on what is left out."""
    if not isinstance(found, Mapping):
        return {"train": found}, []
    named = {CALLED.get(key, key): part for key, part in found.items()}
    known: dict[str, Any] = {which: named[which] for which in SPLITS if which in named}
    if "train" not in known:
        raise UserError(f"data.path: there is no train split, only {listed(found)}. Give one.")
    others = [key for key in found if CALLED.get(key, key) not in known]
    return known, [f"the splits {listed(others)} are left out"] if others else []
