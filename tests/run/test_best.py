"""The best weights are tested as well as the last, each exactly, and `test` says which are `test/...`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from exact import assert_same
from trainer.data.digits import load
from trainer.data.prepare import prepare
from trainer.disk import checkpoint
from trainer.models.two_layer import TwoLayer

# A rate at which the validation gets worse again.
WORDS = ("model=two_layer", "optimizer=sgd", "optimizer.lr=1.5", "eval_every=5", "max_steps=40", "monitor=off")


def by_hand(path: str) -> dict[str, float]:
    """What the weights of a checkpoint come to on the test split, without this tool's evaluation."""
    inputs, targets = next(iter(prepare(load(), torch.device("cpu"), torch.float32).test.in_order()))
    assert len(targets) == 359
    model = TwoLayer(in_features=64, out_features=10)
    model.load_state_dict(checkpoint.read(Path(path))["model"])
    with torch.no_grad():
        outputs = model(inputs)
    return {
        "loss": cross_entropy(outputs, targets).item(),
        "accuracy": (outputs.argmax(1) == targets).float().mean().item(),
    }


def of(result: dict[str, Any], split: str) -> dict[str, float]:
    return {name: result[f"{split}/{name}"] for name in ("loss", "accuracy")}


def test_both_are_tested_and_test_says_which_is_reported(
    train: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    best = train(*WORDS, "name=run")
    assert "tested         the best, step" in capsys.readouterr().out
    assert best["tested"] == "best"
    assert 0 < best["best_step"] < best["steps"] == 40
    assert checkpoint.read(Path("runs/run/checkpoints/best.pt"))["step"] == best["best_step"]
    assert of(best, "test") == pytest.approx(by_hand("runs/run/checkpoints/best.pt"), rel=1e-5)
    assert of(best, "test/last") == pytest.approx(by_hand("runs/run/checkpoints/last.pt"), rel=1e-5)
    assert of(best, "test") != of(best, "test/last")
    # Of a finished run the other is asked for: it is tested once more, and nothing else is done.
    before = checkpoint.read(Path("runs/run/checkpoints/last.pt"))
    last = train(*WORDS, "name=run", "test=last")
    assert of(last, "test") == of(best, "test/last")
    assert of(last, "test/best") == of(best, "test")
    assert last["tested"] == "last"
    assert "the last, step 40; the best, step" in capsys.readouterr().out
    assert_same(checkpoint.read(Path("runs/run/checkpoints/last.pt")), before)
    records = [json.loads(line) for line in Path("runs/run/metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records if "test/loss" in record] == [40]


def test_one_validation_is_one_test(train: Callable[..., dict[str, Any]]) -> None:
    result = train("model=two_layer", "max_steps=3", "monitor=off", "name=run")
    assert result["tested"] == "best"
    assert result["best_step"] == 3
    assert not any(tag.startswith(("test/last", "test/best")) for tag in result)


@pytest.mark.parametrize("spoiled", ["gone", "damaged", "another"])
def test_without_its_best_checkpoint_the_last_is_tested_and_a_line_says_so(
    spoiled: str, train: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    whole = train(*WORDS, "name=run")
    path = Path("runs/run/checkpoints/best.pt")
    if spoiled == "damaged":
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 255
        path.unlink()
        path.write_bytes(content)
    elif spoiled == "another":
        path.unlink()
        path.write_bytes(Path("runs/run/checkpoints/last.pt").read_bytes())
    else:
        path.unlink()
    Path("runs/run/result.json").unlink()
    capsys.readouterr()
    result = train(*WORDS, "name=run")
    assert "best.pt: " in (out := capsys.readouterr().out)
    assert "The last weights are tested alone." in out
    assert result["tested"] == "last"
    assert of(result, "test") == of(whole, "test/last")
