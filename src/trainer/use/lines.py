"""Samples that come in on standard input, one in each line: what one line says is answered before the next is there."""

import codecs
import csv
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from trainer.data.image_files import read_picture
from trainer.data.preparation import Pictures, Preparation, Rows, Scaled, Theirs
from trainer.data.quoting import cut
from trainer.data.tables.columns import number as number_in
from trainer.data.tables.delimited import told_encoding
from trainer.data.tables.dialect import (
    MOST_TITLES,
    ROW_NAMES,
    SIGNS,
    different,
    names_of,
    notes_on_points,
    parsed,
    passed_over,
    told_by_a_line,
    told_decimal,
    told_delimiter,
)
from trainer.data.tables.recipe import Number
from trainer.errors import UserError
from trainer.trees import Tree, joined
from trainer.use.form import refuse_other_form, told_form
from trainer.use.several import of_arrays
from trainer.use.sources import of_pictures_in_files

MOST_LINES = 100  # of one row


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

    Pictures: the path of one. Rows of a table: JSON objects, or CSV whose first line names the columns. Several
    tensors: a JSON object of lists by their names. Anything else: numbers between commas or blanks, or a JSON list of
    any depth.

    Args:
        how: see `trainer.use.sources.parts_of`.

    Attributes:
        inputs: what is to be done to the samples.
        has_header: the first line is none of the samples; None until it has been read.
        notes: what its user should know.
    """

    def __init__(self, inputs: Preparation, how: Mapping[str, Any]) -> None:
        self.inputs = of_pictures_in_files(inputs, how) if isinstance(inputs, Pictures) else inputs
        self.has_header: bool | None = None
        self.notes: list[str] = []
        self._names: list[str] = []
        self._header = str(how.get("header", "auto")).lower()
        self._delimiter, self._decimal = (str(how.get(key, "auto")) for key in ("delimiter", "decimal"))
        self._number = 0
        self._has_row_names: bool | None = None  # None until the first row is there
        self._titles: list[tuple[int, str]] = []  # lines before the names of the columns
        self._open: list[str] = []  # lines of a row that has a line break between quotes, and is not whole yet

    def read(self, blocks: Iterable[Sequence[str]]) -> Iterator[list[Line]]:
        """Of each block of lines those that are samples; empty ones are none.

        A row of a table whose cells have line breaks between quotes is several lines, and has the number of the first.
        Where the quotes are never closed, each line is a row.

        Args:
            blocks: lines as they came, with a `\\r` perhaps.
        """
        for lines in blocks:
            found = []
            for line in lines:
                self._open.append(line)
                row = "\n".join(self._open).removesuffix("\r")
                if not self._is_open(row):
                    found += self._of_row(self._number + 1, row)
                    self._number += len(self._open)
                    self._open.clear()
                elif len(self._open) == MOST_LINES:
                    found += self._singly()
            yield found
        yield self._singly()
        if self.has_header is None and self._titles:
            self._refuse(*self._titles[0])

    def _singly(self) -> list[Line]:
        lines = [line.removesuffix("\r") for line in self._open]
        found = [sample for i, line in enumerate(lines, self._number + 1) for sample in self._of_row(i, line)]
        self._number += len(lines)
        self._open.clear()
        return found

    def _is_open(self, row: str) -> bool:
        """Whether its last cell has a quote that is not closed: more lines belong to it."""
        if '"' not in row or not isinstance(self.inputs, Rows) or row.lstrip().startswith("{"):
            return False
        delimiter = told_delimiter([row.lstrip("# ")]) if self._delimiter == "auto" else self._delimiter
        if delimiter == "blanks":
            return False
        try:
            list(parsed([row], delimiter, strict=True))
        except csv.Error as error:
            return "unexpected end" in str(error)
        return False

    def _of_row(self, number: int, row: str) -> list[Line]:
        """Its sample, or why there is none."""
        if not row.strip():
            return []
        if self._is_header(number, row):
            return []
        try:
            return [Line(number, self._sample(row))]
        except UserError as error:
            return [Line(number, None, f"line {number}: {str(error).removeprefix('rows: ')}")]
        except (ValueError, csv.Error, RecursionError) as error:
            return [Line(number, None, f"line {number}: {cut(row)}: {cut(str(error), 200)}")]

    def _is_header(self, number: int, line: str) -> bool:
        """Whether it is no sample: the names of the columns, or what stands before them."""
        if self.has_header is not None:
            return False
        if not isinstance(self.inputs, Rows):
            self.has_header = False
            return False
        recipe = self.inputs.recipe
        used = self._names = [column.name for column in recipe.columns]
        if line.lstrip().startswith("{"):
            self.has_header, self._delimiter = False, self._delimiter.replace("auto", "comma")
            return False
        if (said := told_by_a_line(line)) is not None:
            self._delimiter = said if self._delimiter == "auto" else self._delimiter
            return True
        delimiter, names = self._cut(line)
        if line.startswith("#") and not set(used) & set(names):
            return True  # a remark
        has_names = recipe.has_names if self._header == "auto" else self._header == "true"
        if recipe.has_names and not has_names:
            raise UserError("data.header=false: the model's columns have names. Give a first line that names them.")
        if has_names and not set(used) <= set(names):
            if not self._may_be_title(names) or len(self._titles) == MOST_TITLES:
                self._refuse(*(self._titles or [(number, line)])[0])
            self._titles.append((number, line))
            return True
        self.has_header, self._delimiter = has_names, delimiter
        if has_names:
            self._names = names
            self.notes += [passed_over(number - 1)] if self._titles else []
        return has_names

    def _cut(self, line: str) -> tuple[str, list[str]]:
        """What cuts the line, and the names of columns that it gives: if anything cuts it so, those of the model."""
        row = line.lstrip("# ")
        wanted = {column.name for column in self.inputs.recipe.columns}  # type: ignore[union-attr]
        told = told_delimiter([row]) if self._delimiter == "auto" else self._delimiter
        ways = [told, *SIGNS] if self._delimiter == "auto" else [told]
        cut_by = [(sign, different(names_of(next(parsed([row], sign))))) for sign in ways]
        return next((way for way in cut_by if wanted <= set(way[1])), cut_by[0])

    def _may_be_title(self, names: Sequence[str]) -> bool:
        """Whether a line above the names of the columns may hold a title and the like, and not other names or a row.

        It has fewer cells than the model has columns, less than half of its names, and more than numbers.
        """
        filled = [name for name in names if name and not re.fullmatch(r"column \d+", name)]
        are_numbers = all(number_in(cell) is not None for cell in filled)
        is_short = len(filled) < max(2, len(self._names)) and not (are_numbers and len(filled) > 1)
        return is_short and 2 * len(set(filled) & set(self._names)) < len(self._names)

    def _refuse(self, number: int, line: str) -> None:
        """Raises UserError: the line does not name all columns of the model."""
        try:
            self.inputs.recipe.apply([dict.fromkeys(self._cut(line)[1], "")])  # type: ignore[union-attr]
        except UserError as error:
            raise UserError(str(error).replace("rows: ", f"line {number}: ", 1)) from error

    def _sample(self, line: str) -> Tree:
        if isinstance(self.inputs, Pictures):
            channels, height, width = self.inputs.raw_shape
            return read_picture(line.strip(), channels, (height, width), self.inputs.background).unsqueeze(0)
        if isinstance(self.inputs, Rows):
            row = self._row(line)
            return self.inputs.recipe.apply([row], self.notes, self._decimal_of(row))
        if isinstance(self.inputs, Theirs) and self.inputs.tensors:
            return of_arrays(self.inputs, json.loads(line), "sample")
        if isinstance(self.inputs, Theirs):
            raise UserError(f"the model takes {told_form(self.inputs)}. In Python: trainer.load(folder)(inputs).")
        if "," in line and ";" in line:
            raise ValueError("it has commas and semicolons. Write numbers with a point, between commas or blanks")
        numbers = (
            json.loads(line) if line.lstrip().startswith("[") else line.replace(",", " ").replace(";", " ").split()
        )
        array = np.array(numbers, np.float64)
        if not np.isfinite(array).all():
            raise ValueError("it holds what is NaN or infinite")
        is_whole = not isinstance(self.inputs, Scaled) and not self.inputs.dtype.startswith(("float", "bfloat"))
        raw = torch.from_numpy(array.astype(np.int64) if is_whole else array).unsqueeze(0)
        refuse_other_form(self.inputs, raw, "numbers")
        return raw

    def _row(self, line: str) -> Mapping[str, Any]:
        if line.lstrip().startswith("{"):
            row = json.loads(line)
            return {str(name): value for name, value in row.items()}
        cells = next(parsed([line], self._delimiter))
        by_place = {str(place): cell for place, cell in enumerate(cells)}
        if len(cells) > len(self._names) and by_place.keys() >= set(self._names):
            return by_place  # of a table without names, with columns that are no inputs
        if self._has_row_names is None:
            self._has_row_names = len(cells) == len(self._names) + 1 and self._is_row_name(line, cells[0])
        if self._has_row_names:
            cells = cells[1:]
        if len(cells) != len(self._names):
            raise ValueError(f"{len(cells)} cells, and {len(self._names)} are needed: {', '.join(self._names)}")
        return dict(zip(self._names, cells, strict=True))

    def _is_row_name(self, line: str, cell: str) -> bool:
        """Whether a cell before those that have names is what R writes there: `"1",0.5,2`.

        Of `1,5,2` nobody knows: the first cell may be half of 1,5.
        """
        is_row_name = bool(cell.strip()) and (line.startswith('"') or number_in(cell) is None)
        if is_row_name:
            self.notes.append(ROW_NAMES)
        return is_row_name

    def _decimal_of(self, row: Mapping[str, Any]) -> str:
        """As the first rows have it that can be read in one way only."""
        assert isinstance(self.inputs, Rows)
        if self._decimal == "auto":
            numbers = {column.name for column in self.inputs.recipe.columns if isinstance(column, Number)}
            texts = [cell for name, cell in row.items() if name in numbers and isinstance(cell, str)]
            self._decimal = told_decimal("rows", texts) or "auto"
            if self._decimal == "auto" and self._delimiter == "semicolon":
                self.notes += notes_on_points(texts)
        return "point" if self._decimal == "auto" else str(self._decimal)


def typed_lines(encoding: str = "auto") -> Iterator[list[str]]:
    """The lines of standard input as they come: all that are there, without a wait for more.

    Args:
        encoding: a name that Python knows, or `auto`: what a byte order mark says, else UTF-8; what is none of it stays
            as the name of a file has it.

    Raises:
        UserError: the input is none of that, or nobody knows it.
    """
    stream: Any = sys.stdin.buffer
    decoder: codecs.IncrementalDecoder | None = None
    rest, is_end = "", False
    try:
        while not is_end:
            block = stream.read1(1 << 16)
            is_end = not block
            if decoder is None:
                name = encoding if encoding != "auto" else told_encoding(block) or "utf-8"
                "".encode(name)  # some names are of no texts
                decoder = codecs.getincrementaldecoder(name)("surrogateescape" if encoding == "auto" else "strict")
            *lines, rest = (rest + decoder.decode(block, is_end)).split("\n")
            lines += [rest] if is_end and rest else []
            if lines:
                yield lines
    except UnicodeError as error:
        raise UserError(f"-: not a text in {name} ({cut(str(error), 100)}). Type data.encoding=<its name>.") from error
    except LookupError as error:
        raise UserError(f"data.encoding={cut(encoding)}: nobody knows it. Type data.encoding=utf-8.") from error


def together(lines: Sequence[Line]) -> Tree:
    """The samples of lines that have one, `[N, ...]`; None where none has."""
    rows = [line.raw for line in lines if line.raw is not None]
    return joined(rows) if rows else None
