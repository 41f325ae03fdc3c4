"""What a model makes of raw samples, in the words of whoever asks: classes with probabilities, or numbers."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from trainer.data.preparation import Preparation, Rows, Theirs
from trainer.data.quoting import cut
from trainer.errors import UserError, first_line
from trainer.meaning import Classes, Labels, Meaning, Numbers, Places, class_names
from trainer.meaning.outputs import single
from trainer.trees import Tree, called, fields_of, leaves, mapped
from trainer.trials import DIFFERENTIATING, evaluating
from trainer.use.trained import Trained

Array = NDArray[Any]


@dataclass(frozen=True)
class Predicted:
    """Of `N` samples, on the host.

    Args:
        columns: the heads of what `row` gives.
        arrays: by name, `[N, ...]`: `outputs` and what they stand for.
    """

    columns: list[str]
    arrays: dict[str, Array]
    rows: list[list[str | float]]


def several(meaning: Meaning, outputs: Tree) -> str:
    """A line where several tensors among the outputs could be the prediction, of which one is taken; or nothing."""
    scores = meaning.scores_of(outputs)
    names = {id(leaf): str(name) for name, leaf in fields_of(outputs).items()}
    alike = {
        names.get(id(leaf), f"output {i}"): leaf
        for i, leaf in enumerate(leaves(outputs))
        if scores is not None and leaf.shape == scores.shape
    }
    if len(alike) < 2:
        return ""
    taken = next(name for name, leaf in alike.items() if leaf is scores)
    return (
        f"the model gives {', '.join(alike)}, each of which could be meant: {taken} is taken. In Python all are had: "
        "trainer.load(folder)(inputs)."
    )


class Model:
    """A trained model that takes raw samples.

    Args:
        top: so many classes of each sample, the likeliest first.

    Attributes:
        note: what its user should know of the last prediction.
    """

    note = ""

    def __init__(self, trained: Trained, top: int = 1) -> None:
        self.trained, self.meaning = trained, trained.about.outputs
        self.top = min(top, self.meaning.num_outputs) if isinstance(self.meaning, Classes) else 1
        self._network: nn.Module = trained.model

    @contextlib.contextmanager
    def ready(self) -> Iterator[None]:
        """Within it, what is quicker to the same bits is used."""
        with self.trained.quick() as self._network:
            yield
        self._network = self.trained.model

    def outputs(self, raw: Tree, inputs: Preparation) -> Tree:
        """What the model gives for raw samples, which are prepared as in training."""
        trained = self.trained
        prepared = inputs(raw, trained.device, trained.dtype)
        try:
            return self._outputs(prepared)
        except RuntimeError as error:
            if "does not require grad" not in str(error) or trained.model in DIFFERENTIATING:
                raise
            DIFFERENTIATING.update([trained.model, self._network])  # it differentiates in its own forward pass
            return self._outputs(prepared)

    def _outputs(self, prepared: Tree) -> Tree:
        with evaluating(self._network, self.trained.device), self.trained.precision():
            return mapped(lambda tensor: tensor.detach(), called(self._network, mapped(Tensor.clone, prepared)))

    def predicted(self, raw: Tree, inputs: Preparation) -> Predicted:
        """
        Raises:
            UserError: nobody but the user's own code can read the outputs; several tensors don't go with each other.
        """
        try:
            outputs = self.outputs(raw, inputs)
        except (RuntimeError, IndexError) as error:
            if not isinstance(inputs, Theirs):
                raise
            # Only the model knows which sizes and numbers go with each other.
            raise UserError(f"the model can't take these samples: {cut(first_line(error), 200)}.") from error
        meaning = self.meaning
        self.note = several(meaning, outputs)
        scores = meaning.scores_of(outputs)
        if isinstance(meaning, Classes) and scores is not None and scores.dim() == 2:
            return self._classes(meaning, scores)
        if isinstance(meaning, Labels) and scores is not None:
            return self._labels(meaning, scores)
        if isinstance(meaning, Places) and scores is not None:
            return self._places(meaning, scores)
        if isinstance(meaning, Numbers) and scores is not None:
            return self._numbers(meaning.scores(scores), inputs, scores)
        found = leaves(outputs)
        if len(found) != 1 or not found[0].dim():
            raise UserError(
                f"{self.trained.name}: its outputs are {len(found)} tensors, which only your own code can read. In "
                "Python: trainer.load(folder)(inputs)."
            )
        return self._numbers(found[0], inputs, found[0])

    def _classes(self, meaning: Classes, outputs: Tensor) -> Predicted:
        scores = meaning.scores(outputs)
        best = scores.topk(self.top)
        # The first is what evaluation counts: of equal scores, or one output, it may be another than topk's.
        first = meaning.predicted(outputs)
        probabilities, classes = best.values.cpu().numpy(), best.indices.cpu().numpy()
        if self.top == 1:
            classes = first.unsqueeze(1).cpu().numpy()
            probabilities = scores.gather(1, first.unsqueeze(1)).cpu().numpy()
        columns = ["class", "probability"]
        columns += [f"{name}_{i}" for i in range(2, self.top + 1) for name in ("class", "probability")]
        names = class_names(meaning)
        rows: list[list[str | float]] = [
            [cell for i, p in zip(of_sample, ps, strict=True) for cell in (names[i], p)]
            for of_sample, ps in zip(classes.tolist(), probabilities.tolist(), strict=True)
        ]
        arrays = {
            "class": np.array([names[i] for i in first.tolist()]),
            "probabilities": scores.cpu().numpy(),
            "outputs": single(outputs).cpu().numpy(),
        }
        return Predicted(columns, arrays, rows)

    def _labels(self, meaning: Labels, outputs: Tensor) -> Predicted:
        """How likely each label is."""
        scores = meaning.scores(outputs).cpu().numpy()
        columns = list(class_names(meaning)) if meaning.names else [f"label_{i}" for i in range(meaning.num_outputs)]
        arrays = {"probabilities": scores, "outputs": single(outputs).cpu().numpy()}
        return Predicted(columns, arrays, scores.tolist())

    def _places(self, meaning: Places, outputs: Tensor) -> Predicted:
        """The class at each place, row by row of a picture; as arrays their numbers, `[N, ...]`."""
        numbers = meaning.predicted(outputs).cpu().numpy()
        flat, names = numbers.reshape(len(numbers), -1), class_names(meaning)
        rows: list[list[str | float]] = [[names[number] for number in of_sample] for of_sample in flat.tolist()]
        arrays = {"classes": numbers, "outputs": single(outputs).cpu().numpy()}
        return Predicted([f"class_{i}" for i in range(flat.shape[1])], arrays, rows)

    def _numbers(self, numbers: Tensor, inputs: Preparation, outputs: Tensor) -> Predicted:
        """The numbers that outputs stand for; as arrays both, where they are not the same."""
        values = numbers.to(single(outputs).dtype).cpu().numpy()
        flat = values.reshape(len(values), -1)
        width = flat.shape[1]
        # The columns of a table of pictures are named in the config alone, which is foreign text.
        config = self.trained.settings.group("data")
        asked = inputs.recipe.targets if isinstance(inputs, Rows) else config.get("targets")
        named = [*asked] if isinstance(asked, list | tuple) and len(asked) == width else []
        is_named = numbers.dim() == 2 and all(isinstance(name, str) and name.isprintable() for name in named)
        columns = (named if is_named else []) or (["value"] if width == 1 else [f"value_{i}" for i in range(width)])
        arrays = {"outputs": single(outputs).cpu().numpy()} | ({} if numbers is outputs else {"values": values})
        return Predicted(columns, arrays, flat.tolist())
