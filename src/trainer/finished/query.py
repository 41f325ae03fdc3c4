"""`where=` and `sort=`: which runs, and in which order."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trainer.config.schema import is_larger_better, shown
from trainer.errors import UserError, nearest
from trainer.finished.read import Run, number

_WORD = r"""[^\s<>=!"']+"""
_LIST = r"\[(?:[^\[\]]|\[[^\[\]]*\])*\]"  # with spaces, and with lists in it
_QUOTED = r"""\"[^"]*"|'[^']*'"""
_TERM = re.compile(rf"\s*({_WORD})\s*(<=|>=|!=|==|<|>|=)\s*({_LIST}|{_QUOTED}|{_WORD})(?=\s|$)")


@dataclass(frozen=True)
class Condition:
    """`optimizer.lr<0.1`: a key, a sign, and what it is compared with. What a run lacks counts as null."""

    key: str
    sign: str
    wanted: str

    def holds(self, run: Run) -> bool:
        value = value_of(run, self.key)
        left, right = number(value), _as_number(self.wanted)
        if left is not None and right is not None:
            return {
                "<": left < right,
                "<=": left <= right,
                ">": left > right,
                ">=": left >= right,
                "=": left == right,
                "!=": left != right,
            }[self.sign]
        if self.sign not in ("=", "!="):
            return False
        wanted = re.sub(r"\s+", "", self.wanted) if isinstance(value, list) else self.wanted
        return (shown(value) == wanted.strip("\"'")) is (self.sign == "=")


def value_of(run: Run, key: str) -> Any:
    """What a run has under a key; `optimizer.betas.0` is an item of a list."""
    holder, _, place = key.rpartition(".")
    whole = run.values.get(holder)
    if key not in run.values and isinstance(whole, list) and place.isdecimal() and int(place) < len(whole):
        return whole[int(place)]
    return run.values.get(key)


def _as_number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def conditions(text: str) -> list[Condition]:
    """The terms of `where=`, which all must hold.

    Raises:
        UserError: a term can't be read.
    """
    found, position = [], 0
    while text[position:].strip():
        term = _TERM.match(text, position)
        if term is None:
            raise UserError(
                f"where={text}: can't be read from {text[position:].strip()} on. "
                'Type terms with < <= > >= = or != between key and value: where="val/accuracy>0.9 optimizer.lr<0.1".'
            )
        key, sign, wanted = term.groups()
        if sign in ("<", "<=", ">", ">=") and _as_number(wanted) is None:
            raise UserError(f"where={key}{sign}{wanted}: {sign} compares numbers. Words go with = and !=.")
        found.append(Condition(key, "=" if sign == "==" else sign, wanted))
        position = term.end()
    return found


def refuse_unknown(option: str, key: str, runs: Sequence[Run]) -> None:
    """Refuses a key that no run has.

    Raises:
        UserError: says which is meant, perhaps.
    """
    known = {known: None for run in runs for known in run.values}
    if key in known or any(value_of(run, key) is not None for run in runs):
        return
    same_last = [k for k in known if re.split(r"[./]", k)[-1] == key]
    hint = nearest(key, known, cutoff=0.8) or (f" Did you mean {same_last[0]}?" if same_last else nearest(key, known))
    raise UserError(f"{option}={key}: no run has such a key or tag.{hint} train runs --json shows them all.")


def in_order(runs: Sequence[Run], key: str, is_reversed: bool) -> list[Run]:
    """The best first, or the smallest where neither end is better; then words, then the runs that lack the key."""
    numbers: list[Run] = []
    words: list[Run] = []
    rest: list[Run] = []
    for run in runs:
        value = value_of(run, key)
        if value is None or value != value:  # missing, or NaN
            rest.append(run)
        else:
            (words if number(value) is None else numbers).append(run)
    is_larger = is_larger_better(key, *(run.config for run in runs))
    numbers.sort(key=lambda run: value_of(run, key), reverse=is_larger is not is_reversed)
    words.sort(key=lambda run: shown(value_of(run, key)), reverse=is_reversed)
    return [*numbers, *words, *rest]
