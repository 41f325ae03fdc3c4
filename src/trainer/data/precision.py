"""What a cast to the type of a run loses of the data: told, or refused."""

import torch
from torch import Tensor

from trainer.data.source import Data, Samples
from trainer.errors import UserError

MOST_ROUNDED = 1e-3  # of the standard deviation: what a model could still tell apart is rounded away
PART = 1 << 14  # samples


def lost(data: Data, dtype: torch.dtype) -> list[str]:
    """A line for inputs or targets whose differences a cast to `dtype` rounds away.

    Raises:
        UserError: numbers are too large for it, and would become infinite.
    """
    found = []
    for what in ("inputs", "targets"):
        for split, samples in data.splits.items():
            numbers = getattr(samples, what, None) if isinstance(samples, Samples) else None
            if not isinstance(numbers, Tensor) or numbers.dtype != torch.float64 or dtype == torch.float64:
                continue
            cast = numbers.to(dtype)
            if not bool(cast.isfinite().all()):
                largest = float(numbers.abs().max())
                raise UserError(
                    f"data: {what} of the {split} split go up to {largest:.4g}, more than {_name(dtype)} holds. Type "
                    "dtype=float64, or write them in another unit."
                )
            if split == "train" and (note := _rounded(numbers, cast, what, dtype)):
                found.append(note)
    return found


def _rounded(numbers: Tensor, cast: Tensor, what: str, dtype: torch.dtype) -> str | None:
    columns = numbers.reshape(len(numbers), -1)
    parts = zip(columns.split(PART), cast.reshape(len(numbers), -1).split(PART), strict=True)  # or 3 copies are made
    error = torch.stack([(exact - part.double()).abs_().amax(0) for exact, part in parts]).amax(0)
    spread = columns.std(0, correction=0)
    part = torch.where(spread > 0, error / spread, 0.0)
    column = int(part.argmax())
    if float(part[column]) <= MOST_ROUNDED:
        return None
    before, after = (len(values.unique()) for values in (columns[:, column], cast.reshape(len(numbers), -1)[:, column]))
    return (
        f"{what} lose digits in {_name(dtype)}: of {before:,} different numbers in column {column} (counted from 0) "
        f"{after:,} are left. Type dtype=float64, or subtract what they have in common."
    )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
