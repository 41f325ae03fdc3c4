"""The tensors of a file of torch's that holds objects of other classes, too: those stay empty, and none is made.

Training scripts save what they were told (`argparse.Namespace`), paths, numbers of NumPy and configs beside the
weights, and some save the whole model. Here every name in such a file, torch's own as well, stands for a class that
does nothing.
"""

import io
import pickle
import pickletools
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainer.disk.tensors import refuse_archive, refuse_growth

DTYPES = {
    "Double": torch.float64,
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
    "ComplexFloat": torch.complex64,
    "ComplexDouble": torch.complex128,
}
PARTS = {"_parameters", "_buffers", "_modules"}  # of a module


class Left(dict[Any, Any]):
    """An object of a class that is not made. A mapping has its items, a module its parts; all else is empty."""

    def __new__(cls, *_: Any, **__: Any) -> Any:
        return dict.__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    __hash__ = object.__hash__  # type: ignore[assignment]  # it may be a key
    __eq__ = object.__eq__

    def __setstate__(self, state: Any) -> None:
        if isinstance(self, Left) and isinstance(state, Mapping) and state.keys() >= PARTS:
            self.update({name: state[name] for name in PARTS})

    def append(self, _: Any) -> None:
        pass

    def extend(self, _: Any) -> None:
        pass


class Reader(pickle._Unpickler):  # that in C makes room for as many as it is told of
    """Of the pickle of an archive."""

    def __init__(self, archive: zipfile.ZipFile, name: str) -> None:
        super().__init__(io.BytesIO(archive.read(name)))
        self.archive, self.folder = archive, name.removesuffix("data.pkl")
        self.named: dict[str, type[Left]] = {}
        self.records: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> type[Left]:
        whole = f"{module}.{name}"
        if whole not in self.named:
            made = {
                "torch._utils._rebuild_tensor_v2": rebuilt,
                "torch._utils._rebuild_parameter": first_of,
                "torch._utils._rebuild_parameter_with_state": first_of,
                "torch._tensor._rebuild_from_type_v2": called_of,
                "builtins.set": set_of,
                "__builtin__.set": set_of,
            }.get(whole)
            self.named[whole] = type(name, (Left,), {"__new__": made} if made else {})
        return self.named[whole]

    def persistent_load(self, pid: Any) -> Tensor | None:
        """A record as `[numel]`; None of a type that is not read."""
        _, kind, key, _, _ = pid
        dtype = DTYPES.get(kind.__name__.removesuffix("Storage"))
        if dtype is None:
            return None
        if key not in self.records:
            content = bytearray(self.archive.read(f"{self.folder}data/{key}"))
            self.records[key] = torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)
        return self.records[key]


def rebuilt(_: type, storage: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *__: Any) -> Any:
    return None if storage is None else storage.as_strided(size, stride, offset)


def first_of(_: type, first: Any, *__: Any) -> Any:
    return first


def called_of(_: type, kind: Any, __: Any, arguments: Any, *___: Any) -> Any:
    """Of a tensor with attributes of its own."""
    return kind(*arguments) if isinstance(kind, type) and issubclass(kind, Left) else None


def set_of(_: type, *__: Any) -> frozenset[Any]:
    return frozenset()


def tensors_alone(path: Path) -> Any:
    """What torch.save wrote, in the format since torch 1.6, on the CPU; see `Left`.

    Raises:
        Exception: of any kind: the file is damaged, of another format, or would take more memory than it has bytes.
    """
    refuse_archive(path)
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        (name,) = (name for name in names if name.endswith("data.pkl"))
        folder = name.removesuffix("data.pkl")
        if f"{folder}byteorder" in names and archive.read(f"{folder}byteorder") != b"little":
            raise ValueError("its numbers are in another order of bytes")
        described = archive.read(name)
        if any(opcode.name.startswith(("EXT", "BYTEARRAY", "NEXT")) for opcode, _, _ in pickletools.genops(described)):
            raise pickle.UnpicklingError("it has what torch.save does not write")
        found = Reader(archive, name).load()
    refuse_growth(found, len(described), path.stat().st_size)
    return found


def state_of_module(held: Any, prefix: str = "", depth: int = 50) -> dict[str, Tensor] | None:
    """The tensors by name of a whole module that `tensors_alone` has read; None of anything else."""
    if not isinstance(held, Left) or not held.keys() >= PARTS or depth == 0:
        return None
    found = {prefix + n: t for kind in ("_parameters", "_buffers") for n, t in held[kind].items() if t is not None}
    for name, part in held["_modules"].items():
        found |= state_of_module(part, f"{prefix}{name}.", depth - 1) or {}
    return found
