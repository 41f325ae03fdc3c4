"""How fast `train` is: a table of ratios, each measured side by side in alternating rounds.

    python tests/benchmarks/table.py                  all of it, on a machine with nothing else to do
    python tests/benchmarks/table.py --short          some of it, with slack; about two minutes
    python tests/benchmarks/table.py --only lenet     rows with that word
    python tests/benchmarks/table.py --json FILE      every figure of every round as well

`train` is the command, in a new process each time, with all on that is on by default, unless the row says else. The
other is mostly the loop of a tutorial, which logs nothing. A figure is the median of the rounds; a ratio is that of the
rounds' ratios, with the smallest and the largest. Of whole runs the least figures count. Other people's trainers are
measured where they are installed (pip install -e ".[bench]"): their column is their ratio to the tutorial's loop, bold
where it is ahead of ours.
Exits with 1 where a goal is missed.
"""

import argparse
import json
import signal
import statistics
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import frozen
import growth
import peers
import pictures
import rounds
import startup
import steps
import sweeps
import whole
from rounds import Contest, Row, Times

PACKAGES = ("torch", "numpy", "hydra-core", *peers.PACKAGES)
SLACK = 1.25  # of the short table, for machines that have other work to do
UNITS = (("s", 1.0), ("ms", 1e-3), ("us", 1e-6))


def all_contests(is_short: bool, only: str, mnist: Path | None) -> Iterator[Contest]:
    of_whole = partial(whole.contests, mnist=mnist)
    others = [room.contests for room in (frozen, pictures, sweeps, growth)]
    for contests in (steps.contests, startup.contests, of_whole, *others):
        for contest in contests(is_short):
            some = contest.of(only)
            if some.rows:
                yield some


def write(path: Path | None, about: dict[str, Any], rows: list[dict[str, Any]], problems: list[str]) -> None:
    """Again after every contest: whoever has to stop keeps what was measured by then."""
    if path is not None:
        path.write_text(json.dumps({**about, "rows": rows, "problems": problems}, indent=1) + "\n")


def shown(figure: float, unit: str) -> str:
    if unit != "s":
        return f"{figure:.0f} {unit}"
    name, size = next((pair for pair in UNITS if figure >= pair[1]), UNITS[-1])
    return f"{figure / size:.3g} {name}"


def cells(row: Row, contest: Contest, times: Times, slack: float) -> list[str]:
    """Of a line of the table."""
    chosen = min if row.is_least else statistics.median
    figures = [shown(chosen(times[name]), contest.unit) if times.get(name) else "-" for name in (row.ours, row.base)]
    goal = "" if row.goal is None else f"{'>=' if row.is_gain else '<='} {row.goal:g}"
    is_met = row.is_met(times, slack) if contest.contestants else None
    verdict = {None: "", True: "yes", False: "**no**"}[is_met]
    return [
        row.work,
        *figures,
        rounds.spread(row.ratio(times), row.ratios(times)),
        goal,
        verdict,
        *of_peers(row, times),
    ]


def of_peers(row: Row, times: Times) -> list[str]:
    """Their ratios to bare; one that is ahead of ours is marked."""
    ours = row.ratio(times) or 0.0
    theirs = [row.ratio(times, name) if row.with_peers else None for name in peers.PEERS]
    return ["-" if ratio is None else f"{ratio:.2f}" if ratio > ours else f"**{ratio:.2f}**" for ratio in theirs]


def record(row: Row, contest: Contest, times: Times, slack: float) -> dict[str, Any]:
    """The same with every figure, for a file."""
    return {
        "work": row.work,
        "goal": row.goal,
        "is_gain": row.is_gain,
        "is_met": row.is_met(times, slack) if contest.contestants else None,
        "unit": contest.unit,
        "ratios": row.ratios(times),
        "ours": times.get(row.ours),
        "base": times.get(row.base),
        "peers": {name: row.ratios(times, name) for name in peers.PEERS if row.with_peers and name in times},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="two minutes, without other people's trainers")
    parser.add_argument("--only", default="", metavar="WORD", help="rows with this word in them")
    parser.add_argument("--rounds", type=int, help="default: 5; 3 of the short table")
    parser.add_argument("--json", type=Path, metavar="FILE", help="writes all figures there")
    parser.add_argument("--mnist", type=Path, metavar="DIR", help="with the four files of MNIST: whole runs on it, too")
    arguments = parser.parse_args()
    num_rounds, slack = arguments.rounds or (3 if arguments.short else 5), SLACK if arguments.short else 1.0

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the busy program ends with it

    start = time.perf_counter()
    versions = rounds.versions(PACKAGES)
    print(f"{rounds.machine()}; {', '.join(f'{name} {number}' for name, number in versions.items())}")
    with_slack = f"; goals with a slack of {slack}" if slack > 1 else ""
    print(f"{num_rounds} rounds: median ratio (smallest..largest){with_slack}\n")
    head = ["work", "train", "other", "ratio", "goal", "met", *peers.PEERS]
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}", flush=True)

    about = {"machine": rounds.machine(), "versions": versions, "rounds": num_rounds, "slack": slack}
    written: list[dict[str, Any]] = []
    problems: list[str] = []
    for contest in all_contests(arguments.short, arguments.only, arguments.mnist):
        title = contest.rows[0].work

        def failed(name: str, error: Exception, title: str = title) -> None:
            problems.append(f"{title}: {name}: {error}")

        times = rounds.alternating(contest.contestants, num_rounds, failed)
        for row in contest.rows:
            print(f"| {' | '.join(cells(row, contest, times, slack))} |", flush=True)
            written.append(record(row, contest, times, slack))
        write(arguments.json, about, written, problems)
    print(f"\n{time.perf_counter() - start:.0f} s", *problems, sep="\n")
    return 1 if any(row["is_met"] is False for row in written) else 0


if __name__ == "__main__":
    sys.exit(main())
