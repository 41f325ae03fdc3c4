"""What each short cut of `trainer.fast` gains: a step without it, as a share of a step with all of them.

    python tests/benchmarks/short_cuts.py [--rounds 5] [--only lenet]

One is taken away at a time, in a new process, in rounds that alternate. Above 1: the short cut pays.
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

from processes import HERE, Failed, seconds_per_step
from works import WORKS

WARM_UP = 50


def without_twins() -> None:
    from trainer.fast import choose

    choose.twin = lambda model: model


def without_recording() -> None:
    from trainer.fast import choose

    def refuse(*_: object) -> None:
        raise choose.NotRecorded("taken away")

    choose.RecordedStep = refuse  # type: ignore[assignment, misc]


def without_updates() -> None:
    from trainer.fast import updates

    updates.standing_for = lambda name, options: None


def without_products() -> None:
    from trainer.fast import choose

    choose.fast_products = lambda *_: nullcontext()


def without_heap() -> None:
    from trainer.fast import heap

    heap.keep_freed_memory = lambda: None


SHORT_CUTS: dict[str, Callable[[], None]] = {
    "twins": without_twins,
    "recorded": without_recording,
    "updates": without_updates,
    "products": without_products,
    "heap": without_heap,
}
LARGE_BATCHES = replace(
    WORKS["lenet"],
    name="lenet_256",
    title="LeNet, batch 256",
    words=(*WORKS["lenet"].words, "batch_size=256"),
    batch_size=256,
    num_steps=150,
)
MEASURED = {work.name: work for work in (*WORKS.values(), LARGE_BATCHES)}


def main() -> int:
    if sys.argv[1:2] == ["--without"]:
        return typed_without(sys.argv[2], sys.argv[3:])
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=MEASURED)
    arguments = parser.parse_args()
    print("| work, 1 thread | " + " | ".join(f"without {name}" for name in SHORT_CUTS) + " |")
    print("|---|" + "---|" * len(SHORT_CUTS))
    for work in MEASURED.values() if arguments.only is None else (MEASURED[arguments.only],):
        measure = partial(seconds_per_step, (*work.words, "monitor=off"), work.num_steps, WARM_UP, 1)
        ratios: dict[str, list[float]] = {short_cut: [] for short_cut in SHORT_CUTS}
        for _ in range(arguments.rounds):
            whole = measure()
            for short_cut, found in ratios.items():
                command = [sys.executable, str(HERE / "short_cuts.py"), "--without", short_cut]
                try:
                    found.append(measure(command=command) / whole)
                except Failed as error:
                    print(f"{work.name} without {short_cut}: {error}", file=sys.stderr)
        cells = (f"{statistics.median(r):.2f} ({min(r):.2f}..{max(r):.2f})" if r else "failed" for r in ratios.values())
        print(f"| {work.title} | {' | '.join(cells)} |", flush=True)
    return 0


def typed_without(short_cut: str, words: list[str]) -> int:
    """The command, without one short cut."""
    from trainer.command.main import main as train

    SHORT_CUTS[short_cut]()
    sys.argv = ["train", *words]
    train()
    return 0


if __name__ == "__main__":
    sys.exit(main())
