"""How Hydra reads configs here: from folders anywhere on a disk, and recipes as people write them."""

import copy
import functools
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository
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
from trainer.config.grammar import from_environment, split
from trainer.config.schema import GROUPS, is_as_typed, yaml_problem
from trainer.config.shipped import shipped
from trainer.disk import foreign
from trainer.errors import UserError

# What `train.yaml` has chosen already, so that a recipe overrides it.
_CHOICES = (*GROUPS, "monitor", "metric", "experiment")
_PACKAGE = re.compile(r"^\s*#\s*@\s*package\s*:?\s*([\w.]+)\s*$", re.MULTILINE | re.IGNORECASE)
# Digits behind a 0 are octal to YAML 1.1, and those between colons are of base 60.
_OTHER_BASE = re.compile(r"[-+]?(0[0-7_]+|[1-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?)")
_KEYWORDS = re.compile(r"^(?:(?:override|optional)\s+)*/?")


@contextmanager
def hydra_at(folders: list[Path]) -> Iterator[Hydra]:
    """Hydra with these folders of configs, the first of which holds the config that all others go into."""
    SourcesRegistry.instance().register(ConfigFolder)
    version.setbase("1.3")
    before = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        GlobalHydra.instance().hydra = hydra = _at_shipped() if folders == [CONFIGS] else _at(folders)
        yield hydra
    finally:
        GlobalHydra.instance().hydra = before


def _at(folders: list[Path]) -> Hydra:
    """Hydra, which sets itself as the one in use."""
    search_path = create_config_search_path(None)
    for i, folder in enumerate(folders):
        path = f"{ConfigFolder.scheme()}://{folder.absolute()}"
        search_path.prepend("train" if i else "main", path, SearchPathQuery(provider="schema", path=None))
    hydra = Hydra.create_main_hydra2("train", search_path)
    assert isinstance(hydra.config_loader, ConfigLoaderImpl)
    hydra.config_loader.repository = Folders(search_path)
    return hydra


class Folders(ConfigRepository):
    """The places that configs are read from.

    Hydra copies them for each config that it composes, as it may give the copy more places. Its way of copying copies
    all that plugins have stored, too, a third of the time that it takes to compose; and nothing changes that.
    """

    def __deepcopy__(self, memo: dict[int, Any]) -> "Folders":
        return copy.copy(self)


@functools.cache
def _at_shipped() -> Hydra:
    """One for the whole process: the shipped files don't change."""
    return _at([CONFIGS])


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
        read = _shipped if path.is_relative_to(CONFIGS) else _read
        group, _, option = config_path.partition("/")
        plain, package = read(path, group if option else "")
        provider = f"{self.scheme()}://{self.path}"
        return ConfigResult(self.provider, provider, OmegaConf.create(plain), {"package": package})

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


def _read(path: Path, group: str) -> tuple[Any, str | None]:
    """What a config holds, as Hydra wants it, and the package that its header names.

    Args:
        group: empty at the top.

    Raises:
        UserError: it can't be read, is no YAML, or is written in two ways.
    """
    text = _text(path)
    plain, header = OmegaConf.to_container(_parsed(path, text)), _PACKAGE.search(text)
    package = header[1] if header else None
    is_recipe = group == "experiment"
    if is_recipe:
        package = "_global_" if package is None or package.strip("_").lower() == "global" else package
    if not isinstance(plain, dict):
        raise UserError(f"{path}: holds a list. Write keys with their values, without dashes: max_epochs: 5.")
    if not path.is_relative_to(CONFIGS):
        keep_texts(plain, yaml.compose(text, foreign.SafeLoader), f"{group}." if group and not is_recipe else "")
    try:
        if is_recipe or "train" in (plain.get("defaults") or ()):
            plain = as_recipe(plain, is_recipe)
        if not path.is_relative_to(CONFIGS):
            refuse_other_bases(text)
            plain = nested(plain)
            refuse_hydra(plain, package)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
    return plain, package


# Each job of a sweep would read them again: a seventh of the time that Hydra takes.
_shipped = functools.cache(_read)


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


def refuse_hydra(config: dict[Any, Any], package: str | None) -> None:
    """Raises ValueError for what a file tells Hydra, but for more folders of configs: nothing would come of it here.

    Args:
        package: that the header names.
    """
    section = config if (package or "").partition(".")[0] == "hydra" else config.get("hydra")
    items = config.get("defaults") or []
    groups = [_KEYWORDS.sub("", str(key)) for item in items for key in (item if isinstance(item, dict) else [item])]
    plugin = next((group for group in groups if group.startswith(("hydra/launcher", "hydra/sweeper"))), None)
    is_copied = section == shipped("train")["hydra"]  # a folder for --config-path may begin as a copy of ours
    is_searched = isinstance(section, dict) and section.keys() == {"searchpath"}
    if plugin is not None or not (section is None or is_copied or is_searched):
        raise ValueError(
            f"{plugin or 'hydra'}: a file does not say what Hydra does here. Take it out, and type what it is for: "
            "run_dir=... for where a run lies, --multirun and values for a sweep, hydra/sweeper=optuna for a search."
        )


def refuse_other_bases(text: str) -> None:
    """Raises ValueError for a number that YAML 1.1 reads as another than it looks: 010 as 8, 1:30 as 90."""
    for event in yaml.parse(text, foreign.SafeLoader):
        if not (isinstance(event, yaml.ScalarEvent) and event.implicit[0] and _OTHER_BASE.fullmatch(event.value)):
            continue
        word, number = event.value, yaml.safe_load(event.value)
        decimal = None if ":" in word else int(word.replace("_", ""), 10)
        if decimal != number:
            how = f"'{word}' for a text" if decimal is None else f"{decimal} or {number}, or '{word}' for a text"
            raise ValueError(f"line {event.start_mark.line + 1}: {word} is {number} to YAML. Write {how}.")


def keep_texts(config: dict[Any, Any], node: yaml.Node | None, prefix: str) -> None:
    """Names and paths as they are written: `name: 2026_11_22` and `name: 1.50` are numbers to YAML.

    Args:
        config: is changed.
        node: of YAML, that the config was read from.
        prefix: of the keys.
    """
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    own = {key.value for key, _ in pairs}
    for key, value in _merged(pairs):
        if key.value not in own:  # what stands there itself counts more
            pairs = [*pairs, (key, value)]
            own.add(key.value)
    for key, value in pairs:
        found = config.get(key.value)
        if isinstance(value, yaml.MappingNode) and isinstance(found, dict):
            keep_texts(found, value, f"{prefix}{key.value}.")
        elif (
            isinstance(value, yaml.ScalarNode)
            and isinstance(found, int | float)
            and is_as_typed(f"{prefix}{key.value}")
        ):
            config[key.value] = value.value


def _merged(pairs: list[tuple[yaml.Node, yaml.Node]]) -> Iterator[tuple[yaml.Node, yaml.Node]]:
    """The keys that a mapping takes over by `<<: *anchor`, those that count more first."""
    for key, value in pairs:
        if key.tag == "tag:yaml.org,2002:merge":
            for node in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                if isinstance(node, yaml.MappingNode):
                    yield from (pair for pair in node.value if pair[0].tag != key.tag)
                    yield from _merged(node.value)


def nested(config: Any) -> Any:
    """The config with `optimizer.lr: 0.1` of its top level as `optimizer: {lr: 0.1}`.

    Hydra would keep the dotted name as a key of its own, which nothing reads.

    Raises:
        ValueError: both ways are there, and give a key two values.
    """
    if not isinstance(config, dict) or not any(isinstance(key, str) and "." in key for key in config):
        return config
    found: dict[Any, Any] = {}
    dotted = [key for key in config if isinstance(key, str) and all(key.split(".")) and "." in key]
    for key in [*(key for key in config if key not in dotted), *dotted]:  # what is nested already comes first
        *above, last = key.split(".") if key in dotted else [key]
        node = found
        for name in above:
            node = node.setdefault(name, {})
            if not isinstance(node, dict):
                break
        if not isinstance(node, dict) or last in node:
            raise ValueError(f"has {key} twice. Write it once.")
        node[last] = config[key]
    return found


def as_recipe(config: Any, is_in_group: bool = True) -> Any:
    """A recipe, which chooses in groups, in Hydra's words for it: `override /optimizer: sgd`.

    People leave out `override` or the slash, write `optimizer: sgd` among the keys, or the choices without dashes.

    Args:
        config: plain lists and mappings.
        is_in_group: of `experiment/`, where another recipe is one that this one stands on; else it is chosen.

    Raises:
        ValueError: it chooses twice in a group.
    """
    if not isinstance(config, dict):
        return config
    chosen = config.get("defaults") or []
    items: Any = [{key: option} for key, option in chosen.items()] if isinstance(chosen, dict) else chosen
    among_keys = [{key: config[key]} for key in _CHOICES if _option(key, config.get(key)) is not None]
    if not isinstance(items, list) or not (items or among_keys):
        return config
    rest = {key: value for key, value in config.items() if {key: value} not in among_keys}
    choices = [choice for item in items for choice in _as_choices(item, is_in_group)]
    of_keys = [choice for item in among_keys for choice in _as_choices(item, is_in_group)]
    # A recipe that it stands on comes before its own keys, as one of the defaults would.
    choices = [*(choice for choice in of_keys if isinstance(choice, str)), *choices]
    choices += [choice for choice in of_keys if not isinstance(choice, str)]
    choices.sort(key=_is_override)
    overriding: dict[str, Any] = {}
    for choice in filter(_is_override, choices):
        ((group, option),) = choice.items()
        if group in overriding:  # Hydra would take the first
            name, both = group.rpartition("/")[2], f"{overriding[group]},{option}"
            raise ValueError(f"chooses {name} twice. Write one of the two, or type both: --multirun {name}={both}.")
        overriding[group] = option
    return {**rest, "defaults": choices}  # Hydra takes what overrides last alone


def _is_override(choice: Any) -> bool:
    return isinstance(choice, dict) and str(next(iter(choice), "")).startswith("override")


def _option(group: str, value: Any) -> str | list[str] | None:
    """What a value among the keys of a recipe chooses in a group; None where it chooses nothing."""
    if group == "monitor" and value is False:  # YAML reads `off` so
        return "off"
    names = value if group == "metric" and isinstance(value, list) else [value]
    if not all(isinstance(name, str) and name for name in names):
        return None
    names = [re.sub(r"\.ya?ml$", "", from_environment(name)) for name in names]
    if group == "metric":  # a variable may hold several
        names = [item.strip() for name in names for item in split(name.strip("[] "))]
        return names if len(names) > 1 or isinstance(value, list) else names[0]
    return names[0]


def _as_choices(item: Any, is_in_group: bool) -> list[Any]:
    """An item of a defaults list; what chooses no option of a group that is chosen already stays as it is."""
    if isinstance(item, str):
        key, _, option = item.removeprefix("/").replace("=", "/").partition("/")
    elif isinstance(item, dict) and len(item) == 1:
        ((key, option),) = item.items()
    else:
        return [item]
    group = _KEYWORDS.sub("", str(key))
    name = group.partition("@")[0]
    if name not in _CHOICES:
        return [item]
    if name == "experiment" and is_in_group:
        names = option if isinstance(option, list) else [option]
        return [f"/experiment/{_option(name, str(one))}" for one in names if one is not None]
    chosen = _option(name, option)
    return [item] if chosen is None and option is not None else [{f"override /{group}": chosen}]
