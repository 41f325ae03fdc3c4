"""How workers hand batches over: in pieces of shared memory that are used again and again.

The first use of a page of shared memory costs more than to read a small picture: 0.2 ms of CPU time for one of 224
pixels (AMD EPYC, Zen 4, 2026-11-26), and a new piece for each batch a message of its own, 1.5 ms.
"""

import contextlib
import io
import multiprocessing
import pickle
import time
from collections.abc import Iterable
from dataclasses import dataclass
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_ALIGNED = 64  # bytes
_MOMENT = 0.0005  # seconds from one look at whether a piece is free to the next
_ROOM = 1.25  # of what is needed, where a piece has become too small: batches of sequences differ in length

# Where a tensor lies in a piece: offset, dtype, shape, strides.
_Place = tuple[int, torch.dtype, tuple[int, ...], tuple[int, ...]]


@dataclass
class Handed:
    """A batch on its way.

    Args:
        message: pickled, tensors by their places.
        piece: bytes in which they lie: shared memory, or an array, which goes through the pipe; None: the last one of
            that number.
    """

    worker: int
    number: int
    message: bytes
    piece: Tensor | NDArray[np.uint8] | None


class Hands:
    """Hands batches of some workers over, each in the order in which it made them.

    Args:
        num_pieces: of memory that a worker has. It waits until one is free, which with one more than batches that it
            reads ahead is at once. Where shared memory is small, it has fewer; what finds no room in these goes through
            the pipe, which takes longer.
    """

    def __init__(self, num_workers: int, num_pieces: int) -> None:
        self._taken = multiprocessing.RawArray("q", num_workers)  # of each worker, by the main process
        self._num_pieces, self._given = num_pieces, [0] * num_workers
        self._pieces: dict[tuple[int, int], Tensor] = {}
        self._is_full = False  # there is no room for another: each try would take time, and leave a name behind

    def give(self, worker: int, batch: Any) -> Handed:
        """In a worker. Raises RuntimeError: there is no room in shared memory for what goes in torch's own way."""
        file = io.BytesIO()
        pickler = _Pickler(file)
        pickler.dump(batch)
        number, piece, is_new = self._piece(worker, pickler.num_bytes)
        self._given[worker] += 1
        for tensor, place in pickler.found:
            _at(piece, place).copy_(tensor)
        if not is_new or piece is None:
            return Handed(worker, number, file.getvalue(), None)
        return Handed(worker, number, file.getvalue(), piece if piece.is_shared() else piece.numpy())

    def _piece(self, worker: int, num_bytes: int) -> tuple[int, Tensor | None, bool]:
        """Its number, itself as soon as it is free, and whether it has been made for this batch."""
        given = self._given[worker]
        number = given % self._num_pieces
        while self._taken[worker] <= given - self._num_pieces:
            time.sleep(_MOMENT)
        piece = self._pieces.get((worker, number))
        if not num_bytes or (piece is not None and len(piece) >= num_bytes):
            return number, piece, False
        if not self._is_full:
            room = num_bytes if piece is None else int(_ROOM * num_bytes)
            try:
                piece = self._pieces[worker, number] = torch.empty(room, dtype=torch.uint8).share_memory_()
                return number, piece, True
            except RuntimeError:
                self._is_full = True
            if given in range(1, self._num_pieces):
                self._num_pieces = given  # those that there are
                return self._piece(worker, num_bytes)
        return number, torch.empty(num_bytes, dtype=torch.uint8), True

    def take(self, handed: Handed) -> Any:
        """In the main process: the batch, in memory of its own."""
        key = handed.worker, handed.number
        piece = handed.piece
        if isinstance(piece, np.ndarray):
            piece = torch.from_numpy(piece)
        elif piece is not None:
            self._pieces[key] = piece
        batch = _Unpickler(handed.message, self._pieces.get(key) if piece is None else piece).load()
        self._taken[handed.worker] += 1
        return batch


def tidy(pids: Iterable[int]) -> None:
    """Removes what processes that have ended left in shared memory: torch takes a name away as soon as it has made a
    piece, but not where there was no room for it, nor where it was killed meanwhile."""
    for pid in pids:
        for path in Path("/dev/shm").glob(f"torch_{pid}_*"):  # Linux; no such folder: none
            with contextlib.suppress(OSError):
                path.unlink()


class _Pickler(ForkingPickler):
    """Tells places of tensors, which are still to be put there."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self.num_bytes = 0
        self.found: list[tuple[Tensor, _Place]] = []

    def persistent_id(self, thing: Any) -> _Place | None:
        if type(thing) is not Tensor or not _is_plain(thing):
            return None  # it goes in torch's own way
        strides = torch.empty_like(thing, device="meta").stride()  # as a copy has them
        place = self.num_bytes, thing.dtype, tuple(thing.shape), strides
        self.found.append((thing, place))
        self.num_bytes += -(-thing.nbytes // _ALIGNED) * _ALIGNED
        return place


class _Unpickler(pickle.Unpickler):
    def __init__(self, message: bytes, piece: Tensor | None) -> None:
        super().__init__(io.BytesIO(message))
        self.piece = piece

    def persistent_load(self, place: _Place) -> Tensor:
        return _at(self.piece, place).clone()


def _is_plain(tensor: Tensor) -> bool:
    is_on_host = tensor.layout == torch.strided and tensor.device.type == "cpu"
    return is_on_host and not tensor.is_quantized and not tensor.requires_grad


def _at(piece: Tensor | None, place: _Place) -> Tensor:
    offset, dtype, shape, strides = place
    if piece is None or 0 in shape:
        return torch.empty_strided(shape, strides, dtype=dtype)
    count = 1 + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    return piece[offset : offset + count * dtype.itemsize].view(dtype).as_strided(shape, strides)
