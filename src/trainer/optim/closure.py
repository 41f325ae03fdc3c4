"""An optimizer that evaluates the loss several times a step, such as L-BFGS."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from trainer.optim import held

Evaluate = Callable[[], Tensor]  # the loss with the weights as they are, whose gradients are in the store then


class ByClosure(Optimizer):
    """Has an optimizer's `step(closure)` evaluate the batch of this step again.

    Args:
        inner: its first evaluation is the one that the loop has made already.
    """

    def __init__(self, inner: Optimizer) -> None:
        self.inner, self.defaults = inner, inner.defaults
        self._evaluate: Evaluate | None = None
        self._first: Tensor | None = None

    def remember(self, first: Tensor, evaluate: Evaluate) -> None:
        """Is told of a batch what its loss is, and how it is found with other weights."""
        self._first, self._evaluate = first, evaluate

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        return self.inner.param_groups

    @property
    def state(self) -> Any:  # type: ignore[override]
        return self.inner.state

    def step(self) -> None:  # type: ignore[override]
        self.inner.step(self._loss)  # type: ignore[arg-type]

    step.hooked = True  # type: ignore[attr-defined]  # the inner one has the hooks

    def _loss(self) -> Tensor:
        assert self._evaluate is not None
        loss, self._first = self._first, None
        return self._evaluate() if loss is None else loss

    def zero_grad(self, set_to_none: bool = False) -> None:
        """Nothing: gradients are set to 0 where they are computed."""

    def state_dict(self) -> dict[str, Any]:
        return held.state_of(self.inner)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        held.put_state(self.inner, state_dict)
