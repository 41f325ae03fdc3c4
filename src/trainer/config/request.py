"""What was asked for: a config that Hydra has composed, before anything is built. Imports no torch."""

import copy
from dataclasses import dataclass
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from trainer.config import schema
from trainer.config.references import refuse_endless
from trainer.errors import UserError, first_line

Config = dict[str, Any]


@dataclass(frozen=True)
class Request:
    """What was typed, composed.

    Args:
        config: of the groups and keys, interpolations not resolved.
        choices: group to the name of the chosen option.
        overrides: as typed.
    """

    config: Config
    choices: dict[str, str]
    overrides: list[str]

    def name(self, group: str) -> str:
        """What the choice in a group is called in names and messages: its option, or the user's own class."""
        choice = self.choices.get(group, "own")
        return str(self.config[group]["_target_"]).rsplit(".", 1)[-1] if choice == "own" else choice

    @property
    def typed(self) -> list[str]:
        """The keys that were typed."""
        return [override.lstrip("+~").split("=", 1)[0] for override in self.overrides]

    @property
    def names(self) -> dict[str, str]:
        return {group: self.name(group) for group in schema.GROUPS}


def resolved(config: Config) -> Config:
    """Interpolations replaced by what they refer to.

    Raises:
        UserError: one that refers to nothing or without an end, or a value that is missing (`???`).
    """
    if not _is_to_resolve(config):
        return copy.deepcopy(config)
    refuse_endless(config)
    try:
        container = OmegaConf.to_container(OmegaConf.create(config), resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise UserError(f"{error.full_key}=???: is missing. Type {error.full_key}=...") from error
    except OmegaConfBaseException as error:
        raise UserError(f"{getattr(error, 'full_key', None) or 'config'}: {first_line(error)}.") from error
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def _is_to_resolve(value: Any) -> bool:
    """Whether OmegaConf would change anything; it takes milliseconds."""
    if isinstance(value, dict):
        return any(_is_to_resolve(item) or not isinstance(key, str) for key, item in value.items())
    if isinstance(value, list):
        return any(map(_is_to_resolve, value))
    return not isinstance(value, int | float | None) and (not isinstance(value, str) or "${" in value or value == "???")
