"""The processes of one training: who they are, what they share, and that they end together.

`torchrun --nproc-per-node=2 -m trainer ...` starts them; alone, everything here does nothing.
"""

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from trainer.errors import Interrupted, RunStopped, UserError
from trainer.signals import end_at_once

T = TypeVar("T")

# How long a process waits for the others, who may be busy with what one does alone: a download, the test.
TIMEOUT = timedelta(hours=1)
_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True)
class World:
    """The processes that train one model.

    Args:
        rank: this one's number, from 0. Rank 0 writes.
        size: how many there are.
        local_rank: this one's number on its machine: the number of its GPU.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def sum(self, numbers: Tensor) -> Tensor:
        """The sum over all ranks, on every rank; `numbers` itself is changed."""
        if self.size > 1:
            dist.all_reduce(numbers)
        return numbers

    def gather(self, value: T) -> list[T]:
        """The value of every rank, by rank, on every rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def shared(self, value: T) -> T:
        """Rank 0's value, on every rank."""
        return self.gather(value)[0]

    def together(self, task: Callable[[], T]) -> T:
        """What `task` gives on this rank.

        Raises:
            UserError: that of any rank, on all of them.
        """
        if self.size == 1:
            return task()
        message: str | None = None
        try:
            result = task()
        except UserError as error:
            message = str(error)
        messages = self.gather(message)
        if messages == [None] * self.size:
            return result
        first = next(rank for rank, message in enumerate(messages) if message is not None)
        is_common = all(message == messages[0] for message in messages)
        raise UserError(messages[first] if is_common else f"{messages[first]} (rank {first})")

    def first_alone(self, task: Callable[[], T]) -> T:
        """What `task` gives; the others of a machine begin when its first process is done: what it fetched is there."""
        if self.size == 1:
            return task()
        first = self.together(lambda: task() if self.local_rank == 0 else None)
        result = self.together(lambda: first if self.local_rank == 0 else task())
        return result  # type: ignore[return-value]  # None is what the others had of the first

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Gives every rank the numbers of rank 0, as those in buffers: the running statistics of norm layers."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor.detach(), 0)

    def parallel(self, model: nn.Module, device: torch.device, unused: bool) -> nn.Module:
        """The model, whose gradients are added up over the ranks during each backward pass.

        Every rank's loss is its share of the whole batch's, so gradients are summed; DistributedDataParallel on its own
        takes their mean.

        Args:
            unused: some trainable parameters take no part in the forward pass.
        """
        if self.size == 1:
            return model
        from torch.nn.parallel import DistributedDataParallel

        ids = [device] if device.type == "cuda" else None
        parallel: nn.Module = DistributedDataParallel(model, device_ids=ids, find_unused_parameters=unused)
        parallel.register_comm_hook(None, _sum_gradients)  # type: ignore[operator]
        return parallel


ALONE = World()


def _sum_gradients(state: object, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    future: torch.futures.Future[Tensor] = work.get_future().then(lambda done: done.value()[0])
    return future


def held_back(forward: nn.Module, is_held: bool) -> AbstractContextManager[object]:
    """Within it gradients are not yet added up over the ranks: more of the batch is to come."""
    no_sync: Callable[[], AbstractContextManager[object]] = getattr(forward, "no_sync", contextlib.nullcontext)
    return no_sync() if is_held else contextlib.nullcontext()


class Agreement:
    """Whether any rank wants something, asked at every step without waiting: the answer is that to the step before.

    All ranks get the same answers at the same steps, so they stop and save together.
    """

    def __init__(self, world: World) -> None:
        self._is_alone = world.size == 1
        self._asked: tuple[dist.Work, Tensor] | None = None
        # Of its own: the answer must not wait for a device.
        self._group = None if self._is_alone else dist.new_group(backend="gloo")

    def __call__(self, *wishes: bool) -> list[bool]:
        if self._is_alone:
            return list(wishes)
        answer = self.wait(len(wishes))
        numbers = torch.tensor(wishes, dtype=torch.int32)
        self._asked = dist.all_reduce(numbers, dist.ReduceOp.MAX, group=self._group, async_op=True), numbers
        return answer

    def wait(self, length: int = 0) -> list[bool]:
        """The answer to what was asked last; no, where nothing was."""
        if self._asked is None:
            return [False] * length
        work, numbers = self._asked
        work.wait()
        self._asked = None
        return [bool(number) for number in numbers.tolist()]


def find_world(environment: Mapping[str, str] = os.environ) -> World:
    """What torchrun says in the environment; alone where it says nothing.

    Raises:
        UserError: a variable is missing or makes no sense.
    """
    if "RANK" not in environment and "WORLD_SIZE" not in environment:
        return World()
    how = "Start it with torchrun --nproc-per-node=2 -m trainer ..., or unset RANK and WORLD_SIZE."
    numbers = []
    for name in _VARIABLES:
        value = environment.get(name)
        if value is None:
            raise UserError(f"{name}: is not set, though RANK or WORLD_SIZE is. {how}")
        if name != "MASTER_ADDR":
            if not value.isdecimal():
                raise UserError(f"{name}={value}: must be a whole number >= 0. {how}")
            numbers.append(int(value))
    rank, size, local_rank, _ = numbers
    if size < 1:
        raise UserError(f"WORLD_SIZE={size}: must be at least 1. {how}")
    for name, number in (("RANK", rank), ("LOCAL_RANK", local_rank)):
        if number >= size:
            raise UserError(f"{name}={number}: must be below WORLD_SIZE={size}. {how}")
    return World(rank, size, local_rank)


@contextlib.contextmanager
def joined(world: World, device: torch.device) -> Iterator[None]:
    """Joins the other processes: with nccl where they train on GPUs, else with gloo.

    Raises:
        UserError: they can't be reached.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        die_with_parent()
    if world.size == 1:
        yield
        return
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    try:
        wait_for(lambda: dist.init_process_group(backend, timeout=TIMEOUT, **_of_restart(world)), world)
    except (RuntimeError, ValueError) as error:
        address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise UserError(f"MASTER_ADDR, MASTER_PORT={address}: the other processes can't be reached there.") from error
    is_together = False
    try:
        yield
        is_together = True
    except (Interrupted, RunStopped):
        is_together = True
        raise
    except RuntimeError as error:
        # One of the others has ended, and says why; this one only has nobody left to talk to.
        if isinstance(error, dist.DistError) or "onnection" in str(error):
            raise UserError(f"rank {world.rank}: another process of this training has ended.") from error
        raise
    finally:
        if is_together or backend == "gloo":  # nccl may wait for who has gone
            dist.destroy_process_group()


def wait_for(meet: Callable[[], object], world: World) -> None:
    """Has the processes meet. It is waited for in C++, where no signal is heard: so another thread does.

    Raises:
        Interrupted: a signal came before the others did.
    """
    failures: list[BaseException] = []
    is_over = threading.Event()  # to be interrupted in Thread.join would leave the thread marked as ended

    def task() -> None:
        try:
            meet()
        except BaseException as error:
            failures.append(error)
        is_over.set()

    threading.Thread(target=task, name="meeting", daemon=True).start()
    try:
        while not is_over.wait(0.2):
            pass
    except Interrupted as error:
        number = error.exit_code - 128
        raise Interrupted(f"rank {world.rank}: stopped while it waited for the others.", number) from None
    if failures:
        raise failures[0]


def _of_restart(world: World) -> dict[str, Any]:
    """Arguments that have processes meet which `torchrun --max-restarts` has started again.

    Without `--standalone` it keeps the addresses of those that have ended, where the new ones look for each other. So
    they take names of their own; on several machines they may have been started again unequally often.
    """
    count = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    if count == "0" or os.environ.get("LOCAL_WORLD_SIZE") != str(world.size):
        return {}
    store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), timeout=TIMEOUT)
    return {"store": dist.PrefixStore(f"restart {count}", store), "rank": world.rank, "world_size": world.size}


def die_with_parent() -> None:
    """Has this process end when the one that started it dies, even by SIGKILL.

    On Linux the kernel does it; elsewhere a thread waits for that process.
    """
    if sys.platform != "linux":
        threading.Thread(target=_end_with_parent, args=(os.getppid(),), name="parent", daemon=True).start()
        return
    parent = os.getppid()  # may well be 1: in a container
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it was faster
        end_at_once()


def _end_with_parent(number: int) -> None:
    """The thread: waits for the process that started this one, and ends this one."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()  # a pipe that closes; on Windows the process itself
    else:
        import psutil

        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(number).wait()
    end_at_once()
