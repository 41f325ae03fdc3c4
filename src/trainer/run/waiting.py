"""How long a training waits for its next batch."""

import time
from collections.abc import Iterator

import torch

from trainer.config.settings import Settings
from trainer.data.batches import Batch, Batches, LoadedBatches
from trainer.data.item_batches import ItemBatches, OwnTargets
from trainer.errors import UserError

MOST = 1000  # events of a GPU that are kept


class Waiting:
    """On a CPU: from when the next batch is asked for until it is there."""

    def __init__(self) -> None:
        self._seconds = 0.0

    def watching(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The same batches."""
        since = time.perf_counter()
        for batch in batches:
            self._seconds += time.perf_counter() - since
            yield batch
            since = time.perf_counter()

    def seconds(self) -> float:
        """Since it was asked last."""
        found, self._seconds = self._seconds, 0.0
        return found


class WaitingOfGPU(Waiting):
    """On a CUDA GPU: from its last operation of a step until the next batch lies on it.

    The process runs ahead of the GPU. That it waits for a batch does not say that the GPU does.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self._stream = torch.cuda.current_stream(device)
        self._gaps: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def watching(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        ended = self._now()
        for batch in batches:
            self._gaps.append((ended, self._now()))
            if len(self._gaps) == MOST:
                self._add_up()
            yield batch
            ended = self._now()

    def seconds(self) -> float:
        self._add_up()
        return super().seconds()

    def _now(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record(self._stream)
        return event

    def _add_up(self) -> None:
        for ended, begun in self._gaps:
            begun.synchronize()  # of a step that is recorded it is over: its loss was asked for
            self._seconds += ended.elapsed_time(begun) / 1000
        self._gaps.clear()


def waiting(settings: Settings, device: torch.device, train: Batches) -> Waiting | None:
    """What measures it; None where `monitor.waiting` wants none.

    `auto` measures where batches are read while the run trains. On a GPU it must be asked for: it was never run there.
    """
    read = train.batches if isinstance(train, OwnTargets) else train
    wanted, is_read = settings.monitor.waiting, isinstance(read, LoadedBatches | ItemBatches)
    if wanted == "never" or (wanted == "auto" and (device.type != "cpu" or not is_read)):
        return None
    return WaitingOfGPU(device) if device.type == "cuda" else Waiting()


def refuse_unmeasured(settings: Settings, device: torch.device) -> None:
    """Raises UserError where `monitor.waiting=always` can't be had."""
    if settings.monitor.waiting == "always" and device.type not in ("cpu", "cuda"):
        raise UserError(
            f"monitor.waiting=always: device={device.type} is not measured, a CPU and CUDA are. Type "
            "monitor.waiting=auto."
        )
