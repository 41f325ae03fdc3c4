"""From the words of a run or a sweep to its configs: Hydra's grammar, without Hydra's way of running them."""

import copy
import functools
import math
import os
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from hydra import compose
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, Override, OverrideType, RangeSweep
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from trainer.config.grammar import as_typed, from_environment, mended, numbered, split
from trainer.config.references import refuse_endless
from trainer.config.request import Request
from trainer.config.schema import GROUPS, RULES, Choice, Text, is_as_typed
from trainer.config.shipped import CONFIGS
from trainer.config.trust import refuse_untyped
from trainer.disk import foreign
from trainer.errors import UserError, first_line

MAX_JOBS = 10_000
_RESOLVER = re.compile(r"\$\{[^}]*:")  # `${oc.env:HOME}`, which asks this machine
_OF_HYDRA = re.compile(r"(?<!\\)\$\{hydra:([^${}]*)\}")
PLACES = ("name", "run_dir", "resume")
_RANGE = re.compile(r"range\([^()]*\)")
_KEY, _PLAIN = re.compile(r"\w+(?:\.\w+)*"), re.compile(r"[\w.+-]+")


def for_hydra(word: str, is_sweep: bool = False) -> str:
    """The word with quotes where Hydra would not read what was typed.

    Args:
        word: `key=value`, perhaps with `+` before it.
        is_sweep: commas separate several values.
    """
    key, sign, value = word.partition("=")
    if not sign or key.startswith("~"):
        return word

    def is_value(text: str) -> bool:
        return can_be_read(f"{key}={text}")

    if is_sweep:
        value = spread(key, value)
        word = f"{key}={value}"
    if key.lstrip("+") in (*GROUPS, "monitor", "experiment", "metric"):
        value = from_environment(value)
        word = f"{key}={value}"
    if key.lstrip("+") in (*GROUPS, "monitor", "experiment"):
        return f"{key}={numbered(value, is_sweep)}"
    if is_as_typed(key.lstrip("+")):
        return f"{key}={as_typed(value, is_value, is_sweep)}"
    if can_be_read(word):
        return word
    whole = mended(value, is_value)
    return word if whole is None else f"{key}={whole}"


@functools.cache
def parser() -> OverridesParser:
    """Of Hydra's grammar. To make one takes longer than to read a word."""
    return OverridesParser.create()


@functools.lru_cache(maxsize=1024)
def override_of(word: str) -> Override:
    """What Hydra reads in a word. A run asks for each of its words several times, and a time takes a millisecond.

    Raises:
        HydraException: it is none.
    """
    (override,) = parser().parse_overrides([word])
    return override


def can_be_read(word: str) -> bool:
    """Whether a word is of Hydra's grammar."""
    try:
        override_of(word)
    except HydraException:
        return False
    return True


def counted_in(override: Override) -> list[int] | list[float]:
    """The numbers of a range, without its end. Hydra adds up in binary: 0.1, 0.2, 0.30000000000000004.

    Raises:
        UserError: there are none.
    """
    found: Any = override.value()
    ends = (found.start, found.stop, found.step)
    if all(isinstance(number, int) for number in ends):
        numbers = [*range(*ends)] if found.step else []
    else:
        start, stop, step = (Decimal(str(number)) for number in ends)
        numbers = [float(start + i * step) for i in range(math.ceil((stop - start) / step))] if step else []
    if not numbers:
        raise UserError(f"{override.input_line}: has no numbers. Type start, end and step: range(0,3,1).")
    return numbers


def spread(key: str, value: str) -> str:
    """A value of a sweep whose `range(0,3)` stands beside others, which Hydra does not take, with its numbers."""
    parts = split(value)
    if len(parts) > 1:
        for i, part in enumerate(parts):
            if _RANGE.fullmatch(part.strip()) and can_be_read(word := f"{key}={part.strip()}"):
                found = override_of(word)
                refuse_too_many([found])
                parts[i] = ",".join(map(str, counted_in(found)))
    return ",".join(parts)


def combinations(words: list[str]) -> list[list[str]]:
    """The overrides of every job: all combinations of what commas, `range`, `choice`, `glob` ... stand for.

    Raises:
        UserError: they are more than can be run.
    """
    reader = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    parsed = reader.parse_overrides(words)
    refuse_too_many(parsed)
    for i, override in enumerate(parsed):
        value = override.value()
        if isinstance(value, Glob) and override.key_or_group in GROUPS:
            value.exclude.append("own")  # a place for a class that is typed
        if isinstance(value, RangeSweep) and not value.shuffle:
            numbers = ",".join(map(str, counted_in(override)))
            parsed[i] = reader.parse_override(f"{override.get_key_element()}={numbers}")
    (batch,) = BasicSweeper.split_arguments(parsed, max_batch_size=None)
    return [list(overrides) for overrides in batch]


def refuse_too_many(parsed: list[Override]) -> None:
    """Refuses more jobs than `MAX_JOBS`, before a list of them is made: they take all memory first, then for ever."""
    total = 1.0
    for override in parsed:
        value = override.value()
        if isinstance(value, RangeSweep):
            start, stop, step = (float(n or 0) for n in (value.start, value.stop, value.step))
            total *= max(1.0, (stop - start) / step) if step else 1.0
        elif isinstance(value, ChoiceSweep):
            total *= len(value.list)
        if total > MAX_JOBS:
            raise UserError(
                f"{override.input_line}: makes {total:,.0f} jobs or more; a sweep has at most {MAX_JOBS:,}. Type fewer "
                "values. Among many, hydra/sweeper=optuna searches."
            )


class Alike:
    """Composes jobs one after another.

    Hydra takes 75 ms of CPU time for each. A job that differs from one before it in numbers alone is a copy of that one
    with these numbers instead.
    """

    def __init__(self, config_name: str) -> None:
        self.config_name = config_name
        self._by_keys: dict[tuple[str, ...], Request] = {}  # words without numbers to the first such job

    def composed(self, overrides: list[str]) -> Request:
        """What one job asks for.

        Raises:
            UserError: a name or a path refers to what is not there.
        """
        numbers = {i: number for i, word in enumerate(overrides) if (number := _number(word)) is not None}
        keys = tuple(word.partition("=")[0] if i in numbers else f"{word}=" for i, word in enumerate(overrides))
        if (first := self._by_keys.get(keys)) is not None:
            return _with_numbers(first, overrides, numbers)
        request, is_asking = _composed(overrides, self.config_name)
        if not is_asking and len(set(keys)) == len(keys) and _holds(request.config, overrides, numbers):
            self._by_keys[keys] = request
        return request


def _number(word: str) -> float | None:
    """The number, or truth value, of `key=value`; None where it is something else."""
    key, _, written = word.partition("=")
    if not _KEY.fullmatch(key) or not _PLAIN.fullmatch(written):
        return None
    value = override_of(word).value()
    return value if isinstance(value, int | float) else None


def _node(config: Any, key: str) -> tuple[Any, str]:
    """What holds a key, and the key's own name."""
    *above, name = key.split(".")
    for part in above:
        config = config.get(part) if isinstance(config, dict) else None
    return config, name


def _holds(config: dict[str, Any], words: list[str], numbers: dict[int, float]) -> bool:
    """Whether each number stands where its word says: not where it names the option of a group."""
    for i, number in numbers.items():
        node, name = _node(config, words[i].partition("=")[0])
        if not isinstance(node, dict) or (type(node.get(name)), node.get(name)) != (type(number), number):
            return False
    return True


def _with_numbers(first: Request, words: list[str], numbers: dict[int, float]) -> Request:
    config = copy.deepcopy(first.config)
    for i, number in numbers.items():
        node, name = _node(config, words[i].partition("=")[0])
        node[name] = number
    return Request(config, dict(first.choices), words)


def _composed(overrides: list[str], config_name: str) -> tuple[Request, bool]:
    """What one job asks for; and whether something in it is an answer, which may be another one for other numbers."""
    config, choices = _by_hydra(config_name, without_null(as_chosen_before(overrides)))
    container: Any = OmegaConf.to_container(config)
    container.pop("hydra", None)
    refuse_endless(container)
    before = copy.deepcopy(container)
    if _OF_HYDRA.search(str(container)):
        container = _with_choices(container, config.hydra.runtime.choices)
        config = OmegaConf.create(container)
    _answer(container, config)
    request = Request(container, choices, overrides)
    refuse_untyped(container, request.typed)
    return request, container != before


def without_null(words: list[str]) -> list[str]:
    """`experiment=null`, which stands for no recipe, in Hydra's words for it."""
    return ["~experiment" if word == "experiment=null" else word for word in words]


def _by_hydra(config_name: str, words: list[str]) -> tuple[DictConfig, dict[str, str]]:
    """The config that Hydra composes, and the chosen options.

    Hydra puts the chosen files together first, then it sets the keys that were typed. The first takes nearly all of the
    time (0.1 s), and many jobs of a sweep choose the same files. So these are put together once; and where they name no
    others, the default ones, in which each then takes the place of its group.
    """
    hydra = GlobalHydra.instance().hydra
    assert hydra is not None
    overrides = [override_of(word) for word in words]
    if any("hydra" in word for word in words) or any(override.is_sweep_override() for override in overrides):
        return _whole(config_name, words)
    is_group = hydra.config_loader.repository.group_exists  # type: ignore[attr-defined]
    is_choice = [not isinstance(o.value(), dict) and is_group(o.key_or_group) for o in overrides]
    chosen = [override for override, is_one in zip(overrides, is_choice, strict=True) if is_one]
    of_keys = [override for override, is_one in zip(overrides, is_choice, strict=True) if not is_one]
    options = _options(hydra, chosen) if _begins_with_ours(hydra, config_name) else None
    try:
        files = _files(hydra, config_name, tuple(str(o.input_line) for o in chosen) if options is None else ())
    except HydraException:
        if not of_keys:
            raise
        files = None  # whatever is wrong is said of all words
    if files is None or files.names_hydra or "hydra" in str(options):
        return _whole(config_name, words)
    config: DictConfig = pickle.loads(files.config)
    choices = dict(files.choices)
    for group, (name, node) in (options or {}).items():
        config[group], choices[group] = node, name
    ConfigLoaderImpl._apply_overrides_to_config(of_keys, config)
    return config, choices


@functools.lru_cache(maxsize=16)
def _begins_with_ours(hydra: Hydra, config_name: str) -> bool:
    """Whether the config that all others go into is the shipped one. It sets no key of a group."""
    found = hydra.config_loader.repository.load_config(config_name)  # type: ignore[attr-defined]
    return found is not None and found.path.endswith(f"://{CONFIGS}")


def _options(hydra: Hydra, chosen: list[Override]) -> dict[str, tuple[str, DictConfig]] | None:
    """Group to the name of its option and what its file holds, which can be put in the place of the group as it is.

    None where Hydra has to put the files together: one of them names others, or another place for itself.
    """
    found: dict[str, tuple[str, DictConfig]] = {}
    for override in chosen:
        group, name = override.key_or_group, override.value()
        is_plain = override.type is OverrideType.CHANGE and override.package is None
        if not is_plain or not isinstance(name, str) or group in found or group not in (*GROUPS, "monitor"):
            return None
        file = hydra.config_loader.repository.load_config(f"{group}/{name}")  # type: ignore[attr-defined]
        if file is None or file.defaults_list or file.header["package"] is not None:
            return None
        found[group] = name, file.config
    return found


@dataclass(frozen=True)
class _Files:
    """The chosen files, put together.

    Args:
        config: a pickle of the config without its node `hydra`; to read it takes a third of the time of a copy.
        choices: group to option.
        names_hydra: something in the config may refer to what Hydra says of the words, or to more folders.
    """

    config: bytes
    choices: dict[str, str]
    names_hydra: bool


@functools.lru_cache(maxsize=256)
def _files(hydra: Hydra, config_name: str, chosen: tuple[str, ...]) -> _Files:
    """Args:
    hydra: at its folders, whose files are taken not to change while it is used.
    chosen: the words that choose options, in their order.
    """
    config, choices = _whole(config_name, list(chosen))
    with open_dict(config):
        searched = config.pop("hydra").searchpath
    names_hydra = bool(searched) or "hydra" in str(OmegaConf.to_container(config))
    return _Files(pickle.dumps(config), choices, names_hydra)


def _whole(config_name: str, words: list[str]) -> tuple[DictConfig, dict[str, str]]:
    config = compose(config_name, overrides=words, return_hydra_config=True)
    groups = (*GROUPS, "monitor")
    return config, {group: str(choice) for group, choice in config.hydra.runtime.choices.items() if group in groups}


def as_chosen_before(words: list[str]) -> list[str]:
    """With `resume=<folder>`, the options that the run was begun with, and the words: its keys are theirs.

    In the place of an option of a folder of configs that was not typed again stands the user's own class.
    """
    resumed = next((word for word in reversed(words) if word.startswith("resume=")), None)
    folder = None if resumed is None else override_of(resumed).value()
    if folder in (None, "auto"):
        return words
    try:
        stored = foreign.read_yaml(foreign.text(Path(os.path.expanduser(str(folder))) / "config.yaml"))
        choices = stored["choices"]
        chosen = {group: choices[group] for group in GROUPS if isinstance(choices.get(group), str)}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, YAMLError):
        return words  # whoever reads the folder says what is wrong with it
    typed = {word.lstrip("+~").partition("=")[0] for word in words}
    known = GlobalHydra.instance().config_loader().get_group_options
    chosen = {group: choice if choice in known(group) else "own" for group, choice in chosen.items()}
    return [*(f"{group}={choice}" for group, choice in chosen.items() if group not in typed), *words]


def _with_choices(node: Any, choices: Mapping[str, Any], key: str = "") -> Any:
    """With what `${hydra:runtime.choices.model}` and `${hydra:runtime.cwd}` stand for.

    Raises:
        UserError: it asks for something else of Hydra, which runs nothing here.
    """
    if isinstance(node, dict):
        return {name: _with_choices(value, choices, f"{key}.{name}".lstrip(".")) for name, value in node.items()}
    if isinstance(node, list):
        return [_with_choices(value, choices, f"{key}.{i}") for i, value in enumerate(node)]

    def answer(found: re.Match[str]) -> str:
        *above, last = found[1].strip().split(".")
        if above == ["runtime"] and last == "cwd":
            return os.getcwd()
        if above == ["runtime", "choices"] and choices.get(last) is not None:
            return str(choices[last])
        raise UserError(
            f"{key}={node}: Hydra runs nothing here. Type ${{hydra:runtime.choices.model}} for the option of a group, "
            "${hydra:runtime.cwd} for the folder that you are in, or ${seed} for the value of a key."
        )

    return _OF_HYDRA.sub(answer, node) if isinstance(node, str) else node


def _answer(container: dict[Any, Any] | list[Any], config: DictConfig, prefix: str = "") -> None:
    """Replaces what asks this machine, and what names a place, by the answer: the run that continues asks no more."""
    items: Any = container.items() if isinstance(container, dict) else enumerate(container)
    for name, value in list(items):
        key = f"{prefix}{name}"
        if isinstance(value, dict | list):
            _answer(value, config, f"{key}.")
        elif isinstance(value, str) and "${" in value and (key in PLACES or _RESOLVER.search(value)):
            container[name] = _answered(key, value, config)
        elif key in PLACES and value is not None and not isinstance(value, dict | list):
            container[name] = str(value)


def _answered(key: str, value: str, config: DictConfig) -> Any:
    try:
        answer = OmegaConf.select(config, key)
    except OmegaConfBaseException as error:
        raise UserError(f"{key}: {first_line(error)}.") from error
    if OmegaConf.is_config(answer):
        answer = OmegaConf.to_container(answer)
    if "${" in str(answer):  # escaped: it stays as it was typed, or else it would be resolved twice
        return value
    rule = RULES.get(key)
    if answer is None or (answer == "null" and isinstance(rule, Text) and rule.optional):
        return None
    if key in PLACES:
        return str(answer)
    is_text = isinstance(rule, Text | Choice)
    return answer if is_text or not isinstance(answer, str) else read(answer)


def read(answer: str) -> Any:
    """A text from the environment as if it had been typed: a number, true, false, null, a list, names, or a text."""
    try:
        value = override_of(f"x={answer}").value()
    except HydraException:
        return answer
    return value if isinstance(value, int | float | list | dict | None) else answer
