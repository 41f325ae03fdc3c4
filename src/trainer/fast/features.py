"""What a frozen backbone gives for every sample, computed once: a constant that the training would compute every epoch.

How exact: the features are computed by the same call as in training, but in batches of another size, for which a
kernel may be another one and round differently. On a CPU the same bits were seen for all sizes. In bfloat16 the batch
norms are folded into the convolutions: there the features differ from a training step's by roundings to bfloat16.
"""

import contextlib
import hashlib
import math
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from trainer.data.batches import EVALUATION_FILES, Batches, LoadedBatches, ResidentBatches
from trainer.data.images import ImageTransform
from trainer.data.prepare import RESIDENT_BYTES, Splits
from trainer.disk.cache import Cache
from trainer.disk.checkpoint import checksum
from trainer.distributed import World
from trainer.evaluate import evaluating
from trainer.fast.folding import folded, in_blocks
from trainer.models.finetune import Finetune

# Samples whose maps a CPU's caches still help with; twice as many take longer each. In bfloat16 twice as many are best.
CPU_BATCH = 64
CHECKED_ROWS = 4096  # of a split, under one checksum
# Packages whose code is told by their version. What others compute may change without a sign.
VERSIONED = ("torch", "trainer", "torchvision")
# What rounding of bfloat16 (8 bits) may come to in a deep network, of the largest feature.
ROUNDING_OF_BFLOAT16 = 0.05


# Is called with the inputs, outputs and targets of every batch of an evaluation.
Keep = Callable[[Tensor, Tensor, Tensor], None]


class Feed(NamedTuple):
    """What a training is fed with.

    Args:
        network: what the batches go through: the model, or its head.
        sample: a few inputs of the network.
    """

    network: nn.Module
    train: Batches
    val: Batches
    sample: Tensor


class Features:
    """Of the splits of a run. Each split's are computed when they are first asked for, or taken from the disk.

    Args:
        model: without `unfreeze`.
        sample: a few of the model's inputs.
        precision: what the forward pass runs under.
        precision_name: what the config calls that.
        world: the processes, of which each computes its share.
        note: is told, in one line, what takes its time, and why there are none.
    """

    def __init__(
        self,
        model: Finetune,
        splits: Splits,
        sample: Tensor,
        precision: Callable[[], AbstractContextManager[object]],
        precision_name: str,
        world: World,
        cache: Cache,
        note: Callable[[str], None],
        is_stop_requested: Callable[[], bool],
    ) -> None:
        self.model, self.splits, self.sample, self.device = model, splits, sample, sample.device
        self.precision, self.precision_name, self.world = precision, precision_name, world
        self.cache, self.note, self.is_stop_requested = cache, note, is_stop_requested
        self._found: dict[str, ResidentBatches | None] = {}

    def feed(self, head: nn.Module, is_worth: bool) -> Feed | None:
        """Training and validation on features; None where the ordinary way is the better or the only one.

        Args:
            head: that trains; its backbone is the same as here.
            is_worth: whether the samples are needed often enough; else only what lies on the disk is taken.
        """
        splits = (self.splits.train, self.splits.val, self.splits.test)
        num_bytes = sum(map(len, splits)) * self.model.head.in_features * self.model.head.weight.itemsize
        if num_bytes > RESIDENT_BYTES:
            self.note(f"the frozen backbone runs at every step: all its features would take {num_bytes:,} bytes.")
            return None
        if not is_worth and self.of("train", may_compute=False) is None:
            return None
        val = self.of("val")  # the smaller one first
        if val is None or not self._are_constants(val.inputs):
            return None
        train = self.of("train")
        return None if train is None else Feed(head, train, val, val.inputs[: len(self.sample)])

    def of(self, name: str, may_compute: bool = True) -> ResidentBatches | None:
        """A split whose inputs are features; None where a stop was asked for, or memory ran out."""
        if self._found.get(name) is None:
            split = getattr(self.splits, name)
            features = self._features(name, split, may_compute)
            self._found[name] = None if features is None else on_features(split, features.to(self.device))
        return self._found[name]

    def _are_constants(self, features: Tensor) -> bool:
        """Whether the first ones are what the model gives for those samples without the others. The same on all ranks.

        It is another backbone than ours that draws at random, or mixes the samples of a batch, in eval mode.
        """
        alone, share = self._alone, ROUNDING_OF_BFLOAT16 if self.precision_name != "float32" else 1e-3
        is_one = alone.dim() == 2 and _is_near(features[: len(alone)], alone, share)
        if all(self.world.gather(is_one)):
            return True
        self.note("the frozen backbone runs at every step: what it gives for a sample is no constant.")
        return False

    def _features(self, name: str, split: Batches, may_compute: bool) -> Tensor | None:
        """On the CPU or where they were computed; the same on every rank."""
        key = self._key(split) if self.world.is_main else None
        with contextlib.ExitStack() as stack:

            def look() -> Tensor | None:
                return None if key is None else self._fitting(self.cache.read(key), split)

            found = look()
            if found is None and key is not None and may_compute:
                stack.enter_context(self.cache.computing(key, self.is_stop_requested))
                found = look()  # another process may just have computed it
            found = self.world.shared(found)
            if found is not None:
                if name == "train":
                    self.note(f"features of the frozen backbone: found in {self.cache.folder}")
                return found
            if not may_compute:
                return None
            if name == "train":
                self.note(f"features of the frozen backbone: computed once for each of {len(split):,} samples")
            parts = self.world.gather(self.world.together(lambda: self._computed(split)))
            if any(part is None for part in parts):
                return None
            whole = torch.cat([part for part in parts if part is not None])
            if key is not None:
                self.cache.write(key, whole)
            return whole

    def _fitting(self, found: Tensor | None, split: Batches) -> Tensor | None:
        """What was found, if it has the form of this split's features."""
        is_fitting = found is not None and found.shape == (len(split), self.model.head.in_features)
        return found if is_fitting else None

    def _computed(self, split: Batches) -> Tensor | None:
        """Of this rank's share of the samples, in order; None where a stop was asked for or memory ran out."""
        parts, cpu_batch = [], CPU_BATCH * (2 if self.precision_name == "bfloat16" else 1)
        try:
            with evaluating(self.model, self.device):
                for batch in split.in_order(self.world.rank, self.world.size):
                    size = cpu_batch if self.device.type == "cpu" else len(batch.inputs)
                    for part in batch.parts(size):
                        if self.is_stop_requested():
                            return None
                        parts.append(self._compute(part.inputs))
        except torch.OutOfMemoryError:
            return None
        computed = torch.cat(parts)
        return computed.cpu() if self.world.size > 1 else computed

    @cached_property
    def _alone(self) -> Tensor:
        """What the model gives for the sample, in the ordinary way."""
        with evaluating(self.model, self.device), self.precision():
            # The other way round: each evaluation begins with the same random state, and would draw the same.
            return self.model.features(self.sample.flip(0)).flip(0)

    @cached_property
    def _compute(self) -> Callable[[Tensor], Tensor]:
        """The quickest way from inputs to features."""

        def plain(inputs: Tensor) -> Tensor:
            with self.precision():
                return self.model.features(inputs)

        if self.precision_name != "bfloat16":
            return plain
        expected, form = self._alone, torch.channels_last
        try:
            backbone = folded(self.model.backbone).bfloat16()
            if self.device.type == "cpu" and self.sample.dim() == 4:
                backbone, form = in_blocks(backbone), torch.contiguous_format
            else:
                backbone.to(memory_format=form)  # type: ignore[call-overload]

            def quick(inputs: Tensor) -> Tensor:
                inputs = inputs.to(torch.bfloat16)
                if inputs.dim() == 4:
                    inputs = inputs.contiguous(memory_format=form)
                return backbone(inputs).to(expected.dtype)

            is_right = _is_near(quick(self.sample), expected, ROUNDING_OF_BFLOAT16)
        except Exception:  # of every kind: torch.fx can't follow it, or a layer has no bfloat16 of its own
            return plain
        return quick if is_right else plain

    # ------------------------------------------------------------------ names

    @cached_property
    def backbone_key(self) -> str:
        """A name for all that makes the features of an input what they are: code, weights, kernels and precision."""
        backbone = self.model.backbone
        facts: list[Any] = [torch.__version__, self._kernels(), self.precision_name]
        packages = {type(module).__module__.split(".")[0] for module in backbone.modules()}
        facts += [(package, getattr(sys.modules.get(package), "__version__", None)) for package in sorted(packages)]
        facts += [(name, *_settings(module)) for name, module in backbone.named_modules()]
        tensors = [*backbone.named_parameters(), *backbone.named_buffers()]
        facts += [(name, str(tensor.dtype), tuple(tensor.shape), checksum(tensor)) for name, tensor in tensors]
        return _digest(facts)

    def _kernels(self) -> str:
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        return f"{self.device.type} {torch.backends.cpu.get_cpu_capability()}"

    def _key(self, split: Batches) -> str | None:
        """The name of a split's features among those of all runs; None where they can't be told from others."""
        content = split_facts(split) if self.cache.limit else None
        if content is None or not all(_is_known(module) for module in self.model.backbone.modules()):
            return None
        return _digest([self.backbone_key, content])


def on_features(split: Batches, features: Tensor) -> ResidentBatches:
    """The same samples, in the same batches."""
    if isinstance(split, LoadedBatches):
        return ResidentBatches(features, split.files.targets.to(features.device), evaluation_batch=EVALUATION_FILES)
    assert isinstance(split, ResidentBatches)
    return ResidentBatches(features, split.targets)


def of_inputs(keep: Keep, split: Batches) -> Keep:
    """Has `keep` get the inputs of a split, in whose place an evaluation goes through the features."""
    batches = split.in_order()

    def kept(features: Tensor, outputs: Tensor, targets: Tensor) -> None:
        keep(next(batches).inputs, outputs, targets)

    return kept


def split_facts(split: Batches) -> Any:
    """What the inputs of a split are told by: their content, or the names, sizes and times of their files.

    None where nothing tells them from others: files of a class of the user's own.
    """
    if isinstance(split, ResidentBatches):
        if not isinstance(split.transform, ImageTransform | None):
            return None
        sums = [checksum(part) for part in split.inputs.split(CHECKED_ROWS)]
        return str(split.inputs.dtype), tuple(split.inputs.shape), sums, repr(split.transform)
    assert isinstance(split, LoadedBatches)
    marks = split.files.marks()
    return None if marks is None else (marks, split.files.channels, split.files.image_size, repr(split.transform))


def _settings(module: nn.Module) -> tuple[object, ...]:
    """The class of a layer and what it was given, beside its tensors."""
    plain = (bool, int, float, str, tuple, type(None))
    kept = {name: value for name, value in vars(module).items() if isinstance(value, plain) and name != "training"}
    return f"{type(module).__module__}.{type(module).__qualname__}", module.extra_repr(), sorted(kept.items(), key=str)


def _is_known(module: nn.Module) -> bool:
    """Whether a version tells what it computes."""
    is_hooked = module._forward_hooks or module._forward_pre_hooks
    return type(module).__module__.split(".")[0] in VERSIONED and not is_hooked


def _digest(facts: list[Any]) -> str:
    return hashlib.blake2b(repr(facts).encode(), digest_size=16).hexdigest()


def _is_near(found: Tensor, expected: Tensor, share: float) -> bool:
    """Whether no number differs by more than a share of the largest."""
    if found.shape != expected.shape:
        return False
    largest = expected.abs().max().item()
    return not math.isfinite(largest) or (found - expected).abs().max().item() <= share * largest
