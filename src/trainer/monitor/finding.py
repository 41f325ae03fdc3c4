"""What the diagnosis says: which layer, which numbers, what that means, what to type."""

import math
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple


class Sighting(NamedTuple):
    """What a rule sees in one record; the fields are those of `Finding`."""

    layer: str | None
    numbers: dict[str, float]
    meaning: str
    advice: str


@dataclass(frozen=True)
class Finding:
    """One thing that is amiss.

    Args:
        rule: its name: `vanishing gradient`.
        step: where it was reported.
        layer: where in the model; None for all of it.
        numbers: what the rule saw, by name.
        meaning: what that says.
        advice: what to type, or where to look.
        follows: the rule that explains it, where another finding does.
    """

    rule: str
    step: int
    layer: str | None
    numbers: dict[str, float]
    meaning: str
    advice: str
    follows: str = ""

    @property
    def where(self) -> str:
        return self.rule if self.layer is None else f"{self.rule} in {self.layer}"

    @property
    def seen(self) -> str:
        return " ".join(f"{name}={number:.3g}" for name, number in self.numbers.items())

    def line(self) -> str:
        """For the console."""
        seen = f" ({self.seen})" if self.seen else ""
        return f"warning: step={self.step} {self.where}: {self.meaning}{seen}. {self.what_to_do}"

    @property
    def what_to_do(self) -> str:
        """What to type, or which finding to mend first."""
        return f"It may follow from what stands first: {self.follows}." if self.follows else self.advice

    def markdown(self) -> str:
        seen = f"\n\n`{self.seen}`" if self.seen else ""
        return f"**{self.where}**, step {self.step}: {self.meaning}. {self.what_to_do}{seen}"

    def as_dict(self) -> dict[str, Any]:
        """Plain values; what is not finite as a word, which JSON has no number for."""
        numbers = {name: x if math.isfinite(x) else str(x) for name, x in self.numbers.items()}
        return {**asdict(self), "numbers": numbers}
