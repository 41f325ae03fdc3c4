"""Checkpoints: written so that no crash can spoil a file, read so that no file can run code."""

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from trainer.errors import UserError


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Calls `write` with a temporary name in the same folder; `path` then holds all of it, or what it held before."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # or else a power cut may undo the rename
        finally:
            os.close(folder)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """A text file, whole or not at all."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def read(path: Path) -> dict[str, Any]:
    """The state in a checkpoint file, on the CPU.

    Raises:
        UserError: the file is damaged (each record's CRC, which torch.save writes and torch.load never looks at), holds
            something else, or wants to run code.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise zipfile.BadZipFile(f"the checksum of {damaged} is wrong")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, zipfile.BadZipFile, pickle.UnpicklingError, RuntimeError, EOFError, KeyError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: not a whole checkpoint ({reason}).") from error
    if not isinstance(state, dict) or not {"model", "optimizer", "step"} <= state.keys():
        raise UserError(f"{path}: not a checkpoint of train: it lacks model, optimizer or step.")
    return state


class Checkpoints:
    """The folder `checkpoints/` of a run: `step_<n>.pt`, the newest `keep` of them; `last.pt` and `best.pt` are links.

    Args:
        folder: made when the first checkpoint is written.
        keep: how many `step_<n>.pt` stay.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self.keep = folder, keep

    def save(self, state: dict[str, Any], is_best: bool = False) -> None:
        """Writes the state; the old files go only after the new one is there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"step_{state['step']:08d}.pt"
        write_atomically(path, lambda temporary: torch.save(state, temporary))
        self._link(path, "last.pt")
        if is_best:
            self._link(path, "best.pt")
        for old in self.files()[self.keep :]:
            old.unlink()

    def _link(self, path: Path, name: str) -> None:
        """A second name for the same bytes: no second copy on disk, and retention can't take it away."""
        write_atomically(self.folder / name, lambda temporary: os.link(path, temporary))

    def files(self) -> list[Path]:
        """`step_<n>.pt`, the newest first."""
        return sorted(self.folder.glob("step_*.pt"), reverse=True)

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
