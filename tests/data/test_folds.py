"""Folds: each sample validates once, classes have equal shares, groups stay together; the table averages over them."""

import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trainer.command.reading import hydra_at
from trainer.config.compose import Alike
from trainer.config.settings import settings_of
from trainer.config.shipped import CONFIGS
from trainer.data.source import Data
from trainer.errors import UserError
from trainer.run.data import build_data

Train = Callable[..., dict[str, Any]]


def data_of(*words: str) -> Data:
    free = [f"++{word}" if word.startswith("data.fold") else word for word in words]
    with hydra_at([CONFIGS]):
        return build_data(settings_of(Alike("train").composed(free)))


def keys(inputs: torch.Tensor) -> list[bytes]:
    """What tells samples apart; of a table the first column, for gaps of others are filled by the fold's own means."""
    return [row.numpy().tobytes() for row in (inputs[:, :1] if inputs.dim() == 2 else inputs)]


@pytest.mark.parametrize("source", ["digits", "table", "npz"])
def test_each_sample_validates_once_and_classes_have_equal_shares(
    source: str, sources: dict[str, tuple[str, ...]]
) -> None:
    raw = "data.standardize=false"
    of_table, of_arrays = ("data=table", *sources["table"], raw), ("data=arrays", *sources["arrays"], raw)
    words = {"digits": (), "table": of_table, "npz": of_arrays}
    plain = data_of(*words[source])
    folds = [data_of(*words[source], "data.folds=4", f"data.fold={fold}") for fold in range(4)]
    together = sorted(keys(plain.train.inputs) + keys(plain.val.inputs))
    assert sorted(key for fold in folds for key in keys(fold.val.inputs)) == together
    sizes = [len(fold.val) for fold in folds]
    assert max(sizes) - min(sizes) <= 1
    for fold in folds:
        assert sorted(keys(fold.train.inputs) + keys(fold.val.inputs)) == together
        assert keys(fold.test.inputs) == keys(plain.test.inputs), "the test split is what it is without folds"
    counts = torch.stack([torch.bincount(fold.val.targets, minlength=plain.num_classes) for fold in folds])
    assert int((counts.max(0).values - counts.min(0).values).max()) <= 2
    again = data_of(*words[source], "data.folds=4", "data.fold=1")
    assert torch.equal(again.train.inputs, folds[1].train.inputs)


def test_a_table_is_standardised_by_the_samples_that_train(sources: dict[str, tuple[str, ...]]) -> None:
    for words in (("data=table", *sources["table"]), ("data=arrays", *sources["arrays"], "data.standardize=true")):
        data = data_of(*words, "data.folds=3", "data.fold=2")
        column = data.train.inputs[:, 0].double()
        assert column.mean().item() == pytest.approx(0, abs=1e-5)
        assert column.std(correction=0).item() == pytest.approx(1, abs=1e-4)


def test_groups_stay_together(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    patients = draw.integers(0, 12, 90)
    rows = [f"{draw.normal():.4f},p{patient},{int(draw.integers(0, 2))}" for patient in patients]
    (tmp_path / "mine.csv").write_text("\n".join(["width,patient,sick", *rows]))
    words = ("data=table", f"data.path={tmp_path}/mine.csv", "data.targets=[sick]", "data.group=patient")
    patient_of = {row.split(",")[0]: row.split(",")[1] for row in rows}

    def patients_in(inputs: torch.Tensor) -> set[str]:
        return {patient_of[f"{x:.4f}"] for x in inputs[:, 0].tolist()}

    found = [data_of(*words, "data.standardize=false", "data.folds=3", f"data.fold={i}") for i in range(3)]
    for fold in found:
        assert not patients_in(fold.train.inputs) & patients_in(fold.val.inputs)
        assert not patients_in(fold.test.inputs) & patients_in(fold.val.inputs)
    validating = [patients_in(fold.val.inputs) for fold in found]
    assert sum(map(len, validating)) == len(set.union(*validating)), "each patient in one fold"
    with pytest.raises(UserError, match=r"there are \d+ groups. Type data.folds=\d+"):
        data_of(*words, "data.folds=50", "data.fold=0")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("data.folds=5",), "data.folds=5: which of them validates? Type data.fold=0; or all of them: --multirun"),
        (("data.fold=1",), "data.fold=1: of how many? Type data.folds=5 too."),
        (("data.folds=5", "data.fold=5"), "data.fold=5: folds are numbered from 0 to 4. Try data.fold=0."),
        (("data.folds=1", "data.fold=0"), "data.folds=1: must be a whole number >= 2"),
    ],
)
def test_what_can_not_be_meant_is_a_line(words: tuple[str, ...], line: str, train: Train) -> None:
    with pytest.raises(UserError) as error:
        train("model=two_layer", *words)
    assert str(error.value).startswith(line)


@pytest.mark.long
def test_the_table_averages_over_folds(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("model=two_layer", "data.folds=3", "data.fold=range(0,3)", "optimizer.lr=0.01,0.001", "sweep.stack=never")
    train("--multirun", *words, "max_steps=20", "monitor=off", "name=cv")
    out = capsys.readouterr().out
    head, *lines = out[out.index("optimizer.lr  folds") :].splitlines()
    assert "best/val/accuracy" in head
    for lr in ("0.01", "0.001"):
        results = [json.loads(path.read_text()) for path in Path("runs/cv").glob(f"*lr={lr}*/result.json")]
        assert len(results) == 3
        mean = statistics.fmean(result["best/val/accuracy"] for result in results)
        (line,) = [line.split() for line in lines if line.split()[:1] == [lr]]
        assert line[1] == "3"
        assert float(line[2]) == pytest.approx(mean, abs=1e-3)
