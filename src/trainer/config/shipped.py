"""What the configs that come with the package say: values that nobody needs to type for us to trust them."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from trainer.config.schema import typed as typed_word

# In a wheel the configs lie inside the package, in a checkout beside `src/`.
_PACKAGE = Path(__file__).parents[1]
CONFIGS = _PACKAGE / "configs" if (_PACKAGE / "configs").is_dir() else _PACKAGE.parents[1] / "configs"

# The keys of data that decide whom to ask for files, and where these are written.
PLACES = ("root", "name", "urls", "checksum", "checksums")


@lru_cache
def _sources() -> list[dict[str, Any]]:
    """The options of `data=` that can be fetched."""
    import yaml  # help needs none

    found = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted((CONFIGS / "data").glob("*.yaml"))]
    return [option for option in found if "download" in option]


def not_asked_for(data: Mapping[str, Any], typed: Sequence[str]) -> str:
    """The words to type before files may be fetched and written as this config says; empty where none is needed.

    The config of a run's folder and that of `--config-dir` may be a stranger's, who would have a machine ask theirs,
    and keep the bytes wherever they like. So these keys are typed, or they are together what the package says.

    Args:
        data: the group, interpolations resolved.
        typed: the keys that were typed.
    """
    fixed = [key for key in PLACES if key in data and not _is_typed(f"data.{key}", typed)]
    alike = [option for option in _sources() if option["_target_"] == data.get("_target_")]
    differing = [[key for key in fixed if data[key] != option.get(key)] for option in alike]
    return " ".join(typed_word(f"data.{key}", data[key]) for key in min(differing, key=len, default=[]))


def _is_typed(key: str, typed: Sequence[str]) -> bool:
    return any(word == key or word.startswith(f"{key}.") for word in typed)


@lru_cache
def shipped(name: str) -> dict[str, Any]:
    """The config `<name>.yaml`, such as `train` or `data/mnist`; empty where there is none. Not to be changed."""
    import yaml

    path = CONFIGS / f"{name}.yaml"
    return dict(yaml.safe_load(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def defaults() -> dict[str, Any]:
    """Every key of ours that belongs to no group, with its value where nothing is typed."""
    whole = {**shipped("train"), "monitor": shipped("monitor/full")}
    return {key: value for key, value in whole.items() if key not in ("defaults", "hydra")}
