"""Which parameters are trained how: groups that differ in learning rate and weight decay."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from torch import Tensor, nn

from trainer.errors import UserError, nearest, one_of
from trainer.system import shell

_LISTS = (nn.Sequential, nn.ModuleList)


class Group(NamedTuple):
    """
    Args:
        times: the learning rate is that of the optimizer times this.
        is_decayed: false for parameters without weight decay.
        names: of the parameters.
    """

    times: float
    is_decayed: bool
    names: list[str]


def grouped(
    model: nn.Module,
    parameters: Mapping[str, Tensor],
    decays_weights_alone: bool,
    layer_decay: float,
    lr_times: Mapping[str | float, float],
) -> list[Group]:
    """The parameters in groups, in the order in which the first of each comes.

    Args:
        parameters: by name, those that train.
        decays_weights_alone: no weight decay for what has one dimension: biases, and weights of norm layers.
        layer_decay: the last layer has a factor of 1, the one before it this, the one before that its square ...
        lr_times: patterns to factors. A pattern matches names of parameters, or the name of a module that holds them;
            the factors of all that match are multiplied. A name may be a number, see `refuse_unknown_parts`.

    Raises:
        UserError: a pattern matches nothing.
    """
    known = {*(part for name in parameters for part in _holders(name)), *parameters}
    times_of = {_pattern("optimizer.lr_times", word, known, times): times for word, times in lr_times.items()}
    for pattern in times_of:
        if not any(_matches(pattern, name) for name in parameters):
            parts = one_of([*dict.fromkeys(name.partition(".")[0] for name in parameters)][:8])
            raise UserError(
                f"optimizer.lr_times={pattern}: matches no parameter; they are in {parts}.{nearest(pattern, known)}"
            )
    depths = depths_of(model) if layer_decay != 1 else {}
    last = max(depths.values(), default=0)
    found: dict[tuple[float, bool], list[str]] = {}
    for name, parameter in parameters.items():
        times = layer_decay ** (last - depths.get(name, last))
        for pattern, factor in times_of.items():
            times *= factor if _matches(pattern, name) else 1.0
        is_decayed = parameter.dim() > 1 or not decays_weights_alone
        found.setdefault((times, is_decayed), []).append(name)
    return [Group(*key, names) for key, names in found.items()]


def _holders(name: str) -> list[str]:
    """`a.b.weight` to `a` and `a.b`."""
    parts = name.split(".")
    return [".".join(parts[:i]) for i in range(1, len(parts))]


def _matches(pattern: str, name: str) -> bool:
    return any(fnmatchcase(each, pattern) for each in (name, *_holders(name)))


def depths_of(model: nn.Module) -> dict[str, int]:
    """Parameter to the number of its layer, from 0, in the order of their definition.

    A layer is an entry of an `nn.Sequential` or `nn.ModuleList`, and any other child module in which there is none of
    these. A layer without a matrix, such as a batch norm, belongs to the one before it; a parameter of no layer (a
    position embedding) to the first.
    """
    numbers: dict[str, int] = {}
    number = -1
    for name, layer in _layers(model, ""):
        if any(parameter.dim() > 1 for parameter in layer.parameters()):
            number += 1
        numbers |= {f"{name}.{own}": max(0, number) for own, _ in layer.named_parameters()}
    return {name: numbers.get(name, 0) for name, _ in model.named_parameters()}


def _layers(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    for name, child in module.named_children():
        path = f"{prefix}{name}"
        if isinstance(child, _LISTS):
            yield from ((f"{path}.{i}", entry) for i, entry in child.named_children())
        elif any(isinstance(inner, _LISTS) for inner in child.modules()):
            yield from _layers(child, f"{path}.")
        else:
            yield path, child


def groups_table(param_groups: Sequence[Mapping[str, Any]], names: Mapping[int, str]) -> list[list[str]]:
    """A row for each group of an optimizer: its number, learning rate, weight decay, and parameters.

    Args:
        names: of the parameters, by `id`.
    """
    rows = []
    for i, group in enumerate(param_groups):
        held = [names.get(id(parameter), "?") for parameter in group["params"]]
        rows.append([f"lr/{i}", f"{group['lr']:.4g}", f"{group.get('weight_decay', 0):.4g}", ", ".join(held)])
    return rows


def refuse_unknown_parts(
    key: str, model: nn.Module, wanted: Sequence[str | float], values: Mapping[str | float, Any] | None = None
) -> dict[str, nn.Module]:
    """The modules of these names that hold parameters; `layer*` stands for several.

    Args:
        wanted: a name may be a number: 1 and 1.10 are places in an nn.Sequential.
        values: what was typed after each name; None where the names are a list.

    Raises:
        UserError: there is none of that name.
    """
    known = {name: part for name, part in model.named_modules() if name and any(True for _ in part.parameters())}
    found: dict[str, nn.Module] = {}
    for word in wanted:
        pattern = _pattern(key, word, known, None if values is None else values[word])
        matching = {name: part for name, part in known.items() if fnmatchcase(name, pattern)}
        if not matching:
            if not known:
                raise UserError(f"{key}={pattern}: the model holds its parameters itself, without parts. Leave it out.")
            outermost = one_of(name for name in known if "." not in name)
            raise UserError(f"{key}={pattern}: the model's parts are {outermost}.{nearest(pattern, known)}")
        found |= matching
    return found


def _pattern(key: str, word: str | float, known: Iterable[str], value: Any) -> str:
    """The name that was typed, and may have been read as a number, which has lost the last 0 of it: 1.10 is 1.1.

    Args:
        value: what was typed after it; None in a list of names.
    """
    if not isinstance(word, float):
        return str(word)
    same = sorted(name for name in known if re.fullmatch(r"\d+\.\d+", name) and float(name) == word)
    if len(same) > 1:
        # Hydra reads the name of a mapping as a number even between quotes. A pattern of parameters is none.
        names = [f"{name}.*" for name in same] if key.endswith("lr_times") else [f"{str(word).split('.')[0]}.*"]
        exact = [f'["{name}"]' for name in same] if value is None else [f"{{{name}:{value}}}" for name in names]
        how = one_of(shell.quote(f"{key}={each}") for each in exact)
        shown = f"[{word}]" if value is None else f"{{{word}:{value}}}"
        raise UserError(f"{key}={shown}: is read as a number, and may mean {one_of(same)}. Type {how}.")
    return same[0] if same else str(word)
