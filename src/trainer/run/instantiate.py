"""From the keys of a group to the object that its class makes, checked on the way; what it complains of is a line."""

import re
from collections.abc import Mapping
from inspect import Parameter
from typing import Any

from hydra.utils import instantiate
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from trainer.config import schema, trust
from trainer.config.request import Config, resolved
from trainer.config.settings import Settings
from trainer.data.source import Source
from trainer.errors import UserError, first_line
from trainer.losses.criteria import Focal

# What the class in a group must be.
KINDS: dict[str, type] = {
    "model": nn.Module,
    "data": Source,
    "loss": nn.Module,
    "optimizer": Optimizer,
    "scheduler": LRScheduler,
}
# What a model may be told of the data where its config leaves it null.
FACTS = (
    "in_features",
    "in_channels",
    "image_size",
    "sequence_length",
    "vocab_size",
    "num_tokens",
    "num_classes",
    "out_features",
)
MADE = ("in_channels", "image_size")  # images are turned into that, whether the class takes it or not
LIBRARIES = "trainer.models.libraries."  # what makes models of other libraries
# Of torch's criteria: a number for each class.
WEIGHTS = ("weight", "pos_weight")
TAKING_WEIGHTS = (nn.modules.loss._WeightedLoss, nn.BCEWithLogitsLoss, Focal)
# What a class raises when it is given something wrong.
COMPLAINTS = (UserError, ValueError, TypeError, IndexError, RuntimeError, OSError)


def found(settings: Settings, group: str) -> Any:
    """The class that a group names, trusted and of the right kind; None for a constant learning rate.

    Raises:
        UserError: it is not there, or not trusted, or of another kind.
    """
    target: Any = settings.group(group).get("_target_")
    if target is None and group == "scheduler":
        return None
    return trust.resolve(f"{group}._target_", target, KINDS[group], settings.own)


def ours(settings: Settings, group: str) -> Config:
    """The keys of a group that the run reads, whatever its class: but for those that the class names itself.

    `model.weights` is also given to a class that is not ours and takes whatever it is given.
    """
    names, kind = schema.READ_HERE.get(group, ()), found(settings, group)
    taken = set() if kind is None else set(trust.parameters(kind))
    has_weights = group == "model" and settings.group(group).get("weights") is not None
    if has_weights and trust.takes_any(kind) and not trust.is_ours(kind):
        taken.add("weights")
    read = {key: value for key, value in settings.group(group).items() if key in names and key not in taken}
    for key, value in read.items():
        schema.refuse_value(f"{group}.{key}", value)
        if isinstance(value, dict):  # the name of a part may be a number; of 1.10 `optim.groups` makes a name
            read[key] = {name if isinstance(name, float) else str(name): item for name, item in value.items()}
    return read


def built(settings: Settings, group: str, changes: Mapping[str, Any] | None = None) -> Any:
    """What the class of a group makes of the group's keys; every `_target_` is checked on the way.

    Args:
        changes: keys that take the place of the config's, such as facts of the data; other keys may refer to them.

    Raises:
        UserError: the class is not trusted, does not take a key, complains, or makes something of another kind.
    """
    typed, mine = settings.request.config, ours(settings, group)
    config = {k: v for k, v in typed[group].items() if k not in mine} | dict(changes or {})
    config = resolved({**typed, group: config})[group] if changes else {k: settings.group(group)[k] for k in config}
    if group == "model":
        # A fact that nobody has said and that the class does not take, or has its own value for, is left out; one that
        # was typed is not.
        kind = found(settings, group)
        takes = {
            key: parameter
            for key, parameter in trust.parameters(kind).items()
            if trust.is_ours(kind) or parameter.default is None or parameter.default is Parameter.empty
        }
        given = {
            key for key, fact in config.items() if fact is not None and (key not in MADE or key in (changes or {}))
        }
        config = {k: v for k, v in config.items() if k not in FACTS or k in takes or k in given}
    trust.check_targets(group, config, KINDS[group], nn.Module, settings.own)
    try:
        made = instantiate(for_loss(settings, config) if group == "loss" else config, _convert_="all")
    except Exception as error:
        raise complaint(settings, group, error.__cause__ or error) from error
    if group == "data":  # of whatever form: see trainer.data.given
        return made
    wanted = KINDS[group]
    if not (changes or {}).get("_partial_") and not isinstance(made, wanted):
        raise UserError(
            f"{group}={settings.names[group]}: made a {type(made).__name__}; a "
            f"{wanted.__module__}.{wanted.__name__} is needed."
        )
    return made


def for_loss(settings: Settings, config: Any) -> Any:
    """The config of a loss for Hydra: lists of weights become the tensors that torch's criteria take, a function that
    is a loss itself a criterion that calls it."""
    if isinstance(config, list):
        return [for_loss(settings, item) for item in config]
    if not isinstance(config, Mapping):
        return config
    target = str(config.get("_target_"))
    own = (
        trust.resolve("loss._target_", target, nn.Module, settings.own) if trust.belongs(target, settings.own) else None
    )
    is_torchs = target.startswith(("torch.nn.", "trainer.losses.")) or is_made_as_torchs(own)
    tensors = {*(WEIGHTS if is_torchs else ()), *(() if own is None else wanted_as_tensors(own))}
    made = {
        key: {"_target_": "torch.tensor", "data": [float(number) for number in value]}
        if key in tensors and is_of_numbers(value)
        else for_loss(settings, value)
        for key, value in config.items()
    }
    if trust.is_loss("loss", own):
        keys = {key: value for key, value in made.items() if key != "_target_"}
        return {"_target_": "trainer.losses.own.FromFunction", "function": own, "keys": keys}
    return made


def is_made_as_torchs(kind: Any) -> bool:
    """Whether a class of the user's takes what a criterion of torch's takes."""
    makers = (part for part in kind.__mro__ if "__init__" in vars(part)) if isinstance(kind, type) else ()
    return next((maker.__module__ == "torch.nn.modules.loss" for maker in makers), False)


def wanted_as_tensors(own: Any) -> list[str]:
    """The keys of a class or function of the user's that are tensors: it says so, or hands on weights to torch's."""
    parameters = trust.parameters(own)
    said = [name for name, p in parameters.items() if re.search(r"\bTensor\b", str(p.annotation))]
    is_torchs = isinstance(own, type) and issubclass(own, TAKING_WEIGHTS)
    unsaid = [name for name in WEIGHTS if name not in parameters or parameters[name].annotation is Parameter.empty]
    return [*said, *(unsaid if is_torchs else ())]


def is_of_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(type(number) in (int, float) for number in value)


def complaint(settings: Settings, group: str, error: BaseException) -> BaseException:
    """What the class in a group complains of in one line, under the key that it names; a fault of ours as it is."""
    if not is_complaint(settings, group, error):
        return error
    text = words(settings, group, error)
    name = text.partition("=")[0]
    for key, _ in schema.leaves(settings.group(group), f"{group}."):
        if name in (key.rpartition(".")[2], key.partition(".")[2]):
            return UserError(_sentence(key.removesuffix(name) + text))
    return error if isinstance(error, UserError) else UserError(_sentence(f"{group}={settings.names[group]}: {text}"))


def is_complaint(settings: Settings, group: str, error: BaseException) -> bool:
    """Whether an error is the user's: of what was typed, or any error in a class of their own or of another library.

    That a GPU has no deterministic kernel is said in `trainer.exits`, wherever it comes out.
    """
    if "deterministic implementation" in str(error):
        return False
    return settings.is_own(group) or bool(libraries_in(settings, group)) or isinstance(error, COMPLAINTS)


def libraries_in(settings: Settings, group: str) -> list[str]:
    """The packages whose models a group has: `timm`."""
    config = settings.group(group)
    targets = [str(part.get("_target_")) for part in (config, config.get("backbone")) if isinstance(part, Mapping)]
    return [target.removeprefix(LIBRARIES) for target in targets if target.startswith(LIBRARIES)]


def words(settings: Settings, group: str, error: BaseException) -> str:
    """What an error says, in one line; with its place, where it is a fault in the user's own class."""
    is_fault_of_theirs = settings.is_own(group) and not isinstance(error, UserError | ValueError)
    return trust.told(error, settings.own) if is_fault_of_theirs else first_line(error)


def _sentence(text: str) -> str:
    """With a full stop, where it does not end in a mark."""
    return text if text.endswith((".", "?", "!")) else f"{text}."
