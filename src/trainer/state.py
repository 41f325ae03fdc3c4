"""What a checkpoint must hold so that a run goes on exactly; and the parameters as one flat buffer."""

import math
import zlib
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate, pairwise
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from trainer.data.prepare import Fingerprint
from trainer.distributed import ALONE, World
from trainer.draws import random_state, set_random_state
from trainer.kept import put_state, state_of
from trainer.optim import held
from trainer.optim.average import Average
from trainer.optim.patience import Patience
from trainer.optim.schedulers import Schedule
from trainer.trials import DRAWING, OF_ALL, is_others, state_of_draws


class Store:
    """All trainable parameters of a model and its loss as views into one buffer, their gradients into another.

    A module does not notice: its parameters keep names, shapes and identity. What runs over all of them (an update, the
    statistics, clipping) then is one operation on `values` and `grads`, `[num_runs, num_parameters]` with
    `num_runs = 1`. Parameters of which no gradient is asked stay where they are. A complex number is two numbers here.

    Args:
        model: already on its device and in its dtype.
        loss: the same; its parameters come last, as `loss.<name>`, and their gradients are `grads_of_loss`, too.

    Raises:
        ValueError: no parameter is trainable, or they are of several dtypes or devices.
    """

    def __init__(self, model: nn.Module, loss: nn.Module | None = None) -> None:
        of_loss = [] if loss is None else [(f"loss.{name}", p) for name, p in loss.named_parameters()]
        named = [(name, p) for name, p in [*model.named_parameters(), *of_loss] if p.requires_grad and p.numel()]
        if not named:
            raise ValueError("the model has no trainable parameter")
        kinds = {(p.dtype.to_real(), p.device) for _, p in named}
        if len(kinds) > 1:
            raise ValueError(f"the trainable parameters are of several kinds: {sorted(map(str, kinds))}; one is needed")
        self.names = [name for name, _ in named]
        self.parameters = [p for _, p in named]
        # Where each parameter begins in a row, and the last one ends.
        self.bounds = [0, *accumulate(p.numel() * (1 + p.is_complex()) for p in self.parameters)]
        self.values = torch.cat([real(p.detach()) for p in self.parameters]).unsqueeze(0)
        self.grads = torch.zeros_like(self.values)
        num_of_loss = sum(p.requires_grad and p.numel() > 0 for _, p in of_loss)
        self.grads_of_loss = self.grads[0, self.bounds[len(named) - num_of_loss] :]
        self.place()
        self._reached: list[bool] | None = None
        # The same memory as one parameter, for optimizers whose update is elementwise.
        self.flat = nn.Parameter(self.values[0])
        self.flat.grad = self.grads[0]

    def place(self) -> None:
        """Has the parameters and their gradients be views into the buffers."""
        for p, (start, end) in zip(self.parameters, pairwise(self.bounds), strict=True):
            p.data, p.grad = (view(buffer[0, start:end], p) for buffer in (self.values, self.grads))

    @property
    def is_watched(self) -> bool:
        return self._reached is not None

    def watch(self, world: World) -> None:
        """Looks from now on which parameters a gradient reaches, on any rank: one need not, in a network that branches.

        Where this is not asked for, all of them count as reached: their gradient is 0 then, and not None.
        """
        self._reached, self._world = [False] * len(self.parameters), world
        for i, parameter in enumerate(self.parameters):
            parameter.register_post_accumulate_grad_hook(partial(self._reach, i))

    def _reach(self, i: int, parameter: Tensor | None = None) -> None:
        assert self._reached is not None
        self._reached[i] = True

    def reach(self, is_reached: Sequence[bool]) -> None:
        """Is told by who computes gradients in another way than by `backward()`."""
        if self._reached is not None:
            self._reached = [*is_reached]

    def unreached(self) -> list[int]:
        """The numbers of the parameters that have had no gradient since `zero_grad`."""
        if self._reached is None:
            return []
        reached: Sequence[int] = self._reached
        if self._world.size > 1:  # on a GPU this waits for it
            reached = self._world.sum(torch.tensor(reached, dtype=torch.int32, device=self.grads.device)).tolist()
        return [i for i, count in enumerate(reached) if not count]

    def take_back(self) -> None:
        """Puts parameters and gradients back into the buffers, which somebody has given other memory."""
        for p, (start, end) in zip(self.parameters, pairwise(self.bounds), strict=True):
            row = view(self.values[0, start:end], p)
            if p.data_ptr() != row.data_ptr():
                row.copy_(p.data)
        self.place()

    def zero_grad(self) -> None:
        """Sets the gradients to 0 in place: setting them to None would cut them loose from the buffer."""
        self.grads.zero_()
        if self._reached is not None:
            self._reached = [False] * len(self.parameters)

    def views(self, row: Tensor) -> dict[Tensor, Tensor]:
        """Each parameter's part of a row like that of `values`, in its form: the same memory."""
        rows = zip(self.parameters, pairwise(self.bounds), strict=True)
        return {p: view(row[start:end], p) for p, (start, end) in rows}

    def clip(self, norm: float | None, value: float | None) -> None:
        """Clips the gradients, by value and then by their norm over all parameters; waits for no device."""
        if value is not None:
            self.grads.clamp_(-value, value)
        if norm is not None:
            # 1e-6 as in torch.nn.utils.clip_grad_norm_
            self.grads.mul_((norm / (self.grads.norm() + 1e-6)).clamp_max(1.0))


def real(tensor: Tensor) -> Tensor:
    """All numbers of a tensor in a row, those of a complex one two by two."""
    return (torch.view_as_real(tensor) if tensor.is_complex() else tensor).reshape(-1)


def view(row: Tensor, like: Tensor) -> Tensor:
    """A part of a row in the form of a parameter: the same memory."""
    if like.is_complex():
        return torch.view_as_complex(row.view(*like.shape, 2))
    return row.view(like.shape)


def hide_unreached(optimizer: Optimizer, store: Store) -> None:
    """Has an optimizer over `store.parameters` see no gradient where none came; puts back in place what it rebinds.

    An optimizer of the user's may give a parameter or a gradient other memory.
    """

    def before(*_: Any) -> None:
        for i in store.unreached():
            store.parameters[i].grad = None

    def after(*_: Any) -> None:
        with torch.no_grad():
            store.take_back()

    optimizer.register_step_pre_hook(before)
    optimizer.register_step_post_hook(after)


def of_each(saved: Mapping[str, Any], like: Mapping[str, Any], store: Store) -> dict[str, Any]:
    """The state of an optimizer over `store.flat` as that of one over `store.parameters`.

    Args:
        saved: of the flat one.
        like: of the other, as it begins.
    """
    state: dict[int, dict[str, Any]] = {}
    for name, value in saved["state"].get(0, {}).items():
        for i, (parameter, (start, end)) in enumerate(zip(store.parameters, pairwise(store.bounds), strict=True)):
            is_row = isinstance(value, Tensor) and value.shape == store.values[0].shape
            part = view(value[start:end], parameter) if is_row else value
            state.setdefault(i, {})[name] = part.clone() if isinstance(part, Tensor) else part
    now = {key: value for key, value in saved["param_groups"][0].items() if key != "params"}
    return {"state": state, "param_groups": [{**like["param_groups"][0], **now}]}


_KERNELS = ("fused", "foreach")


def in_form_of(optimizer: Optimizer, saved: Mapping[str, Any], store: Store) -> Mapping[str, Any]:
    """A saved state of an optimizer for one that computes the same in another way, as with the other `fast=`.

    What was saved over `store.flat` is taken apart; which of torch's kernels it uses is no state.
    """
    like = optimizer.state_dict()
    num_saved, num_taken = ([len(group["params"]) for group in found["param_groups"]] for found in (saved, like))
    if num_saved == [1] and num_taken == [len(store.parameters)] != [1]:
        saved = of_each(saved, like, store)
    if len(num_saved) != len(num_taken):
        return saved
    pairs = zip(saved["param_groups"], like["param_groups"], strict=True)
    groups = [{**mine, **{name: now[name] for name in _KERNELS if name in mine and name in now}} for mine, now in pairs]
    return {**saved, "param_groups": groups}


def take_unrounded(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """Gives an optimizer that has loaded a state its numbers in their own type: torch casts them to the parameters'.

    With weights in float64, NAdam goes on with a product of momenta in float32.
    """
    if type(optimizer).load_state_dict is not Optimizer.load_state_dict:
        return
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for i, kept in state["state"].items():
        loaded = optimizer.state[parameters[i]]
        for name, value in kept.items():
            if isinstance(value, Tensor) and loaded[name].dtype != value.dtype:
                loaded[name] = value.to(loaded[name].device)


_HOLDING = (list, tuple, deque, dict)
MOST_HELD = 1000  # the last values of a list that are looked at


def plain_numbers(is_deep: bool = True, **roots: nn.Module) -> dict[str, float]:
    """Numbers in attributes of modules that somebody else wrote, as `model.encoder.count`; no state dict has them.

    Of a tensor or an array in an attribute, of a buffer that is not saved, and of the numbers in a list or dict, it is
    the norm; of a generator of random numbers a checksum of its state; of None, which a tensor may take the place of,
    it is NaN.

    Args:
        is_deep: lists, dicts, arrays and generators, too.
    """
    found: dict[str, float] = {}
    for root, whole in roots.items():
        for path, module in whole.named_modules():
            if not is_others(module):
                continue
            path = f"{path}.".removeprefix("parts.0.criterion.").rstrip(".")
            unsaved = {name: module._buffers[name] for name in module._non_persistent_buffers_set}
            for name, value in {**vars(module), **unsaved}.items():
                if isinstance(value, Tensor):
                    value = norm_of(value)
                if name in OF_ALL:
                    continue
                if is_deep and isinstance(value, (*_HOLDING, *DRAWING, np.ndarray)):
                    value = number_of(value)
                    if value is None:
                        continue
                if value is None or (type(value) in (bool, int, float) and value == value):  # no NaN
                    found[".".join(filter(None, (root, path, name)))] = math.nan if value is None else +value
    return found


def _numbers_of(owner: object) -> dict[str, float]:
    """Numbers in attributes of an object that is no module; of an optimizer also what tensors, lists and dicts hold.

    A data set may hold itself in a list. Of a file of Python, what its variables hold that is small.
    """
    if isinstance(owner, ModuleType):
        variables = {n: x for n, x in vars(owner).items() if not n.startswith("__") and _is_small(x)}
        found = {n: math.nan if x is None else number_of(x) for n, x in variables.items()}
        return {name: value for name, value in found.items() if value is not None}
    if not isinstance(owner, Optimizer):
        return {name: value for name, value in vars(owner).items() if type(value) in (int, float) and value == value}
    kept = {n: x for n, x in vars(owner).items() if n not in ("state", "param_groups", "defaults")}
    found = {n: math.nan if x is None else number_of(x) for n, x in kept.items() if not isinstance(x, bool)}
    return {name: value for name, value in found.items() if value is not None}


def _is_small(value: object) -> bool:
    """Whether a variable of a file may count something, rather than hold data."""
    if isinstance(value, _HOLDING):
        items = value.values() if isinstance(value, dict) else value
        return len(value) <= MOST_HELD and all(type(x) in (int, float) for x in items)
    size = value.numel() if isinstance(value, Tensor) else value.size if isinstance(value, np.ndarray) else 0
    is_number = value is None or type(value) in (int, float) or isinstance(value, (Tensor, np.ndarray, *DRAWING))
    return is_number and size <= MOST_HELD


def number_of(value: object, depth: int = 3) -> float | None:
    """One number that changes with what an object holds; None where there is none.

    Args:
        depth: how many lists or dicts may lie in each other.
    """
    if isinstance(value, DRAWING):
        return float(zlib.crc32(repr(state_of_draws(value)).encode()))
    if isinstance(value, Tensor):
        return norm_of(value)
    if isinstance(value, np.ndarray | np.number):
        return float(np.linalg.norm(value)) if value.dtype.kind in "biufc" else None
    if isinstance(value, bool | int | float):
        return float(value)
    if not isinstance(value, _HOLDING) or not depth:
        return None
    held = [*(value.values() if isinstance(value, dict) else value)][-MOST_HELD:]
    numbers = [number for number in (number_of(x, depth - 1) for x in held) if number is not None]
    return math.hypot(*numbers) if numbers or not held else None


def changed_since(now: Mapping[str, float], state: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """Plain attributes that had changed in the training of a checkpoint: as they are now, and as they were then.

    Args:
        now: of `plain_numbers`.
        state: of a checkpoint.
    """
    return {n: (now[n], then) for n, then in state.get("plain", {}).items() if n in now and now[n] != then}


def norm_of(tensor: Tensor) -> float | None:
    """None of a tensor whose numbers do not lie in memory as they are."""
    is_plain = tensor.layout == torch.strided and not tensor.is_quantized and not tensor.is_meta
    # On the CPU: Apple's GPUs have no float64, and a copy of twice the width may not fit on others.
    return torch.linalg.vector_norm(tensor.detach().cpu().to(torch.complex128)).item() if is_plain else None


@dataclass
class TrainingState:
    """Everything that a step changes.

    Args:
        loss: what a criterion keeps: parameters that train with the model's, and buffers.
        last: the last value of every tag; and the best validations, best/<tag>.
        best: of the best validation so far: `metric`, by which it is, `step` and `value`; empty before there is one.
        part_size: samples that fit into memory at once, where the whole batch did not.
        patience: how long it goes on without getting better; None: to its end.
        average: of the weights, beside them.
        is_over: it is to end here, before its last step.
        data: split to what tells it from another, see `trainer.data.prepare.fingerprint`.
        others: objects of the user's that are no modules of torch, by what they are called: an optimizer, a data set,
            a file with its variables.
    """

    model: nn.Module
    store: Store
    optimizer: Optimizer
    schedule: Schedule
    scaler: GradScaler
    loss: nn.Module = field(default_factory=nn.Module)
    step: int = 0
    evaluated: int = 0  # the step of the last validation that was not broken off
    num_skipped: int = 0  # steps without an update, since a number was not finite
    num_skipped_in_row: int = 0
    seconds: float = 0.0  # spent in training before this process
    last: dict[str, float] = field(default_factory=dict)
    best: dict[str, Any] = field(default_factory=dict)
    patience: Patience | None = None
    part_size: int | None = None
    average: Average | None = None
    is_over: bool = False
    data: dict[str, Fingerprint] = field(default_factory=dict)
    world: World = ALONE
    others: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._plain_at_start = self._plain()

    def _plain(self) -> dict[str, float]:
        """Numbers in attributes of the user's objects. True and False are left out where they may say what is open."""
        return plain_numbers(model=self.model, loss=self.loss) | {
            f"{name}.{attribute}": +value
            for name, it in self.others.items()
            for attribute, value in _numbers_of(it).items()
        }

    def validated(self, loss: float) -> None:
        """After a validation that would be due in a longer training, too; `last` has its numbers."""
        numbers = {"val/loss": loss, **self.last}  # that of an average is there as soon as it has begun
        if self.schedule.metric in numbers:
            self.schedule.evaluated(numbers[self.schedule.metric])
        if self.patience is not None and self.patience.metric in numbers:
            self.patience.observe(numbers[self.patience.metric])
            self.is_over = self.is_over or self.patience.is_over

    def averaged(self) -> dict[str, Any]:
        """The average as a checkpoint has it: `model` and `loss` are state dicts like those of the weights."""
        assert self.average is not None
        views = {id(p): place for p, place in self.store.views(self.average.values[0]).items()}

        def of(module: nn.Module) -> dict[str, Any]:
            # With the parameters themselves: one that has two names is the same under both.
            kept = state_of(module, keep_vars=True)
            return {n: views.get(id(t), t.detach() if isinstance(t, Tensor) else t) for n, t in kept.items()}

        return {
            "updates": self.average.updates,
            "begins": self.average.begins,
            "model": of(self.model) | self.average.buffers,
            "loss": of(self.loss),
        }

    def load_average(self, state: dict[str, Any], step: int) -> None:
        """Raises ValueError: it is of another part of the training, or there is none."""
        assert self.average is not None
        found = state["begins"]
        if found != self.average.begins and step > min(found, self.average.begins):
            raise ValueError(f"its average begins after step {found}, not {self.average.begins}")
        kept = {**state["model"], **{f"loss.{name}": tensor for name, tensor in state["loss"].items()}}
        rows = zip(self.store.names, self.store.parameters, pairwise(self.store.bounds), strict=True)
        for name, p, (start, end) in rows:
            view(self.average.values[0, start:end], p).copy_(kept[name])
        self.average.updates = state["updates"]
        if self.average.decay is not None:  # it has none of its own: see `trainer.run.validation`
            return
        self.average.buffers = {}
        norms = [(n, m) for n, m in self.model.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        for prefix, norm in norms:
            own = {f"{prefix}.{key}": buffer for key, buffer in norm.named_buffers()}
            of_average = {name: state["model"][name].to(buffer.device) for name, buffer in own.items()}
            # Those of the model, as long as none were measured: the next steps change them in both places.
            if not all(torch.equal(own[name], buffer) for name, buffer in of_average.items()):
                self.average.buffers |= of_average

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values alone, so that `torch.load(weights_only=True)` reads it.

        The same on every rank, which all ask for it together.
        """
        return {
            "model": state_of(self.model),
            "loss": state_of(self.loss),
            "optimizer": held.state_of(self.optimizer),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "random": self.world.gather(random_state(self.store.values.device)),  # of every rank
            "step": self.step,
            "evaluated": self.evaluated,
            "num_skipped": self.num_skipped,
            "num_skipped_in_row": self.num_skipped_in_row,
            "seconds": self.seconds,
            "last": self.last,
            "best": self.best,
            **({} if self.part_size is None else {"part_size": self.part_size}),
            **({} if self.average is None else {"average": self.averaged()}),
            **({} if self.patience is None else {"patience": self.patience.state_dict()}),
            "data": {split: tuple(found) for split, found in self.data.items()},
            **({"plain": changed} if (changed := self._changed_plain()) else {}),
        }

    def _changed_plain(self) -> dict[str, float]:
        """Numbers in plain attributes that are no longer what they were when the training was built."""
        now = self._plain()
        return {n: value for n, value in now.items() if value == value and self._plain_at_start.get(n, value) != value}

    def not_taken_up(self, state: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
        """See `changed_since`, of the user's objects, too."""
        return changed_since(self._plain(), state)

    def refuse_other_data(self, state: dict[str, Any]) -> list[str]:
        """Raises ValueError: the state is of a training with other data.

        Returns:
            the splits beside the training split some of whose files have other content, as that of a picture that was
            broken and has been replaced: nothing was learnt from them.
        """
        replaced = []
        for split, found in self.data.items():
            begun = state.get("data", self.data).get(split, "nothing")
            begun = Fingerprint(begun) if isinstance(begun, str) else Fingerprint(*begun)
            if split != "train" and found.has_other_files(begun):
                replaced.append(split)
            elif (difference := found.difference(begun)) is not None:
                raise ValueError(f"the {split} split has {difference}")
        return replaced

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises ValueError: the state is of a training with other data, or in another number of processes."""
        self.refuse_other_data(state)
        if len(state["random"]) != self.world.size:
            size, now = len(state["random"]), self.world.size
            how = "start it without torchrun" if size == 1 else f"start it with torchrun --nproc-per-node={size}"
            raise ValueError(f"it was trained by {size} process{'' if size == 1 else 'es'}, not {now}: {how}")
        put_state(self.model, state["model"])  # copies into the views of the store
        put_state(self.loss, state.get("loss", {}))
        held.put_state(self.optimizer, state["optimizer"])
        take_unrounded(self.optimizer, state["optimizer"])
        for name, inner in held.held(self.optimizer).items():
            if "held" in state["optimizer"]:
                take_unrounded(inner, state["optimizer"]["held"][name])
        self.schedule.load_state_dict(state["schedule"])
        self.scaler.load_state_dict(state["scaler"])
        self.step, self.evaluated = state["step"], state["evaluated"]
        self.num_skipped, self.num_skipped_in_row = state["num_skipped"], state["num_skipped_in_row"]
        self.seconds = float(state["seconds"])
        self.last.clear()
        self.last.update({str(tag): float(number) for tag, number in state["last"].items()})
        self.best = dict(state.get("best", {}))  # a checkpoint of an older release has none
        self.part_size = state.get("part_size")
        if self.average is not None:
            self.load_average(state["average"], self.step)
        if self.patience is not None and "patience" in state:
            self.patience.load_state_dict(state["patience"])
            self.is_over = self.patience.is_over
        set_random_state(state["random"][self.world.rank], self.store.values.device)
