"""Whether raw samples are of the form that a model was trained with."""

from typing import Any

import torch

from trainer.data.preparation import Pictures, Preparation, Rows, Theirs
from trainer.errors import UserError
from trainer.trees import leaves


def refuse_other_form(inputs: Preparation, raw: Any, told: str) -> None:
    """Raises UserError: raw samples are not of the form that the model was trained with."""
    if isinstance(inputs, Rows | Theirs):
        return
    if len(leaves(raw)) != 1:
        raise UserError(f"{told}: several inputs for a sample; the model takes {told_form(inputs)}.")
    is_picture = raw.dtype == torch.uint8
    if isinstance(inputs, Pictures) != is_picture or tuple(raw.shape[1:]) != inputs.raw_shape:
        raise UserError(
            f"{told}: samples of shape {list(raw.shape[1:])}, {str(raw.dtype).removeprefix('torch.')}; the model takes "
            f"{told_form(inputs)}. Give such ones."
        )


def told_form(inputs: Preparation) -> str:
    """What a model takes, in words."""
    if isinstance(inputs, Rows):
        return f"the {len(inputs.recipe.columns)} columns of a table"
    if isinstance(inputs, Theirs):
        return f"arrays {', '.join(inputs.tensors)}" if inputs.tensors else "what only its own data source makes"
    if isinstance(inputs, Pictures):
        return f"pictures, uint8 {list(inputs.raw_shape)}"
    return f"numbers of shape {list(inputs.raw_shape)}"
