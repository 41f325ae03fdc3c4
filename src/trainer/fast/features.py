"""What a frozen backbone gives for every sample, computed once: a constant that the training would compute every epoch.

How exact: the features are computed by the same call as in training, but in batches of another size, for which a
kernel may be another one and round differently. On a CPU the same bits were seen for all sizes. In bfloat16 the batch
norms are folded into the convolutions: there the features differ from a training step's by roundings to bfloat16.
Where a CPU imitates bfloat16, float32 takes its place, as it is quicker: what it gives is rounded to bfloat16.

Gain: ten epochs of a frozen ResNet-18 take 7.5 (7.2 to 9.7) times as long without them (2026-11-26, AMD EPYC Zen 4, 128
images 3x64x64), with 512 images 10.5 (10.4 to 13.8) on a Zen 5 (2026-11-22), 9.3 (6.3 to 17.9) on a Zen 3 (2026-11-28).
"""

import contextlib
import itertools
import math
from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from trainer.computation import Work
from trainer.data.batches import EVALUATION_FILES, Batch, Batches, LoadedBatches, ResidentBatches
from trainer.data.item_batches import ItemBatches
from trainer.data.prepare import RESIDENT_BYTES
from trainer.disk.cache import Cache
from trainer.fast.feature_keys import backbone_key, digest, is_known, split_facts
from trainer.fast.folding import folded, laid_in_blocks
from trainer.fast.twins import twin
from trainer.models.finetune import Finetune
from trainer.system.vectors import imitates_half
from trainer.trees import joined, mapped
from trainer.trials import evaluating

# Samples whose maps a CPU's caches still help with; twice as many take longer each. In bfloat16 twice as many are best.
CPU_BATCH = 64
LOOKED_AT = 2  # samples of a split whose features were found on the disk
# What rounding of bfloat16 (8 bits) may come to in a deep network, of the largest feature.
ROUNDING_OF_BFLOAT16 = 0.05


class Feed(NamedTuple):
    """Training and validation on features."""

    train: Batches
    val: Batches


class Features:
    """Of the splits of a run. Each split's are computed when they are first asked for, or taken from the disk.

    Args:
        work: its model is a `Finetune` without `unfreeze`; each of its processes computes its share.
        note: is told, in one line, what takes its time, and why there are none.
    """

    def __init__(
        self, work: Work, cache: Cache, note: Callable[[str], None], is_stop_requested: Callable[[], bool]
    ) -> None:
        model = work.state.model
        assert isinstance(model, Finetune)
        self.work, self.model, self.device, self.world = work, model, work.device, work.state.world
        self.precision, self.precision_name = work.precision, work.precision_name
        self.sample: Tensor = work.sample().inputs
        self.cache, self.note, self.is_stop_requested = cache, note, is_stop_requested
        self._found: dict[str, ResidentBatches | None] = {}

    def feed(self, is_worth: bool) -> Feed | None:
        """None where the ordinary way is the better or the only one.

        Args:
            is_worth: whether the samples are needed often enough; else only what lies on the disk is taken.
        """
        splits = (self.work.train, self.work.val, self.work.test)
        num_bytes = sum(map(len, splits)) * self.model.head.in_features * self.model.head.weight.itemsize
        num_bytes += sum(len(split) * split.target_bytes for split in splits if isinstance(split, ItemBatches))
        if num_bytes > RESIDENT_BYTES:
            self.note(f"the frozen backbone runs at every step: all its features would take {num_bytes:,} bytes.")
            return None
        if not is_worth and self.of("train", may_compute=False) is None:
            return None
        val = self.of("val")  # the smaller one first
        if val is None or not self._are_constants(val.inputs):
            return None
        train = self.of("train")
        return None if train is None else Feed(train, val)

    def of(self, name: str, may_compute: bool = True) -> ResidentBatches | None:
        """A split whose inputs are features; None where a stop was asked for, or memory ran out."""
        if self._found.get(name) is None:
            split: Batches = getattr(self.work, name)
            found = self._features(name, split, may_compute)
            self._found[name] = None if found is None else on_features(split, found, self.device)
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

    def _features(self, name: str, split: Batches, may_compute: bool) -> Batch | None:
        """On the CPU or where they were computed; the same on every rank. Of items with their targets, else without."""
        key = self._key(split) if self.world.is_main else None
        with contextlib.ExitStack() as stack:

            def look() -> Tensor | None:
                return None if key is None else self._fitting(self.cache.read(key), split)

            found = look()
            if found is not None and not self._is_of(split, found):
                self.note(f"warning: the features of {name} in {self.cache.folder} are other samples'; computed again")
                found = None
            if found is None and key is not None and may_compute:
                stack.enter_context(self.cache.computing(key, self.is_stop_requested))
                found = look()  # another process may just have computed it
            found = self.world.shared(found)
            if found is not None:
                if name == "train":
                    self.note(f"features of the frozen backbone: found in {self.cache.folder}")
                return Batch(found, None)
            if not may_compute:
                return None
            if name == "train":
                kept = ", for this run alone" if isinstance(split, ItemBatches) else ""
                self.note(f"features of the frozen backbone: computed once for each of {len(split):,} samples{kept}")
            shares = self.world.gather(self.world.together(lambda: self._computed(split)))
            if any(share is None for share in shares):
                return None
            parts = itertools.chain.from_iterable(share for share in shares if share is not None)
            whole = Batch(*map(joined, zip(*parts, strict=True)))
            if key is not None:
                self.cache.write(key, whole.inputs)
            return whole

    def _is_of(self, split: Batches, features: Tensor) -> bool:
        """Whether the first ones are what the model gives for the first samples of the split."""
        first = next(next(split.in_order()).parts(LOOKED_AT)).inputs.clone()
        with evaluating(self.model, self.device), self.precision():
            alone = self.model.features(first).cpu()
        share = ROUNDING_OF_BFLOAT16 if self.precision_name != "float32" else 1e-3
        return _is_near(features[: len(first)], alone, share)

    def _fitting(self, found: Tensor | None, split: Batches) -> Tensor | None:
        """What was found, if it has the form of this split's features."""
        is_fitting = found is not None and found.shape == (len(split), self.model.head.in_features)
        return found if is_fitting else None

    def _computed(self, split: Batches) -> list[Batch] | None:
        """Of this rank's share of the samples, in order; None where a stop was asked for or memory ran out."""
        computed, cpu_batch = [], CPU_BATCH * (2 if self.precision_name == "bfloat16" and not imitates_half() else 1)
        are_items = isinstance(split, ItemBatches)
        try:
            with evaluating(self.model, self.device):
                for batch in split.in_order(self.world.rank, self.world.size):
                    size = cpu_batch if self.device.type == "cpu" else len(batch.inputs)
                    for part in batch.parts(size):
                        if self.is_stop_requested():
                            return None
                        features = self._compute(part.inputs.clone())  # it may write into them
                        computed.append(Batch(features, part.targets if are_items else None))
        except torch.OutOfMemoryError:
            return None
        return [Batch(*mapped(Tensor.cpu, tuple(part))) for part in computed] if self.world.size > 1 else computed

    @cached_property
    def _alone(self) -> Tensor:
        """What the model gives for the sample, in the ordinary way."""
        with evaluating(self.model, self.device), self.precision():
            # The other way round: each evaluation begins with the same random state, and would draw the same.
            return self.model.features(self.sample.flip(0)).flip(0)

    @cached_property
    def _compute(self) -> Callable[[Tensor], Tensor]:
        """The quickest way from inputs to features."""

        model = twin(self.model)
        assert isinstance(model, Finetune)

        def plain(inputs: Tensor) -> Tensor:
            with self.precision():
                return model.features(inputs)

        if self.precision_name != "bfloat16":
            return plain
        expected, form = self._alone, torch.channels_last
        if self.device.type == "cpu" and imitates_half():

            def exact(inputs: Tensor) -> Tensor:
                return model.features(inputs).to(expected.dtype)

            return exact if _is_near(exact(self.sample.clone()), expected, ROUNDING_OF_BFLOAT16) else plain
        try:
            backbone = folded(self.model.backbone).bfloat16()
            if self.device.type == "cpu" and self.sample.dim() == 4:
                backbone, form = laid_in_blocks(backbone), torch.contiguous_format
            else:
                backbone.to(memory_format=form)  # type: ignore[call-overload]

            def quick(inputs: Tensor) -> Tensor:
                inputs = inputs.to(torch.bfloat16)
                if inputs.dim() == 4:
                    inputs = inputs.contiguous(memory_format=form)
                return backbone(inputs).to(expected.dtype)

            is_right = _is_near(quick(self.sample.clone()), expected, ROUNDING_OF_BFLOAT16)
        except Exception:  # of every kind: torch.fx can't follow it, or a layer has no bfloat16 of its own
            return plain
        return quick if is_right else plain

    @cached_property
    def backbone_key(self) -> str:
        return backbone_key(self.model.backbone, self.device, self.precision_name)

    def _key(self, split: Batches) -> str | None:
        """The name of a split's features among those of all runs; None where they can't be told from others."""
        content = split_facts(split) if self.cache.limit and is_known(self.model.backbone) else None
        return None if content is None else digest([self.backbone_key, content])


def on_features(split: Batches, found: Batch, device: torch.device) -> ResidentBatches:
    """The same samples, in the same batches.

    Args:
        found: features; and targets, of items alone.
    """
    features, targets = (mapped(lambda tensor: tensor.to(device), tree) for tree in found)
    if isinstance(split, LoadedBatches):
        made = ResidentBatches(features, split.files.targets.to(device), evaluation_batch=EVALUATION_FILES)
    elif isinstance(split, ItemBatches):
        made = ResidentBatches(features, targets, evaluation_batch=split.evaluation_batch)
    else:
        assert isinstance(split, ResidentBatches)
        made = ResidentBatches(features, split.targets)
    made.weights = split.weights
    return made


def _is_near(found: Tensor, expected: Tensor, share: float) -> bool:
    """Whether no number differs by more than a share of the largest."""
    if found.shape != expected.shape:
        return False
    largest = expected.abs().max().item()
    return not math.isfinite(largest) or (found - expected).abs().max().item() <= share * largest
