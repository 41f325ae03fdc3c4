"""Which folder a run has, and what of an earlier process in it the run begins with."""

import contextlib
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from trainer.config import schema
from trainer.config.request import Config, Request, resolved
from trainer.config.settings import Settings
from trainer.data.items import Items
from trainer.data.source import Data
from trainer.disk import folder as folders
from trainer.disk.checkpoint import Checkpoints, num_bytes, refuse_other_kinds
from trainer.disk.files import cannot_write, remove_leftovers
from trainer.disk.lock import holder, locked
from trainer.distributed import ALONE, TIMEOUT, World
from trainer.errors import UserError, in_a_line, nearest
from trainer.kept import state_of
from trainer.monitor.journal import cut_metrics
from trainer.optim import held
from trainer.optim.schedulers import OtherLength
from trainer.run.batch_size import with_size
from trainer.run.origin import as_trained, write_origin
from trainer.run.parts import Parts
from trainer.run.remembered import remember
from trainer.run.training import Training
from trainer.state import in_form_of


def as_stored(request: Request, undo: contextlib.ExitStack | None = None, world: World = ALONE) -> Request:
    """With `resume=<folder>`: all that was not typed is as in the run there; else the request itself.

    Args:
        undo: takes the folder of a pack away again.
        world: of its processes the first unpacks, and the others wait for it.

    Raises:
        UserError: there is no run, or its config can't be read.
    """
    resume = request.config["resume"]
    if not isinstance(resume, str) or resume in ("", "auto"):
        return request
    if resume.endswith(".zip") and Path(resume).expanduser().is_file():
        resume = str(of_pack(Path(resume).expanduser(), world))
        if undo is not None and world.is_main:
            undo.callback(shutil.rmtree, Path(resume), ignore_errors=True)
        request = Request({**request.config, "resume": resume}, request.choices, request.overrides)
    folder = folders.run_folder(resume)
    stored = stored_config(folder, request)
    if stored is None:
        hint = nearest(str(folder), (str(path.parent) for path in Path("runs").rglob("config.yaml")))
        if resume.lower() in ("true", "yes", "1", "latest", "last"):
            hint = " Type resume=auto for the newest of its kind."
        raise UserError(f"resume={resume}: there is no run.{hint} train runs lists them.")
    choices = {str(group): str(choice) for group, choice in stored.pop("choices", {}).items()}
    config = merged(request, stored)
    refuse_left_behind(folder, config, request.typed)
    return Request(config, choices, request.overrides)


def refuse_left_behind(folder: Path, config: Config, typed: list[str]) -> None:
    """Raises UserError where data is not found from here, but from a folder around the run's: it was started there."""
    for key in folders.PLACES:
        path = dict(schema.leaves(config)).get(key)
        if not isinstance(path, str) or key in typed or os.path.isabs(path) or os.path.exists(os.path.expanduser(path)):
            continue
        for around in folder.resolve().parents:
            if (around / path).exists():
                word = schema.typed(key, around / path)
                raise UserError(f"{key}={path}: is not in this folder, but in {around}. Type {word}, or train there.")


def of_pack(path: Path, world: World = ALONE) -> Path:
    """The folder below `runs/` that a pack is unpacked to, to go on there.

    They can't agree yet: how they talk to each other is said by the device, which is in the pack. Where the first ends
    with an error, torchrun ends the others.

    Raises:
        UserError: it is there already, or the file is no pack.
    """
    from trainer.disk.pack import unpack

    folder = Path("runs", path.stem)
    if not world.is_main:
        end = time.monotonic() + TIMEOUT.total_seconds()
        while not (folder / "config.yaml").is_file():  # it is there at once, whole
            if time.monotonic() > end:
                raise UserError(f"resume={path}: {folder} is not there, where rank 0 unpacks it.")
            time.sleep(0.1)
        return folder
    if folder.exists():
        raise UserError(
            f"resume={path}: {folder} is there already. Type {schema.resume_word(folder)}, or move it away."
        )
    folder.parent.mkdir(exist_ok=True)
    unpack(path, folder)
    return folder


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
            if folders.read_result(folder).get("status") != "finished":
                with contextlib.suppress(UserError):
                    is_run = folders.read_config(folder) is not None
                    if is_run and holder(folder) is None:
                        refuse_another(settings, folder, may_move=False)
                        return folder
    return folders.locate(config, label)


def refuse_another(settings: Settings, folder: Path, may_move: bool = True) -> None:
    """Raises UserError where the run in the folder was started with other settings.

    Args:
        may_move: whether the data may lie elsewhere by now; `load` finds out whether it is the same.
    """
    stored = stored_config(folder, settings.request)
    if stored is not None:
        stored.pop("choices", None)
        is_saved = os.path.exists(folder / "checkpoints/last.pt")  # False, too, where it may not be looked at
        folders.refuse_changes(folder, resolved(stored), settings.config, may_move and is_saved)


def as_begun(settings: Settings, folder: Path) -> Settings:
    """With `batch_size=auto` the size that the run in the folder began with, and a line that says so.

    With `threads=auto` the number that it had.
    """
    settings = as_trained(settings, folder)
    stored = None if settings.batch_size != "auto" else stored_config(folder, settings.request)
    if stored is None:
        return settings
    size = resolved(stored)["batch_size"]
    print(f"batch_size=auto: {schema.shown(size)}, with which the run in {folder} began")
    return with_size(settings, size)


def merged(request: Request, stored: Config) -> Config:
    """The stored config with what was typed."""
    # A folder of an older release lacks keys that there are now.
    known = {key: value for key, value in request.config.items() if key not in schema.GROUPS}
    sections = {s: {**(known[s] if isinstance(known.get(s), dict) else {}), **stored[s]} for s in schema.SECTIONS}
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
    if result.get("status") != "finished":
        return None
    is_short = result.get("steps", 0) < parts.length.max_steps
    if is_short and result.get("ended_by") not in ends_of(parts):
        return None
    refuse_other_data(folder, parts)
    if result.get("tested", parts.settings.test) != parts.settings.test:
        return None  # it is tested once more
    if parts.world.is_main:
        how = str(result["ended_by"]).partition("=")[0] + "=" if is_short else "max_steps= or max_epochs="
        why = f", {result.get('ended')}" if is_short else ""
        print(
            f"{folder} is finished: {result['steps']} steps{why}. "
            f"To continue, type a larger {how}; for another run, another name=."
        )
    return result


def refuse_other_data(folder: Path, parts: Parts) -> None:
    """Raises UserError where the data lies elsewhere than the run's, or is split otherwise, and is not the same."""
    stored, now = dict(schema.leaves(folders.read_config(folder) or {})), parts.settings.request.config
    if all(stored.get(key) == value for key, value in schema.leaves(now) if key in folders.CHECKED):
        return
    state = Checkpoints(folder / "checkpoints", keep=1).newest(lambda _: None)
    try:
        parts.state.refuse_other_data(state or {})
    except ValueError as error:
        raise does_not_fit(folder, error, parts.data) from error


def does_not_fit(folder: Path, error: Exception, data: Data | None = None) -> UserError:
    """
    Args:
        data: that of the run, where it may be split otherwise than an older release did.
    """
    what = in_a_line(error)  # torch says in further lines what does not fit
    how = "If a class of yours or the data has changed since, type another name= for a new run."
    if isinstance(error, OtherLength):
        how = "Type max_steps= or max_epochs= as it was begun with, or another name= for a new run."
    if data is not None and data.by_chance and isinstance(data.train, Items) and data.train.known is not None:
        how += " A run of an older release, whose splits did not heed the classes, continues with data.stratify=false."
    return UserError(f"{folder}: the checkpoint does not fit: {what}. {how}")


def ends_of(parts: Parts) -> list[str]:
    """What may end such a run before its last step, as `ended_by` says it."""
    settings, patience = parts.settings, parts.state.patience
    found = [] if patience is None else [patience.told]
    return found + ([] if settings.max_time is None else [f"max_time={settings.max_time}"])


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


# What can be done about a number that no checkpoint keeps, by whose it is.
KEPT_BY = {
    "model": "keep it by register_buffer",
    "loss": "keep it by register_buffer",
    "optimizer": "keep it in param_groups",
    "scheduler": "have its state_dict keep it",
    "data": "have a sample depend on its index alone",
}


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
        if (take_form := getattr(parts.state.optimizer, "take_form", None)) is not None:
            take_form(state["optimizer"])
        state = {**state, "optimizer": in_form_of(parts.state.optimizer, state["optimizer"], parts.state.store)}
        refuse_other_kinds(state["optimizer"], held.state_of(parts.state.optimizer), "optimizer")
        for part in ("schedule", "scaler"):
            refuse_other_kinds(state[part], getattr(parts.state, part).state_dict(), part)
        for split in parts.state.refuse_other_data(state):
            training.warnings.append(
                f"warning: files of the {split} split are others than the run began with; its numbers before and after "
                "are of different samples"
            )
        parts.state.load_state_dict(state)
        for name, (now, then) in parts.state.not_taken_up(state).items():
            how = KEPT_BY.get(name.partition(".")[0], "keep it in a module by register_buffer")
            here = "None" if now != now else f"{now:.6g}"
            training.warnings.append(
                f"warning: {name} changes while it trains, and no checkpoint keeps it: it goes on from {here}, not "
                f"{then:.6g}. If the training depends on it, {how}: train help resume"
            )
        if "diagnosis" in state:
            training.diagnosis.load_state_dict(state["diagnosis"])
    except Exception as error:  # of every kind: the file may be anybody's
        raise does_not_fit(folder, error, parts.data) from error


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
                folders.keep_ends(folder, request.config)
                cut_metrics(folder / "metrics.jsonl", state.step)
            remember(folder, parts)
            write_origin(folder, parts)
        except OSError as error:
            raise cannot_write(folder, error) from error
        needed = 3 * num_bytes(state_of(state.model))
        if (free := shutil.disk_usage(folder).free) < needed:
            warn(f"warning: {free:,} bytes are free, but checkpoints may take {needed:,}")
    return is_new
