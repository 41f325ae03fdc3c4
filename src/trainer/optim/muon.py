"""Muon for the matrices of a network, AdamW for all the rest."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch.optim import AdamW, Optimizer


class Muon(Optimizer):
    """`torch.optim.Muon` for parameters of two dimensions, `torch.optim.AdamW` for all others, with one learning rate.

    Muon's update is scaled so that it is as large as AdamW's (`adjust_lr_fn="match_rms_adamw"`), hence a rate and a
    decay that suit AdamW suit both. Kernels of convolutions have four dimensions, and go to AdamW.

    Source: K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024; J. Liu et al., "Muon is
    Scalable for LLM Training", 2025, section 2.2 (the scale).

    Args:
        params: tensors, or groups of them.
        momentum, nesterov, ns_steps: of Muon.
        betas, eps: of AdamW.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        weight_decay: float = 0.01,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_steps: int = 5,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})
        of_muon: dict[str, Any] = {"momentum": momentum, "nesterov": nesterov, "ns_steps": ns_steps}
        self._inner: list[tuple[int, Optimizer]] = []
        for i, group in enumerate(self.param_groups):
            matrices = [p for p in group["params"] if p.dim() == 2 and not p.is_complex()]
            others = [p for p in group["params"] if p.dim() != 2 or p.is_complex()]
            if matrices:
                self._inner.append((i, torch.optim.Muon(matrices, adjust_lr_fn="match_rms_adamw", **of_muon)))
            if others:
                self._inner.append((i, AdamW(others, betas=(betas[0], betas[1]), eps=eps)))

    def step(self) -> None:  # type: ignore[override]  # nothing evaluates the loss twice here
        for i, optimizer in self._inner:
            group = self.param_groups[i]  # a scheduler may have changed it
            optimizer.param_groups[0].update(lr=group["lr"], weight_decay=group["weight_decay"])
            optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "inner": [optimizer.state_dict() for _, optimizer in self._inner]}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Raises ValueError: the state is of another optimizer."""
        super().load_state_dict({key: value for key, value in state_dict.items() if key != "inner"})
        for (_, optimizer), state in zip(self._inner, state_dict["inner"], strict=True):
            optimizer.load_state_dict(state)
