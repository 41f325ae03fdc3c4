"""Whoever has hooks on a module wants to see it at work as it is: a short cut steps aside."""

from torch import nn

_KINDS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def is_watched(*modules: nn.Module) -> bool:
    """Whether there is a hook on one of these modules themselves."""
    return any(module.__dict__[kind] for module in modules for kind in _KINDS)


class Hooks:
    """Of all modules of a network, to be asked at every step."""

    def __init__(self, network: nn.Module) -> None:
        self._dicts = [module.__dict__[kind] for module in network.modules() for kind in _KINDS]

    def __bool__(self) -> bool:
        """Whether there is any."""
        return any(self._dicts)
