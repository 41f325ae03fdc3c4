"""Verbs that ask a run why: they build it again, with torch, from what its folder says."""

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from trainer.command.composing import composer
from trainer.command.listed import OF_A_RUN
from trainer.command.options import count, flag, one_run
from trainer.command.words import sorted_words
from trainer.config.request import Request
from trainer.config.schema import RULES, resume_word
from trainer.disk.folder import read_result
from trainer.errors import UserError
from trainer.finished.read import run_named
from trainer.signals import Signals
from trainer.sweep.compare import sweep_folder


def stored(word: str, options: Mapping[str, str], more: Sequence[str] = ()) -> Request:
    """What `train resume=<folder>` would ask for: a run as its folder has it, with what was typed.

    Args:
        word: the folder of a run, or its name below `runs/`.
        options: of the verb; those of `OF_A_RUN` are of the run.
        more: words in addition.
    """
    folder = run_named(word).folder
    if not (folder / "config.yaml").is_file():
        raise UserError(f"{word}: has no config.yaml, from which it could be built. train runs lists others.")
    (resume,) = shlex.split(resume_word(folder))
    argv = [resume, *(f"{key}={value}" for key, value in options.items() if key in OF_A_RUN), *more]
    with composer(argv, sorted_words(argv)) as made:
        return made.request()


def ask(verb: str, words: Sequence[str], options: Mapping[str, str], signals: Signals) -> int:
    """What `train reproduce RUN` and its like ask for. Returns the exit code.

    Raises:
        UserError: a word is wrong, or names no run.
    """
    if verb == "explain":
        return _explain(words, options, signals)
    return VERBS[verb](verb, one_run(verb, words), options, signals)


def _reproduce(verb: str, word: str, options: Mapping[str, str], signals: Signals) -> int:
    name = _name("again", options)
    if name is not None and Path("runs", name).exists():
        raise UserError(f"name={name}: runs/{name} is there already. Type another name=.")
    steps, request = count(verb, options, "steps", 200), stored(word, options)
    from trainer.use.reproduce import reproduce  # torch comes with it

    return reproduce(request, signals, steps, name)


def _replay(verb: str, word: str, options: Mapping[str, str], signals: Signals) -> int:
    step, until, worst = (count(verb, options, key, n) for key, n in (("step", 100), ("until", 110), ("worst", 20)))
    request = stored(word, options)
    from trainer.use.replay import replay

    return replay(request, signals, step, until, worst)


def _explain(words: Sequence[str], options: Mapping[str, str], signals: Signals) -> int:
    metric, name = options.get("sweep.metric"), _name("explained", options)
    is_asked = not flag(options, "yes", default=False)
    if len(words) == 1 and (folder := sweep_folder(words[0])) is not None:
        from trainer.use.explain import explain_sweep

        return explain_sweep(folder, metric)
    if len(words) != 2:
        raise UserError(f"train explain takes two runs, or one sweep, not {len(words)}. train runs lists them.")
    seeds = count("explain", options, "seeds", 3) or 3
    command = ["explain", *words, *(f"{key}={value}" for key, value in options.items())]
    requests = [stored(word, options) for word in words]
    from trainer.use.explain import explain

    return explain(requests, signals, command, seeds, is_asked, name, metric, options.get("--png"))


def _name(example: str, options: Mapping[str, str]) -> str | None:
    """`name=`, of a sweep."""
    name = options.get("name")
    if name is not None and not RULES["name"].allows(name):
        raise UserError(f"name={name}: must be {RULES['name'].accepts}. Type name={example}.")
    return name


def _remedy(verb: str, word: str, options: Mapping[str, str], signals: Signals) -> int:
    budget = seconds(options.get("budget", "5m"))
    request = stored(word, options)
    from trainer.run.folder import as_stored
    from trainer.use.again import folder_of
    from trainer.use.remedy import candidates, diagnosed, remedy

    said = diagnosed(read_result(folder_of(request)))
    varied = {" ".join(words): stored(word, options, words) for words in candidates(as_stored(request), said)}
    command = ["remedy", word, *(f"{key}={value}" for key, value in options.items())]
    return remedy(request, varied, signals, command, budget)


def seconds(text: str) -> float:
    """`90s`, `5m`, `1.5h`."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    if found is None or not float(found[1]):
        raise UserError(f"budget={text}: must be a time such as 90s, 5m or 1h. Type budget=5m.")
    return float(found[1]) * {"s": 1, "m": 60, "h": 3600}[found[2]]


VERBS: dict[str, Callable[[str, str, Mapping[str, str], Signals], int]] = {
    "reproduce": _reproduce,
    "replay": _replay,
    "remedy": _remedy,
}
