"""Forward, loss and backward of a step as the calls of torch's operations that it is made of, made again and again.

Gain: a step without it takes 1.78 (1.58 to 1.88) of one with it in a network 64-32-10, 1.25 in one of 64-1000-100-10
(2026-11-26, AMD EPYC Zen 4, one thread).
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from trainer.config.trust import TRUSTED, belongs
from trainer.data.batches import Batch
from trainer.fast.hooks import Hooks, is_watched
from trainer.loop import ForwardBackward
from trainer.losses.function import Losses, LossFunction
from trainer.state import Store
from trainer.system.private import Watching, tensor_hooks
from trainer.trials import undisturbed

if TYPE_CHECKING:
    from torch._ops import OpOverload

# A larger network is none the quicker for it: its time is not in the bookkeeping. And what it computes is kept.
MOST_PARAMETERS = 1 << 20
MOST_BYTES = {"cpu": 8 << 20, "cuda": 256 << 20}
# On a GPU some kernels add in no fixed order: what that may come to, as a share of a norm.
TOLERANCE = 1e-3
# Its convolutions round to TF32 where cuDNN takes such a kernel: in LeNet's gradient that is 0.009 of the norm (TF32's
# ten bits imitated on a CPU; which kernel is taken may differ). A step that computes something else is off by far more.
TOLERANCE_OF_TF32 = 0.05
# How an operation makes memory; not asked for by the form of it that is given memory.
FACTORY = ("dtype", "layout", "device", "pin_memory")


class NotRecorded(Exception):
    """Why a step can't be recorded, in a few words."""


class RecordedStep:
    """What the loop does with a batch, up to the gradients, without modules and autograd between the operations.

    In small networks those take longer than the arithmetic. The operations are those of the ordinary way, in their
    order, on the same memory every time, so the numbers are the same bits, and draws and buffers change as they would.
    With `cuda_graphs=true` the kernels of these calls are captured as a CUDA graph. Before a recording is used, it is
    compared with the ordinary way on other samples than those that it was made with; of that nothing is left.

    Args:
        otherwise: the ordinary way, for whatever was not recorded.
        model: on a CPU or a GPU, called in training with as many samples at once as one of the examples has.
        examples: samples of the training split.
        precision: what the forward pass and the loss run under.

    Raises:
        NotRecorded: the model or the loss is the user's, who may have written more than operations; it is too large;
            or what was recorded depends on more than samples, parameters and buffers; or torch refuses.
    """

    def __init__(
        self,
        otherwise: ForwardBackward,
        model: nn.Module,
        loss_fn: LossFunction,
        store: Store,
        examples: Iterable[Batch],
        precision: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        def losses_of(batch: Batch) -> Losses:
            with precision():
                losses: Losses = loss_fn(model(batch.inputs), batch.targets)
            return losses

        if loss_fn.is_of_inputs:
            raise NotRecorded("the loss looks at the inputs")
        refuse_others(model, loss_fn)
        self._otherwise, self._hooks = otherwise, Hooks(model)
        self._programs: dict[int, Program] = {}
        device = store.values.device
        has_tf32 = any(isinstance(module, nn.modules.conv._ConvNd) for module in model.modules())
        tolerance = TOLERANCE_OF_TF32 if has_tf32 and store.values.dtype == torch.float32 else TOLERANCE
        try:
            for example in examples:
                with undisturbed(model, device, is_training=True):
                    program = Program(losses_of, (model, loss_fn), store, example)
                other = Batch(example.inputs.flip(0), example.targets.flip(0))
                ways = (partial(by_autograd, losses_of, store, other), partial(program, other))
                for a, b in zip(*(rehearsed(way, model, store) for way in ways), strict=True):
                    if not is_same(a, b, tolerance):
                        raise NotRecorded(f"it gives other numbers, off by {distance(a, b):.2g} of their norm")
                self._programs[example.num_samples] = program
        except NotRecorded:
            raise
        except Exception as error:  # of whatever kind: an operation may not be made to be called so
            raise NotRecorded(f"{type(error).__name__}: {error}") from error

    def __call__(self, batch: Batch, of: int) -> Losses:
        """The losses of a batch, whose gradients are in the store then, whatever was there."""
        program = None if self._hooks else self._programs.get(batch.num_samples)
        return self._otherwise(batch, of) if program is None else program(batch)


def refuse_others(model: nn.Module, loss_fn: LossFunction) -> None:
    """Raises NotRecorded for modules that may do more in Python than call operations, and for a large model."""
    trusted = (*TRUSTED["model"], *TRUSTED["loss"], "trainer.fast")
    for module in (*model.modules(), *loss_fn.modules()):
        name = type(module).__name__
        if not belongs(type(module).__module__, trusted):
            raise NotRecorded(f"{name} is not ours")
        if is_watched(module) or any(tensor_hooks(module.parameters(recurse=False))):
            raise NotRecorded(f"{name} has a hook")
        if any(callable(value) and hasattr(type(module), key) for key, value in vars(module).items()):
            raise NotRecorded(f"{name} has a method of its own")
    if sum(parameter.numel() for parameter in model.parameters()) > MOST_PARAMETERS:
        raise NotRecorded("it is large")


def by_autograd(losses_of: Callable[[Batch], Losses], store: Store, batch: Batch) -> Losses:
    losses = losses_of(batch)
    store.zero_grad()
    losses.total.backward()
    return losses


def rehearsed(way: Callable[[], Losses], model: nn.Module, store: Store) -> list[Tensor]:
    """What a step gives, which is not made."""
    with undisturbed(model, store.values.device, is_training=True):
        losses = way()
        numbers = (losses.total, *losses.terms.values(), store.grads, *model.buffers())
        return [tensor.detach().clone() for tensor in numbers]


def is_same(a: Tensor, b: Tensor, tolerance: float = TOLERANCE) -> bool:
    """Bit for bit on a CPU, but for the sign of 0 and of what is not a number; on a GPU within the tolerance."""
    if a.is_cuda:
        return distance(a, b) <= tolerance
    return bool(((a == b) | ((a != a) & (b != b))).all())


def distance(a: Tensor, b: Tensor) -> float:
    """Of two tensors, as a share of the norm of the first."""
    off, norm = (x.norm().item() for x in (a.double() - b.double(), a.double()))
    return off / norm if norm else math.inf if off else 0.0


class Call(NamedTuple):
    operator: "OpOverload"
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    results: list[Tensor]


class Recorder(Watching):
    """Keeps the calls of torch's operations, below autograd.

    Args:
        known: the tensors that may come in; of others nobody knows that they are the same in the next step.
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self._known = {id(tensor): tensor for tensor in known}
        self._num_bytes = 0

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if any(id(tensor) not in self._known for tensor in tensors_in((args, kwargs))):
            raise NotRecorded(f"{operator} takes a tensor that comes from elsewhere")
        found = operator(*args, **kwargs)
        results = tensors_in(found)
        if not results or any(result.layout != torch.strided for result in results):
            raise NotRecorded(f"{operator} gives no plain tensor")
        self._num_bytes += sum(result.nbytes for result in results if id(result) not in self._known)
        if self._num_bytes > MOST_BYTES[results[0].device.type]:
            raise NotRecorded("it computes too much")
        self._known |= {id(result): result for result in results}
        self.calls.append(Call(operator, args, kwargs, results))
        return found


def tensors_in(values: Any) -> list[Tensor]:
    """Those among arguments or results."""
    if isinstance(values, Tensor):
        return [values]
    if isinstance(values, dict):
        values = list(values.values())
    return [tensor for value in values for tensor in tensors_in(value)] if isinstance(values, list | tuple) else []


class Program:
    """A step recorded with some samples, to be made with as many others.

    Args:
        losses_of: a batch; it computes from that and from what the modules keep.
    """

    def __init__(
        self, losses_of: Callable[[Batch], Losses], modules: Iterable[nn.Module], store: Store, example: Batch
    ) -> None:
        self._batch = Batch(example.inputs.clone(), example.targets.clone())
        self._seen: Batch | None = None  # whose samples that memory has
        kept = [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
        recorder = Recorder([*self._batch, *kept])
        with recorder:
            self._losses = losses_of(self._batch)
            gradients = torch.autograd.grad(self._losses.total, store.parameters, allow_unused=True)
        # Samples that the step itself writes into must be given anew each time.
        self._is_spoilt = any(tensor._version for tensor in self._batch)
        arguments = [id(tensor) for call in recorder.calls for tensor in tensors_in((call.args, call.kwargs))]
        uses = Counter([*arguments, *map(id, gradients)])
        places = {id(g): p.grad for g, p in zip(gradients, store.parameters, strict=True) if uses[id(g)] == 1}
        written: set[int] = set()
        self._calls: list[Callable[[], object]] = []
        for call in recorder.calls:
            result, *others = call.results
            place = None if others else places.get(id(result))
            # A gradient that nothing else is computed from is written to where it is wanted.
            if place is not None and place.stride() == result.stride() and out_overload(call.operator):
                written.add(id(result))
                call = call._replace(results=[place])
            self._calls += repeated(call)
        for gradient, parameter in zip(gradients, store.parameters, strict=True):
            assert parameter.grad is not None  # the store's
            if gradient is None:
                self._calls.append(parameter.grad.zero_)
            elif id(gradient) not in written:
                self._calls.append(partial(parameter.grad.copy_, gradient))
        if store.values.is_cuda:
            self._calls = [captured(self._calls)]

    def __call__(self, batch: Batch) -> Losses:
        with torch.no_grad():
            if batch is not self._seen or self._is_spoilt:
                self._batch.inputs.copy_(batch.inputs)
                self._batch.targets.copy_(batch.targets)
                self._seen = batch
            for call in self._calls:
                call()
            total, terms = self._losses
            return Losses(total.clone(), {name: term.clone() for name, term in terms.items()})


def captured(calls: Sequence[Callable[[], object]]) -> Callable[[], object]:
    """The kernels of calls as a CUDA graph; returns what launches it.

    Source: PyTorch documentation, "CUDA semantics", "CUDA Graphs": first some rounds on a stream beside the usual one.
    """
    beside, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.no_grad():
        with torch.cuda.stream(beside):
            for call in (*calls, *calls, *calls):
                call()
        torch.cuda.current_stream().wait_stream(beside)
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            for call in calls:
                call()
    return graph.replay


def repeated(call: Call) -> list[Callable[[], object]]:
    """What leaves the results of a call where they were the first time, from what its arguments hold by then."""
    operator, args, kwargs, results = call
    arguments = tensors_in((args, kwargs))
    if all(any(result is argument for argument in arguments) for result in results):  # in place
        return [partial(operator, *args, **kwargs)]
    if any(result.alias_info is not None for result in operator._schema.returns):  # a view, which is there
        return []
    found = out_overload(operator)
    if found is not None and len(results) == len(operator._schema.returns):  # some backward passes leave some out
        names = [argument.name for argument in found._schema.arguments]
        taken = {name: value for name, value in kwargs.items() if name in names}
        return [partial(found, *args, **taken, **dict(zip(names[-len(results) :], results, strict=True)))]

    def again() -> None:
        for result, new in zip(results, tensors_in(operator(*args, **kwargs)), strict=True):
            result.copy_(new)

    return [again]


@cache
def out_overload(operator: "OpOverload") -> "OpOverload | None":
    """The form of an operation that writes its results to tensors that it is given, its last arguments."""
    if any(argument.name == "reduction" for argument in operator._schema.arguments):
        return None  # a loss: torch's kernels have what they are given larger on the way, and warn of it
    packet = operator.overloadpacket
    for overload in (getattr(packet, name) for name in packet.overloads()):
        arguments = overload._schema.arguments
        inputs = [(argument.name, str(argument.type)) for argument in arguments if not argument.is_out]
        own = [(argument.name, str(argument.type)) for argument in operator._schema.arguments]
        own = [argument for argument in own if argument in inputs or argument[0] not in FACTORY]
        if len(arguments) - len(inputs) == len(operator._schema.returns) > 0 and inputs == own:
            return overload
    return None
