"""What a safe checkpoint costs: checksums, sync and read-back against torch.save alone; and its share of a run.

Run: python tests/benchmarks/bench_checkpoint.py
"""

import contextlib
import io
import json
import os
import shutil
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

import rounds
from trainer.command import main as cli
from trainer.disk import checkpoint

STATES = {"0.4 MB": 34_000, "100 MB": 8_700_000}  # parameters, with the two numbers that Adam keeps for each
REST = ("eval_every=1000000", "monitor=off", "max_steps=3000", "name=run")


def state(num_parameters: int) -> dict[str, Any]:
    model = {f"layer{i}.weight": torch.randn(num_parameters // 10) for i in range(10)}
    moments = {name: torch.randn(num_parameters) for name in ("exp_avg", "exp_avg_sq")}
    return {"model": model, "optimizer": {"state": {0: moments}}, "step": 1}


def seconds(save: Any, content: dict[str, Any], path: Path) -> float:
    os.sync()
    began = time.perf_counter()
    save(content, path)
    return time.perf_counter() - began


def run_seconds(*words: str) -> float:
    sys.argv = ["train"]
    with contextlib.redirect_stdout(io.StringIO()):
        assert cli.run_command([*words, *REST]) == 0
    spent: float = json.loads(Path("runs/run/result.json").read_text())["seconds"]
    shutil.rmtree("runs")
    return spent


def main() -> None:
    num_rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 9
    print(f"a checkpoint, ours / torch.save (at most 2.5); {rounds.machine()}")
    with tempfile.TemporaryDirectory(dir=".") as folder:
        os.chdir(folder)
        for name, num_parameters in STATES.items():
            content = state(num_parameters)
            path = Path("state.pt")
            ours, plain = rounds.ratios(
                partial(seconds, lambda c, p: checkpoint.write(p, c), content, path),
                partial(seconds, torch.save, content, path),
                num_rounds,
            )
            print(rounds.line(name, ours, plain), flush=True)
        for model in ("lenet", "two_layer"):
            on, off = rounds.ratios(
                partial(run_seconds, f"model={model}", "checkpoint.every_minutes=0.02"),
                partial(run_seconds, f"model={model}", "checkpoint.every_minutes=null"),
                num_rounds,
            )
            print(rounds.line(f"{model}, saved every 1.2 s / never", on, off), flush=True)
        os.chdir("..")


if __name__ == "__main__":
    main()
