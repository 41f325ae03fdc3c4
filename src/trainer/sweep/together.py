"""Several runs in one process, as one program: from what is asked for to their results, each in its own folder."""

import contextlib
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, TextIO

import torch
from torch import Tensor, nn

from trainer.config.request import Request
from trainer.config.settings import settings_of
from trainer.disk import folder as folders
from trainer.draws import random_state
from trainer.errors import Interrupted, RunStopped, UserError
from trainer.loop import Wish
from trainer.run.folder import as_stored, load, refuse_another, take_folder
from trainer.run.memory import free_memory
from trainer.run.opened import Opened, opened
from trainer.run.parts import Parts, build, sample_of
from trainer.run.prepare import find_features, prepare, surroundings
from trainer.run.train import finish
from trainer.run.training import Training
from trainer.signals import Signals
from trainer.stack.fit import fit_stack, refuse_plan
from trainer.stack.member import Member
from trainer.stack.refusal import CannotStack
from trainer.stack.stack import Stack
from trainer.system.limits import room_for_files
from trainer.trees import called
from trainer.trials import REBINDING, undisturbed

# Share of the free memory that a stack may take.
SHARE_OF_MEMORY = 0.5
# Files that are open for a run: its log, its lock and its folder, its numbers, its event file, and while a checkpoint
# is written, as of all runs at once, two more.
FILES_OF_A_RUN = 8
FILES_OF_A_PROCESS = 64  # that it opens beside them, and closes again


def train_together(requests: Sequence[Request], logs: Sequence[Path], signals: Signals) -> None:
    """Trains runs of one kind, as many at a time as may have their files open, and as there is memory for.

    What becomes of each stands in its folder and its log. Runs that went on to different steps before, as after a
    `kill -9`, are trained with those that stand where they do.

    Raises:
        UserError: they can't be trained together; of those that are left none has begun.
        Interrupted: a signal; all that have begun have been saved.
    """
    wanted = FILES_OF_A_PROCESS + FILES_OF_A_RUN * len(requests)
    most = max(1, (room_for_files(wanted) - FILES_OF_A_PROCESS) // FILES_OF_A_RUN)
    count = -(-len(requests) // most)
    for start, end in pairwise(len(requests) * i // count for i in range(count + 1)):
        train_some(requests[start:end], logs[start:end], signals)
        if signals.received:
            raise Interrupted("stopped; all runs are saved.", signals.received)


def train_some(requests: Sequence[Request], logs: Sequence[Path], signals: Signals) -> None:
    """Trains these with all their files open.

    Raises:
        UserError: they can't be trained together; none of them has begun.
    """
    with contextlib.ExitStack() as stack:
        trainings: list[Training] = []
        randoms: list[dict[str, object]] = []
        for request, log in zip(requests, logs, strict=True):
            log.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(open(log, "a", encoding="utf-8"))
            trainings.append(begun(request, file, signals, stack, trainings[0].parts if trainings else None))
            randoms.append(random_state(trainings[-1].parts.device))
        refuse_unstackable(trainings)
        for group in groups_of(trainings):
            train_group([(trainings[i], randoms[i]) for i in group], signals)


def begun(request: Request, log: TextIO, signals: Signals, stack: contextlib.ExitStack, like: Parts | None) -> Training:
    """A run of a sweep with its folder taken and its newest checkpoint loaded."""
    settings = settings_of(as_stored(request))
    folder = folders.locate(settings.config, "")
    refuse_another(settings, folder)
    parts = build(settings, like=like, is_alone=False)
    training = Training(parts, folder, signals, log)
    take_folder(folder, parts, stack)
    load(training)
    return training


def member(training: Training, random: dict[str, object], network: nn.Module, observer: Any = None) -> Member:
    """The run as the stack sees it."""
    parts = training.parts
    metrics = parts.metrics if parts.metrics.names else None
    return Member(parts.state, network, parts.loss_fn, observer, parts.settings.order_seed, dict(random), metrics)


def refuse_unstackable(trainings: Sequence[Training]) -> None:
    """Raises UserError where the runs can't be trained together; they are as they were."""
    parts = trainings[0].parts
    refuse_unmeasured(parts.settings.sweep.stack, parts.device)
    has_seeds = len({training.parts.settings.seed for training in trainings}) > 1
    hindrances = {
        "profile=true is for a run alone": parts.settings.profile,
        "gradient.checkpoint is for a run alone": parts.settings.gradient.checkpoint,
        "the forward pass gives parameters other memory (.data = ...)": parts.model in REBINDING,
        "the seed decides which samples there are": parts.is_drawn and has_seeds,
        "the samples of each are mixed": parts.mix is not None,
    }
    if (why := next((why for why, is_so in hindrances.items() if is_so), None)) is not None:
        raise UserError(f"they can't be trained together: {why}")
    members = [member(training, random_state(parts.device), training.parts.model) for training in trainings]
    try:
        for one in members:
            refuse_plan([one], trainings[0].plan(), parts.length.batch_size)
        at = max(m.state.step for m in members)
        same = [m for m in members if m.state.step == at]
        Stack(same, parts.splits.train, parts.length.samples_per_step, parts.sample.inputs)
        for one in same:
            one.leave()
    except CannotStack as error:
        raise UserError(f"they can't be trained together: {error}") from error


def refuse_unmeasured(stack: str, device: torch.device) -> None:
    """Raises UserError on a GPU, where stacks were never measured, unless `sweep.stack=always` asks for them."""
    if device.type != "cpu" and stack != "always":
        raise UserError(
            f"they can't be trained together: on {device.type} that is not measured yet. To do so all the same: "
            "sweep.stack=always"
        )


def groups_of(trainings: Sequence[Training]) -> Iterator[list[int]]:
    """The runs that stand at the same step, by their numbers, as many at a time as fit into memory."""
    by_step: dict[int, list[int]] = {}
    for i, training in enumerate(trainings):
        by_step.setdefault(training.parts.state.step, []).append(i)
    most = max(1, int(SHARE_OF_MEMORY * free_memory(trainings[0].parts.device) / memory_of(trainings[0])))
    for group in by_step.values():
        for start in range(0, len(group), most):
            yield group[start : start + most]


def memory_of(training: Training) -> int:
    """The bytes that one more run takes: what a forward pass keeps for the backward pass, measured, and its numbers."""
    parts, kept = training.parts, 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.nbytes
        return tensor

    sample = parts.sample
    counting = torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor)
    with undisturbed(parts.model, parts.device, is_training=True), counting:
        called(parts.model, sample.inputs)
    # Values, gradients, at most three numbers for each in the optimizer, and two copies for the statistics.
    return kept * parts.length.batch_size // sample.num_samples + 7 * parts.state.store.values.nbytes


def train_group(group: Sequence[tuple[Training, dict[str, object]]], signals: Signals) -> None:
    """Opens the runs, trains them together, ends each on its own."""
    with signals.deferred(), surroundings(group[0][0], len(group)):
        runs: list[tuple[Training, Opened, contextlib.ExitStack, dict[str, object]]] = []
        for training, random in group:
            closing = contextlib.ExitStack()
            with told(training):
                runs.append((training, closing.enter_context(opened(training)), closing, random))
        features = [find_features(training, run.journal.display.note) for training, run, _, _ in runs]
        # All runs take the features of one, whose backbone is that of all; else none of them takes any.
        keys = {None if found is None else found.backbone_key for found in features}
        shared = features[0] if len(keys) == 1 else None
        members, computations = [], []
        for training, run, _, random in runs:
            # It draws as if it were alone, where its turn to train would have come.
            one = member(training, random, training.parts.model, run.observer)
            with one.drawing():
                _, computation = prepare(training, run, shared, is_alone=False)
            one.network = computation.plain
            run.computed = f"a stack of {len(runs)} runs"
            members.append(one)
            computations.append(computation)
        first, computation = runs[0][0], computations[0]

        def asked() -> Wish:
            return Wish(signals.received != 0, runs[0][1].observer.is_save_overdue())

        sample, part_size = sample_of(computation.val).inputs, first.parts.length.batch_size
        is_over = fit_stack(members, computation.train, computation.val, sample, first.plan(), part_size, asked)
        for (training, run, closing, _), one, computation in zip(runs, members, computations, strict=True):
            with told(training), closing, one.drawing():
                if one.error is not None:
                    raise one.error
                finish(training, run, computation, is_over or one.state.is_over)


@contextlib.contextmanager
def told(training: Training) -> Iterator[None]:
    """Writes what ends a run within it into the run's log, as on the terminal of a run alone; the others go on."""
    try:
        yield
    except (UserError, RunStopped) as error:
        print(f"error: {error}", file=training.log, flush=True)
    except Interrupted as error:
        print(error, file=training.log, flush=True)
    except Exception as error:
        import traceback

        traceback.print_exc(file=training.log)
        print(f"error: {type(error).__name__}: {error}", file=training.log, flush=True)
