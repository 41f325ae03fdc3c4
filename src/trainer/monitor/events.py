"""TensorBoard event files, written by a thread of their own and read back to cut a run off at a step.

An event file is a row of records, a record is one serialised `Event` message in a frame:
length (uint64), masked CRC-32C of the length, the message, masked CRC-32C of the message, all little-endian
(`tensorflow/core/lib/io/record_writer.h`; the mask: `tensorflow/core/lib/hash/crc32c.h`).
The writers that come with torch and tensorboard do the same with one record per number and a checksum in pure Python,
and import tensorflow wherever it is installed; this one needs numpy and the message classes alone.
"""

import io
import itertools
import os
import queue
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from tensorboard.compat.proto.event_pb2 import Event, SessionLog, SourceMetadata
from tensorboard.compat.proto.graph_pb2 import GraphDef
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_STRING

from trainer.disk.files import cannot_write, write_atomically
from trainer.monitor.tags import IMAGES

MAX_WAITING = 1000  # times that records may wait for the disk; one more, and the caller waits with them
HPARAMS_PREFIX = "_hparams_/"  # the tags of the HPARAMS tab: a run that goes on writes them anew
# What the end of a run writes, after its last step and its last checkpoint.
END_PREFIXES = ("test/", IMAGES, "about/diagnosis", "about/computation", "about/per_class")

_CASTAGNOLI = 0x82F63B78  # the polynomial of CRC-32C, bits reversed (RFC 3720, appendix B.4)
_CHUNK = 1024  # bytes that are looked up at once


@cache
def _crc_table() -> NDArray[np.uint32]:
    """`[_CHUNK * 256]`: at `256 * d + b` what byte `b`, `d` bytes before the end, adds to the checksum.

    A CRC is linear over XOR, so the checksum of a chunk is the XOR of what each of its bytes adds alone.
    """
    table = np.empty((_CHUNK, 256), np.uint32)
    register: NDArray = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        register = (register >> 1) ^ np.where(register & 1, np.uint32(_CASTAGNOLI), np.uint32(0))
    table[0] = register
    for distance in range(1, _CHUNK):  # one more zero byte behind it
        register = table[0][register & 0xFF] ^ (register >> 8)
        table[distance] = register
    return table.ravel()


@cache
def _register_tables() -> list[list[int]]:
    """What each of the four bytes of a register, the lowest first, adds to the checksum of the chunk that follows."""
    return [_crc_table()[256 * (_CHUNK - 1 - i) : 256 * (_CHUNK - i)].tolist() for i in range(4)]


_DISTANCES = np.arange(_CHUNK - 1, -1, -1) * 256


def crc32c(data: bytes | NDArray[np.uint8]) -> int:
    """The CRC-32C checksum of at least four bytes."""
    table, data = _crc_table(), np.frombuffer(data, np.uint8)
    # Zero bytes in front leave a register of zero alone, so the data is filled up to whole chunks from the front, and
    # what is in the register when a chunk begins counts as if it were XORed into the chunk's first four bytes. At the
    # start of the data that is 32 ones.
    chunks = np.zeros((-(-len(data) // _CHUNK), _CHUNK), np.uint8)
    start = chunks.size - len(data)
    chunks.reshape(-1)[start:] = data
    chunks.reshape(-1)[start : start + 4] ^= 0xFF
    first, second, third, fourth = _register_tables()
    register = 0
    for added in np.bitwise_xor.reduce(table[_DISTANCES + chunks], axis=1).tolist():
        of_low = first[register & 0xFF] ^ second[register >> 8 & 0xFF]
        register = added ^ of_low ^ third[register >> 16 & 0xFF] ^ fourth[register >> 24]
    return register ^ 0xFFFFFFFF


def _mask(checksum: int) -> int:
    return (((checksum >> 15) | (checksum << 17)) + 0xA282EAD8) & 0xFFFFFFFF


@lru_cache(maxsize=256)
def _frame_head(length: int) -> bytes:
    head = struct.pack("<Q", length)
    return head + struct.pack("<I", _mask(crc32c(head)))


def _framed(message: bytes) -> bytes:
    return b"".join((_frame_head(len(message)), message, struct.pack("<I", _mask(crc32c(message)))))


def records(path: Path) -> Iterator[bytes]:
    """The messages of an event file up to its end or its first torn or damaged record, as TensorBoard reads it."""
    size = path.stat().st_size
    with path.open("rb") as file:
        while len(head := file.read(12)) == 12:
            length = struct.unpack_from("<Q", head)[0]
            if head != _frame_head(length) or length > size:
                return
            message, checksum = file.read(length), file.read(4)
            if len(message) < length or checksum != struct.pack("<I", _mask(crc32c(message))):
                return
            yield message


def event_files(folder: Path) -> list[Path]:
    """The event files of one run, oldest first."""
    return sorted(folder.glob("events.out.tfevents.*"))


def cut(folder: Path, step: int) -> None:
    """Take everything after a step out of a run's event files, and what a crash left torn at their ends.

    What belongs to no step stays (the model's graph), but for the HPARAMS tab's start and end of the run: TensorBoard
    believes the first it finds, and the run that goes on will end in its own way. So it will write what an end writes
    (`END_PREFIXES`): of the step itself that goes, too.
    """
    for path in event_files(folder):
        # Without "tfevents" in its name, no reader takes it for an event file.
        write_atomically(path, lambda rest, path=path: _copy(path, step, rest), folder / ".cut.tmp")  # type: ignore[misc]


def _copy(path: Path, step: int, rest: Path) -> None:
    """What `cut` leaves of an event file."""
    with rest.open("wb") as file:
        for message in records(path):
            try:
                event = Event.FromString(message)
            except DecodeError:
                break
            stale = (HPARAMS_PREFIX, *END_PREFIXES) if event.step == step else HPARAMS_PREFIX
            is_stale = any(value.tag.startswith(stale) for value in event.summary.value)
            if not is_stale and (event.step <= step or not event.HasField("summary")):
                file.write(_framed(message))


@dataclass(frozen=True)
class Histogram:
    """Counts of finite numbers in buckets, and what `HistogramProto` holds beside them.

    Args:
        limits: `[num_buckets]` ascending right edges; a bucket begins where the one before it ends.
        counts: `[num_buckets]`.
        min, max, sum, sum_of_squares: of the finite numbers; zero where there are none.
        num_nonfinite: NaNs and infinities, which are in no bucket.
    """

    limits: NDArray[np.float64]
    counts: NDArray[np.float64]
    min: float
    max: float
    sum: float
    sum_of_squares: float
    num_nonfinite: int = 0

    @property
    def num(self) -> int:
        return int(self.counts.sum())


def _varint(number: int) -> bytes:
    """Protocol Buffers' base-128 encoding, low bits first; of 0 .. 2**63 - 1."""
    encoded = bytearray()
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


@lru_cache(maxsize=64)
def _scalars_template(tags: tuple[str, ...]) -> tuple[NDArray[np.uint8], NDArray[np.intp]]:
    """A serialised `Summary` of scalars, and `[num_tags, 4]`: where the bytes of their values lie in it.

    The tags of a run repeat: encoded once, a record is four bytes per number and a checksum. The field numbers
    (`Summary.value = 1`; `Value.tag = 1`, `Value.simple_value = 2`) are those of `summary.proto`.
    """
    summary, ends = bytearray(), []
    for tag in tags:
        name = tag.encode()
        value = b"\x0a" + _varint(len(name)) + name + b"\x15" + bytes(4)
        summary += b"\x0a" + _varint(len(value)) + value
        ends.append(len(summary))
    return np.frombuffer(bytes(summary), np.uint8), np.array(ends)[:, None] - np.arange(4, 0, -1)


def _encode_scalars(tags: tuple[str, ...], values: NDArray[np.float64]) -> bytes:
    template, positions = _scalars_template(tags)
    summary = template.copy()
    with np.errstate(over="ignore"):  # what float32 cannot hold is shown as an infinity
        summary[positions] = values.astype("<f4").view(np.uint8).reshape(-1, 4)
    return summary.tobytes()


def _encode_histograms(histograms: dict[str, Histogram]) -> bytes:
    """The same by hand: the numbers of a packed field are the bytes of an array.

    `Summary.Value.histo = 5`; `HistogramProto.min = 1, max = 2, num = 3, sum = 4, sum_squares = 5, bucket_limit = 6,
    bucket = 7`.
    """
    summary = bytearray()
    for tag, histogram in histograms.items():
        name, of = tag.encode(), histogram
        head = struct.pack(
            "<BdBdBdBdBd", 0x09, of.min, 0x11, of.max, 0x19, of.num, 0x21, of.sum, 0x29, of.sum_of_squares
        )
        limits, counts = histogram.limits.astype("<f8").tobytes(), histogram.counts.astype("<f8").tobytes()
        of_limits, of_counts = (field + _varint(len(limits)) for field in (b"\x32", b"\x3a"))
        histo = b"".join((head, of_limits, limits, of_counts, counts))
        value = b"".join((b"\x0a", _varint(len(name)), name, b"\x2a", _varint(len(histo)), histo))
        summary += b"\x0a" + _varint(len(value)) + value
    return bytes(summary)


def _encode_text(tag: str, markdown: str) -> bytes:
    tensor = TensorProto(dtype=DT_STRING, tensor_shape=TensorShapeProto(), string_val=[markdown.encode()])
    metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
    return Summary(value=[Summary.Value(tag=tag, metadata=metadata, tensor=tensor)]).SerializeToString()


def _encode_image(tag: str, pixels: NDArray[np.uint8]) -> bytes:
    from PIL import Image  # only a run that writes pictures loads it

    height, width, channels = pixels.shape
    file = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels).save(file, "PNG")
    image = Summary.Image(height=height, width=width, colorspace=channels, encoded_image_string=file.getvalue())
    return Summary(value=[Summary.Value(tag=tag, image=image)]).SerializeToString()


_file_numbers = itertools.count()


class EventFile:
    """One more event file in a run's folder.

    Every method but `flush` and `close` only hands its numbers over: a thread encodes and writes them, and the caller
    waits for the disk only if what it has handed over `MAX_WAITING` times waits for it already. What goes wrong in the
    thread (a full disk) is raised once, by the next call or by `close`; from then on records are dropped.

    Args:
        folder: the run's folder; made if it is not there.
        resume_step: the step from which a run goes on: everything after it is taken out of the folder's event files.

    Raises:
        UserError: the file cannot be written.
    """

    def __init__(self, folder: Path, resume_step: int | None = None) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if resume_step is not None:
                cut(folder, resume_step)
            # Files are read in the order of their names, in which the time comes first: a file is younger than the
            # last even where both are opened in one second, or where the clock was set back.
            opened = int(time.time())
            for path in event_files(folder):
                if match := re.match(r"events\.out\.tfevents\.(\d+)", path.name):
                    opened = max(opened, int(match[1]) + 1)
            host = re.sub(r"[^\w.-]", "_", socket.gethostname())
            self.path = folder / f"events.out.tfevents.{opened:010d}.{host}.{os.getpid()}.{next(_file_numbers)}"
            self._file = self.path.open("xb", buffering=0)  # what is written can be read at once
        except OSError as error:
            raise cannot_write(folder, error) from error
        self._error: Exception | None = None
        self._is_closed = False
        self._held: list[Callable[[], bytes]] | None = None
        self._waiting: queue.Queue[list[Callable[[], bytes]] | threading.Event | None] = queue.Queue(MAX_WAITING)
        self._thread = threading.Thread(target=self._write, name="event file", daemon=True)
        self._thread.start()

        source = SourceMetadata(writer="trainer.monitor.events")
        self._put(Event(wall_time=time.time(), file_version="brain.Event:2", source_metadata=source).SerializeToString)
        # A TensorBoard that has been open since before the cut still shows what was cut off. At the second START of a
        # run it forgets what lies at or after START's step; the first one of a run counts for nothing.
        first_step = 0 if resume_step is None else resume_step + 1
        session = SessionLog(status=SessionLog.START)
        self._put(Event(wall_time=time.time(), step=first_step, session_log=session).SerializeToString)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """One record for all numbers of a step; none where there is no number."""
        if not values:
            return
        tags, numbers = tuple(values), np.fromiter(values.values(), np.float64, len(values))
        self._put_summary(step, lambda: _encode_scalars(tags, numbers))

    def histograms(self, step: int, histograms: Mapping[str, Histogram]) -> None:
        """One record for all histograms of a step."""
        copy = dict(histograms)
        self._put_summary(step, lambda: _encode_histograms(copy))

    def text(self, tag: str, step: int, markdown: str) -> None:
        self._put_summary(step, lambda: _encode_text(tag, markdown))

    def image(self, tag: str, step: int, pixels: NDArray[np.uint8]) -> None:
        """A picture: uint8 `[height, width, channels]` with one (grey), three (RGB) or four (RGBA) channels."""
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4):
            raise ValueError(f"{tag}: expected uint8 [height, width, 1, 3 or 4], got {pixels.dtype} {pixels.shape}")
        copy = pixels.copy()
        self._put_summary(step, lambda: _encode_image(tag, copy))

    def graph(self, graph: GraphDef) -> None:
        """The model's graph; a run has one."""
        self._put(Event(wall_time=time.time(), graph_def=graph.SerializeToString()).SerializeToString)

    def raw(self, summary: Summary, step: int = 0) -> None:
        """A summary of any other kind, as those of `hparams.py`."""
        self._put_summary(step, summary.SerializeToString)

    @contextmanager
    def together(self) -> Iterator[None]:
        """What is handed over meanwhile wakes the thread once, and not while this one has something to do."""
        self._held = []
        try:
            yield
        finally:
            held, self._held = self._held, None
            if held:
                self._waiting.put(held)

    def flush(self) -> None:
        """Wait until everything handed over so far is in the file."""
        written = threading.Event()
        self._waiting.put(written)
        written.wait()
        self._raise_error()

    def close(self) -> None:
        """Write what still waits, sync the file to the disk and close it. Closing twice is closing once."""
        if not self._is_closed:
            self._is_closed = True
            self._waiting.put(None)
            self._thread.join()
            self._raise_error()

    def _put_summary(self, step: int, encode: Callable[[], bytes]) -> None:
        wall_time = time.time()

        def event() -> bytes:  # Event.wall_time = 1, .step = 2, .summary = 5 (event.proto)
            summary = encode()
            return b"".join(
                (b"\x09", struct.pack("<d", wall_time), b"\x10", _varint(step), b"\x2a", _varint(len(summary)), summary)
            )

        self._put(event)

    def _put(self, event: Callable[[], bytes]) -> None:
        if self._is_closed:
            raise ValueError(f"{self.path} is closed")
        self._raise_error()
        if self._held is not None:
            self._held.append(event)
        else:
            self._waiting.put([event])

    def _raise_error(self) -> None:
        error, self._error = self._error, None
        if isinstance(error, OSError):
            raise cannot_write(self.path, error) from error
        if error is not None:
            raise error

    def _write(self) -> None:
        """The thread: writes until it is told to stop; after an error it only empties the queue, so nobody waits."""
        has_failed = False
        while (item := self._waiting.get()) is not None:
            if isinstance(item, threading.Event):
                item.set()
            elif not has_failed:
                try:
                    rest = memoryview(b"".join(_framed(event()) for event in item))
                    while rest:  # an unbuffered write may write less than it was given
                        rest = rest[self._file.write(rest) :]
                except Exception as error:
                    self._error, has_failed = error, True
        try:
            with self._file:
                os.fsync(self._file.fileno())
        except OSError as error:
            self._error = self._error or error
