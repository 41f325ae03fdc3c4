"""Weights that somebody has trained, from whatever file they came in, put into a model as far as they fit."""

import contextlib
import itertools
import os
import pickle
import sys
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainer.disk.pack import is_pack, unpacked
from trainer.disk.tensors import load_tensors
from trainer.disk.tensors_alone import Left, state_of_module, tensors_alone
from trainer.errors import UserError, nearest, one_of
from trainer.kept import state_of
from trainer.system.terminal import is_terminal

State = dict[str, Tensor]
# Under which names a file may hold a state dict, and what stands before each name where a wrapper was saved:
# DataParallel and DistributedDataParallel, Lightning.
HOLDERS = ("state", "model", "state_dict", "model_state_dict")
PREFIXES = ("module.", "model.")
# What torch puts into names: torch.compile, fully sharded data parallel, checkpoints of activations.
WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")


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
        held = read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
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


def _read_torch(path: Path) -> Any:
    """What torch.save wrote; of objects of other classes mappings and modules alone, and no code of theirs."""
    try:
        return load_tensors(path, may_be_old=True)
    except pickle.UnpicklingError as error:
        try:
            return tensors_alone(path)
        except Exception:  # of many kinds, as of another format
            raise error from None


def file_of(weights: str) -> Path:
    """The file itself; of a run's folder, or a pack of it, its best checkpoint, or its last.

    Raises:
        UserError: there is none in it.
    """
    path = Path(os.path.expanduser(weights))
    path = unpacked(path) if is_pack(path) else path
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
    held = {name: value if (module := state_of_module(value)) is None else module for name, value in held.items()}
    others = [str(name) for name, value in held.items() if _is_state(value)]
    if len(others) > 1:
        raise UserError(f"weights={weights}: holds several state dicts: {', '.join(others)}. Save one of them alone.")
    return _state_below(next(filter(_is_state, held.values())), 0) if others else None


def _state_below(held: Any, depth: int = 3) -> State | None:
    """Itself or what is called so in it, at most so many names deep."""
    held = held if (module := state_of_module(held)) is None else module
    if _is_state(held):  # without the attributes that a file may give its mappings
        return {name: value for name, value in held.items() if isinstance(value, Tensor)}
    names = [name for name in HOLDERS if name in held] if depth and isinstance(held, Mapping) else []
    found = (_state_below(held[name], depth - 1) for name in names)
    return next((state for state in found if state is not None), None)


def _is_state(held: Any) -> bool:
    """Whether most of what it has are tensors by name, and the rest is single numbers or texts, as `epoch`."""
    if not isinstance(held, Mapping) or not all(isinstance(name, str) for name in held):
        return False
    kinds = [isinstance(value, Tensor) for value in held.values()]
    is_rest_single = all(
        isinstance(value, Tensor | int | float | str | None) or (isinstance(value, Left) and not value)
        for value in held.values()
    )
    return is_rest_single and 2 * sum(kinds) > len(kinds)


def fit_in(model: nn.Module, state: State, weights: str) -> list[str]:
    """Puts tensors into a model where name and shape fit. All else of the model stays as it starts.

    Returns:
        How many fitted; then what did not and why, a line for each kind.

    Raises:
        UserError: nothing fits.
    """
    own = state_of(model)
    alike: dict[Tensor, list[str]] = {}  # a parameter with two names may have one of them in the file
    for name, parameter in model.named_parameters(remove_duplicate=False):
        alike.setdefault(parameter, []).append(name)
    state = without_prefixes(state, own, weights)
    for same in alike.values():
        given = [name for name in same if name in state]
        state = state | {name: state[given[0]] for name in same if given and name in own and name not in state}
    both = [name for name in own if name in state]
    others = [n for n in both if own[n].shape != state[n].shape]
    odd = [n for n in both if n not in others and not can_be(own[n], state[n])]
    fitting = [n for n in both if n not in others and n not in odd]
    others = [f"{n} ({list(state[n].shape)}, here {list(own[n].shape)})" for n in others]
    odd = [f"{n} ({state[n].dtype}, here {own[n].dtype})" for n in odd]
    if not fitting:
        names = _some([*others, *odd]) or f"it has {_some([*state])}; the model has {_some([*own])}"
        raise UserError(f"weights={weights}: nothing in it fits: {names}. Give weights of the same kind of model.")
    nn.Module.load_state_dict(model, {name: state[name] for name in fitting}, strict=False)
    endless = [n for n in fitting if state[n].is_floating_point() and not state[n].isfinite().all()]
    missing, spare = [name for name in own if name not in state], [name for name in state if name not in own]
    found = {
        "of another size, left as they start": others,
        "of another type, left as they start": odd,
        "has numbers that are not finite": endless,
        "not in the file, left as they start": missing,
        "in the file, and nothing here": spare,
    }
    lines = [f"{what}: {_some(names)}" for what, names in found.items() if names]
    return [f"{len(fitting)} of {len(own)} tensors are taken from it", *lines]


def can_be(own: Tensor, found: Tensor) -> bool:
    """Whether a tensor can take the numbers of another: a real one no complex ones, one of fractions no codes, one of
    whole or logical numbers those alone that it has room for.
    """
    if found.is_quantized or (found.is_complex() and not own.is_complex()):
        return False
    if own.is_floating_point() or own.is_complex():
        return found.is_floating_point() or found.is_complex()
    return torch.equal(found.to(own.dtype).to(found.dtype), found)


def _some(names: Sequence[str]) -> str:
    return f"{', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"


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


def without_prefixes(state: State, own: Mapping[str, Tensor], weights: str) -> State:
    """The same tensors by the names that the model has for them, where a wrapper has put something before each.

    Where more of them fit then, the part that somebody's own wrapper has is taken off, or put before: `net.`.

    Raises:
        UserError: several networks in it fit as well.
    """
    for word in WRAPPERS:
        if not any(word in name for name in own):
            state = {name.replace(word, ""): tensor for name, tensor in state.items()}
    while not state.keys() & own.keys():
        prefix = next((p for p in PREFIXES if all(name.startswith(p) for name in state)), None)
        if prefix is None:
            break
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return _with_other_beginning(state, own, weights)


def _with_other_beginning(state: State, own: Mapping[str, Tensor], weights: str) -> State:
    def fitting(names: State) -> list[int]:
        return [id(tensor) for name, tensor in names.items() if name in own and own[name].shape == tensor.shape]

    num_as_it_is, half = len(fitting(state)), len(own) // 2
    if num_as_it_is == len(own):
        return state
    # Those of a quarter of the names at least, of up to three parts; nothing is one, too.
    first, of_own = (["", *_beginnings(names, len(own) // 4)] for names in (state, own))
    found: dict[int, dict[frozenset[int], tuple[str, State]]] = {}  # by how many fit, then by which these are
    for before, off in itertools.product(of_own, first):
        names = {before + n.removeprefix(off) if n.startswith(off) else n: tensor for n, tensor in state.items()}
        fits = fitting(names)
        if len(fits) > max(num_as_it_is, half if off and before else 0):
            found.setdefault(len(fits), {}).setdefault(frozenset(fits), (off, names))
    if not found:
        return state
    best = [*found[max(found)].values()]
    usual = next((names for off, names in best if off in PREFIXES), None)
    if len(best) > 1 and usual is None and max(found) > half:
        parts = ", ".join(off.rstrip(".") for off, _ in best)
        raise UserError(f"weights={weights}: holds several networks that fit: {parts}. Save one of them alone.")
    return best[0][1] if usual is None else usual


def _beginnings(names: Iterable[str], least: int) -> list[str]:
    """What so many names begin with: `module.`, `module.net.`, up to three parts."""
    parts = [name.split(".")[:-1][:3] for name in names]
    counts = Counter(".".join([*each[:i], ""]) for each in parts for i in range(1, len(each) + 1))
    return [beginning for beginning, count in counts.items() if count >= least]
