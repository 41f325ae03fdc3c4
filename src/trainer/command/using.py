"""The words of the verbs that use a finished run: whose run it is, what is given to it, and what is typed of keys."""

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from trainer.command.imports import importing
from trainer.config.schema import is_as_typed
from trainer.errors import UserError, nearest

# Each verb's own words, beside those that all of them take.
OPTIONS: dict[str, tuple[str, ...]] = {
    "evaluate": ("split", "batch_size", "--json", "--csv", "--png"),
    "predict": ("out", "top", "batch_size", "--json"),
    "export": ("format", "out", "preprocessing", "quantize"),
    "pack": ("out",),
}
FLAGS = ("--json", "--csv")
SHARED = ("checkpoint", "device", "precision", "threads", "trust")
PLACES = ("model", "run", "ckpt", "ckpt_path", "source", "input", "weights")  # what other tools type before them
WITH_DATA = ("evaluate", "predict", "export")


class Used(NamedTuple):
    """
    Args:
        places: words that are no `key=value`: the run, and what is given to it.
        options: of the verb, as typed; a flag is there with an empty text.
        keys: of the config, dotted, with their values.
    """

    places: list[str]
    options: dict[str, str]
    keys: dict[str, Any]


def known(verb: str) -> tuple[str, ...]:
    """What a verb takes beside a run."""
    return (*OPTIONS[verb], *SHARED, *(("data",) if verb in WITH_DATA else ()))


def used(verb: str, words: Sequence[str]) -> Used:
    """
    Raises:
        UserError: the verb has no such word, or its value is missing.
    """
    found = Used([], {}, {})
    rest = iter(words)
    for word in rest:
        name, sign, value = word.partition("=")
        first = name.split(".")[0]
        if word == "--":  # what follows names files, whatever it looks like
            found.places.extend(rest)
        elif name in FLAGS and name in OPTIONS[verb]:
            if sign:
                raise UserError(f"{word}: takes no value. Type {name}, or leave it out.")
            found.options[word] = ""
        elif (name in known(verb) and (sign or name.startswith("--"))) or (sign and first == "data" in known(verb)):
            value = value if sign else next(rest, "")
            if not value:
                raise UserError(f"{name}: has no value. Type train help after for what train {verb} takes.")
            if name in OPTIONS[verb] or name == "checkpoint":
                found.options[name] = value
            else:
                found.keys[name] = value if is_as_typed(name) else parsed(name, value)
        elif word.startswith("--") or (sign and name.replace(".", "").isidentifier() and not is_place(word)):
            if name.lstrip("-") in PLACES:
                how = f"train {verb} RUN{' FILE' if verb == 'predict' else ''}"
                raise UserError(f"{word}: a run, and what it is used on, have no key. Type them alone: {how}.")
            hint = nearest(name, known(verb)) or f" It takes {', '.join(known(verb))}."
            raise UserError(f"{word}: train {verb} has no such word.{hint}")
        elif word in known(verb) and not is_place(word):
            raise UserError(f"{word}: has no value. Type {word}=... without spaces.")
        else:
            found.places.append(word)
    return found


def is_place(word: str) -> bool:
    """Whether a file or a folder is called so, here or below `runs/`: the run `lr=0.1,seed=0` is no key."""
    return os.path.exists(word) or os.path.exists(os.path.join("runs", word))


def parsed(key: str, value: str) -> Any:
    """The value as a config would have it. Raises UserError: it is no value."""
    import yaml

    from trainer.disk import foreign

    try:
        return foreign.read_yaml(value)
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"{key}={value}: is no value. Type a number, a word or a list such as [a,b].") from error


def refuse_unused(verb: str, options: dict[str, str], keys: dict[str, Any]) -> None:
    """Raises UserError for a word that another one, or the verb itself, leaves nothing to say."""
    if "--json" in options and "--csv" in options:
        raise UserError("--json --csv: say two forms of one output. Type one of them.")
    if verb == "predict" and "--json" in options and "out" in options:
        raise UserError(f"--json: is the form of standard output. Leave it out, or out={options['out']}.")
    fixed = {"export": {"device": "cpu", "precision": "float32"}, "pack": {"device": "cpu"}}.get(verb, {})
    for key, value in fixed.items():
        if keys.get(key, value) not in (value, "auto"):
            raise UserError(f"{key}={keys[key]}: train {verb} takes {value}, whatever the training took. Leave it out.")


def one_run(verb: str, places: Sequence[str]) -> str:
    """The run, of a verb that takes nothing else. Raises UserError: there is none, or more."""
    if len(places) != 1:
        raise UserError(f"train {verb} takes one run, not {len(places)}. train runs lists them.")
    return places[0]


def whole(options: dict[str, str], name: str, default: int | None = None) -> int | None:
    """An option that is a whole number from 1. Raises UserError: it is none."""
    if name not in options:
        return default
    if not options[name].isdecimal() or not 1 <= int(options[name]) < 10**9:
        raise UserError(f"{name}={options[name]}: must be a whole number >= 1. Try {name}={default or 64}.")
    return int(options[name])


def flag(options: dict[str, str], name: str) -> bool:
    """An option that is true or false, true where it isn't typed. Raises UserError: it is neither."""
    value = options.get(name, "true")
    if value not in ("true", "false"):
        raise UserError(f"{name}={value}: must be true or false. Try {name}=false.")
    return value == "true"


def use(verb: str, words: Sequence[str]) -> int:
    """What `train evaluate ...` and its kin ask for. Returns the exit code."""
    places, options, keys = used(verb, words)
    refuse_unused(verb, options, keys)
    try:
        with importing():
            import trainer.distributed  # noqa: F401 - torch comes with it
        if verb == "evaluate":
            from trainer.use.evaluate import show_evaluation

            form = next((flag.removeprefix("--") for flag in FLAGS if flag in options), "table")
            run, size = one_run(verb, places), whole(options, "batch_size")
            split, checkpoint = options.get("split"), options.get("checkpoint")
            return show_evaluation(run, checkpoint, split, keys, size, form, options.get("--png"))
        if verb == "predict":
            from trainer.use.predict import predict

            size, top = whole(options, "batch_size"), whole(options, "top", 1) or 1
            return predict(places, options.get("checkpoint"), keys, options.get("out"), top, size, "--json" in options)
        if verb == "export":
            from trainer.use.export import export

            run, form = one_run(verb, places), options.get("format", "onnx")
            is_whole = flag(options, "preprocessing")
            out, quantize = options.get("out"), options.get("quantize")
            return export(run, options.get("checkpoint"), keys, form, out, is_whole, quantize)
        if verb == "pack":
            from trainer.use.packed import pack

            return pack(one_run(verb, places), options.get("checkpoint"), keys, options.get("out"))
    except ModuleNotFoundError as error:
        raise UserError(f"the module {error.name} is missing. Type pip install {error.name}.") from error
    raise AssertionError(verb)
