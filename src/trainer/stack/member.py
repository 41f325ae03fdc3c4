"""A run that trains beside others."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import nn

from trainer.draws import random_state, set_random_state
from trainer.loop import Observer
from trainer.losses.function import LossFunction
from trainer.metrics import Metrics
from trainer.stack import optimizers, store
from trainer.state import TrainingState


class StackObserver(Observer, Protocol):
    """Whoever watches a run in a stack, which validates all of its runs at once: `evaluate` is not called.

    Nor is `before_forward`: the run's own model is not called.
    """

    def evaluated(self, step: int, numbers: dict[str, float]) -> tuple[float, bool]:
        """Is told what `trainer.evaluate.evaluate` would give; returns what `evaluate` would return."""


@dataclass
class Member:
    """A run as `trainer.loop.fit` would get it, whose state is up to date after every step of the stack.

    Args:
        network: what its batches go through: its model, or that one's head.
        metrics: of it alone, beside what its loss gives.
        seed: of the order of its data.
        random: what `trainer.draws.random_state` gave when its turn to train would have come: after it was built, or
            after its checkpoint was loaded.

    Attributes:
        error: what ended it before its last step; the others go on.
        generator: draws what torch's own would draw on the CPU if the run were alone.
    """

    state: TrainingState
    network: nn.Module
    loss_fn: LossFunction
    observer: StackObserver
    seed: int
    random: dict[str, Any]
    metrics: Metrics | None = None
    error: Exception | None = None
    generator: torch.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.generator = torch.Generator()
        self.generator.set_state(self.random["cpu"])

    @property
    def has_left(self) -> bool:
        return self.error is not None or self.state.is_over

    @property
    def has_average(self) -> bool:
        return self.state.average is not None and self.state.average.is_there

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """Within it all generators are where they would be if the run were alone, as its checkpoints have them."""
        device = self.state.store.values.device
        others = random_state(device)
        set_random_state({**self.random, "cpu": self.generator.get_state()}, device)
        try:
            yield
        finally:
            self.random = random_state(device)
            self.generator.set_state(self.random["cpu"])
            set_random_state(others, device)

    def leave(self) -> None:
        """Takes the run out of its stack as it is now, with memory of its own; it may go on alone."""
        store.take_out(self.state.model, self.state.store)
        if self.error is None:  # as the loop of a run alone leaves them; a stack writes them anew in each step
            self.state.store.zero_grad()
        optimizers.take_out(self.state.optimizer, self.state.store)
