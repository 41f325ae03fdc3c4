"""The folders that configs are looked for in, and what they offer: groups, options, keys."""

import os
import re
from pathlib import Path
from typing import Any

from trainer.config.schema import GROUPS, RULES, is_unlisted, leaves
from trainer.config.shipped import CONFIGS
from trainer.errors import printable

FLAGS = ("--config-dir", "-cd", "--config-path", "-cp")
ENDINGS = (".yaml", ".yml")
_MOST = 4096  # letters in which the line stands that says what an option is


def config_folders(argv: list[str]) -> list[Path]:
    """Where configs are looked for: the shipped ones, or those of `--config-path`, and the user's `--config-dir`."""
    shipped = [*_values(argv, FLAGS[2:]), CONFIGS][0]
    return [shipped, *_values(argv, FLAGS[:2])]


def has_own_folder(argv: list[str]) -> bool:
    """Whether configs are read from a folder that the user has named."""
    return bool(_values(argv, FLAGS))


def _values(argv: list[str], flags: tuple[str, ...]) -> list[Path]:
    """The folders that stand after flags, absolute; a shell leaves the `~` of `--config-dir=~/conf` as it is."""
    folders = []
    for i, word in enumerate(argv):
        name, sign, value = word.partition("=")
        if name in flags:
            following = argv[i + 1] if i + 1 < len(argv) else ""
            folders.append(Path(os.path.expanduser(value if sign else following)).absolute())
    return folders


def options(folders: list[Path]) -> dict[str, dict[str, str]]:
    """Group to option to what its file's first line says."""
    found: dict[str, dict[str, str]] = {}
    for path in (path for folder in folders for ending in ENDINGS for path in sorted(folder.glob(f"*/*{ending}"))):
        # An editor's lock `.#my.yaml`, a folder, a link to nothing: none of them can be chosen.
        if not path.name.startswith(".") and os.path.exists(path) and not path.is_dir():
            found.setdefault(path.parent.name, {})[path.stem] = _about(path)
    return found


def _about(path: Path) -> str:
    try:
        if not path.is_file():  # a pipe would be waited for; who chooses it is told
            return ""
        with open(path, encoding="utf-8-sig", errors="replace") as file:
            lines = file.read(_MOST).splitlines()
    except OSError:
        return ""
    comments = [line.lstrip("# ") for line in lines if line.startswith("#") and not re.match(r"#\s*@", line)]
    return printable(comments[0]) if comments else ""


def option_file(folders: list[Path], group: str, option: str) -> Path | None:
    """The config that Hydra reads for an option: that of the first folder which has one."""
    paths = (folder / group / f"{option}{ending}" for folder in folders for ending in ENDINGS)
    return next((path for path in paths if path.is_file()), None)


def values_of(folders: list[Path], group: str, option: str) -> dict[str, Any]:
    """Every key of an option, with its group before it, and its value."""
    path = option_file(folders, group, option)
    return {f"{group}.{key}": value for key, value in leaves(_read(path))} if path is not None else {}


def chosen_options(folders: list[Path], words: list[str]) -> dict[str, str]:
    """Group to option: what the words choose, else the default."""
    chosen: dict[str, str] = {}
    for default in _read(CONFIGS / "train.yaml")["defaults"]:
        chosen |= default if isinstance(default, dict) else {}
    known = options(folders)
    for word in words:
        group, sign, option = word.lstrip("+").partition("=")
        if sign and group in known:
            chosen[group] = option
    return chosen


def known_values(folders: list[Path], words: list[str]) -> dict[str, Any]:
    """Every key that a config may have with the options that the words choose, and its value there."""
    shipped = _read(CONFIGS / "train.yaml")
    known = dict.fromkeys((*GROUPS, "monitor", "experiment"), None)
    known |= dict(leaves({key: shipped[key] for key in shipped if key not in ("defaults", "hydra")}))
    chosen = chosen_options(folders, words)
    for group in (*GROUPS, "monitor"):
        known |= values_of(folders, group, chosen[group])
    everywhere = [key for key in RULES if key.split(".")[0] not in GROUPS or is_unlisted(key)]
    if "model.init" in known:  # a model that lists one of these lists all that are meant for it
        everywhere = [key for key in everywhere if key not in ("model.init", "model.init_std", "model.weights")]
    return dict.fromkeys(everywhere, None) | known


def owners(folders: list[Path], key: str) -> list[str]:
    """The options of its group that have a key, the user's own class not among them."""
    group = key.partition(".")[0]
    return [option for option in options(folders).get(group, {}) if key in values_of(folders, group, option)]


def missing_keys(folders: list[Path], group: str, option: str) -> list[str]:
    """The keys of an option that must be typed, as they have no value."""
    return [key for key, value in values_of(folders, group, option).items() if value == "???"]


def _read(path: Path) -> dict[str, Any]:
    """A config as YAML has it; empty where it is none: it is read for a hint."""
    from yaml import YAMLError  # which takes a third of the time of `train --help`

    from trainer.disk import foreign

    try:
        found = foreign.read_yaml(foreign.text(path))
    except (OSError, ValueError, RecursionError, YAMLError):
        return {}
    return found if isinstance(found, dict) else {}
