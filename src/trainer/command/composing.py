"""From the words to what they ask for: a request for a run, or one for each job of a sweep."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from trainer.command.complaints import one_line
from trainer.command.folders import config_folders, options
from trainer.command.words import Words
from trainer.config.compose import Alike, as_chosen_before, combinations, for_hydra, read
from trainer.config.grammar import key_twice
from trainer.config.request import Request
from trainer.config.schema import GROUPS, OPEN, READ_HERE, SECTIONS, is_open, is_unlisted, typed
from trainer.errors import UserError, one_of


class Composer:
    """Hydra at the folders of configs that were typed, made by `composer`.

    Args:
        overrides: for Hydra's grammar.
        typed: the same words to what was typed.
        config_name: of the config that all others go into.
    """

    def __init__(self, words: Words) -> None:
        self.config_name = words.value_of("--config-name", "-cn") or "train"
        self.typed = {for_hydra(added(word), words.is_sweep): word for word in own_classes(words.overrides)}
        self.overrides = list(self.typed)
        self._alike = Alike(self.config_name)

    def request(self) -> Request:
        """What one run is asked to do."""
        request = self._composed(self.overrides)
        typed = {**self.typed, **{f"++{word}": f"++{said}" for word, said in self.typed.items()}}
        return Request(request.config, request.choices, [typed[word] for word in request.overrides])

    def jobs(self) -> list[Request]:
        """What the jobs of a sweep are asked to do."""
        jobs = combinations(self.overrides)
        if not jobs:
            word = next(word for word in self.typed.values() if "glob(" in word)
            raise UserError(f"{word}: glob finds options of a group, and here none. Type the values: seed=0,1,2.")
        return [self._composed(job) for job in jobs]

    def _composed(self, words: list[str]) -> Request:
        """What one run is asked to do.

        A key that the config of a user's own class, of a library's model, or of a criterion in a composite loss does
        not list is the class's; a term of such a loss need not be listed if it is typed whole; nor need a key that the
        run reads whatever the class is.
        """
        from hydra.errors import HydraException

        try:
            return self._alike.composed(words)
        except HydraException as error:
            key = re.search(r"Could not override '([^']+)'", str(error))
            group = key[1].partition(".")[0] if key is not None else ""
            named = key[1] if key is not None else ""
            is_of_term = bool(re.match(r"loss\.terms\.[^.]+\.criterion\.", named))  # its class says what it takes
            term = re.match(r"loss\.terms\.[^.]+", named)
            start = named if is_of_term else term[0] if term else f"{group}."
            added = [f"++{word}" if word.startswith(start) else word for word in words]
            if group not in GROUPS or added == words:
                raise
            request = self._composed(added)
            above = [*nodes_above(named, request.config)]
            is_read_here = named.split(".")[1:2] and named.split(".")[1] in READ_HERE.get(group, ())
            is_taken = is_of_term and isinstance(above[-1], Mapping) and "_target_" in above[-1]
            is_taken = is_taken or (term is not None and is_term(request.config["loss"], term[0].rpartition(".")[2]))
            if not (is_read_here or is_taken or any(map(is_open, above))):
                raise
            return request


def is_term(loss: Mapping[str, Any], name: str) -> bool:
    """Whether a composite loss has a whole term of that name."""
    terms = loss.get("terms") if str(loss.get("_target_")).endswith(".Composite") else None
    term = terms.get(name) if isinstance(terms, Mapping) else None
    criterion = term.get("criterion") if isinstance(term, Mapping) else None
    return isinstance(criterion, Mapping) and "_target_" in criterion


def nodes_above(key: str, config: Any) -> Iterator[Any]:
    """What holds a key: of `model.backbone.width` the node `model`, then `model.backbone`."""
    for name in key.split(".")[:-1]:
        config = config.get(name) if isinstance(config, Mapping) else None
        yield config


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
    refuse_lists(argv, words)
    made = Composer(words)
    chosen: list[str] = []
    try:
        with hydra_at(folders):
            refuse_other_root(made.config_name)
            before = as_chosen_before(made.overrides)
            chosen = before[: len(before) - len(made.overrides)]
            yield made
    except (HydraException, OmegaConfBaseException, YAMLError, OSError, ValueError, RecursionError) as error:
        raise one_line(error, [*chosen, *argv], made.typed) from error


def refuse_other_root(config_name: str) -> None:
    """Raises UserError for a config of the user's that all others go into, and that does not stand on ours."""
    if config_name == "train":
        return
    from hydra import compose

    config = compose(config_name)
    if missing := [key for key in (*GROUPS, *SECTIONS) if key not in config]:
        raise UserError(
            f"--config-name={config_name}: has no {one_of(missing[:3])}. Move it into experiment/ and type "
            f"experiment={config_name.removesuffix('.yaml')}, or let it begin with defaults: [train, _self_]."
        )


def refuse_lists(argv: list[str], words: Words) -> None:
    """Refuses `model=[a,b]`: a group takes one option. A class with its arguments in braces. A key twice in braces.

    Raises:
        UserError: says how several are tried.
    """
    known: dict[str, dict[str, str]] = {}  # to list them takes as long as to compose
    for word in words.overrides:
        group, _, value = word.lstrip("+").partition("=")
        if value[:1] in ("[", "{"):
            known = known or options(config_folders(argv))
        if (key := key_twice(value)) is not None:
            how = f", or type {{{key}.*: ...}} for a part of the model" if re.fullmatch(r"\d+\.\d+", key) else ""
            raise UserError(f"{word}: has {key} twice. Type each key once{how}.")
        if group in known and group != "metric" and value[:1] == "[":
            several = f"--multirun {group}={value.strip('[]')}"
            raise UserError(
                f"{word}: takes one option; there is {', '.join(known[group])}. Type {several} for a sweep."
            )
        is_braced = group in known and group != "metric" and value[:1] == "{"
        node = read(for_hydra(f"x={value}")[2:]) if is_braced else None
        if isinstance(node, dict) and "_target_" in node:  # Hydra would keep the keys of the option's class beside them
            keys = " ".join(typed(f"{group}.{key}", item) for key, item in node.items())
            raise UserError(f"{word}: takes the name of an option. Type {keys}.")


def added(word: str) -> str:
    """The word, in such a way that Hydra takes its key where the chosen option does not list it."""
    return f"++{word}" if is_unlisted(word.partition("=")[0]) else word


def own_classes(words: list[str]) -> list[str]:
    """`model._target_=mypackage.Net model.width=8` means the user's class and its own arguments.

    The shipped option of that group, with arguments of another class, is replaced by `own`, which has none. The options
    for models of libraries take what those take, too.
    """
    # What a metric takes is its class's business, and a name of the user's is in no config.
    # Folds are of every data source.
    free = ("metric.", "data.folds=", "data.fold=")
    words = [f"++{word}" if word.startswith(free) else word for word in words]
    for group in GROUPS:
        chosen = [word.partition("=")[2] for word in words if word.startswith(f"{group}=")]
        is_named = any(word.startswith(f"{group}._target_=") for word in words)
        is_open = bool(chosen) and chosen[-1] in OPEN.get(group, ("own",))
        if is_open or (is_named and not chosen):
            words = [f"++{word}" if word.startswith(f"{group}.") else word for word in words]
            words = words if chosen else [f"{group}=own", *words]
    return words
