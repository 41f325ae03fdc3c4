"""`train pack`: a run as one file for somebody else, who can open it without running anything of it."""

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.disk import pack as packs
from trainer.disk.checkpoint import snapshot
from trainer.disk.files import cannot_write
from trainer.errors import UserError
from trainer.run.instantiate import ours
from trainer.use.card import card
from trainer.use.export import about
from trainer.use.find import find
from trainer.use.formats import write_weights
from trainer.use.trained import open_run, read_checkpoint


def pack(word: str, checkpoint: str | None, keys: Mapping[str, Any], out: str | None = None) -> int:
    """Writes the file.

    Args:
        checkpoint: whose weights `model.safetensors` has; None: those that `test/*` is of.
        out: None for `<name of the run>.zip`.

    Raises:
        UserError: the run can't be read, or the file not be written.
    """
    packs.refuse_missing()
    found = find(word, checkpoint)
    folder = found.folder
    path = Path(f"{folder.resolve().name}.zip" if out is None else out).expanduser()
    if path.suffix != ".zip" or path.is_dir() or not path.absolute().parent.is_dir():
        raise UserError(f"out={out}: must be a file *.zip in a folder that is there. Type out={folder.name}.zip.")
    if found.note:
        print(found.note, file=sys.stderr)
    trained = open_run(found, {**keys, "device": "cpu"})
    try:
        with tempfile.TemporaryDirectory(prefix="train-", dir=path.absolute().parent) as place:
            files = {name: folder / name for name in (*packs.TEXTS, "predictions.npz") if (folder / name).is_file()}
            files |= {name: Path(place, name) for name in ("README.md", packs.WEIGHTS)}
            files["README.md"].write_text(card(trained, path.name), encoding="utf-8")
            write_weights(packs.weights_of(trained.state), files[packs.WEIGHTS], about(trained, trained.model, "pack"))
            for name in packs.STATES:
                source, last = folder / f"checkpoints/{name}.pt", folder / "checkpoints/last.pt"
                if source.is_file() and (source == last or not source.samefile(last)):
                    files[f"checkpoints/{name}.safetensors"] = state = Path(place, f"{name}.safetensors")
                    packs.write_state(snapshot(read_checkpoint(source)), state)
            packs.pack(files, path)
    except OSError as error:
        raise cannot_write(path, error, instead="another out=") from error
    word = " checkpoint=average" if found.is_average else ""
    size = f"{path.stat().st_size:,} bytes"
    print(f"{path}: {size}. train evaluate {path}{word}, predict, export and resume= take it as a run")
    if (teacher := ours(trained.settings, "loss").get("teacher")) is not None:
        print(
            f"the teacher is not in it: resume= needs the folder {teacher}; without it evaluate gives all but the loss"
        )
    return 0
