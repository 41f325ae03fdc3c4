"""That an exported file is the model: a process that knows nothing of us runs it over the whole test split."""

import json
import subprocess
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trainer.data.batches import Batches
from trainer.errors import UserError
from trainer.evaluate import evaluate
from trainer.losses.function import LossFunction
from trainer.meaning import Classes
from trainer.run.teacher import lost_teacher
from trainer.trees import called, leaves, mapped
from trainer.use import alone
from trainer.use.evaluate import judges, measured
from trainer.use.portable import Portable
from trainer.use.samples import Labelled
from trainer.use.trained import Trained

BATCH = 64
# How far outputs may be from the model's own, as a part of the largest: other libraries add in another order.
TOLERANCE = 1e-3
ONE_IN = 1000  # samples one may be taken for another class: of two that are as likely, rounding chooses
# How far a number of `result.json` may be from what the file's outputs come to; trained in half precision, further.
OF_RESULT, OF_HALF = 1e-3, 0.05


@dataclass(frozen=True)
class Proof:
    """What a file came to, run by itself.

    Args:
        numbers: `loss`, `accuracy` ... over the whole test split.
        expected: the same of `result.json`.
        difference: the largest, of outputs from the model's own, as a part of the largest output.
        num_other: samples that were taken for another class.
        taken: what goes in: `uint8 [N, 3, 32, 32]`, of several tensors with their names.
    """

    samples: int
    numbers: dict[str, float]
    expected: dict[str, float]
    difference: float
    num_other: int
    milliseconds: float
    runtime: str
    taken: str

    def as_dict(self) -> dict[str, Any]:
        return {
            "samples": self.samples,
            "metrics": self.numbers,
            "result": self.expected,
            "largest_difference": self.difference,
            "other_classes": self.num_other,
            "ms_per_sample": self.milliseconds,
            "runtime": self.runtime,
        }


def prove(trained: Trained, labelled: Labelled, form: str, file: Path, raw: Mapping[str, Path]) -> Proof:
    """
    Args:
        labelled: the run's own test split.
        raw: an `.npy` of each tensor of the same samples, as it goes into the file; others are written beside them.
    """
    outputs, told = run_alone(form, file, raw, trained.dtype)
    expected, meaning = own_outputs(trained, labelled.batches), trained.about.outputs
    difference = float((outputs - expected).abs().max()) / max(float(expected.abs().max()), 1e-30)
    num_other = 0
    if isinstance(meaning, Classes):
        num_other = int((meaning.predicted(outputs) != meaning.predicted(expected)).sum())
    numbers = judged(trained, labelled, outputs)
    milliseconds, taken = 1000 * told["seconds"] / len(outputs), told_forms(raw)
    in_result, runtime = measured(trained, "test", numbers), str(told["runtime"])
    return Proof(len(outputs), numbers, in_result, difference, num_other, milliseconds, runtime, taken)


def told_forms(raw: Mapping[str, Path]) -> str:
    """What arrays are, by their names where there are several."""
    arrays = {name: np.load(path, mmap_mode="r") for name, path in raw.items()}
    forms = {name: f"{array.dtype} [{', '.join(['N', *map(str, array.shape[1:])])}]" for name, array in arrays.items()}
    return ", ".join(f"{name} {form}" for name, form in forms.items()) if len(forms) > 1 else next(iter(forms.values()))


def refuse_unproven(trained: Trained, proof: Proof, precision: str) -> None:
    """Raises UserError: the file gives something else than the model, or than `result.json` has.

    Args:
        precision: of the training.
    """
    name, end = trained.found.folder, "It is not kept. Try another format=."
    if proof.num_other > proof.samples // ONE_IN:
        raise UserError(
            f"{name}: the file takes {proof.num_other:,} of {proof.samples:,} test samples for another class than the "
            f"model (outputs differ by {proof.difference:.2g} of the largest). {end}"
        )
    if not proof.difference <= TOLERANCE:
        raise UserError(
            f"{name}: the file's outputs differ from the model's by {proof.difference:.2g} of the largest; accepted is "
            f"{TOLERANCE:g}. {end}"
        )
    tolerance = OF_RESULT if precision == "float32" else OF_HALF
    for metric, expected in proof.expected.items():
        found = proof.numbers[metric]
        if not abs(found - expected) <= tolerance * max(1.0, abs(expected)):
            raise UserError(
                f"{name}: the file's test/{metric} is {found:.6g}, and result.json has {expected:.6g}. {end}"
            )


def _or_float32(dtype: torch.dtype) -> str:
    return "; of a model that was trained with dtype=float32 there is onnx" if dtype == torch.float64 else ""


def run_alone(
    form: str, file: Path, raw: Mapping[str, Path], dtype: torch.dtype = torch.float32
) -> tuple[Tensor, dict[str, Any]]:
    """The outputs of a file in a process that knows nothing of us, and what that process says.

    Args:
        dtype: of the model.

    Raises:
        UserError: it can't be run.
    """
    place = next(iter(raw.values())).parent
    out = place / "out.npz"
    words = [form, file.absolute(), out, BATCH, *raw.values()]
    command = [sys.executable, "-I", alone.__file__, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=place)
    if done.returncode != 0:
        last = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "nothing was said")
        if "NOT_IMPLEMENTED" in last:  # as its convolutions in float64
            raise UserError(
                f"format={form}: onnxruntime can't compute this model: {last.rpartition(' : ')[2][:200].rstrip('. ')}. "
                f"It is not kept. Type format=pt2{_or_float32(dtype)}."
            )
        raise UserError(f"format={form}: the file can't be run by itself: {last[:300]}. It is not kept.")
    with np.load(out) as stored:
        return torch.from_numpy(stored["outputs"]), json.loads(done.stdout.splitlines()[-1])


def own_outputs(trained: Trained, batches: Batches) -> Tensor:
    """What the model gives for a split as its training had it; of several tensors the one that a file gives."""
    last = Portable(trained.model, None, trained.about.outputs)
    with torch.no_grad():
        return torch.cat([last(batch.inputs)[0] for batch in batches.in_order()])


class Replayed(nn.Module):
    """Gives outputs that are known, batch by batch."""

    def __init__(self, outputs: Tensor) -> None:
        super().__init__()
        self.outputs, self.start = outputs, 0

    def forward(self, *inputs: Any, **named: Any) -> Tensor:
        number = len(next(iter(leaves((inputs, named)))))
        self.start += number
        return self.outputs[self.start - number : self.start]


def judged(trained: Trained, labelled: Labelled, outputs: Tensor) -> dict[str, float]:
    """The loss and the metrics of known outputs; without the loss where that wants more than them."""
    loss_fn, metrics = judges(trained, labelled)
    network, device = Replayed(outputs), trained.device
    if wants_more(trained, labelled, loss_fn):
        return without_loss(trained, labelled, outputs)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a tensor that is indexed with a word
            found = evaluate(network, loss_fn, labelled.batches, device, trained.precision, metrics=metrics) or {}
            return {name: n for name, n in found.items() if name != "loss" or lost_teacher(trained.settings) is None}
    except (TypeError, KeyError, IndexError, AttributeError):  # a part of a loss that reads several outputs
        return without_loss(trained, labelled, outputs)


def wants_more(trained: Trained, labelled: Labelled, loss_fn: LossFunction) -> bool:
    """Whether the loss is the model's, or differentiates its outputs, or is one of the user's that is given several
    outputs and may read any of them.
    """
    is_more = loss_fn.is_of_model or loss_fn.differentiates_inputs
    if is_more or not trained.settings.is_own("loss"):
        return is_more
    inputs = mapped(Tensor.clone, next(labelled.batches.in_order()).inputs)
    with torch.no_grad():
        return not isinstance(called(trained.model, inputs), Tensor)


def without_loss(trained: Trained, labelled: Labelled, outputs: Tensor) -> dict[str, float]:
    """What the meaning of known outputs measures."""
    meaning, targets = trained.about.outputs, labelled.batches.targets
    if not isinstance(targets, Tensor):
        return {}
    sums = {name: part.tolist() for name, part in meaning.judged(outputs, targets.cpu()).items()}
    return {name: n for name, n in meaning.concluded(sums, len(outputs)).items() if name in meaning.metrics}
