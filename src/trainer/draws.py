"""The state of all random draws: torch's (dropout, initialisation); Python's and NumPy's, for the user's own code."""

import hashlib
import random
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch

T = TypeVar("T")


def seed_from(text: str) -> int:
    """A seed below 2**63: independent streams from texts that differ."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def seed_all(seed: int) -> None:
    """Seeds the generators of torch, NumPy and Python."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


class ForeignDraws:
    """Lets the user's code draw as a function of what it is asked for, and leaves the run's own draws alone.

    Torch's generator is seeded for every item: an item may also ask for its seed, which leaves no trace. To seed
    Python's and NumPy's takes longer than many an item does: each is seeded from the first time on that somebody has
    drawn from it. Those of GPUs are not touched.
    """

    def __init__(self) -> None:
        self._of_python = self._of_numpy = False  # somebody has drawn from it
        self._is_apart = False

    def seed(self, text: str) -> None:
        """What is drawn from here on is a function of `text`."""
        seed = seed_from(text)
        torch.default_generator.manual_seed(seed)
        if self._of_numpy:
            np.random.seed(seed % 2**32)
        if self._of_python:
            random.seed(seed)

    def apart(self, work: Callable[[], T]) -> T:
        """What `work` gives, which seeds before all that may draw; called again where it draws from more generators."""
        if self._is_apart:
            return work()
        mine, python, numpy = torch.get_rng_state(), random.getstate(), _numpy_state()
        self._is_apart = True
        try:
            return self._watched(work, python, numpy)
        finally:
            self._is_apart = False
            torch.set_rng_state(mine)
            if self._of_python:
                random.setstate(python)
            if self._of_numpy:
                _set_numpy_state(numpy)

    def _watched(self, work: Callable[[], T], python: Any, numpy: tuple[Any, ...]) -> T:
        found: list[T] = []
        problem = None
        try:
            found.append(work())
        except Exception as error:  # maybe one that only some draws bring about
            problem = error
        before = self._of_python, self._of_numpy
        self._of_python = self._of_python or random.getstate() != python
        self._of_numpy = self._of_numpy or _numpy_state() != numpy
        if before != (self._of_python, self._of_numpy):
            return self._watched(work, python, numpy)
        if problem is not None:
            raise problem
        return found[0]


def _numpy_state() -> tuple[Any, ...]:
    """Of NumPy's generator, which can be compared."""
    kind, numbers, *rest = np.random.get_state()
    return (kind, np.asarray(numbers).tobytes(), *rest)


def _set_numpy_state(state: tuple[Any, ...]) -> None:
    kind, numbers, *rest = state
    np.random.set_state((kind, np.frombuffer(numbers, np.uint32), *rest))


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
