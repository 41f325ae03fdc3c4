"""Optimizers that an optimizer holds in its attributes, as one made of two does, or sharpness-aware minimization."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor
from torch.optim import Optimizer

_OWN = ("state", "param_groups", "defaults")  # attributes that every optimizer has
_MOST = 100  # entries of a list or dict that are looked at
_DEPTH = 3  # lists or dicts that lie in each other


def held(optimizer: Optimizer, is_to_be_kept: bool = True) -> dict[str, Optimizer]:
    """The optimizers in its attributes, and in theirs, by name: `base`, `each.0`.

    Args:
        is_to_be_kept: none of one whose class has a `state_dict` of its own, which says what it keeps.
    """
    found: dict[str, Optimizer] = {}
    seen = {id(optimizer)}

    def look(value: Any, name: str, depth: int = _DEPTH) -> None:
        if isinstance(value, Optimizer) and id(value) not in seen:
            seen.add(id(value))
            found[name] = value
            look_into(value, f"{name}.")
        elif isinstance(value, list | tuple | dict) and depth and len(value) <= _MOST:
            entries = value.items() if isinstance(value, dict) else enumerate(value)
            for key, entry in entries:
                look(entry, f"{name}.{key}", depth - 1)

    def look_into(owner: Optimizer, prefix: str = "") -> None:
        if not is_to_be_kept or type(owner).state_dict is Optimizer.state_dict:
            for name, value in vars(owner).items():
                if name not in _OWN:
                    look(value, f"{prefix}{name}")

    look_into(optimizer)
    return found


class Follower(NamedTuple):
    """Group `place` of an optimizer that another holds: its rate is that of group `of` of the outer one, `times` that.

    The groups are looked up each time: an optimizer that loads its state by itself has new ones then.
    """

    inner: Optimizer
    place: int
    outer: Optimizer
    of: int
    times: float

    def follow(self) -> None:
        """Takes the rate over that a schedule has given the outer group."""
        group, rate = self.inner.param_groups[self.place], self.outer.param_groups[self.of]["lr"] * self.times
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def followers(optimizer: Optimizer) -> list[Follower]:
    """The groups that it holds, beside those of the outer groups that train the same parameters, as the rates are now.

    A schedule changes the outer groups alone. None of groups that are shared, or that have no rate.
    """
    outer = {id(p): i for i, group in enumerate(optimizer.param_groups) for p in group["params"]}
    shared = {id(group) for group in optimizer.param_groups}
    found = []
    for inner in held(optimizer, is_to_be_kept=False).values():
        for place, group in enumerate(inner.param_groups):
            of = next((outer[id(p)] for p in group["params"] if id(p) in outer), None)
            if id(group) in shared or of is None or "lr" not in group or not optimizer.param_groups[of].get("lr"):
                continue
            times = float(group["lr"]) / float(optimizer.param_groups[of]["lr"])
            found.append(Follower(inner, place, optimizer, of, times))
    return found


def state_of(optimizer: Optimizer) -> dict[str, Any]:
    """Its state dict, and those of what it holds."""
    states = {name: inner.state_dict() for name, inner in held(optimizer).items()}
    return {**optimizer.state_dict(), **({"held": states} if states else {})}


def put_state(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """Loads what `state_of` gave. Those that it holds begin anew where a checkpoint of an older release has none.

    Raises:
        ValueError: it is of another optimizer.
    """
    inner, states = held(optimizer), state.get("held")
    if not inner or states is None:
        optimizer.load_state_dict(dict(state))
        return
    if inner.keys() != states.keys():
        raise ValueError(f"its optimizer holds {', '.join(states)}, not {', '.join(inner)}")
    _load(optimizer, {key: value for key, value in state.items() if key != "held"})
    for name, each in inner.items():
        _load(each, states[name])


def _load(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """Its groups stay the same objects: two optimizers may share them, and a schedule changes them for both."""
    groups = optimizer.param_groups
    optimizer.load_state_dict(dict(state))
    if type(optimizer).load_state_dict is Optimizer.load_state_dict:
        for group, loaded in zip(groups, optimizer.param_groups, strict=True):
            group.update(loaded)
        optimizer.param_groups = groups
