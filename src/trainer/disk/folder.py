"""The folder of a run: where it lies, what it holds, and whether a run in it may go on with another config."""

import io
import json
import math
import os
import re
import secrets
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf._utils import get_omega_conf_dumper
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from trainer.config.references import refuse_endless
from trainer.config.schema import leaves, shown, typed, yaml_problem
from trainer.disk import foreign, lock
from trainer.disk.files import write_text
from trainer.errors import UserError

MODEL = "model.json"  # what its model is given, and what it gives
ORIGIN = "origin.json"  # what it was made with
# What may change when a run goes on: it changes neither the numbers so far nor what they mean.
FREE = (
    *("max_steps", "max_epochs", "max_time", "metric", "early_stopping", "eval_every", "on_nan", "test"),
    *("device", "compile", "fast", "cuda_graphs", "channels_last", "cache_limit", "deterministic", "threads"),
    "gradient.checkpoint",
    *("name", "run_dir", "resume", "trust", "monitor", "checkpoint", "console", "sweep", "dry_run", "profile"),
    *("data.cache", "data.fixed", "data.num_workers"),  # samples come and draw the same with any number of workers
)

# Of these what says when a run ends, and what is tested then.
ENDS = ("max_steps", "max_epochs", "max_time", "early_stopping", "test")
# Where the data lies: it may have moved. What tells it from other data stands in the checkpoint.
PLACES = ("data.path", "data.root")
# That does so, too, for how samples fell into splits: older releases did not stratify all that is stratified now.
CHECKED = (*PLACES, "data.stratify")


def is_free(key: str) -> bool:
    """Whether a key may change when a run goes on."""
    return key in FREE or key.split(".")[0] in FREE


def locate(config: Mapping[str, Any], label: str) -> Path:
    """The folder that the config names, or a new one's name that no other run has. Makes nothing."""
    if config["resume"] not in (None, "auto"):
        return run_folder(str(config["resume"]))
    if config["run_dir"] is not None:
        return Path(os.path.expanduser(str(config["run_dir"])))
    if config["name"] is not None:
        return Path("runs", str(config["name"]))
    return Path("runs", label, f"{datetime.now():%Y-%m-%d_%H%M%S}-{secrets.token_hex(2)}")


def run_folder(word: str) -> Path:
    """The folder of `resume=<word>`, there or not.

    Raises:
        UserError: it is none, and another is meant: that of a file of a run, or that of a name.
    """
    folder = Path(os.path.expanduser(word))
    if os.path.isfile(folder / MARKS["run"]):
        return folder
    run = next((parent for parent in folder.parents if _holds_run(parent)), None)
    if run is not None:
        raise UserError(f"resume={word}: is no folder of a run, but lies in one. Type {typed('resume', run)}.")
    below = sorted(parent for depth in ("*", "*/*") for parent in folder.glob(depth) if _holds_run(parent))
    if below:
        is_sweep = os.path.isfile(folder / MARKS["sweep"])
        what = "a sweep, which its own command continues" if is_sweep else "a folder of runs"
        raise UserError(f"resume={word}: is {what}. For one of its runs, type {typed('resume', below[0])}.")
    named = Path("runs", word)
    if not os.path.lexists(folder) and os.path.isfile(named / MARKS["run"]):
        raise UserError(f"resume={word}: there is no run. Type {typed('resume', named)}.")
    return folder


def _holds_run(folder: Path) -> bool:
    """Not by its `config.yaml` alone: a project may have one of its own."""
    return os.path.isfile(folder / MARKS["run"]) and os.path.isfile(folder / "overrides.yaml")


MARKS = {"run": "config.yaml", "sweep": "sweep.yaml"}  # what makes a folder one


def is_before_mark(path: Path) -> bool:
    """What is written into a folder before its mark: all that a process killed then has left."""
    return path.name in (lock.NAME, "overrides.yaml", "log.txt") or (
        path.name.startswith(".") and path.name.endswith(".tmp")
    )


def is_begun(folder: Path, kind: str) -> bool:
    """Whether a run or a sweep has begun in this folder. Before anything in it is read, locked or written.

    Args:
        kind: "run" or "sweep".

    Raises:
        UserError: the folder is no folder, holds something else, or a link: that would lead a writer elsewhere.
    """
    try:
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{folder}: is a file; a {kind} needs a folder. Type another name=, run_dir= or resume=.")
        is_marked = os.path.lexists(folder / MARKS[kind])
        if not is_marked and folder.exists() and not all(map(is_before_mark, folder.iterdir())):
            raise UserError(
                f"{folder}: is not empty and holds no {kind} (no {MARKS[kind]}). Type another name= or run_dir=."
            )
        foreign.refuse_links(folder)
    except foreign.Link as error:
        raise UserError(f"{folder}: {error}; a {kind}'s folder holds plain files alone. Take it out.") from error
    except OSError as error:  # not readable; a name of more letters than there may be
        raise UserError(f"{folder}: can't be read: {error.strerror}. Type another name= or run_dir=.") from error
    return is_marked


def read_config(folder: Path) -> dict[str, Any] | None:
    """The config of the run in this folder, None where there is no run. Foreign text: nothing in it is trusted.

    Raises:
        UserError: see `is_begun`; or its config can't be read.
    """
    path = folder / "config.yaml"
    if not is_begun(folder, "run"):
        return None
    try:
        text = foreign.text(path)
        foreign.read_yaml(text)
        stored = OmegaConf.to_container(OmegaConf.load(io.StringIO(text)))
        refuse_endless(stored)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except OSError as error:
        raise UserError(f"{path}: can't be read: {error.strerror}. Type another name= or run_dir=.") from error
    except (ValueError, OmegaConfBaseException, YAMLError) as error:
        raise UserError(f"{path}: can't be read: {yaml_problem(error)}.") from error
    if not isinstance(stored, dict):
        raise UserError(f"{path}: holds no config.")
    return {str(key): value for key, value in stored.items()}


def refuse_resolvers(folder: Path, stored: Any, config: Any, key: str = "") -> None:
    """Refuses `${oc.env:HOME}` and its like in a stored config, which would read this machine for whoever wrote it.

    Args:
        stored, config: of the folder, and of this command, both with interpolations: what stands in both was typed.

    Raises:
        UserError: names the key.
    """
    if isinstance(stored, Mapping):
        for name, value in stored.items():
            other = config.get(name) if isinstance(config, Mapping) else None
            refuse_resolvers(folder, value, other, f"{key}.{name}".lstrip("."))
    elif isinstance(stored, list):
        for i, value in enumerate(stored):
            other = config[i] if isinstance(config, list) and i < len(config) else None
            refuse_resolvers(folder, value, other, f"{key}.{i}")
    elif isinstance(stored, str) and stored != config and re.search(r"\$\{.*:", stored, re.DOTALL):
        raise UserError(f"{folder}/config.yaml: {key}={stored}: asks for more than another key. Type {key}=...")


# What counts where these keys are missing: options for classes of the user's listed them once.
UNSAID = {"model.init": "default", "model.init_std": 1.0, "loss.weights": {}, "scheduler.interval": "step"}


def refuse_changes(folder: Path, stored: Mapping[str, Any], config: Mapping[str, Any], may_move: bool = False) -> None:
    """Refuses to continue with another model, data, loss or update than the run was started with.

    Args:
        may_move: whether the data may lie elsewhere by now.

    Raises:
        UserError: lists each key that differs, with both values.
    """
    old, new = (UNSAID | dict(leaves(one)) for one in (stored, config))
    differing = [
        f"{key}={shown(new.get(key))} (was {shown(old.get(key))})"
        for key in {**old, **new}
        if not is_free(key)
        and old.get(key) != new.get(key)
        and not (may_move and key in CHECKED)
        and (key, new.get(key)) != ("batch_size", "auto")  # then it is what the run began with
    ]
    if differing:
        raise UserError(
            f"{folder} holds a run that was started differently: {', '.join(differing)}. "
            "Type the old values to continue, or another name= for a new run."
        )


class _WithoutAliases:
    """As OmegaConf writes it, which reads it back."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


class _InPython(_WithoutAliases, yaml.Dumper):
    """Writes whatever Python has as text."""


class _InC(_WithoutAliases, getattr(yaml, "CDumper", yaml.Dumper)):  # type: ignore[misc]  # PyYAML without libyaml
    """In a fifth of the time."""


for _dumper in (_InPython, _InC):
    _dumper.add_representer(str, get_omega_conf_dumper().str_representer)
    _dumper.add_representer(tuple, _dumper.represent_list)


def as_yaml(plain: Mapping[str, Any] | list[str]) -> str:
    """Plain mappings and lists as YAML: what `OmegaConf.to_yaml` gives. Interpolations stay as they are."""
    how: dict[str, Any] = {"default_flow_style": False, "allow_unicode": True, "sort_keys": False}
    try:
        written: str = yaml.dump(plain, Dumper=_InC, **how)
    except UnicodeEncodeError:  # the name of a file that is no text in the encoding of this system
        written = yaml.dump(plain, Dumper=_InPython, **how)
    return written


def write_config(folder: Path, config: Mapping[str, Any], overrides: list[str]) -> None:
    """`config.yaml`, all of it, and `overrides.yaml`, what was typed."""
    write_text(folder / "overrides.yaml", as_yaml(overrides))
    write_text(folder / "config.yaml", as_yaml(dict(config)))


def read_origin(folder: Path) -> list[dict[str, Any]]:
    """The entries of `origin.json`, the oldest first; none where it is missing, torn or no such file. Foreign text."""
    try:
        entries = json.loads(foreign.text(folder / ORIGIN))
    except (OSError, ValueError, RecursionError):
        return []
    return [e for e in entries if isinstance(e, dict)] if isinstance(entries, list) else []


def keep_ends(folder: Path, config: Mapping[str, Any]) -> None:
    """Has `config.yaml` say when a run that goes on is to end now; all else in it is as the run began."""
    stored = read_config(folder)
    if stored is not None and any(stored.get(key) != config[key] for key in ENDS):
        write_text(folder / "config.yaml", as_yaml({**stored, **{key: config[key] for key in ENDS}}))


def read_result(folder: Path) -> dict[str, Any]:
    """`result.json`, which says how many `steps` were made; empty where the run has not ended."""
    try:
        result = json.loads(foreign.text(folder / "result.json"))
    except (OSError, ValueError, RecursionError):
        return {}
    return result if isinstance(result, dict) and isinstance(result.get("steps"), int) else {}


def write_result(folder: Path, result: Mapping[str, Any]) -> None:
    """`result.json`: one flat object; JSON has no NaN, so what is not finite is null.

    Raises:
        UserError: the folder is not what it was when it was locked.
    """
    lock.refuse_lost(folder)
    finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in result.items()}
    write_text(folder / "result.json", json.dumps(finite, indent=2) + "\n")
