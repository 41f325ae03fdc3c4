"""How long `train runs` takes, the start of Python included. Run: python tests/benchmarks/bench_runs.py"""

import contextlib
import io
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import rounds

from trainer import cli

COUNTS = (1, 500, 1000)


def make_runs(root: Path, count: int) -> None:
    """Copies of one real run, each with a learning rate, a seed and results of its own; no checkpoints, no events."""
    sys.argv = ["train"]
    with contextlib.redirect_stdout(io.StringIO()):
        assert cli.run_command(["model=two_layer", "max_steps=1000", "run_dir=real"]) == 0
    config, result = Path("real/config.yaml").read_text(), Path("real/result.json").read_text()
    for i in range(count):
        folder = root / f"group{i % 10}" / f"run{i:04d}"
        folder.mkdir(parents=True)
        changed = config.replace("lr: 0.001\n", f"lr: {0.001 * (1 + i % 25)}\n").replace("seed: 0\n", f"seed: {i}\n")
        (folder / "config.yaml").write_text(changed)
        (folder / "result.json").write_text(result.replace('"val/loss": 0.', f'"val/loss": {i}.'))
        shutil.copy("real/metrics.jsonl", folder)


def seconds(root: Path) -> float:
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "trainer", "runs", str(root)], stdout=subprocess.PIPE, check=True)
    spent = time.perf_counter() - start
    assert len(done.stdout.splitlines()) == 1 + int(root.name)
    return spent


def main() -> None:
    num_rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    print(f"train runs; {rounds.machine()}")
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for count in COUNTS:
            make_runs(Path(str(count)), count)
            shutil.rmtree("real")
        spent = {count: [seconds(Path(str(count))) for _ in range(num_rounds)] for count in COUNTS}
        for count, times in spent.items():
            limit = " (at most 1 s)" if count == 500 else ""
            print(f"{f'{count:,} runs{limit}':<58} {statistics.median(times):5.2f} s  (largest {max(times):.2f})")
        print(rounds.line("1,000 runs / 500 runs (at most 3)", spent[1000], spent[500]))


if __name__ == "__main__":
    main()
