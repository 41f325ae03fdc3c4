"""The cost of a step: `train`, the loop of a tutorial, other people's trainers."""

import subprocess
import sys
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
    yield as_typed("lenet", is_short)
    if not is_short:
        yield as_typed("two_layer", is_short)
        yield as_typed("lenet", is_short, is_busy=True)
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
        way: partial(seconds_per_step, (*work.words, *WAYS[way][0], f"threads={threads}"), work.num_steps, WARM_UP)
        for way in goals
    }
    contestants["bare"] = partial(bare, work, threads)
    contestants |= {peer: partial(of_peer, process, work, threads) for peer, process in others.items()}
    title = f"{work.title}, {threads} thread{'s' if threads > 1 else ''}"
    rows = [Row(f"{title}: {WAYS[way][1]}", way, "bare", goal, with_peers=True) for way, goal in goals.items()]
    if "off" in goals:
        rows.append(Row(f"{title}: logged at defaults / logging off", "logged", "off"))
    if "every step" in goals:
        contestants["watched"] = partial(bare, work, threads, is_watched=True)
        told = f"{title}: {WAYS['every step'][1]} / the tutorial's loop that writes the same numbers"
        rows.append(Row(told, "every step", "watched", 0.5))
    return Contest(rows, contestants, tuple(others))


def as_typed(name: str, is_short: bool, is_busy: bool = False) -> Contest:
    """Nobody says a word of threads: `train` takes as many as it thinks best, and the tutorial one for each core.

    Args:
        is_busy: whether another program wants a core all the time.
    """
    work = WORKS[name].shorter() if is_short else WORKS[name]
    contestants: dict[str, Callable[[], float]] = {
        "logged": partial(seconds_per_step, work.words, work.num_steps, WARM_UP),
        "bare": partial(bare, work),
    }
    if is_busy:
        contestants = {way: partial(beside_another, seconds) for way, seconds in contestants.items()}
    title = f"{work.title}, threads as they come{', beside a busy program' if is_busy else ''}: logged at defaults"
    return Contest([Row(title, "logged", "bare", 0.8)], contestants)  # with the slack of the short table: ahead


def beside_another(seconds: Callable[[], float]) -> float:
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        return seconds()
    finally:
        other.kill()
        other.wait()


def bare(work: Work, threads: int | None = None, is_watched: bool = False) -> float:
    num_steps = work.num_steps // 5 if is_watched else work.num_steps  # a step takes ten times as long
    _, answer = asked("bare.py", {"work": work.name, "steps": num_steps, "is_watched": is_watched}, threads)
    seconds: float = answer["seconds"]
    return seconds


def of_peer(process: Kept, work: Work, threads: int) -> float:
    # Fewer steps: there are many of them, and what each costs is seen in these as well.
    seconds: float = process.ask({"work": work.name, "steps": work.num_steps // 5, "threads": threads})
    return seconds
