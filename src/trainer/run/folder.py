"""Which folder a run has, and what of an earlier process in it the run begins with."""

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from trainer.config import schema
from trainer.config.request import Config, Request, resolved
from trainer.config.settings import Settings
from trainer.disk import folder as folders
from trainer.disk.checkpoint import num_bytes, refuse_other_kinds
from trainer.disk.files import cannot_write, remove_leftovers
from trainer.disk.lock import holder, locked
from trainer.errors import UserError, nearest
from trainer.monitor.journal import cut_metrics
from trainer.run.origin import write_origin
from trainer.run.parts import Parts
from trainer.run.training import Training


def as_stored(request: Request) -> Request:
    """With `resume=<folder>`: all that was not typed is as in the run there; else the request itself.

    Raises:
        UserError: there is no run, or its config can't be read.
    """
    resume = request.config["resume"]
    if not isinstance(resume, str) or resume == "auto":
        return request
    folder = folders.run_folder(resume)
    stored = stored_config(folder, request)
    if stored is None:
        hint = nearest(str(folder), (str(path.parent) for path in Path("runs").rglob("config.yaml")))
        raise UserError(f"resume={resume}: there is no run.{hint} train runs lists them.")
    choices = {str(group): str(choice) for group, choice in stored.pop("choices", {}).items()}
    return Request(merged(request, stored), choices, request.overrides)


def stored_config(folder: Path, request: Request) -> Config | None:
    """The config of the run in the folder, with its choices; None where there is no run."""
    stored = folders.read_config(folder)
    if stored is None:
        return None
    choices = stored.get("choices", {})
    holders = (*schema.GROUPS, *schema.SECTIONS)
    if not isinstance(choices, dict) or not all(isinstance(stored.get(key), dict) for key in holders):
        raise UserError(f"{folder}/config.yaml: is no config of train.")
    if not choices.keys() <= {*holders} or not all(isinstance(choice, str) for choice in choices.values()):
        raise UserError(f"{folder}/config.yaml: choices={schema.shown(choices)}: is none of train's.")
    folders.refuse_resolvers(folder, stored, request.config)
    return stored


def find_folder(settings: Settings) -> Path:
    """The folder of the run that is asked for; its name, where it is new.

    `resume=auto` without a name continues the newest run that was started the same way and has not ended.
    """
    label = f"{settings.names['model']}-{settings.names['data']}"
    config = settings.config
    if config["resume"] == "auto" and config["name"] is None and config["run_dir"] is None:
        for folder in sorted(Path("runs", label).glob("*/"), reverse=True):
            result = folders.read_result(folder)
            if result is None or result.get("status") != "finished":
                with contextlib.suppress(UserError):
                    is_run = folders.read_config(folder) is not None
                    if is_run and holder(folder) is None:
                        refuse_another(settings, folder)
                        return folder
    return folders.locate(config, label)


def refuse_another(settings: Settings, folder: Path) -> None:
    """Raises UserError where the run in the folder was started with other settings."""
    stored = stored_config(folder, settings.request)
    if stored is not None:
        stored.pop("choices", None)
        folders.refuse_changes(folder, resolved(stored), settings.config)


def merged(request: Request, stored: Config) -> Config:
    """The stored config with what was typed."""
    # A folder of an older release lacks keys that there are now.
    known = {key: value for key, value in request.config.items() if key not in schema.GROUPS}
    sections = {s: {**(known[s] if isinstance(known[s], dict) else {}), **stored[s]} for s in schema.SECTIONS}
    config: Any = OmegaConf.create({**known, **stored, **sections})
    asked = OmegaConf.create(request.config)
    for key in request.typed:
        OmegaConf.update(config, key, OmegaConf.select(asked, key), merge=False, force_add=True)
    config["resume"], config["trust"] = request.config["resume"], request.config["trust"]
    container = OmegaConf.to_container(config)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def finished(folder: Path, parts: Parts) -> Config | None:
    """The result of a run that has nothing left to do; says so."""
    result = folders.read_result(folder)
    if result is None or result.get("status") != "finished" or result.get("steps", 0) < parts.length.max_steps:
        return None
    if parts.world.is_main:
        print(
            f"{folder} is finished: {result['steps']} steps. "
            f"To go on, type a larger max_steps= or max_epochs=; for another run, another name=."
        )
    return result


def take_folder(folder: Path, parts: Parts, closing: contextlib.ExitStack) -> None:
    """Makes the folder where the run is new, and locks it until `closing` is closed.

    Raises:
        UserError: another process trains there, or it can't be written.
    """
    if not parts.world.is_main:
        return
    is_new = folders.read_config(folder) is None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        closing.enter_context(locked(folder))
        if is_new and (folder / "config.yaml").exists():
            raise UserError(f"{folder}: another process has just begun a run here. Type another name=.")
        for place in (folder, folder / "checkpoints"):
            remove_leftovers(place)
    except OSError as error:
        raise cannot_write(folder, error) from error


def load(training: Training) -> None:
    """Takes up the newest whole checkpoint, if there is one.

    Raises:
        UserError: it is of another training, or further than this run is to go.
    """
    folder, parts = training.folder, training.parts
    state, max_steps = training.checkpoints.newest(training.warnings.append), parts.length.max_steps
    if state is None:
        return
    take_up(training, state)
    if parts.state.step > max_steps:
        raise UserError(
            f"max_steps={max_steps}: the run in {folder} is at step {parts.state.step} already. "
            f"Type a larger max_steps= or max_epochs=."
        )


def take_up(training: Training, state: Config) -> None:
    """Has the training stand where a checkpoint of it was written. Raises UserError: it is of another training."""
    folder, parts = training.folder, training.parts
    try:
        for part in ("optimizer", "schedule", "scaler"):
            refuse_other_kinds(state[part], getattr(parts.state, part).state_dict(), part)
        parts.state.load_state_dict(state)
        if "diagnosis" in state:
            training.diagnosis.load_state_dict(state["diagnosis"])
    except Exception as error:  # of every kind: the file may be anybody's
        what = " ".join(str(error).split())[:300].rstrip(".")  # torch says in further lines what does not fit
        how = "If a class of yours has changed since, type another name= for a new run."
        raise UserError(f"{folder}: the checkpoint does not fit: {what}. {how}") from error


def begin_folder(folder: Path, parts: Parts, warn: Callable[[str], None]) -> bool:
    """Writes the config of a run that is new; cuts what is in its folder back to the state's step. Is it new?"""
    is_new = not (folder / "config.yaml").exists()
    if parts.world.is_main:
        request, state = parts.settings.request, parts.state
        try:
            if is_new:
                folders.write_config(folder, {**request.config, "choices": request.choices}, request.overrides)
            else:
                (folder / "result.json").unlink(missing_ok=True)
                cut_metrics(folder / "metrics.jsonl", state.step)
            write_origin(folder, parts)
        except OSError as error:
            raise cannot_write(folder, error) from error
        needed = 3 * num_bytes(state.model.state_dict())
        if (free := shutil.disk_usage(folder).free) < needed:
            warn(f"warning: {free:,} bytes are free, but checkpoints may take {needed:,}")
    return is_new
