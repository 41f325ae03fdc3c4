"""A finished run's model with its weights, and all that it takes to be given new samples. No foreign code runs."""

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainer import meaning
from trainer.config import schema
from trainer.config.request import Config, Request
from trainer.config.settings import Settings, settings_of
from trainer.config.shipped import CONFIGS, defaults, shipped
from trainer.data import preparation
from trainer.data.fresh import HOW
from trainer.data.preparation import AsTheyAre, Preparation
from trainer.data.prepare import Sizes, on_device
from trainer.disk import checkpoint, foreign
from trainer.disk import folder as folders
from trainer.errors import UserError, first_line, in_a_line, nearest
from trainer.kept import put_state
from trainer.meaning import Meaning
from trainer.run.environment import autocast, find_device, set_up_torch
from trainer.run.instantiate import ours
from trainer.run.model import build_model
from trainer.run.origin import as_trained
from trainer.state import changed_since, plain_numbers
from trainer.trees import called
from trainer.trials import is_all_ours
from trainer.use.find import Found

FREE = ("device", "precision", "trust", "threads")  # what may be typed of a run's own keys, beside data
MAX_STEP = 1 << 62
# Of data: which it is; what is made of its samples, of all sources and of some; how it is split.
WHERE = ("path", "root", "name", "options", "inputs")
PREPARED_BY = (
    *("normalize", "image_size", "augment", "balance", "standardize"),
    *("categorical", "max_levels", "embed", "drop", "keep"),
)
MEANT_BY = {"table": ("targets", "task", "num_classes"), "arrays": ("task", "num_classes")}
SPLIT_BY = ("val_fraction", "test_fraction", "split_seed", "stratify", "group", "time", "limit", "folds", "fold")
WHOLE = ("table", "arrays", "image_folder", "image_table")  # sources that are read anew without being split


@dataclass(frozen=True)
class About:
    """What `model.json` says.

    Args:
        inputs: what is done to raw samples.
        input_shape: of one sample, as the model gets it.
        outputs: what these stand for.
        versions: of the programs that it was trained with.
        data: what it was trained on, in words.
        metrics: what its test gave.
        num_samples: that it was trained on.
    """

    inputs: Preparation
    input_shape: tuple[int, ...]
    outputs: Meaning
    versions: Mapping[str, str]
    data: str
    metrics: tuple[str, ...]
    num_samples: int
    vocab_size: int | None = None

    @property
    def sizes(self) -> Sizes:
        outputs = self.outputs
        return Sizes(self.input_shape, outputs.num_outputs, vocab_size=self.vocab_size)


@dataclass(frozen=True)
class Trained:
    """
    Args:
        found: the run and its checkpoint.
        settings: of the run, with what was typed.
        model: with the weights of the checkpoint, in eval mode, on `device`.
        precision: what it is called under.
        state: the whole checkpoint, on the CPU; of an average with its weights as the model's and the loss's.
        result: what `result.json` holds; empty of a run that has not ended.
    """

    found: Found
    settings: Settings
    about: About
    model: nn.Module
    device: torch.device
    dtype: torch.dtype
    precision: Callable[[], AbstractContextManager[object]]
    state: Config
    result: Config

    @property
    def step(self) -> int:
        """So many steps the weights have been trained."""
        step: int = self.state["step"]
        return step

    @property
    def batch_size(self) -> int:
        """So many samples went through the model at once while it was trained."""
        wanted = self.settings.batch_size
        return self.about.num_samples if isinstance(wanted, str) else min(int(wanted), self.about.num_samples)

    @contextlib.contextmanager
    def quick(self) -> Iterator[nn.Module]:
        """What gives the same as the model, with the short cuts of the run's own test, so that bits are equal."""
        is_fast, channels_last = self.settings.fast, self.settings.channels_last
        if not (is_fast or channels_last):
            yield self.model
            return
        from trainer.fast.choose import for_use

        with for_use(self.model, self.device, self.batch_size, is_fast, channels_last) as network:
            yield network

    @property
    def name(self) -> str:
        average = ", the average of the weights" if self.found.is_average else ""
        return f"{self.found.name} at step {self.step:,}{average}"


def open_run(found: Found, typed: Mapping[str, Any] | None = None, are_given: bool = False) -> Trained:
    """
    Args:
        typed: dotted keys of the config to their values, in place of the run's own.
        are_given: new samples are given beside the keys, which say how they are read.

    Raises:
        UserError: something is missing, damaged or not trusted, or a key can't be typed here.
    """
    settings = as_trained(settings_for(found.folder, typed or {}), found.folder)
    refuse_kept(settings, found.folder, typed or {}, are_given)
    set_up_torch(settings)
    device = find_device(settings.device)
    dtype = torch.float64 if settings.dtype == "float64" else torch.float32
    about = read_about(found.folder)
    state = read_checkpoint(found.checkpoint)
    if found.is_average:
        state |= average_of(state, found)
    model = build_model(settings, about.sizes, device, dtype)
    try:
        fill(model, state["model"], about, device, dtype)
    except Exception as error:  # of every kind: the file may be anybody's
        own = " Layers that a class makes when it is called first go into its __init__, as nn.LazyLinear."
        hint = own if not is_all_ours(model) and "Unexpected key" in str(error) else ""
        raise UserError(f"{found.checkpoint}: does not fit the model: {in_a_line(error)}.{hint}") from error
    model.eval()
    tell_forgotten(model, state)
    result = folders.read_result(found.folder)
    return Trained(found, settings, about, model, device, dtype, autocast(settings, device), state, result)


def fill(model: nn.Module, state: Mapping[str, Any], about: About, device: torch.device, dtype: torch.dtype) -> None:
    """Puts the weights into the model. One that makes layers when it is called first is called with zeros before.

    Raises:
        Exception: of every kind, where they do not fit.
    """
    try:
        put_state(model, state)
    except Exception:
        if is_all_ours(model) or not about.input_shape:
            raise
        kind = getattr(torch, about.inputs.dtype) if isinstance(about.inputs, AsTheyAre) else dtype
        zeros = on_device(torch.zeros((), dtype=kind).expand(2, *about.input_shape), device, dtype)
        with torch.no_grad(), contextlib.suppress(Exception):  # what does not fit is told then
            called(model.eval(), zeros.clone())
        put_state(model, state)


def tell_forgotten(model: nn.Module, state: Config) -> None:
    """Says on stderr what had changed in the model while it trained, and is not in the checkpoint."""
    changed = changed_since(plain_numbers(is_deep=False, model=model), state)
    for name, (now, then) in changed.items():
        here = "None" if now != now else f"{now:.6g}"
        print(
            f"warning: {name} changed in the training, and no checkpoint keeps it: it is {here} here, and was "
            f"{then:.6g}. If outputs depend on it, they are others than in training: keep it by register_buffer and "
            "train again.",
            file=sys.stderr,
        )


def average_of(state: Config, found: Found) -> Config:
    """The average in a checkpoint, as a state has the weights. Raises UserError: there is none."""
    average = state.get("average", {})
    if not average:
        raise UserError(
            f"checkpoint=average: {found.checkpoint} has no average of the weights; a run that trains with "
            "average.decay=0.999 or average.last=0.25 keeps one. Leave checkpoint= out."
        )
    if not average["updates"]:
        raise UserError(
            f"checkpoint=average: the average begins after step {average['begins']:,}, and {found.checkpoint} "
            f"is of step {state['step']:,}. Leave checkpoint= out."
        )
    return {"model": average["model"], "loss": average["loss"]}


def settings_for(folder: Path, typed: Mapping[str, Any]) -> Settings:
    """The settings of a run as its folder has them, with what was typed. Foreign text: whom to trust is typed alone.

    Raises:
        UserError: the config can't be read, or a key can't be typed.
    """
    stored = folders.read_config(folder)
    assert stored is not None  # who looked for the folder has seen its config
    choices = stored.pop("choices", {})
    # A run of an earlier release lacks sections that there are now.
    holders = [stored.get(group) for group in schema.GROUPS] + [stored.get(key, {}) for key in schema.SECTIONS]
    if not isinstance(choices, dict) or not all(isinstance(holder, dict) for holder in holders):
        raise UserError(f"{folder}/config.yaml: is no config of train.")
    known = defaults()
    sections = {section: {**known[section], **stored.get(section, {})} for section in schema.SECTIONS}
    config: Config = {**known, **stored, **sections, "trust": []}
    choices = {**choices, "data": typed["data"]} if "data" in typed else choices
    for key in sorted(typed, key=lambda key: key not in ("data", "data._target_")):
        put(config, key, typed[key])
    # Nothing of them is asked of this machine, unless it was typed.
    folders.refuse_resolvers(folder, config, {key: config[key] for key in ("data",) if key in typed})
    config["model"] = without_first_weights(config["model"])
    named = {str(group): str(choice) for group, choice in choices.items()}
    return settings_of(Request(config, named, [f"{key}={schema.shown(value)}" for key, value in typed.items()]))


def put(config: Config, key: str, value: Any) -> None:
    """Sets a dotted key.

    Raises:
        UserError: it is none that can be typed for a run that has ended, or the run has no such key.
    """
    first, _, rest = key.partition(".")
    if first not in (*FREE, "data"):
        raise UserError(
            f"{key}: belongs to how the run was trained, and stays. What can be typed is {', '.join(FREE)} and data."
        )
    if key == "data":
        config[key] = source(value)
        return
    if not rest:
        config[key] = value
        return
    if first == "data" and not schema.is_shipped(config["data"]):  # of data=own: the class's own keys
        config[first] = {**config[first], rest: value}
        return
    *path, last = rest.split(".")
    holder = config[first] = dict(config[first])
    for name in path:
        if not isinstance(holder.get(name), Mapping):
            raise schema.unknown_key(key, [f"{first}.{k}" for k in holder])
        holder[name] = dict(holder[name])
        holder = holder[name]
    if last not in holder:
        raise schema.unknown_key(key, [f"{first}.{k}" for k in holder])
    holder[last] = value


def refuse_kept(settings: Settings, folder: Path, typed: Mapping[str, Any], are_given: bool) -> None:
    """Raises UserError for a typed key of data that would change what is as in training, or do nothing.

    Args:
        typed: dotted.
        are_given: new samples are given beside the keys.
    """
    words = {key: value for key, value in typed.items() if key.startswith("data.")}
    if not words:
        return
    data, stored = settings.group("data"), (folders.read_config(folder) or {})["data"]
    own = None if schema.is_shipped(data) else ours(settings, "data")  # a user's function may call its keys so, too
    target = str(data.get("_target_")).removeprefix("trainer.data.").removesuffix(".load")
    names = {key: key.split(".")[1] for key in words}
    is_other_source = any(data.get(key) != stored.get(key) for key in ("_target_", "name"))
    is_another = is_other_source or any(n in WHERE if own is None else n not in own for n in names.values())
    for key, name in names.items():
        if (own is not None and name not in own) or ("data" not in typed and data.get(name) == stored.get(name)):
            continue
        told = f"{key}={schema.shown(words[key])}"
        if name in PREPARED_BY or name in MEANT_BY.get(target, ()):
            raise UserError(f"{told}: what is made of samples stays as in training. Leave it out.")
        if name in SPLIT_BY and is_another and target in WHOLE:
            raise UserError(f"{told}: all new samples are taken. Leave it out.")
        if name in (*SPLIT_BY, *HOW, "background") and not is_another and not are_given:
            raise UserError(
                f"{told}: the run's own data is read and split as in training. Leave it out, or say where other data "
                "lies: data.path=..., data.root=... or data=..."
            )


def source(name: Any) -> Config:
    """The keys of an option of `data=`. Raises UserError: there is none of that name."""
    found = shipped(f"data/{name}") if isinstance(name, str) and name.isidentifier() else {}
    if not found:
        known = sorted(path.stem for path in (CONFIGS / "data").glob("*.yaml"))
        raise UserError(f"data={name}: there is {', '.join(known)}.{nearest(str(name), known)}")
    return found


def without_first_weights(config: Any) -> Any:
    """The config of a model of ours or torchvision's without the file that it began with: it gets others anyway."""
    if isinstance(config, list):
        return [without_first_weights(item) for item in config]
    if not isinstance(config, Mapping):
        return config
    is_known = str(config.get("_target_")).split(".")[0] in ("trainer", "torchvision")
    begun = {"weights": None, "pretrained": False, "init": "default"} if is_known else {}
    return {key: begun[key] if key in begun else without_first_weights(value) for key, value in config.items()}


def read_about(folder: Path) -> About:
    """What `model.json` says.

    Raises:
        UserError: it is missing or holds something else.
    """
    path = folder / folders.MODEL
    try:
        found = json.loads(foreign.text(path))
        shape = found["input_shape"]
        if not isinstance(shape, list) or not all(type(size) is int and 0 <= size < 1 << 40 for size in shape):
            raise ValueError("its input_shape is none")
        return About(
            preparation.from_dict(found["inputs"]),
            tuple(shape),
            meaning.from_dict(found["outputs"]),
            {str(name): str(version) for name, version in dict(found.get("versions", {})).items()},
            str(found.get("data", "")),
            tuple(map(str, found.get("metrics", []))),
            _count(found["num_samples"]["train"]),
            None if found.get("vocab_size") is None else _count(found["vocab_size"]),
        )
    except FileNotFoundError as error:
        raise UserError(
            f"{path}: is missing, as in runs of an earlier train; it says what is done to inputs. Type train "
            f"{schema.resume_word(folder)} with a larger max_steps= or max_epochs=: a step more writes it."
        ) from error
    except OSError as error:
        raise UserError(f"{path}: can't be read: {first_line(error)}.") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"it lacks {error.args[0]}" if isinstance(error, KeyError) else first_line(error)
        raise UserError(f"{path}: can't be read: {reason}. Take it from the run again.") from error


def _count(found: Any) -> int:
    if type(found) is not int or not 1 <= found < 1 << 40:
        raise ValueError("its number of samples is none")
    return found


def read_checkpoint(path: Path) -> Config:
    """The state in a checkpoint; raises UserError: it is missing, damaged, or wants to run code."""
    if not path.is_file():
        raise UserError(f"{path}: is not there any more; the run continues, perhaps. Type the same again.")
    state = checkpoint.read(path)
    if not 0 <= state["step"] < MAX_STEP or not isinstance(state["model"], Mapping):
        raise UserError(f"{path}: not a checkpoint of train.")
    return state
