"""How much work the references of a config are: `${a}` of values that hold `${b}` ten times unfold without an end."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from trainer.errors import UserError

MAX_REFERENCES = 2_000  # a thousand take half a second
MAX_DEPTH = 20  # of a value that refers to one that refers to one ...
MAX_ROUNDABOUT = 20  # of `${a.${b}}` and its like, which lead nowhere before they are resolved
_INNERMOST = re.compile(r"\$\{([^${}]*)\}")


def refuse_endless(config: Any) -> None:
    """Refuses a config whose references take too long to resolve, or too deep.

    Raises:
        UserError: names the key.
    """
    values = dict(_texts(config, ""))
    if not any("${" in text for text in values.values()):
        return
    costs = _Costs(values)
    total = 0
    for key in values:
        total += costs.of(key, ())
        if total > MAX_REFERENCES:
            raise UserError(
                f"{key}: its references to other keys unfold to more than {MAX_REFERENCES:,}. Type what they stand for."
            )


def _texts(node: Any, key: str) -> Iterator[tuple[str, str]]:
    """Every value by its dotted key; of what is no text, an empty one."""
    if isinstance(node, Mapping | list):
        for name, item in node.items() if isinstance(node, Mapping) else enumerate(node):
            yield from _texts(item, f"{key}.{name}".lstrip("."))
    else:
        yield key, node if isinstance(node, str) else ""


class _Costs:
    """How many references each value comes to."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self.values, self.known = values, dict[str, int]()
        self.num_roundabout = 0

    def of(self, key: str, on_the_way: tuple[str, ...]) -> int:
        """Of one value, or of all below a key."""
        if key in self.known:
            return self.known[key]
        if key in on_the_way:
            raise UserError(f"{key}: refers to itself. Type what it stands for.")
        if len(on_the_way) > MAX_DEPTH:
            return MAX_REFERENCES + 1
        on_the_way = (*on_the_way, key)
        if key in self.values:
            cost = self._of_text(key, on_the_way)
        else:
            cost = sum(self.of(name, on_the_way) for name in self.values if name.startswith(f"{key}."))
        self.known[key] = cost
        return cost

    def _of_text(self, key: str, on_the_way: tuple[str, ...]) -> int:
        text = self.values[key]
        found = [name for name in _INNERMOST.findall(text) if not name.strip().startswith("oc.env:")]
        roundabout = text.count("${") - len(_INNERMOST.findall(text)) + sum(":" in name for name in found)
        self.num_roundabout += roundabout
        if self.num_roundabout > MAX_ROUNDABOUT:
            return MAX_REFERENCES + 1
        total = roundabout
        for name in found:
            if ":" not in name and total <= MAX_REFERENCES:
                total += 1 + self.of(_absolute(name, key), on_the_way)
        return total


def _absolute(reference: str, key: str) -> str:
    """The dotted key that a reference means: `..lr` in `optimizer.x` is that of the top level."""
    name = re.sub(r"\[(\w+)\]", r".\1", reference.strip())
    num_dots = len(name) - len(name.lstrip("."))
    parents = key.split(".")[:-num_dots] if num_dots else []
    return ".".join([*parents, name.lstrip(".")]).lstrip(".")
