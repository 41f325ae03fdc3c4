"""`train compare` of a sweep: its table again, why jobs failed, which key mattered, and a picture of it."""

import contextlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from rich.text import Text
from yaml import YAMLError

from trainer.config.request import Config, Request
from trainer.disk import foreign
from trainer.errors import UserError
from trainer.finished.read import Broken, read_config
from trainer.finished.table import open_console, print_lines
from trainer.sweep.picture import draw, is_drawable
from trainer.sweep.plan import Job
from trainer.sweep.processes import LOG
from trainer.sweep.results import Row, come_to_since, left_out, metric_of, print_csv, print_table
from trainer.system import shell

_OTHERS = ("name", "status", "reason")  # texts of a row that are no swept key


def sweep_folder(word: str) -> Path | None:
    """The folder of the sweep that was typed, itself or below `runs/`; None where there is none."""
    for folder in (Path(word), Path("runs", word)):
        if (folder / "sweep.yaml").is_file() or (folder / "results.json").is_file():
            return folder
    return None


def compare_sweep(folder: Path, metric: str | None, png: str | None, is_csv: bool = False) -> int:
    """Prints what the jobs of a sweep came to, and draws it where `png` names a file.

    Args:
        metric: ranks the jobs; None for what the sweep was told.
        is_csv: the settings alone, with all digits.

    Raises:
        UserError: no job has ended or none has the metric, a file can't be read, or the picture can't be drawn.
    """
    rows = read_rows(folder)
    tag = metric_of(rows, metric or told_metric(folder))
    if png is not None and not any(is_drawable(r.result.get(tag)) for r in rows):
        raise UserError(f"--png {png}: no job has {tag}. Type sweep.metric= with another.")
    if png is not None:
        draw(Path(png), folder.resolve().name, rows, tag)
    if is_csv:
        print_csv(rows, tag)
        return 0
    print_table(rows, tag)
    print_lines([Text(line) for line in left_out(folder, rows)], open_console())
    failed = [Text(f"  {r.job.name} {r.status}: {r.reason}") for r in rows if r.has_failed]
    if failed:
        print_lines([Text(), Text(f"failed, see {LOG} in the folder of each", style="bold"), *failed], open_console())
    if png is not None:
        print(f"drawn in {png}")
    return 0


def read_rows(folder: Path) -> list[Row]:
    """The rows of `results.json`. Foreign text: what is no number that can be drawn, and no word, is left out.

    Raises:
        UserError: it is missing, torn or none of ours.
    """
    path = folder / "results.json"
    try:
        records = json.loads(foreign.text(path, foreign.MAX_RESULTS_BYTES))
    except FileNotFoundError as error:
        how = f"train runs {shell.quote(str(folder))} shows those that go on."
        raise UserError(f"{folder}: none of its jobs has ended. {how}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: can't be read: {getattr(error, 'strerror', None) or error}.") from error
    is_ours = isinstance(records, list) and all(
        isinstance(record, dict) and all(isinstance(record.get(key), str) for key in _OTHERS) for record in records
    )
    if not is_ours or not records:
        raise UserError(f"{path}: holds no results of a sweep.")
    keys = dict.fromkeys(key for r in records for key, value in r.items() if isinstance(value, str))
    rows = []
    asked = Request(_asked_of_metrics(folder, [r["name"] for r in records]), {}, [])
    for r in records:
        swept = {key: r[key] if isinstance(r.get(key), str) else "-" for key in keys if key not in _OTHERS}
        now = r if (since := come_to_since(folder, r)) is None else {"reason": "", **since}
        numbers = {key: value for key, value in now.items() if key not in keys and is_drawable(value)}
        job = Job(r["name"], folder / r["name"], swept, asked)
        rows.append(Row(job, now["status"], now["reason"], numbers))
    return rows


def _asked_of_metrics(folder: Path, names: Sequence[str]) -> Config:
    """The keys of `metric`, dotted, of the first job whose config can be read: they are those of all."""
    for name in names:
        if os.path.isfile(folder / name / "config.yaml"):  # False, too, for what can be no name of a folder
            with contextlib.suppress(Broken):
                return {key: value for key, value in read_config(folder / name).items() if key.startswith("metric.")}
    return {}


def told_metric(folder: Path) -> str | None:
    """`sweep.metric` of the sweep, whether it was typed, in a recipe or in the environment."""
    try:
        text = foreign.text(folder / "sweep.yaml", foreign.MAX_RESULTS_BYTES)
        told = foreign.read_yaml(text.partition("\njobs:")[0])  # of jobs there may be thousands
        if isinstance(told.get("metric"), str):
            return str(told["metric"])
        # Of an older release, and of `train explain`, there is what was typed alone.
        words = [word.partition("=")[2] for word in told["command"] if word.startswith("sweep.metric=")]
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, YAMLError):
        return None
    return words[-1] if words and words[-1] != "null" and "${" not in words[-1] else None
