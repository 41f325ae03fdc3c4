"""May a `_target_` be called? Only what belongs to a trusted package and makes what its group wants.

Stands before Hydra's `instantiate`, whose own blocklist is, by its own comment, no security boundary.
"""

import importlib
import inspect
import os
import sys
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_type_hints

from trainer.config.schema import READ_HERE, shown, unknown_key
from trainer.errors import UserError, nearest

# What the shipped configs name, by group. torchvision is an extra; its models are backbones.
TRUSTED = {
    "model": ("trainer.models", "torch.nn", "torchvision.models"),
    "loss": ("trainer.losses", "torch.nn"),
    "optimizer": ("trainer.optim", "torch.optim"),
    "scheduler": ("trainer.optim", "torch.optim"),
    "data": ("trainer.data",),
    "metric": (
        "trainer.metrics",
        # No more of it: some of its classes fetch and load models.
        *("torchmetrics.classification", "torchmetrics.regression", "torchmetrics.text.perplexity"),
    ),
}
# What a function that builds something does not give: what says so of itself is not called to see what it gives.
NOTHING_BUILT = (type(None), bool, int, float, str, bytes)
# What a loss is given by these names: a plain function with the first of them is a loss itself.
GIVEN = ("outputs", "targets", "inputs", "model")
FUNCTIONS = (types.FunctionType, types.MethodType)  # the latter: a class method
HYDRA_KEYS = frozenset({"_target_", "_partial_", "_args_", "_convert_", "_recursive_"})


# What only who types the command may say: whom to trust, and where to write outside of runs/.
TYPED = ("trust", "run_dir", "resume")


def refuse_untyped(config: Mapping[str, Any], typed: Iterable[str]) -> None:
    """Refuses what a config file says and only the command may say: the file may be a stranger's.

    Args:
        config: as composed.
        typed: the keys that were typed.

    Raises:
        UserError: names the key.
    """
    typed = set(typed)
    for key in TYPED:
        if config.get(key) and key not in typed:
            reason = "Whom you trust" if key == "trust" else "Where a run lies outside of runs/"
            raise UserError(
                f"{key}={shown(config[key])}: stands in a config file. {reason} you type, once you have read it."
            )


def belongs(name: str, packages: Iterable[str]) -> bool:
    """Whether a dotted name lies in one of the packages."""
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def resolve(key: str, target: str, kind: type, own: tuple[str, ...]) -> Any:
    """The class or function that `target` names.

    Args:
        key: of the config, such as `model._target_`; its first part is the group.
        target: a dotted name.
        kind: what it must build.
        own: packages that the user trusts.

    Raises:
        UserError: not trusted (nothing has been imported then), not there, or not of the kind.
    """
    packages = (*TRUSTED[key.split(".")[0]], *own)
    where = f"{key}={shown(target)}"
    if not isinstance(target, str):
        raise UserError(f"{where}: names no class. Type a dotted name such as mypackage.Net.")
    _refuse_untrusted(where, target, packages)
    if own and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # a module beside the user, as with python -m
    found = _locate(where, target, packages)
    if inspect.isclass(found):
        makes: Any = found
    elif isinstance(found, types.FunctionType) and ("." not in found.__qualname__ or belongs(target, own)):
        makes = annotated(found)
    elif inspect.ismethod(found) and inspect.isclass(found.__self__) and belongs(target, own):
        makes = annotated(found.__func__)  # of a class method
    else:
        raise UserError(f"{where}: is a {type(found).__name__}; a class or a function is needed.")
    if not belongs(found.__module__, packages):
        raise UserError(f"{where}: comes from {found.__module__}.{_if_yours(f'{found.__module__}.Net')}")
    is_wanted = inspect.isclass(makes) and issubclass(makes, kind)
    # A part of something may be whatever its class takes: the object of settings that many networks are made from.
    is_free = key.count(".") > 1 if inspect.isclass(found) else makes not in NOTHING_BUILT
    if not is_wanted and not (belongs(target, own) and is_free):
        instead = getattr(kind, "accepted", "")
        made = f"a {kind.__module__.split('.')[0]} {kind.__name__}"
        raise UserError(f"{where}: {instead or f'does not make {made}, which {key} needs'}.")
    return found


def _refuse_untrusted(where: str, target: str, packages: Iterable[str]) -> None:
    if not belongs(target, packages):
        raise UserError(f"{where}: is in none of the trusted packages {', '.join(packages)}.{_if_yours(target)}")


def is_nobodys(package: str) -> bool:
    """Whether a package is no user's own: nobody is ever told to trust it."""
    return package in sys.stdlib_module_names or package in ("torch", "trainer", "hydra", "omegaconf", "numpy", "")


def _if_yours(name: str) -> str:
    """What to type for a package that may be the user's; nothing for one that is nobody's own."""
    package, _, rest = name.partition(".")
    if not rest:
        return " Type a dotted name such as mypackage.Net."
    if is_nobodys(package):
        return ""
    return f" If it is yours, type trust=[{package}]."


def annotated(function: Any) -> Any:
    """What a function says that it returns."""
    try:
        return get_type_hints(function).get("return", object)
    except Exception:  # an annotation that names something that is not there
        return object


def _locate(where: str, target: str, packages: tuple[str, ...]) -> Any:
    """Imports modules as far as the name goes, then follows attributes; never into a package that is not trusted."""
    parts = target.split(".")
    found: Any = None
    for i, part in enumerate(parts):
        name = ".".join(parts[: i + 1])
        if found is None or isinstance(found, types.ModuleType):
            if found is not None and hasattr(found, part):
                found = getattr(found, part)
            else:
                try:
                    found = importlib.import_module(name)
                except ModuleNotFoundError as error:
                    if error.name == "torchmetrics":
                        raise UserError(
                            f"{where}: needs the package torchmetrics. Type pip install 'train-cli[metrics]'."
                        ) from error
                    if error.name is not None and not belongs(name, [error.name]):
                        raise UserError(
                            f"{where}: needs the module {error.name}. Try pip install {error.name}."
                        ) from error
                    if found is None:
                        raise UserError(
                            f"{where}: there is no module {name}. Type train where {name}.py lies, or install it."
                        ) from error
                    hint = nearest(part, (n for n in dir(found) if not n.startswith("_")))
                    raise UserError(f"{where}: there is no {name}.{hint}") from error
                except Exception as error:
                    raise UserError(f"{where}: importing {name} failed: {told(error, parts[:1])}.") from error
        else:
            if not hasattr(found, part):
                raise UserError(f"{where}: {'.'.join(parts[:i])} has no {part}.")
            found = getattr(found, part)
        is_inside = any(package.startswith(name) for package in packages)  # on the way to a trusted package
        if isinstance(found, types.ModuleType) and not is_inside and not belongs(found.__name__, packages):
            raise UserError(f"{where}: leads to {found.__name__}, which is not trusted.")
    return found


def place(error: BaseException, packages: Iterable[str]) -> str:
    """The last line of these packages that an error went through, `net.py, line 12`; empty where it was in none."""
    packages, found = tuple(packages), ""
    at = error.__traceback__
    while at is not None:
        if belongs(at.tb_frame.f_globals.get("__name__", ""), packages):
            found = f"{Path(at.tb_frame.f_code.co_filename).name}, line {at.tb_lineno}"
        at = at.tb_next
    return found


def told(error: BaseException, packages: Iterable[str]) -> str:
    """An error as one line: what, and where in these packages."""
    where = place(error, packages)
    return " ".join(f"{type(error).__name__}: {error}".split()).rstrip(".:") + (f" ({where})" if where else "")


def check_names(key: str, config: Any, own: tuple[str, ...]) -> None:
    """Checks every `_target_` below `key` by its name alone: nothing is imported.

    Raises:
        UserError: one that belongs to no trusted package.
    """
    if isinstance(config, Mapping | list):
        for name, value in config.items() if isinstance(config, Mapping) else enumerate(config):
            if name == "_target_" and isinstance(value, str):
                packages = (*TRUSTED[key.split(".")[0]], *own)
                _refuse_untrusted(f"{key}.{name}={shown(value)}", value, packages)
            check_names(f"{key}.{name}", value, own)


def check_targets(key: str, config: Any, kind: type, part: type, own: tuple[str, ...]) -> None:
    """Checks every `_target_` below `key` and the keys beside it against the signature of what they name.

    Args:
        config: interpolations resolved.
        kind, part: what `key` itself must make, and what stands below it.

    Raises:
        UserError: see `resolve`; or a key that the class does not take; or a text that Hydra would resolve once more,
            to something that nobody has checked.
    """
    if isinstance(config, Mapping):
        if config.get("_target_") is not None:
            found = resolve(f"{key}._target_", config["_target_"], kind, own)
            check_keys(key, config, found)
        for name, value in config.items():
            check_targets(f"{key}.{name}", value, part, part, own)
    elif isinstance(config, list):
        for i, value in enumerate(config):
            check_targets(f"{key}.{i}", value, part, part, own)
    elif isinstance(config, str) and "${" in config:
        raise UserError(f"{key}={config}: refers to something in a roundabout way. Type what it stands for.")


def parameters(found: Any) -> Mapping[str, inspect.Parameter]:
    """The parameters that a class or function can be given by name."""
    try:
        signature = inspect.signature(found)
    except ValueError:  # some built-in classes have none
        return {"kwargs": inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD)}
    return {n: p for n, p in signature.parameters.items() if p.kind is not inspect.Parameter.POSITIONAL_ONLY}


def takes_any(found: Any) -> bool:
    """Whether it has `**kwargs`."""
    return any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters(found).values())


def is_ours(found: Any) -> bool:
    """Whether a class or function belongs to this tool."""
    return belongs(found.__module__, ["trainer"])


def is_loss(key: str, found: Any) -> bool:
    """Whether what `_target_` below `key` names is a loss itself, and not called to make one."""
    return key.split(".")[0] == "loss" and isinstance(found, FUNCTIONS) and GIVEN[0] in parameters(found)


def check_keys(key: str, config: Mapping[str, Any], found: Any) -> None:
    """Refuses keys that `found` does not take, and what is missing of a function that is a loss."""
    given = GIVEN if is_loss(key, found) else ()
    if given:
        _refuse_wrong_keys_of_loss(key, config, found)
    elif key.split(".")[0] == "loss" and isinstance(found, FUNCTIONS):
        _refuse_missing_keys_of_maker(key, config, found)
    if takes_any(found):
        return
    known = [n for n, p in parameters(found).items() if p.kind is not inspect.Parameter.VAR_POSITIONAL]
    known = [name for name in known if name not in given]
    for name in config:
        if name not in known and name not in HYDRA_KEYS:
            known += READ_HERE.get(key, ())
            raise unknown_key(f"{key}.{name}", [f"{key}.{k}" for k in known if k not in ("params", "optimizer")])


def _needed(function: Any) -> list[str]:
    """The parameters that it can't be called without."""
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [n for n, p in parameters(function).items() if p.kind in named and p.default is p.empty]


def _refuse_missing_keys_of_maker(key: str, config: Mapping[str, Any], function: Any) -> None:
    for name in _needed(function):
        if name not in config:
            raise UserError(
                f"{key}.{name}: is missing. No parameter of {function.__name__} is called {GIVEN[0]}, so that it is "
                f"called to make a loss. Type {key}.{name}=...; or, where it is a loss itself, call the parameter for "
                f"what the model gives {GIVEN[0]}."
            )


def _refuse_wrong_keys_of_loss(key: str, config: Mapping[str, Any], function: Any) -> None:
    for name in config:
        if name in GIVEN:
            raise UserError(f"{key}.{name}: is what the run gives to a loss, and no key. Leave it out.")
        if name in HYDRA_KEYS - {"_target_"}:
            raise UserError(f"{key}.{name}: a function that is a loss itself is called in every step. Leave it out.")
    for name in _needed(function):
        if name not in (*config, *GIVEN):
            raise UserError(
                f"{key}.{name}: is missing. A loss is given {', '.join(GIVEN)} by these names; all else is a key. "
                f"Type {key}.{name}=..., or call the parameter targets if that is what it takes."
            )
