"""Tables however they are written: what is in the file is what is read, and what can't be is said in one line."""

import csv
import io
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from refusal import says
from trainer.data import arrays, table
from trainer.data.source import Data, Samples
from trainer.data.tables.columns import Column, Numbers, Unused, Words
from trainer.data.tables.dialect import different, is_header, told_delimiter
from trainer.data.tables.read import read
from trainer.errors import UserError

NUM_ROWS = 40


def wrote(folder: Path, content: str | bytes, name: str = "t.csv", encoding: str = "utf-8") -> str:
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
    return str(folder / name)


def lines(head: str, row: Callable[[int], str], count: int = NUM_ROWS) -> str:
    return "".join(f"{line}\n" for line in [*([head] if head else []), *map(row, range(count))])


def content(column: Column) -> list[Any]:
    """A column as a list: numbers, words, None where one is missing."""
    if isinstance(column, Numbers):
        return [None if np.isnan(value) else value for value in column.values.tolist()]
    assert isinstance(column, Words)
    return [None if code < 0 else column.levels[code] for code in column.codes.tolist()]


def read_all(path: str, **how: Any) -> dict[str, list[Any]]:
    found = read(Path(path), **how).columns
    return {name: content(column) for name, column in found.items() if not isinstance(column, Unused)}


def whole(data: Data) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and targets of all splits, in the order of their first column."""
    splits = [data.train, data.val, data.test]
    assert all(isinstance(split, Samples) for split in splits)
    inputs, targets = (torch.cat([getattr(split, part) for split in splits]) for part in ("inputs", "targets"))
    order = inputs[:, 0].argsort()
    return inputs[order], targets[order]


# --- how tables are written ----------------------------------------------------------------------------------------

FLOWERS = {
    "names": ("a,b,species\n1,2,rose\n3.5,-4e0,iris\n", ["species"]),
    "number": ("a,b,species\n1,2,rose\n3.5,-4e0,iris\n", [2]),
    "from the end": ("a,b,species\n1,2,rose\n3.5,-4e0,iris\n", -1),
    "no names": ("1,2,rose\n3.5,-4e0,iris\n", [2]),
    "all texts above": ("x,y,rose\n1,2,rose\n3.5,-4e0,iris\n", ["rose"]),
    "numbers as names": ("0,1,species\n1,2,rose\n3.5,-4e0,iris\n", ["species"]),
    "spaces, quotes and blank lines": ('"a", b,species\r\n\r\n 1 ,"2",rose\r\n3.5,-4e0, iris\r\n,,\r\n', ["species"]),
    "blank lines above": ("\n\na,b,species\n1,2,rose\n3.5,-4e0,iris\n", ["species"]),
    "semicolons": ("a;b;species\n1;2;rose\n3.5;-4e0;iris\n", ["species"]),
    "tabs": ("a\tb\tspecies\n1\t2\trose\n3.5\t-4e0\tiris\n", ["species"]),
    "bars": ("a|b|species\n1|2|rose\n3.5|-4e0|iris\n", ["species"]),
    "carets": ("a^b^species\n1^2^rose\n3.5^-4e0^iris\n", ["species"]),
    "colons": ("a:b:species\n1:2:rose\n3.5:-4e0:iris\n", ["species"]),
    "blanks": ("  a  b   species\n  1 2  rose\n3.5   -4e0 iris\n", ["species"]),
    "byte order mark": ("\ufeffa,b,species\n1,2,rose\n3.5,-4e0,iris\n", ["species"]),
    "other order": ("species,a,b\nrose,1,2\niris,3.5,-4e0\n", ["species"]),
    "sep=": ("sep=;\na;b;species\n1;2;rose\n3.5;-4e0;iris\n", ["species"]),
    "sep= in quotes": ('"sep=|"\na|b|species\n1|2|rose\n3.5|-4e0|iris\n', ["species"]),
    "decimal commas": ("a;b;species\n1,0;2;rose\n3,5;-4e0;iris\n", ["species"]),
    "decimal commas in quotes": ('a,b,species\n"1,0",2,rose\n"3,5",-4e0,iris\n', ["species"]),
    "commas in names": ('"a, m";"b, m";species\n1;2;rose\n3.5;-4e0;iris\n', ["species"]),
    "old line ends": ("a,b,species\r1,2,rose\r3.5,-4e0,iris\r", ["species"]),
    "numpy.savetxt's header": ("# a,b,species\n1,2,rose\n3.5,-4e0,iris\n", ["species"]),
    "remarks above": ("# by me\n# on a Monday, late\na,b,species\n1,2,rose\n3.5,-4e0,iris\n", ["species"]),
    "a title above": ("Flowers of 2024\na,b,species\n1,2,rose\n3.5,-4e0,iris\n", ["species"]),
    "titles of a spreadsheet": ("Flowers;;\nby me;2024;\n;;\na;b;species\n1;2;rose\n3,5;-4e0;iris\n", ["species"]),
    "remarks of other programs": ("%% by me\n// on a Monday\na,b,species\n1,2,rose\n3.5,-4e0,iris\n", ["species"]),
    "row names of R": ('"a","b","species"\n"x",1,2,"rose"\n"y",3.5,-4e0,"iris"\n', ["species"]),
    "delimiters behind rows": ("a;b;species\n1;2;rose;\n3.5;-4e0;iris;\n", ["species"]),
    "delimiters behind": ("a;b;species;;\n1;2;rose;;\n3.5;-4e0;iris;;\n", ["species"]),
}


@pytest.mark.parametrize(("text", "targets"), FLOWERS.values(), ids=FLOWERS.keys())
def test_a_table_is_read_however_it_is_written(tmp_path: Path, text: str, targets: Any) -> None:
    path = wrote(tmp_path, text)
    config = OmegaConf.create({"targets": targets})  # lists arrive as OmegaConf's own
    wanted = table.Wanted(Path(path), config.targets, "auto")
    found = read(Path(path), wanted.choose, called=wanted.called)
    assert [content(found.columns[name]) for name in wanted.targets] == [["rose", "iris"]]
    columns = [content(column) for column in found.columns.values() if isinstance(column, Numbers)]
    assert columns == [[1, 3.5], [2, -4]]


ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-32", "cp1252"]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_letters_are_read_as_spreadsheets_write_them(tmp_path: Path, encoding: str) -> None:
    path = wrote(tmp_path, "größe;fläche\n1;weiß\n2;grün\n3;grün\n", encoding=encoding)
    found = read(Path(path))
    assert {name: content(column) for name, column in found.columns.items()} == {
        "größe": [1, 2, 3],
        "fläche": ["weiß", "grün", "grün"],
    }
    assert ["Windows-1252" in note for note in found.notes] == [True] * (encoding == "cp1252")


def test_an_encoding_can_be_said(tmp_path: Path) -> None:
    path = wrote(tmp_path, "a,b\n1,жук\n2,лук\n3,лук\n", encoding="cp1251")
    assert read_all(path, encoding="cp1251")["b"] == ["жук", "лук", "лук"]
    says(
        read,
        "data.encoding=none such: nobody knows it. Type data.encoding=utf-8.",
        path=Path(path),
        encoding="none such",
    )


@pytest.mark.parametrize("seed", range(40))
def test_numbers_and_words_survive_any_way_of_writing(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    delimiter, decimal = draw.choice(",;\t|"), draw.choice(".,")
    rows = draw.choice([8, 30, 700])
    numbers = [[draw.choice([draw.gauss(0, 1), draw.randint(-9, 9), draw.gauss(0, 1e9), 1e-9]) for _ in range(rows)]]
    for _ in range(draw.randint(0, 4)):
        numbers.append([draw.uniform(-1, 1) * 10 ** draw.randint(-5, 5) for _ in range(rows)])
    words = [draw.choice(["red", "a b", "x, y", "u; v", 'say "hi"', "two\nlines", "weiß", ""]) for _ in range(rows)]
    words[:3] = ["red", "weiß", "a b"]
    quoting = draw.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
    # Python's writer doesn't quote a line break that ends no line.
    ends = ["\n", "\r\n", "\r"] if quoting == csv.QUOTE_ALL else ["\n", "\r\n"]
    stream = io.StringIO()
    writer = csv.writer(stream, delimiter=delimiter, quoting=quoting, lineterminator=draw.choice(ends))
    names = [draw.choice(["größe", "b 1", "c, cm", "d"]) + str(i) for i in range(len(numbers) + 1)]
    if draw.random() < 0.7:
        writer.writerow(names)
    else:
        names = [str(i) for i in range(len(names))]
    for *cells, word in zip(*numbers, words, strict=True):
        writer.writerow([*(f"{float(cell)!r}".replace(".", decimal) for cell in cells), word])
    encoding = draw.choice(["utf-8", "utf-8-sig", "utf-16", "cp1252"])
    (tmp_path / "t.csv").write_bytes(stream.getvalue().encode(encoding))
    expected = dict(zip(names, [*numbers, [" ".join(word.split()) or None for word in words]], strict=True))
    assert read_all(str(tmp_path / "t.csv")) == expected


NUMBERS = {  # cells, and what they are: with a comma as decimal sign, with a point
    "1,5 0,25": ("comma", [1.5, 0.25]),
    "1.5 0.25": ("point", [1.5, 0.25]),
    "1.234,5 2.000,0": ("comma", [1234.5, 2000]),
    "1,234.5 2,000.0": ("point", [1234.5, 2000]),
    "1,234,567 2,000,000": ("point", [1234567, 2000000]),
    "1.234.567 2.000": ("comma", [1234567, 2000]),
    "12.345.678 2,000": ("comma", [12345678, 2]),
    "-0,125 +3,75": ("comma", [-0.125, 3.75]),
    "1'234.5 2'000.25": ("point", [1234.5, 2000.25]),
    "1\u00a0234,5 2\u202f000,25": ("comma", [1234.5, 2000.25]),
    "1\u2009234,5 2\u2009000,25": ("comma", [1234.5, 2000.25]),
    "1\u2019234.5 2\u2019000.25": ("point", [1234.5, 2000.25]),
    "\u22121,5 \u22120,25": ("comma", [-1.5, -0.25]),
    "\u22121.5e\u22121 3.5": ("point", [-0.15, 3.5]),
    "1,5e3 2,25E-1": ("comma", [1500, 0.225]),
    "10 20": ("point", [10, 20]),
}


@pytest.mark.parametrize(("cells", "found"), NUMBERS.items())
def test_the_decimal_sign_is_noticed(tmp_path: Path, cells: str, found: tuple[str, list[float]]) -> None:
    a, b = cells.split(" ")
    decimal, numbers = found
    for how in ({}, {"decimal": decimal}):
        assert read_all(wrote(tmp_path, f"x;y\n{a};1\n{b};2\n"), **how)["x"] == numbers


@pytest.mark.parametrize(
    ("cells", "parts"),
    [
        (
            "1,500 2,250",
            ("1,500 may have a decimal comma or a comma between", "data.decimal=comma or data.decimal=point"),
        ),
        ("1,5 2.5", ("with a decimal comma (1,5) and with a decimal point (2.5)",)),
        ("1.234,5 1,234.5", ("with a decimal comma (1.234,5) and with a decimal point (1,234.5)",)),
    ],
)
def test_a_decimal_sign_that_may_be_either_is_asked_for(tmp_path: Path, cells: str, parts: tuple[str, ...]) -> None:
    a, b = cells.split(" ")
    path = wrote(tmp_path, f"x;y\n{a};1\n{b};2\n")
    says(read, f"data.path={path}", *parts, path=Path(path))


def test_a_decimal_sign_that_may_be_either_can_be_said(tmp_path: Path) -> None:
    path = wrote(tmp_path, "x;y\n1,500;1\n2,250;2\n")
    assert read_all(path, decimal="comma")["x"] == [1.5, 2.25]
    assert read_all(path, decimal="point")["x"] == [1500, 2250]


def test_points_beside_semicolons_that_may_stand_between_thousands_are_said(tmp_path: Path) -> None:
    path = wrote(tmp_path, "x;y\n1.500;1\n2.250;2\n")
    (note,) = read(Path(path)).notes
    assert "1.500 and its like are read with a decimal point" in note
    assert note.endswith("type data.decimal=comma.")
    assert read_all(path)["x"] == [1.5, 2.25]
    assert read_all(path, decimal="comma")["x"] == [1500, 2250]
    for told in ("x;y\n1.500;1\n2.2;2\n", "x;y\n1.500;1,5\n2.250;2\n", "x,y\n1.500,1\n2.250,2\n"):
        assert read(Path(wrote(tmp_path, told))).notes == []


def test_a_title_is_told_from_rows(tmp_path: Path) -> None:
    """What is passed over is said, and lines are counted from the top."""
    title = "by me,\n\na,b,kind\n"
    found = read(Path(wrote(tmp_path, f"{title}1,2,x\n3,4,y\n")), called=["kind", "a"])
    assert found.notes == ["lines 1 to 2 stand above the names of the columns, and no row is there."]
    assert found.lines is not None
    assert found.lines.tolist() == [4, 5]
    for rows in ("1,2,x\n3,4,kind\n5,6,z\n", "1,2,x\n1,b,kind\n5,6,z\n"):  # a word of a column called so
        assert read(Path(wrote(tmp_path, rows)), called=["kind"]).num_rows == 3


@pytest.mark.parametrize("title", ["kind\n", "kind,,\n", "The kind of it\n\n", "kind,2024,\n,,\n", "kind of a\n"])
def test_a_title_may_hold_the_name_of_a_column(tmp_path: Path, title: str) -> None:
    """Its words were taken for the names: with words in all columns the first one became the target without a line."""
    table_ = lines("a,b,kind", lambda i: f"{'xyz'[i % 3]},{'uv'[i % 2]},{'pqpr'[i % 4]}")
    data = table.load(wrote(tmp_path, title + table_), ["kind"])
    assert data.class_names == ("p", "q", "r")
    assert data.recipe.names == ["a=x", "a=y", "a=z", "b=u", "b=v"]  # type: ignore[union-attr]
    assert "above the names of the columns" in data.notes[0]
    decimals = lines("a;b;kind", lambda i: f"1.0{i % 90:02},25;0,5;{'pqpr'[i % 4]}")
    assert table.load(wrote(tmp_path, title.replace(",", ";") + decimals), ["kind"]).class_names == ("p", "q", "r")
    assert len(data.rows["train"]) + len(data.rows["val"]) + len(data.rows["test"]) == 40


@pytest.mark.parametrize("cell", ["{}.5 kg", "{}.5kg", "{} mg/l", "({}.5)", "{}.5-", "{}.5D+03", "{},5 \u00b5m"])
def test_numbers_with_something_beside_them_are_no_texts(tmp_path: Path, cell: str) -> None:
    path = wrote(tmp_path, lines("a;b;y", lambda i: f"{cell.format(i)};{i * i};{i % 2}"))
    says(
        table.load, "line 2, column a: '", "is not a number (40 such cells)", "data.drop=[a]", path=path, targets=["y"]
    )
    assert table.load(path, ["y"], drop=["a"]).recipe.names == ["b"]  # type: ignore[union-attr]


def test_a_last_row_of_sums_is_said(tmp_path: Path) -> None:
    def rows(i: int) -> str:
        return f"{'uvw'[i % 3]},{i * i},{i}.25"

    notes = table.load(wrote(tmp_path, lines("a,b,y", rows) + "Total,20540,790\n"), ["y"]).notes
    assert any("line 42 holds the sums of all others (b, y)." in note for note in notes)
    for last in ("u,20541,790.5", "u,,", "u,1600,40.25"):
        path = wrote(tmp_path, lines("a,b,y", rows) + (f"{last}\n" if last != "u,," else ""))
        assert not any("sums" in note for note in table.load(path, ["y"]).notes)


def test_a_row_without_inputs_is_said(tmp_path: Path) -> None:
    """A remark below the table, in the column of the target, was a class of its own without a line."""
    rows = lines("kind,a,b", lambda i: f"{'uv'[i % 2]},{i % 5},{'xyz'[i % 3]}")
    for below, said in (
        ("Source: lab 3,,\n", "line 42 has a target and no input: all are missing. If it is a remark"),
        (",,\nby,,\nme,,n/a\n", "2 rows, the last line 44, have no input: all are missing."),
    ):
        notes = table.load(wrote(tmp_path, rows + below), ["kind"]).notes
        assert any(note.startswith(said) for note in notes)
    assert not any("input" in note for note in table.load(wrote(tmp_path, rows + "u,,x\n"), ["kind"]).notes)


@pytest.mark.parametrize(("line", "what"), [(2, "units"), (42, "totals")])
def test_units_and_totals_are_told_where_they_stand(tmp_path: Path, line: int, what: str) -> None:
    rows = lines("a,b,y", lambda i: f"{i}.5,{i * i},{i % 2}").splitlines()
    whole = [*rows[: line - 1], "[m],[kg],1" if what == "units" else "Total,20,20", *rows[line - 1 :]]
    says(
        table.load, f"If line {line} holds {what}, take it out.", path=wrote(tmp_path, "\n".join(whole)), targets=["y"]
    )
    assert len(table.load(wrote(tmp_path, "\n".join(rows)), ["y"]).rows["train"]) == 28


def test_a_decimal_sign_that_was_said_and_is_another(tmp_path: Path) -> None:
    path = wrote(tmp_path, lines("x,y", lambda i: f"{i}{'.25' * (i % 2)},{i % 2}"))
    asked: dict[str, Any] = {"path": path, "targets": ["y"]}
    message = says(table.load, "line 3, column x: '1.25' is not a number (20 such cells)", **asked, decimal="comma")
    assert message.endswith("If 1.25 has a decimal point, type data.decimal=point.")
    assert table.load(**asked, decimal="point").recipe.names == ["x"]  # type: ignore[union-attr]


def test_a_comma_below_the_first_lines_is_not_guessed(tmp_path: Path) -> None:
    """1,050 is 1050 or 1.05: no line before it tells which."""
    path = wrote(tmp_path, lines("a;y", lambda i: f"{i};{i % 2}", 300) + "1,050;1\n")
    says(lambda: table.load(path, ["y"]), "line 302", "1,050", "type data.decimal=comma", "data.decimal=point")
    for decimal, value in (("comma", 1.05), ("point", 1050)):
        assert read_all(path, decimal=decimal)["a"][-1] == value
    told = wrote(tmp_path, lines("a;b;y", lambda i: f"{i};{i}.5;{i % 2}", 300) + "1,050;0;1\n")
    assert read_all(told)["a"][-1] == 1050


def test_names_that_stand_again_are_no_rows(tmp_path: Path) -> None:
    """As of files that were put together."""
    for once in ("a,b,kind\n1,2,x\n3,4,y\n", "a,b,kind\np,s,x\nq,t,y\n"):
        table_of = read(Path(wrote(tmp_path, once * 3)), called=["kind"])
        assert {name: len(content(column)) for name, column in table_of.columns.items()} == dict.fromkeys(
            ("a", "b", "kind"), 6
        )
        assert content(table_of.columns["kind"]) == ["x", "y"] * 3
        assert table_of.lines is not None
        assert table_of.lines.tolist() == [2, 3, 5, 6, 8, 9]
        (note,) = table_of.notes
        assert "stand again in 2 lines, such as line 4;" in note


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_a_word_is_one_however_its_accents_are_written(suffix: str, tmp_path: Path) -> None:
    """macOS writes the dots of an umlaut as a letter of their own. Of a class, and of an input."""
    words = ["\u00c4pfel", "A\u0308pfel", "Birnen"]
    rows: list[dict[str, Any]] = [{"a": NOISE[i][0], "town": words[i % 2], "kind": words[i % 3]} for i in range(30)]
    path = tmp_path / f"t.{suffix}"
    if suffix == "parquet":
        pytest.importorskip("pyarrow.parquet").write_table(pytest.importorskip("pyarrow").Table.from_pylist(rows), path)
    elif suffix == "jsonl":
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    else:
        path.write_text(
            "a,town,kind\n" + "".join(f"{a},{b},{c}\n" for a, b, c in (row.values() for row in rows)), "utf-8"
        )
    data = table.load(path, ["kind"])
    assert data.class_names == ("Birnen", "\u00c4pfel")
    assert data.train.inputs.shape[1] == 2  # a, town=Äpfel


def test_classes_that_differ_in_capitals_alone_are_said(tmp_path: Path) -> None:
    path = wrote(tmp_path, lines("a,kind", lambda i: f"{NOISE[i][0]:.3f},{('Cat', 'cat', 'dog')[i % 3]}"))
    assert table.load(path, ["kind"]).notes == ("Cat, cat are classes of their own. If they are one, write all alike.",)


def test_python_s_own_numbers_are_none_here(tmp_path: Path) -> None:
    """`float` takes 1_0 for 10."""
    assert read_all(wrote(tmp_path, "x,y\n1_0,1\n2_0,2\n3_0,3\n"))["x"] == ["1_0", "2_0", "3_0"]


@pytest.mark.parametrize("missing", ["", " ", "NA", "n/a", "NaN", "null", "None", "?", "-", "#N/A", "."])
def test_what_stands_for_a_missing_value(tmp_path: Path, missing: str) -> None:
    path = wrote(tmp_path, f"x,y,z\n1,red,5\n{missing},{missing},6\n3,blue,7\n4,red,8\n")
    assert read_all(path) == {"x": [1, None, 3, 4], "y": ["red", None, "blue", "red"], "z": [5, 6, 7, 8]}


HEADERS = {
    "a,b,c": ("1,2,3", True),
    "a,b,1990": ("1,2,3", True),
    ",a,b": ("0,1.5,x", True),
    ",0,1,2": ("0,1.5,2.5,3.5", True),
    "0,1,2,3": ("1.5,2.5,3.5,0", True),
    "400,410,420,430": ("0.1,0.2,0.4,1", True),
    "1990,1991,region": ("0.5,0.6,north", True),
    "0,1": ("0.5,0.6", True),
    "cap,odour,class": ("flat,foul,edible", True),
    "5.1,3.5,setosa": ("4.9,3.1,setosa", False),
    "1,2,3": ("4,5,6", False),
    "0,1,2,3": ("1,2,3,4", False),  # noqa: F601
    "7,1,0": ("3,1,2", False),
    "flat,foul,edible": ("flat,foul,edible", False),
    "1,,3": ("4,5,6", False),
}


@pytest.mark.parametrize(
    ("first", "below", "is_one"), [(first, below, is_one) for first, (below, is_one) in HEADERS.items()]
)
def test_a_line_of_names_is_told_from_a_row(first: str, below: str, is_one: bool) -> None:
    assert is_header(first.split(","), [below.split(",")] * 6) == is_one


def test_a_header_of_numbers_is_said_and_can_be_denied(tmp_path: Path) -> None:
    path = wrote(tmp_path, lines("0,1,2,3", lambda i: f"{i}.5,{i}.25,{i}.75,{i % 2}"))
    data = table.load(path, targets=[-1])
    assert sum(map(len, (data.train, data.val, data.test))) == NUM_ROWS
    assert "the first line (0, 1, 2, 3) is taken for the names of the columns" in data.notes[0]
    assert data.notes[0].endswith("type data.header=false.")
    rows = table.load(path, targets=[-1], header=False, task="regression")
    assert sum(map(len, (rows.train, rows.val, rows.test))) == NUM_ROWS + 1
    says(table.load, "data.header=perhaps: must be auto, true or false", path=path, targets=[-1], header="perhaps")


def test_a_name_and_a_number_that_mean_different_columns_are_told_apart(tmp_path: Path) -> None:
    path = wrote(tmp_path, lines("x,2,1,0", lambda i: f"{i}.5,{i}.25,{i}.75,{i % 2}"))
    says(table.load, "the name of one column", "another, x. Type 'data.targets=[\"0\"]'", path=path, targets=[0])
    assert table.load(path, targets=["0"]).num_classes == 2
    years = wrote(tmp_path, lines("1990,1991,1992,1993", lambda i: f"{i}.5,{i}.25,{i}.75,{i % 2}"))
    assert table.load(years, targets=[1993]).recipe.targets == ("1993",)


@pytest.mark.parametrize("name", [lambda i: i + 1, lambda i: f"row {i}"])
def test_row_names_of_r_are_said(tmp_path: Path, name: Callable[[int], object]) -> None:
    path = wrote(tmp_path, lines("a b y", lambda i: f'"{name(i)}" {NOISE[i][0]:.3f} {i}.5 {i % 2}'))
    data = table.load(path, targets=["y"])
    assert data.recipe.names == ["a", "b"]
    assert data.notes[0].startswith("the first line has a name less than the others have cells")


def test_columns_of_one_name_are_numbered() -> None:
    assert different(["a", "b", "a", "", ""]) == ["a.1", "b", "a.2", "column 3", "column 4"]
    assert different(["", "a", "a", "a.1"]) == ["", "a.2", "a.3", "a.1"]


def test_a_delimiter_within_words_cuts_nothing() -> None:
    assert told_delimiter(["name;age", "Doe, J.;1", "Roe, R.;2"]) == "semicolon"
    assert told_delimiter(["name,age", "a b c,1", "d e,2"]) == "comma"
    assert told_delimiter(["when,age", "2024-01-01 10:00,1", "2024-01-02 11:00,2"]) == "comma"
    assert told_delimiter(["1, 2, 3", "4, 5, 6"]) == "comma"
    assert told_delimiter(["1  2 3", "4 5  6"]) == "blanks"
    assert told_delimiter(["1,5;2;3,5", "2,5;3;4,5"]) == "semicolon"


def test_a_cell_may_have_lines_of_its_own(tmp_path: Path) -> None:
    path = wrote(tmp_path, 'x,y,k\n1,"two\nlines",a\n2,"two\nlines",b\n3,one,b\n4,oops,c\n5,one,\n')
    found = read(Path(path))
    assert found.lines is not None
    assert found.lines.tolist() == [2, 4, 6, 7, 8]
    says(table.load, "line 8, column k: a value is missing", path=path, targets=["k"])


def test_blocks_of_rows_are_put_together(tmp_path: Path) -> None:
    """A column whose first rows are empty is told by later ones, and words keep their numbers."""
    rows = 3000
    late = [f"{i}" if i > 2000 else "" for i in range(rows)]
    words = [f"w{i % 7}" if i > 1500 else "" for i in range(rows)]
    text = "n,late,words\n" + "".join(f"{i},{a},{b}\n" for i, (a, b) in enumerate(zip(late, words, strict=True)))
    found = read_all(wrote(tmp_path, text))
    assert found["n"] == list(range(rows))
    assert found["late"] == [float(cell) if cell else None for cell in late]
    assert found["words"] == [cell or None for cell in words]


# --- columns that number the rows ----------------------------------------------------------------------------------

NOISE = np.random.default_rng(0).normal(size=(NUM_ROWS, 2)).tolist()


def noise(head: str, index: Callable[[int], object]) -> str:
    return lines(head, lambda i: f"{index(i)},{NOISE[i][0]:.3f},{NOISE[i][1]:.3f},{'xyz'[i * 3 // NUM_ROWS]}")


INDICES = {
    "pandas": (",a,b,kind", lambda i: i),
    "pandas, read again": ("Unnamed: 0,a,b,kind", lambda i: i),
    "pandas, read again twice": ("Unnamed: 0.1,a,b,kind", lambda i: i * 7 % NUM_ROWS),
    "floats, and one missing": ("id,a,b,kind", lambda i: "" if i == 7 else f"{i}.0"),
    "more digits than a float holds": ("account_id,a,b,kind", lambda i: 2**60 + i),
    "a spreadsheet": ("No.,a,b,kind", lambda i: i + 1),
    "shuffled": (",a,b,kind", lambda i: i * 7 % NUM_ROWS),
    "filtered": ("index,a,b,kind", lambda i: 3 * i + 5),
    "an id": ("PassengerId,a,b,kind", lambda i: i + 1),
    "another": ("customer_id,a,b,kind", lambda i: 90_000 + 13 * i),
    "capitals": ("ID,a,b,kind", lambda i: i),
    "codes": ("code,a,b,kind", lambda i: f"A-{i:05}"),
}


@pytest.mark.parametrize(("head", "index"), INDICES.values(), ids=INDICES.keys())
def test_a_column_that_numbers_the_rows_is_left_out_and_named(
    tmp_path: Path, head: str, index: Callable[[int], object]
) -> None:
    data = table.load(wrote(tmp_path, noise(head, index)), targets=["kind"])
    assert data.recipe.names == ["a", "b"]
    (note,) = data.notes
    assert note.startswith(f"columns left out: {head.partition(',')[0] or 'the first, without a name'} (")


def test_it_is_taken_in_where_that_is_asked_for(tmp_path: Path) -> None:
    path = wrote(tmp_path, noise("id,a,b,kind", lambda i: i))
    assert "type data.keep=[id]" in table.load(path, targets=["kind"]).notes[0]
    assert "type data=table data.keep=[id]" in arrays.load(path, targets=["kind"]).notes[0]
    kept = table.load(path, targets=["kind"], keep=["id"])
    assert kept.recipe.names == ["id", "a", "b"]
    assert kept.notes == ()


def test_a_column_that_counts_is_said_wherever_it_stands_and_in_any_order(tmp_path: Path) -> None:
    def rows(step: int) -> str:
        return lines("a,kind,sample", lambda i: f"{NOISE[i][0]:.3f},{'xy'[i % 2]},{step * (7 * i % NUM_ROWS) + 3}")

    said = "column sample counts the rows, from 3 to 42, and is an input."
    assert table.load(wrote(tmp_path, rows(1)), targets=["kind"]).notes[0].startswith(said)
    assert table.load(wrote(tmp_path, rows(2)), targets=["kind"]).notes == ()  # not one after the other


@pytest.mark.parametrize("head", ["day,a,b,kind", "n,a,b,kind", ""])
def test_a_column_that_counts_under_another_name_is_kept_and_said(tmp_path: Path, head: str) -> None:
    data = table.load(wrote(tmp_path, noise(head, lambda i: i + 1)), targets=[-1])
    assert data.train.inputs.shape[1] == 3
    name = head.partition(",")[0] or "0"
    assert data.notes == (
        f"column {name} counts the rows, from 1 to 40, and is an input. If it is no more than that, type "
        f"data.drop=[{name}].",
    )
    assert table.load(wrote(tmp_path, noise(head, lambda i: i + 1)), targets=[-1], drop=[0]).notes == ()


STAND_INS = {
    "-999 among measurements": (lambda i: -999 if i % 5 == 0 else i / 7, "-999 in 8 rows, and 0.142857 to 5.57143"),
    "99 among answers": (lambda i: 99 if i % 10 == 0 else i % 5, "99 in 4 rows, and 0 to 4"),
    "-200 of an instrument": (lambda i: -200 if i % 4 == 0 else i * 1.5, "-200 in 10 rows, and 1.5 to 58.5"),
    "beside gaps": (lambda i: "" if i % 3 == 0 else -9999 if i % 5 == 0 else i, "-9999 in 5 rows, and 1 to 38"),
    "-9 among temperatures": (lambda i: -9 if i % 5 == 0 else i - 20, None),
    "99 among percents": (lambda i: 99 if i % 10 == 0 else i + 60, None),
    "once": (lambda i: -999 if i == 7 else i / 7, None),
    "a flag": (lambda i: -99 if i % 2 else 1, None),
}


@pytest.mark.parametrize(("cell", "said"), STAND_INS.values(), ids=STAND_INS.keys())
def test_numbers_that_stand_for_missing_values_are_said(
    tmp_path: Path, cell: Callable[[int], object], said: str | None
) -> None:
    path = wrote(tmp_path, lines("x,z,y", lambda i: f"{NOISE[i][0]:.3f},{cell(i)},{i % 2}"))
    found = [note for note in table.load(path, targets=["y"]).notes if "may stand for missing values" in note]
    assert len(found) == (said is not None)
    assert said is None or f"z ({said} in all others). If they do, leave their cells empty." in found[0]
    if cell(0) != "":
        notes = table.load(path, targets=["z"], task="regression").notes
        assert [note for note in notes if "may stand for missing values" in note] == found


def test_an_array_s_column_that_counts_the_rows_is_said(tmp_path: Path) -> None:
    index = np.arange(NUM_ROWS)[:, None]
    shuffled = 1 + index * 7 % NUM_ROWS
    for inputs, said in (
        (np.hstack([index + 1, NOISE]), [0]),
        (np.hstack([NOISE, shuffled]), [2]),
        (np.hstack([NOISE, 2 * index]), []),
        (index, []),
    ):
        np.savez(tmp_path / "t.npz", inputs=inputs, targets=index[:, 0] % 3)
        notes = arrays.load(str(tmp_path / "t.npz")).notes
        assert [note.partition(".")[0] for note in notes] == [
            f"column {column} of the inputs counts the rows, from 1 to 40" for column in said
        ]


def test_ids_that_come_again_and_lonely_indices_are_inputs(tmp_path: Path) -> None:
    again = wrote(tmp_path, noise("id,a,b,kind", lambda i: i // 2))
    assert table.load(again, targets=["kind"]).recipe.names == ["id", "a", "b"]
    lonely = wrote(tmp_path, lines("id,y", lambda i: f"{i},{i % 2}"))
    assert table.load(lonely, targets=["y"]).recipe.names == ["id"]


# --- targets -------------------------------------------------------------------------------------------------------

LABELS = {
    "0 1": ("auto", 2, ()),
    "0.0 1.0": ("auto", 2, ()),
    "0.0 1.0 2.0": ("auto", 3, ()),
    "1 2 3": ("auto", 3, ("1", "2", "3")),
    "1.0 2.0": ("auto", 2, ("1", "2")),
    "-1 1": ("auto", 2, ("-1", "1")),
    "10 20 40": ("auto", 3, ("10", "20", "40")),
    "0 2 3": ("auto", 3, ("0", "2", "3")),
    "no yes": ("auto", 2, ("no", "yes")),
    "b a": ("auto", 2, ("a", "b")),
    "True False": ("auto", 2, ()),
    "0.5 1.0": ("auto", None, ()),
    "0.0 1.0 ": ("regression", None, ()),
    "0 1 ": ("regression", None, ()),
    "1 yes": ("classification", 2, ("1", "yes")),
    "01 1": ("classification", 2, ("01", "1")),
    "001 010": ("classification", 2, ("001", "010")),
    "3 5": ("classification", 2, ("3", "5")),
}


@pytest.mark.parametrize(("cells", "found"), LABELS.items())
def test_labels_are_counted_from_0_and_keep_their_names(
    tmp_path: Path, cells: str, found: tuple[str, int | None, tuple[str, ...]]
) -> None:
    task, num_classes, names = found
    labels = cells.split()
    path = wrote(tmp_path, lines("x,y", lambda i: f"{i}.5,{labels[i % len(labels)]}"))
    data = table.load(path, targets=["y"], task=task)
    assert data.num_classes == num_classes
    assert data.class_names == data.recipe.class_names == names
    _, targets = whole(data)
    if num_classes:
        assert targets.dtype == torch.int64
        of_labels = [names.index(label.removesuffix(".0")) for label in labels] if names else None
        assert targets.tolist() == [
            (of_labels or targets[: len(labels)].tolist())[i % len(labels)] for i in range(NUM_ROWS)
        ]
        assert set(targets.tolist()) == set(range(num_classes))
    else:
        assert targets.flatten().tolist() == [float(labels[i % len(labels)]) for i in range(NUM_ROWS)]


def test_labels_that_are_numbered_anew_are_said(tmp_path: Path) -> None:
    data = table.load(wrote(tmp_path, lines("x,y", lambda i: f"{i}.5,{i % 3 + 1}")), targets=["y"])
    assert data.notes == ("the labels 1, 2, 3 are 3 classes, numbered from 0 in this order.",)
    data = table.load(wrote(tmp_path, lines("x,y", lambda i: f"{i}.5,{i % 2}.0")), targets=["y"])
    assert "written as fractions" in data.notes[0]
    assert data.notes[0].endswith("Type data.task=regression if they are numbers.")


BAD_LABELS = {
    "1e30": ("classification", ("1e+30 in row 1 is no class", "Try data.task=regression")),
    "inf": ("auto", ("line 3, column y: 20 of the numbers are infinite",)),
    "1e400": ("classification", ("inf in row 1 is no class",)),
    "0.5": ("classification", ("0.5 in row 1 is no class",)),
    "9007199254740993": ("auto", ("has too many digits for a class", "Type data.task=classification")),
    "nan": ("auto", ("line 3, column y: a value is missing (20 such rows), and is a target",)),
    "yes": ("auto", ("line 3, column y: 'yes' is not a number (20 such cells)", "data.task=classification")),
    "b\n9.5,a": (
        "multilabel",
        ("line 2, column y: '0' is a word, and several labels", "Type data.task=classification"),
    ),
}


@pytest.mark.parametrize(("cell", "found"), BAD_LABELS.items())
def test_what_is_no_label(tmp_path: Path, cell: str, found: tuple[str, tuple[str, ...]]) -> None:
    task, parts = found
    path = wrote(tmp_path, lines("x,y", lambda i: f"{i}.5,{cell if i % 2 else 0}"))
    says(table.load, *parts, path=path, targets=["y"], task=task)


def test_names_of_many_digits_are_classes_where_that_is_said(tmp_path: Path) -> None:
    path = wrote(tmp_path, lines("x,y", lambda i: f"{i}.5,{9007199254740993 + i % 2}"))
    for how in ({"categorical": ["y"]}, {"task": "classification"}):
        found = table.load(path, ["y"], **how)  # type: ignore[arg-type]
        assert found.class_names == ("9007199254740993", "9007199254740994")


def test_words_for_a_missing_value_are_classes_where_that_is_said(tmp_path: Path) -> None:
    words = ["NA", "None", "b"]
    path = wrote(tmp_path, lines("x,y", lambda i: f"{i}.5,{words[i % 3]}"))
    message = says(table.load, "line 2, column y: a value is missing (27 such rows)", path=path, targets=["y"])
    assert message.endswith("If a word such as NA or None names a class, type data.categorical=[y].")
    data = table.load(path, targets=["y"], categorical=["y"])  # as the line says
    assert data.class_names == ("NA", "None", "b")
    assert whole(data)[1].tolist() == [i % 3 for i in range(NUM_ROWS)]
    assert data.notes == ("NA, None: a class, as data.categorical has the target.",)
    gap = wrote(tmp_path, lines("x,y", lambda i: f"{i}.5,{words[i % 3] if i != 4 else ''}"))
    says(table.load, "line 6, column y: a value is missing", path=gap, targets=["y"], categorical=["y"])


@pytest.mark.parametrize("late", [0, 600])
def test_zeros_in_front_of_numbers_are_said(tmp_path: Path, late: int) -> None:
    """Postal codes lose theirs as numbers, and 001e1 is 10: in the first rows, and below, which are read otherwise."""
    rows = lines("zip,code,hour,x,y", lambda i: f"{i % 9 * 1111:05d},{i % 7 + 1:03d}e1,{i % 24}.05,{i}.5,{i % 2 + 1}")
    plain = lines("", lambda i: f"{i % 9 + 1},{i % 7},{i % 24}.05,{i}.5,{i % 2 + 1}", late)
    head, _, below = rows.partition("\n")
    path = wrote(tmp_path, f"{head}\n{plain}{below}")
    note = (
        "numbers with zeros in front are taken as numbers: zip (00000), code (001e1). If they are names, type "
        "data.categorical=[zip,code]."
    )
    assert table.load(path, targets=["y"]).notes[0] == note
    data = table.load(path, targets=["y"], categorical=["zip", "code"])  # as the line says
    assert note not in data.notes
    assert data.recipe is not None
    assert {"zip=01111", "code=001e1"} <= set(data.recipe.names)
    path = wrote(tmp_path, lines("x,y", lambda i: f"{i}.5,{i % 3:02d}"))
    assert "y (00). If they are names, type data.categorical=[y]." in table.load(path, targets=["y"]).notes[0]
    assert table.load(path, targets=["y"], categorical=["y"]).class_names == ("00", "01", "02")
    assert table.load(path, targets=["y"], task="regression").notes == ()


def test_columns_of_numbers_as_targets(tmp_path: Path) -> None:
    path = wrote(tmp_path, lines("a,b,c,d", lambda i: f"{i}.5,{-i},{i}.25,{i / 8}"))
    data = table.load(path, targets=["c", 0], standardize=False)
    inputs, targets = whole(data)
    rows = torch.arange(NUM_ROWS).double().flip(0)  # in the order of b
    assert torch.equal(inputs, torch.stack([-rows, rows / 8], 1))
    assert torch.equal(targets, torch.stack([rows + 0.25, rows + 0.5], 1))


def test_one_hot_columns_name_the_classes(tmp_path: Path) -> None:
    hot = ["1,0,0", "0,1,0", "0,0,1"]
    path = wrote(tmp_path, lines("a,owl,cat,dog", lambda i: f"{i}.5,{hot[i % 3]}"))
    data = table.load(path, targets=["owl", "cat", "dog"], task="classification", standardize=False)
    assert data.class_names == ("owl", "cat", "dog")
    inputs, targets = whole(data)
    assert torch.equal(targets, inputs[:, 0].long() % 3)


# --- large numbers -------------------------------------------------------------------------------------------------

LARGE = {
    "time stamps": lambda i: 1_700_000_000 + i,
    "ids": lambda i: 90_071_992_547_409_00 + 7 * i % 140,
    "1e8 and noise": lambda i: f"{1e8 + i / 7:.6f}",
    "tiny": lambda i: f"{i + 1}e-200",
    "huge": lambda i: f"{i + 1}e+200",
}


@pytest.mark.parametrize("value", LARGE.values(), ids=LARGE.keys())
@pytest.mark.parametrize("kind", ["csv", "npz", "npy"])
def test_no_difference_of_large_numbers_is_lost(tmp_path: Path, value: Callable[[int], Any], kind: str) -> None:
    """The same as the numbers less what they have in common, in float64; the cast comes last."""
    count = 140
    column = np.array([float(value(i)) for i in range(count)])
    targets = np.arange(count) + 123_456_789.0
    if kind == "csv":
        path = wrote(tmp_path, "x,y\n" + "".join(f"{value(i)},{targets[i]:.1f}\n" for i in range(count)))
        data = table.load(path, targets=["y"])
    elif kind == "npz":
        np.savez(tmp_path / "t.npz", inputs=column[:, None], targets=targets)
        data = arrays.load(str(tmp_path / "t.npz"))
    else:
        np.save(tmp_path / "x.npy", column)
        np.save(tmp_path / "y.npy", targets)
        data = arrays.load(str(tmp_path / "x.npy"), targets=str(tmp_path / "y.npy"))
    train = data.train
    assert isinstance(train, Samples)
    rows = (train.targets.flatten() - 123_456_789).long().numpy()
    scale = column.max()
    exact = np.array([int(float(x) * 2**60 / scale) for x in column], dtype=object)  # whole numbers: no rounding
    mean = sum(exact[rows]) / len(rows)
    spread = float(np.sqrt(np.mean([float(x - mean) ** 2 for x in exact[rows]])))
    expected = [float(x - mean) / spread for x in exact[rows]]
    np.testing.assert_allclose(train.inputs[:, 0].numpy(), expected, atol=2e-7 if "ids" in str(value) else 1e-6)
    assert len(train.inputs.float().unique()) == len(set(column[rows]))
    _, all_targets = whole(data)
    assert sorted(all_targets.flatten().tolist()) == targets.tolist()


@pytest.mark.parametrize("constant", [0.1, 1e8, 1e-300, -3.0])
def test_a_constant_column_becomes_0(tmp_path: Path, constant: float) -> None:
    np.savez(tmp_path / "t.npz", inputs=np.full((30, 1), constant), targets=np.arange(30) % 2)
    path = wrote(tmp_path, lines("x,z,y", lambda i: f"{constant!r},{i}.5,{i % 2}"))
    for data, column in ((arrays.load(str(tmp_path / "t.npz")), 0), (table.load(path, targets=["y"]), 0)):
        for split in (data.train, data.val, data.test):
            assert isinstance(split, Samples)
            assert not split.inputs[:, column].any()


# --- what can't be read --------------------------------------------------------------------------------------------

GOOD = "a,b,k\n1,2,0\n3,4,1\n"
BAD: dict[str, tuple[str | bytes, Any, tuple[str, ...]]] = {
    "empty": ("", "k", ("the file is empty",)),
    "blank": ("\n\n,,\n", "k", ("the file is empty",)),
    "names alone": ("a,b,k\n", "k", ("column names and 0 rows",)),
    "ragged": ("a,b,k\n1,2,0\n\n3,4\n", "k", ("line 4 has 2 columns and line 1 has 3",)),
    "one column too many": ("a,b,k\n1,2,0\n3,4,1,9\n", "k", ("line 3 has 4 columns",)),
    "a name too few": ("a,b\n7,2,0\n3,4,1\n", "b", ("line 2 has 3 columns and line 1 has 2",)),
    "several ragged": ("a,b,k\n1,2,0\n3,4\n5\n", "k", ("line 3 has 2 columns", "(and 1 of the lines below it differ")),
    "text among numbers": (
        "a,b,k\n1,2,0\n3,red,1\n",
        "k",
        ("line 3, column b: 'red' is not a number", "data.drop=[b]"),
    ),
    "text without names": ("1,2,0\n3,red,1\n", 2, ("line 2, column 1 (counted from 0): 'red'", "data.drop=[1]")),
    "several columns": (
        "a,b,c,k\n1,2,3,0\nx,4,y,1\n5,6,z,1\n7,8,9,0\n",
        "k",
        ("line 3, column a: 'x' is not a number; line 3, column c: 'y' is not a number (2 such cells)", "[a,c]"),
    ),
    "money": ('a,b,k\n"$1,200",2,0\n$3,4,1\n', "k", ("line 2, column a: '$1,200' is not a number (2 such cells)",)),
    "percent": ("a,b,k\n10%,2,0\n20 %,4,1\n", "k", ("line 2, column a: '10%' is not a number",)),
    "a spreadsheet's mistake": ("a,b,k\n1,2,0\n#DIV/0!,4,1\n", "k", ("line 3, column a: '#DIV/0!' is not a number",)),
    "missing target": ("a,b,k\n1,2,\n3,4,1\n", "k", ("line 2, column k: a value is missing",)),
    "missing name of a class": ("a,b,k\n1,2,\n3,4,yes\n", "k", ("line 2, column k: a value is missing",)),
    "numbers and names": ("a,b,k\n1,2,0.5\n3,4,low\n", "k", ("line 3, column k: 'low' is not a number",)),
    "infinite": ("a,b,k\n1,2,0\ninf,4,1\n", "k", ("line 3, column a: 1 of the numbers are infinite",)),
    "no targets": (GOOD, None, ("data.targets=null", "it has a, b, k", "Try data.targets=[k]")),
    "no targets, no names": ("1,2,0\n3,4,1\n", None, ("it has 0 to 2, without names", "Try data.targets=[2]")),
    "unknown": (GOOD, ["kk"], ("data.targets=kk:", "it has a, b, k.", "Did you mean k?")),
    "unknown number": (GOOD, [3], ("data.targets=3:",)),
    "true": (GOOD, [True], ("data.targets=True:",)),
    "a mapping": (GOOD, {"a": 1}, ("names no columns",)),
    "a column twice": (GOOD, ["k", 2], ("column 2 of", "there twice")),
    "two columns of one name": ("a,a,k\n1,2,0\n3,4,1\n", ["a"], ("data.targets=a:", "it has a.1, a.2, k")),
    "no inputs": (GOOD, ["a", "b", "k"], ("all 3 columns", "none is left as input")),
    "no numbers and no words": ("a,k\n2024-01-01,0\n2024-01-02,1\n", "k", ("no column is left as input: a (dates)",)),
    "bytes": (b"\x80\x81\x82,\xff\n", "k", ("not a text in utf-8 or cp1252", "data.encoding=")),
    "zeros": (b"a,b,k\n1,\0,2\n", "k", ("not a text: it holds zero bytes",)),
    "half of UTF-16": (GOOD.encode("utf-16")[:-1], "k", ("not a text in utf-16",)),
    "open quote": ('a,b,k\n1,"2,0\n3,4,1\n', "k", ("not a CSV file",)),
    "a huge cell": ("a,b,k\n1,2,0\n3,4," + "x" * 200_000, "k", ("not a CSV file", "field limit")),
}


@pytest.mark.parametrize(("text", "targets", "parts"), BAD.values(), ids=BAD.keys())
def test_bad_tables(tmp_path: Path, text: str | bytes, targets: Any, parts: tuple[str, ...]) -> None:
    path = wrote(tmp_path, text)
    message = says(table.load, *parts, path=path, targets=targets)
    if "names no columns" not in message:
        assert path in message


def test_what_a_line_quotes_is_short(tmp_path: Path) -> None:
    wide = lines(",".join(f"{'column' * 30}{i}" for i in range(5000)), lambda i: ",".join(["1"] * 5000), 3)
    assert len(says(table.load, "and 4,992 more", path=wrote(tmp_path, wide), targets=["none"])) < 1000
    bad = lines(",".join(f"c{i}" for i in range(3000)), lambda i: ",".join(["x" * 90 if i == 2 else "1"] * 3000), 6)
    message = says(
        table.load, "; and 2,995 more columns.", "data.drop=[<their names>]", path=wrote(tmp_path, bad), targets=[0]
    )
    assert len(message) < 1000


@pytest.mark.parametrize(
    "name", ["a, m", "Unnamed: 1", "it's", 'say "x"', "größe", "null", "1990", "a=b", "50 %", "[z]"]
)
def test_what_a_line_says_to_type_can_be_typed(tmp_path: Path, name: str, train: Callable[..., dict[str, Any]]) -> None:
    """Names as people write them, through the shell's and Hydra's grammars."""
    import shlex

    with open(tmp_path / "t.csv", "w", newline="") as file:
        csv.writer(file).writerows(
            [[name, "b", "y"], *([f"{i}.5" if i != 9 else "oops", i / 7, i % 2] for i in range(30))]
        )
    words = ["data=arrays", "data.path=t.csv", "data.targets=[y]", "model=two_layer", "monitor=off", "max_steps=1"]
    message = says(lambda: train(*words), "'oops' is not a number")
    proposed = message.partition("or type ")[2]
    for typed in (proposed.partition(", or ")[0], proposed.partition(", or ")[2].partition(" if they")[0]):
        assert train(*words, *shlex.split(typed))["status"] == "finished"


# --- other kinds of files ------------------------------------------------------------------------------------------


def records(count: int = 30) -> list[dict[str, Any]]:
    return [{"a": i / 8, "w": ["red", None, "blue"][i % 3], "b": i % 2 == 0, "y": f"k{i % 3}"} for i in range(count)]


def test_json_holds_what_csv_holds(tmp_path: Path) -> None:
    rows = records()
    wrote(tmp_path, "".join(f"{json.dumps(row)}\n" for row in rows), "t.jsonl")
    wrote(tmp_path, json.dumps(rows, indent=1), "t.json")
    written = [["a", "w", "b", "y"], *([row[k] for k in ("a", "w", "b", "y")] for row in rows)]
    wrote(tmp_path, "".join(",".join("" if c is None else str(c) for c in row) + "\n" for row in written))
    data = [table.load(str(tmp_path / f"t.{kind}"), targets=["y"]) for kind in ("csv", "jsonl", "json")]
    assert data[0].recipe.names == ["a", "w=blue", "w=red", "w=(missing)", "b"]
    for other in data[1:]:
        assert other.recipe == data[0].recipe
        for split in ("train", "val", "test"):
            assert torch.equal(getattr(other, split).inputs, getattr(data[0], split).inputs)
            assert torch.equal(getattr(other, split).targets, getattr(data[0], split).targets)


def test_json_may_lack_names(tmp_path: Path) -> None:
    rows = [{"a": i, **({"late": i / 2} if i > 600 else {})} for i in range(700)]
    found = read_all(wrote(tmp_path, "".join(f"{json.dumps(row)}\n" for row in rows), "t.jsonl"))
    assert found["late"] == [None] * 601 + [i / 2 for i in range(601, 700)]


BAD_JSON = {
    "empty": ("", "the file is empty"),
    "an empty list": ("[]", "the file is empty"),
    "cut": ('{"a": 1}\n{"a": ', "line 2 is no JSON"),
    "a number": ('{"a": 1}\n7\n', "line 2 holds 7; an object such as"),
    "a list in it": ('{"a": 1, "y": 0}\n{"a": [1], "y": 1}\n', "line 2, column a: it holds a list"),
    "a mapping in it": ('{"a": {"b": 1}, "y": 0}\n', "line 1, column a: it holds a mapping"),
    "deep": ("[" * 100_000, "nested too deep"),
    "a long number": ('{"a": 1' + "0" * 5000 + "}\n", "line 1 is no JSON"),
    "infinite": ('{"a": 1, "y": 0}\n{"a": Infinity, "y": 1}\n', "1 of the numbers are infinite"),
    "no text": (b'{"a": "\xff"}\n', "not a text in UTF-8"),
}


@pytest.mark.parametrize(("text", "what"), BAD_JSON.values(), ids=BAD_JSON.keys())
def test_bad_json(tmp_path: Path, text: str | bytes, what: str) -> None:
    path = wrote(tmp_path, text, "t.json" if str(text).startswith("[") else "t.jsonl")
    says(table.load, f"data.path={path}: ", what, path=path, targets=["y"])


def test_parquet_holds_what_json_holds(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = records()
    wrote(tmp_path, "".join(f"{json.dumps(row)}\n" for row in rows), "t.jsonl")
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "t.parquet")
    a, b = (table.load(str(tmp_path / name), targets=["y"]) for name in ("t.jsonl", "t.parquet"))
    assert a.recipe == b.recipe
    assert torch.equal(a.train.inputs, b.train.inputs)  # type: ignore[union-attr]
    assert torch.equal(a.train.targets, b.train.targets)


def test_parquet_s_own_kinds(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    import datetime
    import decimal

    from pyarrow import parquet

    columns = {
        "whole": pyarrow.array([1, None, 3, 4], pyarrow.int16()),
        "money": pyarrow.array([decimal.Decimal("1.50")] * 4),
        "coded": pyarrow.array(["x", "y", "x", None]).dictionary_encode(),
        "day": pyarrow.array([datetime.date(2024, 1, i + 1) for i in range(4)]),
        "list": pyarrow.array([[1], [2], [3], [4]]),
        "nothing": pyarrow.nulls(4),
        "flag": pyarrow.array([True, False, None, True]),
    }
    parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet")
    found = read(tmp_path / "t.parquet").columns
    assert {name for name, column in found.items() if isinstance(column, Unused)} == {"day", "list", "nothing"}
    assert content(found["whole"]) == [1, None, 3, 4]
    assert content(found["money"]) == [1.5] * 4
    assert content(found["coded"]) == ["x", "y", "x", None]
    assert content(found["flag"]) == [1, 0, None, 1]
    codes = [f"{i % 3:03d}" for i in range(30)]  # texts, which nobody would write so as numbers
    parquet.write_table(pyarrow.table({"zip": codes, "y": codes}), tmp_path / "zips.parquet")
    assert content(read(tmp_path / "zips.parquet").columns["zip"]) == codes
    assert table.load(str(tmp_path / "zips.parquet"), targets=["y"]).class_names == ("000", "001", "002")
    words = read(tmp_path / "t.parquet", lambda names, has_names: {"whole": "words", "day": "words"}).columns
    assert content(words["whole"]) == ["1", None, "3", "4"]
    assert content(words["day"])[0] == "2024-01-01"


def test_numbers_of_parquet_that_are_no_plain_ones(tmp_path: Path) -> None:
    """What is infinite is named as of a CSV; half precision and NaN make words as other fractions do."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    whole_or_not = [0.0, 1.0, float("nan"), 1e15] * 10
    columns = {
        "half": pyarrow.array(np.arange(NUM_ROWS, dtype=np.float16) % 3),
        "gaps": pyarrow.array(whole_or_not),
        "list": pyarrow.array([[1]] * NUM_ROWS),
        "x": pyarrow.array([i / 7 for i in range(NUM_ROWS)]),
        "y": pyarrow.array([i % 2 for i in range(NUM_ROWS)]),
    }
    parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet")
    path = str(tmp_path / "t.parquet")
    words = read(Path(path), lambda names, has_names: {"half": "words", "gaps": "words"}).columns
    assert content(words["half"])[:4] == ["0", "1", "2", "0"]
    assert content(words["gaps"])[:4] == ["0", "1", None, "1000000000000000"]
    for key in ("group", "time"):
        says(table.load, f"data.{key}=list: the column holds list", path=path, targets=["y"], **{key: "list"})
    for infinite in ([1.0, float("inf")] * 20, ["1.5", "inf"] * 20):
        parquet.write_table(pyarrow.table({**columns, "x": infinite}), tmp_path / "t.parquet")
        says(table.load, "row 1 (counted from 0), column x: 20 of the numbers are infinite", path=path, targets=["y"])
        assert content(read(Path(path), lambda names, has_names: {"x": "words"}).columns["x"])[1] == "inf"


def test_numbers_that_json_and_parquet_hold_as_texts(tmp_path: Path) -> None:
    """Read by the rules of a CSV: 1,050 is never guessed, and what was typed of it counts."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    for cells, decimal, found in (
        (["1.5", "20"], "auto", [1.5, 20]),
        (["1,5", "20"], "auto", [1.5, 20]),
        (["1,050", "20"], "comma", [1.05, 20]),
        (["1,050", "20"], "point", [1050, 20]),
    ):
        rows = {"a": cells * 3, "y": ["p", "q"] * 3}
        parquet.write_table(pyarrow.table(rows), tmp_path / "t.parquet")
        texts = "".join(
            f"{json.dumps(dict(zip(rows, row, strict=True)))}\n" for row in zip(*rows.values(), strict=True)
        )
        for path in (str(tmp_path / "t.parquet"), wrote(tmp_path, texts, "t.jsonl")):
            assert read_all(path, decimal=decimal)["a"] == found * 3
            if "1,050" in cells:
                says(lambda path=path: read_all(path), "Type data.decimal=comma or data.decimal=point.")
            for key in ("delimiter", "encoding", "header"):
                says(lambda path=path, key=key: read_all(path, **{key: "comma"}), f"Type data.{key}=auto.")


def test_bad_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"a": [1, 2], "y": [0, 1]}), tmp_path / "whole.parquet")
    whole_file = (tmp_path / "whole.parquet").read_bytes()
    for start in (b"", b"PAR1", whole_file[:-9], b"\0" * 500, whole_file[:50] + whole_file[60:]):
        path = wrote(tmp_path, start, "t.parquet")
        says(table.load, f"data.path={path}: not a Parquet file", path=path, targets=["y"])
    parquet.write_table(pyarrow.table({"a": pyarrow.array([], pyarrow.int64())}), tmp_path / "t.parquet")
    says(table.load, "the file is empty", path=str(tmp_path / "t.parquet"), targets=["y"])


def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    path = wrote(tmp_path, b"PAR1", "t.parquet")
    says(table.load, "Type pip install 'train-cli[parquet]'.", path=path, targets=["y"])


def test_a_workbook_is_no_table(tmp_path: Path) -> None:
    says(table.load, ".xlsx is not read", "Export it as CSV", path=wrote(tmp_path, b"PK", "t.xlsx"), targets=["y"])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_table_that_may_not_be_read(tmp_path: Path) -> None:
    path = wrote(tmp_path, GOOD)
    os.chmod(path, 0)
    says(table.load, "Permission denied", path=path, targets=["k"])


def test_every_cut_of_a_table_is_a_table_or_one_line(tmp_path: Path) -> None:
    text = 'a;"b; x";k\n1,5;"two\nlines";x\n2,5;one;y\n3,5;"two\nlines";x\n'
    for length in range(len(text)):
        path = wrote(tmp_path, text[:length])
        with pytest.raises(UserError):  # too few rows at the least
            table.load(path, targets=["k"])


@pytest.mark.parametrize(
    "when",
    [
        lambda i: f"20{i // 28 + 10}-02-{i % 28 + 1:02}",
        lambda i: f"2024-12-{i // 24 + 1:02}T{i % 24:02}:00:00+{i % 3:02}:00",  # by two hours at the most out of order
        lambda i: f"{i - 20}.5",
        lambda i: f"week {i}",
        lambda i: f"{2020 + i // 12}.{i % 12 + 1}",
    ],
)
def test_rows_are_split_by_time(when: Callable[[int], str], tmp_path: Path) -> None:
    shuffled = np.random.default_rng(0).permutation(100).tolist()
    path = wrote(tmp_path, lines("when,x,y", lambda i: f"{when(shuffled[i])},{shuffled[i]},{i}.5", 100))
    asked: dict[str, Any] = {"path": path, "targets": "y", "time": "when", "standardize": False, "keep": "x"}
    if when(0) == "week 0":
        says(table.load, f"data.time=when: line 2, column when: 'week {shuffled[0]}' is neither a number", **asked)
        return
    if when(9) == "2020.10":
        says(table.load, "and the like are a year and a month, and as numbers stand before 20", **asked)
        return
    data = table.load(**asked)
    train, val, test = (getattr(data, split).inputs[:, 0] for split in ("train", "val", "test"))
    assert len(train) == pytest.approx(70, abs=2)  # of equal times more or fewer
    assert len(test) == pytest.approx(20, abs=2)
    assert train.max() < val.min() + 3
    assert val.max() < test.min() + 3
    assert data.recipe is not None
    assert data.recipe.left_out == {"when": table.ORDERING}


@pytest.mark.parametrize("key", ["group", "time"])
def test_a_column_that_splits_the_rows_is_an_input_as_words_alone(key: str, tmp_path: Path) -> None:
    path = wrote(tmp_path, lines("week,x,y", lambda i: f"{i % 9},{i}.5,{i}.25"))
    says(table.load, f"data.keep=[week]: it is data.{key}", path=path, targets="y", keep="week", **{key: "week"})
    data = table.load(path=path, targets="y", categorical="week", **{key: "week"})  # as the line says
    assert data.recipe is not None
    assert any(name.startswith("week=") for name in data.recipe.names)
