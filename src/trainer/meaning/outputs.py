"""Which of a model's outputs is the prediction."""

from collections.abc import Callable

import torch
from torch import Tensor

from trainer.trees import Tree, fields_of, leaves

HALF = (torch.bfloat16, torch.float16)


def prediction(outputs: Tree, is_one: Callable[[Tensor], bool]) -> Tensor | None:
    """The tensor among outputs that is the prediction: what is called `logits`, or else the first of its form."""
    if isinstance(outputs, Tensor):
        return outputs if is_one(outputs) else None
    found = [leaf for leaf in (fields_of(outputs).get("logits"), *leaves(outputs)) if isinstance(leaf, Tensor)]
    return next((leaf for leaf in found if is_one(leaf)), None)


def single(outputs: Tensor) -> Tensor:
    """Those of half precision in float32; float64 stays."""
    return outputs.float() if outputs.dtype in HALF else outputs
