"""`train remedy`: what may mend a run, each tried for a part of its length beside the run as it is."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer.config import schema
from trainer.config.request import Request, resolved
from trainer.disk.checkpoint import Checkpoints, step_of
from trainer.disk.folder import read_origin, read_result
from trainer.errors import UserError
from trainer.finished.table import Column, open_console, print_lines, table
from trainer.monitor.readable import percent, short
from trainer.run.folder import as_stored
from trainer.signals import Signals
from trainer.sweep.plan import plan
from trainer.sweep.sweep import sweep
from trainer.system import shell
from trainer.use.again import folder_of
from trainer.use.changes import job

MOST = 8  # remedies
SHARE, FEWEST_STEPS = 0.1, 200  # of the run's steps; a symptom takes as long to show
HELPS = 0.05  # of the loss: less is nothing
TIE = 0.2  # of what the best has gained
MORE_SEEDS = 2
LATE = 2  # times as many steps as are tried
TAG = "best/val/loss"
OF_GAPS = "data not finite"
# Findings that no key of a training mends.
OF_DATA = (
    "targets are constant",
    "labels differ between the splits",
    "data given in order",
    "splits differ",
    "columns without content",
    "one class nearly alone",
    "labels without a pattern",
    "targets not scaled",
    "inputs not scaled",
)


def candidates(request: Request, said: Sequence[str] = ()) -> list[list[str]]:
    """What may be typed in addition, the likeliest first: what is unusual in the config, then the learning rate.

    Args:
        request: with its stored config.
        said: the rules of the run's diagnosis.
    """
    config = dict(schema.leaves(request.config))
    found: list[list[str]] = []

    def number(key: str) -> float:
        value = config.get(key)
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan

    if number("optimizer.momentum") > 0.9:
        found.append(["optimizer.momentum=0.9"])
    if number("gradient.clip_norm") > 0:
        found.append(["gradient.clip_norm=null"])
    if number("optimizer.weight_decay") > 0:
        found.append(["optimizer.weight_decay=0"])
    if request.choices.get("scheduler", "constant") not in ("constant", "own"):
        found.append(["scheduler=constant"])
    if number("model.dropout") > 0:
        found.append(["model.dropout=0"])
    if number("batch_size") <= 4:
        found.append(["batch_size=32"])
    found += [[f"data.{key}=true"] for key in ("standardize", "normalize") if config.get(f"data.{key}") is False]
    if config.get("model.init", "default") != "kaiming" and config.get("model.weights") is None:
        found.append(["model.init=kaiming"])
    key = "scheduler.max_lr" if number("scheduler.max_lr") > 0 else "optimizer.lr"
    factors = (10, 100, 1000, 0.1) if "learning rate too small" in said else (0.1, 10, 0.01, 100)
    rates = [[f"{key}={number(key) * factor:.3g}"] for factor in factors if number(key) > 0]
    rest = [["gradient.clip_norm=1"]] if config.get("gradient.clip_norm") is None else []
    if config.get("model.init", "default") == "default" and config.get("model.weights") is None:
        found.remove(["model.init=kaiming"])
        rest.append(["model.init=kaiming"])
    return [*found, *rates, *rest][:MOST]


def length(result: Mapping[str, Any], num_runs: int, budget: float) -> int:
    """Steps of each run: a tenth of the run's, 200 at least, fewer where they would take longer than `budget` seconds.

    Raises:
        UserError: there is no time for 50.
    """
    steps = int(result.get("steps") or 0)
    wanted = max(FEWEST_STEPS, round(SHARE * steps))
    seconds = float(result.get("seconds") or 0.0) / max(1, steps)
    fitting = int(budget / (seconds * num_runs)) if seconds > 0 and steps > 10 else wanted
    if fitting < 50:
        needed = math.ceil(FEWEST_STEPS * seconds * num_runs / 60)
        raise UserError(
            f"budget: {num_runs} runs of {FEWEST_STEPS} steps take about {needed} minutes. Type budget={needed}m."
        )
    return min(wanted, fitting)


def length_of_all(origins: Sequence[Mapping[str, Any]]) -> int:
    """The steps that the run was told to make; 0 where that is not known. Foreign numbers."""
    found = origins[-1].get("max_steps") if origins else None
    return found if type(found) is int else 0


def as_laid_out(scheduler: Mapping[str, Any], whole: int, steps: int) -> dict[str, Any]:
    """The keys of a scheduler that counts steps, which is laid out over the whole run, whatever part of it is made.

    Args:
        whole: steps of the run; 0 where nobody knows them.
        steps: that are made.
    """
    counts_steps = scheduler.get("interval", "step") == "step"
    lengths = [key for key in ("T_max", "total_steps") if key in scheduler and scheduler[key] is None]
    return {**scheduler, **dict.fromkeys(lengths if counts_steps and whole > steps else (), whole)}


def fell_ill(result: Mapping[str, Any]) -> int:
    """The step of the first finding; 0 where there is none, or only what was said when the run was over. Foreign."""
    found, last = result.get("diagnosis"), int(result.get("steps") or 0)
    steps = [one.get("step") for one in found if isinstance(one, dict)] if isinstance(found, list) else []
    is_stopped = result.get("status") == "stopped"
    return min((step for step in steps if type(step) is int and (step < last or is_stopped)), default=0)


def kept_before(run: Path, config: Mapping[str, Any], step: int) -> Path | None:
    """The newest kept checkpoint before a step, of a model that takes weights by `model.weights`; None for none."""
    model = config["model"]
    if not str(model.get("_target_")).startswith("trainer.") or "weights" in model:
        return None
    return next((path for path in Checkpoints(run / "checkpoints", 1).files() if step_of(path) < step), None)


def remedy(
    request: Request, varied: Mapping[str, Request], signals: Signals, command: Sequence[str], budget: float
) -> int:
    """Trains the run and the remedies as one sweep, in a folder beside it, and says by how much each helps. Returns 0.

    From the start; or from the weights of a kept checkpoint, where the run fell ill so late that nothing of that would
    be seen.

    Args:
        request: of the run, as it would continue.
        varied: words to the same with them.
        budget: seconds.

    Raises:
        UserError: the data hold NaN, or there is no time.
    """
    run = folder_of(request)
    result = read_result(run)
    if OF_GAPS in diagnosed(result):
        raise UserError(
            f"{run}: its data hold NaN or an infinity, and no key of a training mends that. Take such samples out "
            f"of the data, or fill their gaps; train replay {shell.quote(str(run))} shows where."
        )
    entries = read_origin(run)
    found = entries[-1].get("processes") if entries else 1
    processes = found if type(found) is int and found > 0 else 1  # foreign text
    requests = {"": as_stored(request)} | {words: as_chosen(one, words) for words, one in varied.items()}
    steps = length(result, len(requests) * processes, budget)
    keys = list(dict.fromkeys(word.partition("=")[0] for words in varied for word in words.split()))
    folder = Path("runs", f"remedy-{run.name}")
    seed = int(resolved(requests[""].config)["seed"])
    ill = fell_ill(result)
    start = kept_before(run, requests[""].config, ill) if ill > LATE * steps else None
    if start is not None:  # weights that were trained need no other start
        requests = {words: one for words, one in requests.items() if not words.startswith("model.init=")}
    for one in requests.values():
        one.config["scheduler"] = as_laid_out(one.config["scheduler"], length_of_all(entries), steps)
        one.config.update(max_steps=steps, max_epochs=None)
        if start is not None:
            one.config["model"] = {**one.config["model"], "init": "default", "weights": str(start.resolve())}
    where = f", from step {step_of(start):,}" if start is not None else ""
    count = len(requests) - 1
    print(f"{run}: {count} remedies, each for {steps:,} steps{where}, beside the run as it is", flush=True)
    if processes > 1:
        print(f"it was trained by {processes} processes; here one trains each, with the same batches", flush=True)
    numbers = trained(requests, keys, [seed], folder, command, signals)
    tied = near_ties(numbers)
    if tied:
        again = {words: requests[words] for words in ("", *tied)}
        print(f"{' and '.join(tied)} are near each other: {MORE_SEEDS} more seeds decide", flush=True)
        seeds = [seed, *range(seed + 1, seed + 1 + MORE_SEEDS)]
        numbers |= trained(again, keys, seeds, Path(f"{folder}-seeds"), command, signals)
    unseen = ill if start is None and ill > LATE * steps else 0
    return tell(run, numbers, f"{steps:,} steps{where}", result, unseen)


def as_chosen(request: Request, words: str) -> Request:
    """The stored run with what was typed; an option that was typed is its choice."""
    stored = as_stored(request)
    typed = dict(word.partition("=")[::2] for word in words.split())
    chosen = {group: option for group, option in typed.items() if group in schema.GROUPS}
    return Request(stored.config, {**stored.choices, **chosen}, stored.overrides)


def trained(
    requests: Mapping[str, Request],
    keys: Sequence[str],
    seeds: Sequence[int],
    folder: Path,
    command: Sequence[str],
    signals: Signals,
) -> dict[str, float]:
    """Words to the mean validation loss over the seeds, at its best; infinite where a run was stopped by a number."""
    jobs = {(words, seed): job(one, keys, seed, quiet=True) for words, one in requests.items() for seed in seeds}
    sweep([*jobs.values()], folder, command, signals)
    found: dict[str, list[float]] = {}
    for (words, _), planned in zip(jobs, plan([*jobs.values()], folder), strict=True):
        result = read_result(planned.folder)
        value, is_ended = result.get(TAG), result.get("status") == "finished"
        found.setdefault(words, []).append(float(value) if is_ended and isinstance(value, int | float) else math.inf)
    return {words: sum(values) / len(values) for words, values in found.items()}


def near_ties(numbers: Mapping[str, float]) -> list[str]:
    """The best remedies, where what they have gained is nearly the same; none where one is alone, or none helps."""
    ranked = sorted((words for words in numbers if words), key=lambda words: numbers[words])
    gained = numbers[""] - numbers[ranked[0]]
    if not gained > HELPS * abs(numbers[""]) or not math.isfinite(gained):
        return []
    tied = [words for words in ranked if numbers[words] < numbers[ranked[0]] + TIE * gained][:3]
    return tied if len(tied) > 1 else []


def tell(run: Path, numbers: Mapping[str, float], steps: str, result: Mapping[str, Any], unseen: int = 0) -> int:
    """Prints the table, and what to type.

    Args:
        steps: how many, and from where.
        unseen: the step at which the run fell ill, where nobody came there.
    """
    plain = numbers[""]
    ranked = sorted(numbers, key=lambda words: numbers[words])
    gains = [_gain(plain, numbers[words]) if words else "" for words in ranked]
    columns = [
        Column("remedy", [words or "none: as it is" for words in ranked]),
        Column(f"val/loss in {steps}", [short(numbers[words]) for words in ranked], is_number=True),
        Column("better by", gains, is_number=True),
    ]
    console = open_console()
    print()
    print_lines(table(columns, console), console)
    best = ranked[0]
    if best and (plain == math.inf or plain - numbers[best] > HELPS * abs(plain)):
        print(f"\ntype the same command with {shell.join(best.split())}, in a run with another name=")
        return 0
    if unseen:
        print(
            f"\nnothing of this helps so early: the run fell ill at step {unseen:,}. Train it with "
            "checkpoint.history=10, and a remedy begins shortly before that."
        )
        return 0
    of_data = [rule for rule in diagnosed(result) if rule in OF_DATA]
    print("\nnothing of this helps. The data may be the cause" + (f": {', '.join(of_data)}" if of_data else "."))
    print(f"train replay {shell.quote(str(run))} worst=20 shows the samples that cost most")
    return 0


def diagnosed(result: Mapping[str, Any]) -> list[str]:
    """The rules of a run's diagnosis. Foreign text."""
    found = result.get("diagnosis")
    return (
        [str(one["rule"]) for one in found if isinstance(one, dict) and "rule" in one]
        if isinstance(found, list)
        else []
    )


def _gain(plain: float, number: float) -> str:
    if not math.isfinite(plain) or not math.isfinite(number):
        return "it trains" if math.isfinite(number) else ""
    return percent((plain - number) / abs(plain)) if plain else ""
