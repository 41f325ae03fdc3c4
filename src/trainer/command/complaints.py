"""What Hydra, OmegaConf or YAML found wrong, in one line with what to type."""

import re
from collections.abc import Sequence
from pathlib import Path

from trainer.command.advice import Advice
from trainer.command.folders import CONFIGS, config_folders
from trainer.command.folders import options as options_in
from trainer.command.words import sorted_words
from trainer.config.schema import RULES, ListOf, Number, typed, yaml_problem
from trainer.errors import UserError, first_line
from trainer.system import shell


def one_line(error: Exception, argv: list[str], as_typed: dict[str, str]) -> UserError:
    """The error as the user's.

    Args:
        argv: all that was typed.
        as_typed: the words as Hydra got them, to what was typed.
    """
    from hydra.errors import MissingConfigException, OverrideParseException
    from omegaconf.errors import InterpolationResolutionError
    from yaml import YAMLError

    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return no_config(error.missing_cfg_file, error.options, argv)
    if isinstance(error, OverrideParseException):
        return unreadable(as_typed.get(error.override, error.override))
    if isinstance(error, YAMLError):
        return UserError(f"a config file: no YAML: {yaml_problem(error)}.")
    if isinstance(error, InterpolationResolutionError):
        return UserError(f"{error.full_key or '${...}'}: {first_line(error)}.")
    if isinstance(error, OSError) and error.strerror:
        return UserError(f"{error.filename or 'the folder that you are in'}: {error.strerror}.")
    if isinstance(error, RecursionError):
        return UserError("a config file: its defaults lead back to itself. Take the item out that names the file.")
    text = str(error)
    for pattern, explain in _EXPLAINED:
        if found := re.search(pattern, text):
            return explain(found, argv)
    return UserError(" ".join(line.strip() for line in text.splitlines() if line.strip())[:300])


def no_config(name: str, options: Sequence[str] | None, argv: list[str]) -> UserError:
    """Of `model/lenett`, or of the config that all others go into."""
    advice = Advice(argv)
    root = sorted_words(argv).value_of("--config-name", "-cn")
    if root == name and "/" in name:
        folder, _, stem = name.rpartition("/")
        how = f"--config-dir {shell.quote(folder)} --config-name {shell.quote(re.sub(r'[.]ya?ml$', '', stem))}"
        return UserError(f"--config-name={name}: takes the name of a config in a folder. Type {how}.")
    group, _, option = name.partition("/")
    if group not in advice.options:  # hydra/launcher
        group, _, option = name.rpartition("/")
    known = list(advice.options.get(group, {})) or list(options or ())
    if known:
        if (misplaced := _misplaced(advice.folders, group, option)) is not None:
            return misplaced
        return UserError(advice.no_option(group, option, known))
    places = " or ".join(map(str, advice.folders))
    if group:
        return UserError(f"{group}={option}: there is no {group}/{option}.yaml in {places}.")
    names = sorted(path.stem for folder in advice.folders for path in folder.glob("*.yaml"))
    return UserError(f"--config-name={option}: there is no {option}.yaml in {places}. There is {', '.join(names)}.")


def _misplaced(folders: list[Path], group: str, option: str) -> UserError | None:
    """The line for a config of that name which lies in no group: `conf/mine.yaml`, `conf/experiments/mine.yaml`."""
    groups = options_in([CONFIGS])
    for folder in folders[1:]:
        for path in sorted(path for path in folder.rglob("*.y*ml") if path.stem == option):
            if path.parent.name not in groups:
                where = path.parent / group if path.parent == folder else path.parent.with_name(group)
                return UserError(f"{group}={option}: {path.name} lies in {path.parent}. Move it into {where}.")
    return None


def unreadable(word: str) -> UserError:
    """Of a word that is not of Hydra's grammar, also with quotes around its texts."""
    from trainer.config.compose import can_be_read
    from trainer.config.grammar import quoted

    key, _, value = word.partition("=")
    if value.count("${") > value.count("}"):
        return UserError(f"{word}: can't be read: ${{ has no }}. Type {key}=${{...}} with the key that is meant.")
    plain = re.sub(r"[^\w.:/+-]", "", value, flags=re.ASCII)
    if not can_be_read(f"{key}=1"):
        dotted = re.sub(r"\[(\w+)\]", r".\1", key)
        how = (
            shell.quote(f"{dotted}={value}") if can_be_read(f"{dotted}={value}") else "train --cfg job to see the keys"
        )
        return UserError(f"{word}: can't be read: {key} is no key. Type {how}.")
    if plain and plain == value.strip("=,; "):
        return UserError(f"{word}: can't be read. Type {key}={plain}.")
    return UserError(
        f"{word}: can't be read. If the value is a text, quote it: {shell.quote(f'{key}={quoted(value)}')}."
    )


def _several(found: re.Match[str], argv: list[str]) -> UserError:
    """Of values with commas between them, without `--multirun`."""
    word = found[1]
    key, _, value = word.partition("=")
    rule = RULES.get(key)
    sweep = f"--multirun {shell.quote(word)}"
    if isinstance(rule, ListOf):
        return UserError(f"{word}: must be {rule.accepts}. Type {shell.quote(f'{key}=[{value}]')}.")
    if key == "device":
        several = f"torchrun --nproc-per-node={value.count(',') + 1} -m trainer device=cuda"
        return UserError(
            f"{word}: a process has one device. Type {several} for one run on all of them; a sweep takes "
            "sweep.devices=[0,1]."
        )
    if re.fullmatch(r"-?\d+,\d+", value) and not (isinstance(rule, Number) and rule.whole):
        return UserError(f"{word}: several values are a sweep. Type {key}={value.replace(',', '.')}, or {sweep}.")
    is_list = rule is None and key not in Advice(argv).options
    return UserError(
        f"{word}: several values are a sweep. Type {sweep}{f', or a list: {key}=[{value}]' if is_list else ''}."
    )


def _no_group(found: re.Match[str], argv: list[str]) -> UserError:
    """Of `model=null`, `model=3`."""
    options = Advice(argv).options
    for word in argv:
        group, _, option = word.lstrip("+").partition("=")
        if group in options and option not in options[group]:
            return UserError(Advice(argv).no_option(group, option, list(options[group])))
    return UserError(found.string)


def _not_there(found: re.Match[str], argv: list[str]) -> UserError:
    """Of a key that the config lacks, or of a group where an option is needed."""
    key = found[1].lstrip("+~").split("=")[0]
    options = Advice(argv).options
    if key in options:
        return UserError(f"{key}: takes the name of an option; there is {', '.join(options[key])}.")
    advice = Advice(argv)
    if f"~{key}" in argv and key in advice.known:  # Hydra finds nothing where a key is null
        return UserError(f"~{key}: is null already. Leave it out.")
    return UserError(advice.unknown(key))


def _twice(found: re.Match[str], argv: list[str]) -> UserError:
    """Of `+model=lenet`; of a recipe that chooses twice in a group."""
    group = found[1]
    if not any(word.startswith(f"+{group}") for word in argv):
        files = [path for folder in config_folders(argv)[1:] for path in _files_with(folder, group)]
        where = f"{files[0][0]}, line {files[0][1]}" if files else "a config file"
        return UserError(f"{where}: {group} is chosen already. Type - override /{group}: ... there.")
    return UserError(f"+{group}=...: is there already. Type {group}=... without +.")


def _beyond(found: re.Match[str], argv: list[str]) -> UserError:
    """Of `optimizer.betas.5=0.9`: a place that a list does not have."""
    advice = Advice(argv)
    for word in argv:
        parts = word.lstrip("+~").partition("=")[0].split(".")
        for i in range(1, len(parts)):
            key, place = ".".join(parts[:i]), parts[i]
            whole = advice.values.get(key)
            if isinstance(whole, list) and not (place.isdecimal() and int(place) < len(whole)):
                whole_word = typed(key, whole)
                is_short = len(whole_word) < 80 and "${" not in whole_word
                how = f"{whole_word} with what you want in it" if is_short else "train --cfg job to see it"
                return UserError(f"{word}: {key} is a list of {len(whole)}, counted from 0. Type {how}.")
    return UserError(f"{found['word'] or found.string}: does not fit the config. Type train --cfg job to see it.")


def _files_with(folder: Path, group: str) -> list[tuple[Path, int]]:
    """The configs in a folder whose defaults name a group, with the line."""
    found = []
    for path in sorted(folder.rglob("*.yaml")):
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
        found += [(path, i) for i, line in enumerate(lines, 1) if re.match(rf"\s*-\s*/?{re.escape(group)}\b", line)]
    return found


_EXPLAINED = (
    (
        "BasicSweeper does not support sweep type",
        lambda found, argv: UserError(
            "an interval is for a search. Type hydra/sweeper=optuna, or some values: optimizer.lr=0.1,0.01."
        ),
    ),
    (r"Ambiguous value for argument '(.+)'\n", _several),
    (
        r"Sweep parameters '(.+)' requires --multirun",
        lambda found, argv: UserError(f"{found[1]}: is for a sweep. Type --multirun {shell.quote(found[1])}."),
    ),
    (
        r"Could not append to config. An item is already at '([^']+)'",
        lambda found, argv: UserError(f"+{found[1]}: is there already. Type {found[1]}=... without +."),
    ),
    (
        r"The value of '([^']+)' is (\S+) and not (.+?)\.?$",
        lambda found, argv: UserError(
            f"~{found[1]}={found[3]}: its value is {found[2]}. Type {found[1]}=... for another."
        ),
    ),
    (r"^(?:Multiple values for )?(\S+?)(?: appears more than once.*|\. To override.*)", _twice),
    (
        r"Could not delete '([^']+)'\. No match in the defaults list",
        lambda found, argv: UserError(f"~{found[1]}: nothing is chosen there that could be taken out. Leave it out."),
    ),
    (r"Could not (?:override|append to config|delete from config)[^']*'([^']+)'", _not_there),
    (r"Override (\S+) looks like a config group", _not_there),
    (r"Error merging override (?P<word>.+)|invalid literal for int\(\)", _beyond),
    ("Config group override must be", _no_group),
    (
        r"Defaults List interpolation is not supported|Error resolving interpolation '(.+?)'",
        lambda found, argv: UserError(
            f"{found[1] or '${...}'}: stands for no option. Type its name, or ${{oc.env:NAME}} of a set variable."
        ),
    ),
    (
        r"force-add of config groups is not supported: '\+\+(.+)'",
        lambda found, argv: UserError(f"++{found[1]}: takes the name of an option. Type {shell.quote(found[1])}."),
    ),
)
