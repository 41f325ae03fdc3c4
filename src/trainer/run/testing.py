"""The test at the end of a training: of the best weights, and of the last."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from trainer.computation import Computation
from trainer.data.batches import Batches
from trainer.disk.checkpoint import read, snapshot
from trainer.errors import UserError
from trainer.evaluate import evaluate, whole_of
from trainer.kept import put_state, state_of
from trainer.meaning import Classes, Places
from trainer.monitor.board import Keep
from trainer.monitor.classes import MOST, PerClass
from trainer.run.opened import Opened
from trainer.run.remembered import Kept
from trainer.run.training import Training


@dataclass(frozen=True)
class Tested:
    """
    Args:
        numbers: by tag: `test/...` of the weights that `test` names; of the others `test/last/...` or `test/best/...`,
            where they are others.
        facts: for `result.json`: which were tested, and the step of the best.
        step: of the chosen weights.
    """

    numbers: dict[str, float]
    facts: dict[str, Any]
    step: int

    @property
    def losses(self) -> dict[str, float]:
        return {tag: number for tag, number in self.numbers.items() if tag.endswith("/loss")}


def tested(training: Training, run: Opened, computation: Computation, kept: Kept) -> Tested | None:
    """Tests the best weights and the last, on this process alone; None where a stop was asked for.

    Args:
        kept: is told what the chosen weights give for each sample.

    The best are read from `best.pt`, as whoever uses the run reads them. The last are in their place again afterwards.
    """
    state, chosen = training.parts.state, training.parts.settings.test
    best = None if state.best.get("step") in (None, state.step) else best_state(training, run)
    if best is None:  # the last are the best; or nobody knows the best
        numbers = all_evaluated(training, run, computation, averaged_state(training), kept)
        is_best = state.best.get("step") == state.step
        facts = {"tested": chosen if is_best else "last"} | ({"best_step": state.step} if is_best else {})
        return None if numbers is None else Tested(tags("test", numbers), facts, state.step)
    last = all_evaluated(training, run, computation, averaged_state(training), kept if chosen == "last" else None)
    if last is None:
        return None
    with other_weights(training, best):
        numbers = all_evaluated(training, run, computation, best, kept if chosen == "best" else None)
    if numbers is None:
        return None
    first, second, other = (numbers, last, "last") if chosen == "best" else (last, numbers, "best")
    facts = {"tested": chosen, "best_step": best["step"]}
    step = best["step"] if chosen == "best" else state.step
    return Tested(tags("test", first) | tags(f"test/{other}", second), facts, step)


def averaged_state(training: Training) -> dict[str, Any]:
    """The average of the last weights, as a checkpoint has it."""
    state = training.parts.state
    return {} if state.average is None else {"average": snapshot(state.averaged())}


def all_evaluated(
    training: Training, run: Opened, computation: Computation, state: dict[str, Any], kept: Kept | None
) -> dict[str, float] | None:
    """The weights that are there; and as `average/<name>` the average that a state has."""
    numbers = evaluated(training, run, computation, kept)
    average = state.get("average", {})
    if numbers is None or not average.get("updates"):
        return numbers
    with other_weights(training, average):
        found = evaluated(training, run, computation, None)
    return None if found is None else numbers | {f"average/{name}": number for name, number in found.items()}


def tags(split: str, numbers: dict[str, float]) -> dict[str, float]:
    return {f"{split}/{name}": number for name, number in numbers.items()}


def best_state(training: Training, run: Opened) -> dict[str, Any] | None:
    """What `best.pt` holds; None, and a line, where it is not the best of this run."""
    path, step = training.checkpoints.folder / "best.pt", training.parts.state.best["step"]
    try:
        if not path.exists():
            raise UserError(f"{path}: is not there any more.")
        best = read(path)
        if best["step"] != step:
            raise UserError(f"{path}: is of step {best['step']}, not of step {step}.")
        refuse_other_weights(training, best)
    except UserError as error:
        run.journal.display.note(f"warning: {error} The last weights are tested alone.")
        return None
    return best


def refuse_other_weights(training: Training, best: dict[str, Any]) -> None:
    """Raises UserError where weights are not those of this model."""
    model, loss = state_of(training.parts.model), state_of(training.parts.loss_fn)
    for mine, found in ((model, best["model"]), (loss, best.get("loss", {}))):
        shapes = [{name: getattr(tensor, "shape", None) for name, tensor in of.items()} for of in (mine, found)]
        if shapes[0] != shapes[1]:
            raise UserError(f"{training.checkpoints.folder / 'best.pt'}: holds the weights of another model.")


@contextlib.contextmanager
def other_weights(training: Training, state: dict[str, Any]) -> Iterator[None]:
    """Within it model and loss have the weights of a checkpoint."""
    model, loss = training.parts.model, training.parts.loss_fn
    kept = snapshot({"model": state_of(model), "loss": state_of(loss)})
    try:
        put_state(model, state["model"])  # copies: the memory stays that of the store
        put_state(loss, state.get("loss", {}))
        yield
    finally:
        put_state(model, kept["model"])
        put_state(loss, kept["loss"])


def evaluated(training: Training, run: Opened, computation: Computation, kept: Kept | None) -> dict[str, float] | None:
    """The whole test split with the weights that are there; None where a stop was asked for.

    Args:
        kept: is told of all batches, where these are the weights that were chosen: whose pictures and curves are drawn.
    """
    parts = training.parts
    network, split = computation.test()
    meaning = parts.loss_fn.meaning
    classes = None
    if kept is not None and isinstance(meaning, Classes | Places) and meaning.num_classes <= MOST:
        classes = PerClass(meaning)
    with contextlib.ExitStack() as stack:
        keeps: list[Keep] = [] if kept is None else [partial(kept.add, of=whole_of(parts.loss_fn, split))]
        show = None
        if run.board is not None and kept is not None:
            show = stack.enter_context(run.board.watching(len(split)))
        if show is not None:
            keeps.append(show if split is parts.splits.test else of_inputs(show, parts.splits.test))
        if classes is not None:
            keeps.append(classes.keep)

        def keep(*batch: Any) -> None:
            for each in keeps:
                each(*batch)

        stop = training.is_stop_requested
        metrics = parts.metrics if parts.metrics.names else None
        found = evaluate(network, parts.loss_fn, split, parts.device, parts.precision, keep, stop, metrics=metrics)
        run.observer.complain()
    if classes is not None and found is not None and classes.counts.any():
        run.facts["per_class"] = classes.rows()
    return found


def of_inputs(keep: Keep, split: Batches) -> Keep:
    """Has `keep` get the inputs of a split, in whose place an evaluation goes through the features."""
    batches = split.in_order()

    def kept(features: object, outputs: object, targets: object) -> None:
        keep(next(batches).inputs, outputs, targets)

    return kept
