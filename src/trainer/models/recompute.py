"""Activations that are computed again in the backward pass, instead of being kept until then."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any
from weakref import WeakSet

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

RECOMPUTED: WeakSet[Callable[..., Any]] = WeakSet()  # each the `forward` of a module that keeps its inputs alone


def blocks_of(model: nn.Module) -> dict[str, nn.Module]:
    """The entries of the outermost `nn.Sequential`s and `nn.ModuleList`s that have layers and parameters in them."""
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Sequential | nn.ModuleList) and not any(name.startswith(f"{b}.") for b in found):
            for i, entry in module.named_children():
                if any(entry.children()) and any(True for _ in entry.parameters()):
                    found[f"{name}.{i}".lstrip(".")] = entry
    return found


def recompute(modules: Iterable[nn.Module]) -> None:
    """Has each module keep its inputs alone, by `torch.utils.checkpoint`; no number changes.

    Draws are made once more as they were. The running statistics of batch norms, which a second pass would move again,
    stay as the first left them.
    """
    from torch.utils.checkpoint import checkpoint

    def wrapped(module: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
        def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
            return nullcontext(), unmoved(module)

        def again(*args: Any, **kwargs: Any) -> Any:
            if not torch.is_grad_enabled():
                return forward(*args, **kwargs)
            return checkpoint(forward, *args, use_reentrant=False, context_fn=contexts, **kwargs)

        return again

    for module in modules:
        module.forward = wrapped(module, module.forward)
        RECOMPUTED.add(module.forward)


def recomputed_like(copied: nn.Module) -> nn.Module:
    """A copy of a module, which keeps its own inputs alone where the other does; it shares that one's `forward`."""
    if vars(copied).get("forward") in RECOMPUTED:
        del copied.forward
        recompute([copied])
    return copied


@contextmanager
def unmoved(module: nn.Module) -> Iterator[None]:
    """Within it a forward pass in training leaves the running statistics as they are."""
    norms = [norm for norm in module.modules() if isinstance(norm, _BatchNorm) and norm.track_running_stats]
    kept = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm, _, count in kept:
        norm.momentum = 0.0
        norm.num_batches_tracked = None if count is None else count.clone()
    try:
        yield
    finally:
        for norm, momentum, count in kept:
            norm.momentum, norm.num_batches_tracked = momentum, count
