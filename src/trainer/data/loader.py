"""Items read ahead by workers of torch's `DataLoader`: none outlives the run, none that dies or hangs makes it hang.

A `DataLoader` left to itself raises in the middle of whatever the main process does when a worker dies, waits for ever
where one is killed half-way through a message, and takes a large batch for a worker that hangs. So its complaints are
heard only while a batch is waited for, a worker is asked how many items it has read, and all are killed at the end.
"""

import contextlib
import functools
import itertools
import multiprocessing
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.util import Finalize
from pickle import PickleError
from typing import Any

import torch
from torch.utils.data import DataLoader

from trainer.data.items import Items, Key
from trainer.data.workers import LOOK_EVERY, NOT_FOR_WORKERS, PATIENCE
from trainer.distributed import die_with_parent
from trainer.errors import UserError
from trainer.signals import blocked
from trainer.system.interpreters import forget, safe_path

# Batches that each worker reads ahead.
AHEAD = 2

# Batches that are read at once where there are no workers, if they take less than so many seconds.
MOST_AT_ONCE, QUICK = 16, 0.005

# That a child has ended. None on Windows, where whoever waits for a batch looks by himself.
_ENDED: signal.Signals | None = getattr(signal, "SIGCHLD", None)


def read(load: Callable[[Key], Any], keys: Iterable[Key], num_workers: int) -> Iterator[Any]:
    """What `load` makes of each key, in order. Closing it ends the workers.

    Args:
        load: a method of `Items`.
        keys: without end if need be.
        num_workers: 0 reads in this process.

    Raises:
        UserError: an item can't be read; a worker has died or hangs, or none can be started.
    """
    if not num_workers:
        yield from _read_here(load, keys)
        return
    source = _Source(load, os.getpid())
    before: Any = None if _ENDED is None else signal.getsignal(_ENDED)
    if getattr(before, "__module__", "").startswith("torch.utils.data"):  # of a loader in the user's own code
        before = signal.SIG_DFL
    try:
        with blocked(NOT_FOR_WORKERS), safe_path(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of more workers than cores: `trainer.data.prepare.doubts` says it
            batches: Any = iter(
                DataLoader(
                    source,  # type: ignore[arg-type]
                    batch_sampler=keys,  # type: ignore[arg-type]
                    num_workers=num_workers,
                    collate_fn=_as_it_is,
                    timeout=LOOK_EVERY,
                    worker_init_fn=source.begin,
                    prefetch_factor=AHEAD,
                    generator=torch.Generator(),  # it draws a seed, which is not to change what the model draws
                    multiprocessing_context="fork" if sys.platform == "linux" else "spawn",
                )
            )
    except (RuntimeError, OSError, AttributeError, TypeError, PickleError) as error:  # the last three: of `spawn`
        raise UserError(
            f"data.num_workers={num_workers}: they can't be started: {str(error).splitlines()[0]}. Type "
            "data.num_workers=0, or fewer."
        ) from error
    finally:
        if _ENDED is not None and threading.current_thread() is threading.main_thread():
            signal.signal(_ENDED, before)
    workers = batches._workers
    kill = Finalize(None, _kill, args=(workers,), exitpriority=0)
    try:
        while True:
            with _deaths_heard(workers, num_workers):
                found = _next(batches, source, workers, num_workers)
            if found is None:
                return
            if isinstance(found, UserError):
                raise found
            yield found[0]
    finally:
        with _deaths_ignored():
            kill()
            with contextlib.suppress(Exception):
                batches._shutdown_workers()


def _read_here(load: Callable[[Key], Any], keys: Iterable[Key]) -> Iterator[Any]:
    """In this process. Batches that are quickly read come some at once: to keep their draws apart takes as long."""
    items, keys, at_once = _items_of(load), iter(keys), 1
    if items.is_still:
        yield from map(load, keys)
        return
    while some := list(itertools.islice(keys, at_once)):
        since = time.perf_counter()
        try:
            found: Iterable[Any] = items.draws.apart(functools.partial(_loaded, load, some))
        except UserError:
            found = map(load, some)  # raised again when its turn has come
        at_once = min(2 * at_once, MOST_AT_ONCE) if time.perf_counter() - since < QUICK else 1
        yield from found


def _next(batches: Any, source: "_Source", workers: list[Any], num_workers: int) -> Any:
    """The next batch in a tuple, or what a worker complains of; None after the last."""
    num_read, since = source.num_read.value, time.monotonic()
    while True:
        try:
            return next(batches)
        except StopIteration:
            return None
        except (RuntimeError, OSError, EOFError) as error:
            _refuse_dead(workers, num_workers)
            if "timed out" not in str(error):
                raise UserError(
                    f"data.num_workers={num_workers}: {str(error).splitlines()[0]}. Type data.num_workers=0."
                ) from error
        if source.num_read.value > num_read:
            num_read, since = source.num_read.value, time.monotonic()
        elif time.monotonic() - since >= PATIENCE:
            raise UserError(
                f"data.num_workers={num_workers}: the workers hang: not one item in {PATIENCE:g} s. See to what the "
                "data set reads from, or type data.num_workers=0, which waits as long as it takes."
            )


@contextlib.contextmanager
def _deaths_heard(workers: list[Any], num_workers: int) -> Iterator[None]:
    """A worker that dies meanwhile, or has died, ends the wait."""
    if _ENDED is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(_ENDED, lambda *_: _refuse_dead(workers, num_workers, is_ended_too=False))
    try:
        _refuse_dead(workers, num_workers, is_ended_too=False)
        yield
    finally:
        signal.signal(_ENDED, before)


@contextlib.contextmanager
def _deaths_ignored() -> Iterator[None]:
    """Workers that are killed within are meant to be: nobody's handler complains."""
    if _ENDED is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(_ENDED, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(_ENDED, before)


def _refuse_dead(workers: list[Any], num_workers: int, is_ended_too: bool = True) -> None:
    """Raises UserError where a worker was killed; `is_ended_too`: or has ended by itself."""
    for number, worker in enumerate(workers):
        code = worker.exitcode
        if code is None or (code == 0 and not is_ended_too):
            continue
        how = f"ended with exit code {code}"
        if code < 0:
            why = ", as happens where memory runs out" if signal.Signals(-code).name == "SIGKILL" else ""
            how = f"was killed by signal {-code} ({signal.strsignal(-code)}){why}"
        raise UserError(
            f"data.num_workers={num_workers}: worker {number} (process {worker.pid}) {how}. Type data.num_workers=0, "
            "or a smaller batch_size."
        )


def _kill(workers: list[Any]) -> None:
    for worker in workers:
        worker.kill()
    for worker in workers:
        worker.join(LOOK_EVERY)  # not for ever: a disk that hangs may hold it


def _items_of(load: Callable[[Key], Any]) -> Items:
    items = load.__self__  # type: ignore[attr-defined]
    assert isinstance(items, Items)
    return items


def _loaded(load: Callable[[Key], Any], keys: list[Key]) -> list[Any]:
    return [load(key) for key in keys]


def _as_it_is(batch: Any) -> Any:
    return batch


class _Source:
    """What a `DataLoader` takes for a data set: it is asked for whole batches, by their keys."""

    def __init__(self, load: Callable[[Key], Any], main: int) -> None:
        self.load, self.main = load, main
        self.num_read = multiprocessing.RawValue("q", 0)  # in shared memory

    def __len__(self) -> int:
        return 0  # nobody asks: batches come by their keys

    def __getitems__(self, key: Key) -> Any:
        _items_of(self.load).tell = self._count
        try:
            return (self.load(key),)
        except UserError as error:
            return error

    def _count(self) -> None:
        self.num_read.value += 1

    def begin(self, number: int) -> None:
        """In a new worker."""
        forget()
        die_with_parent()
        if os.getppid() != self.main:  # it has died already
            os._exit(0)
        for name in NOT_FOR_WORKERS:
            signal.signal(name, signal.SIG_IGN)
