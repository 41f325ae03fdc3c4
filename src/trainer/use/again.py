"""A run once more: its config as it is stored, with another folder, and what was recorded of it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer.config.request import Request
from trainer.disk import foreign
from trainer.disk.folder import read_result
from trainer.errors import UserError
from trainer.run.folder import as_stored

CLOCKS = ("time/", "device/")  # tags that are never the same twice

Numbers = dict[tuple[int, str], float | None]


def again(request: Request, folder: Path | None, **changes: Any) -> Request:
    """What the stored run of `resume=<folder>` asks for, in another folder.

    Args:
        request: as it would continue the run: its words alone count as typed.
        folder: None for one with a date, as of a run without a name.
        changes: keys of the top level.
    """
    stored = as_stored(request)
    config = {**stored.config, "resume": None, "name": None, "run_dir": None if folder is None else str(folder)}
    words = [word for word in stored.overrides if not word.startswith("resume=")]
    words += [] if folder is None else [f"run_dir={folder}"]
    return Request({**config, **changes}, stored.choices, words)


def as_long(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The length that a run was told last, where it continued with another one; for `again`.

    Args:
        entries: of its `origin.json`. Foreign text.
    """
    lengths = [entry.get("max_steps") for entry in entries]
    is_another = len(set(map(str, lengths))) > 1 and isinstance(lengths[-1], int)
    return {"max_steps": lengths[-1], "max_epochs": None} if is_another else {}


def folder_of(request: Request) -> Path:
    """The folder of the stored run."""
    return Path(request.config["resume"]).expanduser()


def read_ended(folder: Path) -> dict[str, Any]:
    """The `result.json` of a run that has stopped training for whatever reason; raises UserError where it goes on."""
    result = read_result(folder)
    if not result:
        from trainer.finished.read import run_named

        found = run_named(str(folder)).result
        if found.get("status") == "running":
            raise UserError(f"{folder}: is still going. Type the same when it has ended.")
        return {**found, "steps": int(found.get("steps") or 0)}
    return result


def numbers(folder: Path) -> Numbers:
    """All that `metrics.jsonl` has by step and tag, in its order, but for clocks; None for what was not finite."""
    found: Numbers = {}
    try:
        for record in foreign.metrics(folder):
            for tag, number in record.items():
                is_clock = tag == "step" or tag.startswith(CLOCKS)
                if not is_clock and (number is None or type(number) in (int, float)):
                    found[record["step"], tag] = number
    except OSError as error:
        raise UserError(f"{folder}/metrics.jsonl: can't be read: {error.strerror}.") from error
    return found
