"""Processes that read images ahead: none outlives the run, and none that dies or hangs makes it hang.

Not a DataLoader: that one raises in the middle of whatever the main process does when a worker dies, can wait for ever
for a lock that a killed worker held, and takes a large batch on a slow disk for a worker that hangs. Here each worker
has a pipe and memory of its own and shares no lock, so that it can be killed at any moment.
"""

import contextlib
import math
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import cycle
from multiprocessing.connection import Connection, wait
from multiprocessing.util import Finalize
from typing import Any

import torch
from torch import Tensor

from trainer.data.source import ImageFiles
from trainer.distributed import die_with_parent
from trainer.errors import UserError
from trainer.signals import ENDING, blocked
from trainer.system.interpreters import forget, safe_path

# Batches that each worker reads ahead.
AHEAD = 2
# Seconds in which a worker must have read one more image, and from one look at whether it has to the next.
PATIENCE, LOOK_EVERY = 60.0, 1.0
# Seconds in which it must have begun: started afresh it imports torch, on a busy machine for more than a minute.
TO_BEGIN = 600.0
# Ctrl-C, most schedulers and a terminal that is closed signal every process of a run; the main one still needs a batch
# to finish its step.
NOT_FOR_WORKERS = frozenset(ENDING)
# A process started afresh imports torch first, which takes longer than most validations; a fork is safe on Linux alone.
CONTEXT: Any = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")


def read(
    files: ImageFiles, batches: Iterable[list[int]], batch_size: int, num_workers: int, is_pinned: bool = False
) -> Iterator[tuple[Tensor, Tensor]]:
    """The images (uint8 `[N, C, H, W]`) and targets `[N]` of each batch, in order. Closing it ends the workers.

    Args:
        batches: the rows of each, at most `batch_size`; without end if need be.
        num_workers: 0 reads in this process.
        is_pinned: images come in page-locked memory, which a GPU copies from while this process goes on.

    Raises:
        UserError: an image can't be read; a worker has died or hangs; there is not enough memory for them.
    """
    if not num_workers:
        for rows in batches:
            images = torch.stack([_image(files, row) for row in rows])
            yield images.pin_memory() if is_pinned else images, files.targets[rows]
        return
    workers: list[_Worker] = []
    ahead: deque[tuple[_Worker, list[int]]] = deque()
    try:
        try:
            for number in range(num_workers):
                workers.append(_Worker(files, batch_size, f"data.num_workers={num_workers}: worker {number}"))
            # A process started within inherits that: a signal before it could ignore signals doesn't end it.
            with blocked(NOT_FOR_WORKERS), safe_path():
                for worker in workers:
                    worker.start()
        except (RuntimeError, OSError) as error:  # of shared memory, of files and processes
            num_bytes = num_workers * AHEAD * batch_size * math.prod(_shape(files))
            raise UserError(
                f"data.num_workers={num_workers}: they can't be started, with {num_bytes / 1e6:,.1f} MB of shared "
                f"memory: {str(error).splitlines()[0]}. Type data.num_workers=0, or a smaller batch_size."
            ) from error
        for worker, rows in zip(cycle(workers), batches, strict=False):
            worker.ask(rows)
            ahead.append((worker, rows))
            if len(ahead) == AHEAD * num_workers:
                worker, rows = ahead.popleft()
                yield worker.images(len(rows), is_pinned), files.targets[rows]
        for worker, rows in ahead:
            yield worker.images(len(rows), is_pinned), files.targets[rows]
    finally:
        for worker in workers:
            worker.kill()


class _Worker:
    """A process, the memory that it writes images into, and the pipe that says which, and when they are there."""

    def __init__(self, files: ImageFiles, batch_size: int, name: str) -> None:
        self.name = name
        slots = torch.empty((AHEAD, batch_size, *_shape(files)), dtype=torch.uint8).share_memory_()
        self.slots = cycle(slots)
        self.num_read = torch.full((), -1).share_memory_()  # below 0 until it has begun
        self.pipe, self.its_pipe = CONTEXT.Pipe()
        self.process = CONTEXT.Process(
            target=_serve, args=(os.getpid(), files, self.its_pipe, slots, self.num_read), daemon=True
        )
        # Called at exit too: there multiprocessing sends SIGTERM, which is ignored, and waits for ever.
        self.kill = Finalize(None, self._kill, exitpriority=0)

    def start(self) -> None:
        self.process.start()
        self.its_pipe.close()

    def ask(self, rows: list[int]) -> None:
        with contextlib.suppress(OSError):  # it has died: told when its images are due
            self.pipe.send(rows)

    def images(self, num_rows: int, is_pinned: bool) -> Tensor:
        """What was asked for first, as soon as it is there."""
        num_read, since = int(self.num_read), time.monotonic()
        while not wait([self.pipe, self.process.sentinel], LOOK_EVERY):
            if int(self.num_read) > num_read:
                num_read, since = int(self.num_read), time.monotonic()
            elif time.monotonic() - since >= (PATIENCE if num_read >= 0 else TO_BEGIN):
                raise UserError(
                    f"{self.name} (process {self.process.pid}) hangs: not one image in {PATIENCE:g} s. See to the disk "
                    f"of data.root, or type data.num_workers=0, which waits as long as it takes."
                )
        error: Exception | None
        try:
            error = self.pipe.recv() if self.pipe.poll() else EOFError()
        except (EOFError, OSError) as lost:
            error = lost
        if isinstance(error, EOFError | OSError):
            raise UserError(
                f"{self.name} (process {self.process.pid}) {self._death()}. Type data.num_workers=0, or a smaller "
                f"batch_size."
            ) from error
        if error is not None:
            raise error
        images: Tensor = next(self.slots)[:num_rows]
        return images.pin_memory() if is_pinned else images.clone()

    def _death(self) -> str:
        self.process.join(LOOK_EVERY)
        code = self.process.exitcode or 0
        if code >= 0:
            return f"ended with exit code {code}"
        why = ", as happens where memory runs out" if signal.Signals(-code).name == "SIGKILL" else ""
        return f"was killed by signal {-code} ({signal.strsignal(-code)}){why}"

    def _kill(self) -> None:
        if self.process.pid is not None:
            self.process.kill()
            self.process.join(LOOK_EVERY)  # not for ever: a disk that hangs may hold it
        self.pipe.close()
        self.its_pipe.close()


def _serve(main: int, files: ImageFiles, pipe: Connection, slots: Tensor, num_read: Tensor) -> None:
    """A worker: fills its slots by turns with the rows that it is asked for; says None, or what went wrong."""
    forget()
    die_with_parent()
    if os.getppid() != main:  # it has died already
        return
    for number in NOT_FOR_WORKERS:
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
    num_read += 1
    for slot in cycle(slots):
        try:
            rows = pipe.recv()
        except (EOFError, OSError):  # the main process has ended
            return
        try:
            for place, row in zip(slot, rows, strict=False):
                place.copy_(_image(files, row))
                num_read += 1
            pipe.send(None)
        except UserError as error:
            pipe.send(error)
        except Exception:
            pipe.send(RuntimeError(f"in a worker of data.num_workers:\n{traceback.format_exc()}"))


def _shape(files: ImageFiles) -> tuple[int, int, int]:
    return files.channels, files.image_size, files.image_size


def _image(files: ImageFiles, row: int) -> Tensor:
    image = files[row][0]
    if image.dtype != torch.uint8 or image.shape != _shape(files):
        raise UserError(
            f"data: image {row} is {image.dtype} {list(image.shape)}; accepted is uint8 {list(_shape(files))}."
        )
    return image
