"""Tensors of a model that no run can train, or keep, as they are: each is a line, before anything is written."""

from itertools import combinations

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from trainer.config.settings import Settings
from trainer.errors import UserError
from trainer.kept import state_of


def refuse_odd(settings: Settings, model: nn.Module) -> None:
    """Raises UserError for tensors without numbers, quantized, or in no state dict; for two in the same memory."""
    where = f"model={settings.names['model']}"
    named = (*model.named_parameters(), *model.named_buffers())
    tensors = {name: tensor for name, tensor in named if not is_lazy(tensor)}
    for name, tensor in tensors.items():
        if tensor.is_meta:
            raise UserError(f"{where}: {name} has no numbers, it is on the device meta. Make it without one.")
        if tensor.is_inference():
            raise UserError(f"{where}: {name} was made in torch.inference_mode, where nothing learns. Make it outside.")
        if tensor.is_quantized:
            raise UserError(
                f"{where}: {name} is quantized, and no checkpoint holds such a tensor so that it is safe to read. Keep "
                "its .dequantize(), or its .int_repr() with its scale."
            )
        if tensor.requires_grad and _is_spread(tensor):
            raise UserError(f"{where}: {name} has one number for several places, as of expand. Give its .contiguous().")
    kept = state_of(model)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and name not in kept:
            raise UserError(
                f"{where}: its state dict leaves {name} out, which trains, and no checkpoint would keep it. Have the "
                "state dict give it (a hook takes it out), or freeze it by requires_grad_(False)."
            )
    in_use = [(name, tensor) for name, tensor in tensors.items() if tensor.layout == torch.strided and tensor.numel()]
    by_storage: dict[int, list[tuple[str, Tensor]]] = {}
    for name, tensor in in_use:
        by_storage.setdefault(tensor.untyped_storage().data_ptr(), []).append((name, tensor))
    for lodgers in by_storage.values():
        for (one, first), (other, second) in combinations(lodgers, 2):
            if (first.requires_grad or second.requires_grad) and _overlap(first, second):
                raise UserError(
                    f"{where}: {one} and {other} are two tensors in the same memory, which would be trained apart. "
                    "Give both names one nn.Parameter, without .data, or one of them a .clone()."
                )


def _is_spread(tensor: Tensor) -> bool:
    return any(size > 1 and not stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))


def _overlap(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors of one storage have a number in common."""
    if first.dtype != second.dtype:
        return True
    numbers = torch.arange(first.untyped_storage().nbytes() // first.element_size())
    places = (numbers.as_strided(x.shape, x.stride(), x.storage_offset()).flatten() for x in (first, second))
    return bool(torch.isin(*places).any())
