"""Checkpoints: written so that no crash can spoil a file, read so that no file can run code."""

import math
import os
import pickle
import re
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainer.cadence import history_period
from trainer.disk import lock
from trainer.disk.files import cannot_write, link_or_copy, write_atomically
from trainer.disk.tensors import load_tensors, refuse_hostile, save_tensors
from trainer.errors import UserError

# How long the best checkpoint may be in memory alone.
BEST_SECONDS = 10.0


def write(path: Path, state: Any) -> None:
    """A checkpoint file: plain values, tensors and a checksum of each; read back before it gets its name."""
    checksums = [checksum(tensor) for tensor in tensors(state)]

    def save(temporary: Path) -> None:
        save_tensors({"state": state, "checksums": checksums}, temporary)
        refuse_hostile(temporary)

    write_atomically(path, save)


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_mapping(value: object, kind: Callable[[Any], bool] = lambda value: True) -> bool:
    """Of names to what is of a kind."""
    return isinstance(value, Mapping) and all(map(_is_text, value)) and all(map(kind, value.values()))


def _record(**kinds: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Tells a mapping that has these names and no others, each for what is of its kind."""
    return lambda value: (
        isinstance(value, Mapping) and value.keys() == kinds.keys() and all(kinds[key](value[key]) for key in kinds)
    )


def _is_fingerprint(value: object) -> bool:
    """See `trainer.data.prepare.Fingerprint`; of an older release a text."""
    if not isinstance(value, tuple | list):
        return _is_text(value)
    return len(value) == 2 and _is_text(value[0]) and all(map(_is_number, value[1]))


_is_best = _record(metric=_is_text, step=_is_count, value=_is_number)
_is_average = _record(updates=_is_count, begins=_is_count, model=_is_mapping, loss=_is_mapping)
_is_patience = _record(
    metric=_is_text, min_delta=_is_number, best=lambda value: value is None or _is_number(value), count=_is_count
)
# What each part of a state is, where it's there. Files may be anybody's, and of an older release.
_KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "model": ("mapping of names", _is_mapping),
    "optimizer": ("mapping of names", _is_mapping),
    "schedule": ("mapping of names", _is_mapping),
    "scaler": ("mapping of names", _is_mapping),
    "random": ("list", lambda value: isinstance(value, list)),
    "last": ("mapping of tags to numbers", partial(_is_mapping, kind=_is_number)),
    "data": ("mapping of fingerprints", partial(_is_mapping, kind=_is_fingerprint)),
    "plain": ("mapping of names to numbers", partial(_is_mapping, kind=_is_number)),
    "best": ("mapping with metric, step and value", lambda value: value == {} or _is_best(value)),
    "patience": ("mapping with metric, min_delta, best and count", _is_patience),
    "average": ("mapping with updates, begins, model and loss", _is_average),
    "seconds": ("finite number", lambda value: _is_number(value) and 0 <= value < math.inf),
    **dict.fromkeys(("step", "evaluated", "num_skipped", "num_skipped_in_row"), ("whole number from 0", _is_count)),
}


def refuse_other_kinds(found: Any, like: Any, key: str) -> None:
    """Refuses texts, lists and nothing where numbers stand in what is to be replaced: a step would fail over them.

    Args:
        found: what a checkpoint holds.
        like: the same of what has just been built; what it lacks, or has as None, may be of any kind.
        key: of both, for the message.

    Raises:
        ValueError: names the first part that is of another kind.
    """
    if isinstance(like, Mapping):
        if not isinstance(found, Mapping):
            raise ValueError(f"its {key} is no mapping")
        for name in like.keys() & found.keys():
            refuse_other_kinds(found[name], like[name], f"{key}.{name}")
    elif isinstance(like, list | tuple):
        if not isinstance(found, list | tuple) or len(found) != len(like):
            raise ValueError(f"its {key} is no list of {len(like)}")
        for i, (mine, yours) in enumerate(zip(found, like, strict=True)):
            refuse_other_kinds(mine, yours, f"{key}.{i}")
    elif isinstance(like, int | float | Tensor) and not isinstance(found, int | float | Tensor):
        raise ValueError(f"its {key} is no number")
    elif isinstance(like, str) and not isinstance(found, str):
        raise ValueError(f"its {key} is no text")


def read(path: Path) -> dict[str, Any]:
    """The state in a checkpoint file, on the CPU.

    Each record's CRC is checked first (`load_tensors`); then the checksum of each tensor, since damage to the archive's
    own tables has torch read the wrong bytes.

    Raises:
        UserError: the file is damaged, holds something else, or wants to run code.
    """
    try:
        content = load_tensors(path)
        found = [checksum(tensor) for tensor in tensors(content)]
    except pickle.UnpicklingError as error:
        raise UserError(f"{path}: not a whole checkpoint (it holds more than tensors and plain values).") from error
    except PermissionError as error:
        raise UserError(f"{path}: can't be read: {error.strerror}.") from error
    except Exception as error:  # damage makes torch and zipfile raise errors of every kind
        reason = ascii(str(error).splitlines()[0])[1:-1] if str(error) else type(error).__name__
        raise UserError(f"{path}: not a whole checkpoint ({reason}).") from error
    if not isinstance(content, dict) or content.keys() != {"state", "checksums"}:
        raise UserError(f"{path}: not a checkpoint of train.")
    state, checksums = content["state"], content["checksums"]
    if not isinstance(state, dict) or not {"model", "optimizer", "step"} <= state.keys():
        raise UserError(f"{path}: not a checkpoint of train: it lacks model, optimizer or step.")
    for key in (key for key in _KINDS if key in state):
        kind, is_right = _KINDS[key]
        if not is_right(state[key]):
            raise UserError(f"{path}: not a checkpoint of train: its {key} is no {kind}.")
    if found != checksums:
        raise UserError(f"{path}: not a whole checkpoint (the checksum of a tensor is wrong).")
    return state


def tensors(state: Any) -> Iterator[Tensor]:
    """Every tensor in nested dicts and lists, in their order."""
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, Mapping):
        for value in state.values():
            yield from tensors(value)
    elif isinstance(state, list | tuple):
        for value in state:
            yield from tensors(value)


def num_bytes(state: Any) -> int:
    """What the tensors of a state take."""
    return sum(tensor.nbytes for tensor in tensors(state))


def snapshot(state: Any) -> Any:
    """The state as it is now, on the CPU: what happens to the tensors later does not change it."""
    if isinstance(state, Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, Mapping):
        return {key: snapshot(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)([snapshot(value) for value in state])
    return state


def checksum(tensor: Tensor) -> int:
    """The CRC-32 of a tensor's bytes."""
    return zlib.crc32(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)


def step_of(path: Path) -> int:
    """Of a file that `Checkpoints.files` gives."""
    return int(path.stem.removeprefix("step_"))


class Checkpoints:
    """The folder `checkpoints/` of a run: `step_<n>.pt`, the newest `keep` of them; `last.pt` and `best.pt` are links.

    Args:
        folder: made when the first checkpoint is written.
        keep: how many of the newest `step_<n>.pt` stay.
        history: how many may stay beside them, evenly spaced over the run; None for none.
    """

    def __init__(self, folder: Path, keep: int, history: int | None = None) -> None:
        self.folder, self.keep, self.history = folder, keep, history

    def save(self, state: dict[str, Any], is_best: bool = False) -> None:
        """Writes the state; the old files go only after the new one is there.

        Raises:
            UserError: it can't be written, as on a full disk; what was there is whole.
        """
        path = self.folder / f"step_{state['step']:08d}.pt"
        self.refuse_lost()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write(path, state)
            self._link(path, "last.pt")
            if is_best:
                self._link(path, "best.pt")
        except pickle.UnpicklingError as error:
            raise UserError(
                f"{path}: could not be read again: {error}. Model and optimizer may keep tensors, numbers, texts, "
                "lists and dicts in their states."
            ) from error
        except (OSError, RuntimeError, zipfile.BadZipFile) as error:  # read back, it is not what was written
            raise cannot_write(path, error, num_bytes(state)) from error
        files = self.files()
        # A run goes on from the newest whole file: what bears a later step than the one just written is damaged.
        earlier = files[files.index(path) :]
        kept = earlier[: self.keep]
        if self.history is not None:
            period = history_period(state["step"], self.history)
            kept += [other for other in earlier if step_of(other) % period == 0]
        for other in files:
            if other not in kept:
                other.unlink()

    def refuse_lost(self) -> None:
        """Raises UserError where the run's folder is not what it was when it was locked, or a link leads out of it."""
        lock.refuse_lost(self.folder.parent)
        if self.folder.is_symlink():
            raise UserError(f"{self.folder}: is a link to {os.readlink(self.folder)}; nothing is written through it.")

    def _link(self, path: Path, name: str) -> None:
        """A second name for the same bytes: no second copy on disk, and retention can't take it away."""
        write_atomically(self.folder / name, lambda temporary: link_or_copy(path, temporary))

    def files(self) -> list[Path]:
        """`step_<n>.pt`, the newest first.

        Raises:
            UserError: the folder can't be read, though it's there.
        """
        try:
            paths = list(self.folder.iterdir())
        except FileNotFoundError:
            return []
        except OSError as error:  # a run that found none would begin once more
            raise UserError(f"{self.folder}: can't be read: {error.strerror}. Make it readable.") from error
        found = [path for path in paths if re.fullmatch(r"step_\d+\.pt", path.name)]
        return sorted(found, key=step_of, reverse=True)

    def newest(self, warn: Callable[[str], None]) -> dict[str, Any] | None:
        """The newest whole state, or None where there is no file.

        Raises:
            UserError: there are files, and none is whole.
        """
        problems = []
        for path in self.files():
            try:
                state = read(path)
            except UserError as error:
                problems.append(str(error))
                continue
            for problem in problems:
                warn(f"warning: {problem} Going on from {path.name}.")
            return state
        if problems:
            raise UserError(" ".join(problems))
        return None


class Saver:
    """Writes checkpoints beside the training: a copy is taken at once, a thread writes it.

    One file at a time: who saves again before the last is written waits for it. The best so far is not written at once,
    as early in a training a better one is soon there, but after `BEST_SECONDS`, or before whatever else is. If the
    process is killed meanwhile, the run goes on from before it and finds it again.
    """

    def __init__(self, checkpoints: Checkpoints) -> None:
        self._checkpoints = checkpoints
        self._thread: threading.Thread | None = None
        self._timer: threading.Timer | None = None
        self._best: dict[str, Any] | None = None  # a copy that is on no disk
        self._next: dict[str, Any] | None = None  # another
        self._taking, self._writing = threading.Lock(), threading.Lock()
        self._error: Exception | None = None

    def save(self, state: dict[str, Any], is_best: bool = False) -> None:
        """Raises UserError: a file before this one could not be written."""
        self.refuse_failed()
        copy = snapshot(state)
        if is_best:
            with self._taking:
                self._best = copy
            if self._timer is None:
                self._timer = threading.Timer(BEST_SECONDS, self._write_best)
                self._timer.daemon = True
                self._timer.start()
            return
        self._join()
        with self._taking:
            self._next = copy
        self._thread = threading.Thread(target=self._write, name="checkpoint")
        self._thread.start()

    def _write_best(self) -> None:
        self._timer = None
        self._write()

    def _write(self) -> None:
        """The best that has waited, then the next."""
        with self._writing:
            with self._taking:
                best, self._best = self._best, None
                state, self._next = self._next, None
            try:
                if best is not None:
                    self._checkpoints.save(best, is_best=True)
                if state is not None:
                    self._checkpoints.save(state)
            except Exception as error:
                self._error = error

    def _join(self) -> None:
        thread, self._thread = self._thread, None
        if thread is not None and thread.ident is not None:  # else a second Ctrl-C came before it began
            thread.join()

    def refuse_failed(self) -> None:
        """Raises UserError if a file could not be written."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def wait(self) -> None:
        """Waits until all is on the disk. Raises UserError if it could not be written, or is there no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._join()
        self._write()  # what no thread has taken
        self.refuse_failed()
        self._checkpoints.refuse_lost()
