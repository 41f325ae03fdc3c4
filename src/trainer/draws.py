"""The state of all random draws: torch's (dropout, initialisation); Python's and NumPy's, for the user's own code."""

import ctypes
import hashlib
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.random import mtrand

T = TypeVar("T")


def seed_from(text: str) -> int:
    """A seed below 2**63: independent streams from texts that differ."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def seeds_from(text: str, rows: Iterable[int]) -> list[int]:
    """`seed_from(f"{text}/{row}")` of each row, in two thirds of the time."""
    start = text.encode()
    digests = [hashlib.blake2b(b"%s/%d" % (start, row), digest_size=8).digest() for row in rows]
    found: list[int] = (np.frombuffer(b"".join(digests), "<u8") >> 1).tolist()
    return found


def seed_all(seed: int) -> None:
    """Seeds the generators of torch, NumPy and Python."""
    if torch.accelerator.current_accelerator() is None:  # a torch for CPUs alone
        # torch.manual_seed would note all calls that led to it, for each kind of device: a millisecond.
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def seed_here(seed: int, device: torch.device) -> None:
    """Seeds what `random_state` keeps, and no other device's generator."""
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        torch.cuda.default_generators[index].manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


def has_drawn_since(seed: int) -> bool:
    """Whether anybody has drawn since `seed_all(seed)`. All are seeded again."""
    found = _states()
    seed_all(seed)
    return found != _states()


def _states() -> tuple[bytes, object, bytes]:
    return torch.get_rng_state().numpy().tobytes(), random.getstate(), _bits(mtrand.get_bit_generator())


class ForeignDraws:
    """Lets the user's code draw as a function of what it is asked for, and leaves the run's own draws alone.

    Torch's generator is seeded for every item: an item may also ask for its seed, which leaves no trace. To seed
    Python's and NumPy's takes longer than many an item does: each is seeded from the first time on that somebody has
    drawn from it. Those of GPUs are not touched.
    """

    def __init__(self) -> None:
        self._of_python = self._of_numpy = False  # somebody has drawn from it
        self._is_apart = False
        self._numpy = _OfNumpy()

    @property
    def seed(self) -> Callable[[int], object]:
        """What is drawn from its call on is a function of its number. It is valid within one `work`."""
        of_torch, of_numpy = torch.default_generator.manual_seed, np.random.seed
        if not (self._of_numpy or self._of_python):
            return of_torch
        is_of_numpy, of_python = self._of_numpy, random.seed if self._of_python else None

        def seed(number: int) -> None:
            of_torch(number)
            if is_of_numpy:
                of_numpy(number & 0xFFFFFFFF)
            if of_python is not None:
                of_python(number)

        return seed

    def apart(self, work: Callable[[], T]) -> T:
        """What `work` gives, which seeds before all that may draw; called again where it draws from more generators."""
        if self._is_apart:
            return work()
        mine, python = torch.get_rng_state(), random.getstate()
        self._is_apart = True
        try:
            with self._numpy.apart():
                return self._watched(work, python)
        finally:
            self._is_apart = False
            torch.set_rng_state(mine)
            if self._of_python:
                random.setstate(python)

    def _watched(self, work: Callable[[], T], python: Any) -> T:
        found: list[T] = []
        problem = None
        try:
            found.append(work())
        except Exception as error:  # maybe one that only some draws bring about
            problem = error
        before = self._of_python, self._of_numpy
        self._of_python = self._of_python or random.getstate() != python
        self._of_numpy = self._of_numpy or self._numpy.has_drawn()
        if before != (self._of_python, self._of_numpy):
            return self._watched(work, python)
        if problem is not None:
            raise problem
        return found[0]


class _OfNumpy:
    """Another source of bits in NumPy's generator while somebody else draws: this takes 1 us.

    To get its state takes 30 us, and to set it as long.
    """

    def __init__(self) -> None:
        self._others = np.random.MT19937(0)
        self._fresh = _bits(self._others)
        self._mine, self._keeps = b"", False

    @contextmanager
    def apart(self) -> Iterator[None]:
        mine = mtrand.get_bit_generator()
        bits = _bits(mine)
        # Of two normal numbers that are drawn at once the generator keeps one, which a change of its source forgets.
        # It can't have kept one without a change of its bits.
        if self._keeps or not bits or bits != self._mine:
            state = np.random.get_state(legacy=False)
            self._mine, self._keeps = bits, bool(state["has_gauss"])
        mtrand.set_bit_generator(self._others)
        try:
            yield
        finally:
            mtrand.set_bit_generator(mine)
            if self._keeps:
                np.random.set_state(state)

    def has_drawn(self) -> bool:
        """Whether somebody has ever drawn from it, while it was apart."""
        return _bits(self._others) != self._fresh


def _bits(source: Any) -> bytes:
    """The memory of a Mersenne twister: 624 words and its place in them. Empty of another one."""
    return ctypes.string_at(source.ctypes.state_address, 4 * 625) if type(source) is np.random.MT19937 else b""


def random_state(device: torch.device) -> dict[str, Any]:
    """Of the generators of the CPU, of `device`, of Python and of NumPy; tensors and plain values alone."""
    version, numbers, gauss = random.getstate()
    kind, keys, *rest = np.random.get_state()
    state: dict[str, Any] = {
        "cpu": torch.get_rng_state(),
        "python": [version, torch.from_numpy(np.array(numbers, np.int64)), gauss],
        "numpy": [kind, torch.from_numpy(np.asarray(keys, np.int64)), *rest],
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        state["mps"] = torch.mps.get_rng_state()
    return state


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Puts back what `random_state` gave; the state of another kind of device is left out."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers.tolist()), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["cpu"].cpu())
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)
    elif device.type == "mps" and "mps" in state:
        torch.mps.set_rng_state(state["mps"].cpu())
