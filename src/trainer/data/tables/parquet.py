"""Tables as Parquet files, by pyarrow, which comes with the extra `parquet`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from trainer.data.memory import refuse_more
from trainer.data.quoting import composed, cut
from trainer.data.tables.columns import (
    DATES,
    EMPTY,
    TEXT,
    WORDS,
    Choice,
    Column,
    Numbers,
    Table,
    Unused,
    Words,
    finite,
    is_missing,
    told,
)
from trainer.data.tables.dialect import told_decimal
from trainer.disk.foreign import refuse_no_file
from trainer.errors import UserError

BYTES_PER_CELL = 40  # of memory: the number as read, fitted, and cast


def read(path: Path, choose: Choice, decimal: str = "auto") -> Table:
    """The table in a Parquet file.

    Args:
        decimal: of numbers that are texts: `point`, `comma`, or `auto`: what the texts of a column are written with.

    Raises:
        UserError: pyarrow isn't there; the file can't be read, or holds something else than numbers, texts, dates,
            true and false.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise UserError(f"data.path={path}: Parquet needs pyarrow. Type pip install 'train-cli[parquet]'.") from error
    try:
        refuse_no_file(path)
        with parquet.ParquetFile(path) as file:
            num_rows, schema = file.metadata.num_rows, file.schema_arrow
            where = f"data.path={path}"
            if not num_rows or not schema.names:
                raise UserError(f"{where}: the file is empty. Give one with a row per sample.")
            if len(set(schema.names)) < len(schema.names):
                raise UserError(f"{where}: two columns have one name. Give each its own.")
            refuse_more(where, num_rows * len(schema.names) * BYTES_PER_CELL, "Take rows or columns out of it.")
            uses = choose(schema.names, True)
            columns = {
                name: _column(file, name, schema.field(name).type, uses.get(name, "auto"), decimal, where)
                for name in schema.names
            }
    except (pyarrow.ArrowException, OSError) as error:  # ArrowException: also ValueError and KeyError of its own
        reason = getattr(error, "strerror", None) or cut(" ".join(str(error).split()), 150)
        raise UserError(f"data.path={path}: not a Parquet file that can be read ({reason}). Write it again.") from error
    table = Table(path, columns, num_rows, decimal="comma" if decimal == "comma" else "point")
    for name in _index_columns(schema.metadata):
        if isinstance(columns.get(name), Numbers) and uses.get(name, "auto") == "auto":
            columns[name] = Unused("the index that pandas wrote")
    return table


def _column(file: Any, name: str, kind: Any, use: str, decimal: str, where: str) -> Column:
    import pyarrow
    from pyarrow import compute, types

    if use == "none":
        return Unused("not asked for")
    if types.is_temporal(kind) and use == "auto":
        return Unused(DATES)
    if types.is_null(kind):
        return Unused(EMPTY)
    array = file.read(columns=[name]).column(0)
    if types.is_dictionary(kind):
        array = array.cast(kind.value_type)
        kind = kind.value_type
    is_number = types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind) or types.is_decimal(kind)
    if is_number and use == "auto":
        values = array.cast(pyarrow.float64(), safe=False).to_numpy()
        values = np.where(array.is_null().to_numpy(), np.nan, values) if array.null_count else values
        if np.isnan(values).all():
            return Unused(EMPTY)
        return finite(np.array(values, dtype=np.float64), types.is_integer(kind) or types.is_boolean(kind))
    if not (is_number or types.is_temporal(kind) or types.is_string(kind) or types.is_large_string(kind)):
        if types.is_string_view(kind):
            kind = pyarrow.string()
        else:
            return Unused(f"{kind}, which is no number and no text")
    if types.is_floating(kind):
        array = array.cast(pyarrow.float32()) if types.is_float16(kind) else array
        array = compute.if_else(compute.is_nan(array), None, array)
        is_whole = compute.and_(compute.equal(array, compute.floor(array)), compute.less(compute.abs(array), 1e18))
        if compute.all(is_whole).as_py():
            array = array.cast(pyarrow.int64())  # whole numbers that pandas holds as fractions beside what is missing
    coded = array.cast(pyarrow.string()).combine_chunks().dictionary_encode()
    if isinstance(coded, pyarrow.ChunkedArray):
        coded = coded.combine_chunks()
    if len(coded.dictionary) > len(coded) // 2 > 50_000 and use == "auto":
        return Unused(TEXT)
    words = _words(coded, use)
    if use in WORDS:
        return words
    if decimal == "auto":
        decimal = told_decimal(f"{where}: column {cut(name)}", words.levels) or "point"
    return told(words, decimal)


def _words(coded: Any, use: str) -> Words:
    codes = coded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int32)
    levels: dict[str, int] = {}
    of_code = np.array(
        [
            levels.setdefault(text, len(levels))
            if use == "exact" and text.strip()
            else -1
            if is_missing(text) and (use != "names" or not text.strip())
            else levels.setdefault(composed(" ".join(text.split())), len(levels))
            for text in coded.dictionary.to_pylist()
        ]
        + [-1],
        np.int32,
    )
    return Words(of_code[codes], tuple(levels))


def _index_columns(metadata: Mapping[bytes, bytes] | None) -> list[str]:
    """The columns of which pandas says that they are its index."""
    try:
        names = json.loads((metadata or {})[b"pandas"])["index_columns"]
        return [name for name in names if isinstance(name, str)]
    except (KeyError, ValueError, TypeError, RecursionError):
        return []
