"""Training samples mixed two by two, and their targets with them."""

import random
from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import one_hot

from trainer.data.batches import Batch, derived_seed
from trainer.trees import leaves, mapped


@dataclass(frozen=True)
class Mix:
    """Mixes every sample of a batch with the one before it; the draws are a function of (seed, step).

    The share of the sample itself is drawn once for a batch, from Beta(alpha, alpha). Where both ways are chosen, each
    step takes one of them, either as often.

    Sources: H. Zhang et al., "mixup: Beyond Empirical Risk Minimization", 2018, section 2; S. Yun et al., "CutMix",
    2019, section 3.1, with its supplement's box.

    Args:
        mixup: alpha; the inputs are added up by their shares. 0: never.
        cutmix: alpha; a rectangle of the other image takes the place of the image's own. 0: never.
        num_classes: of targets that are classes, which become shares of classes; None for numbers.
    """

    mixup: float
    cutmix: float
    num_classes: int | None
    seed: int

    def __call__(self, batch: Batch, step: int) -> Batch:
        """Shapes: inputs `[N, ...]`, or a dict or tuple of such, images for `cutmix`; targets `[N]` become
        `[N, num_classes]`, `[N, D]` stay so."""
        draw = random.Random(derived_seed(self.seed, "mix", step))
        is_cut = bool(self.cutmix) and (not self.mixup or draw.random() < 0.5)
        alpha = self.cutmix if is_cut else self.mixup
        kept = draw.betavariate(alpha, alpha)
        inputs, targets = batch
        if self.num_classes is not None:
            targets = one_hot(targets, self.num_classes).to(leaves(inputs)[0].dtype.to_real())
        if is_cut:
            inputs, kept = cut(inputs, kept, draw.random(), draw.random())
        else:
            inputs = mapped(lambda part: mixed(part, kept), inputs)
        return Batch(inputs, mixed(targets, kept))


def mixed(tensor: Tensor, kept: float) -> Tensor:
    """Each row's share, and the rest of the row before it."""
    return tensor * kept + tensor.roll(1, 0) * (1 - kept)


def cut(images: Tensor, kept: float, x: float, y: float) -> tuple[Tensor, float]:
    """A rectangle around (x, y), in 0..1, comes from the image before; returns what share of the pixels stays, too."""
    height, width = images.shape[-2:]
    half = (1 - kept) ** 0.5 / 2
    left, right = (int(min(1.0, max(0.0, x + side)) * width) for side in (-half, half))
    top, bottom = (int(min(1.0, max(0.0, y + side)) * height) for side in (-half, half))
    images = images.clone()
    images[..., top:bottom, left:right] = images.roll(1, 0)[..., top:bottom, left:right]
    return images, 1 - (bottom - top) * (right - left) / (height * width)


def as_mixed(batch: Batch, mix: Mix | None) -> Batch:
    """What a training makes of a batch: an example of its form."""
    return batch if mix is None else mix(batch, 1)
