"""What watching a run costs: default logging against none, per step. Run: python tests/benchmarks/bench_logging.py"""

import contextlib
import io
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import rounds

from trainer import cli

WORK = {
    "LeNet, batch 64 (at most 1.03)": ("model=lenet", "max_steps=1500"),
    "two-layer 64-1000-100-10, full batch (at most 1.05)": (
        "experiment=seed_two_layer",
        "optimizer.lr=1e-7",
        "max_steps=6000",
    ),
}
# Validation and checkpoints are no logging.
REST = ("eval_every=1000000", "checkpoint.every=null")


def seconds(*words: str) -> float:
    """Of training alone, as `result.json` has it."""
    sys.argv = ["train"]
    with contextlib.redirect_stdout(io.StringIO()):
        assert cli.run_command([*words, *REST, "name=run"]) == 0
    spent: float = json.loads(Path("runs/run/result.json").read_text())["seconds"]
    shutil.rmtree("runs")
    return spent


def main() -> None:
    num_rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    print(f"logging at defaults / off; {rounds.machine()}")
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for name, words in WORK.items():
            on, off = rounds.ratios(
                lambda words=words: seconds(*words, "monitor=full"),
                lambda words=words: seconds(*words, "monitor=off", "monitor.every=null"),
                num_rounds,
            )
            print(rounds.line(name, on, off), flush=True)


if __name__ == "__main__":
    main()
