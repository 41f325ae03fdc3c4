"""What a file keeps of a module: its state dict, whole; and how it is put back."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy


def state_of(module: nn.Module, keep_vars: bool = False) -> dict[str, Any]:
    """The module's state dict; torch's own where the `state_dict` of its class leaves parameters or buffers out.

    A class may do so to save a frozen part only once. The run's numbers depend on that part, too.

    Args:
        keep_vars: as torch has it: parameters themselves, not what is detached from them.
    """
    whole: dict[str, Any] = nn.Module.state_dict(module, keep_vars=keep_vars)
    if type(module).state_dict is nn.Module.state_dict:
        return whole
    own: dict[str, Any] = module.state_dict(keep_vars=True) if keep_vars else module.state_dict()
    return own if whole.keys() <= own.keys() else whole


def put_state(module: nn.Module, state: Mapping[str, Any]) -> None:
    """Copies what `state_of` gave into the module's tensors.

    A buffer that is made in the forward pass (it is None or empty before) becomes as it was.

    Raises:
        RuntimeError: names or sizes differ.
    """
    for path, part in module.named_modules():
        for name, buffer in part._buffers.items():
            found = state.get(f"{path}.{name}".removeprefix("."))
            if not isinstance(found, Tensor) or is_lazy(buffer) or name in part._non_persistent_buffers_set:
                continue
            if buffer is None or (buffer.shape != found.shape and not (buffer.numel() and found.numel())):
                like = next(module.parameters(), found) if buffer is None else buffer
                part._buffers[name] = torch.empty_like(found, device=like.device)
    is_whole = nn.Module.state_dict(module).keys() <= module.state_dict().keys()
    if is_whole:
        module.load_state_dict(state)
    else:
        nn.Module.load_state_dict(module, state)
