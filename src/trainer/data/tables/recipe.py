"""What was done to the columns of a table, kept so that it can be done to new rows."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.data.quoting import cut, listed
from trainer.data.standardize import spread
from trainer.data.tables.columns import EMPTY, Gathering, Mixed, Numbers, Table, Unused, Words, number, time_of
from trainer.errors import UserError, nearest

Inputs = Tensor | dict[str, Tensor]
OTHER, NOTHING = "(other)", "(missing)"


@dataclass(frozen=True)
class Number:
    """A column of numbers: `(value - mean) / std`; a missing value counts as the mean.

    Args:
        mean, std: of the training rows, where a value is there; 0 and 1 where numbers stay as they are.
        fill: what stands for a missing value: the mean.
        has_flag: a column behind it is 1 where the value is missing: some are missing in the training rows.
    """

    name: str
    mean: float
    std: float
    fill: float
    has_flag: bool

    @property
    def names(self) -> list[str]:
        return [self.name, *([f"{self.name}={NOTHING}"] if self.has_flag else [])]


@dataclass(frozen=True)
class Category:
    """A column of words: a column of 0 and 1 per level; or, embedded, the number of the level.

    Args:
        levels: the words of the training rows that have a column each, in alphabetical order.
        has_missing: a level of its own for what is missing: some are in the training rows.
        has_other: one for all rarer words, and for those that the training rows lack; without it these have 0 in every
            column. (What is missing and has no level of its own counts as such a word.)
        is_embedded: one whole number instead: 0 for a word that the training rows lack, 1, 2 ... for the levels, and
            one more for what is missing.
    """

    name: str
    levels: tuple[str, ...]
    has_missing: bool
    has_other: bool
    is_embedded: bool

    @property
    def names(self) -> list[str]:
        more = [OTHER] * self.has_other + [NOTHING] * self.has_missing
        return [f"{self.name}={level}" for level in (*self.levels, *more)]

    @property
    def num_levels(self) -> int:
        """So many rows an embedding of it needs."""
        return 1 + len(self.levels) + self.has_missing


@dataclass(frozen=True)
class Recipe:
    """How a table's columns become inputs; columns of other tables are found by their names.

    Args:
        columns: those that are inputs, in their order.
        targets: the names of those that are targets.
        left_out: the names of all others, and why.
        class_names: of the target, if it has classes.
        has_names: the file named its columns; else their names are their numbers, from 0.
    """

    columns: tuple[Number | Category, ...]
    targets: tuple[str, ...] = ()
    left_out: Mapping[str, str] | None = None
    class_names: tuple[str, ...] = ()
    has_names: bool = True

    @property
    def names(self) -> list[str]:
        """Of the columns of `apply`'s matrix, in their order: `age`, `age=(missing)`, `colour=red` ..."""
        return [name for column in self.columns if not _is_embedded(column) for name in column.names]

    @property
    def num_levels(self) -> dict[str, int]:
        """Column to the number of rows that its embedding needs, in the order of `levels`."""
        return {
            column.name: column.num_levels
            for column in self.columns
            if isinstance(column, Category) and column.is_embedded
        }

    @property
    def words(self) -> list[str]:
        """The columns that a reader takes for words, whatever they look like."""
        return [column.name for column in self.columns if isinstance(column, Category)]

    def apply(
        self, rows: Table | Sequence[Mapping[str, Any]], notes: list[str] | None = None, decimal: str = "point"
    ) -> Inputs:
        """The inputs of other rows: float64 `[N, D]`, a column for each of `names`.

        With embedded columns `{"numbers": float64 [N, D], "levels": int64 [N, C]}`.

        Args:
            rows: a table as it was read, or a mapping per row.
            notes: gets a line for what was met that the training rows lacked.
            decimal: the sign of numbers that mappings have as text.

        Raises:
            UserError: a column is missing, or one of numbers holds something else.
        """
        table = rows if isinstance(rows, Table) else _table(rows, self.words, decimal)
        self._refuse_missing(table)
        numbers = np.zeros((table.num_rows, len(self.names)))
        embedded: list[NDArray[np.int64]] = []
        said = notes if notes is not None else []
        start = 0
        for column in self.columns:
            if isinstance(column, Number):
                _fill_numbers(numbers[:, start:], column, table, said)
            elif column.is_embedded:
                embedded.append(_codes(column, table, said))
                continue
            else:
                _fill_one_hot(numbers[:, start:], column, _codes(column, table, said))
            start += len(column.names)
        inputs = torch.from_numpy(numbers)
        if not embedded:
            return inputs
        return {"numbers": inputs, "levels": torch.from_numpy(np.stack(embedded, 1))}

    def _refuse_missing(self, table: Table) -> None:
        lacking = [column.name for column in self.columns if column.name not in table.columns]
        if lacking:
            hint = nearest(lacking[0], table.columns)
            raise UserError(
                f"{table.path}: it lacks {'a column' if len(lacking) == 1 else f'{len(lacking)} columns'} that the "
                f"model was trained with: {listed(lacking)}; it has {listed(table.columns)}.{hint}"
            )

    def as_dict(self) -> dict[str, Any]:
        """Plain values alone, for JSON."""
        return {
            "columns": [{"kind": type(column).__name__.lower(), **asdict(column)} for column in self.columns],
            "targets": list(self.targets),
            "left_out": dict(self.left_out or {}),
            "class_names": list(self.class_names),
            "has_names": self.has_names,
        }

    @classmethod
    def from_dict(cls, found: Any) -> "Recipe":
        """Of what `as_dict` gave. Raises ValueError: it is something else."""
        try:
            columns = []
            for column in found["columns"]:
                values = dict(column)
                kind = {"number": Number, "category": Category}[values.pop("kind")]
                if kind is Category:
                    values["levels"] = tuple(values["levels"])
                made: Number | Category = kind(**values)
                _refuse_other_kinds(made)
                columns.append(made)
            texts = [*found["targets"], *found["class_names"], *found["left_out"], *found["left_out"].values()]
            if not all(isinstance(text, str) for text in texts) or not isinstance(found["has_names"], bool):
                raise TypeError("a name is no text")
            return cls(
                tuple(columns),
                tuple(found["targets"]),
                dict(found["left_out"]),
                tuple(found["class_names"]),
                found["has_names"],
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not what was done to a table's columns ({cut(str(error))})") from error


def _refuse_other_kinds(column: Number | Category) -> None:
    is_right = {
        str: lambda value: isinstance(value, str),
        bool: lambda value: isinstance(value, bool),
        float: lambda value: isinstance(value, int | float) and np.isfinite(value),
        tuple[str, ...]: lambda value: all(isinstance(text, str) for text in value),
    }
    if not all(is_right[field.type](getattr(column, field.name)) for field in fields(column)):  # type: ignore[index]
        raise TypeError(f"column {cut(str(column.name))}")


def _is_embedded(column: Number | Category) -> bool:
    return isinstance(column, Category) and column.is_embedded


def fit(
    table: Table,
    names: Sequence[str],
    rows: NDArray[np.int64],
    standardize: bool = True,
    max_levels: int = 50,
    embed: Sequence[str] = (),
) -> list[Number | Category]:
    """What is to be done to the columns `names`, by the training `rows` alone."""
    found: list[Number | Category] = []
    for name in names:
        column = table.columns[name]
        if isinstance(column, Numbers):
            values = column.values[rows]
            there = values[~np.isnan(values)]
            mean, std = spread(there) if len(there) else (0.0, 0.0)
            scale = (mean, std) if standardize else (0.0, 1.0)
            found.append(Number(name, *scale, fill=mean, has_flag=len(there) < len(values)))
            continue
        assert isinstance(column, Words)
        codes = column.codes[rows]
        counts = np.bincount(codes[codes >= 0], minlength=len(column.levels))
        by_count = sorted(np.flatnonzero(counts).tolist(), key=lambda code: (-counts[code], column.levels[code]))
        is_embedded = name in embed
        kept = by_count if is_embedded or len(by_count) <= max_levels else by_count[:max_levels]
        found.append(
            Category(
                name,
                tuple(sorted(column.levels[code] for code in kept)),
                has_missing=bool((codes < 0).any()),
                has_other=len(kept) < len(by_count),
                is_embedded=is_embedded,
            )
        )
    return found


def _fill_numbers(into: NDArray[np.float64], column: Number, table: Table, notes: list[str]) -> None:
    found = table.columns[column.name]
    if found == Unused(EMPTY):
        found = Numbers(np.full(table.num_rows, np.nan))
    if not isinstance(found, Numbers):
        raise UserError(
            f"{table.path}: {_not_a_number(found, table, column.name)}, and the model was trained with numbers there. "
            "Correct it."
        )
    missing = found.missing
    values = np.where(missing, column.fill, found.values)
    into[:, 0] = (values - column.mean) / column.std if column.std else 0.0
    if column.has_flag:
        into[:, 1] = missing
    elif missing.any():
        notes.append(
            f"column {cut(column.name)}: {_rows(missing, 'lacks', 'lack')} it, as no training row does: its mean is "
            "taken."
        )


def _not_a_number(column: Words | Mixed | Unused, table: Table, name: str) -> str:
    if isinstance(column, Unused):
        return f"column {cut(name)} holds {column.why}"
    if isinstance(column, Mixed):
        return f"{table.place(column.row, name)}: {cut(column.cell)!r} is not a number"
    return f"{table.place(int(np.argmax(column.codes == 0)), name)}: {cut(column.levels[0])!r} is not a number"


def _codes(column: Category, table: Table, notes: list[str]) -> NDArray[np.int64]:
    """0 for a level that the training rows lacked, 1, 2 ... for the levels, one more for what is missing.

    Truth, numbers and dates are levels in any way to write them: programs write `True` and `true`, 00123 and 123. Where
    a table has a level as it is written, other ways to write it are other words.
    """
    found = table.columns[column.name]
    if found == Unused(EMPTY):
        found = Words(np.full(table.num_rows, -1, np.int32), ())
    if isinstance(found, Numbers):
        found = as_words(found)
    if not isinstance(found, Words):  # a reader that is told `words` gives words
        what = found.why if isinstance(found, Unused) else "numbers and words"
        raise UserError(
            f"{table.path}: column {cut(column.name)} holds {what}; the model was trained with words there."
        )
    number_of = {level: i for i, level in enumerate(column.levels, 1)}
    missing = 1 + len(column.levels) if column.has_missing else 0
    numbers = [number_of.get(level, 0) for level in found.levels]
    if 0 in numbers:
        as_written = {*numbers}
        has_commas = any(_value(level) is None and _value(level, "comma") is not None for level in column.levels)
        written = "comma" if has_commas else "point"  # as the table of the training was
        values = {level: value for level in column.levels if (value := _value(level, written)) is not None}
        counts = Counter(values.values())
        by_value = {
            value: number_of[level]
            for level, value in values.items()
            if counts[value] == 1 and number_of[level] not in as_written
        }
        numbers = [
            i or (by_value.get(value, 0) if (value := _value(level, table.decimal)) is not None else 0)
            for i, level in zip(numbers, found.levels, strict=True)
        ]
    of_code = np.array([*numbers, missing])
    codes = of_code[found.codes]
    is_new = (codes == 0) & (found.codes >= 0)
    if is_new.any() and not column.has_other:
        words = [level for level, i in zip(found.levels, numbers, strict=True) if not i]
        notes.append(
            f"column {cut(column.name)}: {_rows(is_new, 'has', 'have')} {listed(words, 3)}, which no training row "
            "has: taken as none of its levels."
        )
    result: NDArray[np.int64] = codes.astype(np.int64)
    return result


def _value(word: str, decimal: str = "point") -> tuple[str, float] | None:
    """What a word stands for, and of which kind it is; None where it is no more than a word."""
    if word.lower() in ("true", "false"):
        return "truth", float(word.lower() == "true")
    if (value := number(word, decimal)) is not None:
        return None if np.isnan(value) else ("number", value)
    return None if (time := time_of(word)) is None else ("time", time)


def _rows(which: NDArray[np.bool_], one: str, several: str) -> str:
    number = int(which.sum())
    return f"1 row {one}" if number == 1 else f"{number:,} rows {several}"


def _fill_one_hot(into: NDArray[np.float64], column: Category, codes: NDArray[np.int64]) -> None:
    """A column per level; then one for all others, and one for what is missing, where the column has such."""
    num_levels = len(column.levels)
    places = codes - 1
    if column.has_other:
        places = np.where(codes == 0, num_levels, np.where(codes > num_levels, num_levels + 1, codes - 1))
    rows = np.flatnonzero(places >= 0)
    into[rows, places[rows]] = 1.0


def as_words(numbers: Numbers) -> Words:
    """Numbers as they are written: 3, 2.5."""
    values, codes = np.unique(numbers.values, return_inverse=True)
    levels = tuple(str(int(v)) if v.is_integer() else repr(v) for v in values.tolist() if v == v)
    return Words(np.where(numbers.missing, -1, codes).astype(np.int32), levels)


def _table(rows: Sequence[Mapping[str, Any]], words: Sequence[str], decimal: str) -> Table:
    """The rows as a reader would have read them."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {}
    for name in names:
        gathered = Gathering(decimal, use="words" if name in words else "auto")
        values = [row.get(name) for row in rows]
        gathered.add(["" if v is None else str(v).lower() if isinstance(v, bool) else str(v) for v in values])
        columns[str(name)] = gathered.done()
    return Table(Path("rows"), columns, len(rows), decimal=decimal)
