"""`profile=true`: where the time of a step goes, by operation and by layer, over a few steps after a warm-up."""

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainer.data.batches import Batch

# Steps before anything is measured, those that are measured as the run computes them, and those with a mark around
# every layer, which are computed in the ordinary way.
WARM_UP, MEASURED, MARKED = 10, 10, 5
MOST_ROWS = 10
TRACE = "trace.json"
_MARK = "layer: "


@dataclass
class Profile:
    """
    Args:
        folder: where the trace goes.
        rows: of the summary, when it is done.
    """

    model: nn.Module
    folder: Path
    device: torch.device
    rows: list[tuple[str, str]] = field(default_factory=list)

    def watching(self, batches: Iterator[Batch], num_steps: int) -> Iterator[Batch]:
        """The same batches; between them the measurement begins and ends.

        Args:
            num_steps: that are to come.
        """
        share = min(1.0, (num_steps - 1) / (WARM_UP + MEASURED + MARKED))  # a short run has fewer of each
        warm_up, measured, marked = (int(share * steps) for steps in (WARM_UP, MEASURED, MARKED))
        if not marked:
            self.rows.append(
                ("profile", f"{num_steps} steps are too few. Type max_steps={WARM_UP + MEASURED + MARKED + 1}")
            )
            yield from batches
            return
        with contextlib.ExitStack() as closing:  # also where the run ends in the midst of it
            profiler: Any = None
            for i, batch in enumerate(batches):
                if i == warm_up + measured:
                    with silent():
                        profiler.__exit__(None, None, None)
                    self._tell("ms a step, operation", profiler, measured)
                    profiler.export_chrome_trace(str(self.folder / TRACE))
                    self.rows.append(("trace", f"{self.folder / TRACE}: open it at https://ui.perfetto.dev"))
                    closing.enter_context(marking(self.model))
                if i == warm_up + measured + marked:
                    with silent():
                        profiler.__exit__(None, None, None)
                    self._tell("ms a step, forward", profiler, marked, _MARK)
                    closing.close()
                if i in (warm_up, warm_up + measured):
                    profiler = self._profiler()
                    with silent():
                        profiler.__enter__()
                yield batch

    def _profiler(self) -> Any:
        from torch.profiler import ProfilerActivity, profile

        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self.device.type == "cuda" else [])]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return profile(activities=activities, acc_events=True)  # or torch 2.11 warns of several cycles

    def _tell(self, title: str, profiler: Any, num_steps: int, mark: str = "") -> None:
        """The operations, or layers, that take the longest."""
        on = "device" if self.device.type == "cuda" else "cpu"
        kind = f"{on}_time_total" if mark else f"self_{on}_time_total"
        found = {event.key: getattr(event, kind) for event in profiler.key_averages() if event.key.startswith(mark)}
        whole = sum(found.values()) or 1.0
        for name, microseconds in sorted(found.items(), key=lambda item: -item[1])[:MOST_ROWS]:
            share = f"{microseconds / 1000 / num_steps:8.3f}  {microseconds / whole:4.0%}  {name.removeprefix(mark)}"
            self.rows.append((title, share))


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Nothing gets to stderr: the profiler's C++ library writes lines there that no setting stops."""
    sys.stderr.flush()
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


@contextlib.contextmanager
def marking(model: nn.Module) -> Iterator[None]:
    """A mark for the profiler around the forward pass of every layer that has no layers in it."""
    from torch.profiler import record_function

    open_marks: list[Any] = []

    def begin(name: str, *_: Any) -> None:
        open_marks.append(record_function(f"{_MARK}{name}"))
        open_marks[-1].__enter__()

    def end(*_: Any) -> None:
        open_marks.pop().__exit__(None, None, None)

    with contextlib.ExitStack() as hooks:
        for name, module in model.named_modules():
            if not any(module.children()):
                label = f"{name or '(model)'} ({type(module).__name__})"
                hooks.callback(module.register_forward_pre_hook(partial(begin, label)).remove)
                hooks.callback(module.register_forward_hook(end).remove)
        yield
