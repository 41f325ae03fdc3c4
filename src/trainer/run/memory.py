"""When memory is not enough: activations computed again, and a step made in smaller parts."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from trainer.computation import Computation, Work, in_parts
from trainer.config.settings import Settings
from trainer.data.batches import Batch
from trainer.errors import UserError
from trainer.exits import is_out_of_memory
from trainer.loop import ForwardBackward
from trainer.losses.function import Losses
from trainer.models.recompute import blocks_of, recompute
from trainer.optim.groups import refuse_unknown_parts
from trainer.system.limits import free_bytes


def recompute_as_asked(settings: Settings, model: nn.Module) -> None:
    """Raises UserError: the model has no such part, or no blocks."""
    asked = settings.gradient.checkpoint
    if asked is False:
        return
    if asked is True:
        parts = blocks_of(model)
        if not parts:
            named = next((n for n, part in model.named_children() if any(True for _ in part.parameters())), None)
            how = "Leave it out" if named is None else f"Name its parts: gradient.checkpoint=[{named}]"
            raise UserError(
                f"gradient.checkpoint=true: model={settings.names['model']} has no blocks in an nn.Sequential or "
                f"nn.ModuleList. {how}."
            )
    else:
        parts = refuse_unknown_parts("gradient.checkpoint", model, list(asked))
    recompute(parts.values())


def free_memory(device: torch.device) -> int:
    """Bytes; 0 where nobody says."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return free_bytes() or 0


class Halving:
    """Makes a step again in halves where memory is not enough; the size that fits is kept in the training state.

    Args:
        forward_backward: what is tried first, as long as memory was enough.
        network: what the batches go through, for parts of them.
        note: is told once for each halving.
    """

    def __init__(
        self, forward_backward: ForwardBackward, work: Work, network: nn.Module, note: Callable[[str], None]
    ) -> None:
        self._whole, self._parts = forward_backward, in_parts(work, network)
        self._state, self._note = work.state, note

    def __call__(self, batch: Batch, of: int) -> Losses:
        while True:
            size = self._state.part_size
            try:
                if size is None:
                    return self._whole(batch, of)
                return replace(self._parts, part_size=size)(batch, of)
            except RuntimeError as error:
                tried = min(batch.num_samples, size or self._parts.part_size)
                if not is_out_of_memory(error) or tried == 1:
                    raise
            # Outside of the clause above, whose traceback holds the tensors.
            self._state.part_size = (tried + 1) // 2
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self._note(told(self._state.model, tried, self._state.part_size))


def told(model: nn.Module, tried: int, size: int) -> str:
    """What the user reads of a halving."""
    norms = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
    mixes = " A batch norm now sees fewer samples at once, and saw some of these twice." if norms else ""
    return (
        f"out of memory with {tried:,} samples at once: this step and all that follow go in parts of {size:,}.{mixes}"
    )


def halving(work: Work, computation: Computation, note: Callable[[str], None]) -> ForwardBackward:
    """Of one process; several would have to agree in the midst of a step."""
    if work.state.world.size > 1:
        return computation.forward_backward
    return Halving(computation.forward_backward, work, computation.network, note)
