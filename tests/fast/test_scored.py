"""F1, precision, recall and AUROC are torchmetrics' numbers, and torchmetrics is not imported for them."""

import os
import subprocess
from collections.abc import Callable

import pytest
import torch

from trainer.distributed import ALONE
from trainer.fast.scored import AVERAGES, PREFIX, standing_for
from trainer.meaning import Classes
from trainer.metrics import MeanOfThere

CPU = torch.device("cpu")


def samples(kind: str) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Scores, labels and the number of classes."""
    draw = torch.Generator().manual_seed(0)
    size = 2 if kind == "two" else 7
    labels = torch.randint(size, (300,), generator=draw)
    scores = (torch.randn(300, size, generator=draw) + 1.5 * torch.eye(size)[labels]).softmax(1)
    if kind == "ties":
        scores = (scores * 5).round() / 5
    if kind == "missing":  # of two classes there is no sample, and one of these is never taken
        labels[labels > 4] = 0
        scores[:, 6] = 0
    return scores, labels, size


@pytest.mark.filterwarnings("ignore:.*No positive samples", "ignore:AUROC is the mean over")
@pytest.mark.parametrize("kind", ["many", "two", "ties", "missing"])
@pytest.mark.parametrize(("name", "average"), [(name, each) for name in AVERAGES for each in AVERAGES[name]])
def test_the_same_as_torchmetrics(name: str, average: str, kind: str) -> None:
    classification = pytest.importorskip("torchmetrics.classification")
    scores, labels, size = samples(kind)
    theirs = getattr(classification, f"Multiclass{name}")(num_classes=size, average=average)
    theirs = MeanOfThere(theirs) if name == "AUROC" else theirs
    mine = standing_for(PREFIX + name, {"average": average}, Classes(size), CPU, ALONE)
    for metric in (theirs, mine):
        metric.update(torch.zeros(1, size), torch.zeros(1, dtype=torch.long))
        metric.reset()
        for part in range(0, 300, 100):
            metric.update(scores[part : part + 100], labels[part : part + 100])
    assert mine.compute() == pytest.approx(float(theirs.compute()), rel=2e-6)


def test_what_it_does_not_know_is_left_to_torchmetrics() -> None:
    for target, options in (("F1Score", {"top_k": 2}), ("AUROC", {"average": "none"}), ("JaccardIndex", {})):
        assert standing_for(PREFIX + target, options, Classes(3), CPU, ALONE) is None


@pytest.mark.slow
def test_a_run_imports_no_torchmetrics(command: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    words = ("metric=[f1,precision,recall,auroc]", "model=two_layer", "dry_run=true")
    done = command(*words, env={**os.environ, "PYTHONPROFILEIMPORTTIME": "1"})
    assert done.returncode == 0
    assert "trainer.fast.scored" in done.stderr
    assert "torchmetrics" not in done.stderr
