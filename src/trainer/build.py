"""From a composed config to plain Python objects: data, model, loss, optimizer, all checked against each other."""

import contextlib
import math
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from trainer import schema, trust
from trainer.cadence import evaluation_period, num_steps
from trainer.data.images import Augmentation
from trainer.data.prepare import Splits, check, limited, prepare
from trainer.data.source import Data
from trainer.errors import UserError
from trainer.evaluate import evaluating
from trainer.losses import LossFunction
from trainer.models.initialise import initialise
from trainer.optimizers import ELEMENTWISE
from trainer.schedulers import Schedule
from trainer.state import Store, TrainingState

# What the class in a group must be.
KINDS: dict[str, type] = {
    "model": nn.Module,
    "data": Data,
    "loss": nn.Module,
    "optimizer": Optimizer,
    "scheduler": LRScheduler,
}
# Keys that stand in a group but are read here, not by the group's class.
OURS = {
    "model": ("init", "init_std"),
    "data": ("image_size", "normalize", "augment", "limit"),
    "scheduler": ("interval",),
}
# What a class may be told of the data where its config leaves it null.
FACTS = ("in_features", "in_channels", "image_size", "num_classes", "out_features")

Config = dict[str, Any]


@dataclass(frozen=True)
class Request:
    """What was typed, composed.

    Args:
        config: of the groups and keys, interpolations not resolved.
        choices: group to the name of the chosen option.
        overrides: as typed.
    """

    config: Config
    choices: dict[str, str]
    overrides: list[str]

    def name(self, group: str) -> str:
        """What the choice in a group is called in names and messages: its option, or the user's own class."""
        choice = self.choices.get(group, "own")
        return str(self.config[group]["_target_"]).rsplit(".", 1)[-1] if choice == "own" else choice

    @property
    def names(self) -> dict[str, str]:
        return {group: self.name(group) for group in schema.GROUPS}


def resolved(config: Config) -> Config:
    """Interpolations replaced by what they refer to.

    Raises:
        UserError: one that refers to nothing, or a value that is missing (`???`).
    """
    try:
        container = OmegaConf.to_container(OmegaConf.create(config), resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise UserError(f"{error.full_key}=???: is missing. Type {error.full_key}=...") from error
    except OmegaConfBaseException as error:
        raise UserError(f"{getattr(error, 'full_key', None) or 'config'}: {str(error).splitlines()[0]}.") from error
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


class Built:
    """What a request asks for, built and found to fit together; nothing has been written.

    Raises:
        UserError: what does not fit, both sides named.
    """

    def __init__(self, request: Request, own: tuple[str, ...]) -> None:
        self.request, self.own = request, own
        self.config = config = resolved(request.config)
        self.names = request.names
        for group in schema.GROUPS:
            self._found(group)
        set_up_torch(config)
        self.device = find_device(config["device"])
        self.dtype = torch.float64 if config["dtype"] == "float64" else torch.float32
        self.precision = autocast(config, self.device)
        self.data = self._data()
        self.splits = self._splits()
        torch.manual_seed(config["seed"])
        self.model = self._model()
        self.loss_fn = self._loss()
        if config["compile"]:
            compile_in_place(self.model)
        try:
            store = Store(self.model)
        except ValueError as error:
            raise UserError(f"model={self.names['model']}: {error}.") from error

        num_samples = len(self.splits.train)
        self.batch_size = num_samples if config["batch_size"] == "full" else config["batch_size"]
        self.samples_per_step = min(self.batch_size * config["gradient"]["accumulate"], num_samples)
        self.steps_per_epoch = -(-num_samples // self.samples_per_step)
        self.max_steps = num_steps(config["max_steps"], config["max_epochs"], self.steps_per_epoch)
        optimizer = self._optimizer(store)
        scaler = GradScaler(self.device.type, enabled=config["precision"] == "float16")
        self.state = TrainingState(self.model, store, optimizer, self._schedule(optimizer), scaler)

    # ------------------------------------------------------------------ building

    def _found(self, group: str) -> Any:
        """The class that a group names, trusted and of the right kind; None for a constant learning rate."""
        target = self.config[group].get("_target_")
        if target is None and group == "scheduler":
            return None
        return trust.resolve(f"{group}._target_", target, KINDS[group], self.own)

    def _build(self, group: str, changes: Mapping[str, Any] | None = None) -> Any:
        """What the class of a group makes of the group's keys; every `_target_` is checked on the way."""
        config = {k: v for k, v in self.request.config[group].items() if k not in OURS.get(group, ())} | dict(
            changes or {}
        )
        config = resolved({**self.request.config, group: config})[group]
        if group == "model":
            takes = trust.parameters(self._found(group))
            config = {k: v for k, v in config.items() if k not in FACTS or k in takes}
        trust.check_targets(group, config, KINDS[group], self.own)
        try:
            built = instantiate(config, _convert_="all")
        except Exception as error:
            cause = error.__cause__ or error
            if isinstance(cause, UserError):
                raise cause from None
            if isinstance(cause, ValueError | TypeError | RuntimeError | OSError):
                raise UserError(f"{group}={self.names[group]}: {first_line(cause)}.") from error
            raise
        if not config.get("_partial_") and not isinstance(built, KINDS[group]):
            wanted = KINDS[group]
            raise UserError(
                f"{group}={self.names[group]}: made a {type(built).__name__}; a "
                f"{wanted.__module__}.{wanted.__name__} is needed."
            )
        return built

    def _data(self) -> Data:
        data: Data = self._build("data")
        data = limited(data, self.config["data"].get("limit"))
        check(data, self.names["data"])
        return data

    def _splits(self) -> Splits:
        config, model = self.config["data"], self.config["model"]
        names, data = self.names, self.data
        size, wanted = config.get("image_size"), model.get("image_size")
        if size and wanted and size != wanted:
            raise UserError(
                f"data.image_size={size}: model={names['model']} wants images of {wanted}. "
                f"Type model.image_size={size} too."
            )
        if model.get("in_channels") and not data.is_images and len(data.sample_shape) != 3:
            raise UserError(
                f"model={names['model']}: wants images, but data={names['data']} gives samples of shape "
                f"{list(data.sample_shape)}. Try model=two_layer or model=sequential."
            )
        trust.check_keys("data.augment", config.get("augment") or {}, Augmentation)
        augment = Augmentation(**(config.get("augment") or {}))
        if augment and not data.is_images:
            raise UserError(f"data.augment: data={names['data']} has no images to augment.")
        return prepare(
            data,
            self.device,
            self.dtype,
            channels=model.get("in_channels"),
            image_size=wanted or size,
            normalize=config.get("normalize", True),
            augment=augment or None,
        )

    def _model(self) -> nn.Module:
        config, shape = self.config["model"], self.splits.input_shape
        facts = {"in_features": math.prod(shape), "num_classes": self.splits.num_outputs}
        facts["out_features"] = facts["num_classes"]
        if len(shape) == 3:
            facts |= {"in_channels": shape[0], "image_size": shape[-1]}
        takes = trust.parameters(self._found("model"))
        unknown = {name: fact for name, fact in facts.items() if name in takes and config.get(name) is None}
        model: nn.Module = self._build("model", unknown)
        if config.get("init", "default") != "default":
            if config.get("weights") is not None:
                raise UserError(f"model.init={config['init']}: would overwrite model.weights. Type model.init=default.")
            initialise(model, config["init"], config.get("init_std", 1.0))
        return model.to(self.device, self.dtype)

    def _loss(self) -> LossFunction:
        criterion = self._build("loss")
        loss_fn = LossFunction(criterion, self.model, self.data.num_classes, self.names)
        loss_fn.to(self.device, self.dtype)
        for samples in (self.data.train, self.data.val, self.data.test):
            loss_fn.check_targets(samples.targets)
        self.sample = next(iter(self.splits.val.in_order())).parts(2).__next__()
        with evaluating(self.model, self.device), self.precision():
            try:
                outputs = self.model(self.sample.inputs)
            except (RuntimeError, ValueError, TypeError, IndexError) as error:
                raise UserError(
                    f"model={self.names['model']}: does not take what data={self.names['data']} gives, inputs of shape "
                    f"{list(self.sample.inputs.shape)}: {first_line(error)}."
                ) from error
            if not isinstance(outputs, Tensor):
                raise UserError(f"model={self.names['model']}: gives a {type(outputs).__name__}; a tensor is needed.")
            loss_fn.check(outputs, self.sample.targets)
            try:
                total = loss_fn(outputs, self.sample.targets).total
            except (RuntimeError, ValueError, TypeError, IndexError) as error:
                raise UserError(
                    f"loss={self.names['loss']}: can't be taken of outputs {list(outputs.shape)} and targets "
                    f"{list(self.sample.targets.shape)} with precision={self.config['precision']}: {first_line(error)}."
                ) from error
        if total.dim():
            raise UserError(
                f"loss={self.names['loss']}: gives a tensor of shape {list(total.shape)}; one number is needed."
            )
        return loss_fn

    def _optimizer(self, store: Store) -> Optimizer:
        found = self._found("optimizer")
        closure = trust.parameters(found.step).get("closure")
        if closure is not None and closure.default is closure.empty:
            raise UserError(
                f"optimizer={self.names['optimizer']}: evaluates the loss several times a step (a closure), which "
                "the loop does not do. Try optimizer=adam."
            )
        is_elementwise = trust.belongs(found.__module__, trust.TRUSTED["optimizer"]) and found.__name__ in ELEMENTWISE
        make = self._build("optimizer", {"_partial_": True})
        return self._made("optimizer", make, [store.flat] if is_elementwise else store.parameters)

    def _schedule(self, optimizer: Optimizer) -> Schedule:
        if self._found("scheduler") is None:
            return Schedule(None)
        config = self.config["scheduler"]
        interval = config.get("interval", "step")
        every = {
            "step": 1,
            "epoch": self.steps_per_epoch,
            "evaluation": evaluation_period(self.config["eval_every"], self.steps_per_epoch),
        }[interval]
        length = -(-self.max_steps // every)
        defaults = {"T_max": length, "total_steps": length, "max_lr": 10 * self.config["optimizer"].get("lr", 1.0)}
        missing = {k: v for k, v in defaults.items() if k in config and config[k] is None}
        make = self._build("scheduler", {**missing, "_partial_": True})
        is_laid_out = bool(missing.keys() & {"T_max", "total_steps"})
        return self._made(
            "scheduler",
            lambda o: Schedule(make(o), interval, self.steps_per_epoch, length if is_laid_out else None),
            optimizer,
        )

    def _made(self, group: str, make: Callable[[Any], Any], argument: Any) -> Any:
        try:
            return make(argument)
        except (ValueError, TypeError) as error:
            raise UserError(f"{group}={self.names[group]}: {first_line(error)}.") from error


def first_line(error: BaseException) -> str:
    """The first line of a message, without a full stop."""
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def set_up_torch(config: Config) -> None:
    """Threads and determinism, before the first tensor."""
    if config["threads"] is not None:
        torch.set_num_threads(config["threads"])
    if config["deterministic"]:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is not deterministic without
    if config["deterministic"] != torch.are_deterministic_algorithms_enabled():  # the call imports half of torch
        torch.use_deterministic_algorithms(config["deterministic"])


def compile_in_place(model: nn.Module) -> None:
    """Has torch.compile take the model over at its first call; what it can't compile runs as it is."""
    import torch._dynamo  # a second of import that other runs need not wait for

    torch._dynamo.config.suppress_errors = True
    model.compile()


def find_device(wanted: str) -> torch.device:
    """The device that `device=` names; `auto` takes a GPU where there is one.

    Raises:
        UserError: there is no such device; lists those that there are.
    """
    num_cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    has_mps = torch.backends.mps.is_available()
    if wanted == "auto":
        return torch.device("cuda" if num_cuda else "mps" if has_mps else "cpu")
    present = [
        "cpu",
        *(["cuda"] if num_cuda else []),
        *(f"cuda:{i}" for i in range(num_cuda)),
        *(["mps"] if has_mps else []),
    ]
    if wanted not in present:
        raise UserError(
            f"device={wanted}: is not there; there is {', '.join(present)}. Type device=auto for the best of them."
        )
    return torch.device(wanted)


def autocast(config: Config, device: torch.device) -> Callable[[], AbstractContextManager[object]]:
    """What the forward pass and the loss run under: nothing, or autocast to the precision."""
    precision = config["precision"]
    if precision == "float32":
        return contextlib.nullcontext
    if config["dtype"] == "float64":
        raise UserError(f"precision={precision}: does not go with dtype=float64. Type precision=float32.")
    dtype = {"bfloat16": torch.bfloat16, "float16": torch.float16}[precision]
    return lambda: torch.autocast(device.type, dtype)
