"""Several runs in one process, as one program: from what is asked for to their results, each in its own folder."""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import torch
from torch import Tensor

from trainer.config.request import Request
from trainer.disk import folder as folders
from trainer.draws import random_state
from trainer.errors import Interrupted, RunStopped, UserError
from trainer.loop import Wish
from trainer.run.build import Built
from trainer.run.run import going_on
from trainer.run.training import Training
from trainer.signals import Signals
from trainer.stack.fit import fit_stack, refuse_plan
from trainer.stack.member import Member
from trainer.stack.refusal import CannotStack
from trainer.stack.stack import Stack

# Share of the free memory that a stack may take.
SHARE_OF_MEMORY = 0.5


def train_together(requests: Sequence[Request], logs: Sequence[Path], signals: Signals) -> None:
    """Trains runs of one kind, as many at a time as there is memory for.

    What becomes of each stands in its folder and its log. Runs that went on to different steps before, as after a
    `kill -9`, are trained with those that stand where they do.

    Raises:
        UserError: they can't be trained together; none of them has begun.
        Interrupted: a signal; all have been saved.
    """
    with contextlib.ExitStack() as stack:
        trainings: list[Training] = []
        randoms: list[dict[str, object]] = []
        for request, log in zip(requests, logs, strict=True):
            log.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(open(log, "a", encoding="utf-8"))
            trainings.append(begun(request, file, signals, stack, trainings[0].built if trainings else None))
            randoms.append(random_state(trainings[-1].built.device))
        members = dict(zip(trainings, randoms, strict=True))
        refuse_unstackable(trainings)
        for group in groups_of(trainings):
            train_group([(training, members[training]) for training in group], signals)
    if signals.received:
        raise Interrupted("stopped; all runs are saved.", signals.received)


def begun(request: Request, log: TextIO, signals: Signals, stack: contextlib.ExitStack, like: Built | None) -> Training:
    """A run of a sweep with its folder taken and its newest checkpoint loaded."""
    folder = folders.locate(request.config, "")
    stored = folders.read_config(folder)
    if stored is not None:
        request = going_on(request, folder, stored)
    built = Built(request, tuple(request.config["trust"]), like=like)
    training = Training(request, built, folder, signals, log)
    training.take_folder(stack)
    training.load()
    return training


def member(training: Training, random: dict[str, object]) -> Member:
    """The run as the stack sees it."""
    observer: Any = getattr(training, "observer", None)  # None before it is opened
    return Member(training.state, training.built.loss_fn, observer, training.built.order_seed, dict(random))


def refuse_unstackable(trainings: Sequence[Training]) -> None:
    """Raises UserError where the runs can't be trained together; they are as they were."""
    first = trainings[0]
    members = [member(training, random_state(training.built.device)) for training in trainings]
    try:
        for one in members:
            refuse_plan([one], first.plan())
        at = max(m.state.step for m in members)
        same = [m for m in members if m.state.step == at]
        Stack(same, first.built.splits.train, first.built.samples_per_step, first.built.sample.inputs)
        for one in same:
            one.leave()
    except CannotStack as error:
        raise UserError(f"they can't be trained together: {error}") from error


def groups_of(trainings: Sequence[Training]) -> Iterator[list[Training]]:
    """The runs that stand at the same step, as many at a time as fit into memory."""
    by_step: dict[int, list[Training]] = {}
    for training in trainings:
        by_step.setdefault(training.state.step, []).append(training)
    most = max(1, int(SHARE_OF_MEMORY * free_memory(trainings[0].built.device) / memory_of(trainings[0])))
    for group in by_step.values():
        for start in range(0, len(group), most):
            yield group[start : start + most]


def free_memory(device: torch.device) -> int:
    """Bytes."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def memory_of(training: Training) -> int:
    """The bytes that one more run takes: what a forward pass keeps for the backward pass, measured, and its numbers."""
    built, kept = training.built, 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.nbytes
        return tensor

    sample = built.sample.inputs
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor), torch.enable_grad():
        built.model(sample)
    # Values, gradients, at most three numbers for each in the optimizer, and two copies for the statistics.
    return kept * built.batch_size // len(sample) + 7 * training.state.store.values.nbytes


def train_group(members_of: Sequence[tuple[Training, dict[str, object]]], signals: Signals) -> None:
    """Opens the runs, trains them together, ends each on its own."""
    with signals.deferred(), members_of[0][0].built.products(len(members_of)):
        opened = []
        for training, random in members_of:
            closing = contextlib.ExitStack()
            if ended(training, lambda t=training, c=closing: c.enter_context(t.open())):  # type: ignore[misc]
                opened.append((training, closing, member(training, random)))
        share_features([training for training, _, _ in opened])
        for training, _, one in opened:
            with one.drawing():
                training.prepare()
        first = opened[0][0]

        def asked() -> Wish:
            return Wish(signals.received != 0, first.observer.is_save_overdue())

        feed, members = first.feed, [one for _, _, one in opened]
        is_over = fit_stack(members, feed.train, feed.val, feed.sample, first.plan(), asked)
        for training, closing, one in opened:

            def end(training: Training = training, closing: contextlib.ExitStack = closing, one: Member = one) -> None:
                with closing, one.drawing():
                    if one.error is not None:
                        raise one.error
                    training.finish(is_over)

            ended(training, end)


def share_features(trainings: Sequence[Training]) -> None:
    """Has all runs take the features of one, whose backbone is that of all; else none of them takes any."""
    first = trainings[0].features
    keys = {None if training.features is None else training.features.backbone_key for training in trainings}
    for training in trainings:
        training.features = first if len(keys) == 1 else None


def ended(training: Training, task: Callable[[], object]) -> bool:
    """Whether a task has gone well; what has not stands in the run's log, as on the terminal of a run alone."""
    try:
        task()
        return True
    except (UserError, RunStopped) as error:
        print(f"error: {error}", file=training.log, flush=True)
    except Interrupted as error:
        print(error, file=training.log, flush=True)
    except Exception as error:
        import traceback

        traceback.print_exc(file=training.log)
        print(f"error: {type(error).__name__}: {error}", file=training.log, flush=True)
    return False
