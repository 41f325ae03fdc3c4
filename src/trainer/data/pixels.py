"""Random changes of what images look like, each image its own draw: colours, a patch left out, a policy of several."""

import torch
from torch import Tensor

from trainer.errors import UserError

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, what Pillow's `convert("L")` uses
# Random erasing: share of the image's area, and height by width.
# Source: Z. Zhong et al., "Random Erasing Data Augmentation", AAAI 2020, section 4.
ERASED, ERASED_RATIO = (0.02, 0.33), (0.3, 3.3)
POLICIES = {"randaugment": "RandAugment", "trivialaugment": "TrivialAugmentWide", "autoaugment": "AutoAugment"}


def jittered(images: Tensor, strength: float, generator: torch.Generator, rows: slice, of: int) -> Tensor:
    """Brightness, contrast and saturation, each times a factor that is uniform in 1 - strength..1 + strength.

    As `torchvision.transforms.v2.ColorJitter`, in this order.

    Shapes: images `[N, C, H, W]` in 0..1; they are these rows of a batch of `of`.
    """
    factors = 1 + (torch.rand(3, of, generator=generator) * 2 - 1) * strength
    factors = factors[:, rows].to(images.device, images.dtype).view(3, -1, 1, 1, 1)
    images = (images * factors[0]).clamp(0, 1)
    images = blended(images, grey(images).mean((1, 2, 3), keepdim=True), factors[1])
    return blended(images, grey(images), factors[2]) if images.shape[1] == 3 else images


def blended(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    """From `other` at 0 to the images at 1, and beyond."""
    return (images * factor + other * (1 - factor)).clamp(0, 1)


def grey(images: Tensor) -> Tensor:
    """`[N, C, H, W]` to `[N, 1, H, W]`."""
    return luma(images) if images.shape[1] == 3 else images[:, :1]


def luma(images: Tensor) -> Tensor:
    """How bright colours are, `[N, 3, H, W]` to `[N, 1, H, W]`."""
    weights = torch.tensor(LUMA, dtype=images.dtype, device=images.device).view(1, 3, 1, 1)
    return (images * weights).sum(1, keepdim=True)


def erased(images: Tensor, probability: float, generator: torch.Generator, rows: slice, of: int) -> Tensor:
    """A rectangle of 0 in some of the images, `[N, C, H, W]`."""
    height, width = images.shape[-2:]
    chosen, area, ratio, x, y = torch.rand(5, of, generator=generator).double()[:, rows].unbind()
    low, high = (torch.tensor(bound).log().item() for bound in ERASED_RATIO)
    area = (ERASED[0] + area * (ERASED[1] - ERASED[0])) * height * width
    ratio = torch.exp(low + ratio * (high - low))
    tall = (area * ratio).sqrt().round().clamp(1, height)
    wide = (area / ratio).sqrt().round().clamp(1, width)
    top, left = (y * (height - tall + 1)).floor(), (x * (width - wide + 1)).floor()

    def inside(start: Tensor, length: Tensor, size: int) -> Tensor:
        places = torch.arange(size)
        return (places >= start.unsqueeze(1)) & (places < (start + length).unsqueeze(1))

    box = inside(top, tall, height).unsqueeze(2) & inside(left, wide, width).unsqueeze(1)
    box &= (chosen < probability).view(-1, 1, 1)
    return images.masked_fill(box.unsqueeze(1).to(images.device), 0.0)


def by_policy(images: Tensor, policy: str, generator: torch.Generator, rows: slice, of: int) -> Tensor:
    """What torchvision's policy makes of uint8 images `[N, C, H, W]`, one by one, each with a seed of its own."""
    from torchvision.transforms import v2

    change = getattr(v2, POLICIES[policy])()
    seeds = torch.randint(2**62, (of,), generator=generator)[rows].tolist()
    changed = []
    with torch.random.fork_rng(devices=[]):  # it draws from torch's generator of the CPU alone
        for image, seed in zip(images, seeds, strict=True):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed those of GPUs, too
            changed.append(change(image))
    return torch.stack(changed)


def refuse_missing_torchvision(policy: str) -> None:
    """Raises UserError where a policy can't be had."""
    try:
        import torchvision.transforms.v2  # noqa: F401
    except (ImportError, RuntimeError) as error:  # RuntimeError: it was built for another torch
        raise UserError(
            f"data.augment.policy={policy}: needs torchvision ({str(error).splitlines()[0]}). "
            "Type pip install 'train-cli[vision]'."
        ) from error
