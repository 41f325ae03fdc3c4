"""`train export`: a model as a file that other programs run, left only where its proof holds."""

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trainer import __version__
from trainer import meaning as meanings
from trainer.data.preparation import AsTheyAre, Pictures, Rows, Theirs
from trainer.data.tables.recipe import Category
from trainer.disk.files import cannot_write, put
from trainer.disk.pack import is_pack
from trainer.errors import UserError
from trainer.kept import state_of
from trainer.meaning import Classes
from trainer.trees import called, joined, mapped, named_leaves
from trainer.use import portable
from trainer.use.find import find
from trainer.use.formats import FORMATS, add_metadata, quantized, refuse_missing, write, write_weights
from trainer.use.portable import Portable
from trainer.use.predicted import several
from trainer.use.proof import Proof, prove, refuse_unproven
from trainer.use.raw import write_raw_test
from trainer.use.samples import Labelled, own
from trainer.use.trained import Trained, open_run, settings_for


def export(
    word: str,
    checkpoint: str | None,
    keys: Mapping[str, Any],
    form: str = "onnx",
    out: str | None = None,
    is_whole: bool = True,
    quantize: str | None = None,
) -> int:
    """Writes the file, if its proof holds, and says what it is.

    Args:
        form: of `FORMATS`.
        out: None for `model.<form>` in the run's folder; of a pack, for `<its name>.<form>` beside it.
        is_whole: raw samples go in; else what the network takes.
        quantize: `int8`, of onnx: weights in 8 bits. It is less exact, which is said and not refused.

    Raises:
        UserError: it can't be exported, or the proof fails; nothing is left then.
    """
    refuse_missing(form, quantize)
    found = find(word, checkpoint)
    suffix = FORMATS[form]
    pack = Path(word).expanduser()
    usual = pack.with_suffix(suffix) if is_pack(pack) else found.folder / f"model{suffix}"
    path = usual if out is None else Path(out).expanduser()
    if path.suffix != suffix or path.is_dir() or not path.absolute().parent.is_dir():
        other = next((name for name, ending in FORMATS.items() if ending == path.suffix and name != form), None)
        how = f"Type out=model{suffix}" if other is None else f"Type format={other} for such a file"
        raise UserError(f"out={out}: must be a file *{suffix} in a folder that is there. {how}.")
    if found.note:
        print(found.note, file=sys.stderr)
    precision = settings_for(found.folder, keys).precision
    trained = open_run(found, {**keys, "device": "cpu", "precision": "float32"})
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        if form == "safetensors":
            found_out = {**about(trained, trained.model, form), "config": trained.settings.config}
            write_weights(state_of(trained.model), temporary, found_out)
            put(temporary, path)
            print(f"{path}: {path.stat().st_size:,} bytes, the weights, read back bit for bit")
            return 0
        labelled = own(trained, "test")
        inputs = next(labelled.batches.in_order()).inputs
        prepare = portable.of(trained.about.inputs, trained.dtype) if is_whole else None
        has_form = not (isinstance(inputs, Tensor) or isinstance(prepare, portable.RowInputs))
        net = Portable(trained.model, prepare, trained.about.outputs, inputs if has_form else None)
        proof = written(trained, net, labelled, form, temporary, quantize)
        if not quantize:
            refuse_unproven(trained, proof, precision)
        add_metadata(temporary, form, {**about(trained, net, form), "inputs": proof.taken, "proof": proof.as_dict()})
        put(temporary, path)
    except OSError as error:
        raise cannot_write(path, error, instead="another out=") from error
    finally:
        temporary.unlink(missing_ok=True)
    tell(path, net, trained, proof, quantize)
    return 0


def written(trained: Trained, net: Portable, labelled: Labelled, form: str, file: Path, quantize: str | None) -> Proof:
    """Writes the file, and gives what it came to by itself."""
    with tempfile.TemporaryDirectory(prefix="train-") as place:
        raw = write_inputs(trained, net, labelled, Path(place))
        firsts = {name: torch.from_numpy(np.array(np.load(path, mmap_mode="r")[:3])) for name, path in raw.items()}
        inputs = mapped(Tensor.clone, next(labelled.batches.in_order()).inputs)  # the model may write into them
        note = several(trained.about.outputs, called(trained.model, inputs))
        if note:
            print(note, file=sys.stderr)
        write(net, {k: x if len(x) > 1 else torch.cat([x, x]) for k, x in firsts.items()}, form, file)
        if quantize:
            quantized(file)
        return prove(trained, labelled, form, file, raw)


def write_inputs(trained: Trained, net: Portable, labelled: Labelled, place: Path) -> dict[str, Path]:
    """The test split as the file takes it: by name an `.npy` of each tensor."""
    if net.prepare is not None and not isinstance(trained.about.inputs, AsTheyAre | Theirs):
        write_raw_test(trained, labelled.data, place / "raw.npy")
        return {"inputs": place / "raw.npy"}
    found: dict[str, Path] = {}
    for name, leaf in named_leaves(joined([batch.inputs for batch in labelled.batches.in_order()])).items():
        found[name] = place / f"raw{len(found)}.npy"
        np.save(found[name], leaf.numpy())
    return found


def about(trained: Trained, net: nn.Module, form: str) -> dict[str, Any]:
    """What whoever gets the file must know. Plain values alone."""
    inputs, outputs = trained.about.inputs, trained.about.outputs
    found: dict[str, Any] = {
        "train": __version__,
        "torch": str(torch.__version__),
        "format": form,
        "run": trained.found.folder.name,
        "step": trained.step,
        "weights": "average" if trained.found.is_average else "as trained",
        "data": trained.about.data,
        "classes": list(meanings.class_names(outputs)),
        "outputs": meanings.as_dict(outputs),
        "preparation": inputs.as_dict(),
        "is_prepared_inside": isinstance(net, Portable) and net.prepare is not None,
    }
    if isinstance(inputs, Rows):
        columns = inputs.recipe.columns
        found["columns"] = [column.name for column in columns]
        found["levels"] = {column.name: list(column.levels) for column in columns if isinstance(column, Category)}
    return found


def tell(path: Path, net: Portable, trained: Trained, proof: Proof, quantize: str | None) -> None:
    """What the file is, and what its proof came to."""
    numbers = ", ".join(
        f"test/{name} {n:.6g}" + (f" (result.json: {proof.expected[name]:.6g})" if name in proof.expected else "")
        for name, n in proof.numbers.items()
    )
    print(f"{path}: {path.stat().st_size:,} bytes; takes {taken(net, trained, proof)}; gives {' and '.join(net.names)}")
    numbers = numbers or "its outputs were compared alone"
    print(f"run by itself ({proof.runtime}) over {proof.samples:,} test samples: {numbers}")
    other = f"{proof.num_other:,} taken for another class, " if isinstance(trained.about.outputs, Classes) else ""
    bits = "; weights in 8 bits" if quantize else ""
    far = f"outputs differ by at most {proof.difference:.1e} of the largest"
    print(f"{other}{far}; {proof.milliseconds:.3g} ms a sample{bits}")


def taken(net: Portable, trained: Trained, proof: Proof) -> str:
    """What goes into the file, in words."""
    inputs = trained.about.inputs
    if net.prepare is None:
        return f"inputs as the network has them, {proof.taken}"
    if isinstance(inputs, Rows):
        number = len(inputs.recipe.columns)
        names = ", ".join(column.name for column in inputs.recipe.columns[:8])
        return f"rows, float64 [N, {number}]: {names} (NaN: missing; words by their place in levels)"
    what = "raw pictures" if isinstance(inputs, Pictures) else "raw numbers"
    return proof.taken if isinstance(inputs, Theirs) else f"{what}, {proof.taken}"
