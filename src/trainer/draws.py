"""The state of all random draws: torch's (dropout, initialisation); Python's and NumPy's, for the user's own code."""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def seed_from(text: str) -> int:
    """A seed below 2**63: independent streams from texts that differ."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def seed_all(seed: int) -> None:
    """Seeds the generators of torch, NumPy and Python."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def seed_draws(seed: int) -> None:
    """As `seed_all`, but leaves the generators of GPUs alone: for what items draw, thousands of times a second."""
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


class Watch:
    """Tells whether somebody has drawn from Python's or NumPy's generator, by twins of theirs that draw along.

    To ask costs a tenth of seeding them anew. That it does not notice is as likely as two equal draws, 2**-53.
    """

    def __init__(self) -> None:
        random.seed(0)
        np.random.seed(0)
        self._python, self._numpy = random.Random(0), np.random.RandomState(0)

    def has_drawn(self) -> bool:
        """Whether somebody has, since the watch began; once somebody has, it tells no more."""
        is_same = random.random() == self._python.random()
        return not (np.random.random_sample() == self._numpy.random_sample() and is_same)


@contextmanager
def draws_apart() -> Iterator[None]:
    """What is drawn within, or seeded, changes nothing of what is drawn after it; GPUs are left alone."""
    states = torch.get_rng_state(), np.random.get_state(legacy=False), random.getstate()
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])


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
