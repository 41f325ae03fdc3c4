"""One pass over a split, to a dict of numbers."""

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from itertools import islice
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from trainer.data.batches import Batches
from trainer.distributed import ALONE, World
from trainer.draws import seed_from, seed_here
from trainer.losses.function import Losses, LossFunction
from trainer.losses.term import Whole
from trainer.metrics import Metrics
from trainer.trees import Tree, called, differentiable, is_per_sample, joined, mapped
from trainer.trials import evaluating

# Samples over which a loss is taken at once that is no mean over samples; it may compare each with each.
MOST_AT_ONCE = 4096


def evaluate(
    network: nn.Module,
    loss_fn: LossFunction,
    batches: Batches,
    device: torch.device,
    precision: Callable[[], AbstractContextManager[object]],
    keep: Callable[[Tree, Any, Tree], None] | None = None,
    is_stop_requested: Callable[[], bool] = lambda: False,
    world: World = ALONE,
    metrics: Metrics | None = None,
) -> dict[str, float] | None:
    """The loss over all samples of a split, its terms, and what the meaning of the outputs measures.

    A short last batch weighs what it should: every sample counts once. One wait for the device, at the end. What a
    model draws in evaluation mode, as a VAE may, is the same in every pass: two passes over the same weights agree.

    Args:
        network: gets copies of the inputs, so that nothing that it writes there is left in the split.
        keep: called with the inputs, outputs and targets of every batch.
        is_stop_requested: asked after every batch.
        world: the processes that share the split; alone, this one goes through all of it.
        metrics: more numbers over all samples.

    Returns:
        `loss`, `loss/<term>`, `accuracy` (0..1) and its like, the metrics by name; NaN where the loss is. None where a
        stop was asked for, on any rank, before the end.
    """
    sums: dict[str, Tensor] = {}
    is_at_once = loss_fn.is_of_whole and not loss_fn.differentiates_inputs and not loss_fn.is_of_model
    is_at_once = may_be_at_once = is_at_once and len(batches) <= MOST_AT_ONCE
    kept: list[tuple[Tree, Tree, Tree]] = []
    is_broken_off, num_rows = False, 0
    of = whole_of(loss_fn, batches)
    if metrics is not None:
        metrics.reset()
    with evaluating(network, device, loss_fn):
        seed_here(seed_from(f"evaluation/{world.rank}"), device)  # `evaluating` puts back what the run draws from
        for batch in batches.in_order(world.rank, world.size):
            inputs, targets = batch
            if is_broken_off := bool(sums) and is_stop_requested():
                break
            given = mapped(Tensor.clone, inputs)
            given = differentiable(given) if loss_fn.differentiates_inputs else given
            with precision():
                outputs = called(network, loss_fn.given(given, targets))
                losses = loss_fn(outputs, targets, given, of, batch.num_samples)
            outputs = mapped(Tensor.detach, outputs)
            is_at_once = is_at_once and is_per_sample((inputs, outputs, targets), batch.num_samples)
            if is_at_once:
                kept.append((outputs, targets, inputs if loss_fn.is_of_inputs else None))
            if keep is not None:
                keep(inputs, outputs, targets)
            if metrics is not None:
                metrics.update(outputs, targets)
            # A collate_fn may give several rows for an item, as a graph's nodes, or none.
            num_rows += len(targets) if isinstance(targets, Tensor) and targets.dim() else batch.num_samples
            numbers = named(losses) | loss_fn.meaning.judged(outputs, targets)
            for name, number in numbers.items():
                number = number.float() if number.dtype in (torch.bfloat16, torch.float16) else number
                sums[name] = sums[name] + number if name in sums else number
        if may_be_at_once and (kept := of_all(world, kept if is_at_once and not is_broken_off else None, device)):
            with precision():
                found = named(loss_fn(*map(joined, zip(*kept, strict=True))))
            # It is the same on all ranks, whose numbers are added up.
            sums |= found if world.is_main else {name: torch.zeros_like(number) for name, number in found.items()}
    wide = torch.float32 if device.type == "mps" else torch.float64  # holds losses and counts exactly
    totals = [*sums.values(), *sums["loss"].new_tensor([num_rows, is_broken_off], dtype=wide)]
    told = torch.cat([total.to(wide).flatten() for total in totals])
    *values, all_rows, num_broken_off = world.sum(told).tolist()  # in one transfer
    if num_broken_off:
        return None
    parts = parted(values, {name: total.shape for name, total in sums.items()})
    results = loss_fn.meaning.concluded(parts, int(all_rows))  # after whole numbers were added up: exact
    return worth(results if metrics is None else results | metrics.compute(world))


def of_all(world: World, kept: list[Tree] | None, device: torch.device) -> list[Tree]:
    """What all ranks have kept, in the order of the split; nothing where one has not kept its share."""
    if world.size == 1:
        return kept or []
    gathered = world.gather(mapped(Tensor.cpu, kept))
    if any(part is None for part in gathered):
        return []
    return [mapped(lambda tensor: tensor.to(device), triple) for part in gathered for triple in part or ()]


def worth(numbers: dict[str, float]) -> dict[str, float]:
    """Where the loss is NaN, outputs are, which stand for nothing: the class of the first of them would be a guess."""
    if not math.isnan(numbers["loss"]):
        return numbers
    return {name: number if name.startswith("loss") else math.nan for name, number in numbers.items()}


def parted(values: list[float], shapes: Mapping[str, torch.Size]) -> dict[str, Any]:
    """Sums by name that stand in one row: a number each, or a list where a sum has a dimension."""
    rest = iter(values)
    return {name: list(islice(rest, shape[0])) if shape else next(rest) for name, shape in shapes.items()}


# What the targets of a split weigh that is read while it trains: they are read once for that.
_WEIGHED: WeakKeyDictionary[Batches, tuple[LossFunction, Whole]] = WeakKeyDictionary()


def whole_of(loss_fn: LossFunction, batches: Batches) -> Whole:
    """What the samples of a split are, for the loss to be taken of parts of them."""
    if not loss_fn.is_weighted or batches.targets is not None:
        return loss_fn.whole(len(batches), batches.targets)
    if batches not in _WEIGHED or _WEIGHED[batches][0] is not loss_fn:
        whole = Whole(len(batches))
        for batch in batches.in_order():
            weights = loss_fn.whole(len(batches), batch.targets).weights
            whole = Whole(len(batches), {i: w + whole.weights.get(i, 0) for i, w in weights.items()})
        _WEIGHED[batches] = loss_fn, whole
    return _WEIGHED[batches][1]


def named(losses: Losses) -> dict[str, Tensor]:
    """Losses as an evaluation calls them."""
    return {"loss": losses.total.detach()} | {f"loss/{name}": term for name, term in losses.terms.items()}
