"""Lion: the sign of a running mean of the gradients."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class Lion(Optimizer):
    """w <- (1 - lr * weight_decay) w - lr * sign(b1 m + (1 - b1) g), then m <- b2 m + (1 - b2) g.

    Source: X. Chen et al., "Symbolic Discovery of Optimization Algorithms", 2023, algorithm 2.

    Args:
        params: tensors, or groups of them.
        lr: 3 to 10 times smaller than that of AdamW.
        betas: b1 and b2.
        weight_decay: 3 to 10 times larger than that of AdamW.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": tuple(betas), "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # nothing evaluates the loss twice here
        for group in self.param_groups:
            lr, (beta1, beta2) = group["lr"], group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["exp_avg"] = torch.zeros_like(parameter)
                mean: Tensor = state["exp_avg"]
                change = mean.mul(beta1).add_(parameter.grad, alpha=1 - beta1).sign_()
                parameter.mul_(1 - lr * group["weight_decay"]).add_(change, alpha=-lr)
                mean.lerp_(parameter.grad, 1 - beta2)
