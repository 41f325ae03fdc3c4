"""What the layers of a model give: mean, spread, dead and saturated units, measured in the forward pass that trains.

Module hooks see what a layer gives. A ReLU is often no module but a call inside a `forward`, so a `TorchDispatchMode`,
which every operation passes on its way to a kernel, sees those. Both are there for one forward pass and then gone.
"""

import math
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from trainer.system.private import Watching, has_dispatch_mode, is_passing
from trainer.trees import leaves

_aten: Any = torch.ops.aten
_RELUS = {_aten.relu.default, _aten.relu_.default}
# A ReLU where the lower bound is 0: `x.clamp(min=0)`, ReLU6, `nn.Threshold(0, 0)`.
_CLAMPS = {getattr(_aten, name + end).default for name in ("clamp", "clamp_min", "hardtanh") for end in ("", "_")}
_CLAMPS |= {_aten.threshold.default, _aten.threshold_.default}
_TANHS = {_aten.tanh.default, _aten.tanh_.default}
_SIGMOIDS = {_aten.sigmoid.default, _aten.sigmoid_.default}
_SOFTMAXES = {_aten._softmax.default, _aten._log_softmax.default}

# |tanh(x)| above this is saturated: A. Karpathy, "makemore", part 3 (2022), counts so. sigmoid(2x) = (1 + tanh(x)) / 2,
# which makes it this for a sigmoid, and for a softmax of two.
SATURATED_TANH = 0.97
SATURATED_PROBABILITY = (1 + SATURATED_TANH) / 2

# Their outputs have the units in the last dimension, whatever stands before it; all others have them in the second.
_UNITS_LAST = (nn.Linear, nn.LayerNorm, nn.RMSNorm, nn.Embedding, nn.RNNBase, nn.MultiheadAttention)


class Activations:
    """The numbers of one forward pass, by TensorBoard tag.

    - `activation_mean/<module>`, `activation_std/<module>` (divided by n, not n - 1): over all entries of what a module
      gives, for every module with parameters of its own and for `torch.nn`'s activation functions;
    - `dead_units/<layer>`: the share (0 to 1) of units that are zero for every sample of the batch, behind a ReLU of
      whatever form: a module, `relu(x)`, `x.relu_()`, `x.clamp(min=0)`. A unit is a feature, or a channel with all its
      places;
    - `saturated_units/<layer>`: the share of entries behind a tanh or sigmoid that are at one of its ends, where no
      gradient passes; of a softmax, the share of its distributions that are at a corner.

    `<layer>` is the module with parameters that ran last before: the units are its units. A ReLU before any such
    module, as in a model that multiplies by its parameters itself, is called `relu`; a second one of the same name gets
    `_2`. The model itself is called `model`. Of a module that runs several times the first time counts. Computations
    outside of torch are not seen.

    Precision: a standard deviation is wrong by less than 1e-3 of itself while it is above a hundredth of the mean.

    Args:
        model: neither it nor what it computes is changed, to the bit; if compiled, it runs uncompiled while watched.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._pass: _Pass | None = None

    def watch(self) -> None:
        """Measures the next forward pass of the model, and that one alone."""
        if has_dispatch_mode():
            self._pass = _Pass(self._model)

    def numbers(self) -> dict[str, float]:
        """Of the pass that was watched last; empty where there was none. One wait for the device."""
        watched, self._pass = self._pass, None
        if watched is None or not watched.measured:
            return {}
        values = torch.stack([value.float() for value in watched.measured.values()]).tolist()
        numbers = dict(zip(watched.measured, values, strict=True))
        for name, count in watched.counts.items():
            norm, mean = numbers[f"activation_std/{name}"], numbers[f"activation_mean/{name}"]
            # torch.std takes 40 times as long as mean and norm together on a CPU.
            numbers[f"activation_std/{name}"] = math.sqrt(max(0.0, norm * norm / count - mean * mean))
        return numbers


class _Pass(Watching):
    """Watches from the moment it is made to the end of the model's next forward pass."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        # 0-dimensional, on the model's device; in place of a standard deviation the norm.
        self.measured: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}  # module: the number of entries that it gave
        self._layer, self._has_units_last = "", False  # of the module with parameters that ran last
        self._handles: list[RemovableHandle] = []
        for name, module in model.named_modules():
            has_parameters = any(True for _ in module.parameters(recurse=False))
            if has_parameters or type(module).__module__ == "torch.nn.modules.activation":
                self._handles.append(module.register_forward_hook(self._measure(name, has_parameters)))
        self._handles.append(model.register_forward_pre_hook(self._begin, prepend=True))
        self._handles.append(model.register_forward_hook(self._end, always_call=True))  # after an error, too
        if "torch._dynamo" in sys.modules:  # or else nothing is compiled, and importing it takes a second
            torch.compiler.set_stance("force_eager")

    def _begin(self, *_: Any) -> None:
        self.__enter__()

    def _end(self, *_: Any) -> None:
        self.__exit__(None, None, None)
        for handle in self._handles:
            handle.remove()
        if "torch._dynamo" in sys.modules:
            torch.compiler.set_stance("default")

    def _measure(self, name: str, has_parameters: bool) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, outputs: Any) -> None:
            if has_parameters:
                self._layer, self._has_units_last = name, isinstance(module, _UNITS_LAST)
            called = name or "model"
            x = next((x for x in leaves(outputs) if x.is_floating_point()), None)
            if x is None or is_passing(x) or not x.numel() or called in self.counts:
                return
            x = x.detach() if x.dtype in (torch.float32, torch.float64) else x.detach().float()
            self.counts[called] = x.numel()
            self.measured[f"activation_mean/{called}"] = x.mean()
            self.measured[f"activation_std/{called}"] = torch.linalg.vector_norm(x)

        return hook

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outputs = func(*args, **(kwargs or {}))
        if func in _RELUS or (func in _CLAMPS and len(args) > 1 and args[1] == 0):
            if outputs.dim() > 1 and outputs.numel():
                units = outputs.dim() - 1 if self._has_units_last else 1
                # Nothing here is negative: the sum is zero where all is.
                sums = outputs.sum([dim for dim in range(outputs.dim()) if dim != units])
                self._note("dead_units", "relu", sums == 0)
        elif func in _TANHS:
            self._note("saturated_units", "tanh", outputs.abs() > SATURATED_TANH)
        elif func in _SIGMOIDS:
            self._note("saturated_units", "sigmoid", (outputs - 0.5).abs() > SATURATED_PROBABILITY - 0.5)
        elif func in _SOFTMAXES:
            largest = outputs.amax(args[1])
            largest = largest.exp() if func is _aten._log_softmax.default else largest
            self._note("saturated_units", "softmax", largest > SATURATED_PROBABILITY)
        return outputs

    def _note(self, kind: str, otherwise: str, is_so: Tensor) -> None:
        """Writes down the share of what is so, under the last layer's name."""
        tag, count = f"{kind}/{self._layer or otherwise}", 1
        while tag in self.measured:
            count += 1
            tag = f"{kind}/{self._layer or otherwise}_{count}"
        self.measured[tag] = is_so.float().mean()
