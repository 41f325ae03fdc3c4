"""`train show`: one run, what was asked, what came of it, what lies in its folder and what can be done with it."""

import contextlib
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.text import Text
from yaml import YAMLError

from trainer.config.schema import GROUPS, resume_word, shown
from trainer.config.trust import is_nobodys
from trainer.disk import foreign
from trainer.finished.read import Run, number, run_named
from trainer.finished.runs import STATUS, cell, spent
from trainer.finished.table import Column, open_console, print_lines, table
from trainer.system import shell

_OF_ALL = {  # of a result; the rest are tags
    *("status", "steps", "seconds", "num_parameters", "num_trainable"),
    *("computed", "ended", "ended_by", "tested", "best_step"),
}
_INDENT = 2


def show(word: str) -> int:
    """Prints what is known of a run.

    Raises:
        UserError: the word names no run, or one that can't be read.
    """
    run = run_named(word)
    result, status = run.result, str(run.result["status"])
    facts = [f"{cell(result.get('steps'))} steps", spent(run)]
    if "num_parameters" in result:
        total, trained = cell(result["num_parameters"]), cell(result.get("num_trainable"))
        facts.append(f"{total} parameters, {trained} of them trained")
    title = Text.assemble((str(run.folder), "bold cyan"), ": ", (status, STATUS.get(status, "red")))
    lines = [title.append(f", {', '.join(facts)}")]

    choices = [f"{group}={shown(run.config[group])}" for group in (*GROUPS, "monitor") if group in run.config]
    lines += _section("typed", _with_warning(f"train {typed(run)}".rstrip()))
    lines += _section("choices", [Text(" ".join(choices))])

    console = open_console()
    tags = [tag for tag in result if tag not in _OF_ALL and not tag.startswith("best/")]
    if tags:
        last = [cell(result[tag]) for tag in tags]
        top = [cell(result[f"best/{tag}"]) if f"best/{tag}" in result else "" for tag in tags]
        columns = [Column("", tags), Column("last", last, True), Column("best", top, True)]
        lines += _section("results", table(columns, console, _INDENT))
    if (which := _tested(result)) is not None:
        lines += _section("tested", [Text(which)])
    if result.get("ended"):
        lines += _section("ended", [Text(shown(result["ended"]))])
    if run.per_class:
        names = [Column("", [row["name"] for row in run.per_class])]
        keys = ("precision", "recall", "F1", "support")
        names += [Column(key, [cell(row[key]) for row in run.per_class], is_number=True) for key in keys]
        lines += _section("classes of the test split", table(names, console, _INDENT))
    if result.get("computed"):
        lines += _section("computed by", [Text(shown(result["computed"]))])
    if run.diagnosis:
        lines += _section("diagnosis", [Text(sentence(finding)) for finding in run.diagnosis])

    lines += _section("files", table(_files(run.folder), console, _INDENT))
    lines += _section("to go on", [text for line in _going_on(run, status) for text in _with_warning(line)])
    if all(map(os.path.isfile, (run.folder / "model.json", run.folder / "checkpoints/last.pt"))):
        lines += _section("to use it", [text for line in _using(run) for text in _with_warning(line)])
    lines += _section("to look at it", [Text(f"train board {shell.quote(str(run.folder))}")])
    print_lines(lines, console)
    return 0


def _tested(result: Mapping[str, Any]) -> str | None:
    """Which weights `test/...` is of."""
    which, step = result.get("tested"), number(result.get("best_step"))
    if which not in ("best", "last") or step is None:
        return None
    at = "" if which == "best" else f", step {cell(result.get('steps'))}"
    return f"test/... is of the {which} weights{at}; the best are those of step {cell(step)}"


def _section(title: str, lines: list[Text]) -> list[Text]:
    return [Text(), Text(title, style="bold"), *(Text(" " * _INDENT).append_text(line) for line in lines)]


def _with_warning(command: str) -> list[Text]:
    """A command that stands in a folder which may be a stranger's; who copies it must know what it does."""
    lines = [Text(command)]
    if "trust=" in command:
        lines.append(Text("(trust= runs the code of these packages: leave it out unless they are your own)", "yellow"))
    return lines


def typed(run: Run) -> str:
    """The words that the run was started with, as a shell takes them."""
    try:
        words = foreign.read_yaml(foreign.text(run.folder / "overrides.yaml"))
    except (OSError, ValueError, YAMLError):
        return ""
    return " ".join(shell.quote(shown(word)) for word in words) if isinstance(words, list) else ""


def _going_on(run: Run, status: str) -> list[str]:
    try:
        is_saved = (run.folder / "checkpoints/last.pt").exists()
    except OSError as error:
        return [f"its checkpoints can't be read: {error.strerror}"]
    if not is_saved:
        return ["nothing was saved: type the command anew, with another name="]
    if status == "running":
        return ["it is still going"]
    words = ["train", resume_word(run.folder)]
    if trusted := _trusted(run):
        words.append(trusted)
    if status == "finished":
        patience = number(run.config.get("early_stopping.patience"))
        if str(run.result.get("ended_by")).startswith("early_stopping.patience=") and patience is not None:
            return [" ".join([*words, f"early_stopping.patience={2 * patience}"])]
        if str(run.result.get("ended_by")).startswith("max_time="):
            return [" ".join([*words, "max_time=null"])]
        # Whichever of the two comes first ends a run.
        limits = {key: n for key in ("max_epochs", "max_steps") if (n := number(run.config.get(key))) is not None}
        limits = limits or {"max_steps": number(run.result.get("steps")) or 1}
        words += [f"{key}={2 * n}" for key, n in limits.items()]
    line = " ".join(words)
    return [line, "(it would stop again: its loss was not finite)"] if status == "stopped" else [line]


def _using(run: Run) -> list[str]:
    """What can be done with the model; own classes need trust= typed again."""
    words = shell.quote(str(run.folder))
    trusted = _trusted(run)
    end = f" {trusted}" if trusted else ""
    average = [f"train evaluate {words} checkpoint=average{end}"] if "test/average/loss" in run.result else []
    return [
        f"train evaluate {words}{end}",
        *average,
        f"train predict {words} FILE...{end}",
        f"train export {words}{end}",
        f"train pack {words}{end}",
        f"python: trainer.load({str(run.folder)!r})",
    ]


def _trusted(run: Run) -> str:
    """`trust=[mynet]` as the run had it, for a shell; empty where it trusted nobody."""
    trusted = run.config.get("trust") or []  # taken from the command line alone
    # A config that somebody sent must not talk its reader into trust=[os].
    if isinstance(trusted, list) and trusted and not any(is_nobodys(str(name).split(".")[0]) for name in trusted):
        return shell.quote(f"trust={shown(trusted)}")
    return ""


def sentence(finding: Any) -> str:
    """A finding of a diagnosis, in words."""
    if isinstance(finding, Mapping):
        if {"rule", "step", "layer", "meaning", "advice"} <= finding.keys():
            where = f"{finding['rule']} in {finding['layer']}" if finding["layer"] else finding["rule"]
            follows = finding.get("follows")
            what = f"It may follow from what stands first: {follows}." if follows else finding["advice"]
            return f"step {finding['step']}, {where}: {finding['meaning']}. {what}"
        return " ".join(f"{shown(key)}={cell(value)}" for key, value in finding.items())
    return shown(finding)


def _files(folder: Path) -> list[Column]:
    """What lies in a run's folder, and how large it is; links to a file stand beside it."""
    files: dict[tuple[int, int], tuple[int, list[str]]] = {}
    for path in sorted([*folder.glob("*"), *folder.glob("checkpoints/*")]):
        with contextlib.suppress(OSError):  # a run that goes on may have taken it away
            about = path.stat()
            if stat.S_ISREG(about.st_mode):
                _, names = files.setdefault((about.st_dev, about.st_ino), (about.st_size, []))
                names.append(path.relative_to(folder).as_posix())
    rows = [(max(names, key=len), size, names) for size, names in files.values()]  # step_<n>.pt rather than best.pt
    return [
        Column("", [name for name, _, _ in rows]),
        Column("", [_size(size) for _, size, _ in rows], is_number=True),
        Column("", [", ".join(Path(other).name for other in names if other != name) for name, _, names in rows]),
    ]


def _size(count: int) -> str:
    """`345 B`, `12.3 kB`, `1.2 MB`."""
    if count < 1000:
        return f"{count} B"
    size, units = count / 1000, ["kB", "MB", "GB", "TB"]
    while size >= 999.95 and len(units) > 1:
        size, units = size / 1000, units[1:]
    return f"{size:.1f} {units[0]}"
