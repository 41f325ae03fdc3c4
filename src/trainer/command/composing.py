"""From the words to what they ask for: a request for a run, or one for each job of a sweep."""

from collections.abc import Iterator
from contextlib import contextmanager

from trainer.command.complaints import one_line
from trainer.command.folders import config_folders
from trainer.command.words import Words
from trainer.config.compose import combinations, composed, for_hydra
from trainer.config.request import Request
from trainer.config.schema import GROUPS
from trainer.errors import UserError


class Composer:
    """Hydra at the folders of configs that were typed, made by `composer`.

    Args:
        overrides: for Hydra's grammar.
        typed: the same words to what was typed.
        config_name: of the config that all others go into.
    """

    def __init__(self, words: Words) -> None:
        self.config_name = words.value_of("--config-name", "-cn") or "train"
        self.typed = {for_hydra(word, words.is_sweep): word for word in own_classes(words.overrides)}
        self.overrides = list(self.typed)

    def request(self) -> Request:
        """What one run is asked to do."""
        request = composed(self.overrides, self.config_name)
        return Request(request.config, request.choices, [self.typed[word] for word in request.overrides])

    def jobs(self) -> list[Request]:
        """What the jobs of a sweep are asked to do."""
        return [composed(job, self.config_name) for job in combinations(self.overrides)]


@contextmanager
def composer(argv: list[str], words: Words) -> Iterator[Composer]:
    """Hydra composes and does not run: it would call what the `hydra` section of a config names, which nobody checks.

    Raises:
        UserError: what Hydra, OmegaConf or YAML find wrong.
    """
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    from trainer.command.reading import hydra_at

    shipped, *others = folders = config_folders(argv)
    if not shipped.is_dir():
        raise UserError("--config-path: takes a folder with a config of train. Type --config-dir=... to add your own.")
    for folder in others:
        if not folder.is_dir():
            raise UserError(
                f"--config-dir={folder}: there is no such folder. Give the one that holds model/, data/ ..."
            )
    made = Composer(words)
    try:
        with hydra_at(folders):
            yield made
    except (HydraException, OmegaConfBaseException, YAMLError, OSError, ValueError, RecursionError) as error:
        raise one_line(error, argv, made.typed) from error


def own_classes(words: list[str]) -> list[str]:
    """`model._target_=mypackage.Net model.width=8` means the user's class and its own arguments.

    The shipped option of that group, with arguments of another class, is replaced by `own`, which has none.
    """
    for group in GROUPS:
        chosen = [word.partition("=")[2] for word in words if word.startswith(f"{group}=")]
        is_named = any(word.startswith(f"{group}._target_=") for word in words)
        if chosen[-1:] == ["own"] or (is_named and not chosen):
            words = [f"++{word}" if word.startswith(f"{group}.") else word for word in words]
            words = words if chosen else [f"{group}=own", *words]
    return words
