"""Where predictions go: the terminal or a pipe, line by line, or a file that is there when all of it is."""

import contextlib
import csv
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

from trainer.disk.files import cannot_write, put
from trainer.errors import UserError, printable
from trainer.use.predicted import Predicted

FORMS = (".csv", ".jsonl", ".npz", ".parquet")


class Writer(Protocol):
    def write(self, ids: Sequence[Any], found: Predicted) -> None:
        """Of some more samples."""

    def failed(self, id: Any, columns: Sequence[str], reason: str) -> None:
        """Of a line that can't be read: so that lines out and lines in go together."""

    def close(self) -> None:
        """All of them are written."""

    def give_up(self) -> None:
        """Leaves nothing behind."""


def cell(value: str | float, digits: int = 9) -> str:
    """A number with all digits that float32 has, or so many."""
    return f"{value:.{digits}g}" if isinstance(value, float) else value


class Text:
    """CSV or JSON lines, each written out at once where somebody reads on.

    Args:
        path: None for standard output.
        has_header: the first line names the columns.
    """

    def __init__(self, path: Path | None, form: str, has_header: bool = True) -> None:
        self.path, self.form, self._is_first = path, form, has_header
        self._temporary = None if path is None else path.with_name(f".{path.name}.tmp")
        self._stream: IO[str] = sys.stdout
        if self._temporary is not None:
            try:
                # A path that is no UTF-8 is written as the disk has it.
                self._stream = open(self._temporary, "w", encoding="utf-8", errors="surrogateescape", newline="")  # noqa: SIM115 - see `close`
            except OSError as error:
                raise cannot_write(self._temporary, error, instead="another out=") from error
        self._csv = csv.writer(self._stream, lineterminator="\n")

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """An error of a file that is full has no name."""
        try:
            yield
        except OSError as error:
            if self.path is None:
                raise
            raise cannot_write(self.path, error, instead="another out=") from error

    def write(self, ids: Sequence[Any], found: Predicted) -> None:
        digits = 17 if found.arrays["outputs"].dtype == np.float64 else 9
        with self._named():
            self._head(found.columns)
            for id, row in zip(ids, found.rows, strict=True):
                self._line(id, found.columns, row, digits)
            self._flush()

    def _head(self, columns: Sequence[str]) -> None:
        if self._is_first and self.form == "csv":
            self._csv.writerow(["id", *columns])
        self._is_first = False

    def _line(self, id: Any, columns: Sequence[str], row: Sequence[str | float], digits: int) -> None:
        if self.form == "json":
            self._stream.write(json.dumps({"id": id, **dict(zip(columns, row, strict=True))}) + "\n")
        elif self.form == "words":
            told = [f"{cell(row[i])} {100 * float(row[i + 1]):.1f}%" for i in range(0, len(row), 2)]
            self._stream.write(f"{printable(str(id))}: {printable(', '.join(told))}\n")
        else:
            self._csv.writerow([id, *(cell(value, digits) for value in row)])

    def failed(self, id: Any, columns: Sequence[str], reason: str) -> None:
        with self._named():
            self._head(columns)
            if self.form == "json":
                self._stream.write(json.dumps({"id": id, "error": reason}) + "\n")
            elif self.form == "csv":
                self._csv.writerow([id, *("" for _ in columns)])
            else:
                self._stream.write(f"{id}: can't be read\n")
            self._flush()

    def _flush(self) -> None:
        if self._temporary is None:
            self._stream.flush()

    def close(self) -> None:
        if self._temporary is not None and self.path is not None:
            with self._named():
                self._stream.close()
                put(self._temporary, self.path)

    def give_up(self) -> None:
        if self._temporary is not None:
            with contextlib.suppress(OSError):  # what is left in memory finds no room either
                self._stream.close()
            self._temporary.unlink(missing_ok=True)


class Arrays:
    """`.npz`: `id`, `outputs`, and of classes `class` and `probabilities`; or a `.parquet` of the columns."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ids: list[Any] = []
        self._parts: list[Predicted] = []

    def write(self, ids: Sequence[Any], found: Predicted) -> None:
        self._ids += ids
        is_table = self.path.suffix.lower() == ".parquet"
        self._parts.append(Predicted(found.columns, {} if is_table else found.arrays, found.rows if is_table else []))

    def failed(self, id: Any, columns: Sequence[str], reason: str) -> None:
        """Nothing of it: every sample that is there has its id."""

    def close(self) -> None:
        if not self._parts:
            return
        temporary = self.path.with_name(f".{self.path.name}.tmp")
        try:
            with open(temporary, "wb") as file:
                self._write(file)
            put(temporary, self.path)
        except OSError as error:
            raise cannot_write(self.path, error, instead="another out=") from error
        finally:
            temporary.unlink(missing_ok=True)

    def _write(self, file: IO[bytes]) -> None:
        ids, first = self._ids, self._parts[0]
        if self.path.suffix.lower() == ".npz":
            whole: Any = {name: np.concatenate([part.arrays[name] for part in self._parts]) for name in first.arrays}
            np.savez(file, **{"id": np.array(ids), **whole})
            return
        import pyarrow
        from pyarrow import parquet

        ids = [id.encode(errors="replace").decode() if isinstance(id, str) else id for id in ids]  # Parquet is UTF-8
        rows = [row for part in self._parts for row in part.rows]
        columns = {name: [row[i] for row in rows] for i, name in enumerate(first.columns)}
        parquet.write_table(pyarrow.table({"id": ids, **columns}), file)

    def give_up(self) -> None:
        self._parts.clear()


def writer(out: str | None, form: str, has_header: bool = True) -> Writer:
    """
    Args:
        out: a file of one of `FORMS`; None for standard output.
        form: of standard output: "csv", "json", or "words" for a person.

    Raises:
        UserError: the file is of another kind, or can't be written.
    """
    if out is None:
        return Text(None, form, has_header and form == "csv")
    path = Path(out).expanduser()
    suffix = path.suffix.lower()
    if suffix not in FORMS:
        raise UserError(f"out={out}: must end in {', '.join(FORMS)}. Try out=predictions.csv.")
    if path.is_dir() or not path.absolute().parent.is_dir():
        what = "is a folder" if path.is_dir() else f"there is no folder {path.absolute().parent}"
        raise UserError(f"out={out}: {what}. Type the name of a file, such as out=predictions{suffix}.")
    if path.exists() and (not path.is_file() or path.stat().st_size):  # it may be the very file that is read
        raise UserError(f"out={out}: is there already, and nothing is written over it. Type another name.")
    if suffix == ".parquet":
        try:
            import pyarrow  # noqa: F401
        except ModuleNotFoundError as error:
            raise UserError(f"out={out}: Parquet needs pyarrow. Type pip install 'train-cli[parquet]'.") from error
    return Text(path, "csv" if suffix == ".csv" else "json") if suffix in (".csv", ".jsonl") else Arrays(path)
