"""What the verbs that use a finished run do with their words."""

from collections.abc import Sequence
from typing import Any

from trainer.command.imports import importing
from trainer.command.listed import USING
from trainer.command.options import FLAGS, count, flag, one_run
from trainer.config.schema import is_as_typed
from trainer.errors import UserError


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


def use(verb: str, places: Sequence[str], options: dict[str, str]) -> int:
    """What `train evaluate ...` and its kin ask for. Returns the exit code.

    Args:
        options: the verb's own, and keys of the config, dotted.
    """
    own = (*USING[verb], "checkpoint")
    typed = {key: value for key, value in options.items() if key not in own}
    keys = {key: value if is_as_typed(key) else parsed(key, value) for key, value in typed.items()}
    refuse_unused(verb, options, keys)
    try:
        with importing():
            import trainer.distributed  # noqa: F401 - torch comes with it
        if verb == "evaluate":
            from trainer.use.evaluate import show_evaluation

            form = next((flag.removeprefix("--") for flag in FLAGS if flag in options), "table")
            run, size = one_run(verb, places), count(verb, options, "batch_size", 64)
            split, checkpoint = options.get("split"), options.get("checkpoint")
            return show_evaluation(run, checkpoint, split, keys, size, form, options.get("--png"))
        if verb == "predict":
            from trainer.use.predict import predict

            size, top = count(verb, options, "batch_size", 64), count(verb, options, "top", 3) or 1
            return predict(places, options.get("checkpoint"), keys, options.get("out"), top, size, "--json" in options)
        if verb == "export":
            from trainer.use.export import export

            run, form = one_run(verb, places), options.get("format", "onnx")
            is_whole = flag(options, "preprocessing", default=True)
            out, quantize = options.get("out"), options.get("quantize")
            return export(run, options.get("checkpoint"), keys, form, out, is_whole, quantize)
        if verb == "pack":
            from trainer.use.packed import pack

            return pack(one_run(verb, places), options.get("checkpoint"), keys, options.get("out"))
    except ModuleNotFoundError as error:
        raise UserError(f"the module {error.name} is missing. Type pip install {error.name}.") from error
    raise AssertionError(verb)
