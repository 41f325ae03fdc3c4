"""From the words of a sweep to the configs of its jobs: Hydra's grammar, without Hydra's way of running them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from trainer.config.request import Request
from trainer.config.schema import GROUPS


@contextmanager
def hydra_at(folders: list[Path]) -> Iterator[list[str]]:
    """Hydra with the shipped configs, the first of the folders. Gives the words that name the others."""
    others = ",".join(f"file://{folder.absolute()}" for folder in folders[1:])
    with initialize_config_dir(str(folders[0]), version_base="1.3"):
        yield [f"hydra.searchpath=[{others}]"] if others else []


def combinations(words: list[str]) -> list[list[str]]:
    """The overrides of every job: all combinations of what commas, `range`, `choice`, `glob` ... stand for."""
    parsed = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader()).parse_overrides(words)
    (batch,) = BasicSweeper.split_arguments(parsed, max_batch_size=None)
    return [list(overrides) for overrides in batch]


def composed(overrides: list[str], search: list[str], config_name: str) -> Request:
    """What one job asks for."""
    config: Any = compose(config_name, overrides=[*search, *overrides], return_hydra_config=True)
    groups = (*GROUPS, "monitor")
    choices = {group: str(choice) for group, choice in config.hydra.runtime.choices.items() if group in groups}
    container: Any = OmegaConf.to_container(config)
    container.pop("hydra")
    return Request(container, choices, overrides)
