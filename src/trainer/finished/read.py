"""The runs below a folder, read fast and whatever state they are in: going on, ended, killed, spoilt."""

import contextlib
import json
import math
import os
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from yaml import SafeLoader, YAMLError

from trainer.config.schema import GROUPS, is_larger_better, leaves
from trainer.disk import foreign
from trainer.disk.lock import NAME as LOCK
from trainer.disk.lock import holder
from trainer.errors import UserError, nearest
from trainer.system import shell

Points = list[tuple[int, float]]  # (step, number)

MAX_TAGS = 10_000  # of one run; ours have some dozen
MAX_POINTS = 10_000  # of one curve, and up to twice as many

_FILES = {"config.yaml", "result.json", "metrics.jsonl"}  # one of them makes a folder a run's


class Broken(Exception):
    """A run's folder that can't be read; one line says why."""


@dataclass(frozen=True)
class Run:
    """What a run's folder says. Foreign text: nothing in it is trusted.

    Args:
        name: of the folder, seen from where runs were looked for.
        config: every choice by its group (`model: lenet`) and every key, dotted.
        result: the last number of every tag, the best of every validation tag as `best/<tag>`, and `status` (finished,
            interrupted, stopped, failed; running, killed), `steps` and `seconds`.
        diagnosis: what was found wrong with the training.
        per_class: name, precision, recall, F1 and support of each class on the test split.
    """

    folder: Path
    name: str
    config: dict[str, Any]
    result: dict[str, Any]
    diagnosis: list[Any]
    per_class: list[dict[str, Any]] = field(default_factory=list)

    @cached_property
    def values(self) -> dict[str, Any]:
        """All that can be asked for by name."""
        return {**self.config, **self.result}


def number(value: Any) -> float | None:
    """The value where it is a number that can be reckoned with: not true or false, nor a thousand digits."""
    is_number = isinstance(value, float) or (isinstance(value, int) and -(2**63) <= value < 2**63)
    return value if is_number and not isinstance(value, bool) else None


def is_finite(value: Any) -> bool:
    """Whether it is a number, and neither NaN nor infinite."""
    return number(value) is not None and abs(value) < math.inf


def existing_folder(word: str) -> Path:
    """The folder that was typed.

    Raises:
        UserError: there is none.
    """
    folder = Path(word)
    if not folder.is_dir():
        raise UserError(f"{word}: there is no such folder. Type the one that holds the runs; a run makes runs/.")
    return folder


def runs_below(root: Path) -> tuple[list[Run], list[str]]:
    """Every run in a folder, sorted by name, and a line for each that can't be read."""
    runs, start = [], f"{root.as_posix()}/"
    broken: list[str] = []
    for folder in run_folders(root, broken):
        name = folder.resolve().name if folder is root else folder.as_posix().removeprefix(start)
        try:
            runs.append(read_run(folder, name))
        except Broken as error:
            broken.append(str(error))
    return runs, broken


def run_folders(root: Path, broken: list[str] | None = None) -> Iterator[Path]:
    """The folders of runs, `root` itself among them where it is one; links and hidden folders are left out.

    Args:
        broken: gets a line for each folder that can't be read.
    """
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        folders = []
        is_run = False
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name in _FILES:
                        is_run = True
                    elif entry.is_dir(follow_symlinks=False) and entry.name[0] != "." and entry.name != "checkpoints":
                        folders.append(entry.name)
        except OSError as error:  # gone meanwhile, not ours to read, or too deep
            if broken is not None and isinstance(error, PermissionError):
                broken.append(f"{folder}: can't be read: {error.strerror}")
            continue
        if is_run:
            yield folder
        waiting += [folder / name for name in sorted(folders, reverse=True)]


def run_named(word: str) -> Run:
    """The run in the folder that was typed, or in the folder of that name below `runs/`.

    Raises:
        UserError: there is none, or it can't be read.
    """
    for folder in (Path(word), Path("runs", word)):
        try:
            if any((folder / name).is_file() for name in _FILES):
                return read_run(folder, word)
        except (Broken, PermissionError) as error:
            reason = error if isinstance(error, Broken) else f"{folder}: can't be read: {error.strerror}"
            raise UserError(f"{reason}.") from error
        if (folder / "sweep.yaml").is_file() and (jobs := [*run_folders(folder)]):
            one = shell.quote(jobs[0].as_posix())
            raise UserError(
                f"{word}: is a sweep of {len(jobs)} runs. Type train compare {shell.quote(word)}; or name one of them, "
                f"such as {one}."
            )
    raise no_run(word)


def no_run(word: str) -> UserError:
    """The line for a word that names no run."""
    known = [folder.as_posix() for folder in run_folders(Path("runs"))]
    hint = nearest(word, [*known, *(name.removeprefix("runs/") for name in known)])
    return UserError(f"{word}: there is no run.{hint} train runs lists them.")


def read_run(folder: Path, name: str) -> Run:
    """One run.

    Raises:
        Broken: the config or the result is missing, torn or none of ours.
    """
    config = read_config(folder)
    result = read_result(folder)
    diagnosis, classes = result.pop("diagnosis", None), result.pop("per_class", None)
    result = _flat(result)
    if not any(tag.startswith("best/") for tag in result):
        # It has not ended, or nothing was validated.
        course = read_course(folder, config=config)
        if "status" not in result:
            result = course.so_far() | {"status": _running_or_killed(folder)}
        result |= {f"best/{tag}": value for tag, (value, _) in course.best.items()}
    findings = diagnosis if isinstance(diagnosis, list) else []
    findings = [finding for finding in findings if _depth_is_at_most(2, finding)]
    rows = [{key: row[key] for key in _CLASS} for row in classes if _is_class(row)] if isinstance(classes, list) else []
    return Run(folder, name, config, result, findings, rows)


_CLASS = ("name", "precision", "recall", "F1", "support")


def _is_class(row: Any) -> bool:
    """Whether it is a row of `trainer.monitor.classes.PerClass.rows`."""
    return (
        isinstance(row, dict)
        and isinstance(row.get("name"), str)
        and all(is_finite(row.get(key)) for key in _CLASS[1:])
    )


# As OmegaConf reads it: a date is text.
_RULES = {
    first: [(tag, pattern) for tag, pattern in rules if tag != "tag:yaml.org,2002:timestamp"]
    for first, rules in foreign.SafeLoader.yaml_implicit_resolvers.items()
}
_LOADERS = [type("_Loader", (base,), {"yaml_implicit_resolvers": _RULES}) for base in (foreign.SafeLoader, SafeLoader)]


_KEYS = re.compile(r"^(?=[^\s#-])", re.MULTILINE)  # before each key of the top level
_SECTION = re.compile(r"([a-z_]+):\n((?:  .*\n)+)")
# A key and a value that needs no YAML: a number, true, false or null.
_PLAIN = re.compile(r"([A-Za-z_]\w*): (-?(?:0|[1-9]\d{0,14})(?:\.\d{1,17})?|true|false|null)\n")
_WORDS = {"true": True, "false": False, "null": None}
_CHOICES = {f"choices.{group}" for group in GROUPS}
_UNREADABLE = (OSError, ValueError, RecursionError, YAMLError)


def _once(read: Callable[[str], dict[str, Any]]) -> Callable[[str], dict[str, Any]]:
    """Most of a config is the same in the next run's: each different part of it is read once, but for long ones, which
    nobody's other runs have."""
    known = lru_cache(maxsize=10_000)(read)
    return lambda block: known(block) if len(block) < 4096 else read(block)


@_once
def _leaves(block: str) -> dict[str, Any]:
    """The values of a key of the top level, dotted."""
    if (section := _SECTION.fullmatch(block)) is None:
        return _read(block)
    name, inner = section.groups()
    parts = _KEYS.split(inner.replace("\n  ", "\n")[2:])
    return {f"{name}.{key}": value for part in parts if part for key, value in _read(part).items()}


@_once
def _read(block: str) -> dict[str, Any]:
    if (plain := _PLAIN.fullmatch(block)) is not None:
        key, value = plain.groups()
        return {key: _WORDS[value] if value in _WORDS else float(value) if "." in value else int(value)}
    config = foreign.read_yaml(block, *_LOADERS)
    if not isinstance(config, dict | None):
        raise ValueError("it holds no config")
    return dict(leaves(config or {}))


def read_config(folder: Path) -> dict[str, Any]:
    """The config of a run, flat, its choices first.

    Raises:
        Broken: it is missing, torn, or none of ours.
    """
    try:
        text = foreign.text(folder / "config.yaml")
        if text.count("\n") > foreign.MAX_VALUES:
            raise ValueError(f"it has more than {foreign.MAX_VALUES:,} lines")
        try:
            blocks = [_leaves(block) for block in _KEYS.split(text)]
        except (YAMLError, ValueError):
            blocks = [_read(text)]  # not written by us: a text over several lines without indentation
    except _UNREADABLE as error:
        raise Broken(f"{folder / 'config.yaml'}: can't be read: {_reason(error)}") from error
    flat: dict[str, Any] = {}
    for block in blocks:
        flat |= block
    choices = {group: flat[f"choices.{group}"] for group in (*GROUPS, "monitor") if f"choices.{group}" in flat}
    if not all(isinstance(choices.get(group), str) for group in GROUPS):
        raise Broken(f"{folder / 'config.yaml'}: is no config of train, or not a whole one")
    for key in {key for block in blocks if _CHOICES.intersection(block) for key in block if key.startswith("choices.")}:
        del flat[key]
    return {**choices, **flat, **choices}  # first, and whatever else is named so


def read_result(folder: Path) -> dict[str, Any]:
    """`result.json`; empty where the run has not ended.

    Raises:
        Broken: it is torn, or holds something else.
    """
    try:
        result = json.loads(foreign.text(folder / "result.json"))
    except FileNotFoundError:
        return {}
    except _UNREADABLE as error:
        raise Broken(f"{folder / 'result.json'}: can't be read: {_reason(error)}") from error
    if not isinstance(result, dict) or not isinstance(result.get("status"), str):
        raise Broken(f"{folder / 'result.json'}: is no result of train")
    return result


class Curve:
    """The points of a tag; of more than `MAX_POINTS`, each is the mean of some that follow each other."""

    def __init__(self) -> None:
        self.points: Points = []
        self._of_one: list[float] = []  # the numbers of the next point
        self._num_of_one = 1

    def add(self, step: int, number: float) -> None:
        self._of_one.append(number)
        if len(self._of_one) == self._num_of_one:
            self.points.append((step, sum(self._of_one) / self._num_of_one))
            self._of_one.clear()
        if len(self.points) == 2 * MAX_POINTS:
            pairs = zip(self.points[::2], self.points[1::2], strict=True)
            self.points = [(step, (before + number) / 2) for (_, before), (step, number) in pairs]
            self._num_of_one *= 2


@dataclass
class Course:
    """What the lines of a run's `metrics.jsonl` come to, read one after the other: a long run has millions.

    Args:
        tags: whose points are kept.
        config: of the run, dotted: what it says of its metrics.
        best: the best number of every validation tag, and the step that had it first.
        last: the last number of every tag; None where that was not finite.
        curves: of each tag, without what is too large to be summed.
    """

    tags: Sequence[str] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    best: dict[str, tuple[float, int]] = field(default_factory=dict)
    last: dict[str, float | None] = field(default_factory=dict)
    curves: dict[str, Curve] = field(default_factory=dict)
    steps: int = 0
    seconds: float = 0.0
    _logged: int = 0

    def add(self, record: dict[str, Any]) -> None:
        """The numbers of a line, which has its `step` among them."""
        step: int = record.pop("step")
        for tag, value in record.items():
            if value is not None and number(value) is None:
                continue
            if tag in self.last or len(self.last) < MAX_TAGS:
                self.last[tag] = value
                self._add_best(tag, value, step)
        for tag in self.tags:
            if is_finite(record.get(tag)) and abs(record[tag]) < 1e300:
                self.curves.setdefault(tag, Curve()).add(step, record[tag])
        if (step_ms := number(record.get("time/step_ms"))) is not None:
            # Without the pauses between a stop and a resume, which the files' times would count.
            self.seconds += step_ms / 1000 * (step - self._logged)
            self._logged = step
        self.steps = step

    def _add_best(self, tag: str, value: float | None, step: int) -> None:
        if value is None or not tag.startswith("val/") or not is_finite(value):
            return
        sign = 1 if is_larger_better(tag, self.config) else -1
        if tag not in self.best or sign * value > sign * self.best[tag][0]:
            self.best[tag] = value, step

    def points(self, tag: str) -> Points:
        """Of one of the `tags`; empty where there are none."""
        return self.curves[tag].points if tag in self.curves else []

    def so_far(self) -> dict[str, Any]:
        """What `result.json` would hold, of a run that has not ended."""
        return {**self.last, "steps": self.steps, "seconds": self.seconds}


def read_samples(folder: Path) -> dict[str, str]:
    """Split to what is known of its samples, as `origin.json` has it of the last process. Empty: nothing is known."""
    try:
        data = json.loads(foreign.text(folder / "origin.json"))[-1]["data"]
        return {split: found[0] for split, found in data.items() if found and isinstance(found[0], str)}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return {}


def read_course(folder: Path, tags: Sequence[str] = (), config: Mapping[str, Any] | None = None) -> Course:
    """The course of a run; lines that are torn are left out, as the last may be while it is written."""
    course = Course(tags, config or {})
    with contextlib.suppress(OSError):
        for record in foreign.metrics(folder):
            course.add(record)
    return course


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    """Without what is nested: our own files hold numbers and words alone."""
    return {key: value for key, value in values.items() if not isinstance(value, (dict, list))}


def _depth_is_at_most(depth: int, value: Any) -> bool:
    """Whether lists and mappings hold each other no deeper than that."""
    if not isinstance(value, dict | list):
        return True
    parts = value.values() if isinstance(value, dict) else value
    return depth > 0 and all(_depth_is_at_most(depth - 1, part) for part in parts)


def _running_or_killed(folder: Path) -> str:
    """Whether a run that left no result goes on: it has a locked file in its folder for so long.

    Of a file that is left and not locked, another machine's process may be alive, which no lock tells of here: it
    counts as killed when the run has written nothing for ten minutes.
    """
    if holder(folder) is not None:
        return "running"
    try:
        host = foreign.text(folder / LOCK).rpartition(" on ")[2]
    except (OSError, ValueError):
        return "killed"
    if host == socket.gethostname():
        return "killed"
    written = [_written(folder / "config.yaml"), _written(folder / "metrics.jsonl")]
    written += [_written(path) for path in folder.glob("events.out.tfevents.*")]
    # A clock that was set back, or is another's, may have it written in the future.
    return "running" if abs(time.time() - max(written)) < 600 else "killed"


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # no such file, or no more
        return 0.0


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return " ".join(str(error).split())[:100] or type(error).__name__
