"""`train explain`: the key that matters, of three that differ; and what two keys do only together."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trainer.command import main as cli
from trainer.errors import UserError
from trainer.use.shares import Corner, corners, interval, is_grid, parts, share, variances

Train = Callable[..., dict[str, Any]]
QUICK = ("model=two_layer", "monitor=off", "max_steps=40")


@pytest.mark.long
def test_of_three_keys_the_one_that_matters(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    train("name=a", *QUICK, "optimizer.lr=0.0002")
    train("name=b", *QUICK, "optimizer.lr=0.01", "model.hidden_features=110", "batch_size=72")
    with pytest.raises(UserError, match="Type the same with yes=true"):
        cli.run_command(["explain", "a", "b"])
    assert not Path("runs/explain-a-b").exists()
    words = ["explain", "a", "b", "yes=true", "seeds=2", "--png", "why.png"]
    assert cli.run_command(words) == 0
    said = capsys.readouterr().out
    line = next(line for line in said.splitlines() if line.startswith("optimizer.lr makes "))
    assert int(line.split()[2].rstrip("%")) > 80
    assert "16 runs, 14 to go" in said  # a and b are two of them
    results = {r["name"]: r for r in json.loads(Path("runs/explain-a-b/results.json").read_text())}
    a = json.loads(Path("runs/a/result.json").read_text())
    name = "batch_size=64,hidden_features=100,lr=0.0002,seed=0"
    assert results[name]["val/loss"] == a["val/loss"]
    assert Path("why.png").stat().st_size > 1000
    assert cli.run_command(words) == 0  # the same command trains nothing anew
    assert "0 to go" in capsys.readouterr().out
    assert cli.run_command(["explain", "explain-a-b"]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("optimizer.lr")


def corner_values(keys: list[str], rule: Callable[[Corner], float]) -> dict[Corner, float]:
    return {corner: rule(corner) for corner in corners(keys)}


def test_contributions_add_up() -> None:
    def worth(c: Corner) -> float:
        return 3.0 * ("a" in c) + 1.0 * ("b" in c) + 2.0 * ({"b", "c"} <= c)

    found = {part.key: part for part in parts(["a", "b", "c"], [corner_values(["a", "b", "c"], worth)])}
    assert [round(found[key].mean, 9) for key in "abc"] == [3.0, 2.0, 1.0]  # what works together is shared
    assert (found["c"].alone, found["c"].last) == (0.0, 2.0)
    assert share(found["a"], [*found.values()]) == pytest.approx(0.5)

    keys = list("abcdef")
    values = corner_values(keys, worth)
    assert len(values) == 2 * len(keys) + 2
    many = {part.key: part.mean for part in parts(keys, [values])}
    assert many == pytest.approx({"a": 3.0, "b": 2.0, "c": 1.0, "d": 0.0, "e": 0.0, "f": 0.0})


def test_variance_of_a_grid() -> None:
    draw = np.random.default_rng(0)
    points = [
        ({"a": str(a), "b": str(b)}, 2.0 * a + 1.0 * b + 4.0 * a * b + 0.01 * draw.normal())
        for a, b, _ in itertools.product(range(2), range(2), range(3))
    ]
    assert is_grid(points, ["a", "b"])
    assert not is_grid(points[:-1], ["a", "b"])
    found = variances(points, ["a", "b"])
    whole = 4.0**2 / 4 + 3.0**2 / 4 + 4.0**2 / 16  # a and b, each with half of what they do together
    assert found[("a",)] == pytest.approx(4 / whole, abs=0.01)
    assert found[("a", "b")] == pytest.approx(1 / whole, abs=0.01)
    low, high = interval(points, ["a", "b"], ("a",), draws=50)
    assert low <= found[("a",)] <= high


def test_mistakes_are_a_line(train: Train) -> None:
    train("name=a", *QUICK)
    train("name=b", *QUICK, "seed=1")
    for words, message in (
        (["a", "b"], "no key differs that changes a number"),
        (["a"], "takes two runs, or one sweep, not 1"),
        (["a", "b", "yes=maybe"], "yes=maybe: must be true or false"),
        (["a", "b", "seeds=0"], "seeds=0: must be a whole number"),
    ):
        with pytest.raises(UserError, match=message):
            cli.run_command(["explain", *words])
