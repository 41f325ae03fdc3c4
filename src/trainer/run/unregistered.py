"""What nobody would train or save: layers in a plain list, tensors that are no parameters, attributes of the user's."""

import sys
from collections.abc import Iterator, Sequence
from types import FunctionType
from typing import Any

from torch import Tensor, nn

from trainer.config.settings import Settings
from trainer.config.trust import belongs
from trainer.errors import UserError
from trainer.losses.function import LossFunction
from trainer.trees import leaves


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
    settings: Settings,
    found: list[tuple[str, str, Tensor]],
    total: Tensor,
    outputs: Any,
    model: nn.Module,
    loss_fn: LossFunction,
) -> None:
    """
    Args:
        found: by `unregistered`, before the forward pass: what that makes anew each time is not meant.
        total: the loss of some samples, with its graph.
        outputs: of the model for these samples, with theirs.

    Raises:
        UserError: the loss leads to weights that would be neither trained nor saved, wherever they lie; or nothing is
            to be trained.
    """
    used = {id(leaf): leaf for leaf in leaves_of_graph(total)}
    for group, where, tensor in found:
        if id(tensor) in used:
            raise UserError(
                f"{group}={settings.names[group]}: {where} has weights that are not among its parameters, and would be "
                "neither trained nor saved. Write nn.ModuleList for a list of layers, nn.ModuleDict for a dict of "
                "them, nn.Parameter for a tensor."
            )
    # Of a variable of a file, a lambda or an object nobody knows a name. A tensor that is no parameter may be an input.
    known = {id(parameter) for module in (model, loss_fn) for parameter in module.parameters()}
    apart = [leaf for leaf in used.values() if isinstance(leaf, nn.Parameter) and id(leaf) not in known]
    if apart:
        of_model = {id(leaf) for output in leaves(outputs) for leaf in leaves_of_graph(output)}
        group = "model" if id(apart[0]) in of_model else "loss"
        raise UserError(
            f"{group}={settings.names[group]}: takes weights {list(apart[0].shape)} that lie outside of it, in a "
            "variable, a function or an object, and would be neither trained nor saved. Make them in __init__ of a "
            "module (self.head = nn.Linear(...)), or call .requires_grad_(False) if they are not to be trained."
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


def own_objects(own: Sequence[str], depth: int = 5, **roots: object) -> dict[str, object]:
    """Objects of the user's classes by where they are found, as `optimizer` and `data.pool`; modules are none of them.

    Args:
        own: the user's packages.
        depth: how far it is looked into what holds them.
        roots: these and what they hold are looked through, as far as it is the user's, torch's or this tool's.
    """
    found: dict[str, object] = {}
    seen: set[int] = set()
    ahead = [(name, root, depth) for name, root in roots.items()]
    while ahead:
        name, it, left = ahead.pop(0)
        if isinstance(it, list | tuple) and left:
            ahead += [(name, item, left - 1) for item in it[:10]]
        is_own = belongs(type(it).__module__, own)
        is_looked_into = is_own or type(it).__module__.split(".")[0] in ("trainer", "torch")
        if id(it) in seen or not is_looked_into or not hasattr(it, "__dict__") or isinstance(it, nn.Module | Tensor):
            continue
        seen.add(id(it))
        if is_own:
            found.setdefault(name, it)
        if left:
            ahead += [(f"{name}.{key}" if is_own else name, value, left - 1) for key, value in vars(it).items()]
    return found


def own_files(own: Sequence[str]) -> dict[str, object]:
    """Python files of the user's that have been imported, and their functions and classes, by their dotted names.

    A variable there, or an attribute of a function or a class, may count what no checkpoint keeps. What is installed is
    left out: packages keep much in their variables that no number depends on.
    """
    found: dict[str, object] = {}
    for name in sorted(name for name in sys.modules if belongs(name, own)):
        file = sys.modules[name]
        if "-packages" in (getattr(file, "__file__", None) or "-packages"):
            continue
        found[name] = file
        for key, value in vars(file).items():
            if isinstance(value, FunctionType | type) and value.__module__ == name:
                found[f"{name}.{key}"] = value
    return found
