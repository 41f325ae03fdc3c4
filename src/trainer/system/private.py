"""Names of torch's that stand in no documentation, which any release may change: each is here, with what then happens.

| name | what for | when it is gone |
|---|---|---|
| `torch.utils._python_dispatch.TorchDispatchMode` | watches operations | steps are not recorded, the graph is not drawn, `monitor.activations` gives no numbers |
| `TorchDispatchMode._should_skip_dynamo` | spares an import of 0.9 s | that import is made |
| `torch._ops.OpOverload` (a type), its `._schema`, `.overloadpacket` | the form of an operation that writes where it is told | steps are not recorded |
| `Tensor._version` | whether somebody has written into it | steps are not recorded; a batch that comes again is copied every time |
| `Module._forward_hooks` and its like, `Parameter._backward_hooks` | whether somebody watches a module | somebody does: short cuts step aside, runs are not stacked |
| `torch._C._functorch.is_functorch_wrapped_tensor` | whether a tensor is one of `torch.func`, gone when that returns | a model with `vmap` in `forward` may fail while its layers are watched |
| `torch._fused_adam_`, `torch._fused_adamw_` | Adam in one call | `torch.optim.Adam` itself |
| `torch.utils.flop_counter.flop_registry` | how much there is to do in a product | `threads=auto` takes all cores |
| `torch._dynamo.config`, `.reset`, `.mark_static_address` | `compile=true` | the run goes on uncompiled, with a line |
| `Module._apply` | moves a model without harm to complex numbers | its tensors are moved one by one |
| `._workers`, `._worker_result_queue` of a `DataLoader`'s iterator | to see that a worker has died or hangs | `data.num_workers` above 0 is refused with a line |
| `._worker_pids_set` of it, `torch.utils.data._utils.signal_handling` | no error in the middle of other work when a worker dies | a second loader in the user's own code may bring one |
| `._index_queues`, `._shutdown` of it | an end that waits for no lock of a killed worker | it ends in its own way |
| `Optimizer._opt_called` | a scheduler's warning | it is set in vain |

Of Hydra: `hydra._internal` (its parser of arguments, its search path, its basic sweeper). `pyproject.toml` keeps Hydra
below the release that may change it.
"""  # noqa: E501 - a table

import contextlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class Gone(RuntimeError):
    """This release of torch has no longer what is asked for."""


try:
    from torch.utils._python_dispatch import TorchDispatchMode
except ImportError:

    class TorchDispatchMode:  # type: ignore[no-redef]
        """In the place of torch's, where that is gone."""

        def __init__(self) -> None:
            raise Gone("this release of torch has no TorchDispatchMode")


class Watching(TorchDispatchMode):
    """Sees every operation on its way to a kernel."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # torch's default wraps __torch_dispatch__ so that its first call imports torch._dynamo (0.9 s)


def has_dispatch_mode() -> bool:
    """Whether operations can be watched."""
    return TorchDispatchMode.__module__ != __name__


def hooks_of(module: nn.Module) -> list[Any]:
    """What is true as soon as somebody has a hook on the module itself, to be asked again and again."""
    return [module.__dict__.get(kind, [Gone]) for kind in HOOKS]


def tensor_hooks(parameters: Iterable[Tensor]) -> list[Any]:
    """The same for tensors, to be asked once: what is there appears with the first hook."""
    kinds = ("_backward_hooks", "_post_accumulate_grad_hooks")
    return [getattr(parameter, kind, None) for parameter in parameters for kind in kinds] + [
        None if hasattr(Tensor, kinds[0]) else Gone
    ]


def version_of(tensor: Tensor) -> int | None:
    """How often somebody has written into it; None where torch no longer says."""
    return getattr(tensor, "_version", None)


def is_passing(tensor: Tensor) -> bool:
    """Whether it stands for a tensor within `torch.vmap` and `torch.func.grad`, and is nothing once they return."""
    known = getattr(getattr(torch._C, "_functorch", None), "is_functorch_wrapped_tensor", None)
    return known is not None and bool(known(tensor))


def fused_adam(is_decoupled: bool) -> Callable[..., None] | None:
    """Adam's update of many tensors in one call; AdamW's if decoupled. None where there is no such call."""
    return getattr(torch, "_fused_adamw_" if is_decoupled else "_fused_adam_", None)


def compiler(**settings: Any) -> Any:
    """torch._dynamo, set so. To import it takes a second, for which runs that compile nothing need not wait.

    Raises:
        Gone: it has no such setting, or not what else is asked of it.
    """
    try:
        import torch._dynamo as found

        for name in ("reset", "mark_static_address"):
            getattr(found, name)
        for name, value in settings.items():
            getattr(found.config, name)
            setattr(found.config, name, value)
    except (ImportError, AttributeError) as error:
        raise Gone(f"this release of torch compiles in another way ({error})") from error
    return found


def flop_counts() -> Mapping[Any, Callable[..., int]]:
    """Operation to what counts its multiplications and additions; empty where torch no longer says."""
    try:
        from torch.utils.flop_counter import flop_registry
    except ImportError:
        return {}
    return flop_registry


def workers_of(batches: Any) -> tuple[list[Any], Any] | None:
    """The processes of a `DataLoader`'s iterator and the queue that they write into; None where torch hides them."""
    workers, queue = getattr(batches, "_workers", None), getattr(batches, "_worker_result_queue", None)
    return None if workers is None or queue is None else (workers, queue)


def unlisted(batches: Any) -> None:
    """Takes the workers of a `DataLoader` iterator off torch's list of those whose death raises in the main thread."""
    with contextlib.suppress(AttributeError, ImportError):
        from torch.utils.data._utils.signal_handling import _remove_worker_pids

        if batches._worker_pids_set:
            _remove_worker_pids(id(batches))
            batches._worker_pids_set = False


def put_away(batches: Any) -> None:
    """Ends a `DataLoader`'s iterator whose workers are gone: its own end waits for a lock that one may have held."""
    with contextlib.suppress(AttributeError):
        for queue in batches._index_queues:
            queue.cancel_join_thread()
            queue.close()
        batches._shutdown = True


def applied(model: nn.Module, function: Callable[[Tensor], Tensor]) -> nn.Module:
    """The model, with `function(tensor)` in the place of every parameter and buffer.

    Not `Module.to`, which has complex numbers lose their imaginary part.
    """
    if hasattr(nn.Module, "_apply"):
        moved: nn.Module = model._apply(function)
        return moved
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.data = function(parameter.data)
        for module in model.modules():
            for name, buffer in list(module.named_buffers(recurse=False)):
                setattr(module, name, function(buffer))
    return model
