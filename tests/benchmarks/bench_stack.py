"""32 runs (8 learning rates x 4 seeds) one after another / as a stack. Run: python tests/benchmarks/bench_stack.py

Training alone: nothing is logged, validated or saved. One thread.
"""

import itertools
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext

import rounds
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from trainer import cli
from trainer.build import Built
from trainer.compose import composed, hydra_at
from trainer.data.batches import ResidentBatches
from trainer.draws import random_state
from trainer.loop import Plan, Wish, fit
from trainer.stack.fit import fit_stack
from trainer.stack.member import Member

NUM_RATES, NUM_SEEDS = 8, 4
WORK = {
    "digits 64-32-10, batch 64 (at least 12)": ("model=two_layer", "model.hidden_features=32", "max_steps=400"),
    "the same, Adam": ("model=two_layer", "model.hidden_features=32", "optimizer=adam", "max_steps=400"),
    "two-layer 64-1000-100-10, full batch (at least 2.8)": (
        "model=two_layer",
        "data=random_regression",
        "loss=sum_squared_error",
        "batch_size=full",
        "max_steps=30",
    ),
    "LeNet, batch 64": ("model=lenet", "max_steps=4"),
}
SMALLEST_RATE = {"sgd": 1e-6, "adam": 1e-5}


class Nobody:
    """Watches nothing."""

    def before_forward(self, *_: object) -> None: ...

    after_update = before_update = skipped = save = tick = before_forward

    def evaluate(self, step: int) -> tuple[float, bool] | None: ...

    def evaluated(self, step: int, numbers: dict[str, float]) -> tuple[float, bool]:
        raise AssertionError("nothing is validated here")


def never() -> Wish:
    return Wish()


def built(words: tuple[str, ...]) -> list[Callable[[], Built]]:
    """Each run as it is before its first step."""
    optimizer = next((word.partition("=")[2] for word in words if word.startswith("optimizer=")), "sgd")
    rates = [SMALLEST_RATE[optimizer] * 2**i for i in range(NUM_RATES)]
    with hydra_at(cli.config_folders([])) as search:
        requests = [
            composed([f"optimizer={optimizer}", *words, f"optimizer.lr={lr}", f"seed={seed}"], search, "train")
            for lr, seed in itertools.product(rates, range(NUM_SEEDS))
        ]
    return [lambda request=request: Built(request, ()) for request in requests]


def plan_of(run: Built) -> Plan:
    size = run.samples_per_step
    return Plan(run.max_steps, len(run.splits.train), size, size, None, None, None, None, check_every=1)


def seconds_one_by_one(makes: list[Callable[[], Built]]) -> float:
    spent = 0.0
    for make in makes:
        run = make()
        start = time.perf_counter()
        batches = run.splits.train.training(run.samples_per_step, run.config["seed"], 1)
        fit(run.state, run.loss_fn, batches, plan_of(run), Nobody(), nullcontext, never)
        spent += time.perf_counter() - start
    return spent


def seconds_stacked(makes: list[Callable[[], Built]]) -> float:
    runs, members = [], []
    for make in makes:
        run = make()
        random = random_state(run.device)
        runs.append(run)
        members.append(Member(run.state, run.loss_fn, Nobody(), run.config["seed"], random))
    splits, sample = runs[0].splits, runs[0].sample.inputs
    start = time.perf_counter()
    fit_stack(members, splits.train, splits.val, sample, plan_of(runs[0]), never)
    spent = time.perf_counter() - start
    assert all(member.error is None and member.state.step == runs[0].max_steps for member in members)
    return spent


def seconds_bare(makes: list[Callable[[], Built]]) -> float:
    """The loop of a tutorial: torch.optim, DataLoader."""
    spent = 0.0
    for make in makes:
        run = make()
        split, size = run.splits.train, run.samples_per_step
        assert isinstance(split, ResidentBatches)
        kind = getattr(torch.optim, type(run.state.optimizer).__name__)
        model = run.model
        loader = DataLoader(TensorDataset(split.inputs, split.targets), size, shuffle=True)
        for parameter in model.parameters():  # of their own, as they are without a store
            parameter.data, parameter.grad = parameter.data.clone(), None
        start = time.perf_counter()
        optimizer = kind(model.parameters(), lr=run.config["optimizer"]["lr"])
        step = 0
        while step < run.max_steps:
            for inputs, targets in loader:
                optimizer.zero_grad()
                bare_loss(run, model(inputs), targets).backward()
                optimizer.step()
                step += 1
                if step == run.max_steps:
                    break
        spent += time.perf_counter() - start
    return spent


def bare_loss(run: Built, outputs: Tensor, targets: Tensor) -> Tensor:
    if run.data.num_classes is None:
        return (outputs - targets).square().sum()
    return nn.functional.cross_entropy(outputs, targets)


def main() -> None:
    torch.set_num_threads(1)
    num_rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    print(f"{NUM_RATES * NUM_SEEDS} runs one after another / as a stack; {rounds.machine()}")
    for name, words in WORK.items():
        makes = built(words)
        for what, other in (("", seconds_one_by_one), (", a bare loop", seconds_bare)):
            seconds_stacked(makes)
            times = rounds.ratios(lambda f=other, m=makes: f(m), lambda m=makes: seconds_stacked(m), num_rounds)
            print(rounds.line(name.partition(" (")[0] + what if what else name, *times), flush=True)


if __name__ == "__main__":
    main()
