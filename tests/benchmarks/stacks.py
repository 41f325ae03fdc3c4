"""32 runs, 8 learning rates by 4 seeds, trained in one of several ways; training alone, nothing is logged or saved.

A process that stays: `{"work": "digits", "how": "stack", "steps": 300}` is answered with seconds, see `WAYS`.
"""

import itertools
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import bare
from processes import answer_questions
from trainer.command.folders import config_folders
from trainer.command.reading import hydra_at
from trainer.config.compose import Alike
from trainer.config.settings import settings_of
from trainer.draws import random_state
from trainer.fast.choose import choose
from trainer.loop import Plan, Wish, fit
from trainer.run.parts import build
from trainer.run.prepare import surroundings
from trainer.run.training import Training
from trainer.signals import Signals
from trainer.stack.fit import fit_stack
from trainer.stack.member import Member
from works import WORKS, Work

NUM_RATES, NUM_SEEDS = 8, 4


class Nobody:
    """Watches nothing."""

    def before_forward(self, *_: object) -> None: ...

    after_update = before_update = skipped = save = tick = before_forward

    def evaluate(self, step: int) -> tuple[float, bool] | None: ...

    def evaluated(self, step: int, numbers: dict[str, float]) -> tuple[float, bool]:
        raise AssertionError("nothing is validated here")


def never() -> Wish:
    return Wish()


def learning_rates(work: Work) -> list[float]:
    """Up to that of the work: with larger ones it might not last."""
    return [work.lr / 2**i for i in range(NUM_RATES)]


def built(work: Work, num_steps: int, words: list[str]) -> list[Training]:
    """Each run as it is before its first step."""
    with hydra_at(config_folders([])):
        typed = [word for word in work.words if not word.startswith("optimizer.lr=")]
        requests = [
            Alike("train").composed([*typed, *words, f"max_steps={num_steps}", f"optimizer.lr={lr}", f"seed={seed}"])
            for lr, seed in itertools.product(learning_rates(work), range(NUM_SEEDS))
        ]
    return [Training(build(settings_of(request)), Path("nowhere"), Signals()) for request in requests]


def plan_of(run: Training) -> Plan:
    return replace(run.plan(), log_every=None, show_every=None, draw_every=None, eval_every=None, save_every=None)


def wait_for(run: Training) -> None:
    if run.parts.device.type == "cuda":
        torch.cuda.synchronize()


def stack(work: Work, num_steps: int, words: list[str]) -> float:
    """All at once, as one program."""
    runs, members = built(work, num_steps, words), []
    for run in runs:
        parts, draws = run.parts, random_state(run.parts.device)
        members.append(Member(parts.state, parts.model, parts.loss_fn, Nobody(), parts.settings.order_seed, draws))
    first, parts = runs[0], runs[0].parts
    wait_for(first)
    start = time.perf_counter()
    with surroundings(first, len(runs)):
        train, val, sample = parts.splits.train, parts.splits.val, parts.sample.inputs
        fit_stack(members, train, val, sample, plan_of(first), parts.length.batch_size, never)
    wait_for(first)
    spent = time.perf_counter() - start
    if any(member.error is not None or member.state.step != num_steps for member in members):
        raise ValueError("a run did not come to its end")
    return spent


def loop(work: Work, num_steps: int, words: list[str]) -> float:
    """One after another by `trainer.loop`."""
    return sum(by_loop(run) for run in built(work, num_steps, words))


def one(work: Work, num_steps: int, words: list[str]) -> float:
    """One of them by `trainer.loop`."""
    return by_loop(built(work, num_steps, words)[0])


def by_loop(run: Training) -> float:
    batches = run.batches(run.parts.splits.train)
    wait_for(run)
    start = time.perf_counter()
    with surroundings(run):
        computation = choose(
            run.work(), None, is_fast=True, is_compiled=False, is_graphed=False, is_alone=True, note=print
        )
        fit(run.parts.state, computation.forward_backward, batches, plan_of(run), Nobody(), never)
    wait_for(run)
    return time.perf_counter() - start


def tutorial(work: Work, num_steps: int, words: list[str]) -> float:
    """One after another by the loop of a tutorial."""
    return sum(by_bare(bare.train(work, num_steps, lr)) for lr in learning_rates(work) for _ in range(NUM_SEEDS))


def resident(work: Work, num_steps: int, words: list[str]) -> float:
    """The same with an index into tensors for a DataLoader, and a fused optimizer."""
    return sum(
        by_bare(bare.train(work, num_steps, lr, bare.indexed, is_fused=True))
        for lr in learning_rates(work)
        for _ in range(NUM_SEEDS)
    )


def by_bare(times: list[float]) -> float:
    return times[-1] - times[0]


WAYS: dict[str, Callable[[Work, int, list[str]], float]] = {
    "stack": stack,
    "loop": loop,
    "one": one,
    "tutorial": tutorial,
    "resident": resident,
}


def answer(question: dict[str, Any]) -> float:
    return WAYS[question["how"]](WORKS[question["work"]], question["steps"], question.get("words", []))


if __name__ == "__main__":
    answer_questions(answer)
