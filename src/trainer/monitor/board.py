"""What TensorBoard shows of a run beside its curves: some of it when the run begins, the rest when it has ended."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainer.config.settings import Monitor
from trainer.errors import UserError, first_line
from trainer.meaning import Classes, Meaning
from trainer.monitor.events import EventFile
from trainer.monitor.predictions import Collector, Predictions
from trainer.monitor.tags import IMAGES
from trainer.trees import Tree

Keep = Callable[[Any, Any, Any], None]  # inputs, outputs, targets


class Board:
    """Fills the tabs IMAGES, PR CURVES, PROJECTOR, TEXT and CUSTOM SCALARS.

    What cannot be drawn is noted and left out: no picture is a reason to end a run.

    Args:
        folder: the run's.
        wanted: the `monitor` section of the config.
        note: called with a line for the user.
        meaning: of the model's outputs.
        input_shape: of one sample, as the model gets it.
    """

    def __init__(
        self,
        folder: Path,
        events: EventFile,
        wanted: Monitor,
        note: Callable[[str], None],
        model: nn.Module,
        meaning: Meaning,
        input_shape: Sequence[int],
    ) -> None:
        self.folder, self.events, self.wanted, self.note = folder, events, wanted, note
        self.model, self.meaning, self.input_shape = model, meaning, input_shape
        self._collector: Collector | None = None

    def begin(self, typed: str, yaml: str, version: str, device: torch.device, sample: Tree, has_terms: bool) -> None:
        """Before the first step of a run that is new.

        Args:
            typed: the command.
            yaml: the config.
            version: of train.
            sample: one or two inputs, as the model gets them.
            has_terms: the loss has named terms.
        """
        if not isinstance(sample, Tensor) and (self.wanted.images or self.wanted.projector):
            self.note("TensorBoard shows no samples and no predictions: the inputs are not one tensor")
        if self.wanted.layout:
            self._try("layout", lambda: self._layout(has_terms))
        if self.wanted.texts:
            self._try("texts", lambda: self._texts(typed, yaml, version, device, sample))
        if self.wanted.images:
            self._try("filters", lambda: self._filters(0))

    def first_batch(self, inputs: Tree, targets: Tree) -> None:
        """The batch of step 1."""
        if self.wanted.images and isinstance(inputs, Tensor):
            self._try("first batch", lambda: self._first_batch(inputs, targets))

    @contextmanager
    def watching(self, num_samples: int) -> Iterator[Keep | None]:
        """Gives what the evaluation of the test split, of so many samples, is to call with its batches."""
        if not (self.wanted.images or self.wanted.curves or self.wanted.projector):
            yield None
            return
        with Collector(self.model, num_samples, self.meaning) as self._collector:
            yield self._collector.add

    def end(self, step: int) -> None:
        """After the last step: the first layer, and what the model makes of the test split."""
        if self.wanted.images:
            self._try("filters", lambda: self._filters(step))
        if self._collector is None or self._collector.is_of_trees:  # that was said at the beginning
            return
        if self._collector.is_empty:
            self.note("TensorBoard shows no predictions: outputs or targets are not one tensor")
        else:
            self._try("predictions", lambda: self._end(step))

    def _try(self, what: str, fill: Callable[[], None]) -> None:
        try:
            fill()
        except UserError:  # the event file can't be written
            raise
        except Exception as error:
            self.note(f"warning: no {what} for TensorBoard: {type(error).__name__}: {first_line(error)}")

    def _end(self, step: int) -> None:
        assert self._collector is not None
        predictions = self._collector.predictions()
        if self.wanted.images:
            self._try("pictures", lambda: self._pictures(step, predictions))
        if self.wanted.curves:
            self._try("PR curves", lambda: self._curves(step, predictions))
        if self.wanted.projector:
            self._try("projector", lambda: self._projector(predictions))

    # What only some runs need is imported by those.

    def _layout(self, has_terms: bool) -> None:
        from trainer.monitor.layout import layout

        trained = [name for name, p in self.model.named_parameters() if p.requires_grad and p.dim() > 1]
        self.events.raw(layout(self.meaning.metrics, has_terms, trained if self.wanted.statistics else ()))

    def _texts(self, typed: str, yaml: str, version: str, device: torch.device, sample: Tree) -> None:
        from trainer.monitor import texts

        # Of these names the tab shows the command first. In an ASCII locale a path has bytes that Python can't read.
        typed, yaml = (text.encode("utf-8", "surrogateescape").decode("utf-8", "replace") for text in (typed, yaml))
        self.events.text("about/command", 0, texts.block(typed, "sh"))
        self.events.text("about/config", 0, texts.block(yaml, "yaml"))
        self.events.text("about/environment", 0, texts.pairs_table(texts.environment(device, version)))
        self.events.text("about/model", 0, texts.model_table(self.model, sample))

    def _filters(self, step: int) -> None:
        from trainer.monitor import pictures

        if (picture := pictures.filters(self.model, self.input_shape)) is not None:
            self.events.image(f"{IMAGES}filters", step, picture)

    def _first_batch(self, inputs: Tensor, targets: Tree) -> None:
        from trainer.monitor import pictures

        self.events.image(f"{IMAGES}first_batch", 0, pictures.first_batch(inputs, targets, self.meaning))

    def _pictures(self, step: int, predictions: Predictions) -> None:
        from trainer.monitor import pictures

        for name, draw in (("wrong", pictures.wrong_samples), ("confusion", pictures.confusion_matrix)):
            if (picture := draw(predictions, self.meaning)) is not None:
                self.events.image(f"{IMAGES}{name}", step, picture)

    def _curves(self, step: int, predictions: Predictions) -> None:
        from trainer.monitor import curves

        if predictions.scores is None or not isinstance(self.meaning, Classes):
            return
        drawn = curves.pr_curves(predictions.scores[:, : curves.MAX_CLASSES], predictions.targets)
        telling = {self.meaning.name(i): curve for i, curve in enumerate(drawn) if curves.tells_something(curve)}
        if telling:
            self.events.raw(curves.summary(telling), step)

    def _projector(self, predictions: Predictions) -> None:
        from trainer.monitor import projector

        projector.write(self.folder, predictions, self.meaning)
