"""The jobs of `train help jobs`, each beside a plain loop with a `DataLoader` that does the same: a table of ratios.

    python tests/benchmarks/jobs.py [--rounds 5] [--only vae] [--steps 300]

Both train the same network for as many steps, from the first to the last, and validate as often, in turns in this
process; `train` logs nothing. Times are of the CPU, which others on the machine disturb less. A ratio is that of the
least ones; in brackets the smallest and largest of a round. Large networks take a tenth of the steps.
Items that draw at random: the loop's do the same, seeded by (seed, epoch, index), which makes a run resume exactly with
any number of workers. A second row is a loop whose items draw on and on: it has no goal, for it does less.
Exits with 1 where one is above 1.05. Jobs whose library is missing are left out.
"""

import argparse
import contextlib
import copy
import io
import os
import random
import re
import runpy
import shlex
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from plain import parts_of, request_of
from rounds import ratios
from trainer.cadence import evaluation_period
from trainer.command.help import MANUAL
from trainer.errors import UserError
from trainer.run import train as room
from trainer.run.run import run

GOAL = 1.05
LARGE = ("timm", "torchvision")  # a step of theirs takes 0.3 s
PAGE = (MANUAL / "jobs.md").read_text()
FILES = dict(re.findall(r"`(\w+)\.py`:\n\n```python\n(.*?)```", PAGE, re.DOTALL))
# Data sets of one's own that are read item by item.
OWN = """
import random

import numpy as np
import torch


class Rows(torch.utils.data.Dataset):
    def __init__(self, num_items, draw):
        generator = torch.Generator().manual_seed(num_items)
        self.inputs, self.draw = torch.randn(num_items, 32, generator=generator), draw
        self.labels = (self.inputs[:, 0] > 0).long().tolist()

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        noise = 0.0
        if self.draw == "torch":
            noise = 0.1 * torch.randn(32)
        elif self.draw == "numpy":
            noise = torch.from_numpy(0.1 * np.random.randn(32).astype("float32"))
        elif self.draw == "python":
            noise = random.gauss(0, 0.1)
        return self.inputs[i] + noise, self.labels[i]


def data(draw="nothing"):
    return tuple(Rows(num_items, draw) for num_items in (2000, 200, 200))
"""
ITEMS = {
    f"items that draw from {draw}": f"data._target_=rows.data data.draw={draw} data.num_classes=2 trust=[rows] "
    "model=two_layer"
    for draw in ("nothing", "torch", "numpy", "python")
}
# The quickest way to seed each generator: `torch.manual_seed` looks for GPUs, too, and takes 70 us.
SEED: dict[str, Callable[[int], Any]] = {
    "items that draw from torch": torch.default_generator.manual_seed,
    "items that draw from numpy": np.random.seed,
    "items that draw from python": random.seed,
}


def commands() -> dict[str, list[str]]:
    """Name to the words of each job, without its length."""
    shell = "".join(re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)).replace("\\\n", " ")
    found = {}
    for line in shell.splitlines():
        if line.startswith("train "):
            words, _, needs = line.partition("#")
            files = re.findall(r"(\w+)\.py", needs)
            name = files[0] if files else " ".join(re.findall(r"model(?:\.name)?=(\w+)", words))
            found[name] = [word for word in shlex.split(words)[1:] if not word.startswith("max_")]
    return {**found, **{name: words.split() for name, words in ITEMS.items()}}


def loss_of(name: str, parts: Any) -> Callable[[nn.Module, Tensor, Any], Tensor]:
    """What the plain loop differentiates, as its author would write it."""
    module = sys.modules.get(name)
    if name == "vae":
        return lambda model, x, _: sum(module.elbo(model(x), x).values())
    if name == "coder":
        return lambda model, x, _: module.difference(model(x), x)
    if name == "towers":
        return lambda model, x, _: module.contrast(model(x))
    if name == "decay":
        return lambda model, x, _: sum(module.equation(model(x.requires_grad_()), x, model).values())
    if name == "order":
        return lambda model, x, y: model(x, labels=y).loss
    if name in ("masks", "labels"):
        return lambda model, x, y: F.binary_cross_entropy_with_logits(model(x), y)
    if name in ("forecast", "flats"):
        return lambda model, x, y: F.mse_loss(model(x), y)
    if name == "words":
        return lambda model, x, y: F.cross_entropy(model(x).flatten(0, 1), y.flatten(), ignore_index=0)
    return lambda model, x, y: F.cross_entropy(getattr(out := model(x), "logits", out), y)


class Pairs(Dataset[Any]):
    """Samples in memory as a data set, as a tutorial has them."""

    def __init__(self, split: Any) -> None:
        self.inputs, self.targets = split.inputs, split.targets

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, i: int) -> Any:
        return self.inputs[i], self.targets[i]


class Seeded(Dataset[Any]):
    """What an item draws is a function of the epoch and its index."""

    def __init__(self, inner: Dataset[Any], seed: Callable[[int], Any]) -> None:
        self.inner, self.seed, self.epoch = inner, seed, 0

    def __len__(self) -> int:
        return len(self.inner)  # type: ignore[arg-type]

    def __getitem__(self, i: int) -> Any:
        self.seed(self.epoch << 20 | i)
        return self.inner[i]


def plain(name: str, words: list[str], num_steps: int, seed: Callable[[int], Any] | None = None) -> Callable[[], float]:
    """A loop that trains and validates; gives its seconds. `seed`: of each item."""
    parts = parts_of(*words, "monitor=off", "fast=false")
    model, loss_of_batch = parts.model, loss_of(name, parts)
    for parameter in model.parameters():
        parameter.data, parameter.grad = parameter.data.clone(), None
    splits = [getattr(parts.splits, split) for split in ("train", "val")]
    sets = [split.items.dataset if hasattr(split, "items") else Pairs(split) for split in splits]
    if seed is not None:
        sets = [Seeded(inner, seed) for inner in sets]
    batch_size, every = parts.length.batch_size, evaluation_period(None, parts.length.steps_per_epoch)
    start = copy.deepcopy(model.state_dict())
    options = parts.settings.group("optimizer")

    def loop() -> float:
        model.load_state_dict(start)
        optimizer = torch.optim.Adam(model.parameters(), lr=options["lr"])
        train, val = DataLoader(sets[0], batch_size, shuffle=True), DataLoader(sets[1], 512)
        step, since = 0, time.process_time()
        while True:
            for inputs, targets in train:
                optimizer.zero_grad()
                loss_of_batch(model, inputs, targets).backward()
                optimizer.step()
                step += 1
                if step % every == 0 or step == num_steps:
                    validate(model, val, name, loss_of_batch)
                if step == num_steps:
                    return time.process_time() - since
            if seed is not None:
                sets[0].epoch += 1

    return loop


def validate(model: nn.Module, batches: Any, name: str, loss_of_batch: Callable[..., Tensor]) -> float:
    model.eval()
    with torch.set_grad_enabled(name == "decay"):
        total = sum(loss_of_batch(model, x, y).item() * len(x) for x, y in batches)
    model.train()
    return total


def ours(words: list[str], num_steps: int) -> Callable[[], float]:
    """The same by `train`, without what is before its first step and after its last."""
    seconds = []
    fit = room.fit

    def timed(*arguments: Any) -> bool:
        since = time.process_time()
        found = fit(*arguments)
        seconds.append(time.process_time() - since)
        return found

    def once() -> float:
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            room.fit = timed
            try:
                run(request_of(*words, "monitor=off", f"max_steps={num_steps}", f"run_dir={folder}/run", "test=last"))
            finally:
                room.fit = fit
        return seconds.pop()

    return once


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="")
    parser.add_argument("--steps", type=int, default=300)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    missed = 0
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        sys.path.insert(0, folder)
        for name, text in {**FILES, "rows": OWN}.items():
            Path(f"{name}.py").write_text(text)
        runpy.run_path("flats.py")
        for name, words in commands().items():
            if asked.only in name:
                words, num_steps = [*words, "threads=1"], asked.steps // (10 if name.startswith(LARGE) else 1)
                missed += measured(name, words, num_steps, asked.rounds, SEED.get(name))
                if name in SEED:
                    measured(f"  beside a loop that seeds none [{name.split()[-1]}]", words, num_steps, asked.rounds)
    return int(missed > 0)


def measured(
    name: str, words: list[str], num_steps: int, num_rounds: int, seed: Callable[[int], Any] | None = None
) -> bool:
    """Prints a row; whether its goal is missed."""
    try:
        mine, other = ratios(ours(words, num_steps), plain(name, words, num_steps, seed), num_rounds)
    except UserError as error:  # a library that is missing
        print(f"{name:<42} {error}"[:120], flush=True)
        return False
    of_rounds = sorted(a / b for a, b in zip(mine, other, strict=True))
    ratio = min(mine) / min(other)
    print(f"{name:<42} {ratio:.2f} ({of_rounds[0]:.2f}..{of_rounds[-1]:.2f})", flush=True)
    return ratio > GOAL


if __name__ == "__main__":
    sys.exit(main())
