"""train: see a network learn. A command-line PyTorch training tool driven by Hydra configs.

For notebooks and services: `from trainer import load, run, runs`. What a data function of your own needs:
`from trainer import Data, Samples`. torch is imported when it is needed, and not before.
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainer.command.python import load, run, runs
    from trainer.data.source import Data, Samples

__all__ = ["Data", "Samples", "__version__", "load", "run", "runs"]
__version__ = "0.1.0"
_PLACES = {"Data": "data.source", "Samples": "data.source", "load": "command.python", "runs": "command.python"}


def __getattr__(name: str) -> Any:
    """What is offered, when it is asked for."""
    if name in _PLACES:
        return getattr(importlib.import_module(f"trainer.{_PLACES[name]}"), name)
    if name == "run":
        return importlib.import_module("trainer.run")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class _Run(ModuleType):
    """The room `trainer.run`, which can be called, too: `trainer.run("model=lenet")`.

    Python binds a module to its package under the module's name: a function of the same name would be lost as soon as
    the first module of the room is imported.
    """

    def __call__(self, *words: str, **keys: Any) -> Any:
        return importlib.import_module("trainer.command.python").run(*words, **keys)


class _Package(ModuleType):
    def __setattr__(self, name: str, value: Any) -> None:
        if name == "run" and isinstance(value, ModuleType):
            value.__class__ = _Run
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
