"""What a checkpoint must hold so that a run goes on exactly; and the parameters as one flat buffer."""

from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from trainer.distributed import ALONE, World
from trainer.draws import random_state, set_random_state
from trainer.optim.schedulers import Schedule


class Store:
    """All trainable parameters of a model and its loss as views into one buffer, their gradients into another.

    A module does not notice: its parameters keep names, shapes and identity. What runs over all of them (an update, the
    statistics, clipping) then is one operation on `values` and `grads`, `[num_runs, num_parameters]` with
    `num_runs = 1`. Parameters of which no gradient is asked stay where they are. A trainable parameter that no gradient
    reaches has a gradient of 0, not None: weight decay moves it, where `torch.optim` on its own would leave it out.

    Args:
        model: already on its device and in its dtype.
        loss: the same; its parameters come last, as `loss.<name>`.

    Raises:
        ValueError: no parameter is trainable, or they are of several dtypes or devices.
    """

    def __init__(self, model: nn.Module, loss: nn.Module | None = None) -> None:
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        if loss is not None:
            named += [(f"loss.{name}", p) for name, p in loss.named_parameters() if p.requires_grad]
        if not named:
            raise ValueError("the model has no trainable parameter")
        kinds = {(p.dtype, p.device) for _, p in named}
        if len(kinds) > 1:
            raise ValueError(f"the trainable parameters are of several kinds: {sorted(map(str, kinds))}; one is needed")
        self.names = [name for name, _ in named]
        self.parameters = [p for _, p in named]
        # Where each parameter begins in a row, and the last one ends.
        self.bounds = [0, *accumulate(p.numel() for p in self.parameters)]
        self.values = torch.cat([p.detach().reshape(-1) for p in self.parameters]).unsqueeze(0)
        self.grads = torch.zeros_like(self.values)
        for p, (start, end) in zip(self.parameters, pairwise(self.bounds), strict=True):
            p.data = self.values[0, start:end].view(p.shape)
            p.grad = self.grads[0, start:end].view(p.shape)
        # The same memory as one parameter, for optimizers whose update is elementwise.
        self.flat = nn.Parameter(self.values[0])
        self.flat.grad = self.grads[0]

    def zero_grad(self) -> None:
        """Sets the gradients to 0 in place: setting them to None would cut them loose from the buffer."""
        self.grads.zero_()

    def clip(self, norm: float | None, value: float | None) -> None:
        """Clips the gradients, by value and then by their norm over all parameters; waits for no device."""
        if value is not None:
            self.grads.clamp_(-value, value)
        if norm is not None:
            # 1e-6 as in torch.nn.utils.clip_grad_norm_
            self.grads.mul_((norm / (self.grads.norm() + 1e-6)).clamp_max(1.0))


@dataclass
class TrainingState:
    """Everything that a step changes.

    Args:
        loss: what a criterion keeps: parameters that train with the model's, and buffers.
        last: the last value of every tag; and the best validations, best/<tag>.
        data: split to what tells it from another, see `trainer.data.prepare.fingerprint`.
    """

    model: nn.Module
    store: Store
    optimizer: Optimizer
    schedule: Schedule
    scaler: GradScaler
    loss: nn.Module = field(default_factory=nn.Module)
    step: int = 0
    evaluated: int = 0  # the step of the last validation that was not broken off
    num_skipped: int = 0  # steps without an update, since a number was not finite
    num_skipped_in_row: int = 0
    seconds: float = 0.0  # spent in training before this process
    last: dict[str, float] = field(default_factory=dict)
    data: dict[str, str] = field(default_factory=dict)
    world: World = ALONE

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values alone, so that `torch.load(weights_only=True)` reads it.

        The same on every rank, which all ask for it together.
        """
        return {
            "model": self.model.state_dict(),
            "loss": self.loss.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "random": self.world.gather(random_state(self.store.values.device)),  # of every rank
            "step": self.step,
            "evaluated": self.evaluated,
            "num_skipped": self.num_skipped,
            "num_skipped_in_row": self.num_skipped_in_row,
            "seconds": self.seconds,
            "last": self.last,
            "data": self.data,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises ValueError: the state is of a training with other data, or in another number of processes."""
        for split, found in self.data.items():
            if (begun := state.get("data", self.data).get(split)) != found:
                raise ValueError(f"the {split} split has {found}; the run began with {begun}")
        if len(state["random"]) != self.world.size:
            raise ValueError(f"it was trained by {len(state['random'])} processes, not {self.world.size}")
        self.model.load_state_dict(state["model"])  # copies into the views of the store
        self.loss.load_state_dict(state.get("loss", {}))
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.scaler.load_state_dict(state["scaler"])
        self.step, self.evaluated = state["step"], state["evaluated"]
        self.num_skipped, self.num_skipped_in_row = state["num_skipped"], state["num_skipped_in_row"]
        self.seconds = float(state["seconds"])
        self.last.clear()
        self.last.update({str(tag): float(number) for tag, number in state["last"].items()})
        set_random_state(state["random"][self.world.rank], self.store.values.device)
