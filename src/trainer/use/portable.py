"""A trained model with all that is done to its inputs and outputs, as one module of torch's operations alone."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from trainer.data.images import to_channels
from trainer.data.preparation import AsTheyAre, Pictures, Preparation, Rows, Scaled, Theirs
from trainer.data.tables.columns import Numbers as Figures
from trainer.data.tables.columns import Table, Words
from trainer.data.tables.recipe import Category, Recipe, as_words
from trainer.errors import UserError
from trainer.meaning import Classes, Labels, Meaning, Numbers
from trainer.trees import Tree, called, leaves, mapped


class PictureInputs(nn.Module):
    """uint8 `[N, *raw_shape]` as `Pictures` prepares them.

    Resizing is a product with a matrix for each side, which every runtime has: its weights are what torch's own
    anti-aliased resizing makes of the unit vectors.
    """

    rows: Tensor | None
    columns: Tensor | None
    mean: Tensor | None
    std: Tensor

    def __init__(self, inputs: Pictures, dtype: torch.dtype) -> None:
        super().__init__()
        self.channels, self.scale, self.dtype = inputs.channels, inputs.scale, dtype
        sides = inputs.raw_shape[1:]
        is_resized = tuple(sides) != tuple(inputs.image_size)
        for name, old, new in zip(("rows", "columns"), sides, inputs.image_size, strict=True):
            self.register_buffer(name, resizing(old, new).to(dtype) if is_resized else None)
        for name, numbers in (("mean", inputs.mean), ("std", inputs.std)):
            found = None if numbers is None else torch.tensor(numbers, dtype=dtype).view(1, -1, 1, 1)
            self.register_buffer(name, found)

    def forward(self, raw: Tensor) -> Tensor:
        images = to_channels(raw.to(self.dtype) / self.scale, self.channels)
        if self.rows is not None and self.columns is not None:
            images = self.rows @ images @ self.columns.T
        return images if self.mean is None else (images - self.mean) / self.std


def resizing(old: int, new: int) -> Tensor:
    """`[new, old]` float64: what a line of `old` pixels is multiplied by to have `new`."""
    units = torch.eye(old, dtype=torch.float64).view(1, 1, old, old)
    return F.interpolate(units, (new, old), mode="bilinear", antialias=True)[0, 0]


class ScaledInputs(nn.Module):
    """Numbers, minus their mean and divided by their deviation in float64, as `Scaled` prepares them."""

    mean: Tensor
    std: Tensor
    factor: Tensor

    def __init__(self, inputs: Scaled, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        std = torch.from_numpy(inputs.scaling.std.copy())
        self.register_buffer("mean", torch.from_numpy(inputs.scaling.mean.copy()))
        self.register_buffer("std", torch.where(std == 0, 1.0, std))
        self.register_buffer("factor", (std != 0).double())  # what is constant is 0

    def forward(self, raw: Tensor) -> Tensor:
        return ((raw.double() - self.mean) / self.std * self.factor).to(self.dtype)


class RowInputs(nn.Module):
    """The columns of a table, float64 `[N, K]`, as its recipe prepares them; see `coded`."""

    def __init__(self, recipe: Recipe, dtype: torch.dtype) -> None:
        super().__init__()
        self.recipe, self.dtype = recipe, dtype

    def forward(self, raw: Tensor) -> Any:
        numbers: list[Tensor] = []
        levels: list[Tensor] = []
        for i, column in enumerate(self.recipe.columns):
            values = raw[:, i]
            is_missing = values.isnan()
            if isinstance(column, Category):
                codes = torch.where(is_missing, -1.0, values)
                known = len(column.levels)
                if column.is_embedded:
                    missing = float(known + 1) if column.has_missing else 0.0
                    codes = torch.where(codes < 0, missing, torch.where(codes < known, codes + 1, 0.0))
                    levels.append(codes.long())
                    continue
                is_other = codes >= known if column.has_missing else (codes >= known) | (codes < 0)
                parts = [codes == level for level in range(known)]
                parts += [is_other] * column.has_other + [codes < 0] * column.has_missing
                numbers += [part.double() for part in parts]
                continue
            filled = torch.where(is_missing, column.fill, values)
            numbers.append((filled - column.mean) / column.std if column.std else torch.zeros_like(filled))
            numbers += [is_missing.double()] * column.has_flag
        first = torch.stack(numbers, 1) if numbers else raw.new_zeros(raw.shape[0], 0)
        return {"numbers": first.to(self.dtype), "levels": torch.stack(levels, 1)} if levels else first.to(self.dtype)


def coded(recipe: Recipe, table: Table) -> NDArray[np.float64]:
    """The cells of a table as numbers `[N, K]`, in the recipe's order: NaN where one is missing; of words the place
    among the column's levels, from 0, and the number of levels for all that are not among them.
    """
    found = np.full((table.num_rows, len(recipe.columns)), np.nan)
    for i, column in enumerate(recipe.columns):
        cells: Any = table.columns[column.name]
        if isinstance(column, Category):
            words = as_words(cells) if isinstance(cells, Figures) else cells
            if isinstance(words, Words):
                place = {level: number for number, level in enumerate(column.levels)}
                of_code = np.array([*(place.get(level, len(column.levels)) for level in words.levels), np.nan])
                found[:, i] = of_code[words.codes]
        elif isinstance(cells, Figures):
            found[:, i] = cells.values
    return found


class AnyInputs(nn.Module):
    """Inputs that nothing is done to."""

    def __init__(self, inputs: AsTheyAre, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype if inputs.dtype.startswith(("float", "bfloat")) else None

    def forward(self, raw: Tensor) -> Tensor:
        return raw if self.dtype is None else raw.to(self.dtype)


def of(inputs: Preparation, dtype: torch.dtype) -> nn.Module:
    """What prepares raw samples, as a module."""
    match inputs:
        case Pictures():
            return PictureInputs(inputs, dtype)
        case Scaled():
            return ScaledInputs(inputs, dtype)
        case Rows():
            return RowInputs(inputs.recipe, dtype)
        case AsTheyAre():
            return AnyInputs(inputs, dtype)
        case Theirs():
            return nn.Identity()


class Portable(nn.Module):
    """From the tensors of raw samples to `(outputs, probabilities)`; to `(outputs, values)` where outputs are logits or
    logarithms of the numbers that they stand for; else to `(outputs,)`.

    Args:
        prepare: None where samples come prepared.
        meaning: of the outputs; of several tensors the one that has it is given.
        form: samples whose tensors are taken one by one, in their order; None of samples that are one tensor.
    """

    def __init__(self, network: nn.Module, prepare: nn.Module | None, meaning: Meaning, form: Tree = None) -> None:
        super().__init__()
        self.network, self.prepare, self.meaning = network, prepare, meaning
        self.form = mapped(lambda leaf: leaf[:0], form)
        self.eval()

    @property
    def names(self) -> list[str]:
        if isinstance(self.meaning, Classes | Labels):
            return ["outputs", "probabilities"]
        return ["outputs", "values"] if isinstance(self.meaning, Numbers) and self.meaning.is_linked else ["outputs"]

    def forward(self, *tensors: Any) -> tuple[Tensor, ...]:
        given = iter(tensors)
        inputs = next(given) if self.form is None else mapped(lambda _: next(given), self.form)
        prepared = inputs if self.prepare is None else self.prepare(inputs)
        outputs = called(self.network, mapped(Tensor.clone, prepared))  # a network may write into what it is given
        scores = self.meaning.scores_of(outputs)
        if isinstance(self.meaning, Classes | Labels) and scores is not None:
            return scores, self.meaning.scores(scores)
        if isinstance(self.meaning, Numbers) and self.meaning.is_linked and scores is not None:
            return scores, self.meaning.scores(scores)
        found = [scores] if scores is not None else leaves(outputs)
        if len(found) != 1:
            raise UserError(f"its outputs are {len(found)} tensors; one is needed.")
        return (found[0],)
