"""How long a training goes on without getting better."""

from dataclasses import dataclass
from typing import Any


@dataclass
class Patience:
    """Counts the validations in a row that were not better than the best one.

    Args:
        metric: the tag of what is compared, `val/loss`.
        is_larger_better: of that.
        validations: so many are borne.
        min_delta: what is better by no more than this is not better.

    Attributes:
        best: the number to beat, None before the first validation.
        count: validations since then.
    """

    metric: str
    is_larger_better: bool
    validations: int
    min_delta: float = 0.0
    best: float | None = None
    count: int = 0

    def observe(self, number: float) -> None:
        """After a validation. What is not a number is not better."""
        sign = 1 if self.is_larger_better else -1
        if number == number and (self.best is None or sign * (number - self.best) > self.min_delta):
            self.best, self.count = number, 0
        else:
            self.count += 1

    @property
    def is_over(self) -> bool:
        return self.count >= self.validations

    @property
    def told(self) -> str:
        """As it is typed."""
        return (
            f"early_stopping.patience={self.validations} early_stopping.min_delta={self.min_delta} "
            f"early_stopping.metric={self.metric}"
        )

    def state_dict(self) -> dict[str, Any]:
        return {"metric": self.metric, "min_delta": self.min_delta, "best": self.best, "count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes the count up again; with another metric or `min_delta` it begins anew."""
        if (state["metric"], state["min_delta"]) == (self.metric, self.min_delta):
            self.best, self.count = state["best"], state["count"]
