"""Which of the exact short cuts a training takes; the ordinary way (`trainer.computation`) is the last of them."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from torch import Tensor, nn

from trainer.computation import Computation, Work, in_parts, spread
from trainer.data.batches import Batches, ResidentBatches, batch_length, first_samples
from trainer.data.item_batches import ItemBatches, OwnTargets
from trainer.data.mix import as_mixed
from trainer.disk.cache import Cache
from trainer.disk.files import cache_folder
from trainer.fast.channels_last import InChannelsLast
from trainer.fast.compiled import CompiledPart, NotCompiled, compile_in_place
from trainer.fast.features import Features
from trainer.fast.products import fast_products
from trainer.fast.recorded import NotRecorded, RecordedStep
from trainer.fast.twins import twin
from trainer.fast.windows import for_compiler
from trainer.loop import ForwardBackward, InParts
from trainer.models.finetune import Finetune

Note = Callable[[str], None]


def choose(
    work: Work,
    features: Features | None,
    is_fast: bool,
    is_compiled: bool,
    is_graphed: bool,
    is_alone: bool,
    note: Note,
) -> Computation:
    """How a training is computed.

    Args:
        features: of a frozen backbone, see `features_of`.
        is_fast: whether short cuts are wanted that give the same bits.
        is_compiled: whether a compiled step is wanted, the same within rounding.
        is_graphed: whether the kernels of a recorded or compiled step are to be a CUDA graph; on a GPU only.
        is_alone: false for a run in a stack.
        note: is told what takes its time, and what was wanted and can't be had.
    """
    model = work.state.model
    is_long = work.max_steps - work.state.step > work.steps_per_epoch
    feed = None if features is None else features.feed(is_worth=is_long)
    laid = layout(work, is_fast)
    plain = model if feed is None else model.get_submodule("head")
    train, val = (work.train, work.val) if feed is None else feed
    lines = [] if feed is None else ["the head alone, on cached features of the frozen backbone"]

    def test() -> tuple[nn.Module, Batches]:
        is_one = work.state.world.size == 1  # features are computed by all ranks together, and rank 0 tests alone
        found = features.of("test") if features is not None and feed is not None and is_one else None
        return (laid(model), work.test) if found is None else (plain, found)

    network = laid(plain)
    if network is not plain:
        lines.append("pictures in channels_last" if work.channels_last else "a quicker twin of the model")
    forward_backward: ForwardBackward
    if is_compiled and work.state.world.size > 1:
        note("compile=true: of several processes the model alone is compiled, in the first steps")
        compiled_model = for_compiler(plain, work.device)
        try:
            compile_in_place(compiled_model)
            network = InChannelsLast(compiled_model) if work.channels_last else compiled_model
        except NotCompiled as error:
            note(f"warning: compile=true: {error}; the run goes on uncompiled")
    ordinary = in_parts(work, spread(work, network))
    forward_backward, how = ordinary, "autograd"
    if is_compiled and work.state.world.size == 1:
        to_compile = network if work.channels_last else plain
        forward_backward, how = compiled(work, ordinary, to_compile, train, is_graphed, note)
    elif is_fast and is_alone and not is_compiled and (is_graphed or work.device.type == "cpu"):
        forward_backward, how = recorded(work, ordinary, network, train)
    if is_graphed and forward_backward is ordinary:
        note(f"warning: cuda_graphs=true: no step is a CUDA graph; {how}")
    return Computation(forward_backward, network, plain, train, val, test, [*lines, how])


def layout(work: Work, is_fast: bool) -> Callable[[nn.Module], nn.Module]:
    """What a model becomes whose maps lie in memory in another way."""
    if work.channels_last:
        return InChannelsLast
    return twin if is_fast and work.device.type == "cpu" and work.precision_name == "float32" else as_it_is


def as_it_is(model: nn.Module) -> nn.Module:
    return model


def recorded(work: Work, ordinary: InParts, network: nn.Module, train: Batches) -> tuple[ForwardBackward, str]:
    """The step as calls of torch's operations alone, where that is the same and quicker."""
    is_whole, is_plain = work.samples_per_step <= work.batch_size, not work.state.scaler.is_enabled()
    is_near = work.device.type in ("cpu", "cuda") and isinstance(train, ResidentBatches) and work.state.world.size == 1
    if not (is_whole and is_plain and is_near and work.is_ours):
        return ordinary, "autograd"
    if not all(isinstance(part, Tensor) for part in work.sample()):
        return ordinary, "autograd (a step is not recorded: inputs and targets are not one tensor each)"
    lengths = {batch_length(len(train), work.samples_per_step, step) for step in (1, work.steps_per_epoch)}
    examples = (as_mixed(first_samples(train, length), work.mix) for length in sorted(lengths))
    try:
        step = RecordedStep(ordinary, network, work.loss_fn, work.state.store, examples, work.precision)
    except NotRecorded as error:
        return ordinary, f"autograd (a step is not recorded: {error})"
    return step, "a recorded step: torch's operations without modules and autograd between them"


def compiled(
    work: Work, ordinary: InParts, network: nn.Module, train: Batches, is_graphed: bool, note: Note
) -> tuple[ForwardBackward, str]:
    """The step as one compiled function, where that is possible; says how long it took, or why it is not."""
    of, state = work.samples_per_step, work.state
    example = as_mixed(first_samples(train, min(work.batch_size, of)), work.mix)
    started = time.perf_counter()
    try:
        part = CompiledPart(
            ordinary.part,
            network,
            work.loss_fn,
            state.store,
            state.scaler,
            work.precision,
            example,
            of,
            is_graphed,
            note,
        )
    except NotCompiled as error:
        note(f"warning: compile=true: {error}; the run goes on uncompiled")
        return ordinary, f"autograd (not compiled: {error})"
    note(f"compile=true: it took {time.perf_counter() - started:.1f} s to compile the step")
    return InParts(part, work.loss_fn, state.store, work.part_size, network, state.world), "a compiled step"


def features_of(
    work: Work, folder: Path, limit: int, note: Note, is_stop_requested: Callable[[], bool]
) -> Features | None:
    """Of the frozen backbone, where the training needs no more of it than constants.

    Args:
        folder: of the run.
        limit: bytes of disk that features of all runs may take.
    """
    model, is_random = work.state.model, getattr(work.train, "augment", None) or work.mix is not None
    trains_later = any(name.startswith("backbone.") for name in work.state.store.names)
    if type(model) is not Finetune or model.unfrozen or trains_later or is_random or work.loss_fn.is_of_inputs:
        return None
    if problem := why_not_fixed(work):
        note(f"the frozen backbone runs at every step: {problem}.")
        return None
    try:
        cache = Cache(cache_folder("features"), limit, note)
    except RuntimeError:  # no home folder
        cache = Cache(folder, 0, note)
    return Features(work, cache, note, is_stop_requested)


def why_not_fixed(work: Work) -> str:
    """Why a sample may be another one when it is read again, or be of a form that has no features; empty: it is not."""
    splits = (work.train, work.val, work.test)
    if work.channels_last:
        return "channels_last=true is of the whole network. Leave it out, and the backbone runs once"
    if any(isinstance(split, OwnTargets) or getattr(split, "are_own_targets", False) for split in splits):
        return "the targets are the inputs"
    batches = [split for split in splits if isinstance(split, ItemBatches)]
    if any(split.items.collate_fn is not None for split in batches):
        return "a collate_fn of your own may give a sample that depends on the others in its batch"
    if not all(split.items.is_fixed for split in batches):
        return "items of your data set may change from epoch to epoch. If they never do, type data.fixed=true"
    if work.loss_fn.is_weighted and any(split.targets is None for split in batches):
        # Their weights are added up batch by batch, which rounds in another way than all at once.
        return "nobody has looked at the labels, which have weights. Leave out data.num_classes, and they are counted"
    return ""


def products(work: Work, is_compiled: bool, num_runs: int = 1) -> AbstractContextManager[None]:
    """What the training of so many runs like this one multiplies its matrices under."""
    if work.device.type != "cpu":
        return contextlib.nullcontext()
    shape = getattr(work.sample().inputs, "shape", (1,))
    num_places = math.prod(shape[2:]) if is_compiled else 0
    return fast_products(work.state.model, min(work.batch_size, work.samples_per_step), num_runs, num_places)


@contextlib.contextmanager
def for_use(
    model: nn.Module, device: torch.device, num_samples: int, is_fast: bool, channels_last: bool
) -> Iterator[nn.Module]:
    """What gives a trained model's outputs, to the bits that it gave in the test of its run.

    Args:
        num_samples: that a step of its training had go through at once.
    """
    with fast_products(model, num_samples) if is_fast and device.type == "cpu" else contextlib.nullcontext():
        yield InChannelsLast(model) if channels_last else twin(model)
