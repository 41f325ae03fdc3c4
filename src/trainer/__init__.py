"""train: see a network learn. A command-line PyTorch training tool driven by Hydra configs.

What a data function of your own needs: `from trainer import Data, Samples`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainer.data.source import Data, Samples

__all__ = ["Data", "Samples", "__version__"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`Data` and `Samples`, when they are asked for: torch comes with them, and `train --help` does without."""
    if name in ("Data", "Samples"):
        from trainer.data import source

        return getattr(source, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
