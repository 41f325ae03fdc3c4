"""A look for the same samples in two splits: what is measured on them then says nothing about new ones.

Tensors are compared by a hash of each row, and equal hashes byte by byte. Files are compared by their sizes and some of
their bytes, and where these are equal by their content. Items of a data set are compared by a hash of their inputs as
they are read, as many as half a second allows: those that draw something at random are not found. Pictures that only
look alike (saved again, or in another size) are found by the signs of differences between neighbouring parts (after
N. Krawetz, "Kind of Like That", 2013), and then by these parts themselves.
"""

import hashlib
import math
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Subset

from trainer.data.item_leaks import Looked, looked_at, with_one_zero
from trainer.data.items import Items
from trainer.data.source import ImageFiles, Samples

Split = Samples | ImageFiles | Items
CHUNK_BYTES = 1 << 26
SMALLEST_PICTURE = 32  # pixels a side: smaller ones, such as digits, look alike by nature
MOST_PICTURES = 2000  # on disk, which are opened to see whether they look alike: a second
ROWS, COLUMNS = 8, 16  # of the parts of a picture: 8 x 8 differences
ALIKE_LEVELS, ALIKE_CORRELATION, FLAT_LEVELS = 4.0, 0.99, 4.0  # of 255 grey levels
MOST_IN_A_BUCKET = 50  # pictures without structure share a hash
NAMES = {"val": "validation", "test": "test"}


@dataclass(frozen=True)
class Leak:
    """What splits have in common.

    Args:
        said: how many samples, with two examples; one line, or empty.
        share: of the validation or the test samples, whichever is more, that training has, too.
        repeated: the share of training samples that are there more than once: so it is where there are few values.
        contradicted: how many training samples have the inputs of another one and another class; one line, or empty.
    """

    said: str
    share: float
    repeated: float
    contradicted: str = ""


def leaks(train: Split, val: Split, test: Split, of_file: Mapping[str, Tensor] | None = None) -> Leak | None:
    """How many samples two splits have in common, or contradict each other; None where there are none.

    Image files of a class that is not ours are not looked at.

    Args:
        of_file: split to the row that each sample has in the data that the splits were taken from.
    """
    of_file = of_file or {}
    splits = {"train": train, "val": val, "test": test}
    items = {name: split for name, split in splits.items() if isinstance(split, Items)}
    looked = looked_at(items)
    rows: dict[str, Split | _Rows | Looked] = {**looked} or {name: _rows(split) for name, split in splits.items()}
    num_rows = {name: len(looked[name].digests) if looked else len(split) for name, split in splits.items()}
    num_samples = sum(map(len, splits.values()))
    pictures = {name: _pictures(split, len(split) / num_samples) for name, split in splits.items()}
    found: list[str] = []
    examples: list[str] = []
    look_alike: list[str] = []
    shares = [0.0]
    for first, second in (("val", "train"), ("test", "train"), ("test", "val")):
        same = _same(rows[first], rows[second])
        if same:
            more = _with_another_class(splits[first], splits[second], same)
            found.append(
                f"{len(same):,} of {num_rows[first]:,} {NAMES[first]} inputs are in the {second} split, too{more}"
            )
            examples += [_example(splits, of_file, first, second, pair) for pair in list(same.items())[:2]]
        ours, theirs = pictures[first], pictures[second]
        alike = _alike(ours, theirs) if ours and theirs else {}
        alike = {row: other for row, other in alike.items() if row not in same}
        if second == "train":
            shares.append((len(same) + len(alike)) / max(1, num_rows[first]))
        if alike:
            look_alike.append(f"{len(alike):,} {NAMES[first]} pictures look like one of the {second} split")
            examples += [_example(splits, of_file, first, second, pair) for pair in list(alike.items())[:2]]
    contradicted = _contradicted(splits, of_file, rows["train"])
    if not found and not look_alike:
        return Leak("", 0.0, 0.0, contradicted) if contradicted else None
    said = (
        f"{'; '.join([*found, *look_alike])} ({'; '.join(examples[:2])}). What is measured on them says little of new "
        "samples: take them out of one of the two."
    )
    if (num_looked := sum(num_rows.values())) < num_samples:
        said += f" {num_looked:,} of {num_samples:,} items were looked at."
    return Leak(said, max(shares), _repeated(rows["train"]), contradicted)


def _with_another_class(first: Split, second: Split, same: dict[int, int]) -> str:
    """How many of the same samples, if any, have not the same class: some of their labels are wrong."""
    ours, theirs = (getattr(split, "targets", None) for split in (first, second))
    if not all(isinstance(x, Tensor) and x.dim() == 1 and not x.is_floating_point() for x in (ours, theirs)):
        return ""
    count = int((ours[[*same]] != theirs[[*same.values()]]).sum())  # type: ignore[index]
    return f", {count:,} of them with another class" if count else ""


def _contradicted(splits: dict[str, Split], of_file: Mapping[str, Tensor], rows: "Split | _Rows | Looked") -> str:
    """How many training samples have the inputs of another one and another class, and what that leaves possible."""
    labels = getattr(splits["train"], "targets", None)
    if not isinstance(labels, Tensor) or labels.dim() != 1 or labels.is_floating_point() or not len(labels):
        return ""
    if isinstance(rows, _Rows):
        if not _repeated(rows):  # to sort them takes a tenth of what follows
            return ""
        first, numbers = np.unique(rows.hashes, return_index=True, return_inverse=True)[1:]
        first = first[numbers]
    elif _paths(rows) is not None:
        first = _first_files(rows)
    else:
        return ""
    # Each row by the first that has its inputs, and by its class.
    classes = labels.cpu().numpy().astype(np.int64)
    kinds, kind = np.unique(classes, return_inverse=True)
    pairs, counts = np.unique(first * len(kinds) + kind, return_counts=True)
    groups, starts, sizes = np.unique(pairs // len(kinds), return_index=True, return_counts=True)
    is_mixed = sizes > 1
    if not is_mixed.any():
        return ""
    num_mixed = int(np.add.reduceat(counts, starts)[is_mixed].sum())
    best = int(np.maximum.reduceat(counts, starts).sum()) / len(classes)
    row = int(groups[is_mixed][0])
    other = int(np.flatnonzero((first == row) & (classes != classes[row]))[0])
    example = _example(splits, of_file, "train", "train", (row, other))
    return (
        f"{num_mixed:,} of {len(classes):,} training samples have the inputs of another one and another class "
        f"({example}). No model is right on more than {math.floor(1000 * best) / 10:.1f} % of them."
    )


def _first_files(files: Any) -> NDArray[np.int64]:
    """Of each file the first with the same content: `[N]`."""
    sums = np.ascontiguousarray(files.sums[:, :8]).view(np.uint64)[:, 0]
    numbers, counts = np.unique(sums, return_inverse=True, return_counts=True)[1:]
    found, contents = np.arange(len(sums)), dict[bytes, int]()
    for row in np.flatnonzero(counts[numbers] > 1).tolist():
        found[row] = contents.setdefault(_digest(files.paths[row]), row)
    return found


def _repeated(rows: "Split | _Rows | Looked") -> float:
    """The share of rows that are there more than once; 0 of files."""
    if isinstance(rows, _Rows):
        counts = np.unique(rows.hashes, return_counts=True)[1]
    elif isinstance(rows, Looked) and rows.digests:
        counts = np.array([*Counter(rows.digests.values()).values()])
    else:
        return 0.0
    return float(counts[counts > 1].sum() / counts.sum())


def _paths(split: object) -> Sequence[str] | None:
    """Of the files of `trainer.data.image_files.FolderImages`, which is not imported here: it takes Pillow along."""
    return getattr(split, "paths", None) if isinstance(split, ImageFiles) and hasattr(type(split), "sums") else None


def _example(
    splits: dict[str, Split], of_file: Mapping[str, Tensor], first: str, second: str, pair: tuple[int, int]
) -> str:
    def told(name: str, row: int) -> str:
        split = splits[name]
        if (paths := _paths(split)) is not None:
            return paths[row]
        if isinstance(split, Items) and isinstance(split.dataset, Subset):
            return f"row {split.number_of(row)} of the data, in {name}"
        return f"row {int(of_file[name][row])} of the data, in {name}" if name in of_file else f"row {row} of {name}"

    return " = ".join(told(name, row) for name, row in zip((first, second), pair, strict=True))


def _same(first: "Split | _Rows | Looked", second: "Split | _Rows | Looked") -> dict[int, int]:
    """Row of the first split to an equal one of the second."""
    if isinstance(first, Looked) and isinstance(second, Looked):
        return first.same(second)
    if _paths(first) is not None and _paths(second) is not None:
        return _same_files(first, second)
    if isinstance(first, _Rows) and isinstance(second, _Rows) and first.content.shape[1] == second.content.shape[1]:
        return _same_rows(first, second)
    return {}


# --- tensors ---------------------------------------------------------------------------------------------------------


def _bytes(inputs: Any) -> NDArray[np.uint8]:
    """The inputs as bytes, `[N, B]`; those of a dict or a tuple side by side."""
    if isinstance(inputs, Tensor):
        rows = with_one_zero(inputs.detach().cpu()).contiguous()
        if not rows.numel():
            return np.empty((len(rows), 0), np.uint8)
        return rows.reshape(len(rows), -1).view(torch.uint8).numpy()
    parts = inputs.values() if isinstance(inputs, dict) else inputs
    return np.concatenate([_bytes(part) for part in parts], axis=1)


@dataclass(frozen=True)
class _Rows:
    """The bytes of each row, `[N, B]`, and a hash of each."""

    content: NDArray[np.uint8]
    hashes: NDArray[np.uint64]


def _rows(split: Split) -> "Split | _Rows":
    if not isinstance(split, Samples):
        return split
    content = _bytes(split.inputs)
    return _Rows(content, _hashes(content)) if content.size else split


def _same_rows(first: _Rows, second: _Rows) -> dict[int, int]:
    order = np.argsort(second.hashes, kind="stable")
    places = np.minimum(np.searchsorted(second.hashes[order], first.hashes), len(order) - 1)
    rows = np.flatnonzero(second.hashes[order][places] == first.hashes)
    pairs = zip(rows.tolist(), order[places[rows]].tolist(), strict=True)
    return {row: other for row, other in pairs if np.array_equal(first.content[row], second.content[other])}


def _hashes(rows: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """64 bits of each row: its words, mixed (by the constants of splitmix64), times odd numbers, and added up."""
    num_words = -(-rows.shape[1] // 8)
    weights = np.random.default_rng(0).integers(0, 2**63, num_words, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    size = max(1, CHUNK_BYTES // (8 * num_words))
    found = []
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        words = np.zeros((len(part), 8 * num_words), np.uint8)
        words[:, : rows.shape[1]] = part
        mixed = words.view(np.uint64)
        mixed ^= mixed >> np.uint64(30)
        mixed *= np.uint64(0xBF58476D1CE4E5B9)
        mixed ^= mixed >> np.uint64(27)
        mixed *= weights
        found.append(mixed.sum(1, dtype=np.uint64))
    return np.concatenate(found)


# --- files -----------------------------------------------------------------------------------------------------------


def _same_files(first: Any, second: Any) -> dict[int, int]:
    """Only files with equal sums are read whole: of sizes alone hardly one of a million has no equal."""
    ours, theirs = (np.ascontiguousarray(files.sums[:, :8]).view(np.uint64)[:, 0] for files in (first, second))
    common = ours[_is_among(ours, theirs)]
    rows = np.flatnonzero(_is_among(theirs, common)).tolist() if len(common) else []
    contents = {_digest(second.paths[row]): row for row in reversed(rows)}
    found = {}
    for row in np.flatnonzero(_is_among(ours, common)).tolist() if rows else []:
        if (other := contents.get(_digest(first.paths[row]))) is not None:
            found[row] = other
    return found


def _is_among(numbers: NDArray[np.uint64], others: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """As `numpy.isin`, which takes ten times as long for few among many."""
    known = np.sort(others)
    found: NDArray[np.bool_] = known[np.searchsorted(known, numbers).clip(max=len(known) - 1)] == numbers
    return found


def _digest(path: str) -> bytes:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


# --- pictures that look alike -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Pictures:
    """Pictures as the mean grey levels (0..255) of their parts.

    Args:
        rows: `[N]` of the split; not all of many files.
        parts: `[N, ROWS, COLUMNS]`.
    """

    rows: NDArray[np.int64]
    parts: NDArray[np.float32]

    def bands(self) -> NDArray[np.uint16]:
        """Four times 16 bits, `[4, N]`: pictures that look alike share one of the four, if hardly any bit differs."""
        bits = self.parts[:, :, 0::2] > self.parts[:, :, 1::2]
        packed = np.packbits(bits.reshape(len(bits), 4, 16), axis=2)
        return np.ascontiguousarray(packed.view(">u2").reshape(len(bits), 4).T.astype(np.uint16))


def _alike(first: _Pictures, second: _Pictures) -> dict[int, int]:
    """Row of the first split to one of the second that looks like it."""
    pairs = [_candidates(ours, theirs) for ours, theirs in zip(first.bands(), second.bands(), strict=True)]
    places, others = np.unique(np.concatenate(pairs, axis=1), axis=1)
    size = CHUNK_BYTES // (4 * ROWS * COLUMNS)
    found: dict[int, int] = {}
    for start in range(0, len(places), size):
        chunk = slice(start, start + size)
        near = _are_alike(first.parts[places[chunk]], second.parts[others[chunk]])
        for place, other in zip(places[chunk][near].tolist(), others[chunk][near].tolist(), strict=True):
            found.setdefault(int(first.rows[place]), int(second.rows[other]))
    return found


def _candidates(ours: NDArray[np.uint16], theirs: NDArray[np.uint16]) -> NDArray[np.int64]:
    """The places of equal numbers, `[2, pairs]`, but of those that come very often."""
    order = np.argsort(theirs, kind="stable")
    first, last = (np.searchsorted(theirs[order], ours, side=side) for side in ("left", "right"))
    counts = last - first
    counts[counts > MOST_IN_A_BUCKET] = 0
    places = np.repeat(np.arange(len(ours)), counts)
    within = np.arange(len(places)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.stack([places, order[first[places] + within]])


def _are_alike(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Whether pictures of a pair have nearly the same grey levels, and the same structure, if any."""
    a, b = (x.reshape(len(x), -1) for x in (a, b))
    near: NDArray[np.bool_] = np.abs(a - b).mean(1) <= ALIKE_LEVELS
    a, b = (x - x.mean(1, keepdims=True) for x in (a[near], b[near]))
    a_std, b_std = (np.sqrt(np.square(x).mean(1)) for x in (a, b))
    correlation = (a * b).mean(1) / np.maximum(a_std * b_std, 1e-6)
    near[near] = (correlation >= ALIKE_CORRELATION) & (np.minimum(a_std, b_std) >= FLAT_LEVELS)
    return near


def _pictures(split: Split, share: float) -> _Pictures | None:
    """What a split has of pictures that are large enough; of files `share` of MOST_PICTURES at most."""
    if (paths := _paths(split)) is not None:
        background = getattr(split, "background", "white")
        count = min(len(split), max(1, round(share * MOST_PICTURES)))
        rows = np.unique(np.linspace(0, len(split) - 1, count).astype(np.int64))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = [
                (row, parts) for row in rows.tolist() if (parts := _parts_of_file(paths[row], background)) is not None
            ]
        return _Pictures(np.array([r for r, _ in found]), np.stack([parts for _, parts in found])) if found else None
    images = split.inputs if isinstance(split, Samples) else None
    if not isinstance(images, Tensor) or images.dtype != torch.uint8 or images.dim() != 4:
        return None
    if min(images.shape[2:]) < SMALLEST_PICTURE or images.shape[1] not in (1, 3):
        return None
    return _Pictures(np.arange(len(images)), np.concatenate([_means(part) for part in images.split(4096)]))


def _means(images: Tensor) -> NDArray[np.float32]:
    """uint8 `[N, C, H, W]` to the mean of its channels in each part."""
    window = tuple(size // parts for size, parts in zip(images.shape[2:], (ROWS, COLUMNS), strict=True))
    means = F.avg_pool2d(images.float().mean(1), window)[:, :ROWS, :COLUMNS]
    return means.numpy()


def _parts_of_file(path: str, background: str) -> NDArray[np.float32] | None:
    from PIL import Image

    from trainer.data.image_files import FORMATS, MAX_PIXELS
    from trainer.data.upright import upright_8_bit

    try:
        with Image.open(path, formats=FORMATS) as image:
            if min(image.size) < SMALLEST_PICTURE or image.size[0] * image.size[1] > MAX_PIXELS:
                return None
            image.draft("L", (4 * COLUMNS, 4 * COLUMNS))
            small = upright_8_bit(image, background).convert("L").resize((COLUMNS, ROWS), Image.Resampling.BOX)
    except Exception:  # what is damaged is told when it is read
        return None
    return np.asarray(small, np.float32)
