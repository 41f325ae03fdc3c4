"""What a model makes of a split, kept while it is evaluated: one pass for everything that is drawn of it."""

from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from trainer.meaning import Classes, Meaning
from trainer.system.private import is_passing
from trainer.trees import Tree

MAX_NUMBERS = 10_000_000  # of the outputs: 40 MB, which is all of most splits
MAX_POINTS = 1000  # samples whose features and thumbnails are kept
MAX_FEATURES = 10_000  # of a sample; more are no features but the image itself
MAX_WRONG = 15
THUMBNAIL = 64  # pixels, the longer side
PICTURE = 112  # pixels, the longer side of a sample that is shown by itself


class Wrong(NamedTuple):
    """The samples that the model was surest of and wrong about, the surest first.

    Shapes: `inputs` `[W, ...]`, images with at most `PICTURE` pixels a side; the others `[W]`. `confidence` is the
    score (0..1) of the class that was predicted.
    """

    confidence: Tensor
    inputs: Tensor
    targets: Tensor
    predicted: Tensor


@dataclass(frozen=True)
class Predictions:
    """What a model made of the first samples of a split, in their order, on the host.

    Args:
        num_samples: in the whole split.
        outputs: `[N, ...]` float32, N at most `num_samples`.
        targets: `[N]` class labels or `[N, D]` numbers.
        scores: `[N, num_classes]`, 0..1; None where there are no classes.
        predicted: `[N]` classes; None where there are none.
        features: `[M, F]` float32, M at most `MAX_POINTS`: what the last linear layer was given; None without one,
            or where that is more than `MAX_FEATURES` numbers.
        inputs: `[M, ...]`, images with at most `THUMBNAIL` pixels a side.
        wrong: of the whole split; None where there are no classes.
    """

    num_samples: int
    outputs: Tensor
    targets: Tensor
    scores: Tensor | None
    predicted: Tensor | None
    features: Tensor | None
    inputs: Tensor
    wrong: Wrong | None

    def num_classes(self) -> int:
        """Scores of each sample; 0 where there are no classes."""
        return 0 if self.scores is None else self.scores.shape[1]

    def most_mistaken(self, count: int) -> Tensor:
        """At most so many classes `[count]`, in their order: those that most wrong samples are of or were taken for."""
        assert self.predicted is not None
        is_wrong = self.targets != self.predicted
        mistaken = torch.cat((self.targets[is_wrong], self.predicted[is_wrong]))
        times = torch.bincount(mistaken, minlength=self.num_classes())
        return times.topk(min(count, len(times))).indices.sort().values

    def confusion(self, classes: Tensor | None = None) -> Tensor:
        """`[C, C]` int64: how many samples of the class i of these C (row) were taken for their class j (column).

        Args:
            classes: `[C]`; None for all.
        """
        assert self.predicted is not None
        classes = torch.arange(self.num_classes()) if classes is None else classes
        place = torch.full((self.num_classes(),), -1)
        place[classes] = torch.arange(len(classes))
        rows, columns = place[self.targets], place[self.predicted]
        is_shown = (rows >= 0) & (columns >= 0)
        pairs = rows[is_shown] * len(classes) + columns[is_shown]
        return torch.bincount(pairs, minlength=len(classes) ** 2).view(len(classes), len(classes))


class Collector:
    """Keeps what goes by in an evaluation, where it lies, without a wait for the device.

    Used as `with Collector(...) as collector:` around the evaluation that calls `add`.

    Args:
        model: is watched for what goes into its last linear layer.
        num_samples: in the split.
        meaning: of the model's outputs.
    """

    def __init__(self, model: nn.Module, num_samples: int, meaning: Meaning) -> None:
        self._linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
        self._num_samples, self._meaning = num_samples, meaning
        self._handles: list[Any] = []
        self._given: Tensor | None = None  # to the linear layer that was called last
        self._outputs: list[Tensor] = []
        self._targets: list[Tensor] = []
        self._features: list[Tensor] = []
        self._inputs: list[Tensor] = []
        self._wrong: Wrong | None = None
        self.is_of_trees = False  # inputs are a dict or a tuple

    def __enter__(self) -> Self:
        self._handles = [linear.register_forward_pre_hook(self._note) for linear in self._linears]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    @property
    def is_empty(self) -> bool:
        """Whether all batches were passed over."""
        return not self._outputs

    def _note(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        given = args[0] if args else None
        self._given = None if isinstance(given, Tensor) and is_passing(given) else given

    def add(self, inputs: Tree, outputs: Tree, targets: Tree) -> None:
        """The next batch: what went in, what came out, and what should have. What is not one tensor is passed over."""
        self.is_of_trees = not isinstance(inputs, Tensor)
        if not isinstance(outputs, Tensor) and isinstance(self._meaning, Classes):
            outputs = self._meaning.scores_of(outputs)
        if not (isinstance(inputs, Tensor) and isinstance(outputs, Tensor) and isinstance(targets, Tensor)):
            return
        if self._num_kept(self._outputs) * outputs[0].numel() < MAX_NUMBERS:
            self._outputs.append(outputs.detach().float())
            self._targets.append(targets)
        if (room := MAX_POINTS - self._num_kept(self._inputs)) > 0:
            self._inputs.append(shrunk(inputs[:room], THUMBNAIL))
            given = self._given
            is_per_sample = isinstance(given, Tensor) and given.dim() > 1 and len(given) == len(inputs)
            if given is not None and is_per_sample and given.shape[-1] <= MAX_FEATURES:
                given = given.detach()[:room].float()
                # [N, ..., F] of a transformer: the mean over its tokens
                self._features.append(given if given.dim() == 2 else given.flatten(1, -2).mean(1))
        self._given = None
        if isinstance(self._meaning, Classes) and self._meaning.is_readable(outputs):
            self._keep_wrong(self._meaning, inputs, outputs, targets)

    @staticmethod
    def _num_kept(parts: list[Tensor]) -> int:
        return sum(map(len, parts))

    def _keep_wrong(self, classes: Classes, inputs: Tensor, outputs: Tensor, targets: Tensor) -> None:
        scores, predicted = classes.scores(outputs), classes.predicted(outputs)
        confidence = scores.gather(1, predicted.unsqueeze(1)).squeeze(1)
        confidence = confidence.masked_fill(predicted == targets, -1.0)  # below every wrong one
        found = _surest(Wrong(confidence, inputs, targets, predicted))
        found = found._replace(inputs=shrunk(found.inputs, PICTURE))
        if self._wrong is not None:
            found = _surest(Wrong(*(torch.cat(pair) for pair in zip(self._wrong, found, strict=True))))
        self._wrong = found

    def predictions(self) -> Predictions:
        """What was kept, on the host; something was, see `is_empty`."""
        outputs, targets = torch.cat(self._outputs).cpu(), torch.cat(self._targets).cpu()
        inputs = torch.cat(self._inputs).cpu()
        features = torch.cat(self._features).cpu() if self._features else None
        if features is not None and len(features) != len(inputs):
            features = None  # a layer that is not called for every batch
        scores, predicted, wrong = None, None, None
        if self._wrong is not None and isinstance(self._meaning, Classes):
            scores, predicted = self._meaning.scores(outputs), self._meaning.predicted(outputs)
            wrong = Wrong(*(part.cpu() for part in self._wrong))
            wrong = Wrong(*(part[wrong.confidence >= 0] for part in wrong))
        return Predictions(self._num_samples, outputs, targets, scores, predicted, features, inputs, wrong)


def _surest(candidates: Wrong) -> Wrong:
    rows = candidates.confidence.topk(min(MAX_WRONG, len(candidates.confidence))).indices
    return Wrong(*(part[rows] for part in candidates))


def shrunk(inputs: Tensor, size: int) -> Tensor:
    """Images `[N, C, H, W]` with no side longer than `size`, pixels averaged; anything else as it is."""
    if inputs.dim() != 4 or max(inputs.shape[-2:]) <= size:
        return inputs
    height, width = inputs.shape[-2:]
    scale = size / max(height, width)
    shape = (max(1, round(height * scale)), max(1, round(width * scale)))
    return interpolate(inputs, shape, mode="bilinear", antialias=True)
