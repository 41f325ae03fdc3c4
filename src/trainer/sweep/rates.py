"""`train find-lr`: some steps with each of many learning rates, every one with weights of its own; and the best."""

import contextlib
import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from trainer.config.request import Request
from trainer.config.schema import shown
from trainer.disk import foreign
from trainer.disk.folder import read_result
from trainer.errors import Interrupted, RunStopped, UserError
from trainer.monitor.events import EventFile
from trainer.run.run import run
from trainer.signals import Signals
from trainer.sweep.together import train_together
from trainer.system import shell

# Three to a power of ten.
RATES = tuple(float(f"{10 ** (-5 + i / 3):.2g}") for i in range(16))
STEPS = 100
_WIDTH = 38  # of the longest bar: a line has 59 columns then


def find_rate(request: Request, folder: Path, words: Sequence[str], signals: Signals) -> int:
    """Trains with every rate, draws what each came to, and says what to type. Returns the exit code.

    The number of a rate is the mean training loss of the last quarter of its steps. Where the model stacks, all rates
    are one program; else one run follows the other.

    Args:
        request: its `optimizer.lr` is left aside.
        folder: that is not there yet.
        words: as typed.

    Raises:
        UserError: the run can't be built, or no rate gives a number, or the rate makes no difference.
        Interrupted: a signal.
    """
    if request.config["batch_size"] == "auto":
        raise UserError(
            "batch_size=auto: the best rate depends on the size. Type batch_size=64, or the size that train "
            "batch_size=auto dry_run=true finds."
        )
    refuse_other_rate(request)
    requests = [with_rate(request, rate, folder / f"lr={rate:g}") for rate in RATES]
    logs = [folder / f"lr={rate:g}.log" for rate in RATES]
    print(f"{len(RATES)} learning rates, {steps_of(requests[0])} steps each, in {folder}", flush=True)
    try:
        train_together(requests, logs, signals)
    except UserError as error:
        if not str(error).startswith("they can't be trained together"):
            raise
        print(f"one after the other: {error}", flush=True)
        one_by_one(requests, logs, signals)
    found = {rate: loss_of(folder / f"lr={rate:g}") for rate in RATES}
    if not any(map(math.isfinite, found.values())):
        raise UserError(f"{folder}: no learning rate from {RATES[0]:g} to {RATES[-1]:g} gives a finite loss.")
    if len(RATES) > 1 and len(set(found.values())) == 1:
        raise UserError(
            f"{folder}: all learning rates come to the same loss, {found[RATES[0]]:.4g}: optimizer.lr decides nothing "
            "here. Does the optimizer or the scheduler take another rate? Try scheduler=constant."
        )
    show(found, folder, words)
    return 0


def refuse_other_rate(request: Request) -> None:
    """Raises UserError where the schedule goes to a rate of its own, which makes all runs the same."""
    scheduler = request.config["scheduler"]
    peak = scheduler.get("max_lr")
    if peak is None or not str(scheduler.get("_target_")).startswith("torch.optim."):
        return
    is_typed = any(word.lstrip("+").startswith("scheduler.max_lr=") for word in request.overrides)
    how = "Leave it out" if is_typed else "Type scheduler.max_lr=null"
    raise UserError(
        f"scheduler.max_lr={shown(peak)}: decides the learning rate, whatever optimizer.lr is. {how}: then it is ten "
        "times optimizer.lr."
    )


def with_rate(request: Request, rate: float, folder: Path) -> Request:
    """The same run with this rate, recorded at every step, in a folder of its own."""
    config = request.config
    length = {"max_steps": STEPS} if config["max_steps"] is None and config["max_epochs"] is None else {}
    changed = {
        **config,
        **length,
        "optimizer": {**config["optimizer"], "lr": rate},
        "monitor": {**config["monitor"], "every": 1},
        "checkpoint": {**config["checkpoint"], "every_minutes": None},
        "run_dir": str(folder),
        "name": None,
    }
    return Request(changed, request.choices, [*request.overrides, f"optimizer.lr={rate:g}"])


def steps_of(request: Request) -> str:
    steps, epochs = request.config["max_steps"], request.config["max_epochs"]
    return str(steps) if steps is not None else f"the steps of {epochs} epochs,"


def one_by_one(requests: Sequence[Request], logs: Sequence[Path], signals: Signals) -> None:
    for request, log in zip(requests, logs, strict=True):
        with open(log, "a", encoding="utf-8") as file, contextlib.redirect_stdout(file):
            try:
                run(request, signals)
            except RunStopped as error:
                print(f"error: {error}", file=file)
        if signals.received:
            raise Interrupted("stopped.", signals.received)


def loss_of(folder: Path) -> float:
    """The mean training loss of the last quarter of the steps; infinite for a run that has not come to its end."""
    try:
        if read_result(folder).get("status") != "finished":
            return math.inf
        losses = [record["train/loss"] for record in foreign.metrics(folder) if "train/loss" in record]
    except OSError:
        return math.inf
    last = losses[-max(1, len(losses) // 4) :]
    return statistics.fmean(last) if last and None not in last else math.inf


def show(found: dict[float, float], folder: Path, words: Sequence[str]) -> None:
    """A bar for each rate, on the terminal and as a curve for TensorBoard, and the line to type."""
    low = min(found.values())
    # With the smallest rate next to nothing is learnt: what is worse than that has a bar of the same length.
    high = max(low, next(loss for loss in found.values() if math.isfinite(loss)))
    best = next(rate for rate, loss in found.items() if loss == low)
    events = EventFile(folder)
    print(f"{'lr':>8}  {'loss':>9}")
    for i, (rate, loss) in enumerate(found.items()):
        if not math.isfinite(loss):
            print(f"{rate:8g}             not finite")
            continue
        bar = "#" * max(1, round(_WIDTH * min(1.0, (loss - low) / ((high - low) or 1.0))))
        print(f"{rate:8g}  {loss:9.4g}  {bar}{'  <- the lowest' if rate == best else ''}")
        events.scalars(i, {"find_lr/loss": loss, "find_lr/lr": rate})
    events.close()
    typed = shell.join([*words, f"optimizer.lr={best:g}"])
    print(f"look at it    train board {shell.quote(str(folder))}\ntype          train {typed}")
