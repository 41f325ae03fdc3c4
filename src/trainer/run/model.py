"""The model of a run, sized by the data."""

import math
import re
from collections.abc import Mapping
from inspect import Parameter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from trainer.config import trust
from trainer.config.settings import Settings
from trainer.data.prepare import Sizes, Splits, on_device
from trainer.draws import random_state, set_random_state
from trainer.errors import UserError
from trainer.models.initialise import initialise
from trainer.models.weights import fit_in, read_weights
from trainer.run.freeze import freeze
from trainer.run.instantiate import FACTS, LIBRARIES, MADE, built, complaint, found, ours
from trainer.run.memory import recompute_as_asked
from trainer.run.odd import refuse_odd
from trainer.system.private import applied
from trainer.trees import called, mapped

# Modules with models that need to be told how many outputs they have.
SIZED = tuple(f"trainer.models.{name}" for name in ("finetune", "lenet", "resnet", "two_layer"))


def facts_of(sizes: Sizes) -> dict[str, Any]:
    """What a model may be told of the data, by the names of its arguments."""
    shape = sizes.input_shape
    facts = {"num_classes": sizes.num_outputs, "out_features": sizes.num_outputs} if sizes.num_outputs else {}
    if shape:  # inputs that are a dict or a tuple have none
        facts["in_features"] = math.prod(shape)
    if len(shape) > 1:  # signals [C, L], images [C, H, W], volumes [C, D, H, W]
        facts["in_channels"] = shape[0]
    if len(shape) == 3 and shape[1] == shape[2]:
        facts["image_size"] = shape[-1]
    if len(shape) in (1, 2):
        facts["sequence_length"] = shape[-1]
    if sizes.vocab_size is not None:
        facts["vocab_size"] = facts["num_tokens"] = sizes.vocab_size
    return facts


def build_model(settings: Settings, sizes: Sizes, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """The model with its first weights, on its device.

    Raises:
        UserError: its class complains; or new weights are asked for and others, too.
    """
    config, mine = settings.group("model"), ours(settings, "model")
    _refuse_untold(settings, sizes)
    model = told(settings, sizes)
    if isinstance(sizes, Splits) and has_lazy(model):
        model = materialized(settings, sizes, model, device, dtype)
    refuse_odd(settings, model)
    if mine.get("init", "default") != "default":
        if config.get("weights") is not None:
            raise UserError(f"model.init={mine['init']}: would overwrite model.weights. Type model.init=default.")
        try:
            initialise(model, mine["init"], mine.get("init_std", 1.0))
        except ValueError as error:
            raise complaint(settings, "model", error) from error
    freeze(settings, model)
    recompute_as_asked(settings, model)
    # Not `Module.to`, which has complex numbers lose their imaginary part.
    return placed(model, device, dtype)


def _refuse_untold(settings: Settings, sizes: Sizes) -> None:
    """Raises UserError where a model of ours needs a number of outputs that no target tells."""
    config = settings.group("model")
    if sizes.num_outputs or str(config.get("_target_")).rpartition(".")[0] not in SIZED:
        return
    for key in ("num_classes", "out_features"):
        if key in config and config[key] is None:
            raise UserError(
                f"model.{key}=null: data={settings.names['data']} has no targets that tell how many outputs there "
                f"are: none, or several by name. Type model.{key}=<how many>."
            )


def placed(model: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    return applied(model, lambda tensor: on_device(tensor, device, dtype))


def has_lazy(model: nn.Module) -> bool:
    """Whether a parameter or a buffer gets its shape from the first inputs."""
    return any(is_lazy(tensor) for tensor in (*model.parameters(), *model.buffers()))


def materialized(
    settings: Settings, splits: Splits, model: nn.Module, device: torch.device, dtype: torch.dtype
) -> nn.Module:
    """The model with shapes, and first numbers, for its lazy parameters: it is shown two samples.

    Raises:
        UserError: the model does not take them, or does not call a lazy layer.
    """
    modes = {module: module.training for module in model.modules()}
    sample = next(next(iter(splits.val.in_order())).parts(2)).inputs
    try:
        with torch.no_grad():
            called(placed(model, device, dtype).eval(), mapped(Tensor.clone, sample))
    except Exception as error:
        raise complaint(settings, "model", error) from error
    for module, is_training in modes.items():
        module.training = is_training
    if has_lazy(model):
        raise UserError(f"model={settings.names['model']}: has a lazy layer that it does not call. Leave it out.")
    return model


def load_weights(settings: Settings, model: nn.Module) -> list[str]:
    """Fills the model from `model.weights`, where its class has not done so itself; says what did not fit.

    Raises:
        UserError: they can't be read, or nothing in them fits.
    """
    weights = ours(settings, "model").get("weights")
    found = getattr(model, "fitted", ()) if trust.is_ours(type(model)) else ()
    if weights is not None:
        try:
            found = fit_in(model, read_weights(str(weights)), str(weights))
        except UserError as error:
            raise complaint(settings, "model", error) from error
        model.is_pretrained = True  # type: ignore[assignment]  # see monitor.facts
    said = f"model.weights={settings.group('model').get('weights')}"
    return [f"{'' if i == 0 else 'warning: '}{said}: {line}." for i, line in enumerate(found)]


def told(settings: Settings, sizes: Sizes) -> nn.Module:
    """The model, told of the data what its class has an argument for.

    One with `**kwargs` is offered everything; what it then has no use for is taken back.
    """
    config, kind = settings.group("model"), found(settings, "model")
    takes, is_open = trust.parameters(kind), trust.takes_any(kind) and not trust.is_ours(kind)
    facts = {n: fact for n, fact in facts_of(sizes).items() if (n in takes or is_open) and config.get(n) is None}
    facts |= {n: config[n] for n in MADE if is_open and n not in takes and config.get(n) is not None}
    facts |= _of_backbone(settings, sizes)
    for name in FACTS:
        is_needed = name in takes and takes[name].default is Parameter.empty and not trust.is_ours(kind)
        if is_needed and name not in facts and config.get(name) is None:
            what = f"data={settings.names['data']} does not tell it"
            raise UserError(f"model.{name}=null: {what}. Type model.{name}=<a number>.")
    random = random_state(torch.device("cpu"))
    while True:
        try:
            model: nn.Module = built(settings, "model", facts)
            return model
        except UserError as error:
            names = [name for name in _refused(str(error), facts) if name not in takes]
            if not is_open or not names:
                raise
            for name in names:
                del facts[name]
            set_random_state(random, torch.device("cpu"))


def _refused(said: str, facts: Mapping[str, Any]) -> list[str]:
    """Those of the facts that a class says it does not know, in Python's words or in its own."""
    by_python = re.search(r"unexpected keyword argument '(\w+)'", said)
    if by_python:
        return [by_python[1]] if by_python[1] in facts else []
    if not re.search(r"\b(unknown|unexpected|unrecogni[sz]ed|unsupported|unused|extra)\b", said, re.IGNORECASE):
        return []
    return [name for name in facts if re.search(rf"\b{name}\b", said)]


def _of_backbone(settings: Settings, sizes: Sizes) -> dict[str, Any]:
    """A library's backbone told of the images, as the library's models are."""
    backbone = settings.group("model").get("backbone")
    target = str(backbone.get("_target_")) if isinstance(backbone, Mapping) else ""
    if not isinstance(backbone, Mapping) or not target.startswith(LIBRARIES):
        return {}
    takes = trust.parameters(trust.resolve("model.backbone._target_", target, nn.Module, settings.own))
    facts = facts_of(sizes)
    told_of = {name: facts[name] for name in MADE if name in facts and name in takes and backbone.get(name) is None}
    return {"backbone": {**backbone, **told_of}} if told_of else {}


def sizes_to_type(settings: Settings, sizes: Sizes) -> str:
    """What to type where the config says other sizes than the data has."""
    config = settings.group("model")
    differing = [f"model.{n}={fact}" for n, fact in facts_of(sizes).items() if config.get(n) not in (None, fact)]
    return f" Type {' '.join(differing)}." if differing else ""
