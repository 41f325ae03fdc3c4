"""Weights that somebody has trained, from whatever file they came in, put into a model as far as they fit."""

import contextlib
import os
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainer.disk.tensors import load_tensors
from trainer.errors import UserError, nearest, one_of
from trainer.system.terminal import is_terminal

State = dict[str, Tensor]
# Under which names a file may hold a state dict, and what stands before each name where a wrapper was saved:
# DataParallel and DistributedDataParallel, torch.compile, Lightning.
HOLDERS = ("state", "model", "state_dict", "model_state_dict")
PREFIXES = ("module.", "_orig_mod.", "model.")


def read_weights(weights: str, words: Sequence[str] = ()) -> State:
    """The tensors by name in a file: a state dict, or what holds one; read so that it cannot run code.

    Args:
        weights: the path of a file of torch's or of safetensors, or of the folder of a run of ours, whose best
            checkpoint is taken.
        words: that are no paths, and that the caller knows.

    Raises:
        UserError: there is no such file, or it holds no state dict.
    """
    path = file_of(weights)
    try:
        held = read_safetensors(path) if path.suffix == ".safetensors" else load_tensors(path, may_be_old=True)
    except FileNotFoundError as error:
        accepted = one_of([*words[:1], "the path of a state dict", "null"])
        raise UserError(
            f"weights={weights}: no such file; accepted are {accepted}.{nearest(weights, words)}"
        ) from error
    except OSError as error:
        raise UserError(f"weights={weights}: {error.strerror or error}. Try the path of a state dict.") from error
    except UserError:
        raise
    except Exception as error:  # of many kinds: zip, pickle, unicode, end of file
        raise UserError(
            f"weights={weights}: not a state dict that can be read without running code or filling the memory. "
            "Try a file that torch.save(model.state_dict(), path) wrote."
        ) from error
    state = _state_in(held, weights)
    if state is None:
        raise UserError(
            f"weights={weights}: not a state dict (tensors under parameter names), and none is in it. "
            "Try a file that torch.save(model.state_dict(), path) wrote."
        )
    return state


def file_of(weights: str) -> Path:
    """The file itself; of a run's folder its best checkpoint, or its last."""
    path = Path(os.path.expanduser(weights))
    if path.is_dir():
        for name in ("checkpoints/best.pt", "checkpoints/last.pt"):
            if (path / name).is_file():
                return path / name
        raise UserError(f"weights={weights}: the folder holds no checkpoints/best.pt. Give the folder of a run.")
    return path


def read_safetensors(path: Path) -> State:
    """Raises UserError: the package safetensors is missing."""
    try:
        from safetensors.torch import load_file
    except ModuleNotFoundError as error:
        raise UserError(f"weights={path}: needs safetensors. Type pip install safetensors.") from error
    path.stat()  # its own error names no file
    return load_file(path)


def _state_in(held: Any, weights: str) -> State | None:
    """The state dict, or the only one that is in it under whatever name. Raises UserError: there are several."""
    found = _state_below(held)
    if found is not None or not isinstance(held, Mapping):
        return found
    others = {str(name): value for name, value in held.items() if _is_state(value)}
    if len(others) > 1:
        raise UserError(f"weights={weights}: holds several state dicts: {', '.join(others)}. Save one of them alone.")
    return dict(next(iter(others.values()))) if others else None


def _state_below(held: Any, depth: int = 3) -> State | None:
    """Itself or what is called so in it, at most so many names deep."""
    if _is_state(held):
        return dict(held)  # without the attributes that a file may give its mappings
    names = [name for name in HOLDERS if name in held] if depth and isinstance(held, Mapping) else []
    found = (_state_below(held[name], depth - 1) for name in names)
    return next((state for state in found if state is not None), None)


def _is_state(held: Any) -> bool:
    is_mapping = isinstance(held, Mapping) and bool(held)
    return is_mapping and all(isinstance(name, str) and isinstance(value, Tensor) for name, value in held.items())


def fit_in(model: nn.Module, state: State, weights: str) -> list[str]:
    """Puts tensors into a model where name and shape fit. All else of the model stays as it starts.

    Returns:
        How many fitted; then what did not and why, a line for each kind.

    Raises:
        UserError: nothing fits.
    """
    own = model.state_dict()
    state = without_prefixes(state, own)
    both = [name for name in own if name in state]
    fitting = [name for name in both if own[name].shape == state[name].shape]
    if not fitting:
        raise UserError(
            f"weights={weights}: nothing in it fits: it has {_some([*state])}; the model has {_some([*own])}. "
            "Give weights of the same kind of model."
        )
    model.load_state_dict({name: state[name] for name in fitting}, strict=False)
    others = [f"{n} ({list(state[n].shape)}, here {list(own[n].shape)})" for n in both if n not in fitting]
    missing, spare = [name for name in own if name not in state], [name for name in state if name not in own]
    found = []
    if others:
        found.append(f"of another size, left as they start: {_some(others)}")
    if missing:
        found.append(f"not in the file, left as they start: {_some(missing)}")
    if spare:
        found.append(f"in the file, and nothing here: {_some(spare)}")
    return [f"{len(fitting)} of {len(own)} tensors are taken from it", *found]


def _some(names: Sequence[str], count: int = 3) -> str:
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return f"{', '.join(names[:count])}{more}"


def fetched(url: str, said: str, instead: str) -> State:
    """Published weights, from torch.hub's cache or else from the network; read so that they can't run code.

    Args:
        said: what was typed.
        instead: what to type with the path of the file.

    Raises:
        UserError: they can't be had or read.
    """
    cached = Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])
    try:
        with contextlib.redirect_stdout(sys.stderr):  # torch.hub announces a download on stdout
            return torch.hub.load_state_dict_from_url(
                url, map_location="cpu", progress=is_terminal(sys.stderr), check_hash=True, weights_only=True
            )
    except Exception as error:  # of many kinds: network, disk, hash, zip, pickle
        if cached.exists():  # it is put there whole or not at all
            raise UserError(f"{said}: cannot read {cached}. Try again after deleting it.") from error
        reason = textwrap.shorten(str(error), 160, placeholder=" ...")
        raise UserError(f"{said}: cannot fetch {url}: {reason}. Try {instead}.") from error


def without_prefixes(state: State, own: Mapping[str, Tensor]) -> State:
    """The same tensors by the names that the model has for them, where a wrapper has put something before each.

    Where none of these names fits, the part that somebody's own wrapper has is taken off, or put before: `net.`.
    """
    while not state.keys() & own.keys():
        prefix = next((p for p in PREFIXES if all(name.startswith(p) for name in state)), None)
        if prefix is None:
            return _with_other_beginning(state, own)
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def _with_other_beginning(state: State, own: Mapping[str, Tensor]) -> State:
    first, of_own = ([*dict.fromkeys(name.partition(".")[0] + "." for name in names)] for names in (state, own))
    others = [{name.removeprefix(part): tensor for name, tensor in state.items()} for part in first]
    others += [{part + name: tensor for name, tensor in state.items()} for part in of_own]
    return max([state, *others], key=lambda names: sum(n in own and own[n].shape == t.shape for n, t in names.items()))
