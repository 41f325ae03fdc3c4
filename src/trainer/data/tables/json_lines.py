"""Tables as JSON: an object a line (`.jsonl`, `.ndjson`), or a list of objects (`.json`)."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from trainer.data.memory import refuse_more
from trainer.data.quoting import cut, typed
from trainer.data.tables.columns import Choice, Gathering, Table
from trainer.data.tables.delimited import BLOCK_ROWS, MOST_LINE_BYTES
from trainer.data.tables.dialect import told_decimal
from trainer.disk.files import cannot_read
from trainer.disk.foreign import refuse_no_file
from trainer.errors import UserError

MOST_LIST_BYTES = 1 << 28  # of a .json, which is read as a whole and takes ten times its size
BYTES_PER_BYTE = 8  # of memory that a run needs for the numbers of a file of lines
MOST_COLUMNS = 100_000


def read(path: Path, choose: Choice, decimal: str = "auto") -> Table:
    """The table in a file of objects. A name that an object lacks is missing there.

    Args:
        decimal: of numbers that are texts: `point`, `comma`, or `auto`: what the first texts are written with.

    Raises:
        UserError: it can't be read, or is something else than objects of numbers, texts, true and false.
    """
    try:
        refuse_no_file(path)
        size = path.stat().st_size
        refuse_more(f"data.path={path}", size * BYTES_PER_BYTE, "Take rows or columns out of it.")
        with open(path, encoding="utf-8-sig") as file:
            return _table(path, _items(path, file, size), choose, decimal)
    except UnicodeError as error:
        raise UserError(f"data.path={path}: not a text in UTF-8 ({cut(str(error), 100)}). Save it as one.") from error
    except OSError as error:
        raise cannot_read(f"data.path={path}", error) from error


def _items(path: Path, file: Any, size: int) -> Iterator[tuple[int, Any]]:
    """What is in the file, with the line that it is in, or its number in the list."""
    start = file.read(1000).lstrip()[:1]
    file.seek(0)
    if start == "[":
        if size > MOST_LIST_BYTES:
            raise UserError(
                f"data.path={path}: a list of {size:,} bytes; accepted are {MOST_LIST_BYTES:,}. Write an object a line."
            )
        found = _parsed(path, file.read(), "the file")
        yield from enumerate(found, 1)
        return
    number = 0
    while line := file.readline(MOST_LINE_BYTES):
        number += 1
        if len(line) == MOST_LINE_BYTES:
            raise UserError(f"data.path={path}: line {number} has {MOST_LINE_BYTES:,} letters and more. Write less.")
        if line.strip():
            yield number, _parsed(path, line, f"line {number}")


def _parsed(path: Path, text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: also of a number with thousands of digits
        reason = "it is nested too deep" if isinstance(error, RecursionError) else cut(str(error), 100)
        raise UserError(f"data.path={path}: {where} is no JSON ({reason}). Write an object per line.") from error


def _table(path: Path, items: Iterator[tuple[int, Any]], choose: Choice, decimal: str) -> Table:
    gathered: dict[str, Gathering] = {}
    uses: Mapping[str, str] | None = None
    lines: list[int] = []
    while block := list(islice(items, BLOCK_ROWS)):
        for line, item in block:
            if not isinstance(item, dict):
                raise UserError(
                    f"data.path={path}: line {line} holds {cut(json.dumps(item))}; an object such as "
                    '{"a": 1, "b": "red"} is needed.'
                )
        names = dict.fromkeys(name for _, item in block for name in item)
        if len(gathered.keys() | names) > MOST_COLUMNS:
            raise UserError(f"data.path={path}: more than {MOST_COLUMNS:,} different names. Write rows of equal names.")
        if uses is None:
            uses = choose(list(names), True)
            if decimal == "auto":
                texts = (text for _, item in block for text in item.values() if isinstance(text, str))
                decimal = told_decimal(f"data.path={path}", texts) or "untold"
        for name in names:
            if name not in gathered:
                gathered[name] = Gathering(decimal, uses.get(name, "auto"), num_rows=len(lines))
        for name, column in gathered.items():
            _add(path, column, name, [item.get(name) for _, item in block], block)
        lines += [line for line, _ in block]
    if not lines:
        raise UserError(f"data.path={path}: the file is empty. Give one with a row per sample.")
    columns = {name: column.done() for name, column in gathered.items()}
    decimal = "comma" if decimal == "comma" else "point"
    return Table(path, columns, len(lines), lines=np.array(lines), decimal=decimal)


def _add(path: Path, column: Gathering, name: str, values: Sequence[Any], block: Sequence[tuple[int, Any]]) -> None:
    kinds = set(map(type, values))
    if column.kind == "none":
        return column.add([""] * len(values))
    for kind in kinds - {int, float, bool, str, type(None)}:
        line = next(line for value, (line, _) in zip(values, block, strict=True) if type(value) is kind)
        raise UserError(
            f"data.path={path}: line {line}, column {cut(name)}: it holds a {'list' if kind is list else 'mapping'}; "
            "accepted are numbers, texts, true and false. Take it apart, or type "
            f"{typed('data.drop', [name])}."
        )
    if kinds <= {int, float, type(None)} and column.kind in ("empty", "numbers"):
        try:
            numbers = np.array([math.nan if value is None else float(value) for value in values])
            return column.add_values(numbers, kinds == {int})
        except OverflowError:  # a whole number beyond 1e308
            pass
    return column.add(["" if value is None else _written(value) for value in values])


def _written(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, str) else repr(value)
