"""What `torch.optim` lacks: the update by hand. And which of its optimizers may take all parameters as one vector."""

from collections.abc import Iterable

import torch
from torch import Tensor

# Their update of a number depends on that number, its gradient and its own state alone, so one flat tensor gives what
# many small ones give, at the price of one. Any other optimizer gets the parameters as they are.
ELEMENTWISE = frozenset(
    {
        *("ManualSGD", "SGD", "ASGD", "Adam", "AdamW", "Adamax", "NAdam", "RAdam"),
        *("RMSprop", "Rprop", "Adagrad", "Adadelta", "Lion"),
    }
)


class ManualSGD(torch.optim.Optimizer):
    """w <- w - lr * gradient, under `no_grad`, and nothing else.

    The update that the first PyTorch tutorials write by hand; its curve is that of `torch.optim.SGD` bit for bit.

    Args:
        params: the tensors to update.
        lr: learning rate, > 0.
    """

    def __init__(self, params: Iterable[Tensor], lr: float = 1e-3) -> None:
        if not lr > 0:
            raise ValueError(f"lr={lr}: must be > 0")
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # nothing evaluates the loss twice here
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.add_(parameter.grad, alpha=-group["lr"])
