"""An optimizer that has all parameters as one vector, until one of them gets no gradient."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from trainer.state import Store, hide_unreached, of_each


class ByParameter(Optimizer):
    """As `torch.optim` by default: a parameter that no gradient reaches is left alone in that step.

    Its gradient is None there: no weight decay, no moment moves it, and it does not count the step. As one vector all
    parameters are moved together, which takes less time. So that is done until a step in which one got no gradient;
    from then on each has a state of its own, which begins with what it was.

    Args:
        flat: over `store.flat`.
        store: watches who gets a gradient.
        make: the same optimizer over a list of parameters.
    """

    def __init__(self, flat: Optimizer, store: Store, make: Callable[[Sequence[nn.Parameter]], Optimizer]) -> None:
        self.flat, self._store, self._make = flat, store, make
        self._each: Optimizer | None = None
        self.defaults = flat.defaults

    @property
    def _inner(self) -> Optimizer:
        return self.flat if self._each is None else self._each

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        return self._inner.param_groups

    @property
    def state(self) -> Any:  # type: ignore[override]
        return self._inner.state

    def step(self) -> None:  # type: ignore[override]  # nothing evaluates the loss twice here
        if self._each is None and self._store.unreached():
            self._part()
        self._inner.step()

    step.hooked = True  # type: ignore[attr-defined]  # the inner one has the hooks

    def zero_grad(self, set_to_none: bool = False) -> None:
        self._store.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        return {**self._inner.state_dict(), "by_parameter": self._each is not None}

    def take_form(self, state_dict: Mapping[str, Any]) -> None:
        """Has a state for each parameter from now on, if that is what was saved: here, or by `fast=false`."""
        is_of_each = state_dict.get("by_parameter") or len(state_dict["param_groups"][0]["params"]) > 1
        if is_of_each and self._each is None:
            self._part()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Raises ValueError: the state is of another optimizer."""
        self.take_form(state_dict)
        self._inner.load_state_dict({key: value for key, value in state_dict.items() if key != "by_parameter"})

    def _part(self) -> None:
        """Gives each parameter its part of the state."""
        each = self._make(self._store.parameters)
        hide_unreached(each, self._store)
        each.load_state_dict(of_each(self.flat.state_dict(), each.state_dict(), self._store))
        self._each = each
