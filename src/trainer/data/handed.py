"""How workers hand batches over: in pieces of shared memory that are used again and again.

The first use of a page of shared memory costs more than to read a small picture: 0.2 ms of CPU time for one of 224
pixels (AMD EPYC, Zen 4, 2026-11-26), and a new piece for each batch a message of its own, 1.5 ms.
"""

import io
import multiprocessing
import pickle
import time
from dataclasses import dataclass
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch
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
        piece: bytes in which they lie; None: the last one of that number.
    """

    worker: int
    number: int
    message: bytes
    piece: Tensor | None


class Hands:
    """Hands batches of some workers over, each in the order in which it made them.

    Args:
        num_pieces: of memory that a worker has. It waits until one is free, which with one more than batches that it
            reads ahead is at once; where shared memory is small, it has fewer.
    """

    def __init__(self, num_workers: int, num_pieces: int) -> None:
        self._taken = multiprocessing.RawArray("q", num_workers)  # of each worker, by the main process
        self._num_pieces, self._given = num_pieces, [0] * num_workers
        self._pieces: dict[tuple[int, int], Tensor] = {}

    def give(self, worker: int, batch: Any) -> Handed:
        """In a worker. Raises RuntimeError: there is no room in shared memory."""
        file = io.BytesIO()
        pickler = _Pickler(file)
        pickler.dump(batch)
        try:
            number, piece, is_new = self._piece(worker, pickler.num_bytes)
        except RuntimeError:
            if self._given[worker] not in range(1, self._num_pieces):
                raise
            self._num_pieces = self._given[worker]  # those that there are
            number, piece, is_new = self._piece(worker, pickler.num_bytes)
        self._given[worker] += 1
        for tensor, place in pickler.found:
            _at(piece, place).copy_(tensor)
        return Handed(worker, number, file.getvalue(), piece if is_new else None)

    def _piece(self, worker: int, num_bytes: int) -> tuple[int, Tensor | None, bool]:
        """Its number, itself as soon as it is free, and whether it has been made for this batch."""
        number = self._given[worker] % self._num_pieces
        while self._taken[worker] <= self._given[worker] - self._num_pieces:
            time.sleep(_MOMENT)
        piece = self._pieces.get((worker, number))
        if not num_bytes or (piece is not None and len(piece) >= num_bytes):
            return number, piece, False
        room = num_bytes if piece is None else int(_ROOM * num_bytes)
        piece = self._pieces[worker, number] = torch.empty(room, dtype=torch.uint8).share_memory_()
        return number, piece, True

    def take(self, handed: Handed) -> Any:
        """In the main process: the batch, in memory of its own."""
        key = handed.worker, handed.number
        if handed.piece is not None:
            self._pieces[key] = handed.piece
        batch = _Unpickler(handed.message, self._pieces.get(key)).load()
        self._taken[handed.worker] += 1
        return batch


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
