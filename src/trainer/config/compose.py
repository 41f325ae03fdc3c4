"""From the words of a sweep to the configs of its jobs: Hydra's grammar, without Hydra's way of running them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, RangeSweep
from omegaconf import OmegaConf
from yaml import YAMLError

from trainer.config.references import refuse_endless
from trainer.config.request import Request
from trainer.config.schema import GROUPS
from trainer.config.trust import refuse_untyped
from trainer.disk import foreign
from trainer.errors import UserError

MAX_JOBS = 10_000


@contextmanager
def hydra_at(folders: list[Path]) -> Iterator[list[str]]:
    """Hydra with the shipped configs, the first of the folders. Gives the words that name the others."""
    others = ",".join(f"file://{folder.absolute()}" for folder in folders[1:])
    with initialize_config_dir(str(folders[0]), version_base="1.3"):
        yield [f"hydra.searchpath=[{others}]"] if others else []


def combinations(words: list[str]) -> list[list[str]]:
    """The overrides of every job: all combinations of what commas, `range`, `choice`, `glob` ... stand for.

    Raises:
        UserError: they are more than can be run.
    """
    parsed = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader()).parse_overrides(words)
    refuse_too_many(parsed)
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


def composed(overrides: list[str], search: list[str], config_name: str) -> Request:
    """What one job asks for."""
    words = [*search, *as_chosen_before(overrides)]
    config: Any = compose(config_name, overrides=words, return_hydra_config=True)
    groups = (*GROUPS, "monitor")
    choices = {group: str(choice) for group, choice in config.hydra.runtime.choices.items() if group in groups}
    container: Any = OmegaConf.to_container(config)
    container.pop("hydra")
    request = Request(container, choices, overrides)
    refuse_endless(container)
    refuse_untyped(container, request.typed)
    return request


def as_chosen_before(words: list[str]) -> list[str]:
    """With `resume=<folder>`, the words and the options that the run was begun with: keys are those of its own."""
    parser = OverridesParser.create()
    resumed = next((word for word in reversed(words) if word.startswith("resume=")), None)
    folder = None if resumed is None else parser.parse_override(resumed).value()
    if folder in (None, "auto"):
        return words
    try:
        stored = foreign.read_yaml(foreign.text(Path(str(folder)).expanduser() / "config.yaml"))
        choices = stored["choices"]
        chosen = {group: choices[group] for group in GROUPS if isinstance(choices.get(group), str)}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, YAMLError):
        return words  # whoever reads the folder says what is wrong with it
    typed = {word.lstrip("+~").partition("=")[0] for word in words}
    added = [f"{group}={choice}" for group, choice in chosen.items() if group not in typed]
    of_own = tuple(f"{group}." for group, choice in chosen.items() if choice == "own")
    return [*added, *(f"++{word}" if of_own and word.startswith(of_own) else word for word in words)]
