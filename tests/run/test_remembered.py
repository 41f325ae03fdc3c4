"""A run leaves what its model's users need: what is done to inputs, what outputs stand for, and its test in detail."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from trainer import meaning
from trainer.command import main as cli
from trainer.errors import RunStopped
from trainer.losses.criteria import Composite, L2Penalty, SumSquaredError
from trainer.losses.function import LossFunction
from trainer.meaning import Classes, Numbers, Unread

Train = Callable[..., dict[str, Any]]
NAMES = {"loss": "its", "model": "its", "data": "its"}
TINY = ("max_steps=5", "name=x", "monitor=off")


def left(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """`model.json`, and the arrays of `predictions.npz`, read without pickle."""
    with np.load(folder / "predictions.npz", allow_pickle=False) as stored:
        return json.loads((folder / "model.json").read_text()), dict(stored)


def test_of_pictures(train: Train, tmp_path: Path) -> None:
    result = train(*TINY)
    model, found = left(tmp_path / "runs/x")
    assert model["inputs"]["kind"] == "pictures"
    assert model["outputs"]["names"] == list("0123456789")
    assert model["metrics"] == ["loss", "accuracy"]
    assert model["versions"].keys() == {"train", "torch", "numpy", "python"}
    assert len(found["id"]) == len(found["target"]) == len(found["outputs"]) == 359
    assert (found["outputs"].argmax(1) == found["target"]).mean() == result["test/accuracy"]
    assert found["loss"].astype(np.float64).mean() == pytest.approx(result["test/loss"], rel=1e-6)
    assert json.loads(str(found["about"]))["step"] == 5


def test_float64_stays_float64(train: Train, tmp_path: Path) -> None:
    result = train("model=two_layer", "dtype=float64", *TINY)
    _, found = left(tmp_path / "runs/x")
    assert found["outputs"].dtype == found["loss"].dtype == np.float64
    assert found["loss"].mean() == pytest.approx(result["test/loss"], rel=1e-12)
    Image.new("L", (8, 8), 90).save("one.png")
    assert cli.run_command(["predict", "x", "one.png", "out=one.npz"]) == 0
    with np.load("one.npz") as one:
        shares = np.exp(one["outputs"]) / np.exp(one["outputs"]).sum()
        assert one["probabilities"].dtype == np.float64
        np.testing.assert_allclose(one["probabilities"], shares, rtol=1e-12)


def test_ids_are_rows_of_the_file_or_paths(train: Train, tmp_path: Path, sources: dict[str, tuple[str, ...]]) -> None:
    train("data=table", *sources["table"], "model=two_layer", *TINY)
    _, found = left(tmp_path / "runs/x")
    lines = Path(sources["table"][0].partition("=")[2]).read_text().splitlines()[1:]
    kinds = [lines[row].rpartition(",")[2] for row in found["id"]]
    assert [f"k{target}" for target in found["target"]] == kinds
    train("data=image_folder", *sources["image_folder"], "model=two_layer", "max_steps=5", "name=y")
    _, found = left(tmp_path / "runs/y")
    assert [("cat", "dog").index(Path(path).parent.name) for path in found["id"]] == found["target"].tolist()


OF_ROWS = """
import torch
from torch.utils.data import Subset
from trainer import Data, Samples
def numbers():
    return torch.arange(60.0)[:, None]
def items():
    return [(row, row) for row in numbers()]
def part():
    return Subset(items(), range(10, 60))
def samples():
    return Data(Samples(numbers(), numbers()))
"""


@pytest.mark.parametrize(
    ("made", "words"),
    [("items", ()), ("part", ()), ("samples", ()), ("items", ("overfit=12",)), ("samples", ("overfit=12",))],
)
def test_ids_are_rows_of_the_users_data_where_train_has_split_it(
    made: str, words: tuple[str, ...], train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "of_rows.py").write_text(OF_ROWS)
    monkeypatch.syspath_prepend(tmp_path)
    with contextlib.suppress(RunStopped):  # twelve samples are not learnt in five steps
        train(f"data._target_=of_rows.{made}", "trust=[of_rows]", "model=two_layer", "loss=mse", *words, *TINY)
    _, found = left(tmp_path / "runs/x")
    assert len(found["id"]) >= 10
    assert found["id"].tolist() == found["target"].flatten().tolist()


def test_of_numbers_and_in_half_precision(train: Train, tmp_path: Path) -> None:
    result = train(
        "data=random_regression", "model=two_layer", "loss=mse", "precision=bfloat16", *TINY, "data.num_samples=40"
    )
    model, found = left(tmp_path / "runs/x")
    expected = {"kind": "numbers", "num_outputs": 10, "is_judged": True, "link": "identity", "center": []}
    assert model["outputs"] == expected
    assert found["outputs"].dtype == found["loss"].dtype == np.float32
    assert ((found["outputs"] - found["target"]) ** 2).mean() == pytest.approx(result["test/loss"], rel=1e-2)


def test_of_many_outputs_the_largest_are_kept(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.run.remembered.MAX_NUMBERS", 1000)
    result = train(*TINY)
    _, found = left(tmp_path / "runs/x")
    assert "outputs" not in found
    assert found["top_classes"].shape == found["top_probabilities"].shape == (359, 5)
    assert (found["top_classes"][:, 0] == found["target"]).mean() == result["test/accuracy"]


def test_a_run_that_continues_leaves_the_last_test(train: Train, tmp_path: Path) -> None:
    train(*TINY)
    (tmp_path / "runs/x/model.json").unlink()  # as in the folder of an older release
    train("max_steps=9", *TINY[1:])
    model, found = left(tmp_path / "runs/x")
    assert model["format"] == 1
    assert json.loads(str(found["about"]))["step"] == 9


CRITERIA = [
    (nn.CrossEntropyLoss(), "logits"),
    (nn.CrossEntropyLoss(label_smoothing=0.1), "logits"),
    (nn.CrossEntropyLoss(torch.tensor([1.0, 20.0, 3.0]), ignore_index=2, label_smoothing=0.1), "logits"),
    (nn.NLLLoss(), "log_probabilities"),
    (nn.NLLLoss(torch.tensor([1.0, 20.0, 3.0])), "probabilities"),
    (nn.BCEWithLogitsLoss(), "logits"),
    (nn.MSELoss(), "logits"),
    (nn.HuberLoss(), "logits"),
    (nn.MSELoss(reduction="sum"), "logits"),
    (SumSquaredError(), "logits"),
    (
        Composite(
            {
                "ce": {"weight": 0.5, "criterion": nn.CrossEntropyLoss()},
                "mse": {"weight": 2, "criterion": nn.MSELoss()},
            }
        ),
        "logits",
    ),
]


@pytest.mark.parametrize(("criterion", "gives"), CRITERIA)
def test_losses_of_samples_come_to_the_loss(criterion: nn.Module, gives: str) -> None:
    model = nn.Linear(4, 3)
    model.gives = gives  # type: ignore[assignment]
    loss_fn = LossFunction(criterion, model, Classes(3), NAMES)
    outputs, targets = torch.randn(7, 3), torch.arange(7) % 3
    outputs = {"logits": outputs, "probabilities": outputs.softmax(1), "log_probabilities": outputs.log_softmax(1)}[
        gives
    ]
    each = loss_fn.each(outputs, targets)
    assert each is not None
    assert each.shape == (7,)
    whole = each.sum() if any(term.kind == "sum" for term in loss_fn.terms) else each.mean()
    assert torch.allclose(whole, loss_fn(outputs, targets).total)
    of = loss_fn.whole(7, targets)  # batch by batch they are the same
    parts = [loss_fn.each(outputs[rows], targets[rows], of) for rows in (slice(4), slice(4, 7))]
    assert torch.allclose(torch.cat(parts), each)


def test_losses_of_samples_with_ignored_places_come_to_the_loss_of_the_test(train: Train) -> None:
    """Of padded rows, say: samples have 1 to 6 places that count, and the mean is over all of these."""
    draw = np.random.default_rng(0)
    targets = draw.integers(0, 3, (40, 6))
    targets[np.arange(6) > np.arange(40)[:, None] % 6] = -100
    np.savez("rows.npz", inputs=draw.normal(size=(40, 1, 1, 6)).astype("f4"), targets=targets[:, None])
    Path("placed.py").write_text(
        "from torch import nn\n\n\nclass Placed(nn.Conv2d):\n    def __init__(self, in_channels, num_classes):\n"
        "        super().__init__(in_channels, num_classes, 1)\n"
    )
    weights = torch.tensor([1.0, 30.0, 5.0])
    words = ("data=arrays", "data.path=rows.npz", "model._target_=placed.Placed", "trust=[placed]", "max_steps=2")
    result = train(*words, "loss.class_weights=[1,30,5]", "batch_size=7", "name=x")
    found = left(Path("runs/x"))[1]
    outputs, told = torch.tensor(found["outputs"]), torch.tensor(found["target"])
    each = nn.functional.cross_entropy(outputs, told, weights, reduction="none").sum((1, 2))
    mean = nn.functional.cross_entropy(outputs, told, weights).item()
    assert result["test/loss"] == pytest.approx(mean, rel=1e-6)
    assert found["loss"].mean() == pytest.approx(mean, rel=1e-6)
    assert found["loss"] == pytest.approx((each / each.mean() * mean).numpy(), rel=1e-5)


def test_a_loss_of_somebody_else_or_a_penalty_has_none_of_its_own() -> None:
    class Mine(nn.Module):
        def forward(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            return outputs.sum()

    model = nn.Linear(4, 3)
    outputs, targets = torch.randn(7, 3), torch.arange(7) % 3
    assert LossFunction(Mine(), model, Classes(3), NAMES).each(outputs, targets) is None
    terms = {
        "ce": {"weight": 1, "criterion": nn.CrossEntropyLoss()},
        "l2": {"weight": 9, "criterion": L2Penalty()},
    }
    each = LossFunction(Composite(terms), model, Classes(3), NAMES).each(outputs, targets)
    assert each is not None
    assert torch.equal(each, nn.CrossEntropyLoss(reduction="none")(outputs, targets))


@pytest.mark.parametrize("its", [Classes(2, ("a", "b"), "probabilities", "values"), Classes(3), Numbers(2), Unread(1)])
def test_a_meaning_comes_back_from_json(its: meaning.Meaning) -> None:
    assert meaning.from_dict(json.loads(json.dumps(meaning.as_dict(its)))) == its


@pytest.mark.parametrize(
    "found",
    [
        None,
        [],
        {},
        {"kind": "magic"},
        {"kind": "numbers"},
        {"kind": "numbers", "num_outputs": 0},
        {"kind": "numbers", "num_outputs": 10**12},
        {"kind": "numbers", "num_outputs": 1, "metrics": []},
        {"kind": "classes", "num_classes": 2, "names": ["a", "b", "c"], "gives": "logits", "compared_with": "index"},
        {"kind": "classes", "num_classes": 2, "names": [1, 2], "gives": "logits", "compared_with": "index"},
        {"kind": "classes", "num_classes": 2, "names": [], "gives": "a name", "compared_with": "index"},
        {"kind": "classes", "num_classes": 2, "names": [], "gives": ["x"], "compared_with": "index"},
    ],
)
def test_a_foreign_meaning_is_refused(found: Any) -> None:
    with pytest.raises(ValueError, match="not what"):
        meaning.from_dict(found)
