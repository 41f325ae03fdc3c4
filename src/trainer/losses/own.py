"""Losses that come as they are: a plain function, and what a model says of itself."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from trainer.config.trust import GIVEN
from trainer.trees import Tree, fields_of

# What a model's parameter may be called that takes the targets: Hugging Face's word first.
LABELS = ("labels", "targets", "target", "label", "y")


class FromFunction(nn.Module):
    """A plain function as a criterion: it is called by name, with what it asks for and its keys.

    Args:
        function: has a parameter called `outputs`, and others called `targets`, `inputs` and `model` where it wants
            them. It gives a number, or a dict of named ones.
        keys: its other arguments. Modules among them train and are saved with the loss; tensors go where the loss goes.
    """

    def __init__(self, function: Callable[..., Any], keys: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.function, self.keys = function, dict(keys or {})
        self.kept = nn.ModuleDict({name: key for name, key in self.keys.items() if isinstance(key, nn.Module)})
        self.tensors = nn.Module()
        for name in [name for name, key in self.keys.items() if isinstance(key, Tensor)]:
            self.tensors.register_buffer(name, self.keys.pop(name), persistent=False)
        self.asks_for = tuple(name for name in GIVEN if name in inspect.signature(function).parameters)

    def forward(self, outputs: Any, targets: Any = None, inputs: Any = None, model: nn.Module | None = None) -> Any:
        given = {"outputs": outputs, "targets": targets, "inputs": inputs, "model": model}
        return self.function(
            **{name: given[name] for name in self.asks_for}, **self.keys, **dict(self.tensors.named_buffers())
        )


class Said(NamedTuple):
    """A loss, and numbers beside it that are no part of it: they are logged and not added."""

    loss: Tensor
    numbers: dict[str, Tensor]


class OfModel(nn.Module):
    """The loss that the model gives itself: a number, `loss` in a dict or an object, or the first of a tuple.

    The model is given the targets, too, where its `forward` has a parameter called as one of `LABELS`. The other single
    numbers among what it gives are logged.
    """

    def forward(self, outputs: Tree, targets: Any = None) -> Said:
        """Raises ValueError: there is no loss among the outputs."""
        named = fields_of(outputs)
        if isinstance(outputs, tuple) and not named:
            named = {"loss": outputs[0] if outputs else None}
        elif isinstance(outputs, Tensor):
            named = {"loss": outputs}
        loss = named.get("loss")
        if not isinstance(loss, Tensor) or loss.dim():
            what = f"a tensor of shape {list(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            found = f"{what} as its loss" if loss is not None else f"a {type(outputs).__name__} without one"
            raise ValueError(
                f"the model gives no loss of its own (one number, loss in a dict or an object, or the first of a "
                f"tuple) but {found}. Type loss=own or another loss"
            )
        numbers = {n: x for n, x in named.items() if n != "loss" and isinstance(x, Tensor) and not x.dim()}
        return Said(loss, {name: number.detach() for name, number in numbers.items()})


def takes_labels(model: nn.Module) -> tuple[tuple[str, ...], str | None]:
    """The names of the parameters of a model's `forward`, and of the one among them that takes targets."""
    names = tuple(
        name
        for name, parameter in inspect.signature(model.forward).parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    )
    return names, next((name for name in LABELS if name in names[1:]), None)


def with_labels(inputs: Tree, targets: Tree, names: tuple[str, ...], label: str) -> dict[str, Tree]:
    """What a model that computes its own loss is called with, by name; what is there already stays as it is."""
    if isinstance(inputs, Mapping):
        return {label: targets, **inputs}
    values = inputs if isinstance(inputs, list | tuple) else (inputs,)
    return {**dict(zip(names, values, strict=False)), label: targets}
