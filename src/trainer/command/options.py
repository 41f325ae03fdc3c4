"""What stands after a verb: places, such as runs and files, and options with their values. Imports nothing heavy."""

import os
from collections.abc import Mapping, Sequence

from trainer.command.listed import KEYS, PLACES, USING
from trainer.config.grammar import from_environment
from trainer.config.schema import Number
from trainer.errors import UserError, nearest

FLAGS = ("--json", "--csv")
_COUNT = Number(at_least=1, whole=True)


def places_and_options(verb: str, words: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The words that are no `key=value`, and the options as typed; a flag is there with an empty text.

    Raises:
        UserError: the verb has no such word, or its value is missing.
    """
    places: list[str] = []
    options: dict[str, str] = {}
    known, rest = KEYS[verb], iter(words)
    for word in rest:
        name, sign, value = word.partition("=")
        is_known = name in known or (name.startswith("data.") and "data" in known)
        if word == "--":  # what follows names places, whatever it looks like
            places.extend(rest)
        elif is_known and name in FLAGS:
            if sign:
                raise UserError(f"{word}: takes no value. Type {name}, or leave it out.")
            options[name] = ""
        elif is_known and (sign or name.startswith("--")):
            # As in the words of a run. What a file asks of this machine is refused.
            options[name] = value = from_environment(value if sign else next(rest, ""))
            if not value:
                raise UserError(f"{name}: has no value. Type train help {verb} for what train {verb} takes.")
            if "${oc.env:" in value:
                raise UserError(f"{name}={value}: the environment has no such variable. Set it, or type its value.")
        elif word == "-" or is_place(word) or not (sign or is_known or word.startswith("-")):
            places.append(word)
        elif is_known:
            raise UserError(f"{word}: has no value. Type {word}=... without spaces.")
        elif word.startswith("-") or name.replace(".", "").isidentifier():
            raise _unknown(verb, word, name)
        else:
            places.append(word)
    return places, options


def _unknown(verb: str, word: str, name: str) -> UserError:
    """The line for a word that the verb does not have."""
    if verb in USING and name.lstrip("-") in PLACES:
        how = f"train {verb} RUN{' FILE' if verb == 'predict' else ''}"
        return UserError(f"{word}: a run, and what it is used on, have no key. Type them alone: {how}.")
    hint = nearest(name, KEYS[verb]) or (f" It takes {', '.join(KEYS[verb])}." if KEYS[verb] else "")
    return UserError(f"{word}: train {verb} has no such word.{hint}")


def is_place(word: str) -> bool:
    """Whether a file or a folder is called so, here or below `runs/`: the run `lr=0.1,seed=0` is no key."""
    return os.path.exists(word) or os.path.exists(os.path.join("runs", word))


def one_run(verb: str, places: Sequence[str]) -> str:
    """The run, of a verb that takes nothing else. Raises UserError: there is none, or more."""
    if len(places) != 1:
        raise UserError(f"train {verb} takes one run, not {len(places)}. train runs lists them.")
    return places[0]


def count(verb: str, options: Mapping[str, str], key: str, example: int) -> int | None:
    """A whole number from 1 of an option; None where it was not typed. Raises UserError: it is none."""
    if key not in options:
        return None
    try:
        number = int(options[key])
    except ValueError:
        number = 0
    if not _COUNT.allows(number):
        raise UserError(f"{key}={options[key]}: must be {_COUNT.accepts}. Type train {verb} ... {key}={example}.")
    return number


def flag(options: Mapping[str, str], key: str, default: bool) -> bool:
    """An option that is true or false. Raises UserError: it is neither."""
    value = options.get(key, str(default).lower())
    if value not in ("true", "false"):
        raise UserError(f"{key}={value}: must be true or false. Type {key}={str(not default).lower()}.")
    return value == "true"
