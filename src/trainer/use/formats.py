"""The files that a model is exported to: how each is written, and what it says of itself."""

import contextlib
import importlib.util
import json
import logging
import os
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainer.disk.pack import write_tensors
from trainer.errors import UserError, nearest
from trainer.use.portable import Portable

FORMATS = {"onnx": ".onnx", "pt2": ".pt2", "safetensors": ".safetensors"}
NEEDED = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "safetensors": ("safetensors",)}
KEY = "train"  # of the metadata in a file


def refuse_missing(form: str, quantize: str | None = None) -> None:
    """Raises UserError: the format is none, or what writes it is not installed."""
    if form not in FORMATS:
        hint = nearest(form, FORMATS) or " Try format=onnx."
        if form in ("torchscript", "jit", "pt"):
            hint = " torch itself has left torchscript for pt2. Try format=pt2."
        raise UserError(f"format={form}: must be onnx, pt2 or safetensors.{hint}")
    if quantize is not None and (quantize != "int8" or form != "onnx"):
        raise UserError(f"quantize={quantize}: must be int8, with format=onnx. Type format=onnx quantize=int8.")
    if missing := [name for name in NEEDED.get(form, ()) if importlib.util.find_spec(name) is None]:
        raise UserError(f"format={form}: needs {', '.join(missing)}. Type pip install 'train-cli[export]'.")


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Without what libraries say while they work."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def write(net: Portable, example: Mapping[str, Tensor], form: str, file: Path) -> None:
    """Writes `.onnx` or `.pt2`, for any number of samples at once.

    Args:
        example: two samples or more, by the names of the tensors that the file takes.

    Raises:
        UserError: torch can't export the model; says torch's reason.
    """
    given, shapes = tuple(example.values()), (({0: torch.export.Dim("N")},) * len(example),)
    try:
        with silent():
            if form == "pt2":
                torch.export.save(torch.export.export(net, given, dynamic_shapes=shapes), file)
                return
            names: dict[str, Any] = {"input_names": list(example), "output_names": net.names}
            program: Any = torch.onnx.export(net, given, dynamo=True, dynamic_shapes=shapes, verbose=False, **names)
            program.save(file)
    except OSError:
        raise
    except Exception as error:  # of every kind: what a model may do that no graph can say has no end
        raise UserError(
            f"format={form}: torch can't export this model: {reason(error)}. In Python: trainer.load(folder)."
        ) from error


def reason(error: BaseException) -> str:
    """What a library says in many lines, in one: of errors that led to each other the first."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = re.sub(r"\x1b\[[\d;]*m", "", str(error)).partition("\n\nUser code:")[0]
    words = " ".join(text.split())[:300].rstrip(". ")
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


def quantized(file: Path) -> None:
    """Has the weights of an ONNX file in 8 bits; those of what goes through are chosen as it runs.

    Raises:
        UserError: onnxruntime can't.
    """
    from onnxruntime.quantization import quantize_dynamic

    other = file.with_name(f"{file.name}.8.tmp")
    try:
        with silent():
            quantize_dynamic(str(file), str(other))
        os.replace(other, file)
    except Exception as error:
        raise UserError(f"quantize=int8: onnxruntime can't do that to this model: {reason(error)}.") from error
    finally:
        other.unlink(missing_ok=True)


def add_metadata(file: Path, form: str, found: Mapping[str, Any]) -> None:
    """A JSON text `train` in the file: ONNX's metadata, or what `torch.export.load(extra_files=)` reads."""
    text = json.dumps(found)
    if form == "onnx":
        import onnx

        model = onnx.load(file)
        onnx.helper.set_model_props(model, {KEY: text})
        onnx.save(model, file)
        return
    with zipfile.ZipFile(file, "a") as archive:
        top = archive.namelist()[0].split("/")[0]
        archive.writestr(f"{top}/extra/{KEY}.json", text)


def write_weights(weights: Mapping[str, Tensor], file: Path, found: Mapping[str, Any]) -> None:
    """`.safetensors`, read back and compared bit for bit."""
    from safetensors import safe_open

    content = {name: tensor.contiguous().clone() for name, tensor in weights.items()}
    write_tensors(content, file, {KEY: json.dumps(found)})
    umask = os.umask(0)
    os.umask(umask)
    os.chmod(file, 0o666 & ~umask)  # safetensors writes for its owner alone
    with safe_open(file, framework="pt") as stored:
        assert all(torch.equal(stored.get_tensor(name), tensor) for name, tensor in weights.items())
