"""A run as one file that anybody may open: texts, and tensors as safetensors. Nothing in it can run."""

import contextlib
import hashlib
import json
import os
import shutil
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainer.disk import checkpoint
from trainer.disk.files import (
    cache_folder,
    cannot_write,
    link_or_copy,
    make_private,
    shared_with,
    sync,
    sync_folder,
    write_atomically,
)
from trainer.errors import UserError

# What a pack may hold, and the most bytes of it; more than a text is stored as it is, and unpacks to no more.
TEXTS = {
    "README.md": 1 << 20,
    "config.yaml": 1 << 20,
    "overrides.yaml": 1 << 20,
    "model.json": 1 << 26,
    "result.json": 1 << 20,
    "metrics.jsonl": 1 << 30,
}
MAX_RATIO = 200  # metrics.jsonl is packed some ten times
WEIGHTS = "model.safetensors"
STATES = ("last", "best")
STORED = ("predictions.npz", WEIGHTS, *(f"checkpoints/{name}.safetensors" for name in STATES))
MARK = "config.yaml"  # comes last: with it a folder is whole


def refuse_missing() -> None:
    """Raises UserError: safetensors is not installed."""
    try:
        import safetensors  # noqa: F401
    except ModuleNotFoundError as error:
        raise UserError("a pack needs safetensors. Type pip install 'train-cli[export]'.") from error


def as_tree(state: Any, tensors: dict[str, Tensor]) -> Any:
    """A state as plain values for JSON; its tensors go into `tensors`, by number."""
    if isinstance(state, Tensor):
        name = str(len(tensors))
        tensors[name] = state.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if isinstance(state, Mapping):
        return {"map": [[key, as_tree(value, tensors)] for key, value in state.items()]}
    if isinstance(state, list | tuple):
        return {"tuple" if isinstance(state, tuple) else "list": [as_tree(value, tensors) for value in state]}
    return state


def from_tree(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Of what `as_tree` gave. Raises ValueError, LookupError, TypeError: it is something else."""
    if not isinstance(tree, dict):
        if not isinstance(tree, int | float | str | None):
            raise ValueError("a value is none")
        return tree
    ((kind, found),) = tree.items()
    match kind:
        case "tensor":
            return tensors[found]
        case "map":
            return {key: from_tree(value, tensors) for key, value in found if isinstance(key, int | str)}
        case "list":
            return [from_tree(value, tensors) for value in found]
        case "tuple":
            return tuple(from_tree(value, tensors) for value in found)
    raise ValueError(f"it holds a {str(kind)[:40]}")


def write_state(state: Any, path: Path) -> None:
    """A checkpoint as safetensors. Raises OSError: see `write_tensors`."""
    tensors: dict[str, Tensor] = {}
    tree = as_tree(state, tensors)
    write_tensors(tensors, path, {"state": json.dumps(tree)})


def write_tensors(tensors: dict[str, Tensor], path: Path, about: dict[str, str]) -> None:
    """A file of safetensors. Raises OSError: it can't be written, as on a full disk."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(tensors, path, about)
    except SafetensorError as error:
        raise OSError(str(error)) from error


def read_state(path: Path) -> Any:
    """Raises ValueError and its like: it is no such file."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
        return from_tree(json.loads((file.metadata() or {})["state"]), tensors)


def pack(files: Mapping[str, Path], out: Path) -> None:
    """Writes a zip of files, by their names in it. Raises OSError."""

    def write(temporary: Path) -> None:
        # A zip has times from 1980 to 2107. In a container's layers, and where a clock was wrong, files have others.
        with zipfile.ZipFile(temporary, "w", strict_timestamps=False) as archive:
            for name in (*TEXTS, *STORED):
                if name in files:
                    kind = zipfile.ZIP_DEFLATED if name in TEXTS else zipfile.ZIP_STORED
                    archive.write(files[name], name, kind)

    write_atomically(out, write)


def unpack(path: Path, folder: Path, instead: str = "") -> None:
    """Makes a run's folder of a pack: its states become checkpoints, `last.pt` the newest of them.

    Args:
        instead: what may be typed to have it elsewhere, where there is no room.

    Raises:
        UserError: it is damaged, or no pack; nothing is left of it then.
    """
    refuse_missing()
    place = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(place, ignore_errors=True)
    try:
        (place / "checkpoints").mkdir(parents=True)
        with zipfile.ZipFile(path) as archive:
            _refuse_others(archive)
            for name in archive.namelist():
                with archive.open(name) as source, open(place / name, "wb") as target:
                    shutil.copyfileobj(source, target, 1 << 20)
                sync(place / name)
        saved = {name: state for name in STATES if (state := _state(place / f"checkpoints/{name}.safetensors"))}
        if "last" not in saved:
            raise ValueError("it holds no state")
        saved.setdefault("best", saved["last"])  # once is enough
        for name, state in saved.items():
            file = place / f"checkpoints/step_{state['step']:08d}.pt"
            if not file.exists():
                checkpoint.write(file, state)
            link_or_copy(file, place / f"checkpoints/{name}.pt")
        sync_folder(place)  # the folder's name says that all of it is there
        os.rename(place, folder)
        sync_folder(folder.parent)
    except (ValueError, LookupError, TypeError, EOFError, RecursionError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path}: is no whole pack of train ({' '.join(str(error).split())[:200]}).") from error
    except NotImplementedError as error:  # packed in a way that Python does not know
        raise UserError(f"{path}: is no pack of train ({error}).") from error
    except OSError as error:
        raise cannot_write(folder, error, instead=instead) from error
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _refuse_others(archive: zipfile.ZipFile) -> None:
    """Refuses what no pack of ours holds: other names, links, or what unpacks to more than its bytes."""
    names = archive.namelist()
    if len(set(names)) != len(names) or not {"config.yaml", "model.json"} <= set(names):
        raise ValueError("it lacks config.yaml or model.json")
    for member in archive.infolist():
        is_text = member.filename in TEXTS
        if not is_text and member.filename not in STORED:
            raise ValueError(f"it holds {member.filename[:60]!r}")
        if is_text and member.file_size > min(TEXTS[member.filename], 1 << 16 | MAX_RATIO * member.compress_size):
            raise ValueError(f"{member.filename} unpacks to {member.file_size:,} bytes")
        if not is_text and (member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size):
            raise ValueError(f"{member.filename} is packed")


def _state(path: Path) -> dict[str, Any] | None:
    """The state in a file, which is taken away; None where there is none."""
    if not path.is_file():
        return None
    try:
        state = read_state(path)
    except (ValueError, LookupError, TypeError, RecursionError):
        raise
    except Exception as error:  # safetensors has an error of its own
        raise ValueError(str(error)) from error
    if not isinstance(state, dict) or type(state.get("step")) is not int or not 0 <= state["step"] < 1 << 62:
        raise ValueError("its state has no step")
    path.unlink()
    return state


def is_pack(path: Path) -> bool:
    """Whether a file is an archive with a config, as one of `pack` is; a file of torch's is an archive, too."""
    if not path.is_file():  # a pipe would be read for ever
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return MARK in archive.namelist()
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError):
        return False


def unpacked(path: Path) -> Path:
    """The folder of a pack in the user's cache, by what is in it; unpacked there where it isn't yet.

    Raises:
        UserError: it is no pack, or there is no such place.
    """
    try:
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        packs = cache_folder("packs")
        make_private(packs)
        if others := shared_with(packs):
            raise UserError(f"{path}: can't be unpacked in {packs}: {others}. Type XDG_CACHE_HOME=<a folder of yours>.")
    except (OSError, RuntimeError) as error:
        raise UserError(f"{path}: can't be read or unpacked: {error}.") from error
    folder = packs / f"{path.stem[:40]}-{digest[:16]}"
    if not (folder / MARK).is_file():
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(folder)
        unpack(path, folder, "XDG_CACHE_HOME=<a folder with room> before the command")
    return folder


def weights_of(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The model's, by their names."""
    return {name: tensor for name, tensor in state["model"].items() if isinstance(tensor, torch.Tensor)}
