"""Runs a set of ill and healthy runs and prints what was said of each: `python tests/diagnosis/confusion.py second`."""

import os

os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="passive", OPENBLAS_NUM_THREADS="1")

import contextlib
import io
import json
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "src")]
os.environ["PYTHONPATH"] = os.pathsep.join(sys.path[:2])

from sets import SETS, Case  # noqa: E402

from trainer.command.main import run_command  # noqa: E402
from trainer.errors import RunStopped  # noqa: E402

QUIET = ("monitor=scalars", "monitor.events=false", "checkpoint.every_minutes=null")


def findings(case: Case, folder: Path, *more: str) -> list[dict[str, Any]]:
    """What the diagnosis says of a run, the first thing first."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(RunStopped):
        run_command([*case.words, *QUIET, *more, f"run_dir={folder}"])
    found: list[dict[str, Any]] = json.loads((folder / "result.json").read_text())["diagnosis"]
    return found


def verdict(case: Case, found: list[dict[str, Any]]) -> str:
    rules = [finding["rule"] for finding in found]
    if not case.causes:
        return "alarm" if rules else "right"
    if not rules:
        return "silent"
    return "right" if rules[0] in case.causes else "partly" if set(rules) & set(case.causes) else "wrong"


def main(name: str, only: str = "") -> None:
    counts: Counter[tuple[bool, str]] = Counter()
    with tempfile.TemporaryDirectory() as root:
        os.chdir(root)
        for number, case in enumerate(case for case in SETS[name] if only in case.name):
            found = findings(case, Path(root, str(number)))
            said = verdict(case, found)
            counts[bool(case.causes), said] += 1
            cause, rules = case.causes[0] if case.causes else "healthy", ", ".join(f["rule"] for f in found)
            print(f"{'' if said == 'right' else said:7} {case.name:30} {cause:38} {rules or 'nothing'}", flush=True)
            if only:
                result = json.loads(Path(root, str(number), "result.json").read_text())
                print(json.dumps(result, indent=1))
                print(Path(root, str(number), "metrics.jsonl").read_text())
    for is_ill in (True, False):
        of = {said: count for (ill, said), count in counts.items() if ill == is_ill}
        print(f"{'ill' if is_ill else 'healthy'}: {sum(of.values())} runs, {of}")


if __name__ == "__main__":
    main(*sys.argv[1:])
