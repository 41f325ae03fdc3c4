"""The kinds of meaning: found from targets, kept beside a run and read again."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, get_args, get_type_hints

from torch import Tensor

from trainer.meaning.classes import Classes
from trainer.meaning.labels import Labels
from trainer.meaning.named import Named
from trainer.meaning.numbers import LINKS, Numbers, Unread
from trainer.meaning.places import IGNORED, Places
from trainer.trees import Tree

Meaning = Classes | Places | Labels | Numbers | Unread
MAX_OUTPUTS = 1 << 24
FORMS = ("logits", "probabilities", "log_probabilities")  # what a model may give
_KINDS: dict[str, type[Meaning]] = {kind.__name__.lower(): kind for kind in get_args(Meaning)}
_WORDS = {
    "gives": FORMS,
    "compared_with": ("index", "fractions", "values", "shares", "masks"),
    "link": tuple(LINKS),
}
_PLAIN: dict[type, Callable[[Any], bool]] = {
    int: lambda value: type(value) is int and abs(value) <= MAX_OUTPUTS,
    bool: lambda value: isinstance(value, bool),
    str: lambda value: isinstance(value, str),
}


def class_names(meaning: Meaning) -> tuple[str, ...]:
    """Of classes or labels, `0`, `1` ... where they have none; empty of what has no classes."""
    return tuple(map(meaning.name, range(meaning.num_outputs))) if isinstance(meaning, Named) else ()


def as_dict(meaning: Meaning) -> dict[str, Any]:
    """Plain values alone, for JSON."""
    return {"kind": type(meaning).__name__.lower(), **asdict(meaning)}


def from_dict(found: Any) -> Meaning:
    """Of what `as_dict` gave. Foreign text. Raises ValueError: it is something else."""
    if not isinstance(found, Mapping):
        raise ValueError("not what outputs stand for")
    values = dict(found)
    try:
        kind = _KINDS[values.pop("kind")]
        if kind is Numbers:
            values.setdefault("link", "identity")  # of runs that were trained before there was another
            values["center"] = tuple(map(float, values.get("center", ())))
            if len(values["center"]) not in (0, values["num_outputs"]) or not all(map(math.isfinite, values["center"])):
                raise TypeError("where the numbers lie")
        if kind is Places:
            values.setdefault("gives", "logits")  # the same
        number = values["num_classes" if "num_classes" in values else "num_outputs"]
        if type(number) is not int or not (kind is not Unread) <= number <= MAX_OUTPUTS:
            raise TypeError("how many outputs there are")
        for name, wanted in get_type_hints(kind).items():
            if name == "names":
                values[name] = tuple(values[name])
                if not all(isinstance(n, str) for n in values[name]) or len(values[name]) > number:
                    raise TypeError("names of classes")
            elif wanted in _PLAIN and not _PLAIN[wanted](values[name]):
                raise TypeError(name)
        if any(values[key] not in words for key, words in _WORDS.items() if key in values):
            raise TypeError("what outputs are")
        return kind(**values)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"not what outputs stand for ({error})") from error


def meaning_of(
    targets: Tree,
    num_classes: int | None = None,
    names: tuple[str, ...] = (),
    is_multilabel: bool = False,
    ignored: int = IGNORED,
) -> Meaning:
    """What the targets of some samples are.

    Args:
        num_classes: of labels; None: they are numbers.
        names: of the classes.
        is_multilabel: 0 and 1 for each label.
        ignored: the label of a place that has no class.
    """
    if not isinstance(targets, Tensor):
        return Unread(num_classes or 0)
    if targets.is_complex():
        return Unread(math.prod(targets.shape[1:]))
    if is_multilabel:
        return Labels(math.prod(targets.shape[1:]), tuple(names))
    if num_classes is None:
        return Numbers(math.prod(targets.shape[1:]))
    if math.prod(targets.shape[1:]) > 1 and not targets.is_floating_point():
        return Places(num_classes, tuple(names), ignored)
    return Classes(num_classes, tuple(names))
