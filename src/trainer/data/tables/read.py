"""Reads a table, whatever kind of file it is in."""

from collections.abc import Sequence
from pathlib import Path

from trainer.data.quoting import cut
from trainer.data.tables import delimited, json_lines, parquet
from trainer.data.tables.columns import Choice, Table, choose_all_auto
from trainer.errors import UserError

TEXTS = (".csv", ".tsv", ".tab", ".txt", ".data", ".dat")
JSONS = (".jsonl", ".ndjson", ".json")
PARQUETS = (".parquet", ".pq")
SUFFIXES = (*TEXTS, *JSONS, *PARQUETS)
HOW = ("delimiter", "decimal", "encoding", "header")  # the keys of data that say how a text is read


def read(
    path: Path,
    choose: Choice = choose_all_auto,
    delimiter: str = "auto",
    decimal: str = "auto",
    encoding: str = "auto",
    header: str = "auto",
    called: Sequence[str] = (),
) -> Table:
    """The table in a file of one of `SUFFIXES`; the arguments beyond `choose` are of text, see `delimited.read`.

    Raises:
        UserError: it is of another kind, can't be read, or holds no table.
    """
    match path.suffix.lower():
        case suffix if suffix in TEXTS:
            return delimited.read(path, choose, delimiter, decimal, encoding, header, called)
        case suffix if suffix in (*JSONS, *PARQUETS):
            for key, word in (("delimiter", delimiter), ("encoding", encoding), ("header", header)):
                if word != "auto":
                    raise UserError(f"data.{key}={cut(word)}: a {suffix} has none to choose. Type data.{key}=auto.")
            return (json_lines if suffix in JSONS else parquet).read(path, choose, decimal)
        case suffix:
            hint = " Export it as CSV, in UTF-8." if suffix in (".xls", ".xlsx", ".ods", ".numbers") else ""
            raise UserError(
                f"data.path={path}: {cut(suffix) or 'this'} is not read; accepted are {', '.join(SUFFIXES)}.{hint}"
            )
