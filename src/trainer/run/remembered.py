"""What a run leaves for whoever uses its model: what is done to inputs, what outputs stand for, and its test in detail.

`model.json` is written when the run begins, `predictions.npz` after its test.
"""

import json
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainer import __version__, meaning
from trainer.config.request import Config
from trainer.data.image_files import FolderImages
from trainer.data.items import Items
from trainer.data.preparation import preparation_of
from trainer.data.source import SPLITS, Data
from trainer.disk.files import write_atomically, write_text
from trainer.disk.folder import MODEL
from trainer.losses.function import LossFunction
from trainer.losses.term import Whole
from trainer.meaning import Classes
from trainer.meaning.outputs import single
from trainer.run.parts import Parts
from trainer.trees import Tree, mapped

FORMAT = 1
PREDICTIONS = "predictions.npz"
MAX_NUMBERS = 4_000_000  # of all outputs of the test split: 16 MB; beyond that the largest of each sample are kept
TOP = 5


def about(parts: Parts) -> Config:
    """What one must know of a model to use it. Plain values alone."""
    return {
        "format": FORMAT,
        "versions": {
            "train": __version__,
            "torch": str(torch.__version__),
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "inputs": preparation_of(parts.data, parts.splits).as_dict(),
        "input_shape": list(parts.splits.input_shape),
        "vocab_size": parts.splits.vocab_size,
        "outputs": meaning.as_dict(parts.loss_fn.meaning),
        "metrics": [tag.removeprefix("test/") for tag in parts.tags("test")],
        "data": parts.data.description,
        "num_samples": {split: len(getattr(parts.splits, split)) for split in SPLITS},
        "samples": {split: told for split, (told, _) in parts.state.data.items() if split in SPLITS},
    }


def remember(folder: Path, parts: Parts) -> None:
    """Writes `model.json`, where it isn't there. Raises OSError."""
    if not (folder / MODEL).exists():
        write_text(folder / MODEL, json.dumps(about(parts), indent=1) + "\n")


class Kept:
    """Keeps what the model makes of a split while it is evaluated, where it lies, without a wait for the device.

    Args:
        num_samples: in the split.
    """

    def __init__(self, loss_fn: LossFunction, num_samples: int) -> None:
        self.loss_fn, self.num_samples = loss_fn, num_samples
        self._parts: dict[str, list[Tensor]] = {}

    def add(self, inputs: Tree, outputs: Tree, targets: Tree, of: Whole | None = None) -> None:
        """The next batch of a split, which is `of`; what is not one tensor per sample is passed over."""
        if not isinstance(targets, Tensor):
            return
        outputs = mapped(single, outputs)
        found = {"target": targets}
        if (losses := self.loss_fn.each(outputs, targets, of)) is not None:
            found["loss"] = losses.detach()
        scores = self.loss_fn.meaning.scores_of(outputs)
        if scores is not None:
            found |= self._kept(scores.detach())
            if isinstance(self.loss_fn.meaning, Classes):
                found["predicted"] = self.loss_fn.meaning.predicted(scores)
        for name, part in found.items():
            self._parts.setdefault(name, []).append(part)

    def _kept(self, outputs: Tensor) -> dict[str, Tensor]:
        if outputs[0].numel() * self.num_samples <= MAX_NUMBERS:
            return {"outputs": outputs}
        if not isinstance(self.loss_fn.meaning, Classes):
            return {}
        top = self.loss_fn.meaning.scores(outputs).topk(TOP)
        return {"top_classes": top.indices, "top_probabilities": top.values}

    def arrays(self) -> dict[str, Any]:
        """Name to what was kept, on the host; nothing of what was not kept of every sample."""
        whole = {name: torch.cat(parts) for name, parts in self._parts.items()}
        return {name: single(tensor).cpu().numpy() for name, tensor in whole.items() if len(tensor) == self.num_samples}


def id_of(data: Data, split: str, row: int) -> str | int:
    """What its user calls a sample of a split; see `ids_of`."""
    samples, rows = getattr(data, split), data.rows.get(split)
    if isinstance(samples, FolderImages):
        return str(samples.paths[row])
    return samples.number_of(row) if isinstance(samples, Items) else row if rows is None else int(rows[row])


def ids_of(parts: Parts, split: str) -> Any:
    """What tells the samples of a split apart: paths of files, rows of a file or of the source, places in the split."""
    samples = getattr(parts.data, split)
    if isinstance(samples, FolderImages):
        return np.array(samples.paths)
    if isinstance(samples, Items):
        return np.array([id_of(parts.data, split, row) for row in range(len(samples))])
    rows = parts.data.rows.get(split)
    return np.arange(len(samples)) if rows is None else rows[: len(samples)].numpy()


def write_predictions(folder: Path, parts: Parts, kept: Kept, step: int) -> None:
    """`predictions.npz`: of each sample of the test split its id, target, loss, class, and outputs or their largest.

    Its `about` is JSON: the step of the weights, what tells the split from others, what outputs mean. Raises OSError.
    """
    told, sums = parts.state.data["test"]
    about = {
        "format": FORMAT,
        "step": step,
        "samples": told,
        "sums": list(sums),
        "data": parts.settings.names["data"],
        "outputs": meaning.as_dict(parts.loss_fn.meaning),
    }
    arrays = {"about": np.array(json.dumps(about)), "id": ids_of(parts, "test"), **kept.arrays()}

    def write(temporary: Path) -> None:
        with open(temporary, "xb") as file:
            np.savez(file, **arrays)

    write_atomically(folder / PREDICTIONS, write)
