"""Which data sets are known to give the same item whenever it is read: their code is known, and draws nothing."""

from collections.abc import Iterator
from typing import Any

from torch.utils.data import ConcatDataset, Subset, TensorDataset

# Of torchvision.transforms and its v2, those that draw nothing at random.
STILL_TRANSFORMS = frozenset(
    {
        *("CenterCrop", "Compose", "ConvertImageDtype", "Grayscale", "Identity", "Normalize", "PILToTensor", "Pad"),
        *("RGB", "Resize", "ToDtype", "ToImage", "ToPILImage", "ToPureTensor", "ToTensor"),
    }
)


def is_fixed(dataset: Any) -> bool:
    """Whether it is of Python's, torch's, torchvision's or Hugging Face's own classes, and draws nothing at random."""
    if type(dataset) is Subset:
        return is_fixed(dataset.dataset)
    if type(dataset) is ConcatDataset:
        return all(map(is_fixed, dataset.datasets))
    if _is_of(dataset, "torchvision.datasets._stereo_matching"):  # some take one of several photographs, by chance
        return False
    return all(map(_draws_nothing, _calls(dataset))) if _is_of(dataset, "torchvision.datasets") else is_plain(dataset)


def is_plain(dataset: Any) -> bool:
    """Whether its items are of a list, of tensors or of one of Hugging Face's tables."""
    return type(dataset) in (list, tuple, TensorDataset) or is_of_arrow(dataset)


def is_of_arrow(dataset: Any) -> bool:
    """Whether it is one of Hugging Face's, whose items nobody's own function makes."""
    return type(dataset).__module__ == "datasets.arrow_dataset" and dataset.format["type"] != "custom"


def _calls(dataset: Any) -> Iterator[Any]:
    """What one of torchvision's was given to make its items with."""
    its = vars(dataset)
    yield from (its.get(name) for name in ("transform", "target_transform", "loader", "_loader"))
    both = its.get("transforms")
    # torchvision makes one of the first two.
    yield from vars(both).values() if type(both).__name__ == "StandardTransform" else (both,)


def _draws_nothing(call: Any) -> bool:
    if call is None or getattr(call, "__module__", "") == "torchvision.datasets.folder":  # opens a picture
        return True
    if not _is_of(call, "torchvision.transforms"):
        return False
    is_known = type(call).__name__ in STILL_TRANSFORMS or _is_of(call, "torchvision.transforms._presets")
    return is_known and all(map(_draws_nothing, getattr(call, "transforms", ())))


def _is_of(part: Any, package: str) -> bool:
    return f"{type(part).__module__}.".startswith(f"{package}.")
