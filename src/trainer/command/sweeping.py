"""`train --multirun`: the folder of a sweep, its jobs, and whether plugins of Hydra's choose or run them."""

import os
from datetime import datetime
from pathlib import Path

from trainer.command.composing import composer
from trainer.command.words import Words
from trainer.config.request import Request
from trainer.config.schema import RULES
from trainer.errors import UserError
from trainer.signals import Signals
from trainer.system import shell


def run_sweep(argv: list[str], words: Words, signals: Signals) -> int:
    """Runs every combination of the values, each a job of its own. Returns how many jobs failed."""
    refuse_ranks("--multirun")
    words.overrides = ["sweep.stack=always" if w == "hydra/launcher=stacked" else w for w in words.overrides]
    refuse_places(words)
    with composer(argv, words) as made:
        if words.of_hydra is not None:
            from trainer.sweep.plugins import PluggedSweep

            plugged = PluggedSweep(made.overrides, made.config_name)  # a search composes as it goes
            return plugged.run(folder_of(plugged.requests), argv, signals)
        jobs = made.jobs()
    from trainer.sweep.sweep import sweep

    return sweep(jobs, folder_of(jobs), argv, signals)


def refuse_ranks(word: str) -> None:
    """Raises UserError under torchrun, where each process would start all jobs, in the same folders."""
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise UserError(
            f"{word}: is one process, which starts its jobs. Type it without torchrun (or unset WORLD_SIZE). In a "
            "sweep sweep.jobs=2 runs two at a time, and sweep.devices=[0,1] deals out the GPUs."
        )


def refuse_places(words: Words) -> None:
    """Refuses to sweep over where runs lie: a sweep has one name, and its jobs have theirs of what differs.

    Raises:
        UserError: says what to type.
    """
    for word in words.overrides:
        key, _, value = word.lstrip("+~").partition("=")
        if key == "run_dir" and value != "null":
            name = Path(value).name.partition(",")[0]
            how = f" Type name={name}" if RULES["name"].allows(name) else " Type name=..."
            raise UserError(f"{word}: a sweep lies in runs/<name>, each job in a folder there.{how}.")
        if key == "resume" and value not in ("null", "auto"):
            raise UserError(f"{word}: a sweep continues by its name. Type the same command again, with its name=.")
        if key == "name" and "," in value and value[0] not in "'\"":
            one = value.partition(",")[0]
            raise UserError(f"{word}: a sweep has one name, and its jobs are named by what differs. Type name={one}.")


def folder_of(requests: list[Request]) -> Path:
    """Where a sweep lies.

    Raises:
        UserError: its name is none for a folder, or refers to what differs between its jobs.
    """
    names = {request.config["name"] for request in requests}
    if len(names) > 1:
        found = shell.quote(f"name={' and '.join(sorted(map(str, names)))}")
        raise UserError(f"{found}: a sweep has one name. Type one that refers to no key which differs.")
    name = names.pop()
    if name is None:
        name = f"sweep-{datetime.now():%Y-%m-%d_%H%M%S}"
    if not RULES["name"].allows(name):
        raise UserError(f"name={name}: must be {RULES['name'].accepts}. Try name=try1.")
    return Path("runs", name)
