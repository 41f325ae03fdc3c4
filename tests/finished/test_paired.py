"""Which of two runs is better: by pairs of the samples that both were tested on."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trainer.command import main as cli
from trainer.config.request import Request
from trainer.errors import UserError
from trainer.finished.paired import Judged, mcnemar, of_accuracy, of_loss, read, unlike
from trainer.sweep.plan import Job
from trainer.sweep.results import Row, print_table
from trainer.use.better import better, told

Train = Callable[..., dict[str, Any]]


def judged(name: str, right: np.ndarray, loss: np.ndarray | None = None) -> Judged:
    number = len(right)
    target = np.arange(number) % 5
    arrays = {"id": np.arange(number), "target": target, "predicted": np.where(right, target, target + 1)}
    return Judged(name, arrays if loss is None else {**arrays, "loss": loss})


def test_mcnemar_is_a_fair_coin() -> None:
    assert mcnemar(10, 2) == mcnemar(2, 10) == pytest.approx(2 * (1 + 12 + 66) / 2**12)
    assert mcnemar(0, 0) == mcnemar(7, 7) == mcnemar(1001, 1001) == 1
    assert mcnemar(1100, 1000) == pytest.approx(math.erfc(99 / math.sqrt(4200)), rel=1e-9)
    assert mcnemar(1050, 950) == pytest.approx(2 * 0.01342, rel=0.02)  # a binomial of 2,000


def test_intervals_hold_what_they_promise() -> None:
    """In 95 of 100 tests of the same two models the true difference lies within."""
    draw = np.random.default_rng(0)
    true, number, held, held_loss = 0.02, 400, 0, 0
    for _ in range(300):
        both, only_a, only_b = draw.multinomial(number, [0.85, 0.03, 0.05, 0.07])[:3]
        kinds = np.repeat([0, 1, 2, 3], [both, only_a, only_b, number - both - only_a - only_b])
        losses = draw.normal(size=(2, number)) + np.array([[0.0], [true]])
        a, b = judged("a", kinds < 2, losses[0]), judged("b", (kinds == 0) | (kinds == 2), losses[1])
        found = of_accuracy(a, b)
        assert found is not None
        assert found[1:] == (only_a, only_b)
        held += found[0].low <= true <= found[0].high
    for _ in range(60):
        losses = draw.normal(size=(2, number)) + np.array([[0.0], [true]])
        loss = of_loss(judged("a", kinds < 2, losses[0]), judged("b", kinds < 2, losses[1]))
        assert loss is not None
        held_loss += loss.low <= true <= loss.high
        # The spread of a difference of two normal numbers, over the root of how many there are.
        assert loss.smallest == pytest.approx(1.96 * math.sqrt(2 / number), rel=0.2)
    assert 0.92 < held / 300 < 0.98
    assert held_loss / 60 > 0.88


def test_the_words() -> None:
    right = np.ones(1000, bool)
    a, b = judged("a", right & (np.arange(1000) >= 40)), judged("b", right & (np.arange(1000) >= 10))
    found = of_accuracy(a, b)
    assert found is not None
    line = told(found[0], a, b, "points of accuracy", 100, True)
    assert line.startswith("b is better by 3 points of accuracy (95 % interval 1.9")
    assert "1,000 test samples can tell differences of 1.1" in line
    back = of_accuracy(b, a)
    assert back is not None
    assert told(back[0], b, a, "points of accuracy", 100, True) == line
    same = of_accuracy(a, judged("c", a.arrays["predicted"] == a.arrays["target"]))
    assert same is not None
    assert told(same[0], a, a, "points of accuracy", 100, True).startswith("no difference: 0 points of accuracy")


def test_two_runs_are_compared_and_other_samples_are_not(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    one = train("model=two_layer", "max_steps=3", "name=one", "monitor=off")
    two = train("model=two_layer", "max_steps=60", "name=two", "monitor=off")
    train("model=two_layer", "max_steps=3", "name=other", "monitor=off", "data.split_seed=7")
    capsys.readouterr()
    assert cli.run_command(["compare", "one", "two"]) == 0
    out = capsys.readouterr().out
    points = 100 * (two["test/accuracy"] - one["test/accuracy"])
    assert f"two is better by {points:.3g} points of accuracy" in out
    assert f"two is better by {one['test/loss'] - two['test/loss']:.3g} of the mean loss" in out
    assert "one seed of each" in out
    assert cli.run_command(["compare", "one", "other"]) == 0
    assert "not compared: other was tested on other" in capsys.readouterr().out


def test_other_losses_are_other_numbers(train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A squared error of 4 is no worse than an absolute one of 2: absolute errors decide, and no star stands."""
    words = ("data=random_regression", "data.num_samples=60", "model=two_layer", "max_steps=5", "monitor=off")
    for loss in ("mse", "l1"):
        train(*words, f"loss={loss}", f"name={loss}")
    assert cli.run_command(["compare", "mse", "l1"]) == 0
    out = capsys.readouterr().out
    assert "losses are not compared: another loss makes them other numbers (loss=mse, loss=l1)" in out
    assert "of the mean absolute error" in out
    assert "of the mean loss" not in out
    assert not [line for line in out.splitlines() if "/loss " in line and "*" in line]
    arrays = [np.load(f"runs/{loss}/predictions.npz") for loss in ("mse", "l1")]
    errors = [float(np.abs(of["outputs"] - of["target"]).mean()) for of in arrays]
    assert f"by {abs(errors[1] - errors[0]):.3g} of the mean absolute error" in out
    with pytest.raises(UserError, match=r"^loss: differs, .* val/loss another number. Type sweep.metric=val/mae"):
        cli.run_command(["explain", "mse", "l1", "yes=true"])
    numbers = {"best/val/loss": 1.0, "best/val/mae": 1.0}
    jobs = [Job(loss, Path(loss), {"loss": loss}, Request({}, {}, [])) for loss in ("mse", "l1")]
    for tag in numbers:
        print_table([Row(job, "finished", "", numbers) for job in jobs], tag)
        line = "loss makes best/val/loss another number, so this is no order. Type sweep.metric=val/mae"
        assert (line in capsys.readouterr().out) is (tag == "best/val/loss")


def test_seeds_of_a_sweep_stand_beside(train: Train, tmp_path: Path) -> None:
    rows = []
    for seed in (0, 1):
        result = train("model=two_layer", "max_steps=3", f"run_dir=runs/s/seed={seed}", "monitor=off", f"seed={seed}")
        numbers = {tag: n for tag, n in result.items() if isinstance(n, float)}
        rows.append({"name": f"seed={seed}", "status": "finished", "reason": "", "seed": str(seed), **numbers})
    (tmp_path / "runs/s/results.json").write_text(json.dumps(rows))
    lines = better([Path("runs/s/seed=0"), Path("runs/s/seed=1")])
    mean = sum(row["test/accuracy"] for row in rows) / 2
    assert f"seed=0: test/accuracy {mean:.4g} ± " in lines[-2]
    assert lines[-1].endswith("over 2 seeds")


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"no zip", "zip"),
        ({"about": np.array("{}")}, "id"),
        ({"about": np.array("{"), "id": np.arange(3)}, ""),
        ({"about": np.array("{}"), "id": np.arange(3), "target": np.arange(2)}, "different lengths"),
        ({"about": np.array("{}"), "id": np.array([{}, {}], dtype=object)}, "pickle"),
    ],
)
def test_foreign_predictions_are_a_line(content: Any, line: str, tmp_path: Path) -> None:
    path = tmp_path / "predictions.npz"
    path.write_bytes(content) if isinstance(content, bytes) else np.savez(path, **content)
    with pytest.raises(UserError, match=rf"predictions.npz: can't be read.*{line}"):
        read(tmp_path, "x")
    assert unlike(judged("a", np.ones(3, bool)), judged("b", np.ones(4, bool))) is not None
