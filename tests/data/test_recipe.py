"""What becomes of a table's columns: by the training rows alone, kept as plain values, and done to new rows alike."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from refusal import says
from trainer.data import table
from trainer.data.source import Data, Samples
from trainer.data.table import inputs_of
from trainer.data.tables.recipe import Category, Number, Recipe

NUM_ROWS = 60
WORDS = ["red", "", "blue"]


def wrote(folder: Path, content: str, name: str = "t.csv") -> str:
    (folder / name).write_text(content)
    return str(folder / name)


def rows(head: str, row: Callable[[int], str], count: int = NUM_ROWS) -> str:
    return head + "\n" + "".join(f"{row(i)}\n" for i in range(count))


def mixed(folder: Path, **options: Any) -> Data:
    """Numbers with gaps, words with gaps, a flag, a date, and classes."""
    text = rows(
        "n,gaps,word,flag,when,y",
        lambda i: (
            f"{i / 7},{'' if i % 5 == 0 else i * 1000},{WORDS[i % 3]},{i % 2 == 0},2024-01-{i % 28 + 1:02},k{i % 2}"
        ),
    )
    return table.load(wrote(folder, text), targets=["y"], **options)


def split(data: Data, name: str) -> torch.Tensor:
    samples = getattr(data, name)
    assert isinstance(samples, Samples)
    return samples.inputs


def test_each_column_becomes_inputs_in_the_order_of_the_file(tmp_path: Path) -> None:
    data = mixed(tmp_path, standardize=False)
    names = ["n", "gaps", "gaps=(missing)", "word=blue", "word=red", "word=(missing)", "flag"]
    assert data.recipe.names == names
    inputs = torch.cat([split(data, name) for name in ("train", "val", "test")])
    assert inputs.dtype == torch.float64
    row = (inputs[:, 0] * 7).round().long()
    of = dict(zip(names, inputs[row.argsort()].T, strict=True))
    i = torch.arange(NUM_ROWS)
    assert torch.equal(of["gaps=(missing)"], (i % 5 == 0).double())
    assert torch.equal(of["gaps"][i % 5 > 0], (i * 1000.0).double()[i % 5 > 0])
    assert torch.equal(of["word=red"], (i % 3 == 0).double())
    assert torch.equal(of["word=(missing)"], (i % 3 == 1).double())
    assert torch.equal(of["word=blue"], (i % 3 == 2).double())
    assert torch.equal(of["flag"], (i % 2 == 0).double())
    # A gap is the mean of the training rows that have a number.
    train = split(data, "train")
    mean = train[train[:, 2] == 0, 1].mean()
    assert of["gaps"][i % 5 == 0].sub(mean).abs().max() < 1e-9
    assert data.recipe.left_out == {"when": "dates"}
    assert data.notes == (
        "columns left out: when (dates). If they are written as 2021-12-31, data.time=[when] tests on the latest rows.",
    )  # fmt: skip


def test_only_numbers_are_standardised_and_by_what_is_there(tmp_path: Path) -> None:
    data = mixed(tmp_path)
    train = split(data, "train")
    assert train[:, 0].mean().abs() < 1e-12
    assert (train[:, 0].std(correction=0) - 1).abs() < 1e-12
    there = train[train[:, 2] == 0, 1]
    assert there.mean().abs() < 1e-12
    assert (there.std(correction=0) - 1).abs() < 1e-12
    assert not train[train[:, 2] == 1, 1].any()  # the mean
    assert set(train[:, 3:6].unique().tolist()) == {0, 1}


def test_rows_beyond_training_change_nothing_that_is_kept(tmp_path: Path) -> None:
    """Other numbers in val and test: the same recipe."""
    first = mixed(tmp_path)
    lines = (tmp_path / "t.csv").read_text().splitlines()
    held = {
        round(float(x)) for name in ("val", "test") for x in split(mixed(tmp_path, standardize=False), name)[:, 0] * 7
    }
    for i in held:
        cells = lines[i + 1].split(",")
        lines[i + 1] = ",".join([cells[0], "77", "violet", *cells[3:]])
    again = table.load(wrote(tmp_path, "\n".join(lines)), targets=["y"])
    assert again.recipe == first.recipe
    assert torch.equal(split(again, "train"), split(first, "train"))
    assert sum("violet" in note for note in again.notes) == 2  # val and test each say it


def test_words_beyond_the_most_frequent_share_an_input(tmp_path: Path) -> None:
    text = rows("town,y", lambda i: f"{'abcdefgh'[min(i % 12, 7)]},{i % 2}", 240)
    data = table.load(wrote(tmp_path, text), targets=["y"], max_levels=3)
    assert data.recipe.names[-1] == "town=(other)"
    assert len(data.recipe.names) == 4
    assert "town=h" in data.recipe.names  # the most frequent
    assert torch.equal(split(data, "train").sum(1), torch.ones(len(data.train)).double())
    assert "of the words of town (8) the 3 most frequent have an input each" in data.notes[0]
    new = data.recipe.apply([{"town": "h"}, {"town": "somewhere"}, {"town": None}])
    assert new.sum(1).tolist() == [1, 1, 1]
    assert new[1:, -1].tolist() == [1, 1]  # no training row lacks the word: it has no level of its own


def test_embedded_words_are_whole_numbers_from_1(tmp_path: Path) -> None:
    text = rows("a,town,size,y", lambda i: f"{i}.5,{WORDS[i % 3]},{'SML'[i % 3]},{i % 2}")
    data = table.load(wrote(tmp_path, text), targets=["y"], embed=["town", "size"])
    assert data.recipe.names == ["a"]
    assert data.recipe.num_levels == {"town": 4, "size": 4}  # unknown, two words and what is missing; unknown and three
    found = data.recipe.apply([{"a": 1, "town": t, "size": s} for t, s in (("blue", "L"), ("red", "S"), ("", "XL"))])
    assert isinstance(found, dict)
    assert found["levels"].tolist() == [[1, 1], [2, 3], [3, 0]]
    assert found["levels"].dtype == torch.int64
    assert found["numbers"].shape == (3, 1)


def test_numbers_that_are_words(tmp_path: Path) -> None:
    text = rows("zip,n,y", lambda i: f"{10115 + i % 3},{i % 4}.0,{i % 2}")
    data = table.load(wrote(tmp_path, text), targets=["y"], categorical=["zip", "n"])
    assert data.recipe.names == ["zip=10115", "zip=10116", "zip=10117", "n=0", "n=1", "n=2", "n=3"]
    found = data.recipe.apply([{"zip": 10116, "n": 2}, {"zip": "10116", "n": 2.0}, {"zip": 10116.0, "n": "2.0"}])
    assert found.tolist() == [[0, 1, 0, 0, 0, 1, 0]] * 3
    kept = table.load(wrote(tmp_path, text), targets=["y"], categorical=["zip"])
    assert kept.recipe.names[-1] == "n"


def test_dates_can_be_words(tmp_path: Path) -> None:
    text = rows("when,n,y", lambda i: f"{i % 3 + 1}.5.2024,{i}.5,{i % 2}")
    assert table.load(wrote(tmp_path, text), targets=["y"], categorical=["when"]).recipe.names[0] == "when=1.5.2024"
    says(
        table.load, "data.keep=[when]: it can't be an input", path=str(tmp_path / "t.csv"), targets=["y"], keep=["when"]
    )


DATES = [
    "2024-01-31",
    "31.1.2024",
    "1/31/24",
    "2024-01-31 10:00",
    "2024-01-31T10:00:00Z",
    "10:30",
    "31 Jan 2024",
    "Jan 31, 2024",
]


@pytest.mark.parametrize("date", DATES)
def test_dates_are_named_and_left_out(tmp_path: Path, date: str) -> None:
    data = table.load(wrote(tmp_path, rows("d;n;y", lambda i: f"{date};{i}.5;{i % 2}")), targets=["y"])
    assert data.recipe.left_out == {"d": "dates"}
    assert data.notes[0].startswith("columns left out: d (dates).")


def test_the_recipe_is_plain_values_and_comes_back(tmp_path: Path) -> None:
    recipe = mixed(tmp_path, embed=["word"], drop=["when"]).recipe
    again = Recipe.from_dict(json.loads(json.dumps(recipe.as_dict())))
    assert again == recipe
    row = {"n": 1, "gaps": None, "word": "red", "flag": True}
    for name in ("numbers", "levels"):
        assert torch.equal(again.apply([row])[name], recipe.apply([row])[name])


def strange(change: Callable[[dict[str, Any]], object]) -> Any:
    found = Recipe(
        (Number("a", 0.0, 1.0, 0.0, False), Category("b", ("x",), False, False, False)), ("y",), {}
    ).as_dict()
    change(found)
    return found


NO_RECIPES = [
    None,
    [],
    {},
    "recipe",
    strange(lambda found: found.pop("targets")),
    strange(lambda found: found["columns"].append(7)),
    strange(lambda found: found["columns"][0].update(kind="os.system")),
    strange(lambda found: found["columns"][0].update(more=1)),
    strange(lambda found: found["columns"][0].update(mean="0")),
    strange(lambda found: found["columns"][0].update(std=float("nan"))),
    strange(lambda found: found["columns"][0].update(name=["a"])),
    strange(lambda found: found["columns"][0].update(has_flag=1)),
    strange(lambda found: found["columns"][1].update(levels=[1])),
    strange(lambda found: found["columns"][1].update(levels=None)),
    strange(lambda found: found.update(left_out=["a"])),
    strange(lambda found: found.update(class_names=[1])),
    strange(lambda found: found.update(has_names="yes")),
]


@pytest.mark.parametrize("found", NO_RECIPES)
def test_what_is_no_recipe(found: Any) -> None:
    with pytest.raises(ValueError, match="not what was done to a table's columns"):
        Recipe.from_dict(found)


# --- new rows ------------------------------------------------------------------------------------------------------


def test_a_new_table_is_read_by_the_names_of_its_columns(tmp_path: Path) -> None:
    data = mixed(tmp_path)
    text = (tmp_path / "t.csv").read_text().splitlines()
    cells = [line.split(",") for line in text]
    order = [4, 2, 3, 1, 0]  # other order, no target, and as a spreadsheet writes it
    new = "\n".join(";".join(row[i] for i in order) for row in cells)
    again = inputs_of(wrote(tmp_path, new, "new.csv"), data.recipe)
    whole = data.recipe.apply([dict(zip(cells[0], row, strict=True)) for row in cells[1:]])
    assert torch.equal(again, whole)
    trained = torch.cat([split(data, name) for name in ("train", "val", "test")])
    assert {tuple(row) for row in again.tolist()} == {tuple(row) for row in trained.tolist()}


def test_a_new_table_of_one_row_or_without_names(tmp_path: Path) -> None:
    data = mixed(tmp_path)
    one = inputs_of(wrote(tmp_path, "n,gaps,word,flag\n0,1000,red,true\n", "one.csv"), data.recipe)
    assert one[0, 3:].tolist() == [0, 1, 0, 1]
    nameless = table.load(
        wrote(tmp_path, rows("7.5,red,0", lambda i: f"{i}.5,{['red', 'blue'][i % 2]},{i % 2}")), targets=[-1]
    )
    assert nameless.recipe.names == ["0", "1=blue", "1=red"]
    assert inputs_of(wrote(tmp_path, "3.5,blue\n", "one.csv"), nameless.recipe)[0, 1:].tolist() == [1, 0]


def test_what_the_training_rows_lacked_is_said(tmp_path: Path) -> None:
    recipe = table.load(
        wrote(tmp_path, rows("n,word,y", lambda i: f"{i},{['red', 'blue'][i % 2]},{i % 2}")), targets=["y"]
    ).recipe
    notes: list[str] = []
    found = recipe.apply([{"n": None, "word": "green"}, {"n": 1, "word": None}], notes)
    assert found[:, 1:].tolist() == [[0, 0], [0, 0]]
    assert found[0, 0] == 0  # the mean
    assert notes == [
        "column n: 1 row lacks it, as no training row does: its mean is taken.",
        "column word: 1 row has green, which no training row has: taken as none of its levels.",
    ]


def test_levels_are_found_however_other_programs_write_them(tmp_path: Path) -> None:
    """A DataFrame has True where a JSON file has true, times of day behind its dates, and no zeros in front."""
    rows = [(f"{i % 2 == 0}", f"{i % 3 * 111:05d}", f"2020-01-0{i % 4 + 1}", f"{i % 2}.5") for i in range(40)]
    (tmp_path / "t.csv").write_text(
        "b,zip,day,f,y\n" + "".join(f"{','.join(row)},{i % 2}\n" for i, row in enumerate(rows))
    )
    names = ["b", "zip", "day", "f"]
    data = table.load(str(tmp_path / "t.csv"), targets=["y"], categorical=names)
    assert data.recipe is not None
    expected = data.recipe.apply([dict(zip(names, row, strict=True)) for row in rows])
    assert torch.equal(expected.sum(1), torch.full((40,), 4.0, dtype=torch.float64))
    notes: list[str] = []
    other = [(i % 2 == 0, i % 3 * 111, f"2020-01-0{i % 4 + 1} 00:00:00", i % 2 + 0.5) for i in range(40)]
    assert torch.equal(data.recipe.apply([dict(zip(names, row, strict=True)) for row in other], notes), expected)
    commas = [("TRUE" if a == "True" else "FALSE", b, c, d.replace(".", ",")) for a, b, c, d in rows]
    assert torch.equal(
        data.recipe.apply([dict(zip(names, row, strict=True)) for row in commas], notes, "comma"), expected
    )
    assert notes == []
    one_of_two = replace(data.recipe.columns[1], levels=("1", "01"))
    recipe = replace(data.recipe, columns=(one_of_two,))
    assert recipe.apply([{"zip": "001"}], notes).tolist() == [[0, 0]]  # which one is meant?
    assert "1 row has 001, which no training row has" in notes[0]
    recipe = replace(recipe, columns=(replace(one_of_two, levels=("1", "x")),))
    assert recipe.apply([{"zip": "01"}, {"zip": "x"}]).tolist() == [[1, 0], [0, 1]]
    assert recipe.apply([{"zip": "01"}, {"zip": "1"}]).tolist() == [[0, 0], [1, 0]]  # two words in one table


def test_new_rows_that_do_not_fit(tmp_path: Path) -> None:
    recipe = mixed(tmp_path).recipe
    good = {"n": 1, "gaps": 2, "word": "red", "flag": True}
    lacking = {key: value for key, value in good.items() if key != "gaps"} | {"gap": 2}
    says(
        recipe.apply,
        "it lacks a column that the model was trained with: gaps; it has",
        "Did you mean gap?",
        rows=[lacking],
    )
    says(recipe.apply, "it lacks 2 columns", "n, gaps", rows=[{"word": "red", "flag": True}])
    says(recipe.apply, "row 1 (counted from 0), column n: 'many' is not a number", rows=[good, good | {"n": "many"}])
    says(recipe.apply, "column n holds dates", rows=[good | {"n": "2024-01-01"}])
    path = wrote(tmp_path, "n,gaps,word,flag\n1,2,red,true\n1,x,red,true\n", "new.csv")
    says(inputs_of, "line 3, column gaps: 'x' is not a number", "trained with numbers", path=path, recipe=recipe)
    assert recipe.apply([good | {"flag": "false"}])[0, -1] < recipe.apply([good])[0, -1]


def test_a_table_learns_by_its_words(tmp_path: Path, train: Callable[..., dict[str, Any]]) -> None:
    """The class is in the word and the gap alone."""
    draw = np.random.default_rng(0)
    numbers = draw.normal(size=(300, 2))
    text = rows("a,b,word,y", lambda i: f"{numbers[i, 0]:.3f},{numbers[i, 1]:.3f},{WORDS[i % 3]},c{i % 3}", 300)
    wrote(tmp_path, text)
    for data in ("arrays", "table"):
        words = (f"data={data}", "data.path=t.csv", "data.targets=[y]", "model=two_layer", "monitor=off")
        assert train(*words, "max_epochs=40", "optimizer.lr=0.01")["test/accuracy"] == 1.0


def test_levels_with_decimal_commas_are_found_where_numbers_have_points() -> None:
    column = Category("size", ("1,0", "2,0", "3,5"), has_missing=False, has_other=False, is_embedded=False)
    found = Recipe((column,)).apply([{"size": 3.5}, {"size": "1"}, {"size": "2.0"}])
    assert torch.equal(found, torch.tensor([[0, 0, 1], [1, 0, 0], [0, 1, 0]], dtype=torch.float64))  # type: ignore[arg-type]
