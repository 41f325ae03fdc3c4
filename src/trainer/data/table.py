"""A table of the user's own: numbers, words, dates and gaps, made into inputs and targets."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from trainer.config.schema import shown
from trainer.data.folds import refuse_folds
from trainer.data.memory import refuse_more
from trainer.data.quoting import cut, listed, typed
from trainer.data.source import Data, Samples, existing_path
from trainer.data.split import split_by_time, split_rows, uneven
from trainer.data.tables.columns import (
    DATES,
    EMPTY,
    EXACT,
    INTEGER,
    MISSING,
    PADDED,
    TEXT,
    Column,
    Mixed,
    Numbers,
    Table,
    Unused,
    Words,
    find,
    number,
    time_of,
)
from trainer.data.tables.read import HOW, read
from trainer.data.tables.recipe import Inputs, Recipe, fit
from trainer.data.targets import Targets, meaning, of_words
from trainer.errors import UserError

Names = str | int | Sequence[str | int] | None
# What a column that numbers the rows is called: all of its name, or its last word.
_INDEX_NAMES = {"", "no", "no.", "nr", "nr.", "#", "row", "rows", "rownum", "rownames", "row.names", "level_0"}
FEW_ROWS = 20  # whole numbers that are drawn are hardly ever so many that follow each other
_YEAR_AND_MONTH = re.compile(r"(?:19|20)\d\d\.(?:[1-9]|1[0-2])")  # 2020.10, not 2020.01
_INDEX_WORDS = {"id", "ids", "index", "idx", "uuid", "guid", "rowid"}


def load(
    path: str | None,
    targets: Names = None,
    task: str = "auto",
    num_classes: int | None = None,
    drop: Names = (),
    keep: Names = (),
    categorical: Names = "auto",
    max_levels: int = 50,
    embed: Names = (),
    group: str | int | None = None,
    time: Names = None,
    stratify: bool = True,
    standardize: bool = True,
    delimiter: str = "auto",
    decimal: str = "auto",
    encoding: str = "auto",
    header: str | bool = "auto",
    val_fraction: float = 0.1,
    test_fraction: float = 0.2,
    split_seed: int = 0,
) -> Data:
    """Inputs and targets from a table with a row per sample.

    Each column becomes inputs in the order of the file, by the training rows alone:

    - numbers: minus their mean, divided by their standard deviation (0 where they are constant). A missing one is the
      mean; where some are missing in training, a column behind it is 1 for those rows.
    - true and false are 1 and 0, and numbers like others.
    - words: a column of 0 and 1 per level; a missing one is a level of its own. Of more than `max_levels` the most
      frequent have a column each and all others share one. A word that no training row has is 0 in all of them.
    - dates, texts that differ in nearly every row, columns that number the rows, and empty ones are left out and named.

    Args:
        path: a `.csv`, `.tsv`, `.txt`, `.jsonl`, `.json` or `.parquet`, see `trainer.data.tables.read`.
        targets: the columns that are targets, by name or by number from 0 (negative from the end).
        task: `classification`, `regression` or `auto`: whole numbers, booleans and words in one column are classes.
        num_classes: None: as many as there are different labels. Words are numbered in alphabetical order, labels that
            aren't 0, 1 ... in their own.
        drop: columns to leave out.
        keep: columns to take in that would be left out since they number the rows.
        categorical: columns of numbers that are words all the same, such as postal codes; `auto`: none. Of a target
            each word is a class then, also NA, None and their like; what is empty is missing.
        max_levels: of the columns of words that are not embedded.
        embed: columns of words that become one whole number each, for a model with embeddings: inputs are then
            `numbers` `[N, D]` and `levels` `[N, len(embed)]`, see `trainer.data.tables.recipe.Category`.
        group: a column whose rows of one value (a patient, a speaker) fall into one split; it is no input.
        time: a column of dates (ISO 8601) or numbers: training has the earliest rows, the test split the latest, and
            rows of one time fall into one split; it is no input. Not with `group`, nor with folds.
        stratify: each split gets its share of every class. Not with `group` or `time`.
        standardize: false: numbers stay as they are.
        delimiter, decimal, encoding, header: of texts, see `trainer.data.tables.delimited.read`.
        val_fraction, test_fraction: the parts that become these splits.
        split_seed: decides which rows those are.

    Raises:
        UserError: the file is missing, damaged or no table; a column is unknown, or neither numbers nor words.
    """
    file = existing_path("data.path", path)
    if str(header).lower() not in ("auto", "true", "false"):
        raise UserError(f"data.header={cut(str(header))}: must be auto, true or false. Try data.header=auto.")
    wanted = Wanted(file, targets, task, drop, keep, categorical, embed, group, time)
    how = {"delimiter": delimiter, "decimal": decimal, "encoding": encoding, "header": str(header).lower()}
    table = read(file, wanted.choose, **how, called=wanted.called)
    names, left_out = _inputs(table, wanted)
    refuse_problems(table, names, wanted)
    meant = targets_of(table, wanted, num_classes)

    labels = meant.splits["its"]
    by_class = labels if stratify and meant.num_classes else None
    parts, sizes_notes = rows_of_splits(
        table, wanted, split_seed, {"val": val_fraction, "test": test_fraction}, by_class
    )
    columns = fit(table, names, parts["train"].numpy(), standardize, max_levels, wanted.embed)
    recipe = Recipe(tuple(columns), tuple(wanted.targets), left_out, meant.class_names, table.has_names)
    num_inputs = len(recipe.names) + len(recipe.num_levels)
    refuse_more(
        f"data.path={file}",
        table.num_rows * num_inputs * 20,  # as float64, then as what the run computes with
        f"Its columns become {num_inputs:,} inputs: type data.max_levels=10.",
    )
    notes = [*table.notes, *_left_out_notes(left_out), *_counting_notes(table, names, wanted)]
    notes += [*_padded_notes(table, names, wanted, meant), *_stand_in_notes(table, names, wanted, meant)]
    notes += _total_notes(table, [*names, *wanted.targets]) + _empty_notes(table, names)
    notes += [*meant.notes, *sizes_notes]
    notes += _level_notes(columns, table, max_levels)
    splits: dict[str, Any] = {}
    for split, rows in parts.items():
        said: list[str] = []
        splits[split] = Samples(recipe.apply(table.take(rows.numpy()), said), labels[rows])
        notes += [f"the {split} split: {note}" for note in said]
    aims = f"{meant.num_classes} classes" if meant.num_classes else f"{labels.shape[1]} numbers as targets"
    return Data(
        **splits,
        description=f"table: {file.name}, {table.num_rows:,} samples of {num_inputs:,}, {aims}",
        num_classes=meant.num_classes,
        class_names=tuple(wanted.targets) if task == "multilabel" else meant.class_names,
        notes=tuple(notes),
        recipe=recipe,
        rows=dict(parts),
        by_chance=("val", "test"),
        is_multilabel=task == "multilabel",
    )


def inputs_of(
    path: str, recipe: Recipe, how: Mapping[str, Any] | None = None, notes: list[str] | None = None
) -> Inputs:
    """The inputs of a new table, as a run's `recipe` makes them: its columns are found by their names.

    Args:
        how: see `read_for`.
        notes: gets what its user should know.

    Raises:
        UserError: the file can't be read, lacks a column, or has words where the model was trained with numbers.
    """
    table = read_for(path, recipe, how or {})
    if notes is not None:
        notes += table.notes
    return recipe.apply(table, notes)


def read_for(path: str | None, recipe: Recipe, how: Mapping[str, Any], wanted: "Wanted | None" = None) -> Table:
    """A table with the columns of a run's recipe, which are found by their names. Raises what `inputs_of` does.

    Args:
        how: of `trainer.data.tables.read.HOW`, as they were typed.
        wanted: with the recipe's targets, where the table is to have them.
    """
    used = [column.name for column in recipe.columns]

    def choose(names: Sequence[str], has_names: bool) -> dict[str, str]:
        uses = {name: "words" if name in recipe.words else "auto" if name in used else "none" for name in names}
        if wanted is None:
            return uses
        return uses | dict.fromkeys(recipe.targets, "auto") | dict(wanted.choose(names, has_names))

    words = {key: str(how.get(key, "auto")).lower() for key in HOW}
    if words["header"] == "auto" and not recipe.has_names:
        words["header"] = "false"
    called = [*used, *(recipe.targets if wanted else ())] if recipe.has_names else ()
    return read(existing_path("data.path", path), choose, **words, called=called)


class Wanted:
    """What is wanted of which column; its names are known when the file has been opened."""

    def __init__(
        self,
        path: Path,
        targets: Names,
        task: str,
        drop: Names = (),
        keep: Names = (),
        categorical: Names = "auto",
        embed: Names = (),
        group: str | int | None = None,
        time: Names = None,
    ) -> None:
        self.path, self.task = path, task
        self.asked: dict[str, list[str | int]] = {
            "targets": _listed(targets),
            "drop": _listed(drop),
            "keep": _listed(keep),
            "categorical": [] if categorical == "auto" else _listed(categorical),
            "embed": _listed(embed),
            "group": [] if group is None else [group],
            "time": _listed(time),
        }
        self.called = [name for names in self.asked.values() for name in names if isinstance(name, str)]
        self._typed_targets = targets
        self.targets, self.drop, self.keep, self.categorical, self.embed = (list[str]() for _ in range(5))
        self.group: str | None = None
        self.time: str | None = None
        if len(self.asked["time"]) > 1:
            raise UserError(f"data.time={shown(time)}: it is one column. Type the one that says when.")
        if group is not None and self.asked["time"]:
            raise UserError(
                f"data.time={shown(time)}: data.group={group} says where rows fall, too. Type data.time=null or "
                "data.group=null."
            )

    def choose(self, names: Sequence[str], has_names: bool) -> Mapping[str, str]:
        known = listed(names) if has_names else f"0 to {len(names) - 1}, without names"
        if not self.asked["targets"]:
            last = names[-1] if has_names else len(names) - 1
            raise UserError(
                f"data.targets={shown(self._typed_targets)}: say which columns of {self.path} are targets; it has "
                f"{known}. Try {typed('data.targets', [str(last)], not has_names)}."
            )
        found: dict[str, list[str]] = {key: [] for key in self.asked}
        for key, asked in self.asked.items():
            for one in asked:
                name = find(f"data.{key}", one, names, self.path, has_names)
                if name in found[key]:
                    raise UserError(f"data.{key}: column {one} of {self.path} is there twice. Name each column once.")
                found[key].append(name)
        for key in ("drop", "keep", "embed", "group", "time"):
            for name in found["targets"]:
                if name in found[key]:
                    raise UserError(f"data.{key}={cut(name)}: it is a target, too. Take it out of one of the two.")
        if both := [name for name in found["drop"] if name in [*found["keep"], *found["categorical"], *found["embed"]]]:
            raise UserError(f"data.drop=[{cut(both[0])}]: it is asked for as well. Take it out of one of the two.")
        for key in ("group", "time"):
            if both := [name for name in found[key] if name in found["keep"]]:
                raise UserError(
                    f"data.keep=[{cut(both[0])}]: it is data.{key}, and so no input. Take it out of data.keep, or type "
                    f"{typed('data.categorical', both, not has_names)} for a level per word."
                )
        self.targets, self.drop, self.keep = found["targets"], found["drop"], found["keep"]
        self.categorical, self.embed = found["categorical"], found["embed"]
        self.group, self.time = (next(iter(found[key]), None) for key in ("group", "time"))
        splitting = [*found["group"], *found["time"]]
        uses = dict.fromkeys(self.drop, "none") | dict.fromkeys([*self.categorical, *self.embed, *splitting], "words")
        if self.task == "classification" and len(self.targets) == 1:
            uses[self.targets[0]] = "words"
        uses |= dict.fromkeys([name for name in self.targets if name in self.categorical], "names")
        if not set(names) - {*self.targets, *self.drop, *splitting}:
            raise UserError(
                f"data.targets={shown(self._typed_targets)}: all {len(names)} columns of {self.path} are targets"
                f"{' or dropped' if self.drop else ''}, none is left as input."
            )
        return uses


def _listed(names: Names) -> list[str | int]:
    if names is None:
        return []
    if isinstance(names, Mapping):
        raise UserError(f"data: {shown(names)} names no columns. Type a list of them, such as data.drop=[name].")
    return [names] if isinstance(names, str | int) else list(names)


def _inputs(table: Table, wanted: Wanted) -> tuple[list[str], dict[str, str]]:
    """The columns that are inputs, and why others aren't."""
    left_out: dict[str, str] = {}
    for name, column in table.columns.items():
        if name in wanted.targets:
            continue
        if name in wanted.drop:
            left_out[name] = DROPPED
        elif name in (wanted.group, wanted.time) and name not in [*wanted.categorical, *wanted.embed]:
            left_out[name] = GROUPING if name == wanted.group else ORDERING
        elif isinstance(column, Unused):
            if name in wanted.keep:
                raise UserError(
                    f"data.keep=[{cut(name)}]: it can't be an input, as it holds {column.why}. Type "
                    f"{typed('data.categorical', [name])} for a level per word, or write it as numbers."
                )
            left_out[name] = column.why
    names = [name for name in table.columns if name not in left_out and name not in wanted.targets]
    asked = {*wanted.keep, *wanted.categorical, *wanted.embed}
    numbering = [name for name in names if name not in asked and _is_index(name, table)]
    if len(numbering) < len(names):
        left_out |= dict.fromkeys(numbering, NUMBERING)
        names = [name for name in names if name not in left_out]
    if not names:
        raise UserError(
            f"data.path={table.path}: no column is left as input: {_reasons(left_out)}. Give one of numbers or words."
        )
    return names, {name: left_out[name] for name in table.columns if name in left_out}


DROPPED, GROUPING, ORDERING = "dropped", "it keeps rows together", "it puts rows in order"
NUMBERING = "it numbers the rows"


def _is_index(name: str, table: Table) -> bool:
    """Whether a column only tells rows apart: by its name, and as no number comes twice."""
    column = table.columns[name]
    if not isinstance(column, Numbers) or not table.has_names or not _is_distinct(column):
        return False
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)
    return (
        name.lower() in _INDEX_NAMES
        or bool(re.fullmatch(r"unnamed:? ?[\d.]*|__index_level_\d+__", name.lower()))
        or bool(words and words[-1].lower() in _INDEX_WORDS)
    )


def _is_distinct(column: Numbers) -> bool:
    values = column.values[~column.missing]
    if len(values) < 2 or np.any(values != np.floor(values)):
        return False
    return len(np.unique(values)) == len(values) or bool(np.abs(values).min() >= EXACT)  # of these, digits are lost


def _counting_notes(table: Table, names: Sequence[str], wanted: "Wanted") -> list[str]:
    """A column that counts the rows is seldom meant as input, whatever it is called, and wherever it stands."""
    found = []
    for name in names:
        column = table.columns[name]
        if name in wanted.keep or not isinstance(column, Numbers) or not is_counting(column.values):
            continue
        low, high = int(column.values.min()), int(column.values.max())
        advice = f" If it is no more than that, type {typed('data.drop', [name], not table.has_names)}."
        advice = advice if len(names) > 1 else ""
        found.append(f"column {cut(name)} counts the rows, from {low} to {high:,}, and is an input.{advice}")
    return found


def _padded_notes(table: Table, names: Sequence[str], wanted: "Wanted", meant: Targets) -> list[str]:
    """Numbers with zeros in front are names more often than not, and as numbers they lose their zeros."""
    columns = [*names, *(wanted.targets if meant.num_classes else [])]
    padded = {n: column.padded for n in columns if isinstance(column := table.columns[n], Numbers) and column.padded}
    if not padded:
        return []
    found = listed((f"{cut(name)} ({cell})" for name, cell in padded.items()), 5)
    advice = typed("data.categorical", [*wanted.categorical, *padded], not table.has_names)
    return [f"numbers with zeros in front are taken as numbers: {found}. If they are names, type {advice}."]


def _stand_in_notes(table: Table, names: Sequence[str], wanted: "Wanted", meant: Targets) -> list[str]:
    """What instruments and questionnaires write for a missing value, -999 say, spoils means and deviations."""
    found = []
    for name in [*names, *([] if meant.num_classes else wanted.targets)]:
        column = table.columns[name]
        if not isinstance(column, Numbers) or (stand_in := _stand_in(column.values)) is None:
            continue
        value, count, low, high = stand_in
        found.append(f"{cut(name)} ({value:.10g} in {count:,} rows, and {low:.6g} to {high:.6g} in all others)")
    if not found:
        return []
    return [
        f"numbers that may stand for missing values are taken as numbers: {listed(found, 5, 120)}. If they do, leave "
        "their cells empty."
    ]


def _stand_in(values: NDArray[np.float64]) -> tuple[float, int, float, float] | None:
    """A number that several rows have, as far from all others as those are from each other: of nines, or the only
    negative one. With it so many rows, the least and the largest of the others."""
    there = values[~np.isnan(values)]
    for value in (there.min(), there.max()) if len(there) else ():
        others = there[there != value]
        count = len(there) - len(others)
        if count < 2 or len(others) < 3:
            continue
        low, high = others.min(), others.max()
        is_of_nines = re.fullmatch(r"-9|-?99+", f"{value:.10g}") is not None
        is_far = max(low - value, value - high) >= high - low > 0
        if is_far and (is_of_nines or (value < 0 <= low and count > 2)) and ((low < others) & (others < high)).any():
            return float(value), count, float(low), float(high)
    return None


def _total_notes(table: Table, names: Sequence[str]) -> list[str]:
    """A last row with the sums of those above it, which is no sample."""
    columns = {name: column.values for name in names if isinstance(column := table.columns[name], Numbers)}
    sums = [cut(name) for name, values in columns.items() if _ends_with_its_sum(values)]
    if not sums or 2 * len(sums) < sum(values[-1] == values[-1] for values in columns.values()):
        return []
    where = "the last row" if table.lines is None else f"line {table.lines[-1]}"
    return [f"{where} holds the sums of all others ({listed(sums, 5)}). If they are totals and no sample, take it out."]


def _empty_notes(table: Table, names: Sequence[str]) -> list[str]:
    """Rows with a target and nothing else: what stands below a table in its first column, say."""
    are_empty = np.ones(table.num_rows, np.bool_)
    for name in names:
        column = table.columns[name]
        assert isinstance(column, Numbers | Words)
        are_empty &= column.missing
        if not are_empty.any():
            return []
    rows = np.flatnonzero(are_empty)
    where = f"row {rows[-1]} (counted from 0)" if table.lines is None else f"line {table.lines[rows[-1]]}"
    told = f"{where} has a target and no" if len(rows) == 1 else f"{len(rows):,} rows, the last {where}, have no"
    return [f"{told} input: all are missing. If it is a remark or a total and no sample, take it out."]


def _ends_with_its_sum(values: NDArray[np.float64]) -> bool:
    above, last = values[:-1][~np.isnan(values[:-1])], values[-1]
    if np.count_nonzero(above) < 5 or not abs(last) > np.abs(above).max():  # few numbers add up by chance
        return False
    return bool(abs(above.sum() - last) <= 1e-6 * abs(last))


def is_counting(values: NDArray[np.float64]) -> bool:
    """Whether they are whole numbers one after the other, in any order; of a few, in this order alone."""
    num_rows = len(values)
    if num_rows < 3 or abs(values.max() - values.min()) != num_rows - 1 or not float(values[0]).is_integer():
        return False
    steps = np.diff(np.sort(values) if num_rows >= FEW_ROWS else values)
    return bool(np.all(steps == steps[0]) and abs(steps[0]) == 1)


def _reasons(left_out: Mapping[str, str]) -> str:
    found = (f"{cut(name) or 'the first, without a name'} ({why})" for name, why in left_out.items())
    return listed(found, 6, letters=100)


def _left_out_notes(left_out: Mapping[str, str]) -> list[str]:
    said = {
        name: why
        for name, why in left_out.items()
        if why not in (DROPPED, GROUPING, ORDERING) and not (why == EMPTY and name.startswith("column "))
    }
    if not said:
        return []
    advice = ""
    for why, key in ((NUMBERING, "keep"), (TEXT, "categorical"), (DATES, "time")):
        if names := [name for name, reason in said.items() if reason == why and name]:
            word = typed(f"data.{key}", names[:1])
            advice = f" To take {cut(names[0])} in, type {word}."
            if why == DATES:
                advice = f" If they are written as 2021-12-31, {word} tests on the latest rows."
            break
    return [f"columns left out: {_reasons(said)}.{advice}"]


def _level_notes(columns: Sequence[Any], table: Table, max_levels: int) -> list[str]:
    many = {c.name: len(table.columns[c.name].levels) for c in columns if getattr(c, "has_other", False)}  # type: ignore[union-attr]
    if not many:
        return []
    found = listed((f"{cut(name)} ({count:,})" for name, count in many.items()), 5)
    return [
        f"of the words of {found} the {max_levels} most frequent have an input each, and the others share one "
        "(data.max_levels)."
    ]


def refuse_problems(table: Table, names: Sequence[str], wanted: Wanted) -> None:
    """One line for all columns that are neither numbers nor words, and for targets that are missing."""
    inputs = {name: column for name in names if isinstance(column := table.columns[name], Mixed)}
    found = [_problem(table, name, column) for name, column in inputs.items()]
    aims, is_missing = [], False
    for name in wanted.targets:
        column = table.columns[name]
        if isinstance(column, Mixed):
            aims.append(_problem(table, name, column))
        elif isinstance(column, Unused):
            aims.append(f"column {cut(name)} is a target and holds {column.why}")
        elif (missing := column.missing).any():
            more = f" ({int(missing.sum()):,} such rows)" if missing.sum() > 1 else ""
            aims.append(f"{table.place(int(missing.argmax()), name)}: a value is missing{more}, and is a target")
            is_missing = True
    if not found and not aims:
        return
    advice = ""
    cells = [c.cell for name in [*wanted.targets, *inputs] if isinstance(c := table.columns[name], Mixed)]
    points = [cell for cell in cells if table.decimal == "comma" and "." in cell and number(cell) is not None]
    if points:
        advice = f" If {cut(points[0])} has a decimal point, type data.decimal=point."
    elif commas := [cell for cell in cells if "," in cell and number(cell, "comma") is not None]:
        advice = f" If {cut(commas[0])} has a decimal comma, type data.decimal=comma; if it has one between thousands, "
        advice += "data.decimal=point."
    elif inputs:
        drop, words = (typed(key, list(inputs), not table.has_names) for key in ("data.drop", "data.categorical"))
        advice = _end_of_the_table(table, [table.columns[name] for name in [*wanted.targets, *inputs]])
        advice += f" Correct them, or type {drop}"
        are_words = not any(column.cell in _INFINITE for column in inputs.values())
        advice += f", or {words} if they are words." if are_words else "."
    if aims:
        advice += " Targets are all numbers, or with data.task=classification words that name classes; none is empty."
        if is_missing and names and len(wanted.targets) == 1 and wanted.targets[0] not in wanted.categorical:
            advice += " If a word such as NA or None names a class, type "
            advice += f"{typed('data.categorical', [*wanted.categorical, *wanted.targets], not table.has_names)}."
    more = f"; and {len(found) + len(aims) - 5:,} more columns" if len(found) + len(aims) > 5 else ""
    raise UserError(f"data.path={table.path}: {'; '.join([*aims, *found][:5])}{more}.{advice}")


def _end_of_the_table(table: Table, columns: Sequence[Column]) -> str:
    """What to do where all that is no number is in the first row, as units are, or in the last, as totals are."""
    found = [column for column in columns if isinstance(column, Mixed)]
    rows = {column.row for column in found}
    if any(column.count > 1 for column in found) or not (rows == {0} or rows == {table.num_rows - 1}):
        return ""
    what, row = ("units", 0) if rows == {0} else ("totals", -1)
    line = "it" if table.lines is None else f"line {table.lines[row]}"
    return f" If {line} holds {what}, take it out."


_INFINITE = ("inf", "-inf")


def _problem(table: Table, name: str, column: Mixed) -> str:
    if column.cell in _INFINITE:
        return f"{table.place(column.row, name)}: {column.count:,} of the numbers are infinite"
    more = f" ({column.count:,} such cells)" if column.count > 1 else ""
    return f"{table.place(column.row, name)}: {cut(column.cell)!r} is not a number{more}"


def targets_of(table: Table, wanted: Wanted, num_classes: int | None) -> Targets:
    where = f"data.path={table.path}"
    columns = [table.columns[name] for name in wanted.targets]
    if len(columns) > 1:
        values = [_numbers(table, name, column) for name, column in zip(wanted.targets, columns, strict=True)]
        found = meaning({"its": np.stack(values, 1)}, where, wanted.task, num_classes)
        return found if found.num_classes is None else replace(found, class_names=tuple(wanted.targets))  # one-hot
    (column,) = columns
    if isinstance(column, Words):
        if wanted.task == "multilabel":
            raise UserError(
                f"{where}: {table.place(0, wanted.targets[0])}: {cut(column.levels[column.codes[0]])!r} is a word, and "
                "several labels are columns of 0 and 1. Type data.task=classification, or give a column for each label."
            )
        if wanted.task == "regression":
            raise UserError(
                f"{where}: {table.place(0, wanted.targets[0])}: {cut(column.levels[column.codes[0]])!r} is not a "
                "number, and data.task=regression takes numbers. Type data.task=classification."
            )
        numbers = None if wanted.targets[0] in wanted.categorical else _as_numbers(column.levels, table.decimal)
        if numbers is not None:
            return meaning({"its": numbers[column.codes]}, where, "classification", num_classes)
        order = sorted(range(len(column.levels)), key=lambda code: column.levels[code])
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order))
        meant = of_words({"its": rank[column.codes]}, tuple(column.levels[i] for i in order), where, num_classes)
        if words := [level for level in meant.class_names if level.lower() in MISSING]:
            meant.notes.append(f"{listed(words)}: a class, as data.categorical has the target.")
        return meant
    assert isinstance(column, Numbers)
    if column.is_whole and wanted.task != "regression":
        if (beyond := np.abs(column.values) >= EXACT).any():
            row = int(beyond.argmax())
            raise UserError(
                f"{where}: {table.place(row, wanted.targets[0])}: {column.values[row]:.0f} has too many digits for a "
                "class that is counted. Type data.task=classification if it is a name, or data.task=regression."
            )
        return meaning({"its": column.values.astype(np.int64)}, where, wanted.task, num_classes)
    return meaning({"its": column.values}, where, wanted.task, num_classes, is_text=True)


def _as_numbers(levels: Sequence[str], decimal: str) -> NDArray[Any] | None:
    """Labels that are all numbers, int64 where they are whole; None where one is a word, or two are one number.

    With zeros in front they are words: a class is called as it is written.
    """
    if any(PADDED.fullmatch(level) for level in levels):
        return None
    if all(INTEGER.fullmatch(level) for level in levels):
        found: NDArray[Any] = np.array(levels).astype(np.int64)
    else:
        values = [number(level, decimal) for level in levels]
        if None in values:
            return None
        found = np.array(values, np.float64)
    return found if len(np.unique(found)) == len(found) else None


def _numbers(table: Table, name: str, column: Column) -> NDArray[np.float64]:
    if not isinstance(column, Numbers):
        assert isinstance(column, Words)
        raise UserError(
            f"data.path={table.path}: {table.place(0, name)}: {cut(column.levels[column.codes[0]])!r} is not a number. "
            "Several target columns are numbers."
        )
    return column.values


def rows_of_splits(
    table: Table, wanted: Wanted, split_seed: int, fractions: dict[str, float], by_class: Tensor | None
) -> tuple[dict[str, Tensor], list[str]]:
    """The rows of each split, by time, by groups or by chance; and what is to be said of their sizes.

    Args:
        fractions, by_class: as `fractions` and `labels` of `trainer.data.split.split_rows`.
    """
    if wanted.time is not None:
        refuse_folds(f"data.time={cut(wanted.time)} trains on the earliest rows, and folds would on later ones")
        times = times_of(table, wanted.time)
        parts = split_by_time(times, fractions)
        return parts, uneven(parts, fractions, times, "data.time")
    groups = groups_of(table, wanted.group) if wanted.group is not None else None
    parts = split_rows(table.num_rows, split_seed, fractions, by_class, groups)
    return parts, [] if groups is None else uneven(parts, fractions, groups, "data.group")


def groups_of(table: Table, name: str) -> NDArray[np.int64]:
    column = _splitting(table, "group", name)
    if column.missing.any():
        raise UserError(
            f"data.group={cut(name)}: {table.place(int(column.missing.argmax()), name)} is empty; each row needs a "
            "group. Fill it in, or take the row out."
        )
    return column.codes.astype(np.int64)


def _splitting(table: Table, key: str, name: str) -> Words:
    """The column by which rows fall into splits."""
    column = table.columns[name]
    if isinstance(column, Unused):  # a list in a Parquet file, say; all else is read as words
        raise UserError(
            f"data.{key}={cut(name)}: the column holds {column.why}. Type data.{key}=null, or another column."
        )
    assert isinstance(column, Words)
    return column


def times_of(table: Table, name: str) -> NDArray[np.float64]:
    """`[N]` seconds, or the numbers of the column."""
    column = _splitting(table, "time", name)
    if column.missing.any():
        place = table.place(int(column.missing.argmax()), name)
        raise UserError(f"data.time={cut(name)}: {place} is empty; each row needs a time. Take it out, or fill it in.")
    if all(map(_YEAR_AND_MONTH.fullmatch, column.levels)) and (late := [x for x in column.levels if x[-3:-1] == ".1"]):
        raise UserError(
            f"data.time={cut(name)}: {late[0]} and the like are a year and a month, and as numbers stand before "
            f"{late[0][:5]}2. Write {late[0].replace('.', '-')}-01, or type data.time=null."
        )
    found = [number(level, table.decimal) for level in column.levels]
    found = [time_of(level) for level in column.levels] if None in found else found
    if None in found:
        code = found.index(None)
        raise UserError(
            f"data.time={cut(name)}: {table.place(int((column.codes == code).argmax()), name)}: "
            f"{cut(column.levels[code])!r} is neither a number nor a date such as 2021-12-31 or 2021-12-31T09:30. "
            "Write it so, or type data.time=null."
        )
    return np.array(found, np.float64)[column.codes]
