"""Whoever has hooks on a module wants to see it at work as it is: a short cut steps aside."""

from torch import nn

from trainer.system.private import hooks_of


def is_watched(*modules: nn.Module) -> bool:
    """Whether there is a hook on one of these modules themselves."""
    return any(hooks for module in modules for hooks in hooks_of(module))


class Hooks:
    """Of all modules of a network, to be asked at every step."""

    def __init__(self, network: nn.Module) -> None:
        self._dicts = [hooks for module in network.modules() for hooks in hooks_of(module)]

    def __bool__(self) -> bool:
        """Whether there is any."""
        return any(self._dicts)
