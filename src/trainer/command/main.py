"""The `train` command: from the words typed to a run, a sweep or help; one-line errors and exit codes.

Imports no torch: help, `--cfg job` and tab completion answer before it would be there.
"""

import itertools
import os
import re
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from trainer.command.verbs import HELP, VERBS, run_verb
from trainer.config.bounds import refuse_long_words
from trainer.config.schema import GROUPS, RULES, leaves, unknown_key, yaml_problem
from trainer.errors import UserError, nearest, one_of, printable
from trainer.exits import exit_code
from trainer.signals import Signals

if TYPE_CHECKING:
    from trainer.config.request import Request

# In a wheel the configs lie inside the package, in a checkout beside `src/`.
_PACKAGE = Path(__file__).parents[1]
CONFIGS = _PACKAGE / "configs" if (_PACKAGE / "configs").is_dir() else _PACKAGE.parents[1] / "configs"

EXAMPLES = """\
  train                                                    LeNet on the shipped digits
  train model=lenet optimizer=sgd optimizer.lr=0.1 device=cuda
  train data=mnist max_epochs=5 batch_size=128             fetched once, then cached
  train experiment=seed_two_layer model.gradient=numpy     the tutorial's network, backward pass by hand
  train model=frozen_resnet data=cifar10                   only the new head trains
  train model=sequential loss=nll data=arrays data.path=mine.csv data.targets=[label]
  train model._target_=mypackage.Net trust=[mypackage]     your own module, no file of ours touched
  train name=try1 max_epochs=50                            the same command goes on where it stopped
  train resume=runs/try1 max_epochs=100                    goes on exactly, and further
  train --multirun optimizer.lr=0.1,0.01 seed=0,1,2        a sweep: six runs"""


def main() -> NoReturn:
    """The console script. Exits with 0, or with a code of `trainer.errors`; 1 is our own fault, with a traceback."""
    argv = sys.argv[1:]
    # Before torch and NumPy are there. Threads that wait for each other by spinning are many times slower as soon as
    # another program wants their core, and NumPy's threads would be in the way of torch's.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    sys.exit(exit_code(lambda signals: run_command(argv, signals)))


def run_command(argv: list[str], signals: Signals | None = None) -> int:
    """What the words after `train` ask for. Returns the exit code; raises what `main` turns into one."""
    refuse_long_words(argv)
    if "--help" in argv or "-h" in argv or argv[:1] == ["help"]:
        print(help_text(config_folders(argv)))
        return 0
    if argv and argv[0] in VERBS:
        return run_verb(argv)
    flags, words = sorted_words(argv)
    words = [as_typed(word) for word in own_classes(words)]
    words = ["sweep.stack=always" if word == "hydra/launcher=stacked" else word for word in words]  # said as of Hydra's
    is_question = not _QUESTIONS.isdisjoint(flag.partition("=")[0] for flag in flags)
    of_hydra = next((word for word in words if word.lstrip("+~").startswith(("hydra.", "hydra/"))), None)
    if of_hydra and not is_question and folders_after(argv, *_FLAGS_OF_FOLDERS):
        raise UserError(f"{of_hydra}: Hydra would do what the folder's own files tell it, too. Type one of the two.")
    if {"-m", "--multirun"} & set(flags) and not is_question:
        sweep = run_plugged_sweep if of_hydra else run_sweep
        return 1 if sweep(argv, flags, words, signals or Signals()) else 0
    if "--hydra-help" in flags:
        flags, words = ["--hydra-help"], []  # or else it would set up the logging that a config describes
    if of_hydra or is_question:
        compose_and_run([*flags, *words], signals)
        return 0
    (request,) = requests(argv, flags, words)
    try:
        from trainer.run.run import run  # torch comes with it

        run(request, signals)
    except ModuleNotFoundError as error:
        raise UserError(f"the module {error.name} is missing. Type pip install {error.name}.") from error
    return 0


def requests(argv: list[str], flags: list[str], words: list[str], is_sweep: bool = False) -> "list[Request]":
    """What is asked for, job by job.

    Hydra composes and does not run: it would call what the `hydra` section of any config names, and nobody checks that.
    """
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    from trainer.config.compose import combinations, composed, hydra_at

    shipped, *others = folders = config_folders(argv)
    if not shipped.is_dir():
        raise UserError("--config-path: takes a folder with a config of train. Type --config-dir=... to add your own.")
    for folder in others:
        if not folder.is_dir():
            where = folder.absolute()
            raise UserError(f"--config-dir={where}: there is no such folder. Give the one that holds model/, data/ ...")
    try:
        with hydra_at(folders) as search:
            jobs = combinations(words) if is_sweep else [words]
            return [composed(job, search, config_name(flags)) for job in jobs]
    except (HydraException, OmegaConfBaseException, YAMLError, OSError, ValueError) as error:
        raise one_line(error, argv) from error


def run_sweep(argv: list[str], flags: list[str], words: list[str], signals: Signals) -> int:
    """Runs every combination of the values, each a job of its own. Returns how many jobs failed."""
    from trainer.sweep.sweep import sweep

    folder, words = sweep_folder(words)
    return sweep(requests(argv, flags, words, is_sweep=True), folder, argv, signals)


def run_plugged_sweep(argv: list[str], flags: list[str], words: list[str], signals: Signals) -> int:
    """Runs a sweep by plugins of Hydra's, which the words name. Returns how many jobs failed."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    from trainer.config.compose import hydra_at
    from trainer.sweep.plugins import PluggedSweep

    folder, words = sweep_folder(words)
    try:
        with hydra_at(config_folders(argv)) as search:
            return PluggedSweep(words, search, config_name(flags), folder).run(argv, signals)
    except (HydraException, OmegaConfBaseException, YAMLError) as error:  # a search composes as it goes
        raise one_line(error, argv) from error


def sweep_folder(words: list[str]) -> tuple[Path, list[str]]:
    """Where a sweep lies, and the words that are of its jobs."""
    names = [word for word in words if word.startswith("name=")]
    name = names[-1].removeprefix("name=") if names else f"sweep-{datetime.now():%Y-%m-%d_%H%M%S}"
    if not RULES["name"].allows(name):
        raise UserError(f"name={name}: must be {RULES['name'].accepts}.")
    return Path("runs", name), [word for word in words if word not in names]


def config_name(flags: list[str]) -> str:
    """Of the config that all others go into."""
    return next((value for flag, value in with_values(flags) if flag in ("--config-name", "-cn")), "train")


def with_values(flags: list[str]) -> list[tuple[str, str]]:
    """Flags that take a value, with it."""
    pairs = [tuple(flag.split("=", 1)) for flag in flags if "=" in flag]
    return [*pairs, *itertools.pairwise(flags)]  # type: ignore[list-item]


def compose_and_run(argv: list[str], signals: Signals | None = None) -> None:
    """Has Hydra answer a question, or compose the config and call the run with it."""
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import HydraException
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    raised: list[BaseException] = []

    def task(config: DictConfig) -> None:
        about = HydraConfig.get()
        container: Any = OmegaConf.to_container(config)
        groups = (*GROUPS, "monitor")
        choices = {group: str(choice) for group, choice in about.runtime.choices.items() if group in groups}
        overrides: Any = OmegaConf.to_container(about.overrides.task, resolve=False)  # "lr=${oc.env:LR}" as typed
        try:
            from trainer.config.request import Request
            from trainer.run.run import run  # torch comes with it

            run(Request(container, choices, overrides), signals)
        except ModuleNotFoundError as error:
            raised.append(UserError(f"the module {error.name} is missing. Type pip install {error.name}."))
        except Exception as error:  # Hydra would print a line of its own about what it passes on
            raised.append(error)

    # Without it Hydra prints errors itself, in several lines, and exits with 1.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    sys.argv[1:] = argv
    decorated: Callable[[], None] = hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="train")(task)
    try:
        decorated()
    except (HydraException, OmegaConfBaseException, YAMLError, OSError, ValueError) as error:
        raise one_line(error, argv) from error
    if raised:
        raise raised[0]


def as_typed(word: str) -> str:
    """`resume=<folder>` in quotes where Hydra's grammar would read something into it, as into that of a job."""
    key, _, value = word.partition("=")
    if key != "resume" or re.fullmatch(r"[\w./+~-]*|['\"].*", value):
        return word
    escaped = value.replace('"', '\\"')
    return f'{key}="{escaped}"'


def own_classes(words: list[str]) -> list[str]:
    """`model._target_=mypackage.Net model.width=8` means the user's class and its own arguments.

    The shipped option of that group, with arguments of another class, is replaced by `own`, which has none.
    """
    for group in GROUPS:
        is_own = any(word.startswith(f"{group}._target_=") for word in words)
        if is_own and not any(word.startswith(f"{group}=") for word in words):
            words = [f"{group}=own", *(f"++{word}" if word.startswith(f"{group}.") else word for word in words)]
    return words


def config_folders(argv: list[str]) -> list[Path]:
    """Where configs are looked for: the shipped ones and the user's `--config-dir`."""
    shipped = [*folders_after(argv, "--config-path", "-cp"), CONFIGS][0]
    return [shipped, *folders_after(argv, "--config-dir", "-cd")]


def folders_after(argv: list[str], *flags: str) -> list[Path]:
    """The values of flags."""
    folders = []
    for i, word in enumerate(argv):
        name, _, value = word.partition("=")
        if name in flags:
            folders.append(Path(value or (argv[i + 1] if i + 1 < len(argv) else "")))
    return folders


def options(folders: list[Path]) -> dict[str, dict[str, str]]:
    """Group to option to what its file's first line says."""
    found: dict[str, dict[str, str]] = {}
    for folder in folders:
        for path in sorted(folder.glob("*/*.yaml")):
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            comments = [line.lstrip("# ") for line in lines if line.startswith("#") and not line.startswith("# @")]
            found.setdefault(path.parent.name, {})[path.stem] = printable(comments[0]) if comments else ""
    return found


def help_text(folders: list[Path]) -> str:
    """What `train --help` prints."""
    groups = options(folders)
    order = [*GROUPS, "monitor", "experiment", *(g for g in groups if g not in (*GROUPS, "monitor", "experiment"))]
    lines = [
        "train: see a network learn.",
        "",
        "usage: train [KEY=VALUE ...] [--multirun] [--cfg job] [--config-dir DIR]",
        "",
    ]
    lines += ["Choices, GROUP=OPTION:"]
    for group in order:
        lines.append(f"  {group}")
        lines += [f"    {option:<21} {about}" for option, about in groups.get(group, {}).items()]
    lines += [
        "",
        "Keys: device=auto|cpu|cuda|cuda:1|mps precision=float32|bfloat16|float16 max_epochs= max_steps= batch_size=",
        "seed= name= resume= ...; train --cfg job shows them all, with those of what is chosen.",
        "",
        "Examples:",
        EXAMPLES,
        "",
        "Looking at finished runs:",
        HELP,
        "",
        'Tab completion: eval "$(train -sc install=bash)". More flags, Hydra\'s own: train --hydra-help.',
    ]
    return "\n".join(lines)


# Hydra's flags, and those of them that take a value as the next word.
_FLAGS = {"--multirun", "-m", "--resolve", "--run", "-r", "--hydra-help", "--version", "--shell-completion", "-sc"}
_FLAGS_WITH_VALUE = {"--config-dir", "-cd", "--config-name", "-cn", "--config-path", "-cp", "--cfg", "-c", "--package"}
_FLAGS_WITH_VALUE |= {"-p"}  # not --experimental-rerun, which unpickles a file
_FLAGS_WITH_CHOICE = {"--info", "-i"}
_FLAGS_OF_FOLDERS = ("--config-dir", "-cd", "--config-path", "-cp")
_QUESTIONS = {"--cfg", "-c", "--info", "-i", "--hydra-help", "--version", "--shell-completion", "-sc"}  # nothing runs
_CHOICES = {
    **dict.fromkeys(("--cfg", "-c"), ("job", "hydra", "all")),
    **dict.fromkeys(("--info", "-i"), ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")),
}


def sorted_words(argv: list[str]) -> tuple[list[str], list[str]]:
    """The flags with their values, and the overrides: Hydra's parser takes overrides in one row only.

    Raises:
        UserError: a word is neither KEY=VALUE nor one of Hydra's flags.
    """
    flags: list[str] = []
    words: list[str] = []
    rest = iter(argv)
    for word in rest:
        name, sign, value = word.partition("=")
        if name in _FLAGS_WITH_VALUE and sign:
            flags.append(word)
            refuse_no_choice(name, value)
        elif name in _FLAGS_WITH_VALUE:
            following = next(rest, None)
            if following is None:
                raise UserError(f"{word}: has no value. Type train --help, or train --cfg job for the config.")
            refuse_no_choice(name, following)
            flags += [word, following]
        elif name in _FLAGS or name in _FLAGS_WITH_CHOICE:
            if sign and name in _FLAGS:
                raise UserError(f"{word}: takes no value. Type {name}.")
            if sign:
                refuse_no_choice(name, value)
            flags.append(word)
        elif word.startswith("-"):
            known = _FLAGS | _FLAGS_WITH_VALUE | _FLAGS_WITH_CHOICE | {"--help"}
            key = name.lstrip("-")
            if key in (*GROUPS, *RULES):
                raise UserError(f"{word}: a key has no dashes. Type {key}={value or '...'}")
            raise UserError(f"{word}: there is no such flag.{nearest(name, known)} Type train --help.")
        elif (sign and name) or word.startswith("~"):
            words.append(word)
        elif flags and flags[-1] in _FLAGS_WITH_CHOICE:
            refuse_no_choice(flags[-1], word)
            flags.append(word)
        else:
            raise UserError(f"{word}: is neither KEY=VALUE nor a flag.{meant(word, argv)} Type train --help.")
    return flags, words


def refuse_no_choice(flag: str, value: str) -> None:
    """Of a flag that takes one of some words."""
    if flag in _CHOICES and value not in _CHOICES[flag]:
        raise UserError(f"{flag} {value}: takes {one_of(_CHOICES[flag])}.{nearest(value, _CHOICES[flag])}")


def meant(word: str, argv: list[str]) -> str:
    """What a word without `=` may be: a key with spaces around its `=`, an option without its group, a verb."""
    if word in (*GROUPS, *RULES):
        return f" Type {word}=... without spaces."
    of = [group for group, choices in options(config_folders(argv)).items() if word in choices]
    return f" Did you mean {of[0]}={word}?" if of else nearest(word, VERBS)


def one_line(error: Exception, argv: list[str]) -> UserError:
    """What Hydra, OmegaConf or YAML found wrong, in one line with what to type."""
    from hydra.errors import MissingConfigException, OverrideParseException
    from omegaconf.errors import InterpolationResolutionError
    from yaml import YAMLError

    folders = config_folders(argv)
    groups = options(folders)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, option = error.missing_cfg_file.partition("/")
        if group not in groups:  # hydra/launcher
            group, _, option = error.missing_cfg_file.rpartition("/")
        known = error.options or groups.get(group)
        if known:
            return UserError(
                f"{group}={option}: there is no such {group}.{nearest(option, known)} There is {', '.join(known)}."
            )
        where = " or ".join(map(str, folders))
        if group:
            return UserError(f"{group}={option}: there is no {group}/{option}.yaml in {where}.")
        known = sorted(path.stem for folder in folders for path in folder.glob("*.yaml"))
        return UserError(
            f"--config-name={option}: there is no {option}.yaml in {where}.{nearest(option, known)} "
            f"There is {', '.join(known)}."
        )
    if isinstance(error, OverrideParseException):
        word = error.override
        if "," in word and "--multirun" not in argv and "-m" not in argv:
            return UserError(f"{word}: several values are a sweep. Type --multirun, or quote the value: 'key=[a,b]'.")
        key, _, value = word.partition("=")
        return UserError(f"{word}: can't be read. If the value is a text, quote it: '{key}=\"{value}\"'.")
    if isinstance(error, YAMLError | UnicodeDecodeError):
        return UserError(f"{faulty_config(folders) or 'a config file'}: no YAML: {yaml_problem(error)}.")
    if isinstance(error, InterpolationResolutionError):
        return UserError(f"{error.full_key or '${...}'}: {str(error).splitlines()[0]}.")
    if isinstance(error, OSError) and error.strerror:
        return UserError(f"{error.filename or 'the folder that you are in'}: {error.strerror}.")
    text = str(error)
    if "BasicSweeper does not support sweep type" in text:
        return UserError(
            "an interval is for a search. Type hydra/sweeper=optuna, or some values: optimizer.lr=0.1,0.01."
        )
    if match := re.search(r"Ambiguous value for argument '([^']+)'", text):
        key, _, value = match[1].partition("=")
        hint = "" if key in groups else f", or a list: {key}=[{value}]"
        if re.fullmatch(r"-?\d+,\d+", value):
            hint = f", or a decimal point: {key}={value.replace(',', '.')}"
        return UserError(f"{match[1]}: several values are a sweep. Type --multirun{hint}.")
    if match := re.search(r"Could not append to config. An item is already at '([^']+)'", text):
        return UserError(f"+{match[1]}: is there already. Type {match[1]}=... without +.")
    if match := re.search(r"The value of '([^']+)' is (\S+) and not (.+?)\.?$", text):
        return UserError(f"~{match[1]}={match[3]}: its value is {match[2]}. Type {match[1]}=... for another.")
    if match := re.search(r"^(?:Multiple values for )?(\S+?)(?: appears more than once.*|\. To override.*)", text):
        return UserError(f"+{match[1]}=...: is there already. Type {match[1]}=... without +.")
    if match := re.search(r"Could not (?:override|append to config|delete from config)[^']*'([^']+)'", text):
        key = match[1].lstrip("+~").split("=")[0]
        if key in groups:
            return UserError(f"{key}: takes the name of an option; there is {', '.join(groups[key])}.")
        return unknown_key(key, known_keys(argv))
    if "Config group override must be" in text:  # model=null, model=3
        for word in argv:
            group, _, option = word.lstrip("+").partition("=")
            if group in groups and option not in groups[group]:
                return UserError(f"{word}: there is no such {group}. There is {', '.join(groups[group])}.")
    if match := re.search(r"Additional config directory '(.+)' not found", text):
        return UserError(f"--config-dir={match[1]}: there is no such folder. Give the one that holds model/, data/ ...")
    if "Primary config module" in text:
        return UserError("--config-path: takes a folder with a config of train. Type --config-dir=... to add your own.")
    first = " ".join(line.strip() for line in text.splitlines() if line.strip())[:300]
    return UserError(first)


def faulty_config(folders: list[Path]) -> Path | None:
    """The first config that is no YAML; Hydra does not say which it was reading."""
    from omegaconf import OmegaConf
    from yaml import YAMLError

    for path in (path for folder in folders for path in sorted(folder.rglob("*.yaml"))):
        try:
            OmegaConf.load(path)
        except (YAMLError, UnicodeDecodeError):
            return path
        except Exception:  # a fault, but not the one that is looked for
            continue
    return None


def known_keys(argv: list[str]) -> list[str]:
    """Every key that a config may have with the options chosen on this command line."""
    from omegaconf import OmegaConf

    folders = config_folders(argv)
    shipped: Any = OmegaConf.to_container(OmegaConf.load(CONFIGS / "train.yaml"))
    chosen = {
        group: option
        for default in shipped.pop("defaults")
        if isinstance(default, dict)
        for group, option in default.items()
    }
    chosen |= dict(word.lstrip("+").split("=", 1) for word in argv if "=" in word)
    shipped.pop("hydra")
    known = [key for key, _ in leaves(shipped)]
    for group in (*GROUPS, "monitor"):
        for path in (folder / group / f"{chosen[group]}.yaml" for folder in folders):
            if path.is_file():
                known += [f"{group}.{key}" for key, _ in leaves(OmegaConf.to_container(OmegaConf.load(path)))]  # type: ignore[arg-type]
    return list(
        dict.fromkeys(
            [*GROUPS, "monitor", "experiment", *known, *(key for key in RULES if key.split(".")[0] not in GROUPS)]
        )
    )
