"""`loss.teacher=runs/x`: a finished run whose outputs the model follows."""

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainer.config.request import Config, Request, resolved
from trainer.config.settings import Settings, settings_of
from trainer.data.prepare import Fingerprint, Splits
from trainer.data.source import Data
from trainer.disk import checkpoint
from trainer.disk import folder as folders
from trainer.draws import random_state, set_random_state
from trainer.errors import UserError, first_line
from trainer.kept import put_state
from trainer.losses.criteria import Composite
from trainer.losses.distillation import Distillation
from trainer.meaning import Classes, Numbers
from trainer.run.instantiate import ours
from trainer.run.model import build_model
from trainer.trees import called
from trainer.trials import set_mode

# Keys of the data that may differ between the two: they change neither splits nor what a sample looks like.
FREE = ("augment", "balance", "cache", "fixed", "num_workers", "download", "root", "urls", "image_size")
TERM = "teacher"
LACKING = "train runs lists them. A run that was moved since it taught must be moved back. train evaluate, export "
"and predict need none."


def with_teacher(
    settings: Settings,
    criterion: nn.Module,
    data: Data,
    splits: Splits,
    model: nn.Module,
    inputs: Tensor,
    is_needed: bool = True,
) -> nn.Module:
    """The criterion and the teacher's as named terms; the criterion alone where no teacher is asked for.

    Args:
        inputs: a few samples.
        is_needed: False: where the teacher's run is not here, the terms are those without it.

    Raises:
        UserError: there is no such run, or it is of other data, or its model does not take or give the same.
    """
    asked = ours(settings, "loss")
    if asked.get("teacher") is None:
        if lonely := [key for key in ("temperature", "teacher_weight") if asked.get(key) is not None]:
            raise UserError(f"loss.{lonely[0]}: is of a teacher. Type loss.teacher=runs/... too, or leave it out.")
        return criterion
    key = f"loss.teacher={asked['teacher']}"
    if not isinstance(data.meaning, Classes | Numbers):
        raise UserError(f"{key}: teaches classes or numbers, and data={settings.names['data']} has neither.")
    folder = Path(os.path.expanduser(str(asked["teacher"])))
    terms = {"targets": {"weight": 1.0, "criterion": criterion}}
    if isinstance(criterion, Composite):
        each = zip(criterion.names, criterion.weights, criterion.criteria, strict=True)
        terms = {name: {"weight": weight, "criterion": part} for name, weight, part in each}
    if not is_needed and lost_teacher(settings) is not None:
        return Composite(terms)
    term = _term(key, settings, folder, data, splits, model, inputs)
    weight = asked.get("teacher_weight")
    return Composite({**terms, TERM: {"weight": 1.0 if weight is None else weight, "criterion": term}})


def lost_teacher(settings: Settings) -> str | None:
    """The teacher that was asked for, where its run is not here."""
    teacher = ours(settings, "loss").get("teacher")
    is_here = teacher is None or Path(os.path.expanduser(str(teacher)), "config.yaml").is_file()
    return None if is_here else str(teacher)


def _term(
    key: str, settings: Settings, folder: Path, data: Data, splits: Splits, model: nn.Module, inputs: Tensor
) -> Distillation:
    """What follows the teacher of the run in the folder."""
    of_teacher = teacher_settings(key, settings, folder)
    refuse_other_inputs(key, settings, of_teacher, data, splits)
    random = random_state(inputs.device)
    teacher = build_model(of_teacher, splits, inputs.device, inputs.dtype)
    set_random_state(random, inputs.device)
    try:
        put_state(teacher, weights_of(key, folder))
        with torch.no_grad():
            shapes = [list(called(network.eval(), inputs).shape) for network in (teacher, model)]
    except (RuntimeError, TypeError, AttributeError) as error:
        raise UserError(f"{key}: does not take the place of a teacher: {first_line(error)}.") from error
    set_mode(model, True)
    if shapes[0] != shapes[1] or "probabilities" in {getattr(network, "gives", "") for network in (teacher, model)}:
        raise UserError(f"{key}: gives {shapes[0]}, and model={settings.names['model']} {shapes[1]}; both give logits.")
    temperature = ours(settings, "loss").get("temperature")
    return Distillation(teacher, float(temperature or 2.0), isinstance(data.meaning, Classes))


def teacher_settings(key: str, settings: Settings, folder: Path) -> Settings:
    """Those of the run in the folder; whom it trusts is said by who types this command."""
    if folder.is_file():
        raise UserError(f"{key}: is a file; a teacher is the folder of a run. {_folder_to_type(folder)}")
    stored: Any = folders.read_config(folder)
    if stored is None:
        meant = Path("runs", folder)
        how = f"Type loss.teacher={meant}." if (meant / "config.yaml").is_file() else LACKING
        raise UserError(f"{key}: there is no run. {how}")
    request = settings.request
    folders.refuse_resolvers(folder, stored, request.config)
    choices = {str(group): str(choice) for group, choice in (stored.pop("choices", None) or {}).items()}
    config = {**request.config, **stored, "trust": request.config["trust"], "resume": None}
    return settings_of(Request(config, choices, request.overrides))


def _folder_to_type(file: Path) -> str:
    """What to type in the place of a pack, or of a file in a run's folder."""
    if (around := next((p for p in file.parents if (p / "config.yaml").is_file()), None)) is not None:
        return f"Type loss.teacher={around}."
    unpacked = Path("runs", file.stem)
    if (unpacked / "config.yaml").is_file():
        return f"Type loss.teacher={unpacked}."
    if file.suffix.lower() != ".zip":
        return LACKING
    return f"Type train resume={file}, which unpacks it to {unpacked}, and then loss.teacher={unpacked}."


def weights_of(key: str, folder: Path) -> dict[str, Tensor]:
    """Of the best checkpoint, or of the last."""
    places = [folder / "checkpoints" / name for name in ("best.pt", "last.pt")]
    place = next((place for place in places if place.exists()), None)
    if place is None:
        raise UserError(f"{key}: has no checkpoint. Train it first.")
    found: dict[str, Tensor] = checkpoint.read(place)["model"]
    return found


def refuse_other_inputs(key: str, settings: Settings, teacher: Settings, data: Data, splits: Splits) -> None:
    """Raises UserError where the teacher was trained on other samples, or sees them in another form."""

    def told(config: Config) -> Config:
        return {name: value for name, value in resolved(config)["data"].items() if name not in FREE}

    mine, theirs = told(settings.config), told(teacher.config)
    if differing := sorted(name for name in {**mine, **theirs} if mine.get(name) != theirs.get(name)):
        raise UserError(f"{key}: was trained on other data: data.{differing[0]} differs. Train it on the same.")
    if not data.is_images:
        return
    wanted = teacher.group("model")
    sizes = (wanted.get("in_channels"), wanted.get("image_size") or ours(teacher, "data").get("image_size"))
    native = data.sample_shape or (None, None, None)
    sees = [size if size is not None else own for size, own in zip(sizes, (native[0], native[-1]), strict=True)]
    gets = [splits.input_shape[0], splits.input_shape[-1]]
    if any(see is not None and see != get for see, get in zip(sees, gets, strict=True)):
        how = f" Type data.image_size={sees[1]}." if sees[0] == gets[0] else ""
        raise UserError(
            f"{key}: sees {sees[0]} channels of {sees[1]} pixels a side, and model={settings.names['model']} {gets[0]} "
            f"of {gets[1]}.{how}"
        )


def told_apart(settings: Settings) -> dict[str, Fingerprint]:
    """What tells a teacher from another, for the checkpoint: a run continues with the one that it began with."""
    asked = ours(settings, "loss").get("teacher")
    if asked is None:
        return {}
    weights = weights_of(f"loss.teacher={asked}", Path(os.path.expanduser(str(asked))))
    sums = [checkpoint.checksum(tensor) for tensor in weights.values()]
    return {TERM: Fingerprint(f"weights {sum(sums) % 2**32:08x}")}
