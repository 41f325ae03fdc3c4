"""What `torch.optim` computes, done in place on the matrix that holds all parameters of all runs.

The first object of `torch.optim` imports a compiler, and each of its steps spends more on bookkeeping than a small
network's update takes. A class here has the name and the options of the one of `torch.optim` that it stands for, and
its state has the same form, so that a run may go on with either; schedulers and `GradScaler` take it as they take that.

Every run is a parameter group of its own, with numbers of its own: `param_groups[run]["lr"]`.

How exact: on a CPU, and but for Adam and AdamW, an update is the operations of `torch.optim` in their order, and every
row of a stack has the bits of that run alone. (But where only some runs of a stack of RMSprop have momentum, the others
divide first and multiply then, and differ in the last place.)
Adam and AdamW call the fused kernel that `torch.optim` has too: the bits are those of `fused=True`, and differ from the
default's in the last place of each result, as the kernel rounds less often in between.

Gain: a step with `torch.optim.SGD` takes 1.46 (1.28 to 1.50) of one with SGD here in a network 64-32-10, 1.09 in one of
64-1000-100-10 (2026-11-26, AMD EPYC Zen 4, one thread); and the first step comes without the import of a compiler.
"""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from trainer.system.private import fused_adam

Number = float | Tensor  # one for all runs, or [num_runs, 1]
Group = dict[str, Any]


class Update(Optimizer):
    """All but the arithmetic.

    Args:
        values: `[num_runs, num_parameters]`, changed in place.
        grads: of the same shape; where the gradients are found at every step.
        options: keyword arguments of the class in `torch.optim`. A number may be a column `[num_runs, 1]`, of float64
            if it is to keep all its digits; flags are the same for all runs.

    Raises:
        ValueError: a number is outside its range.
        TypeError: there is no such option.
    """

    # What a class states: its options and their defaults; the numbers of a run's state and what they begin at; the
    # tensors of a run's state, which have a number for each parameter.
    options: ClassVar[dict[str, Any]]
    counts: ClassVar[dict[str, float]] = {"step": 0.0}
    moments: ClassVar[tuple[str, ...]] = ()

    def __init__(self, values: Tensor, grads: Tensor, **options: Any) -> None:
        if unknown := options.keys() - self.options.keys():
            raise TypeError(f"{type(self).__name__} has no option {', '.join(sorted(unknown))}")
        options = {**self.options, **options}
        self.values, self.grads = values, grads
        self.counted = [dict(self.counts) for _ in values]
        self.matrices: dict[str, Tensor] = {}  # the moments of all runs, [num_runs, num_parameters]
        self._rows: dict[str, list[Tensor]] = {}
        self._scratch: dict[int, Tensor] = {}
        self._numbers: list[tuple[float, ...]] = []
        self._columns: list[Number] = []
        self.value_rows, self.grad_rows = values.unbind(), grads.unbind()
        groups = []
        for run, (row, grad) in enumerate(zip(self.value_rows, self.grad_rows, strict=True)):
            parameter = nn.Parameter(row)
            parameter.grad = grad
            groups.append({"params": [parameter], **{name: _of_run(value, run) for name, value in options.items()}})
        super().__init__(groups, options)
        for group in self.param_groups:
            _refuse_out_of_range(group)

    # What a class adds.

    def numbers(self, group: Group, count: dict[str, float]) -> tuple[float, ...]:
        """What the next update of a run calls for; `count` is counted on."""
        raise NotImplementedError

    def update(self, *numbers: Number) -> None:
        """Changes `values`, given those numbers of all runs."""
        raise NotImplementedError

    # What an optimizer does.

    def step(self) -> None:  # type: ignore[override]  # nothing evaluates the loss twice here
        numbers = [self.numbers(group, count) for group, count in zip(self.param_groups, self.counted, strict=True)]
        if len(numbers) == 1:
            self.update(*numbers[0])
            return
        if numbers != self._numbers:
            self._numbers, self._columns = numbers, [self._column(column) for column in zip(*numbers, strict=True)]
        self.update(*self._columns)

    step.hooked = True  # type: ignore[attr-defined]  # or the base class wraps it, at several times a small step's price

    def zero_grad(self, set_to_none: bool = False) -> None:
        """Sets the gradients to 0 in place, whatever is asked: None would cut them loose from the matrix."""
        self.grads.zero_()

    # The base class wraps these three so that they import the compiler.

    def add_param_group(self, param_group: Group) -> None:
        self.param_groups.append(param_group)

    def state_dict(self) -> dict[str, Any]:
        """As `torch.optim` has it for a list of parameters, a run each: tensors and plain values."""
        state: dict[int, dict[str, Tensor]] = {}
        for run, count in enumerate(self.counted if self.matrices else []):
            state[run] = {name: torch.tensor(number, dtype=torch.float32) for name, number in count.items()}
            state[run] |= {name: matrix[run] for name, matrix in self.matrices.items()}
        groups = [{**group, "params": [run]} for run, group in enumerate(self.param_groups)]
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Raises ValueError: the state is of another number of runs or parameters, or of another optimizer."""
        if (found := len(state_dict["param_groups"])) != len(self.param_groups):
            raise ValueError(f"the optimizer's state is of {found} runs, not {len(self.param_groups)}")
        self.matrices.clear()
        self._rows.clear()
        for run, group in enumerate(self.param_groups):
            group.update({name: x for name, x in state_dict["param_groups"][run].items() if name != "params"})
            saved = {name: x for name, x in state_dict["state"].get(run, {}).items() if x is not None}
            if unknown := saved.keys() - {*self.counts, *self.moments}:
                raise ValueError(f"the optimizer's state has {', '.join(sorted(unknown))}: it is of another optimizer")
            self.counted[run] = {name: float(saved.get(name, start)) for name, start in self.counts.items()}
            for name in saved.keys() - self.counts.keys():
                row = self.rows(name)[run]
                if saved[name].shape != row.shape:
                    raise ValueError(
                        f"{name} has {saved[name].numel():,} numbers; there are {row.numel():,} parameters"
                    )
                row.copy_(saved[name])

    # Words for the arithmetic.

    def _column(self, numbers: tuple[float, ...]) -> Number:
        """The numbers of all runs; one stands for all where they are the same."""
        if len(set(numbers)) == 1:
            return numbers[0]
        return torch.tensor(numbers, dtype=self.values.dtype, device=self.values.device).unsqueeze(1)

    def matrix(self, name: str, start: float = 0.0) -> Tensor:
        """A moment of all runs, made when it is first asked for."""
        if name not in self.matrices:
            self.matrices[name] = torch.full_like(self.values, start)
        return self.matrices[name]

    def rows(self, name: str) -> list[Tensor]:
        """A moment, run by run."""
        if name not in self._rows:
            self._rows[name] = list(self.matrix(name).unbind())
        return self._rows[name]

    def scratch(self, i: int) -> Tensor:
        """Memory for what lasts no longer than a step."""
        if i not in self._scratch:
            self._scratch[i] = torch.empty_like(self.values)
        return self._scratch[i]

    def gradient(self, decay: Number) -> Tensor:
        """Of what is minimized: the loss and `decay` / 2 times the sum of the squared values."""
        grad = self.grads
        if self.defaults["maximize"]:
            grad = torch.neg(grad, out=self.scratch(0))
        if _is_any(decay):
            grad = _plus(grad, self.values, decay, self.scratch(0))
        return grad

    def add_product(self, total: Tensor, a: Tensor, b: Tensor, factor: Number) -> None:
        """`total += factor * a * b`."""
        if isinstance(factor, Tensor):
            total.addcmul_(torch.mul(a, factor, out=self.scratch(2)), b)
        else:
            total.addcmul_(a, b, value=factor)

    def add_quotient(self, total: Tensor, a: Tensor, b: Tensor, factor: Number) -> None:
        """`total += factor * a / b`."""
        if isinstance(factor, Tensor):
            total.addcdiv_(torch.mul(a, factor, out=self.scratch(2)), b)
        else:
            total.addcdiv_(a, b, value=factor)


def _plus(a: Tensor, b: Tensor, factor: Number, out: Tensor) -> Tensor:
    """`a + factor * b`, rounded once either way."""
    if isinstance(factor, Tensor):
        return torch.addcmul(a, b, factor, out=out)
    return torch.add(a, b, alpha=factor, out=out)


def _is_any(number: Number) -> bool:
    """Whether it is not 0 in every run."""
    return isinstance(number, Tensor) or number != 0


def _of_run(option: Any, run: int) -> Any:
    if isinstance(option, list | tuple):
        return tuple(_of_run(item, run) for item in option)
    if isinstance(option, Tensor):
        option = option[run].item()
    return option if isinstance(option, bool) else float(option)


def _refuse_out_of_range(group: Group) -> None:
    for name, value in group.items():
        for number in value if name == "betas" else [value] if isinstance(value, float) else []:
            if not number >= 0:
                raise ValueError(f"{name}={value}: must be at least 0")
            if name in ("betas", "rho") and not number < 1:
                raise ValueError(f"{name}={value}: must be below 1")
    if group.get("nesterov") and not (group["momentum"] > 0 and group["dampening"] == 0):
        raise ValueError("nesterov=true: needs a momentum above 0, and dampening=0")


class ManualSGD(Update):
    """`trainer.optim.manual_sgd.ManualSGD`."""

    options: ClassVar = {"lr": 1e-3}
    counts: ClassVar = {}

    def numbers(self, group: Group, count: dict[str, float]) -> tuple[float, ...]:
        return (-group["lr"],)

    def update(self, *numbers: Number) -> None:
        _plus(self.values, self.grads, numbers[0], self.values)


class SGD(Update):
    options: ClassVar = {
        "lr": 1e-3,
        "momentum": 0.0,
        "dampening": 0.0,
        "weight_decay": 0.0,
        "nesterov": False,
        "maximize": False,
    }
    counts: ClassVar = {}
    moments = ("momentum_buffer",)

    def numbers(self, group: Group, count: dict[str, float]) -> tuple[float, ...]:
        momentum = group["momentum"]
        # The first gradient is not damped; without momentum none is.
        is_whole = momentum == 0 or "momentum_buffer" not in self.matrices
        return group["weight_decay"], momentum, 1.0 if is_whole else 1 - group["dampening"], -group["lr"]

    def update(self, *numbers: Number) -> None:
        decay, momentum, part, minus_lr = numbers
        change = self.gradient(decay)
        if _is_any(momentum):
            mean = self.matrix("momentum_buffer").mul_(momentum)
            _plus(mean, change, part, mean)
            change = _plus(change, mean, momentum, self.scratch(0)) if self.defaults["nesterov"] else mean
        _plus(self.values, change, minus_lr, self.values)


class Adam(Update):
    """By torch's fused kernel: one pass over the memory, where operations one by one make seven."""

    options: ClassVar = {
        "lr": 1e-3,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "weight_decay": 0.0,
        "amsgrad": False,
        "maximize": False,
        "decoupled_weight_decay": False,
    }
    moments = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")

    def step(self) -> None:  # type: ignore[override]
        # A call takes the rows that share their numbers: a run has the same bits alone and anywhere in a stack.
        alike: dict[tuple[float, ...], list[int]] = {}
        for run, (group, count) in enumerate(zip(self.param_groups, self.counted, strict=True)):
            count["step"] += 1
            numbers = (count["step"], group["lr"], *group["betas"], group["weight_decay"], group["eps"])
            alike.setdefault(numbers, []).append(run)
        amsgrad, maximize = self.defaults["amsgrad"], self.defaults["maximize"]
        update = fused_adam(self.defaults["decoupled_weight_decay"])
        assert update is not None  # `standing_for` has asked
        names = self.moments if amsgrad else self.moments[:2]
        for (step, lr, beta1, beta2, decay, eps), runs in alike.items():
            mean, square, largest = (
                [self.rows(name)[run] for run in runs] if name in names else [] for name in self.moments
            )
            update(
                [self.value_rows[run] for run in runs],
                [self.grad_rows[run] for run in runs],
                mean,
                square,
                largest,
                [torch.full((), step, dtype=torch.float32, device=self.values.device)] * len(runs),
                lr=lr,
                beta1=beta1,
                beta2=beta2,
                weight_decay=decay,
                eps=eps,
                amsgrad=amsgrad,
                maximize=maximize,
            )

    step.hooked = True  # type: ignore[attr-defined]


class AdamW(Adam):
    options: ClassVar = {**Adam.options, "weight_decay": 1e-2, "decoupled_weight_decay": True}


class Lion(Update):
    """`trainer.optim.lion.Lion`."""

    options: ClassVar = {"lr": 1e-4, "betas": (0.9, 0.99), "weight_decay": 0.0}
    counts: ClassVar = {}
    moments = ("exp_avg",)

    def numbers(self, group: Group, count: dict[str, float]) -> tuple[float, ...]:
        lr, (beta1, beta2) = group["lr"], group["betas"]
        return 1 - lr * group["weight_decay"], beta1, 1 - beta1, 1 - beta2, -lr

    def update(self, *numbers: Number) -> None:
        kept, beta1, rest1, rest2, minus_lr = numbers
        mean = self.matrix("exp_avg")
        change = torch.mul(mean, beta1, out=self.scratch(0))
        _plus(change, self.grads, rest1, change).sign_()
        self.values.mul_(kept)
        _plus(self.values, change, minus_lr, self.values)
        mean.lerp_(self.grads, rest2)


class NAdam(Update):
    options: ClassVar = {
        "lr": 2e-3,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "weight_decay": 0.0,
        "momentum_decay": 4e-3,
        "decoupled_weight_decay": False,
        "maximize": False,
    }
    counts: ClassVar = {"step": 0.0, "mu_product": 1.0}
    moments = ("exp_avg", "exp_avg_sq")

    def numbers(self, group: Group, count: dict[str, float]) -> tuple[float, ...]:
        count["step"] += 1
        step, lr, (beta1, beta2) = count["step"], group["lr"], group["betas"]
        mu = beta1 * (1.0 - 0.5 * (0.96 ** (step * group["momentum_decay"])))
        mu_next = beta1 * (1.0 - 0.5 * (0.96 ** ((step + 1) * group["momentum_decay"])))
        count["mu_product"] = product = float(np.float32(count["mu_product"]) * np.float32(mu))  # torch's is float32
        of_grad, of_mean = -lr * (1.0 - mu) / (1.0 - product), -lr * mu_next / (1.0 - product * mu_next)
        return *_decays(group), 1 - beta1, beta2, 1 - beta2, 1 - beta2**step, group["eps"], of_grad, of_mean

    def update(self, *numbers: Number) -> None:
        kept, decay, rest1, beta2, rest2, correction, eps, of_grad, of_mean = numbers
        grad, mean, square = self.gradient(decay), self.matrix("exp_avg"), self.matrix("exp_avg_sq")
        if _is_any(1 - kept):
            self.values.mul_(kept)
        mean.lerp_(grad, rest1)
        self.add_product(square.mul_(beta2), grad, grad, rest2)
        root = torch.div(square, correction, out=self.scratch(1)).sqrt_().add_(eps)
        self.add_quotient(self.values, grad, root, of_grad)
        self.add_quotient(self.values, mean, root, of_mean)


class RAdam(Update):
    options: ClassVar = {
        "lr": 1e-3,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "weight_decay": 0.0,
        "decoupled_weight_decay": False,
        "maximize": False,
    }
    moments = ("exp_avg", "exp_avg_sq")

    def numbers(self, group: Group, count: dict[str, float]) -> tuple[float, ...]:
        count["step"] += 1
        step, (beta1, beta2) = count["step"], group["betas"]
        correction1, correction2 = 1 - beta1**step, 1 - beta2**step
        # L. Liu et al., "On the Variance of the Adaptive Learning Rate and Beyond", 2020, algorithm 2
        longest = 2 / (1 - beta2) - 1
        length = longest - 2 * step * (beta2**step) / correction2
        rectified = 0.0  # no variance to go by yet
        if length > 5.0:
            rectified = ((length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)) ** 0.5
        rests = 1 - beta1, beta2, 1 - beta2
        return *_decays(group), *rests, correction1, group["lr"], group["eps"], correction2**0.5, rectified

    def update(self, *numbers: Number) -> None:
        kept, decay, rest1, beta2, rest2, correction, lr, eps, root_correction, rectified = numbers
        grad, mean, square = self.gradient(decay), self.matrix("exp_avg"), self.matrix("exp_avg_sq")
        if _is_any(1 - kept):
            self.values.mul_(kept)
        mean.lerp_(grad, rest1)
        self.add_product(square.mul_(beta2), grad, grad, rest2)
        change = torch.div(mean, correction, out=self.scratch(1)).mul_(lr)
        if _is_any(rectified):
            rate = torch.sqrt(square, out=self.scratch(2)).add_(eps).reciprocal_().mul_(root_correction)
            if isinstance(rectified, Tensor):  # not every run has its own yet
                rate.masked_fill_(rectified == 0, 1.0)
                rectified = rectified.masked_fill(rectified == 0, 1.0)
            change.mul_(rate).mul_(rectified)
        self.values.sub_(change)


def _decays(group: Group) -> tuple[float, float]:
    """The part of the values that a decoupled decay leaves, and the decay that goes into the gradient."""
    decay = group["weight_decay"]
    return (1 - group["lr"] * decay, 0.0) if group["decoupled_weight_decay"] else (1.0, decay)


class RMSprop(Update):
    options: ClassVar = {
        "lr": 1e-2,
        "alpha": 0.99,
        "eps": 1e-8,
        "weight_decay": 0.0,
        "momentum": 0.0,
        "centered": False,
        "maximize": False,
    }
    moments = ("square_avg", "grad_avg", "momentum_buffer")

    def numbers(self, group: Group, count: dict[str, float]) -> tuple[float, ...]:
        count["step"] += 1
        alpha = group["alpha"]
        return group["weight_decay"], alpha, 1 - alpha, group["eps"], group["momentum"], -group["lr"]

    def update(self, *numbers: Number) -> None:
        decay, alpha, rest, eps, momentum, minus_lr = numbers
        grad, square = self.gradient(decay), self.matrix("square_avg")
        self.add_product(square.mul_(alpha), grad, grad, rest)
        if self.defaults["centered"]:
            mean = self.matrix("grad_avg").lerp_(grad, rest)
            root = torch.addcmul(square, mean, mean, value=-1, out=self.scratch(1)).sqrt_().add_(eps)
        else:
            root = torch.sqrt(square, out=self.scratch(1)).add_(eps)
        if _is_any(momentum):
            change = self.matrix("momentum_buffer").mul_(momentum).addcdiv_(grad, root)
            _plus(self.values, change, minus_lr, self.values)
        else:
            self.add_quotient(self.values, grad, root, minus_lr)


class Adagrad(Update):
    options: ClassVar = {
        "lr": 1e-2,
        "lr_decay": 0.0,
        "weight_decay": 0.0,
        "initial_accumulator_value": 0.0,
        "eps": 1e-10,
        "maximize": False,
    }
    moments = ("sum",)

    def __init__(self, values: Tensor, grads: Tensor, **options: Any) -> None:
        super().__init__(values, grads, **options)
        self.matrix("sum", self.defaults["initial_accumulator_value"])

    def numbers(self, group: Group, count: dict[str, float]) -> tuple[float, ...]:
        count["step"] += 1
        lr = group["lr"] / (1 + (count["step"] - 1) * group["lr_decay"])
        return group["weight_decay"], group["eps"], -lr

    def update(self, *numbers: Number) -> None:
        decay, eps, minus_lr = numbers
        grad, square = self.gradient(decay), self.matrix("sum")
        root = torch.sqrt(square.addcmul_(grad, grad), out=self.scratch(1)).add_(eps)
        self.add_quotient(self.values, grad, root, minus_lr)


class Adadelta(Update):
    options: ClassVar = {"lr": 1.0, "rho": 0.9, "eps": 1e-6, "weight_decay": 0.0, "maximize": False}
    moments = ("square_avg", "acc_delta")

    def numbers(self, group: Group, count: dict[str, float]) -> tuple[float, ...]:
        count["step"] += 1
        return group["weight_decay"], group["rho"], 1 - group["rho"], group["eps"], -group["lr"]

    def update(self, *numbers: Number) -> None:
        decay, rho, rest, eps, minus_lr = numbers
        grad, square, squared_change = self.gradient(decay), self.matrix("square_avg"), self.matrix("acc_delta")
        self.add_product(square.mul_(rho), grad, grad, rest)
        root = torch.add(square, eps, out=self.scratch(1)).sqrt_()
        change = torch.add(squared_change, eps, out=self.scratch(3)).sqrt_().div_(root).mul_(grad)
        self.add_product(squared_change.mul_(rho), change, change, rest)
        _plus(self.values, change, minus_lr, self.values)


_ALL = (ManualSGD, SGD, Adam, AdamW, Lion, NAdam, RAdam, RMSprop, Adagrad, Adadelta)
CLASSES = {kind.__name__: kind for kind in _ALL}


def standing_for(name: str, options: Iterable[str]) -> type[Update] | None:
    """The class here that does what the one of this name does with these options; None where there is none."""
    kind = CLASSES.get(name)
    if kind is None or not set(options) <= kind.options.keys():
        return None
    is_there = not issubclass(kind, Adam) or fused_adam(kind is AdamW or "decoupled_weight_decay" in options)
    return kind if is_there else None


def of_run(state: Mapping[str, Any], run: int) -> dict[str, Any]:
    """From the state of a stack, that of one run, as if it had been alone."""
    return {"state": {0: state["state"].get(run, {})}, "param_groups": [{**state["param_groups"][run], "params": [0]}]}


def stacked(states: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """From the states of runs alone, that of a stack of them."""
    states = list(states)
    return {
        "state": {run: state["state"].get(0, {}) for run, state in enumerate(states)},
        "param_groups": [{**state["param_groups"][0], "params": [run]} for run, state in enumerate(states)],
    }
