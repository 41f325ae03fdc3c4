"""`train replay`: what happened in a step: its samples, their part in the gradient, and what stands out."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.text import Text
from torch import Tensor

from trainer.config.request import Request
from trainer.errors import UserError
from trainer.finished.read import read_course, run_named
from trainer.finished.table import open_console, print_lines
from trainer.monitor.nonfinite import first_non_finite
from trainer.run.parts import Parts
from trainer.run.training import Training
from trainer.signals import Signals
from trainer.use.again import folder_of, numbers
from trainer.use.back import Follower, agreement, follow, opened
from trainer.use.look import Looks, losses_in_order
from trainer.use.shown import (
    SURE,
    are_told_apart,
    by_loss,
    drawn,
    layer_table,
    median_of,
    sample_table,
    stands_out,
    steps_table,
    write,
)
from trainer.use.step import Sample, Step, Watcher, finite, samples

AROUND = 20  # steps on each side that a step is compared with
SHOWN = 10  # samples in the terminal; all are in the file


def replay(request: Request, signals: Signals, step: int | None, until: int | None, worst: int | None) -> int:
    """Shows a step, or the samples that cost most after it, and writes both to `replay/step-<n>/`. Returns 0.

    Args:
        step: None for the one that stopped the run; or, with `worst`, the best validation.
        until: the last step that is shown.
        worst: so many samples of the whole training split.

    Raises:
        UserError: the run can't be built, has no such step, or no step to be guessed.
    """
    folder = folder_of(request)
    step = step or guessed(folder, is_worst=worst is not None)
    until = until or step
    if until < step:
        raise UserError(f"until={until}: comes before step={step}. Type until={step + 1}.")
    if worst is not None:
        if until != step:
            raise UserError("worst: is of one step. Leave until= out.")
        return show_worst(request, signals, step, worst)
    training, begun = opened(request, signals, step, is_made=False)
    parts = training.parts
    first, last = parts.state.step + 1, parts.length.max_steps
    if until > last:
        raise UserError(f"until={until}: the run has {last:,} steps. Type until={last}.")
    window = range(max(first, step - AROUND), min(last, until + AROUND) + 1)
    watcher = Watcher(training, window, range(step, until + 1))
    print(f"{folder}: from {begun} to step {step:,}", flush=True)
    ended = follow(training, window[-1], watcher)
    is_same, how = agreement(watcher.losses, numbers(folder))
    print(how + ("" if is_same is not False else why_not(folder)))
    return show_steps(training, watcher, folder, ended, {"from": begun, "same_bits": is_same, "compared": how})


def why_not(folder: Path) -> str:
    """What may be why other bits come of the same steps."""
    if "stack" in str(run_named(str(folder)).result.get("computed", "")):
        return ". The run was trained in a stack; alone its last digits are others"
    return f". train reproduce {folder} says what differs"


def guessed(folder: Path, is_worst: bool) -> int:
    """The step that is meant where none was typed."""
    result = run_named(str(folder)).result
    steps = int(result.get("steps") or 0)
    if is_worst:
        best = read_course(folder).best.get("val/loss")
        return best[1] if best is not None else max(1, steps)
    if result.get("status") == "stopped":
        return steps + 1
    raise UserError(f"{folder}: no number stopped it, so say which step. It has {steps:,}: type step={max(1, steps)}.")


def show_steps(
    training: Training, watcher: Watcher, folder: Path, ended: Exception | None, about: Mapping[str, Any]
) -> int:
    """Prints and writes what was seen."""
    wanted = [watcher.steps[step] for step in watcher.wanted if step in watcher.steps]
    if not wanted:
        raise UserError(f"the training stopped before it came there: {ended}.")
    step = wanted[0]
    around = [seen for number, seen in watcher.steps.items() if number not in watcher.wanted and seen.layers]
    said = stands_out(step, around)
    if ended is not None and not math.isfinite(step.loss):
        said = [where_non_finite(training, step, folder), *said]
    said = said or ["nothing: the step is like those around it"]
    console = open_console()
    ordered = by_loss(step.samples)
    has_losses = are_told_apart(step)
    by = ", by their loss" if has_losses else "; the loss is of all of them together"
    lines = [Text(), Text(f"step {step.step:,}: the samples{by}", style="bold")]
    lines += sample_table(ordered[:SHOWN], console, has_losses)
    lines += [Text(), Text(f"layers, beside the median of {len(around)} steps around", style="bold")]
    lines += layer_table(step, around, console)
    if len(wanted) > 1:
        lines += [Text(), *steps_table(wanted, console)]
    lines += [Text(), Text("what stands out", style="bold"), *(Text(f"  {sentence}") for sentence in said)]
    print_lines(lines, console)
    for seen in wanted:
        found = {
            **about,
            "step": seen.step,
            "loss": finite(seen.loss),
            "stands_out": said if seen is step else stands_out(seen, around),
            "samples": [vars(sample) for sample in by_loss(seen.samples)],
            "layers": {
                layer: {kind: [finite(n), finite(median_of(around, layer, kind))] for kind, n in of.items()}
                for layer, of in seen.layers.items()
            },
        }
        of_each = are_told_apart(seen)
        picture = drawn(seen.inputs, seen.samples, f"step {seen.step}{': by their loss' if of_each else ''}", of_each)
        write(folder, seen.step, "step", found, picture)
    print(f"\nwritten to {folder / 'replay' / f'step-{step.step}'}")
    return 0


def where_non_finite(training: Training, step: Step, folder: Path) -> str:
    """Where the first number is that is not finite, of a training that has ended there."""
    place = None
    if isinstance(step.inputs, Tensor):
        place = first_non_finite(training.parts.model, step.inputs, step.targets, training.parts.precision)
    where = place or "the loss itself, of outputs that are finite"
    if where.startswith("weight "):
        where += f", which step {step.step - 1:,} made so: train replay {folder} step={step.step - 1}"
    return f"the loss is not finite. The first value that is not: {where}"


def show_worst(request: Request, signals: Signals, step: int, count: int) -> int:
    """The training samples that cost most after a step, as they lie in the data: without augmentation or dropout."""
    folder = folder_of(request)
    training, begun = opened(request, signals, step, is_made=True)
    watcher = Follower(training)
    if (ended := follow(training, step, watcher)) is not None:
        raise UserError(f"the training stopped before it came there: {ended}.")
    _, how = agreement(watcher.losses, numbers(folder))
    found, inputs, losses = dearest(training.parts, count)
    ordered = by_loss(found)
    mine, whole = sum(sample.loss or 0.0 for sample in found), float(losses[losses.isfinite()].sum())
    share = f"; they make {mine / whole:.0%} of the loss of all {len(losses):,}" if whole > 0 else ""
    title = f"after step {step:,} these training samples cost most{share}"
    lines = [Text(title, style="bold"), *sample_table(ordered, console := open_console())]
    if doubtful := [sample for sample in ordered if sample.is_wrong and (sample.probability or 0) > SURE]:
        lines.append(Text(f"of {len(doubtful)} the network is sure that the class is another: are their labels right?"))
    print_lines(lines, console)
    about = {"from": begun, "compared": how, "step": step, "samples": [vars(sample) for sample in ordered]}
    write(folder, step, "worst", about, drawn(inputs, found, title))
    print(f"\nwritten to {folder / 'replay' / f'step-{step}'}")
    return 0


def dearest(parts: Parts, count: int) -> tuple[list[Sample], Tensor | None, Tensor]:
    """The samples of the training split that cost most, by their place, with their inputs; and the losses of all.

    Raises:
        UserError: the loss is none of single samples.
    """
    of_batches, outputs = losses_in_order(parts, "train")
    if not of_batches:
        raise UserError("worst: the loss of this run is of whole batches, and tells no sample's.")
    losses = torch.cat(of_batches)
    rows = losses.nan_to_num(nan=math.inf).topk(min(count, len(losses))).indices.sort().values.tolist()
    found: list[Sample] = []
    inputs: list[Tensor] = []
    start = 0
    for number, batch in enumerate(parts.splits.train.in_order()):
        places = [row - start for row in rows if start <= row < start + batch.num_samples]
        looks = Looks(outputs[number], of_batches[number], None, None)
        found += samples(parts, batch.targets, looks, [start + place for place in places], places)
        inputs += [batch.inputs[place] for place in places if isinstance(batch.inputs, Tensor)]
        start += batch.num_samples
    return found, torch.stack(inputs) if len(inputs) == len(found) else None, losses
