"""Running averages of the weights, kept beside them: one operation on the flat buffer after each update."""

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor


@dataclass
class Average:
    """An average of all weights.

    Source: the exponential one has the warm-up of TensorFlow's `ExponentialMovingAverage`, a decay of
    min(decay, (1 + n) / (10 + n)) in update n. The mean of the last part: P. Izmailov et al., "Averaging Weights Leads
    to Wider Optima and Better Generalization", 2018; here over all steps of that part.

    Args:
        values: `[1, num_parameters]`, the weights before the first step.
        decay: of the exponential one; None for the mean.
        begins: the mean is over the weights after the steps that follow this one.

    Attributes:
        updates: how many have gone into it.
        buffers: of the model, as they are with these weights, where they differ from the model's own.
    """

    values: Tensor
    decay: float | None = None
    begins: int = 0
    updates: int = 0
    buffers: dict[str, Tensor] = field(default_factory=dict)

    def update(self, step: int, weights: Tensor) -> None:
        """After the update of `step`."""
        if step <= self.begins:
            return
        n = self.updates
        share = 1 / (n + 1) if self.decay is None else 1 - min(self.decay, (1 + n) / (10 + n))
        self.values.lerp_(weights, share)
        self.updates += 1

    @property
    def is_there(self) -> bool:
        return self.updates > 0


@dataclass
class OfOptimizer(Average):
    """An average that an optimizer keeps, as a schedule-free one does.

    Args:
        fill: writes it into a row like `values`.
    """

    fill: Callable[[Tensor], object] = field(kw_only=True)

    def update(self, step: int, weights: Tensor) -> None:
        self.fill(self.values[0])
        self.updates += 1
