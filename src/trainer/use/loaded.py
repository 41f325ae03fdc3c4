"""A finished run's model as an object of Python: raw samples in, and what the run says of itself."""

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from trainer.data.arrays import as_inputs
from trainer.data.image_files import of_picture
from trainer.data.preparation import Pictures, Rows, Theirs
from trainer.disk import foreign
from trainer.errors import UserError
from trainer.meaning import Classes, class_names
from trainer.run.environment import torch_as_new
from trainer.trees import Tree, called, mapped, parts
from trainer.use.evaluate import evaluation
from trainer.use.find import find
from trainer.use.form import refuse_other_form, told_form
from trainer.use.predicted import Model, Predicted
from trainer.use.several import of_samples
from trainer.use.sources import of_pictures_in_files, parts_of
from trainer.use.trained import Trained, open_run

AT_ONCE = 512  # samples that go through the model


class Prediction(NamedTuple):
    """What a sample was taken for.

    Args:
        label: the name of the class, or its number where it has none.
        probability: of this class, 0..1.
        probabilities: of all classes, `[C]`.
    """

    label: str
    probability: float
    probabilities: NDArray[np.floating[Any]]


class History(dict[str, NDArray[np.float64]]):
    """What a run wrote down while it trained: `step`, and for each tag its numbers, NaN where it had none at a step."""

    def to_pandas(self) -> Any:
        """A DataFrame by step."""
        import pandas

        return pandas.DataFrame(dict(self)).set_index("step")

    def of(self, tag: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The steps at which a tag has a number, and the numbers: `plt.plot(*history.of("val/loss"))`."""
        there = ~np.isnan(self[tag])
        return self["step"][there], self[tag][there]


class Loaded(nn.Module):
    """A trained model, in evaluation mode.

    `model(raw)` prepares raw samples as in training, and gives what the network gives, with gradients where torch has
    them switched on. `model.network` is the network alone, for inputs that are prepared already.

    Args:
        trained: what was read of a run.
    """

    def __init__(self, trained: Trained) -> None:
        super().__init__()
        self.network = trained.model
        self._trained = trained
        self.eval()

    @property
    def folder(self) -> Path:
        return self._trained.found.folder

    @property
    def step(self) -> int:
        """So many steps the weights have been trained."""
        return self._trained.step

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes or labels, `0`, `1` ... where they have none; empty where there are none."""
        return class_names(self._trained.about.outputs)

    @property
    def config(self) -> dict[str, Any]:
        """The run's whole config."""
        return self._trained.settings.config

    @property
    def metrics(self) -> dict[str, float]:
        """What the run measured at its end: `test/accuracy`, `val/loss` ...; empty of a run that has not ended."""
        found = self._trained.result
        measured = ("train/", "val/", "test/", "best/")
        return {tag: n for tag, n in found.items() if tag.startswith(measured) and isinstance(n, int | float)}

    @property
    def history(self) -> History:
        """The run's `metrics.jsonl` as arrays."""
        rows = []
        with contextlib.suppress(OSError):
            for record in foreign.metrics(self.folder):
                rows.append({tag: n for tag, n in record.items() if isinstance(n, int | float)})
        tags = dict.fromkeys(tag for row in rows for tag in row)
        return History({tag: np.array([row.get(tag, np.nan) for row in rows], np.float64) for tag in tags})

    def forward(self, raw: Tensor) -> Tree:
        """`[N, ...]` raw samples: uint8 pictures, or the numbers of a file. A table's rows go into `predict`."""
        trained = self._trained
        refuse_other_form(trained.about.inputs, raw, "inputs")
        with trained.precision():
            prepared = trained.about.inputs(raw, trained.device, trained.dtype)
            return called(self.network, mapped(Tensor.clone, prepared))  # it may write into what it is given

    def predict(self, samples: Any) -> list[Prediction] | NDArray[Any]:
        """
        Args:
            samples: a file or several (pictures, folders, patterns, `.csv`, `.npy`, `.npz`); pictures of Pillow, which
                are resized as those of files are; raw samples as a tensor or an array `[N, ...]`, several of them as
                a mapping by name or a tuple; rows of a table as mappings, or as a DataFrame. A single picture, row or
                sample of several tensors counts as a list of one.

        Returns:
            a `Prediction` for each sample; where there are no classes the outputs, `[N, ...]`.

        Raises:
            UserError: a sample can't be read, or is of another form than the model takes.
        """
        model = Model(self._trained)
        with model.ready():
            found = [model.predicted(raw, inputs) for raw, inputs in self._raw(samples)]
        return _together(model, found)

    def _raw(self, samples: Any) -> Iterator[tuple[Tree, Any]]:
        inputs = self._trained.about.inputs
        if isinstance(inputs, Theirs) and inputs.is_tuple and isinstance(samples, tuple):
            samples = [samples]  # arrays, and no list of samples
        samples = listed(samples)
        if isinstance(samples, Sequence) and not samples:
            return
        if isinstance(samples, Sequence) and all(isinstance(s, str | Path) for s in samples):
            for part in parts_of(inputs, list(map(str, samples)), AT_ONCE, {}):
                if part.failed:
                    raise UserError(part.failed[0])
                _warn(part.notes)
                yield part.raw, part.inputs
            return
        if isinstance(samples, Sequence) and all(isinstance(s, Image.Image) for s in samples):
            if not isinstance(inputs, Pictures):
                raise UserError(f"predict: a picture of Pillow; the model takes {told_form(inputs)}.")
            wanted = of_pictures_in_files(inputs, self._trained.settings.group("data"))
            channels, *sides = wanted.raw_shape
            for start in range(0, len(samples), AT_ONCE):
                group = samples[start : start + AT_ONCE]
                try:
                    read = [of_picture(s, channels, (sides[0], sides[1]), wanted.background) for s in group]
                except ValueError as error:
                    raise UserError(f"predict: a picture of Pillow is no whole image ({error}).") from error
                yield torch.stack(read), wanted
            return
        if isinstance(inputs, Theirs) and inputs.tensors:
            raw = of_samples(inputs, samples, "predict")
            yield from ((rows, inputs) for rows in parts(raw, AT_ONCE))
            return
        if isinstance(samples, Sequence) and all(isinstance(s, Mapping) for s in samples):
            if inputs.kind != "table":
                what = "mappings are rows of a table, and the model was trained with none"
                raise UserError(f"predict: {what}. What its own data set makes goes into load(folder)(inputs).")
            for start in range(0, len(samples), AT_ONCE):
                notes: list[str] = []
                rows = inputs.recipe.apply(samples[start : start + AT_ONCE], notes)  # type: ignore[union-attr]
                _warn(notes)
                yield rows, inputs
            return
        raw = self._as_tensor(samples)
        refuse_other_form(inputs, raw, "predict")
        for rows in raw.split(AT_ONCE):
            yield rows, inputs

    def _as_tensor(self, samples: Any) -> Tensor:
        """Raises UserError: they are no array of numbers, or the model takes the columns of a table."""
        inputs = self._trained.about.inputs
        try:
            raw = torch.as_tensor(samples if isinstance(samples, Tensor) else np.asarray(samples))
        except (TypeError, ValueError, RuntimeError) as error:  # of words, of arrays of several sizes
            kind = type(samples[0] if isinstance(samples, Sequence) else samples).__name__
            raise UserError(
                f"predict: samples of {kind} that are no array [N, ...]; the model takes {told_form(inputs)}."
            ) from error
        if isinstance(inputs, Rows):
            names = ", ".join(column.name for column in inputs.recipe.columns[:3])
            raise UserError(f"predict: an array has no names of columns. Give mappings or a DataFrame: {names} ...")
        if not raw.dim():
            raise UserError(f"predict: one number; the model takes {told_form(inputs)}. Give [N, ...].")
        is_other = tuple(raw.shape[1:]) != inputs.raw_shape and raw.dim() in (3, 4) and len(raw) > 0
        if isinstance(inputs, Pictures) and raw.dtype == torch.uint8 and is_other:
            return torch.from_numpy(as_inputs({"predict": raw.cpu().numpy()}, Path("predict"))["predict"])
        return raw

    def evaluate(
        self, split: str | None = None, keys: Mapping[str, Any] | None = None, batch_size: int | None = None
    ) -> dict[str, float]:
        """What `train evaluate` prints: `loss`, `accuracy` ..., whatever a program has set in torch.

        Args:
            split: train, val or test (None).
            keys: dotted, such as `{"data.path": "new.csv"}`, for new data.
        """
        with torch_as_new():
            trained = self._trained if not keys else open_run(self._trained.found, keys)
            return evaluation(trained, split, keys, batch_size).numbers

    def __repr__(self) -> str:
        return f"<{self._trained.name}: {self._trained.about.data}>"


def listed(samples: Any) -> Any:
    """Samples as a list where they are no array: one alone, the rows of a DataFrame, what is iterated over."""
    if isinstance(samples, str | Path | Mapping | Image.Image):
        return [samples]
    if hasattr(samples, "to_dicts"):  # of polars
        return samples.to_dicts()
    if hasattr(samples, "to_dict"):  # of pandas: a row, or a DataFrame
        return [samples.to_dict()] if samples.ndim == 1 else samples.to_dict("records")
    if isinstance(samples, np.ndarray) and samples.dtype.kind in "OU" and samples.ndim == 1:
        return samples.tolist()
    return list(samples) if isinstance(samples, Iterator) else samples


def _warn(notes: Sequence[str]) -> None:
    for note in notes:
        warnings.warn(note, stacklevel=4)  # at the call of `predict`


def _together(model: Model, parts: list[Predicted]) -> list[Prediction] | NDArray[Any]:
    if not parts:
        return []
    whole = {name: np.concatenate([part.arrays[name] for part in parts]) for name in parts[0].arrays}
    if not isinstance(model.meaning, Classes) or "class" not in whole:
        return whole["outputs"]
    shares = [float(row[1]) for part in parts for row in part.rows]
    return list(map(Prediction, whole["class"].tolist(), shares, whole["probabilities"]))


def open_model(place: str, checkpoint: str | None, keys: Mapping[str, Any]) -> Loaded:
    """See `trainer.load`."""
    return Loaded(open_run(find(place, checkpoint), keys))
