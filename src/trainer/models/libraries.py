"""Models of other libraries by their names: torchvision, timm and transformers, each imported when it is asked for."""

import contextlib
import functools
import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from trainer.config.schema import shown
from trainer.errors import UserError, nearest, one_of
from trainer.models.weights import fetched, fit_in

# What a model of transformers is for, and the class that makes it.
TASKS = {
    "image_classification": "AutoModelForImageClassification",
    "sequence_classification": "AutoModelForSequenceClassification",
    "token_classification": "AutoModelForTokenClassification",
    "causal_lm": "AutoModelForCausalLM",
    "masked_lm": "AutoModelForMaskedLM",
}


def torchvision(
    name: str,
    num_classes: int | None = None,
    image_size: int | None = None,
    pretrained: bool = False,
    **keys: Any,
) -> nn.Module:
    """A model of torchvision, as `torchvision.models.get_model` makes it.

    Args:
        name: `mobilenet_v3_small`, say.
        num_classes: None for as many as the library has.
        image_size: a side in pixels, for models that are made for one size.
        pretrained: with the weights that torchvision publishes for it, fetched once; the last layer starts anew where
            it has another number of classes.
        keys: of the model itself, such as `dropout`.

    Raises:
        UserError: torchvision is missing, has no such model, or its weights can't be had.
    """
    refuse_weights(keys)
    with needed("torchvision", "vision"):
        from torchvision import models
    refuse_other_name(name, models.list_models())
    keys |= {} if num_classes is None else {"num_classes": num_classes}
    if "weights_backbone" in inspect.signature(models.get_model_builder(name)).parameters:
        keys.setdefault("weights_backbone", None)  # which are fetched if nobody says so
    model = _of_size(functools.partial(models.get_model, name, weights=None), keys, "image_size", image_size)
    if pretrained:
        published = models.get_model_weights(name).DEFAULT
        instead = "model.pretrained=false model.weights=<path of that file>"
        fit_in(model, fetched(published.url, "pretrained=true", instead), "pretrained=true")
    return model


def timm(
    name: str,
    num_classes: int | None = None,
    in_channels: int | None = None,
    image_size: int | None = None,
    pretrained: bool = False,
    **keys: Any,
) -> nn.Module:
    """A model of timm, as `timm.create_model` makes it.

    Args:
        name: `vit_tiny_patch16_224`, say.
        num_classes: None for as many as the library has.
        in_channels: of the images; timm adds up the filters of published weights for grey ones.
        image_size: a side in pixels, for models that are made for one size.
        pretrained: with published weights, fetched once.
        keys: of the model itself, such as `patch_size` or `drop_rate`.

    Raises:
        UserError: timm is missing, has no such model, or its weights can't be had.
    """
    refuse_weights(keys)
    with needed("timm", "timm"):
        import timm as library
    refuse_other_name(name, library.list_models(), library.list_models(pretrained=True))
    keys |= {} if num_classes is None else {"num_classes": num_classes}
    keys |= {} if in_channels is None else {"in_chans": in_channels}
    with told_if_not_fetched(pretrained):
        make = functools.partial(library.create_model, name, pretrained=pretrained)
        return _of_size(make, keys, "img_size", image_size)


def transformers(
    name: str,
    task: str = "auto",
    num_classes: int | None = None,
    in_channels: int | None = None,
    image_size: int | None = None,
    vocab_size: int | None = None,
    **keys: Any,
) -> nn.Module:
    """A model of transformers, from a folder on this disk or new from its kind's configuration.

    Args:
        name: a folder with a `config.json`, whose `model.safetensors` is taken where it has one, but for parts of
            another size, which start anew; or a kind: `bert`.
        task: one of `TASKS`; auto: image_classification for images, else sequence_classification.
        num_classes, in_channels, image_size, vocab_size: of the data; left out where the configuration has none.
        keys: of the configuration, such as `hidden_size`.

    Raises:
        UserError: transformers is missing, there is no such folder or kind, or a key or a task that it does not have.
    """
    refuse_weights(keys)
    with needed("transformers", "hf"):
        import transformers as library
    if task not in ("auto", *TASKS):
        raise UserError(f"task={task}: is none of auto, {', '.join(TASKS)}.{nearest(task, TASKS)}")
    folder = Path(os.path.expanduser(name))
    if folder.is_dir():
        config = library.AutoConfig.from_pretrained(folder, local_files_only=True)
    else:
        kinds = list(library.CONFIG_MAPPING.keys())
        if name not in kinds:
            raise UserError(
                f"name={name}: is no folder with a config.json, and no kind of model that transformers has."
                f"{nearest(name, kinds)}"
            )
        config = library.AutoConfig.for_model(name)
    if task == "auto":
        takes_images = in_channels is not None or (
            hasattr(config, "num_channels") and not hasattr(config, "vocab_size")
        )
        task = "image_classification" if takes_images else "sequence_classification"
    facts = {"num_labels": num_classes, "num_channels": in_channels, "image_size": image_size, "vocab_size": vocab_size}
    for key in keys:
        if not hasattr(config, key):
            raise TypeError(f"{name} got an unexpected keyword argument '{key}'.{nearest(key, config.to_dict())}")
    values = {key: fact for key, fact in facts.items() if fact is not None and hasattr(config, key)} | keys
    stored = config.to_dict()
    if values.get("num_labels", config.num_labels) != config.num_labels:  # the names are of other classes
        stored = {key: value for key, value in stored.items() if key not in ("id2label", "label2id")}
    config = type(config).from_dict({**stored, **values})
    made = getattr(library, TASKS[task])
    try:
        if folder.is_dir() and (folder / "model.safetensors").is_file():
            # What has another size here, as a head of other classes, starts anew: the library says so.
            how = {"local_files_only": True, "use_safetensors": True, "ignore_mismatched_sizes": True}
            return made.from_pretrained(folder, config=config, **how).train()
        return made.from_config(config).train()
    except ValueError as error:
        if "Unrecognized configuration class" not in str(error):
            raise
        fitting = [t for t, kind in TASKS.items() if type(config) in getattr(library, kind)._model_mapping]
        raise UserError(f"task={task}: {name} has no such model; it has {one_of(fitting) or 'none'}.") from error


def _of_size(make: Callable[..., nn.Module], keys: dict[str, Any], word: str, size: int | None) -> nn.Module:
    """A model that is told the size of its images by a word, unless it knows no such word."""
    if size is None:
        return make(**keys)
    try:
        return make(**{**keys, word: size})
    except TypeError as error:
        if f"'{word}'" not in str(error):
            raise
        return make(**keys)


def refuse_weights(keys: Mapping[str, Any]) -> None:
    """Raises UserError for the weights of a backbone alone: a file's are put in where the whole model is made."""
    if (weights := keys.get("weights")) is not None:
        raise UserError(
            f"weights={shown(weights)}: the backbone does not take it. Type model.weights={shown(weights)}."
        )


@contextlib.contextmanager
def needed(package: str, extra: str) -> Iterator[None]:
    """Around an import. Raises UserError with what to type where the package is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise UserError(f"model={package}: needs {package}. Type pip install 'train-cli[{extra}]'.") from error


@contextlib.contextmanager
def told_if_not_fetched(pretrained: bool) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:
        if not pretrained:
            raise
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"pretrained=true: the weights can't be had: {reason}. Type model.pretrained=false.") from error


def refuse_other_name(name: Any, *names: list[str]) -> None:
    """Raises UserError for a model that a library does not have."""
    known = {known.partition(".")[0] for some in names for known in some} | {known for some in names for known in some}
    if name not in known:
        raise UserError(f"name={shown(name)}: there is no such model.{nearest(str(name), known)}")
