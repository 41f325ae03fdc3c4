"""The `train` command: from the words typed to a run, a sweep or help; one-line errors and exit codes.

Imports no torch: help, `--cfg job` and tab completion answer before it would be there.
"""

import os
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from trainer.errors import Interrupted, RunStopped, UserError, nearest
from trainer.finished.verbs import HELP, VERBS, run_verb
from trainer.schema import GROUPS, RULES, leaves, unknown_key

# In a wheel the configs lie inside the package, in a checkout beside `src/`.
_PACKAGE = Path(__file__).parent
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
    try:
        sys.exit(run_command(argv))
    except (UserError, RunStopped, Interrupted) as error:
        print(f"error: {error}" if not isinstance(error, Interrupted) else str(error), file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("stopped.", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # `train --help | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception:
        traceback.print_exc()
        print("error: this is a fault of train itself; please report the lines above.", file=sys.stderr)
        sys.exit(1)


def run_command(argv: list[str]) -> int:
    """What the words after `train` ask for. Returns the exit code; raises what `main` turns into one."""
    if "--help" in argv or "-h" in argv or argv[:1] == ["help"]:
        print(help_text(config_folders(argv)))
        return 0
    if argv and argv[0] in VERBS:
        return run_verb(argv)
    flags, words = sorted_words(argv)
    return 1 if compose_and_run([*flags, *own_classes(words)]) else 0


def compose_and_run(argv: list[str]) -> int:
    """Has Hydra compose the config and calls the run with it. Returns how many jobs of a sweep failed."""
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import HydraException
    from hydra.types import RunMode
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    raised: list[BaseException] = []
    failed: list[str] = []

    def task(config: DictConfig) -> float | None:
        about = HydraConfig.get()
        container: Any = OmegaConf.to_container(config)
        groups = (*GROUPS, "monitor")
        choices = {group: str(choice) for group, choice in about.runtime.choices.items() if group in groups}
        overrides = list(about.overrides.task)
        is_sweep = about.mode == RunMode.MULTIRUN
        if is_sweep:
            container["run_dir"] = str(Path(about.sweep.dir) / job_name(overrides))
            print(f"job {about.job.num}: {' '.join(overrides)}", flush=True)
        try:
            from trainer.run import Request, run  # torch comes with it

            result = run(Request(container, choices, overrides))
        except (UserError, RunStopped) as error:
            if not is_sweep:
                raised.append(error)
                return None
            failed.append(container["run_dir"])
            print(f"error: job {about.job.num}: {error}", file=sys.stderr, flush=True)
            return None
        except Exception as error:  # Hydra would print a line of its own about what it passes on
            raised.append(error)
            return None
        metric: float | None = result.get(container["checkpoint"]["metric"])
        return metric

    # Without it Hydra prints errors itself, in several lines, and exits with 1.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    sys.argv[1:] = argv
    decorated: Callable[[], None] = hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="train")(task)
    try:
        decorated()
    except (HydraException, OmegaConfBaseException) as error:
        raise one_line(error, argv) from error
    if raised:
        raise raised[0]
    return len(failed)


def job_name(overrides: list[str]) -> str:
    """A folder's name for a job of a sweep: what was typed, without what no file system likes."""
    cleaned = re.sub(r"[^\w.=,+-]+", "-", ",".join(overrides)).strip("-.")
    return cleaned[:120] or "job"


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
    folders = [CONFIGS]
    for i, word in enumerate(argv):
        name, _, value = word.partition("=")
        if name in ("--config-dir", "-cd"):
            folders.append(Path(value or (argv[i + 1] if i + 1 < len(argv) else "")))
    return folders


def options(folders: list[Path]) -> dict[str, dict[str, str]]:
    """Group to option to what its file's first line says."""
    found: dict[str, dict[str, str]] = {}
    for folder in folders:
        for path in sorted(folder.glob("*/*.yaml")):
            lines = path.read_text(encoding="utf-8").splitlines()
            comments = [line.lstrip("# ") for line in lines if line.startswith("#") and not line.startswith("# @")]
            found.setdefault(path.parent.name, {})[path.stem] = comments[0] if comments else ""
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
_FLAGS_WITH_VALUE |= {"-p", "--experimental-rerun"}
_FLAGS_WITH_CHOICE = {"--info", "-i"}


def sorted_words(argv: list[str]) -> tuple[list[str], list[str]]:
    """The flags with their values, and the overrides: Hydra's parser takes overrides in one row only.

    Raises:
        UserError: a word is neither KEY=VALUE nor one of Hydra's flags.
    """
    flags: list[str] = []
    words: list[str] = []
    rest = iter(argv)
    for word in rest:
        name = word.split("=", 1)[0]
        if name in _FLAGS_WITH_VALUE and "=" in word:
            flags.append(word)
        elif name in _FLAGS_WITH_VALUE:
            value = next(rest, None)
            if value is None:
                raise UserError(f"{word}: has no value. Type train --help, or train --cfg job for the config.")
            flags += [word, value]
        elif name in _FLAGS or name in _FLAGS_WITH_CHOICE:
            flags.append(word)
        elif word.startswith("-"):
            known = _FLAGS | _FLAGS_WITH_VALUE | _FLAGS_WITH_CHOICE | {"--help"}
            raise UserError(f"{word}: there is no such flag.{nearest(name, known)} Type train --help.")
        elif ("=" in word and not word.startswith("=")) or word.startswith("~"):
            words.append(word)
        elif flags and flags[-1] in _FLAGS_WITH_CHOICE:
            flags.append(word)
        else:
            raise UserError(f"{word}: is neither KEY=VALUE nor a flag.{nearest(word, VERBS)} Type train --help.")
    return flags, words


def one_line(error: Exception, argv: list[str]) -> UserError:
    """What Hydra or OmegaConf found wrong, in one line with what to type."""
    from hydra.errors import MissingConfigException, OverrideParseException

    groups = options(config_folders(argv))
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, option = error.missing_cfg_file.rpartition("/")
        if group in groups:
            return UserError(
                f"{group}={option}: there is no such {group}.{nearest(option, groups[group])} "
                f"There is {', '.join(groups[group])}."
            )
        return UserError(
            f"{error.missing_cfg_file}: there is no such config in {', '.join(map(str, config_folders(argv)))}."
        )
    if isinstance(error, OverrideParseException):
        if "," in error.override and "--multirun" not in argv and "-m" not in argv:
            return UserError(
                f"{error.override}: several values are a sweep. Type --multirun, or quote the value: 'key=[a,b]'."
            )
        return UserError(f"{error.override}: can't be read: {str(error).splitlines()[0]}.")
    text = str(error)
    found = re.search(r"Could not (?:override|append to config|delete from config)[^']*'([^']+)'", text)
    key = found.group(1).lstrip("+~").split("=")[0] if found else None
    ambiguous = re.search(r"Ambiguous value for argument '([^']+)'", text)
    if ambiguous:
        return UserError(f"{ambiguous.group(1)}: several values are a sweep. Type --multirun, or a list: key=[a,b].")
    if key:
        return unknown_key(key, known_keys(argv))
    unknown = re.search(r"In '[^']*': Could not find '([^']+)'|Could not override '([^']+)'", text)
    first = " ".join(line.strip() for line in text.splitlines() if line.strip())[:300]
    return UserError(f"{unknown.group(1) or unknown.group(2)}: {first}" if unknown else first)


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
