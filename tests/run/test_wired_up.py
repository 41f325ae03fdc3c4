"""`dry_run=true` makes some steps and writes nothing; `overfit=64` says whether a few samples were learnt."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from plain import losses, parts_of, request_of
from trainer.command import main as cli
from trainer.errors import RunStopped, UserError
from trainer.run.run import run

Train = Callable[..., dict[str, Any]]
SMALL = ("model=two_layer", "model.hidden_features=16", "monitor=off", "batch_size=40")


def contents() -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path().rglob("*") if path.is_file()}


def test_a_dry_run_writes_nothing_and_prints_what_there_is(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    train(*SMALL, "max_steps=3", "name=it")
    before = contents()
    capsys.readouterr()
    for words in (("max_steps=9", "name=it"), ("name=new",), ("fast=false", "optimizer=sgd")):
        assert cli.run_command([*SMALL, *words, "dry_run=true"]) == 0
        said = capsys.readouterr().out
        assert "N x 10" in said
        assert "40 x 1 x 8 x 8 float32" in said
        assert "nothing was written" in said
    with pytest.raises(UserError, match=r"^profile=true dry_run=true: a profile is of a run"):
        train(*SMALL, "profile=true", "dry_run=true")
    assert contents() == before


def test_its_memory_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = run(request_of(*SMALL, "optimizer=adam", "dry_run=true"))
    num_bytes = 4 * (64 * 16 + 16 + 16 * 10 + 10)
    assert found["bytes_weights"] == found["bytes_gradients"] == num_bytes
    assert found["bytes_optimizer"] == 2 * num_bytes + 4  # two moments, and the count of steps
    # What the backward pass needs: the inputs, the hidden layer before or after its ReLU, the log-softmax, the targets.
    assert 40 * 4 * (64 + 16 + 10) <= found["bytes_activations"] <= 40 * 4 * (64 + 3 * 16 + 3 * 10) + 8 * 40 + 64


def test_the_same_samples_are_learnt_by_heart(train: Train) -> None:
    result = train(*SMALL, "overfit=30", "optimizer.lr=0.01", "name=it")
    assert result["steps"] == 500
    assert result["overfit"].startswith("pass: accuracy 1, loss 2.")
    assert result["test/loss"] == result["val/loss"]
    data, whole = (parts_of(*SMALL, *words).data for words in (["overfit=30"], []))
    assert len(data.train) == 30
    assert torch.equal(data.train.inputs, data.val.inputs)
    assert all(any(torch.equal(one, other) for other in whole.train.inputs) for one in data.test.inputs)


def test_one_sample_is_in_no_order(train: Train) -> None:
    assert train(*SMALL, "overfit=1", "optimizer.lr=0.01", "max_steps=30", "name=it")["diagnosis"] == []


def test_what_can_not_be_learnt_fails_with_code_3(train: Train) -> None:
    with pytest.raises(RunStopped, match=r"^overfit=30: fail: accuracy 0\.\d+, loss 2\.\d+ before the first step"):
        train(*SMALL, "overfit=30", "max_steps=2", "optimizer.lr=1e-6", "name=it")
    assert RunStopped.exit_code == 3
    assert "fail" in Path("runs/it/result.json").read_text()
    assert losses("it")


def test_numbers_and_image_files(train: Train, sources: dict[str, tuple[str, ...]]) -> None:
    numbers = ("data=random_regression", "loss=mse", "model=two_layer", "optimizer.lr=0.01", "monitor=off")
    assert train(*numbers, "overfit=8", "max_steps=200")["overfit"].startswith("pass: loss ")
    images = ("data=image_folder", *sources["image_folder"], "monitor=off", "optimizer.lr=1e-9", "max_steps=1")
    with pytest.raises(RunStopped, match=r"^overfit=5: fail"):
        train(*images, "overfit=5", "name=images")
    assert len(losses("images")) == 1
