"""Weights that a loss depends on and no optimizer knows: layers in a plain list, tensors that are no parameters."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from trainer.config.settings import Settings
from trainer.errors import UserError
from trainer.losses.function import LossFunction


def unregistered(model: nn.Module, loss_fn: LossFunction) -> list[tuple[str, str, Tensor]]:
    """Weights in attributes that are not among the parameters: model or loss, `Class.attribute`, the tensor."""
    known = {id(parameter) for module in (model, loss_fn) for parameter in module.parameters()}
    return [
        (group, f"{type(module).__name__}.{name}", tensor)
        for group, root in (("model", model), ("loss", loss_fn))
        for module in root.modules()
        for name, value in vars(module).items()
        if name not in ("_parameters", "_buffers", "_modules")
        for tensor in weights_in(value)
        if tensor.requires_grad and id(tensor) not in known
    ]


def refuse_unregistered(
    settings: Settings, found: list[tuple[str, str, Tensor]], total: Tensor, model: nn.Module
) -> None:
    """
    Args:
        found: by `unregistered`, before the forward pass: what that makes anew each time is not meant.
        total: the loss of some samples, with its graph.

    Raises:
        UserError: the loss leads to some of them: they would be neither trained nor saved; or nothing is to be trained.
    """
    used = {id(leaf) for leaf in leaves_of_graph(total)} if found else set()
    for group, where, tensor in found:
        if id(tensor) in used:
            raise UserError(
                f"{group}={settings.names[group]}: {where} has weights that are not among its parameters, and would be "
                "neither trained nor saved. Write nn.ModuleList for a list of layers, nn.ModuleDict for a dict of "
                "them, nn.Parameter for a tensor."
            )
    if next(model.parameters(), None) is None:
        raise UserError(f"model={settings.names['model']}: has no parameters; there is nothing to train.")


def leaves_of_graph(total: Tensor) -> Iterator[Tensor]:
    """The tensors that a number depends on and that have a gradient of their own."""
    ahead, seen = [total.grad_fn], set()
    while ahead:
        node = ahead.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if (variable := getattr(node, "variable", None)) is not None:
            yield variable
        ahead += [following for following, _ in node.next_functions]


def weights_in(value: Any, depth: int = 3) -> Iterator[Tensor]:
    """Tensors, and parameters of modules, also in lists and dicts; these may lie in each other, or in themselves."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, nn.Module):
        yield from value.parameters()
    elif depth and isinstance(value, list | tuple | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from weights_in(item, depth - 1)
