"""The cost of a step: `train`, the loop of a tutorial, other people's trainers."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import peers
from processes import Kept, asked, seconds_per_step
from rounds import Contest, Row
from works import WORKS, Work

WARM_UP = 50  # steps that do not count
OFF = ("monitor=off", "eval_every=1000000")  # what is left is a line of `metrics.jsonl` every 50 steps
# What may be typed beside the work; contestant to its words and what the table calls it.
WAYS: dict[str, tuple[tuple[str, ...], str]] = {
    "logged": ((), "logged at defaults"),
    "off": (OFF, "logging off"),
    "tensors": (("model.gradient=tensors",), "logged at defaults, model.gradient=tensors"),
    "compiled": (("compile=true",), "logged at defaults, compile=true"),
    "every step": (("monitor.every=1",), "statistics of every parameter every step"),
}


def contests(is_short: bool) -> Iterator[Contest]:
    others = {} if is_short else peers.installed()
    yield contest("two_layer", 1, {"logged": 0.75, "off": None, "tensors": 0.5, "every step": 1.15}, others, is_short)
    yield contest("digits", 1, {"logged": 0.35, "off": None}, others, is_short)
    yield contest("lenet", 1, {"logged": 0.8, "off": None, "compiled": 0.55, "every step": 0.85}, others, is_short)
    if not is_short:
        yield contest("lenet", 2, {"logged": 0.65, "off": None}, others, is_short)
    for process in others.values():
        process.close()


def contest(
    name: str, threads: int, goals: Mapping[str, float | None], others: Mapping[str, Kept], is_short: bool
) -> Contest:
    """`train` in several ways, each against the loop of a tutorial that logs nothing."""
    work = WORKS[name].shorter() if is_short else WORKS[name]
    if is_short:  # what has no goal is left out, and what takes long to begin
        goals = {way: goal for way, goal in goals.items() if goal is not None and way != "compiled"}
    contestants: dict[str, Callable[[], float]] = {
        way: partial(seconds_per_step, (*work.words, *WAYS[way][0]), work.num_steps, WARM_UP, threads) for way in goals
    }
    contestants["bare"] = partial(bare, work, threads)
    contestants |= {peer: partial(of_peer, process, work, threads) for peer, process in others.items()}
    title = f"{work.title}, {threads} thread{'s' if threads > 1 else ''}"
    rows = [Row(f"{title}: {WAYS[way][1]}", way, "bare", goal, with_peers=True) for way, goal in goals.items()]
    if "off" in goals:
        rows.append(Row(f"{title}: logged at defaults / logging off", "logged", "off"))
    return Contest(rows, contestants, tuple(others))


def bare(work: Work, threads: int) -> float:
    _, answer = asked("bare.py", {"work": work.name, "steps": work.num_steps}, threads)
    seconds: float = answer["seconds"]
    return seconds


def of_peer(process: Kept, work: Work, threads: int) -> float:
    # Fewer steps: there are many of them, and what each costs is seen in these as well.
    seconds: float = process.ask({"work": work.name, "steps": work.num_steps // 5, "threads": threads})
    return seconds
