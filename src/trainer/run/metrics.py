"""The metrics of a run, from `metric=[f1,auroc]` and the user's own."""

import importlib
import inspect
import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from trainer.config import schema, trust
from trainer.config.settings import Settings
from trainer.config.shipped import shipped
from trainer.data.batches import Batch
from trainer.distributed import World
from trainer.errors import UserError, first_line
from trainer.losses.function import LossFunction
from trainer.meaning import Meaning, Numbers
from trainer.metrics import AREAS, MeanOfThere, Metrics, OfAll, OfMasks, OfRanks, placed
from trainer.trees import called
from trainer.trials import undisturbed

_OF_CLASSES = "Multiclass"  # in names of torchmetrics; those of several labels have `Multilabel` there
_BALANCED = "trainer.metrics.BalancedAccuracy"


def build_metrics(settings: Settings, loss_fn: LossFunction, model: nn.Module, sample: Batch, world: World) -> Metrics:
    """
    Args:
        sample: on which each metric is tried.

    Raises:
        UserError: a metric does not take what the model gives, or nobody says whether a larger number is better.
    """
    meaning, made = loss_fn.meaning, {}
    device = next(model.parameters()).device
    are_masks, otherwise = are_0_and_1(loss_fn, sample), "Leave it out."
    if are_masks and isinstance(sample.targets, Tensor) and sample.targets.dim() == 2 and sample.targets.shape[1] > 1:
        # [N, K] are rather K labels, of which a mean over labels is meant.
        are_masks, otherwise = False, "If its 0 and 1 say which labels a sample has, type data.task=multilabel."
    facts = {"num_classes": 2} if are_masks else dict(meaning.facts)
    for name, config in settings.config["metric"].items():
        refuse_name(name, config)
        if config.get("_target_") is None and are_masks and name == "accuracy":
            config = {"_target_": "torchmetrics.classification.MulticlassAccuracy", "average": "micro"}
        if config.get("_target_") is None:
            if name not in meaning.metrics:
                raise UserError(f"metric={name}: is of classes; data={settings.names['data']} has none. {otherwise}")
            continue
        if settings.fast and name in meaning.metrics and config == shipped(f"metric/{name}"):
            continue  # it is measured anyway, and torchmetrics' import takes seconds
        made[name] = quick(settings, config, meaning, device, world)
        if made[name] is None:
            made[name] = built(settings, name, config, facts, device, world, otherwise)
            if are_masks and (_OF_CLASSES in config["_target_"] or config["_target_"] == _BALANCED):
                made[name] = OfMasks(made[name])
    metrics = Metrics(made, meaning)
    if made:
        try_out(settings, made, model, sample, meaning)
    return metrics


def are_0_and_1(loss_fn: LossFunction, sample: Batch) -> bool:
    """Whether the targets are masks, single answers or labels of 0 and 1, with one output for each."""
    term = next((term for term in loss_fn.terms if term.wants), None)
    if not isinstance(loss_fn.meaning, Numbers) or term is None or term.compared_with not in ("fractions", "masks"):
        return False
    targets = sample.targets
    return isinstance(targets, Tensor) and bool(((targets == 0) | (targets == 1)).all())


def quick(settings: Settings, config: Mapping[str, Any], meaning: Meaning, device: torch.device, world: World) -> Any:
    """What gives the same as a metric of torchmetrics without its import, which takes seconds; None: there is none."""
    options = {key: value for key, value in config.items() if key not in ("_target_", "larger_is_better")}
    if not settings.fast or config.get("larger_is_better") is False:
        return None
    from trainer.fast.scored import standing_for

    return standing_for(config["_target_"], options, meaning, device, world)


def refuse_name(name: str, config: Any) -> None:
    """Raises UserError for a name that can't stand in a tag, or without a class."""
    if not isinstance(config, Mapping):
        is_own = isinstance(config, str) and "." in config
        how = f"Type metric.{name}._target_={config}." if is_own else f"Try metric=[{name}]."
        raise UserError(f"metric.{name}={schema.shown(config)}: holds keys of its own. {how}")
    if not re.fullmatch(r"\w+", name) or name in ("loss", "best", "last", "average"):
        raise UserError(f"metric.{name}: is no name for a metric. Take another word of letters and digits.")
    if not isinstance(said := config.get("larger_is_better", True), bool):
        raise UserError(f"metric.{name}.larger_is_better={schema.shown(said)}: must be true or false.")
    if "_target_" not in config:
        raise UserError(f"metric.{name}: has no class. Type metric=[{name}], or metric.{name}._target_=mypackage.Mine.")


def built(
    settings: Settings,
    name: str,
    config: Mapping[str, Any],
    facts: dict[str, int],
    device: torch.device,
    world: World,
    otherwise: str,
) -> Any:
    """One metric.

    Args:
        facts: of the data, given to a class that asks for them by name.
        otherwise: what to do where it is of classes and the data has none.
    """
    key, target = f"metric.{name}", config["_target_"]
    is_torchmetrics = str(target).startswith("torchmetrics.")
    kind = nn.Module if is_torchmetrics else object
    found = trust.resolve(f"{key}._target_", target, kind, settings.own)
    given = {k: v for k, v in config.items() if k not in ("_target_", "larger_is_better")}
    trust.check_targets(key, {**given, "_target_": target}, kind, nn.Module, settings.own)
    takes = trust.parameters(found)
    given = {k: v for k, v in facts.items() if k in takes} | given
    is_needed = "num_classes" in takes and takes["num_classes"].default is inspect.Parameter.empty
    if (is_needed or (is_torchmetrics and _OF_CLASSES in target)) and "num_classes" not in given:
        has = "has several labels for a sample" if "num_labels" in facts else "has none"
        instead = _of_labels(name, target, given) if "num_labels" in facts else otherwise
        raise UserError(f"metric={name}: is of classes; data={settings.names['data']} {has}. {instead}")
    num_classes, top_k = given.get("num_classes"), given.get("top_k")
    if isinstance(num_classes, int) and isinstance(top_k, int) and top_k > num_classes:
        how = f"Type {key}.top_k={num_classes - 1}" if num_classes > 2 else "Leave it out"
        raise UserError(f"{key}.top_k={top_k}: data={settings.names['data']} has {num_classes} classes. {how}.")
    is_function = inspect.isfunction(found)
    if is_function:
        refuse_other_parameters(key, target, takes, given)
    try:
        metric = OfAll(partial(found, **given)) if is_function and "outputs" in takes else found(**given)
    except Exception as error:
        raise UserError(f"{key}: {first_line(error)}.") from error
    refuse_direction(key, metric, schema.is_larger_better(name, settings.config), "larger_is_better" in config)
    if hasattr(metric, "set_dtype") and hasattr(metric, "sync"):
        metric = placed(metric, device)
        is_of_areas = is_torchmetrics and type(metric).__name__ in AREAS and metric.average in ("macro", "weighted")
        return MeanOfThere(metric, given.get("ignore_index"), world) if is_of_areas else metric
    missing = [part for part in ("update", "compute", "reset") if not callable(getattr(metric, part, None))]
    if missing:
        raise UserError(f"{key}._target_={target}: has no {' and no '.join(missing)}, which a metric has.")
    return metric if world.size == 1 else OfRanks(metric, world)


def _of_labels(name: str, target: str, given: Mapping[str, Any]) -> str:
    """What to type for several labels, where torchmetrics measures the same of them with these keys."""
    package, _, word = target.rpartition(".")
    other = word.replace(_OF_CLASSES, "Multilabel")
    metric = getattr(importlib.import_module(package), other, None) if other != word else None
    if metric is None or not given.keys() <= trust.parameters(metric).keys():
        return "Leave it out."
    return f"Type metric=[{name}] metric.{name}._target_={package}.{other}."


def refuse_other_parameters(
    key: str, target: str, takes: Mapping[str, inspect.Parameter], given: Mapping[str, Any]
) -> None:
    """Raises UserError for a function that is no metric, as it calls outputs and targets by other names."""
    known = {*given, "outputs", "targets"} if "outputs" in takes else {*given}
    needed = [name for name, p in takes.items() if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    missing = [name for name in needed if name not in known]
    if missing:
        raise UserError(
            f"{key}._target_={target}: is a function that takes {', '.join(needed)}. A metric is a function of outputs "
            f"and targets, with these names, and its other parameters are keys, or a class: train help training."
        )


def refuse_direction(key: str, metric: Any, is_larger_better: bool, is_said: bool) -> None:
    """Raises UserError where the config does not say whether a larger number is better: those who read it ask it."""
    knows = getattr(metric, "higher_is_better", None)
    if is_said or (knows is not None and knows == is_larger_better):
        return
    if knows is None:
        raise UserError(f"{key}: is a larger number better? Type {key}.larger_is_better=true, or =false.")
    raise UserError(f"{key}: of {type(metric).__name__} a larger number is better. Type {key}.larger_is_better=true.")


def try_out(settings: Settings, made: Mapping[str, Any], model: nn.Module, sample: Batch, meaning: Meaning) -> None:
    """Raises UserError where a metric can't be taken of what the model gives."""
    with undisturbed(model, next(model.parameters()).device):
        outputs = called(model, sample.inputs)
    for name, metric in made.items():
        one = Metrics({name: metric}, meaning)
        try:
            one.reset()
            one.update(outputs, sample.targets)
            one.compute()
        except Exception as error:
            said = trust.told(error, settings.own) if trust.place(error, settings.own) else first_line(error)
            raise UserError(
                f"metric={name}: can't be taken of what model={settings.names['model']} gives for "
                f"data={settings.names['data']}: {said}."
            ) from error
