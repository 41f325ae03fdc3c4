"""What is read ahead by workers of torch's `DataLoader`: none outlives the run, none that dies or hangs makes it hang.

A `DataLoader` left to itself raises in the middle of whatever the main process does when a worker dies, waits for ever
where one is killed or stopped half-way through a message, and takes a large batch for a worker that hangs. So a thread
looks after the workers, which count the items that they have read; and all are killed at the end. Batches are put into
shared memory before its queue gets them: what finds no room there would be left out without an error.
"""

import functools
import itertools
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import wait
from multiprocessing.util import Finalize
from pickle import PickleError
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader

from trainer.data.items import Items
from trainer.data.shared_memory import Handed, Hands, tidy
from trainer.distributed import die_with_parent
from trainer.errors import UserError
from trainer.signals import ENDING, blocked
from trainer.system.interpreters import forget, safe_path, shorten_sockets
from trainer.system.private import put_away, unlisted, workers_of

# Batches that each worker reads ahead.
AHEAD = 2
# Seconds in which one more item must have been read, and from one look at whether it has to the next.
PATIENCE, LOOK_EVERY = 60.0, 1.0
# Seconds in which workers must have begun: started afresh they import torch, on a busy machine for more than a minute.
TO_BEGIN = 600.0
# Ctrl-C, most schedulers and a terminal that is closed signal every process of a run; the main one still needs a batch
# to finish its step.
NOT_FOR_WORKERS = frozenset(ENDING)
# A process started afresh imports torch first, which takes longer than most validations; a fork is safe on Linux alone.
METHOD = "fork" if sys.platform == "linux" else "spawn"

# Batches that are read at once where there are no workers, as far as they take no more than so many seconds.
MOST_AT_ONCE, QUICK = 16, 0.005

# That a child has ended; a `DataLoader` listens to it. None on Windows.
_ENDED: Any = getattr(signal, "SIGCHLD", None)


class Told(Protocol):
    """Whose methods read.

    Attributes:
        tell: called after every item that has been read.
    """

    tell: Callable[[], None] | None


def read(load: Callable[[Any], Any], keys: Iterable[Any], num_workers: int) -> Iterator[Any]:
    """What `load` makes of each key, in order. Closing it ends the workers.

    Args:
        load: a method of something `Told`, such as `Items`.
        keys: without end if need be.
        num_workers: 0 reads in this process.

    Raises:
        UserError: an item can't be read; a worker has died or hangs, or none can be started; a batch finds no room in
            shared memory.
    """
    if not num_workers:
        yield from _read_here(load, keys)
        return
    source = _Source(load, os.getpid(), num_workers)
    batches = _started(source, keys)
    workers = workers_of(batches)
    if workers is None:
        del batches  # which ends them
        raise UserError(
            f"data.num_workers={num_workers}: this release of torch hides the workers of its DataLoader. Type "
            "data.num_workers=0."
        )
    watch = _Watch(workers, source)
    kill = Finalize(None, _kill, args=(watch.workers,), exitpriority=0)
    try:
        while True:
            found = _next(batches, watch)
            if found is None:
                return
            if isinstance(found, Exception):
                raise found
            yield source.hands.take(found)
    finally:
        watch.is_over = True
        kill()
        watch.thread.join(LOOK_EVERY)  # no thread is left in the middle of something when the next workers are forked
        put_away(batches)


def read_by_thread(load: Callable[[Any], Any], keys: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    """Each key and what `load` makes of it, in order: for what copies and waits for the disk, while Python goes on."""
    reader, waiting = ThreadPoolExecutor(1, "pictures"), deque[tuple[Any, Future[Any]]]()
    try:
        for key in keys:
            waiting.append((key, reader.submit(load, key)))
            if len(waiting) > AHEAD:
                first, found = waiting.popleft()
                yield first, found.result()
        for key, found in waiting:
            yield key, found.result()
    finally:
        reader.shutdown(cancel_futures=True)


def _started(source: "_Source", keys: Iterable[Any]) -> Any:
    """The iterator of a `DataLoader`. Its workers hear no Ctrl-C, and its handler of dead children is put away."""
    before: Any = None if _ENDED is None else signal.getsignal(_ENDED)
    shorten_sockets()
    try:
        with blocked(NOT_FOR_WORKERS), safe_path(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of more workers than cores: `trainer.data.prepare.doubts` says it
            batches = iter(
                DataLoader(
                    source,  # type: ignore[arg-type]
                    batch_sampler=keys,
                    num_workers=source.num_workers,
                    collate_fn=_as_it_is,
                    timeout=LOOK_EVERY,
                    worker_init_fn=source.begin,
                    prefetch_factor=AHEAD,
                    generator=torch.Generator(),  # it draws a seed, which is not to change what the model draws
                    multiprocessing_context=METHOD,
                    persistent_workers=True,  # else it waits at the end until each has ended in its own time
                )
            )
            unlisted(batches)
            return batches
    except (RuntimeError, OSError, AttributeError, TypeError, PickleError) as error:  # the last three: of `spawn`
        raise UserError(
            f"data.num_workers={source.num_workers}: they can't be started: {str(error).splitlines()[0]}. Type "
            "data.num_workers=0, or fewer."
        ) from error
    finally:
        if _ENDED is not None and threading.current_thread() is threading.main_thread():
            signal.signal(_ENDED, before)


def _read_here(load: Callable[[Any], Any], keys: Iterable[Any]) -> Iterator[Any]:
    """In this process. Batches that are quickly read come some at once: to keep their draws apart takes as long."""
    items, keys, at_once = _owner(load), iter(keys), 1
    if not isinstance(items, Items) or items.is_still:
        yield from map(load, keys)
        return
    while some := list(itertools.islice(keys, at_once)):
        since = time.perf_counter()
        try:
            found: Iterable[Any] = items.draws.apart(functools.partial(_loaded, load, some))
        except UserError:
            found = map(load, some)  # raised again when its turn has come
        fitting = int(at_once * QUICK / (time.perf_counter() - since))
        at_once = max(1, min(fitting, 2 * at_once, MOST_AT_ONCE))
        yield from found


class _Watch:
    """Looks after workers, in a thread: of one that dies or is stopped in the middle of what it sends, a `DataLoader`
    waits for the rest without an end. So the others are killed, too, and the pipe that all write into is closed.

    Attributes:
        problem: what has happened to them, for the user; empty: nothing.
        is_waited_for: somebody waits for a batch: only then workers hang that read nothing.
        is_over: they are to end.
    """

    def __init__(self, workers: tuple[list[Any], Any], source: "_Source") -> None:
        (self.workers, self.queue), self.source = workers, source
        self.problem, self.is_waited_for, self.is_over = "", False, False
        self.thread = threading.Thread(target=self._look, name="workers", daemon=True)
        self.thread.start()

    def _look(self) -> None:
        num_read, waited = self.source.num_read.value, 0.0
        while not self.problem:
            since = time.monotonic()
            ended = wait([worker.sentinel for worker in self.workers], LOOK_EVERY)
            # No more than two looks take: a run that was stopped (Ctrl-Z, a scheduler) and goes on has not waited.
            waited += min(time.monotonic() - since, 2 * LOOK_EVERY)
            if self.is_over:
                return
            if ended:
                self.problem = self._death(next(w for w in self.workers if w.sentinel in ended))
            elif not self.is_waited_for or self.source.num_read.value != num_read:
                num_read, waited = self.source.num_read.value, 0.0
            elif waited >= (PATIENCE if num_read >= 0 or METHOD == "fork" else TO_BEGIN):
                self.problem = (
                    f"the workers hang: not one item in {PATIENCE:g} s. See to what the data set reads from, or type "
                    "data.num_workers=0, which waits as long as it takes."
                )
        for worker in self.workers:
            worker.kill()
        self.queue._writer.close()

    def _death(self, worker: Any) -> str:
        until = time.monotonic() + LOOK_EVERY
        while worker.exitcode is None and time.monotonic() < until:
            time.sleep(0.01)  # it closes its pipes a little before it has ended; another thread may be told first, how
        code = worker.exitcode or 0
        how = f"ended with exit code {code}"
        if code < 0:
            why = ", as happens where memory runs out" if signal.Signals(-code).name == "SIGKILL" else ""
            how = f"was killed by signal {-code} ({signal.strsignal(-code)}){why}"
        name = f"worker {self.workers.index(worker)} (process {worker.pid})"
        return f"{name} {how}. Type data.num_workers=0, or a smaller batch_size."


def _next(batches: Any, watch: _Watch) -> Any:
    """The next batch as it was handed over, or what a worker complains of; None after the last."""
    watch.is_waited_for = True
    try:
        while not watch.problem:
            try:
                return next(batches)
            except StopIteration:
                return None
            except Exception as error:  # of pipes and what they bring; what workers complain of comes as a batch does
                if "timed out" in str(error):
                    continue
                watch.thread.join(2 * LOOK_EVERY)  # it finds out who has died
                if not watch.problem:
                    said = (str(error).splitlines() or [type(error).__name__])[0]
                    watch.problem = f"{said}. Type data.num_workers=0."
    finally:
        watch.is_waited_for = False
    raise UserError(f"data.num_workers={len(watch.workers)}: {watch.problem}")


def _kill(workers: list[Any]) -> None:
    for worker in workers:
        worker.kill()
    for worker in workers:
        worker.join(LOOK_EVERY)  # not for ever: a disk that hangs may hold it
    tidy(worker.pid for worker in workers)


def _owner(load: Callable[[Any], Any]) -> Told:
    found: Told = load.__self__  # type: ignore[attr-defined]
    return found


def _loaded(load: Callable[[Any], Any], keys: list[Any]) -> list[Any]:
    return [load(key) for key in keys]


def _as_it_is(batch: Any) -> Any:
    return batch


class _Source:
    """What a `DataLoader` takes for a data set: it is asked for whole batches, by their keys."""

    def __init__(self, load: Callable[[Any], Any], main: int, num_workers: int) -> None:
        self.load, self.main, self.num_workers = load, main, num_workers
        self.num_read = multiprocessing.RawValue("q", -1)  # in shared memory; below 0 until a worker has begun
        self.hands = Hands(num_workers, AHEAD + 1)
        self.number = 0  # of this worker

    def __len__(self) -> int:
        return 0  # nobody asks: batches come by their keys

    def __getitems__(self, key: Any) -> Any:
        """The batch, handed over, or an error for the main process."""
        _owner(self.load).tell = self._count
        try:
            return self._handed(self.load(key))
        except UserError as error:
            return error
        except Exception:
            return RuntimeError(f"in a worker of data.num_workers:\n{traceback.format_exc()}")

    def _handed(self, batch: Any) -> Handed:
        try:
            return self.hands.give(self.number, batch)
        except RuntimeError as error:
            raise UserError(
                f"data.num_workers={self.num_workers}: a batch finds no room in shared memory: "
                f"{str(error).splitlines()[0]}. Type data.num_workers=0, or a smaller batch_size."
            ) from error

    def _count(self) -> None:
        self.num_read.value += 1

    def begin(self, number: int) -> None:
        """In a new worker."""
        self.number = number
        forget()
        die_with_parent()
        if os.getppid() != self.main:  # it has died already
            os._exit(0)
        for name in NOT_FOR_WORKERS:
            signal.signal(name, signal.SIG_IGN)
        self.num_read.value = max(0, self.num_read.value)
