"""How Hydra reads configs here: from folders anywhere on a disk, and recipes as people write them."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import version
from hydra._internal.hydra import Hydra
from hydra._internal.sources_registry import SourcesRegistry
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigResult, ConfigSource
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from trainer.command.folders import CONFIGS, ENDINGS
from trainer.config.schema import GROUPS, yaml_problem
from trainer.disk import foreign
from trainer.errors import UserError

_CHOICES = (*GROUPS, "monitor", "metric")  # what `train.yaml` has chosen already, so that a recipe overrides it
_PACKAGE = re.compile(r"^\s*#\s*@\s*package\s*:?\s*([\w.]+)\s*$", re.MULTILINE | re.IGNORECASE)
_KEYWORDS = re.compile(r"^(?:(?:override|optional)\s+)*/?")


@contextmanager
def hydra_at(folders: list[Path]) -> Iterator[Hydra]:
    """Hydra with these folders of configs, the first of which holds the config that all others go into."""
    SourcesRegistry.instance().register(ConfigFolder)
    version.setbase("1.3")
    before = GlobalHydra.instance().hydra
    search_path = create_config_search_path(None)
    for i, folder in enumerate(folders):
        path = f"{ConfigFolder.scheme()}://{folder.absolute()}"
        search_path.prepend("train" if i else "main", path, SearchPathQuery(provider="schema", path=None))
    GlobalHydra.instance().clear()
    try:
        yield Hydra.create_main_hydra2("train", search_path)
    finally:
        GlobalHydra.instance().hydra = before


class ConfigFolder(ConfigSource):
    """A folder of configs. Hydra's own source reads a byte order mark as text and a pipe without an end, and it does
    not tell the name of a file that it can't read.
    """

    @staticmethod
    def scheme() -> str:
        return "train"

    def load_config(self, config_path: str) -> ConfigResult:
        path = self._file(config_path)
        assert path is not None  # is_config() was asked
        text = _text(path)
        config, header = _parsed(path, text), _PACKAGE.search(text)
        package = header[1] if header else None
        if config_path.split("/")[0] == "experiment":
            package = "_global_" if package is None or package.strip("_").lower() == "global" else package
        plain = OmegaConf.to_container(config)
        on_ours = isinstance(plain, dict) and "train" in (plain.get("defaults") or ())
        if config_path.split("/")[0] == "experiment" or on_ours:
            config = OmegaConf.create(as_recipe(plain))
        return ConfigResult(self.provider, f"{self.scheme()}://{self.path}", config, {"package": package})

    def _file(self, config_path: str) -> Path | None:
        path = Path(self.path, config_path)
        found = [path] if path.suffix in ENDINGS else [path.with_name(path.name + ending) for ending in ENDINGS]
        return next((file for file in found if file.exists() and not file.is_dir()), None)

    def available(self) -> bool:
        return Path(self.path).is_dir()

    def is_group(self, config_path: str) -> bool:
        return Path(self.path, config_path).is_dir()

    def is_config(self, config_path: str) -> bool:
        return config_path != "" and self._file(config_path) is not None

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        names = [path.name for path in Path(self.path, config_path).iterdir()]
        groups = [name for name in names if self.is_group(f"{config_path}/{name}") and not name.startswith(".")]
        configs = [name.removesuffix(ending) for ending in ENDINGS for name in names if name.endswith(ending)]
        wanted = {ObjectType.GROUP: groups, ObjectType.CONFIG: configs, None: [*groups, *configs]}
        return sorted(set(wanted[results_filter]))


def _text(path: Path) -> str:
    """Raises UserError where the file is no text in UTF-8, with or without the mark that Windows puts before it."""
    try:
        return foreign.content(path, foreign.MAX_TEXT_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: no YAML: it is no text in UTF-8. Save it as UTF-8.") from error
    except OSError as error:
        raise UserError(f"{path}: can't be read: {error.strerror}.") from error
    except ValueError as error:
        raise UserError(f"{path}: can't be read: {error}.") from error


def _parsed(path: Path, text: str) -> Any:
    """Raises UserError where the text is no YAML, or YAML without an end."""
    try:
        if not path.is_relative_to(CONFIGS):
            foreign.read_yaml(text)
        return OmegaConf.load(io.StringIO(text))
    except (ValueError, RecursionError, OmegaConfBaseException, YAMLError) as error:
        raise UserError(f"{path}: no YAML: {yaml_problem(error)}.") from error


def as_recipe(config: Any) -> Any:
    """A recipe of `experiment/`, which chooses in groups, in Hydra's words for it: `override /optimizer: sgd`.

    People leave out `override` or the slash, write `optimizer: sgd` among the keys, or the choices without dashes.

    Args:
        config: plain lists and mappings.
    """
    if not isinstance(config, dict):
        return config
    chosen = config.get("defaults") or []
    items: Any = [{key: option} for key, option in chosen.items()] if isinstance(chosen, dict) else chosen
    among_keys = [{key: config[key]} for key in _CHOICES if _option(key, config.get(key)) is not None]
    if not isinstance(items, list) or not (items or among_keys):
        return config
    rest = {key: value for key, value in config.items() if {key: value} not in among_keys}
    choices = [_as_choice(item) for item in (*items, *among_keys)]
    choices.sort(key=lambda item: isinstance(item, dict) and str(next(iter(item), "")).startswith("override"))
    return {**rest, "defaults": choices}  # Hydra takes what overrides last alone


def _option(group: str, value: Any) -> str | list[str] | None:
    """What a value among the keys of a recipe chooses in a group; None where it chooses nothing."""
    if group == "monitor" and value is False:  # YAML reads `off` so
        return "off"
    names = value if group == "metric" and isinstance(value, list) else [value]
    if not all(isinstance(name, str) and name for name in names):
        return None
    names = [re.sub(r"\.ya?ml$", "", name) for name in names]
    return names if isinstance(value, list) else names[0]


def _as_choice(item: Any) -> Any:
    """An item of a defaults list; what chooses no option of a group that is chosen already stays as it is."""
    if isinstance(item, str):
        key, _, option = item.removeprefix("/").replace("=", "/").partition("/")
    elif isinstance(item, dict) and len(item) == 1:
        ((key, option),) = item.items()
    else:
        return item
    group = _KEYWORDS.sub("", str(key))
    name = group.partition("@")[0]
    chosen = _option(name, option) if name in _CHOICES else None
    return item if chosen is None else {f"override /{group}": chosen}
