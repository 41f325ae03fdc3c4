"""Arrays of the user's own as tensors: dense, in this machine's order of bytes, of a kind that torch computes with."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainer.errors import UserError

LARGEST = torch.iinfo(torch.int64).max


def is_array(part: Any) -> bool:
    """Whether it is a tensor, an array, or what turns into one, as a table of pandas or one of its columns."""
    return isinstance(part, Tensor | np.ndarray) or callable(getattr(part, "to_numpy", None))


def is_odd(part: Any) -> bool:
    """Whether it is an array that torch does not take as it lies in memory."""
    if not isinstance(part, np.ndarray):
        return False
    is_known = part.dtype.kind in "biufc" and not (part.dtype.kind == "f" and part.dtype.itemsize > 8)
    is_whole = part.flags.writeable and min(part.strides, default=0) >= 0 and not np.ma.isMaskedArray(part)
    return not (is_known and part.dtype.isnative and is_whole)


def are_words(part: Any) -> bool:
    """Whether it is an array of words."""
    if not is_array(part) or isinstance(part, Tensor):
        return False
    array = np.asarray(part)
    return array.dtype.kind == "U" or (array.dtype.kind == "O" and all(isinstance(word, str) for word in array.flat))


def as_tensors(tree: Any, where: str) -> Any:
    """The tree with a tensor in the place of every array.

    Args:
        where: what holds it, in words that begin a line.

    Raises:
        UserError: an array has no number for each of its places, or torch has no such numbers.
    """
    if isinstance(tree, dict):
        return {name: as_tensors(branch, f"{where}, {name},") for name, branch in tree.items()}
    if type(tree) in (tuple, list):
        return type(tree)(as_tensors(branch, where) for branch in tree)
    if isinstance(tree, Tensor):
        return _as_dense(tree, where)
    return _as_tensor(tree, where) if is_array(tree) else tree


def as_targets(tree: Any, where: str) -> Any:
    """The same of targets; labels in any whole numbers become int64."""
    found = as_tensors(tree, where)
    is_whole = isinstance(found, Tensor) and not found.is_floating_point() and not found.is_complex()
    return found.long() if is_whole else found


def _as_dense(tensor: Tensor, where: str) -> Tensor:
    if tensor.layout != torch.strided or tensor.is_nested:
        raise UserError(f"{where} has a sparse tensor. Give its .to_dense().")
    if tensor.is_meta:
        raise UserError(f"{where} has a tensor without numbers, on the device meta. Give one that has them.")
    tensor = tensor.cpu()  # somebody may have put it on a GPU; batches are put there by who makes them
    if tensor.is_floating_point() and tensor.element_size() == 1:  # torch hardly computes with 8 bits
        return tensor.float()
    has_one_for_many = any(size > 1 and not stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.contiguous() if has_one_for_many else tensor  # as of `expand`: nothing can be written into it


def _as_tensor(part: Any, where: str) -> Tensor:
    array = part if isinstance(part, np.ndarray) else part.to_numpy()
    if np.ma.is_masked(array):
        raise UserError(f"{where} has an array with masked numbers. Leave these samples out, or give its .filled(0).")
    if array.dtype.kind == "O":
        try:
            array = np.array(array.tolist())
        except ValueError as error:
            raise UserError(f"{where} has an array of arrays of different shapes. Give a collate_fn.") from error
    if array.dtype.kind not in "biufc":
        raise UserError(f"{where} has an array of {array.dtype}; numbers are needed. Convert it with .astype(float).")
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        if array.dtype.itemsize == 8 and array.size and int(array.max()) > LARGEST:
            raise UserError(f"{where} has a whole number of {int(array.max()):,}; the largest is {LARGEST:,}.")
        array = array.astype(np.int64)
    elif array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    native = array.dtype.newbyteorder("=")
    return torch.from_numpy(np.require(array, native, ["C_CONTIGUOUS", "WRITEABLE", "ENSUREARRAY"]))
