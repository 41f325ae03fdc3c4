"""Mixed training samples: whether they are asked for, and whether all parts go along."""

from torch import Tensor, nn

from trainer.config.settings import Settings
from trainer.data.mix import Mix
from trainer.data.prepare import targets_of
from trainer.data.source import Data
from trainer.distributed import World
from trainer.errors import UserError
from trainer.losses.distillation import Distillation
from trainer.losses.function import LossFunction
from trainer.losses.term import Term
from trainer.meaning import Classes, Numbers
from trainer.run.instantiate import ours
from trainer.trees import leaves


def build_mix(settings: Settings, data: Data, loss_fn: LossFunction, world: World) -> Mix | None:
    """Raises UserError: the data, the loss or several processes do not go with it."""
    asked = ours(settings, "data").get("augment") or {}
    alphas = {key: float(asked.get(key) or 0.0) for key in ("mixup", "cutmix")}
    if not any(alphas.values()):
        return None
    key = next(f"data.augment.{name}={asked[name]}" for name, alpha in alphas.items() if alpha)
    if world.size > 1:
        raise UserError(f"{key}: is for one process: a sample's partner may be another's. Leave it out.")
    if alphas["cutmix"] and not data.is_images:
        raise UserError(f"{key}: data={settings.names['data']} has no images to cut. Try data.augment.mixup=0.2.")
    if not data.is_images and (whole := [part for part in leaves(data.example[0]) if not _is_of_numbers(part)]):
        what = f"inputs of {str(whole[0].dtype).removeprefix('torch.')}, such as tokens"
        raise UserError(f"{key}: data={settings.names['data']} has {what}, which don't mix. Leave it out.")
    is_classes = isinstance(data.meaning, Classes)
    if not is_classes and not isinstance(data.meaning, Numbers):
        raise UserError(f"{key}: mixes classes or numbers, and data={settings.names['data']} has neither.")
    targets = targets_of(data.train)
    if not isinstance(targets, Tensor) or targets.dim() != (1 if is_classes else 2):
        raise UserError(f"{key}: mixes one class, or a row of numbers, for each sample. Leave it out.")
    if is_classes and bool((targets < 0).any()):
        raise UserError(f"{key}: some samples have no class to mix. Leave it out.")
    for term in loss_fn.terms if is_classes else []:
        if isinstance(term.criterion, Distillation):  # of the mixed inputs, whatever the targets
            continue
        is_of_labels = term.compared_with == "index" and not isinstance(term.criterion, nn.CrossEntropyLoss)
        if term.wants is None or is_of_labels:
            raise UserError(f"{key}: loss={settings.names['loss']} takes no shares of classes. Try loss=cross_entropy.")
        if term.kind == "weighted mean":
            unfit = keys_of_weights(settings, term)
            raise UserError(f"{key}: shares of classes are all taken, and weigh the same. Leave {unfit} out.")
    num_classes = data.meaning.num_classes if isinstance(data.meaning, Classes) else None
    return Mix(alphas["mixup"], alphas["cutmix"], num_classes, settings.order_seed)


def _is_of_numbers(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def keys_of_weights(settings: Settings, term: Term) -> str:
    """The keys of a term that say which classes count, and how much."""
    weights = "loss.class_weights" if ours(settings, "loss").get("class_weights") else f"{term.key}.weight"
    is_set = {
        weights: getattr(term.criterion, "weight", None) is not None,
        f"{term.key}.ignore_index": getattr(term.criterion, "ignore_index", -1) >= 0,
    }
    return " and ".join(name for name, is_there in is_set.items() if is_there)
