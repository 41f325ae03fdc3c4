"""`train predict`: what a finished run's model makes of new samples."""

import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from trainer.data.batches import EVALUATION_BATCH, EVALUATION_FILES
from trainer.data.fresh import HOW, refuse_no_text
from trainer.data.preparation import Pictures
from trainer.errors import UserError, printable
from trainer.meaning import Classes
from trainer.use.find import find
from trainer.use.lines import Reader, together, typed_lines
from trainer.use.predicted import Model
from trainer.use.sources import Part, parts_of
from trainer.use.trained import open_run
from trainer.use.written import Writer, writer

READ_BY = (*HOW, "background")  # the keys of data that say how a file is read
SECONDS = 10.0  # between two lines of progress


def predict(
    words: Sequence[str],
    checkpoint: str | None,
    keys: Mapping[str, Any],
    out: str | None = None,
    top: int = 1,
    batch_size: int | None = None,
    is_json: bool = False,
) -> int:
    """Writes predictions. Returns 1 where something could not be read, which has been named then, else 0.

    Args:
        words: the run, and the sources: files, folders, patterns, or `-` for standard input.
        keys: dotted, as typed.
        out: a file; None for standard output.
        is_json: JSON lines on standard output.

    Raises:
        UserError: nothing was predicted.
    """
    if len(words) < 2:
        raise UserError("train predict takes a run and what to predict. Type train predict RUN FILE; - reads lines.")
    for key in keys:
        if key.split(".")[0] == "data" and key.removeprefix("data.") not in READ_BY:
            raise UserError(f"{key}: says where data for training lies. Type train predict {words[0]} FILE.")
    run, *sources = words
    if "-" in sources and len(sources) > 1:
        raise UserError("-: standard input is read by itself. Type it alone, or the other sources.")
    refuse_no_text(sources, keys)
    found = find(run, checkpoint)
    if found.note:
        print(found.note, file=sys.stderr)
    trained = open_run(found, keys, are_given=True)
    model = Model(trained, top)
    if model.top != top:
        known = model.meaning.num_outputs if isinstance(model.meaning, Classes) else 0
        what = f"knows {known} classes. Type top={known}" if known else "has no classes. Leave it out"
        raise UserError(f"top={top}: the model {what}.")
    how = {key: value for key, value in trained.settings.group("data").items() if key in READ_BY}
    form = "json" if is_json else "csv"
    if out is None and not is_json and sys.stdout.isatty() and isinstance(model.meaning, Classes):
        form = "words"
    if sources == ["-"]:
        lines = typed_lines(str(how.get("encoding", "auto")))
        return of_lines(model, Reader(trained.about.inputs, how), lines, out, form)
    is_of_files = isinstance(trained.about.inputs, Pictures) and trained.about.inputs.stored is None
    size = batch_size or (EVALUATION_FILES if is_of_files else EVALUATION_BATCH)
    to = writer(out, form)
    progress = Progress()
    try:
        with model.ready():
            for part in parts_of(trained.about.inputs, sources, size, how):
                of_part(model, part, to, progress)
        if not progress.count:
            raise progress.nothing_read()
        to.close()
    except BaseException:
        to.give_up()
        raise
    progress.end(out)
    return 1 if progress.failures else 0


class Progress:
    """Says on stderr how far it is: on a terminal in one line, elsewhere one each ten seconds."""

    def __init__(self) -> None:
        self.count = 0
        self.failures: list[str] = []
        self._num_told = 0
        self._notes: set[str] = set()
        self._started = self._said = time.monotonic()
        self._is_terminal = sys.stderr.isatty()

    def add(self, part: Part) -> None:
        self.count += len(part.ids)
        self.failures += part.failed
        if self.count or len(self.failures) > 1:  # the only one of all ends the command, and is told there
            for line in self.failures[self._num_told :]:
                print(f"error: {printable(line)}", file=sys.stderr)
            self._num_told = len(self.failures)
        self.tell(part.notes)
        now = time.monotonic()
        if now - self._said > (1.0 if self._is_terminal else SECONDS):
            self._said = now
            line = f"{self.count:,} samples, {self.count / (now - self._started):,.0f} a second"
            print(line, end="\r" if self._is_terminal else "\n", file=sys.stderr, flush=True)

    def tell(self, notes: Iterable[str]) -> None:
        """Each once."""
        for note in notes:
            if note not in self._notes:
                self._notes.add(note)
                print(printable(note), file=sys.stderr)

    def nothing_read(self) -> UserError:
        """The line where there is no sample to predict."""
        number = len(self.failures)
        return UserError(self.failures[0] if number == 1 else f"nothing was predicted: none of {number:,} can be read.")

    def end(self, out: str | None) -> None:
        seconds = time.monotonic() - self._started
        if out is not None:
            bad = f", {len(self.failures):,} not read" if self.failures else ""
            print(f"{self.count:,} samples in {seconds:.1f} s{bad}: {out}", file=sys.stderr)


def of_part(model: Model, part: Part, to: Writer, progress: Progress) -> None:
    if part.raw is not None:
        to.write(part.ids, model.predicted(part.raw, part.inputs))
        progress.tell([model.note] if model.note else [])
    progress.add(part)


def of_lines(model: Model, reader: Reader, blocks: Iterator[list[str]], out: str | None, form: str) -> int:
    """A filter: a line out for each sample that comes in, before the next is waited for."""
    to: Writer | None = None
    columns: list[str] = []
    is_whole = True
    progress = Progress()
    with model.ready():
        try:
            for block in reader.read(blocks):
                progress.tell(reader.notes)
                reader.notes.clear()
                raw = together(block)
                found = None if raw is None else model.predicted(raw, reader.inputs)
                progress.tell([model.note] if model.note else [])
                if to is None and block:
                    to = writer(out, form, bool(reader.has_header) or out is not None)
                columns = columns if found is None else found.columns
                rows = iter([] if found is None else found.rows)
                arrays = iter(range(len(block)))
                for line in block:
                    assert to is not None
                    if line.failed:
                        is_whole = False
                        print(f"error: {printable(line.failed)}", file=sys.stderr)
                        to.failed(line.number, columns, line.failed)
                    else:
                        assert found is not None
                        i = next(arrays)
                        one = {name: array[i : i + 1] for name, array in found.arrays.items()}
                        to.write([line.number], type(found)(columns, one, [next(rows)]))
            if to is None:
                raise UserError("-: standard input holds no sample.")
            to.close()
        except BaseException:
            if to is not None:
                to.give_up()
            raise
    return 0 if is_whole else 1
