"""From a composed config to plain Python objects: data, model, loss, optimizer, all checked against each other."""

import contextlib
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from hydra.utils import instantiate
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR

from trainer.cadence import evaluation_period, num_steps
from trainer.config import schema, trust
from trainer.config.request import Config, Request, resolved
from trainer.data.batches import (
    Batches,
    ResidentBatches,
    batch_length,
    derived_seed,
    first_samples,
    smallest_batch,
)
from trainer.data.images import Augmentation
from trainer.data.prepare import Splits, check, doubts, fingerprint, limited, prepare
from trainer.data.source import Data
from trainer.distributed import ALONE, World
from trainer.draws import seed_all
from trainer.errors import UserError, nearest
from trainer.evaluate import evaluating
from trainer.fast import updates
from trainer.fast.heap import keep_freed_memory
from trainer.fast.products import fast_products
from trainer.fast.recorded import NotRecorded, RecordedStep
from trainer.losses import LossFunction
from trainer.models.initialise import initialise
from trainer.models.lenet import LeNet
from trainer.models.resnet import ResNet
from trainer.optim.manual_sgd import ELEMENTWISE
from trainer.optim.schedulers import Schedule
from trainer.state import Store, TrainingState

# What the class in a group must be.
KINDS: dict[str, type] = {
    "model": nn.Module,
    "data": Data,
    "loss": nn.Module,
    "optimizer": Optimizer,
    "scheduler": LRScheduler,
}
# What a class may be told of the data where its config leaves it null.
FACTS = ("in_features", "in_channels", "image_size", "num_classes", "out_features")

# What a class raises when it is given something wrong.
COMPLAINTS = (UserError, ValueError, TypeError, IndexError, RuntimeError, OSError)


class Built:
    """What a request asks for, built and found to fit together; nothing has been written.

    Raises:
        UserError: what does not fit, both sides named.
    """

    def __init__(
        self, request: Request, own: tuple[str, ...], world: World = ALONE, like: "Built | None" = None
    ) -> None:
        self.request, self.own, self.world = request, own, world
        self.config = config = resolved(request.config)
        self.names = request.names
        for group in schema.GROUPS:
            trust.check_names(group, config[group], own)
        for group in schema.GROUPS:
            self._found(group)
        set_up_torch(config)
        self.order_seed = config["seed"] if config["order_seed"] is None else config["order_seed"]
        self.device = find_device(config["device"], world)
        self.dtype = torch.float64 if config["dtype"] == "float64" else torch.float32
        self.precision = autocast(config, self.device)
        with fitting(self.device):
            self.data: Data = world.first_alone(self._data) if like is None else like.data
            self.splits: Splits = self._splits() if like is None else like.splits
            seed_all(config["seed"])
            self.model = world.first_alone(self._model)
            self.loss_fn = self._loss()
        self._check_metric()
        self.warnings = doubts(self.data, self.names["data"])
        if config["compile"] and world.size > 1:  # alone, the whole step is: see trainer.fast.compiled
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
        self._refuse_empty_shares()
        self._check_last_batch(num_samples)
        optimizer = self._optimizer(store)
        scaler = GradScaler(self.device.type, enabled=config["precision"] == "float16")
        schedule, data = self._schedule(optimizer), fingerprint(self.data)
        self.state = TrainingState(self.model, store, optimizer, schedule, scaler, data=data, world=world)
        if world.rank > 0:  # each its own dropout
            seed_all(derived_seed(config["seed"], "rank", world.rank))

    def products(self, num_runs: int = 1) -> AbstractContextManager[None]:
        """What the training of so many runs like this one multiplies its matrices under."""
        if not self.config["fast"] or self.device.type != "cpu":
            return contextlib.nullcontext()
        num_places = math.prod(self.splits.input_shape[1:]) if self.config["compile"] else 0
        return fast_products(self.model, min(self.batch_size, self.samples_per_step), num_runs, num_places)

    def recorded(self, network: nn.Module, train: Batches) -> RecordedStep | None:
        """The step as calls of torch's operations alone, where that is the same and quicker.

        Args:
            network: the model, or its head alone where the batches of `train` are features.
        """
        config, is_whole = self.config, self.samples_per_step <= self.batch_size
        is_plain = config["fast"] and not config["compile"] and not self.state.scaler.is_enabled()
        is_near = self.device.type in ("cpu", "cuda") and isinstance(train, ResidentBatches) and self.world.size == 1
        if not (is_whole and is_plain and is_near):
            return None
        lengths = {batch_length(len(train), self.samples_per_step, step) for step in (1, self.steps_per_epoch)}
        try:
            examples = (first_samples(train, length) for length in sorted(lengths))
            return RecordedStep(network, self.loss_fn, self.state.store, examples, self.precision)
        except NotRecorded:
            return None

    # ------------------------------------------------------------------ building

    def _found(self, group: str) -> Any:
        """The class that a group names, trusted and of the right kind; None for a constant learning rate."""
        target = self.config[group].get("_target_")
        if target is None and group == "scheduler":
            return None
        return trust.resolve(f"{group}._target_", target, KINDS[group], self.own)

    def _build(self, group: str, changes: Mapping[str, Any] | None = None) -> Any:
        """What the class of a group makes of the group's keys; every `_target_` is checked on the way."""
        config = {
            k: v for k, v in self.request.config[group].items() if k not in schema.READ_HERE.get(group, ())
        } | dict(changes or {})
        config = resolved({**self.request.config, group: config})[group]
        if group == "model":
            takes = trust.parameters(self._found(group))
            config = {k: v for k, v in config.items() if k not in FACTS or k in takes}
        trust.check_targets(group, config, KINDS[group], self.own)
        try:
            built = instantiate(config, _convert_="all")
        except Exception as error:
            raise self._refused(group, error.__cause__ or error) from error
        if not (changes or {}).get("_partial_") and not isinstance(built, KINDS[group]):
            wanted = KINDS[group]
            raise UserError(
                f"{group}={self.names[group]}: made a {type(built).__name__}; a "
                f"{wanted.__module__}.{wanted.__name__} is needed."
            )
        return built

    def _refused(self, group: str, error: BaseException) -> BaseException:
        """The complaint of the class in a group in one line, under the key that it names; a fault of ours as it is."""
        if not self._is_complaint(group, error):
            return error
        text = self._words(group, error)
        name = text.partition("=")[0]
        for key, _ in schema.leaves(self.config[group], f"{group}."):
            if name in (key.rpartition(".")[2], key.partition(".")[2]):
                return UserError(sentence(key.removesuffix(name) + text))
        return error if isinstance(error, UserError) else UserError(sentence(f"{group}={self.names[group]}: {text}"))

    def _is_complaint(self, group: str, error: BaseException) -> bool:
        """Whether an error is the user's: of what was typed, or any error in a class of their own."""
        return self._is_own(group) or isinstance(error, COMPLAINTS)

    def _words(self, group: str, error: BaseException) -> str:
        is_fault_of_theirs = self._is_own(group) and not isinstance(error, UserError | ValueError)
        return trust.told(error, self.own) if is_fault_of_theirs else first_line(error)

    def _is_own(self, group: str) -> bool:
        """Whether the class in a group is the user's."""
        return trust.belongs(str(self.config[group].get("_target_")), self.own)

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
        self.differing = [f"model.{n}={fact}" for n, fact in facts.items() if config.get(n) not in (None, fact)]
        takes = trust.parameters(self._found("model"))
        unknown = {name: fact for name, fact in facts.items() if name in takes and config.get(name) is None}
        model: nn.Module = self._build("model", unknown)
        for module in model.modules():
            if isinstance(module, LeNet | ResNet):
                module.is_fast = self.config["fast"]
        if config.get("init", "default") != "default":
            if config.get("weights") is not None:
                raise UserError(f"model.init={config['init']}: would overwrite model.weights. Type model.init=default.")
            try:
                initialise(model, config["init"], config.get("init_std", 1.0))
            except ValueError as error:
                raise self._refused("model", error) from error
        return model.to(self.device, self.dtype)

    def _loss(self) -> LossFunction:
        criterion = self._build("loss")
        loss_fn = LossFunction(criterion, self.model, self.data.num_classes, self.names)
        loss_fn.to(self.device, self.dtype)
        for samples in (self.data.train, self.data.val, self.data.test):
            loss_fn.check_targets(samples.targets)
        self.sample = next(iter(self.splits.val.in_order())).parts(2).__next__()
        # With gradients, to see that there is one.
        with evaluating(self.model, self.device), self.precision(), torch.enable_grad():
            try:
                outputs = self.model(self.sample.inputs)
            except Exception as error:
                if is_out_of_memory(error) or not self._is_complaint("model", error):
                    raise
                raise UserError(
                    f"model={self.names['model']}: does not take what data={self.names['data']} gives, inputs of shape "
                    f"{list(self.sample.inputs.shape)}: {self._words('model', error)}.{self._type_sizes()}"
                ) from error
            if not isinstance(outputs, Tensor):
                raise UserError(f"model={self.names['model']}: gives a {type(outputs).__name__}; a tensor is needed.")
            try:
                loss_fn.check(outputs, self.sample.targets)
            except UserError as error:
                raise UserError(f"{error}{self._type_sizes()}") from error
            try:
                total = loss_fn(outputs, self.sample.targets).total
            except Exception as error:
                if is_out_of_memory(error) or not self._is_complaint("loss", error):
                    raise
                raise UserError(
                    f"loss={self.names['loss']}: can't be taken of outputs {list(outputs.shape)} and targets "
                    f"{list(self.sample.targets.shape)} with precision={self.config['precision']}: "
                    f"{self._words('loss', error)}."
                ) from error
        if not isinstance(total, Tensor):
            raise UserError(f"loss={self.names['loss']}: gives a {type(total).__name__}; a tensor is needed.")
        if total.dim():
            raise UserError(
                f"loss={self.names['loss']}: gives a tensor of shape {list(total.shape)}; one number is needed."
            )
        if not total.requires_grad and any(parameter.requires_grad for parameter in self.model.parameters()):
            group = "loss" if outputs.requires_grad else "model"
            raise UserError(f"{group}={self.names[group]}: no gradient leads through it; nothing would be learnt.")
        return loss_fn

    def _type_sizes(self) -> str:
        """What to type where the config says other sizes than the data has."""
        return f" Type {' '.join(self.differing)}." if self.differing else ""

    def tags(self, split: str) -> list[str]:
        """What an evaluation of this split gives."""
        tags = [f"{split}/loss", *(f"{split}/loss/{name}" for name in self.loss_fn.names if name)]
        return tags if self.data.num_classes is None else [*tags, f"{split}/accuracy"]

    def _check_metric(self) -> None:
        tags = self.tags("val")
        metric = self.config["checkpoint"]["metric"]
        if metric not in tags:
            raise UserError(
                f"checkpoint.metric={metric}: is not measured here; there is {', '.join(tags)}.{nearest(metric, tags)}"
            )

    def _check_last_batch(self, num_samples: int) -> None:
        """Refuses a last batch of one sample where a batch norm would meet a single number in it: torch stops there."""
        accumulate = self.config["gradient"]["accumulate"]
        is_normed = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in self.model.modules())
        if not is_normed or smallest_part(num_samples, self.batch_size, accumulate, self.world.size) > 1:
            return
        buffers = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        with evaluating(self.model, self.device), self.precision():
            self.model.train()
            try:
                self.model(self.sample.inputs[:1])
            except ValueError as error:
                larger = range(self.batch_size + 1, self.batch_size + 100)
                better = [size for size in larger if smallest_part(num_samples, size, accumulate, self.world.size) > 1]
                raise UserError(
                    f"batch_size={self.config['batch_size']}: of {num_samples} samples one is left for the last batch, "
                    f"too few for a batch norm of model={self.names['model']}. "
                    + (f"Try batch_size={better[0]}." if better else "Give more samples.")
                ) from error
            finally:
                for name, buffer in self.model.named_buffers():
                    buffer.copy_(buffers[name])

    def _refuse_empty_shares(self) -> None:
        """Every process needs a sample of every batch, and of every split that is evaluated."""
        num_samples, size = len(self.splits.train), self.world.size
        smallest = smallest_batch(num_samples, self.samples_per_step)
        if smallest < size:
            raise UserError(
                f"batch_size={self.config['batch_size']}: {num_samples} samples end with a batch of {smallest}, too "
                f"few for {size} processes. Type another batch_size, or start fewer processes."
            )
        if len(self.splits.val) < size:
            raise UserError(
                f"data={self.names['data']}: {len(self.splits.val)} samples of validation, and {size} processes."
            )

    def _optimizer(self, store: Store) -> Optimizer:
        found = self._found("optimizer")
        closure = trust.parameters(found.step).get("closure")
        if closure is not None and closure.default is closure.empty:
            raise UserError(
                f"optimizer={self.names['optimizer']}: evaluates the loss several times a step (a closure), which "
                "the loop does not do. Try optimizer=adam."
            )
        is_elementwise = trust.belongs(found.__module__, trust.TRUSTED["optimizer"]) and found.__name__ in ELEMENTWISE
        make = self._build("optimizer", {"_partial_": True})  # checks the options, too
        options = {key: value for key, value in self.config["optimizer"].items() if key != "_target_"}
        update = updates.standing_for(found.__name__, options) if is_elementwise and self.config["fast"] else None
        if update is not None:
            return self._made("optimizer", lambda store: update(store.values, store.grads, **options), store)
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

        def schedule(optimizer: Optimizer) -> Schedule:
            made = make(optimizer)
            if isinstance(made, OneCycleLR) and made.total_steps < length:
                raise ValueError(f"total_steps={made.total_steps}: the run has {length}, and one cycle covers it all")
            return Schedule(made, interval, self.steps_per_epoch, length if is_laid_out else None)

        return self._made("scheduler", schedule, optimizer)

    def _made(self, group: str, make: Callable[[Any], Any], argument: Any) -> Any:
        try:
            return make(argument)
        except (ValueError, TypeError) as error:
            raise self._refused(group, error) from error


def first_line(error: BaseException) -> str:
    """The first line of a message, without a full stop."""
    line = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
    asked = re.search(r"DefaultCPUAllocator: .*tried to allocate (\d+) bytes", line)
    return f"{int(asked[1]):,} bytes of memory are needed at once, more than there are" if asked else line


def sentence(text: str) -> str:
    """With a full stop, where it does not end in a mark."""
    return text if text.endswith((".", "?", "!")) else f"{text}."


def is_out_of_memory(error: BaseException) -> bool:
    """On a GPU, or on the CPU, where torch has no class for it."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


@contextlib.contextmanager
def fitting(device: torch.device) -> Iterator[None]:
    """Says in one line that a device is full before the first step."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(
            f"device={device}: is out of memory before the first step ({first_line(error)}): data or model are too "
            "large for it. Try data.limit=, a smaller data.image_size= or another model."
        ) from error


def smallest_part(num_samples: int, batch_size: int, accumulate: int, world_size: int) -> int:
    """How many samples of an epoch go through the model at once, at the least, on whatever rank."""
    step = min(batch_size * accumulate, num_samples)
    shares = {share for n in (step, num_samples % step or step) for share in (n // world_size, -(-n // world_size))}
    size = -(-batch_size // world_size)
    return min(share if share < size else share % size or size for share in shares)


def set_up_torch(config: Config) -> None:
    """Memory, threads and determinism, before the first tensor."""
    if config["fast"]:
        keep_freed_memory()
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


def find_device(wanted: str, world: World = ALONE) -> torch.device:
    """The device that `device=` names; `auto` takes a GPU where there is one. Under torchrun each process has its own.

    Raises:
        UserError: there is no such device; lists those that there are.
    """
    num_cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if world.size > 1:
        if wanted not in ("auto", "cpu", "cuda"):
            raise UserError(f"device={wanted}: torchrun's processes have one each. Type device=cuda or device=cpu.")
        if wanted == "cpu" or not num_cuda:
            wanted = "cuda" if wanted == "cuda" else "cpu"
        elif world.local_rank >= num_cuda:
            raise UserError(
                f"device={wanted}: each process of this machine needs a GPU of its own, and there are {num_cuda}. "
                f"Type torchrun --nproc-per-node={num_cuda}, or device=cpu."
            )
        else:
            wanted = f"cuda:{world.local_rank}"
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
