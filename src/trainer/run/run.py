"""From what was asked for to a run: a new one, or one that goes on where it stopped."""

import contextlib
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from trainer.config import schema, trust
from trainer.config.request import Config, Request, resolved
from trainer.disk import folder as folders
from trainer.disk.lock import holder
from trainer.distributed import World, find_world, joined
from trainer.errors import RunStopped, UserError, nearest
from trainer.run.build import Built, find_device
from trainer.run.training import Training
from trainer.signals import Signals


def run(request: Request, signals: Signals | None = None) -> Config:
    """Trains, or goes on with a training. Returns what `result.json` holds.

    Args:
        signals: those of the command; without them none is listened to.

    Raises:
        UserError: a mistake in the config, the data or the environment; nothing has been written then.
        RunStopped: a loss that is not finite.
        Interrupted: a signal; the run has been saved.
    """
    schema.check(resolved(request.config))
    # Whose classes may be named comes from what was typed alone, never from a file.
    own = tuple(request.config["trust"])
    if own and "trust" not in request.typed:
        raise UserError(
            f"trust={schema.shown(list(own))}: stands in a config file. Whom you trust you type, once you have read it."
        )
    world = find_world()
    folder = find_folder(request)
    stored = folders.read_config(folder)
    if stored is None and request.config["resume"] not in (None, "auto"):
        hint = nearest(str(folder), (str(path.parent) for path in Path("runs").rglob("config.yaml")))
        raise UserError(f"resume={request.config['resume']}: there is no run.{hint} train runs lists them.")
    if stored is not None:
        request = going_on(request, folder, stored)
    config = resolved(request.config)
    schema.check(config)
    with joined(world, find_device(config["device"], world)):
        folder = world.shared(folder)
        refuse_other_configs(world, config)
        built = world.together(lambda: Built(request, own, world))
        training = Training(request, built, folder, signals or Signals())
        if stored is not None and (result := training.finished()) is not None:
            return result
        with contextlib.ExitStack() as stack:
            world.together(lambda: training.take_folder(stack))
            world.together(training.load)
            try:
                return training.train()
            except (UserError, RunStopped):
                raise
            except Exception as error:
                if not trust.place(error, own):
                    raise
                raise UserError(f"{trust.told(error, own)}: raised by a class of yours.") from error


def find_folder(request: Request) -> Path:
    """The folder of the run that is asked for; its name, where it is new.

    `resume=auto` without a name goes on with the newest run that was started the same way and has not ended.
    """
    label = f"{request.name('model')}-{request.name('data')}"
    config = request.config
    if config["resume"] == "auto" and config["name"] is None and config["run_dir"] is None:
        for folder in sorted(Path("runs", label).glob("*/"), reverse=True):
            result = folders.read_result(folder)
            if result is None or result.get("status") != "finished":
                with contextlib.suppress(UserError):
                    stored = folders.read_config(folder)
                    if stored is not None and holder(folder) is None:
                        going_on(request, folder, stored)
                        return folder
    return folders.locate(config, label)


def refuse_other_configs(world: World, config: Config) -> None:
    """Raises UserError where two processes were not started with the same config."""
    mine, *others = world.gather(dict(schema.leaves(config)))
    for rank, other in enumerate(others, 1):
        for key in {**mine, **other}:
            if mine.get(key) != other.get(key):
                raise UserError(
                    f"{key}={schema.shown(other.get(key))}: on rank {rank}, but {key}={schema.shown(mine.get(key))} on "
                    "rank 0. Start all processes with the same command."
                )


def going_on(request: Request, folder: Path, stored: Config) -> Request:
    """The request to go on with the run in `folder`.

    After `resume=<folder>` all that was not typed is as stored; after `name=` the command is the whole one.
    """
    choices = stored.pop("choices", {})
    holders = (*schema.GROUPS, *schema.SECTIONS)
    if not isinstance(choices, dict) or not all(isinstance(stored.get(key), dict) for key in holders):
        raise UserError(f"{folder}/config.yaml: is no config of train.")
    if not choices.keys() <= {*holders} or not all(isinstance(choice, str) for choice in choices.values()):
        raise UserError(f"{folder}/config.yaml: choices={schema.shown(choices)}: is none of train's.")
    config = request.config
    folders.refuse_resolvers(folder, stored, config)
    if config["resume"] not in (None, "auto"):
        # A folder of an older release lacks keys that there are now.
        known = {key: value for key, value in config.items() if key not in schema.GROUPS}
        sections = {section: {**known[section], **stored[section]} for section in schema.SECTIONS}
        merged: Any = OmegaConf.create({**known, **stored, **sections})
        for key in request.typed:
            OmegaConf.update(merged, key, OmegaConf.select(OmegaConf.create(config), key), merge=False, force_add=True)
        merged["resume"], merged["trust"] = config["resume"], config["trust"]
        container = OmegaConf.to_container(merged)
        assert isinstance(container, dict)
        config = {str(key): value for key, value in container.items()}
        request = Request(config, {str(k): str(v) for k, v in choices.items()}, request.overrides)
    folders.refuse_changes(folder, resolved(stored), resolved(config))
    return request
