"""Runs that differ from a stored one in some keys, as the jobs of one sweep, which the same command continues."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from trainer.config import schema
from trainer.config.request import Config, Request, resolved
from trainer.disk.folder import ORIGIN, is_free, read_config, read_result
from trainer.sweep.plan import Job

LENGTHS = ("max_steps", "max_epochs", "eval_every")  # may change when a run continues, and count here
# Of a sweep's own keys, what a run may have been told and these jobs are not.
SWEEP = {"metric": None, "prune": None, "stack": "auto", "on_failure": "continue", "retry": False, "verify": 0}


def differing(a: Request, b: Request) -> list[str]:
    """The keys in which two runs differ; a group where its choice does. Neither seeds, nor what changes no number.

    Args:
        a, b: with their stored configs.
    """
    found = [group for group in schema.GROUPS if a.choices.get(group) != b.choices.get(group) or _targets(a, b, group)]
    old, new = dict(schema.leaves(a.config)), dict(schema.leaves(b.config))
    for key in dict.fromkeys([*old, *new]):
        group = key.partition(".")[0]
        is_kept = group in found or key in ("seed", "order_seed") or (is_free(key) and key not in LENGTHS)
        if not is_kept and old.get(key) != new.get(key):
            found.append(key)
    return found


def _targets(a: Request, b: Request, group: str) -> bool:
    """Whether a group has another class, or other keys."""
    old, new = (dict(schema.leaves(r.config[group])) for r in (a, b))
    return old.keys() != new.keys() or old.get("_target_") != new.get("_target_")


def value(request: Request, key: str) -> Any:
    """Of a key; of a group its keys."""
    return OmegaConf.to_container(OmegaConf.create({"x": _found(request.config, key)}))["x"]  # type: ignore[index, call-overload]


def _found(config: Mapping[str, Any], key: str) -> Any:
    for part in key.split("."):
        config = config[part]
    return config


def shown(request: Request, key: str) -> str:
    """The value as it is typed; of a group its choice, with its class where that is the user's own."""
    if key in schema.GROUPS:
        choice = request.choices.get(key, "own")
        return str(request.config[key].get("_target_", "own")) if choice == "own" else choice
    return schema.shown(value(request, key))


def changed(base: Request, taken: Mapping[str, Request]) -> Request:
    """The first run with some keys as other runs have them."""
    config: Config = OmegaConf.to_container(OmegaConf.create(base.config))  # type: ignore[assignment]
    choices = dict(base.choices)
    for key, other in taken.items():
        *path, last = key.split(".")
        holder = config
        for part in path:
            holder = holder[part]
        holder[last] = value(other, key)
        if key in schema.GROUPS:
            choices[key] = other.choices.get(key, "own")
    return Request(config, choices, base.overrides)


def job(request: Request, keys: Sequence[str], seed: int, quiet: bool = False) -> Request:
    """The request as a job of a sweep over these keys and the seed.

    Args:
        quiet: without an event file.
    """
    kept = [word for word in request.overrides if word.startswith("trust=")]
    config = {**request.config, "seed": seed, "order_seed": None, "resume": None, "run_dir": None, "name": None}
    config["sweep"] = {**config["sweep"], **SWEEP}
    if quiet:
        config["monitor"] = {**config["monitor"], "events": False}
    # A group is no word of its own: its keys were not typed, and count as a stranger's.
    words = [f"{key}={shown(request, key)}" for key in keys]
    return Request(config, request.choices, [*words, f"seed={seed}", *kept])


def reusable(jobs: Sequence[Job], runs: Sequence[Path]) -> dict[Job, Path]:
    """The jobs that have no folder yet and that a finished run has made already: it has the same config."""
    found: dict[Job, Path] = {}
    for run in runs:
        if read_result(run).get("status") == "finished":
            found |= {job: run for job in jobs if not job.folder.exists() and _is_same(job.request, run)}
    return found


def reuse(found: Mapping[Job, Path]) -> None:
    """Puts what the runs came to into the folders of the jobs, without checkpoints. Raises OSError."""
    for job, run in found.items():
        job.folder.mkdir(parents=True)
        # The last makes it a run.
        for name in ("overrides.yaml", "metrics.jsonl", ORIGIN, "result.json", "config.yaml"):
            if (run / name).is_file():
                shutil.copyfile(run / name, job.folder / name)


def _is_same(request: Request, run: Path) -> bool:
    """Whether the run in a folder is what is asked for, in every key that changes a number."""
    stored = read_config(run)
    if stored is None:
        return False
    stored.pop("choices", None)
    old, new = (dict(schema.leaves(resolved(config))) for config in (stored, request.config))
    if old.get("order_seed") not in (None, old.get("seed")):
        return False
    keys = [key for key in {**old, **new} if key != "order_seed" and (key in LENGTHS or not is_free(key))]
    return all(old.get(key) == new.get(key) for key in keys)
