"""Blocks of numbers alone are read as `csv` and `float` read them, bit by bit."""

import itertools

import numpy as np
import pytest

from trainer.data.tables import delimited
from trainer.data.tables.columns import Numbers, Table, choose_all_auto
from trainer.errors import UserError

WAYS = {
    "repr": repr,
    "short": "{:.5g}".format,
    "long": "{:.18e}".format,
    "fixed": "{:+.3f}".format,
    "whole": lambda x: str(int(1000 * x)),
    "odd": itertools.cycle(["5.", ".5", "-0", "+7", "-.25", "1e999", "4e-320", "9007199254740993", "0.1", "00012"]),
}
NO_NUMBERS = ["", "-", ".", "NA", "nan", "word", "2020-01-31", "1_000", "--5", "1.2.3", "5-", "0x10", "1e", '"3"', " 3"]
NUM_ROWS = delimited.BLOCK_ROWS + 900


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """More than one of them in a small file."""
    monkeypatch.setattr(delimited, "PLAIN_LETTERS", 1 << 12)


def both(path, monkeypatch, choose=choose_all_auto) -> list[Table | str]:
    """The table as it is read, and by `csv` alone; or what is said of it."""
    found: list[Table | str] = []
    for _ in range(2):
        try:
            found.append(delimited.read(path, choose))
        except UserError as error:
            found.append(str(error))
        monkeypatch.setattr(delimited, "plain", lambda chunk, dialect: None)
    return found


def rows_of(way: str, num_columns: int = 7) -> list[list[str]]:
    written = WAYS[way]
    numbers = np.random.default_rng(0).normal(scale=3, size=(NUM_ROWS, num_columns)).tolist()
    return [[written(x) if callable(written) else next(written) for x in row] for row in numbers]


def same(a: Table | str, b: Table | str) -> None:
    if isinstance(a, str) or isinstance(b, str):
        assert a == b
        return
    assert list(a.columns) == list(b.columns)
    assert np.array_equal(a.lines, b.lines)
    for x, y in zip(a.columns.values(), b.columns.values(), strict=True):
        assert type(x) is type(y)
        if isinstance(x, Numbers):
            assert x.is_whole == y.is_whole
            assert x.values.tobytes() == y.values.tobytes()
        else:
            assert repr(x) == repr(y)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("sign", [",", ";", "\t", " "])
@pytest.mark.parametrize("way", WAYS)
def test_numbers_have_the_bits_that_float_gives_them(tmp_path, monkeypatch, way, sign, end):
    rows = rows_of(way)
    path = tmp_path / "rows.csv"
    path.write_text(end.join(map(sign.join, [[f"x{i}" for i in range(7)], *rows])), newline="")
    table, by_csv = both(path, monkeypatch)
    same(table, by_csv)
    if isinstance(table, Table) and way != "odd":  # 1e999 is none of a column's numbers
        values = np.array([column.values for column in table.columns.values()])
        assert values.tobytes() == np.array([[float(cell) for cell in row] for row in rows]).T.tobytes()


@pytest.mark.parametrize(
    "cell",
    [
        "",
        "-",
        ".",
        "NA",
        "nan",
        "word",
        "2020-01-31",
        "1_000",
        "--5",
        "1.2.3",
        "5-",
        "0x10",
        "1e",
        '"3"',
        " 3",
        "\u0663",
    ],
)
@pytest.mark.parametrize("row", [600, NUM_ROWS - 1])
def test_what_is_no_number_is_read_as_before(tmp_path, monkeypatch, cell, row):
    rows = rows_of("fixed")
    rows[row][3] = cell
    path = tmp_path / "rows.csv"
    path.write_text("\n".join(map(",".join, [[f"x{i}" for i in range(7)], *rows])) + "\n")
    same(*both(path, monkeypatch))


@pytest.mark.parametrize("line", ["", ",,", "1,2", "1,2,3,4", '"1\n2",2,3', "1,2,3\r4,5,6", "#", "a,b,c"])
@pytest.mark.parametrize("row", [600, NUM_ROWS])
def test_lines_that_are_no_rows_are_treated_as_before(tmp_path, monkeypatch, line, row):
    lines = ["a,b,c", *map(",".join, rows_of("whole", 3))]
    lines[row:row] = [line]
    path = tmp_path / "rows.csv"
    path.write_text("\n".join(lines), newline="")
    same(*both(path, monkeypatch))


def test_words_that_are_numbers_and_columns_not_asked_for_are_kept_as_before(tmp_path, monkeypatch):
    path = tmp_path / "rows.csv"
    path.write_text("a,b,c\n" + "\n".join(f"{i % 5},{i / 8},{i}" for i in range(NUM_ROWS)))
    table, by_csv = both(path, monkeypatch, lambda names, has_names: {"a": "words", "c": "none"})
    same(table, by_csv)
    assert isinstance(table, Table)
    assert table.columns["a"].levels == ("0", "1", "2", "3", "4")


def test_most_of_a_file_of_numbers_is_read_at_once(tmp_path, monkeypatch):
    path = tmp_path / "rows.csv"
    path.write_text("\n".join(map(",".join, rows_of("short"))))
    read = []
    monkeypatch.setattr(delimited.Cells, "add_to", lambda cells, column, place: read.append(len(cells.columns[0])))
    delimited.read(path, choose_all_auto)
    assert set(read) == {delimited.BLOCK_ROWS}
    assert len(read) == 7
