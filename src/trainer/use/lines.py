"""Samples that come in on standard input, one in each line: what one line says is answered before the next is there."""

import csv
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from trainer.data.image_files import read_picture
from trainer.data.preparation import Pictures, Preparation, Rows, Scaled, Theirs
from trainer.data.quoting import cut
from trainer.data.tables.dialect import parsed, told_delimiter
from trainer.errors import UserError
from trainer.trees import Tree, joined
from trainer.use.form import refuse_other_form, told_form
from trainer.use.sources import of_pictures_in_files


class Line(NamedTuple):
    """
    Args:
        number: from 1.
        raw: a sample, `[1, ...]`; None where it can't be read, as `failed` says.
    """

    number: int
    raw: Tree
    failed: str = ""


class Reader:
    """From lines to samples.

    Pictures: the path of one. Rows of a table: JSON objects, or CSV whose first line names the columns. Anything else:
    numbers between commas or blanks, or a JSON list of any depth.

    Args:
        how: see `trainer.use.sources.parts_of`.

    Attributes:
        inputs: what is to be done to the samples.
        has_header: the first line is none of the samples; None until it has been read.
    """

    def __init__(self, inputs: Preparation, how: Mapping[str, Any]) -> None:
        self.inputs = of_pictures_in_files(inputs, how) if isinstance(inputs, Pictures) else inputs
        self.has_header: bool | None = None
        self._names: list[str] = []
        self._delimiter = "comma"
        self._number = 0

    def read(self, lines: Sequence[str]) -> list[Line]:
        """Of each line that is a sample; empty ones are none."""
        found = []
        for line in lines:
            self._number += 1
            if not line.strip() or self._is_header(line):
                continue
            try:
                found.append(Line(self._number, self._sample(line)))
            except UserError as error:
                found.append(Line(self._number, None, f"line {self._number}: {str(error).removeprefix('rows: ')}"))
            except (ValueError, csv.Error, RecursionError) as error:
                found.append(Line(self._number, None, f"line {self._number}: {cut(line)}: {cut(str(error), 200)}"))
        return found

    def _is_header(self, line: str) -> bool:
        if self.has_header is not None:
            return False
        is_named = isinstance(self.inputs, Rows) and self.inputs.recipe.has_names
        self.has_header = is_named and not line.lstrip().startswith("{")
        if isinstance(self.inputs, Rows):
            self._delimiter = told_delimiter([line])
            names = [column.name for column in self.inputs.recipe.columns]
            self._names = next(parsed([line], self._delimiter)) if self.has_header else names
            self._names = [name.strip() for name in self._names]
            if self.has_header:
                self.inputs.recipe.apply([dict.fromkeys(self._names, "")])  # says which columns are missing
        return self.has_header

    def _sample(self, line: str) -> Tree:
        if isinstance(self.inputs, Pictures):
            channels, height, width = self.inputs.raw_shape
            return read_picture(line.strip(), channels, (height, width), self.inputs.background).unsqueeze(0)
        if isinstance(self.inputs, Rows):
            return self.inputs.recipe.apply([self._row(line)])
        if isinstance(self.inputs, Theirs):
            raise UserError(f"the model takes {told_form(self.inputs)}. In Python: trainer.load(folder)(inputs).")
        numbers = (
            json.loads(line) if line.lstrip().startswith("[") else line.replace(",", " ").replace(";", " ").split()
        )
        array = np.array(numbers, np.float64)
        if not np.isfinite(array).all():
            raise ValueError("it holds what is NaN or infinite")
        is_whole = not isinstance(self.inputs, Scaled) and not self.inputs.dtype.startswith(("float", "bfloat"))
        raw = torch.from_numpy(array.astype(np.int64) if is_whole else array).unsqueeze(0)
        refuse_other_form(self.inputs, raw, f"line {self._number}")
        return raw

    def _row(self, line: str) -> Mapping[str, Any]:
        if line.lstrip().startswith("{"):
            row = json.loads(line)
            return {str(name): value for name, value in row.items()}
        cells = next(parsed([line], self._delimiter))
        if len(cells) != len(self._names):
            raise ValueError(f"{len(cells)} cells, and {len(self._names)} are needed: {', '.join(self._names)}")
        return dict(zip(self._names, cells, strict=True))


def typed_lines() -> Iterator[list[str]]:
    """The lines of standard input as they come: all that are there, without a wait for more."""
    rest = b""
    stream: Any = sys.stdin.buffer
    while block := stream.read1(1 << 16):
        *lines, rest = (rest + block).split(b"\n")
        if lines:
            yield [line.decode(errors="replace").removesuffix("\r") for line in lines]
    if rest:
        yield [rest.decode(errors="replace").removesuffix("\r")]


def together(lines: Sequence[Line]) -> Tree:
    """The samples of lines that have one, `[N, ...]`; None where none has."""
    rows = [line.raw for line in lines if line.raw is not None]
    return joined(rows) if rows else None
