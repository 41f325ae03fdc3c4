"""Schedule-free AdamW, whose weights at their best are an average that it keeps instead of a schedule."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from schedulefree import AdamWScheduleFree
from torch import Tensor


class ScheduleFree(AdamWScheduleFree):
    """The package's AdamW, always in its training mode: the weights are y, where gradients are taken.

    Its evaluation mode would turn them into x, the average, and back, with other rounding each time. Here x is beside
    the weights (`trainer.average`), so that validations and saves leave no trace in the training.

    Source: A. Defazio et al., "The Road Less Scheduled", 2024: y = (1 - beta1) z + beta1 x.

    Args:
        params: tensors, or groups of them.
        warmup_steps: in which the learning rate rises from 0.

    Raises:
        ValueError: without beta1, x can't be had of y and z.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 2.5e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        warmup_steps: int = 0,
    ) -> None:
        if betas[0] <= 0:
            raise ValueError(f"betas={list(betas)}: the first must be above 0, or nothing gives the average")
        super().__init__(params, lr, betas, eps, weight_decay, warmup_steps)
        self.train()

    @torch.no_grad()
    def average_into(self, places: Mapping[Tensor, Tensor]) -> None:
        """Writes x of every parameter into its place, a tensor of the same shape."""
        for group in self.param_groups:
            for parameter in group["params"]:
                place = places[parameter].copy_(parameter)
                if "z" in self.state[parameter]:
                    place.lerp_(self.state[parameter]["z"], 1 - 1 / group["betas"][0])
