"""Where in a model the first number is that is NaN or infinite."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from trainer.system.private import is_passing
from trainer.trees import Tree, called, leaves


def first_non_finite(
    model: nn.Module, inputs: Tree, targets: Tree, precision: Callable[[], AbstractContextManager[object]]
) -> str | None:
    """The first place with a value that is not finite, on the way from the inputs to the output.

    Looks at inputs and targets, the weights, then at what each layer makes of the inputs. Leaves traces (running
    statistics, random draws): for a run that has ended.

    Args:
        inputs, targets: a batch, as the model gets it.

    Returns:
        As `weight fc1.bias` or `output of conv2 (Conv2d)`; None where all is finite.
    """
    if not all(map(_is_finite, leaves(inputs))):
        return "the inputs of the batch"
    if not all(map(_is_finite, leaves(targets))):
        return "the targets of the batch"
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if not _is_finite(tensor):
            return f"weight {name}"
    found: list[str] = []

    def look(name: str, module: nn.Module) -> Callable[..., None]:
        def hook(module: nn.Module, _: object, output: object) -> None:
            if not found and isinstance(output, Tensor) and not _is_finite(output):
                found.append(f"output of {name or 'the model'} ({type(module).__name__})")

        return hook

    handles = [module.register_forward_hook(look(name, module)) for name, module in model.named_modules()]
    try:
        with torch.no_grad(), precision():
            called(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None


def _is_finite(tensor: Tensor) -> bool:
    has_nan = (tensor.is_floating_point() or tensor.is_complex()) and not is_passing(tensor)
    return not has_nan or bool(tensor.isfinite().all())
