"""`train reproduce`: a run once more from its stored config, and whether the same bits come of it."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from trainer.config.request import Request
from trainer.config.settings import settings_of
from trainer.disk import checkpoint
from trainer.disk.folder import locate, read_origin
from trainer.errors import Interrupted, RunStopped, UserError
from trainer.run.origin import differences, threads_of
from trainer.run.run import run
from trainer.signals import Signals
from trainer.use.again import Numbers, again, as_long, folder_of, numbers, read_ended


class Difference(NamedTuple):
    """The first number that is another; `before`, `now`: None where it is not finite."""

    step: int
    tag: str
    before: float | None
    now: float | None

    def sentence(self) -> str:
        text = f"at step {self.step} {self.tag} is {_shown(self.now)} and was {_shown(self.before)}"
        if self.before is None or self.now is None:
            return text
        size = abs(self.now - self.before)
        return f"{text}: {size:.2g} apart" + (f", {size / abs(self.before):.1e} of it" if self.before else "")


def _shown(number: float | None) -> str:
    return "not finite" if number is None else repr(number)


def reproduce(request: Request, signals: Signals, steps: int | None, name: str | None) -> int:
    """Trains the run of `resume=<folder>` again and prints what came of it. Returns 0 for the same bits, 1 for others.

    Args:
        steps: so many alone; the length of the run, which a schedule may ask for, stays what it is.
        name: of the new run; None: it gets a date.

    Raises:
        UserError: the run can't be read or built, or has recorded nothing.
    """
    old = folder_of(request)
    result, recorded = read_ended(old), numbers(old)
    if not recorded:
        raise UserError(f"{old}: has recorded nothing yet that could be compared.")
    origins = read_origin(old)
    last = min(n for n in (steps, _length(result)) if n is not None)
    wanted = again(request, None if name is None else Path("runs", name), **as_long(origins))
    new = locate(settings_of(wanted).config, "-".join(wanted.names[group] for group in ("model", "data")))
    if new.exists():
        raise UserError(f"name={name}: {new} is there already. Type another name=.")
    wanted.config["run_dir"] = str(new)
    if wanted.config["threads"] == "auto":
        wanted.config["threads"] = threads_of(old) or "auto"
    train_again(wanted, signals, last)
    return report(old, new, result, recorded, last)


def _length(result: Mapping[str, Any]) -> int:
    """The last step that the run has recorded; of one that a number stopped, the one that it did not make, too."""
    length = int(result["steps"]) + (result.get("status") == "stopped")
    return max(1, length)


def train_again(request: Request, signals: Signals, until: int) -> None:
    """Trains, up to a step. A run that stops by itself, as the first one did, perhaps, is no mistake here."""
    try:
        run(request, signals, until=until, is_again=True)
    except Interrupted:
        if signals.received:
            raise
    except RunStopped as error:
        print(f"it stopped: {error}")


def report(old: Path, new: Path, result: Mapping[str, Any], recorded: Numbers, last: int) -> int:
    """Prints the verdict. Returns the exit code."""
    is_whole = result.get("status") == "finished" and last >= result["steps"]
    before = {key: n for key, n in recorded.items() if key[0] <= last and (is_whole or not key[1].startswith("test/"))}
    now = numbers(new)
    both = [key for key in before if key in now]
    first = next((Difference(*key, before[key], now[key]) for key in both if not _same(before[key], now[key])), None)
    origins, mine = read_origin(old), read_origin(new)[-1]
    different = differences(origins[-1], mine) if origins else []
    weights = None if first else compare_weights(old, new)
    print()
    if first is None and weights is None:
        so_many = "step" if last == 1 else f"{last:,} steps"
        print(f"same bits: {len(both):,} numbers of the first {so_many}{_of_weights(old, new)}")
    elif first is None:
        print(f"not the same: all {len(both):,} numbers agree, but not {weights}")
    else:
        steps = sorted({step for step, _ in both if step < first.step})
        print(f"not the same: {first.sentence()}; {_before(steps)}")
    notes = _notes(result, origins, both, before)
    if different:
        print("\n".join(["what differs", *(f"  {line}" for line in different)]))
    elif first is not None or weights is not None:
        print(f"what differs  {'nothing that is known of' if origins else f'not known: {old} has no origin.json'}")
    print("\n".join([*(f"note          {note}" for note in notes), f"run folder    {new}"]))
    return int(first is not None or weights is not None)


def _before(steps: list[int]) -> str:
    return f"what was recorded up to step {steps[-1]:,} is the same" if steps else "nothing before it was recorded"


def _same(a: float | None, b: float | None) -> bool:
    return a == b or (a is not None and b is not None and math.isnan(a) and math.isnan(b))


def _notes(result: Mapping[str, Any], origins: list[dict[str, Any]], both: list[Any], before: Numbers) -> list[str]:
    """What else may be why, or is to be known."""
    found = []
    if "stack" in str(result.get("computed", "")):
        found.append("the run was trained in a stack; alone its numbers differ in the last digits")
    if as_long(origins):
        found.append("the run continued with another length than it began with, and a schedule may ask for that")
    if any("cuda" in origin.get("versions", {}) for origin in origins):
        found.append("on a GPU the bits of a run are its own unless it has deterministic=true")
    if len(both) < len(before):
        found.append(f"{len(before) - len(both):,} numbers were recorded then and not now")
    return found


def _weights(folder: Path) -> dict[int, Path]:
    return {checkpoint.step_of(path): path for path in checkpoint.Checkpoints(folder / "checkpoints", 1).files()}


def compare_weights(old: Path, new: Path) -> str | None:
    """Which weights are others at the last step that both have saved; None where none are, or there is no such step."""
    common = _weights(old).keys() & _weights(new).keys()
    if not common:
        return None
    states = [checkpoint.read(_weights(folder)[max(common)])["model"] for folder in (old, new)]
    for name in states[0].keys() | states[1].keys():
        if name not in states[0] or name not in states[1] or not torch.equal(states[0][name], states[1][name]):
            return f"the weights {name} of step {max(common):,}"
    return None


def _of_weights(old: Path, new: Path) -> str:
    common = _weights(old).keys() & _weights(new).keys()
    return f", and all weights of step {max(common):,}" if common else ""
