"""Tab completion: how a word on the command line may go on, and what a shell is told so that it asks."""

import os
import re
import shlex
from pathlib import Path

from trainer.command.folders import config_folders, known_values, options
from trainer.command.help import topics
from trainer.command.listed import ASKING, KEYS, USING, VERBS
from trainer.command.words import CHOICES, FLAGS
from trainer.config.schema import RULES, Flag, is_as_typed, shown
from trainer.errors import UserError, nearest

_BASH = """\
_train_complete() {
    local IFS=$'\\n'
    COMPREPLY=($(COMP_LINE="$COMP_LINE" COMP_POINT="$COMP_POINT" COMP_WORDBREAKS="$COMP_WORDBREAKS" \\
        command train -sc query=bash 2>/dev/null))
}
# zsh has bash's completion as a module
type complete >/dev/null 2>&1 || { autoload -Uz compinit bashcompinit && compinit && bashcompinit; }
complete -o nospace -o default -F _train_complete train"""
_FISH = """\
function __train_complete
    set -lx COMP_LINE (commandline -cp)
    command train -sc query=fish 2>/dev/null
end
complete -c train -f -a '(__train_complete)'"""
_INSTALL = {"bash": _BASH, "zsh": _BASH, "fish": _FISH}
_UNINSTALL = {"bash": "complete -r train", "zsh": "complete -r train", "fish": "complete -e -c train"}
_MOST = 200  # runs and files that are proposed


def complete(overrides: list[str]) -> int:
    """What `train -sc install=bash` and the shell's `train -sc query=bash` print. Returns the exit code.

    Raises:
        UserError: the words ask for neither.
    """
    what, _, shell = next(iter(overrides), "").partition("=")
    if what not in ("install", "uninstall", "query") or shell not in _INSTALL:
        known = [f"{verb}={name}" for verb in ("install", "uninstall") for name in _INSTALL]
        raise UserError(f"-sc: takes one of {', '.join(known)}.{nearest(f'{what}={shell}', known)}")
    if what == "query":
        print("\n".join(answers(os.environ, shell)))
    else:
        print({"install": _INSTALL, "uninstall": _UNINSTALL}[what][shell])
    return 0


def answers(environment: "os._Environ[str] | dict[str, str]", shell: str) -> list[str]:
    """What a shell may put in place of the word before the cursor, or of that part of it which it takes for a word."""
    line = environment.get("COMP_LINE", "")
    point = environment.get("COMP_POINT", "")
    if point.isdecimal():
        line = line.encode()[: int(point)].decode(errors="ignore")
    try:
        words = shlex.split(line)
    except ValueError:  # a quote that is still open
        words = line.split()
    is_new = line[-1:].isspace() and line[-2:-1] != "\\"
    *before, word = [*words[1:], *([""] if is_new or len(words) < 2 else [])]
    found = [_escaped(c) for c in candidates(before, word) if c.startswith(word)]
    breaks = environment.get("COMP_WORDBREAKS", "") if shell == "bash" else ""
    start = max((word.rfind(sign) + 1 for sign in "=:" if sign in breaks), default=0)
    return [candidate[start:].rstrip() if shell == "fish" else candidate[start:] for candidate in found]


def candidates(before: list[str], word: str) -> list[str]:
    """What a word may become, a space behind it where it is whole then.

    Args:
        before: the words that stand before it, without the name of the program.
    """
    verb, last = next(iter(before), ""), next(reversed(before), "")
    if verb == "help":
        return _whole(topics())
    if verb in VERBS:
        keys = [f"{key} " if key.startswith("-") else f"{key}=" for key in KEYS[verb]]
        runs = _runs() if verb in ("show", "compare", *USING, *ASKING) else []
        return [*keys, *_whole(runs), *(path for path in _folders(word) if path.rstrip("/") not in runs)]
    if last in CHOICES:
        return _whole(CHOICES[last])
    if last in ("--config-dir", "-cd"):
        return _folders(word)
    key, sign, value = word.partition("=")
    if sign:
        return [f"{key}={end}" for end in _values(key.lstrip("+"), value, before)]
    if word.startswith("-"):
        return [
            flag if flag == "--config-dir=" else f"{flag} " for flag in (*FLAGS, "--help", "--config-dir=", "--cfg")
        ]
    known = known_values(config_folders(before), before)
    whole = [f"{name}=" for name in known if word.count(".") >= name.count(".") or "." in word]
    sections = [f"{name.partition('.')[0]}." for name in known if "." in name and "." not in word]
    verbs = [] if before else _whole((*VERBS, "find-lr", "help"))
    return list(dict.fromkeys([*verbs, *whole, *sections]))


def _whole(words: "list[str] | tuple[str, ...] | dict[str, str]") -> list[str]:
    return [f"{word} " for word in words]


def _values(key: str, value: str, before: list[str]) -> list[str]:
    """What may stand behind `key=`."""
    folders = config_folders(before)
    choices = options(folders).get(key)
    if choices is not None:
        return _whole(choices)
    if key == "resume":
        return _whole(["auto", *_runs()])
    rule = RULES.get(key)
    if key not in ("name", "data.about") and is_as_typed(key):
        return [*_whole(getattr(rule, "words", ())), *_files(value)]
    words = [*getattr(rule, "words", ()), *(("true", "false") if isinstance(rule, Flag) else ())]
    default = known_values(folders, before).get(key)
    return _whole(words or ([shown(default)] if default not in (None, "???") else []))


def _runs() -> list[str]:
    """The folders of runs and sweeps below `runs/`, the newest last."""
    from trainer.finished.read import run_folders

    runs = [folder.as_posix() for folder in run_folders(Path("runs"))]
    sweeps = [path.parent.as_posix() for path in Path("runs").glob("*/sweep.yaml")]
    return [*sweeps, *runs][:_MOST]


def _files(start: str) -> list[str]:
    """Files and folders whose path begins so."""
    folder, _, name = start.rpartition("/")
    try:
        found = sorted(path for path in Path(f"{folder}/" if folder or start[:1] == "/" else ".").iterdir())
    except OSError:
        return []
    head = f"{folder}/" if "/" in start else ""
    return [f"{head}{p.name}{'/' if p.is_dir() else ' '}" for p in found if p.name.startswith(name)][:_MOST]


def _folders(start: str) -> list[str]:
    return [path for path in _files(start) if path.endswith("/")]


def _escaped(candidate: str) -> str:
    """As a shell reads it: a backslash before what means something to it."""
    end = " " if candidate.endswith(" ") else ""
    return re.sub(r"([^\w./=,:+~\[\]-])", r"\\\1", candidate.removesuffix(end)) + end
