"""What is answered without a run: `--cfg`, `--info`, `--hydra-help`."""

import os
import sys

from hydra._internal.hydra import Hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import Container, OmegaConf

from trainer.command.composing import Composer, composer
from trainer.command.words import Words
from trainer.errors import UserError


def answer(argv: list[str], words: Words) -> int:
    """Prints what was asked for. Returns the exit code."""
    with composer(argv, words) as made:
        from hydra.core.global_hydra import GlobalHydra

        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        if "--hydra-help" in words.flags:
            parser = get_args_parser()
            hydra.hydra_help(made.config_name, parser, parser.parse_args([]))  # the words may name a logging
        elif (part := words.value_of("--cfg", "-c")) is not None:
            print(config_text(hydra, made, words, part), end="")
        else:
            os.environ["HYDRA_FULL_ERROR"] = "1"  # or else Hydra prints what is wrong itself, in many lines
            hydra.show_info(words.value_of("--info", "-i") or "all", made.config_name, made.overrides)
    sys.stdout.flush()
    return 0


def config_text(hydra: Hydra, made: Composer, words: Words, part: str) -> str:
    """What `--cfg job` prints: the config as YAML, or the part of it that `--package` names."""
    config = hydra.compose_config(made.config_name, made.overrides, RunMode.RUN)
    HydraConfig.instance().set_config(config)  # for `${hydra:runtime.choices.model}`
    OmegaConf.set_readonly(config.hydra, None)
    config = hydra.get_sanitized_cfg(config, part)
    if "--resolve" in words.flags:
        OmegaConf.resolve(config)
    package = words.value_of("--package", "-p")
    if package in (None, "_global_"):
        return OmegaConf.to_yaml(config)
    found = OmegaConf.select(config, str(package))
    if found is None:
        raise UserError(f"--package {package}: the config has no such part. Type train --cfg job to see the whole.")
    return f"# @package {package}\n{OmegaConf.to_yaml(found)}" if isinstance(found, Container) else f"{found}\n"
