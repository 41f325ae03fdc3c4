"""The optimizer of a run and the schedule of its learning rate."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import LBFGS, Adam, AdamW, Optimizer, SparseAdam
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau

from trainer.cadence import evaluation_period
from trainer.config import trust
from trainer.config.schema import is_larger_better
from trainer.config.settings import Settings
from trainer.data.batches import Batch
from trainer.errors import UserError
from trainer.loop import ForwardBackward
from trainer.losses.function import Losses
from trainer.optim import held
from trainer.optim.closure import ByClosure
from trainer.optim.groups import Group, grouped
from trainer.optim.manual_sgd import ELEMENTWISE
from trainer.optim.schedulers import Schedule
from trainer.run.instantiate import built, complaint, found, ours
from trainer.run.length import Length
from trainer.state import Store, TrainingState, hide_unreached
from trainer.trials import REBINDING


def build_optimizer(settings: Settings, model: nn.Module, store: Store) -> Optimizer:
    """Raises UserError: its class complains, or wants more than the run gives."""
    if takes_closure(settings):
        return build_by_closure(settings, store)
    kind = found(settings, "optimizer")
    if kind is SparseAdam:
        raise UserError(
            f"optimizer={settings.names['optimizer']}: takes sparse gradients alone, and here all gradients lie in one "
            "dense row. Type optimizer=adam."
        )
    is_elementwise = trust.belongs(kind.__module__, trust.TRUSTED["optimizer"]) and kind.__name__ in ELEMENTWISE
    make = built(settings, "optimizer", {"_partial_": True})  # checks the options, too
    if (groups := groups_of(settings, model, store)) is not None:
        return build_groups(settings, store, groups)
    if not is_elementwise or (store.is_watched and not settings.fast):
        optimizer: Optimizer = made(settings, "optimizer", make, store.parameters)
        refuse_other_than_optimizer(settings, optimizer)
        if settings.is_own("optimizer") or store.is_watched:
            hide_unreached(optimizer, store)
        return optimizer
    if not settings.fast:
        plain: Optimizer = made(settings, "optimizer", make, [store.flat])
        return plain
    from trainer.fast.by_parameter import ByParameter
    from trainer.fast.updates import standing_for

    mine = ours(settings, "optimizer")
    options = {k: value for k, value in settings.group("optimizer").items() if k != "_target_" and k not in mine}
    update = standing_for(kind.__name__, options)
    if update is None:
        flat = made(settings, "optimizer", make, [store.flat])
    else:
        flat = made(settings, "optimizer", lambda store: update(store.values, store.grads, **options), store)
    return ByParameter(flat, store, make) if store.is_watched else flat


def takes_closure(settings: Settings) -> bool:
    """Whether an optimizer evaluates the loss several times a step."""
    kind = found(settings, "optimizer")
    return needs_closure(kind if isinstance(kind, type) else trust.annotated(kind))


def needs_closure(optimizer: Any) -> bool:
    """Whether `step` of an optimizer, or of its class, can't be called without a closure."""
    closure = trust.parameters(optimizer.step).get("closure") if hasattr(optimizer, "step") else None
    return closure is not None and closure.default is closure.empty


def refuse_other_than_optimizer(settings: Settings, made: Any) -> None:
    """Raises UserError for what a function of the user's gave, where a run can't step with it."""
    target, name = settings.group("optimizer")["_target_"], type(made).__name__
    if not isinstance(made, Optimizer):
        raise UserError(f"optimizer._target_={target}: made a {name}; a torch.optim.Optimizer is needed.")
    if needs_closure(made):
        raise UserError(
            f"optimizer._target_={target}: gives {name}, which evaluates the loss several times a step. Let the "
            f"function say so: def {target.rpartition('.')[2]}(...) -> {name}."
        )


def refuse_astray(settings: Settings) -> None:
    """Raises UserError where an optimizer that evaluates the loss several times a step would get another each time."""
    if not takes_closure(settings):
        return
    name = f"optimizer={settings.names['optimizer']}: evaluates the loss several times a step"
    if settings.batch_size != "full":
        raise UserError(f"{name}, which takes the whole training split. Type batch_size=full.")
    if settings.precision == "float16":
        raise UserError(f"{name}, and no scaler goes with it. Type precision=float32.")
    if settings.gradient.clip_norm is not None or settings.gradient.clip_value is not None:
        raise UserError(f"{name}: clipped gradients are not those of the loss. Type gradient.clip_norm=null.")
    if any(value not in (None, "all", {}) for value in ours(settings, "optimizer").values()):
        raise UserError(f"{name} over all parameters at once. Leave optimizer.decay, layer_decay and lr_times out.")


def build_by_closure(settings: Settings, store: Store) -> Optimizer:
    """An optimizer that evaluates the loss several times a step; see `refuse_astray`."""
    make = built(settings, "optimizer", {"_partial_": True})
    is_flat = found(settings, "optimizer") is LBFGS  # it makes a vector of them itself
    inner: Optimizer = made(settings, "optimizer", make, [store.flat] if is_flat else store.parameters)
    return ByClosure(inner)


def reevaluated(state: TrainingState, forward_backward: ForwardBackward) -> ForwardBackward:
    """What the loop calls: tells an optimizer that evaluates a batch again how; parameters stay where they lie."""
    optimizer, world = state.optimizer, state.world
    if state.model in REBINDING:
        forward_backward = _kept_in_place(state.store, forward_backward)
    if not isinstance(optimizer, ByClosure):
        return forward_backward

    def evaluated(batch: Batch, of: int) -> Losses:
        losses = forward_backward(batch, of)
        # All ranks must judge alike by the loss of all samples.
        first = world.sum(losses.total.clone())
        optimizer.remember(first, lambda: world.sum(forward_backward(batch, of).total.clone()))
        return losses

    return evaluated


def _kept_in_place(store: Store, forward_backward: ForwardBackward) -> ForwardBackward:
    def kept(batch: Batch, of: int) -> Losses:
        losses = forward_backward(batch, of)
        with torch.no_grad():
            store.take_back()
        return losses

    return kept


def groups_of(settings: Settings, model: nn.Module, store: Store) -> list[Group] | None:
    """The groups that are asked for; None where all parameters are trained alike.

    Raises:
        UserError: the optimizer has no such number; a pattern matches nothing.
    """
    config, asked, name = settings.group("optimizer"), ours(settings, "optimizer"), settings.names["optimizer"]
    decays_weights_alone = asked.get("decay", "all") == "weights"
    if not (decays_weights_alone or asked.get("layer_decay") or asked.get("lr_times")):
        return None
    if decays_weights_alone and "weight_decay" not in config:
        raise UserError(f"optimizer.decay=weights: optimizer={name} has no weight_decay. Try optimizer=adamw.")
    if "lr" not in config:
        raise UserError(f"optimizer={name}: its groups need optimizer.lr. Type optimizer.lr=0.001.")
    parameters = dict(zip(store.names, store.parameters, strict=True))
    layer_decay = float(asked.get("layer_decay") or 1.0)
    return grouped(model, parameters, decays_weights_alone, layer_decay, asked.get("lr_times") or {})


def build_groups(settings: Settings, store: Store, groups: list[Group]) -> Optimizer:
    """The optimizer over groups of parameters, each a parameter group of torch's."""
    kind, config = found(settings, "optimizer"), settings.group("optimizer")
    # What all parameters as one vector get, see trainer.fast.updates. With float16 the scaler has its own wishes.
    is_fused = settings.fast and settings.precision != "float16" and kind in (Adam, AdamW)
    is_fused = is_fused and not any(parameter.is_complex() for parameter in store.parameters)
    make = built(settings, "optimizer", {"_partial_": True, **({"fused": True} if is_fused else {})})
    parameters = dict(zip(store.names, store.parameters, strict=True))
    param_groups = [
        {
            "params": [parameters[name] for name in group.names],
            "lr": config["lr"] * group.times,
            **({} if group.is_decayed else {"weight_decay": 0.0}),
        }
        for group in groups
    ]
    optimizer: Optimizer = made(settings, "optimizer", make, param_groups)
    if settings.is_own("optimizer") or store.is_watched:
        hide_unreached(optimizer, store)
    return optimizer


def keeps_average(settings: Settings) -> bool:
    """Whether the optimizer keeps an average of the weights, instead of a schedule."""
    return hasattr(found(settings, "optimizer"), "average_into")


def build_schedule(settings: Settings, optimizer: Optimizer, length: Length) -> Schedule:
    """Raises UserError: its class complains, or it was laid out over another length than the run has."""
    if found(settings, "scheduler") is None:
        return Schedule(None)
    if keeps_average(settings):
        name = settings.names["optimizer"]
        raise UserError(f"optimizer={name}: takes the place of a schedule. Type scheduler=constant.")
    config = settings.group("scheduler")
    interval = config.get("interval", "step")
    every = {
        "step": 1,
        "epoch": length.steps_per_epoch,
        "evaluation": evaluation_period(settings.eval_every, length.steps_per_epoch),
    }[interval]
    intervals = -(-length.max_steps // every)
    defaults = {
        "T_max": intervals,
        "total_steps": intervals,
        "max_lr": 10 * settings.group("optimizer").get("lr", 1.0),
    }
    missing = {k: v for k, v in defaults.items() if k in config and config[k] is None}
    metric = ours(settings, "scheduler").get("metric", "val/loss")
    is_plateau = found(settings, "scheduler") is ReduceLROnPlateau
    if metric != "val/loss" and not is_plateau:
        raise UserError(f"scheduler.metric={metric}: only scheduler=plateau looks at a number. Leave it out.")
    if is_plateau and "mode" not in config and is_larger_better(metric, settings.config):
        missing["mode"] = "max"
    make = built(settings, "scheduler", {**missing, "_partial_": True})
    is_laid_out = bool(missing.keys() & {"T_max", "total_steps"})

    times = times_of(optimizer, settings, {**config, **missing})
    followers = held.followers(optimizer.inner if isinstance(optimizer, ByClosure) else optimizer)

    def schedule(optimizer: Optimizer) -> Schedule:
        if times is not None:
            for group in optimizer.param_groups:
                group["lr"] = settings.group("optimizer")["lr"]
        scheduler = make(optimizer)
        if isinstance(scheduler, OneCycleLR) and scheduler.total_steps < intervals:
            raise ValueError(
                f"total_steps={scheduler.total_steps}: the run has {intervals}, and one cycle covers it all"
            )
        laid_out = intervals if is_laid_out else None
        return Schedule(scheduler, interval, length.steps_per_epoch, laid_out, metric, times, followers)

    return made(settings, "scheduler", schedule, optimizer)


def times_of(optimizer: Optimizer, settings: Settings, config: Mapping[str, Any]) -> list[float] | None:
    """The factors of an optimizer's groups where a scheduler would give all of them the same rate; see `Schedule`.

    Args:
        config: of the scheduler.
    """
    rates, lr = [group["lr"] for group in optimizer.param_groups], settings.group("optimizer").get("lr")
    asked = [config.get(key) for key in ("max_lr", "base_lr", "min_lr", "eta_min")]
    goes_to_rate = any(isinstance(rate, int | float) and rate for rate in asked)  # a list has one for each group
    return [rate / lr for rate in rates] if lr and goes_to_rate and len(set(rates)) > 1 else None


def made(settings: Settings, group: str, make: Callable[[Any], Any], argument: Any) -> Any:
    """What `make` gives; its complaint as one line."""
    try:
        return make(argument)
    except (ValueError, TypeError) as error:
        raise complaint(settings, group, error) from error
