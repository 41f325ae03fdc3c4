"""Forward, loss and backward of a step as one compiled function: `compile=true`.

Gain, with `trainer.fast.windows`: a LeNet step takes 0.38 (0.34 to 0.41) of a tutorial's, 0.57 (0.54 to 0.62) without
(2026-11-22, AMD EPYC Zen 5, one thread).
"""

import math
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import GradScaler

from trainer.data.batches import Batch
from trainer.fast.hooks import Hooks
from trainer.fast.windows import for_compiler
from trainer.losses.function import Losses, LossFunction
from trainer.losses.term import Whole
from trainer.state import Store
from trainer.system.private import Gone, compiler
from trainer.trials import undisturbed

# How far a compiled loss or gradient may be from the uncompiled one, as a share of its norm: many times what rounding
# makes of it, and far below what a wrong one is.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.1}


class NotCompiled(Exception):
    """Why something can't be compiled, in a few words."""


class CompiledPart:
    """Forward, loss and backward of the samples that go through the model at once, as one function.

    It is compiled for one number of samples; the short batch at the end of an epoch is not worth another compilation
    and goes the ordinary way. Dropout draws what it would uncompiled, and buffers change as they would.

    Before it is used, one batch goes both ways: its loss, gradients and buffers must be the same but for rounding.
    Nothing of that is left: the parameters, buffers, gradients, modes and random state are what they were.

    Args:
        otherwise: the ordinary way.
        model: in training it is called with `example.num_samples` samples at once.
        scaler: what scales the loss; a scaled loss has scaled gradients.
        precision: what the forward pass and the loss run under.
        example: samples of the training split.
        of: the number of samples of which they are a part, see `LossFunction`.
        is_graphed: on a GPU, whether the kernels of a step are recorded as a CUDA graph.
        note: is told in a line where a later step can't be computed so, which ends its use.

    Raises:
        NotCompiled: the compiler refuses, or what it makes computes something else.
    """

    def __init__(
        self,
        otherwise: Callable[[Batch, Whole], Losses],
        model: nn.Module,
        loss_fn: LossFunction,
        store: Store,
        scaler: GradScaler,
        precision: Callable[[], AbstractContextManager[object]],
        example: Batch,
        of: int,
        is_graphed: bool,
        note: Callable[[str], None],
    ) -> None:
        if not isinstance(example.inputs, Tensor) or not isinstance(example.targets, Tensor):
            raise NotCompiled("inputs and targets are not one tensor each")
        if loss_fn.is_of_model:
            raise NotCompiled("the model computes its own loss")
        if loss_fn.whole(of, example.targets).weights and of != example.num_samples:
            raise NotCompiled("the loss weighs its targets, and a batch is taken in parts")
        try:
            dynamo = compiler(trace_autograd_ops=True)
        except Gone as error:
            raise NotCompiled(str(error)) from error
        dynamo.reset()  # what other runs of this process left would be looked through at every step

        network = for_compiler(model, store.values.device)

        def step(grads: Tensor, inputs: Tensor, targets: Tensor, scale: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            with precision():
                losses = loss_fn(network(inputs), targets, inputs, Whole(of), example.num_samples)
            parts = torch.autograd.grad(losses.total * scale, store.parameters, allow_unused=True)
            zipped = zip(parts, store.parameters, strict=True)
            grads.add_(torch.cat([(torch.zeros_like(p) if part is None else part).reshape(-1) for part, p in zipped]))
            return losses.total.detach(), losses.terms

        self._otherwise, self._hooks = otherwise, Hooks(model)
        self._model, self._store, self._grads, self._scaler = model, store, store.grads[0], scaler
        self._num_samples, self._of, self._note = example.num_samples, of, note
        self._one = torch.ones((), device=store.grads.device)
        self._plain, self._precision, self._loss_fn = step, precision, loss_fn
        # `fallback_random`: the draws of torch's own generator, in the order of the uncompiled step.
        options: dict[str, Any] = {"fallback_random": True}
        self._is_replayed = is_graphed
        if is_graphed:
            options["triton.cudagraphs"] = True
            dynamo.mark_static_address(self._grads)  # a graph writes where it has written before
        self._compiled = torch.compile(step, fullgraph=True, dynamic=False, options=options)
        self._is_usable = True
        try:
            self._compare(example)
            self._is_reached = self._reached(example) if store.is_watched else []
        except NotCompiled:
            raise
        except Exception as error:  # of whatever kind: a compiler may fail in any way
            raise NotCompiled(f"{type(error).__name__}: {error}".splitlines()[0].rstrip(".: ")) from error

    def __call__(self, part: Batch, of: Whole) -> Losses:
        """The losses of some samples of `of`, detached, whose gradients are added to the store's."""
        is_known = of.num_samples == self._of and part.num_samples == self._num_samples
        if not self._is_usable or not is_known or self._hooks:
            return self._otherwise(part, of)
        try:
            with torch.compiler.set_stance("fail_on_recompile"):
                losses = self._run(self._compiled, part)
            self._store.reach(self._is_reached)
            return losses
        except RuntimeError as error:
            if "fail_on_recompile" not in str(error):
                raise
            self._is_usable = False
            self._note("warning: compile=true: the model changes from step to step; the run goes on uncompiled")
            return self._otherwise(part, of)

    def _run(self, step: Callable[..., tuple[Tensor, dict[str, Tensor]]], part: Batch) -> Losses:
        inputs, targets = (tensor.contiguous() for tensor in part)  # memory of one form, of which the code is made
        if self._is_replayed:
            torch.compiler.cudagraph_mark_step_begin()
        total, terms = step(self._grads, inputs, targets, self._scaler.scale(self._one))
        if self._is_replayed:  # the next replay writes its losses to the same places
            total, terms = total.clone(), {name: term.clone() for name, term in terms.items()}
        return Losses(total, terms)

    def _reached(self, example: Batch) -> list[bool]:
        """Which parameters a gradient reaches: in a compiled step always the same."""
        with undisturbed(self._model, self._grads.device, True, self._loss_fn), self._precision():
            total = self._loss_fn(self._model(example.inputs.clone()), example.targets).total
            parts = torch.autograd.grad(total, self._store.parameters, allow_unused=True)
        return [part is not None for part in parts]

    def _compare(self, example: Batch) -> None:
        """Raises NotCompiled where the two ways differ."""
        floats = [buffer for buffer in self._model.buffers() if buffer.is_floating_point()]

        def measured(step: Callable[..., tuple[Tensor, dict[str, Tensor]]]) -> list[Tensor]:
            with undisturbed(self._model, self._grads.device, True, self._loss_fn):
                self._grads.zero_()
                losses = self._run(step, Batch(example.inputs.clone(), example.targets))
                # Buffers as one: where all means are 0 but for rounding, rounding is all that they are.
                buffers = [torch.cat([buffer.reshape(-1) for buffer in floats])] if floats else []
                return [losses.total, self._grads.clone(), *buffers]

        plain = measured(self._plain)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the compiler's about itself
            compiled = measured(self._compiled)
        with self._precision():
            kind = self._grads.device.type
            dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else self._grads.dtype
        for a, b in zip(plain, compiled, strict=True):
            distance = (a - b).norm().item()
            if math.isfinite(a.norm().item()) and not distance <= TOLERANCE[dtype] * a.norm().item():
                raise NotCompiled(f"what it gives is off by {distance:.2g} of {a.norm().item():.2g}")


def compile_in_place(model: nn.Module) -> None:
    """Has torch.compile take the model over at its first call; what it can't compile runs as it is.

    Raises:
        NotCompiled: this release of torch can't be told that.
    """
    try:
        compiler(suppress_errors=True)
    except Gone as error:
        raise NotCompiled(str(error)) from error
    model.compile()
