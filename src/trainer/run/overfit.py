"""Is it wired up? A few samples are learnt by heart; what can't be has a fault somewhere."""

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from trainer.config.settings import Settings
from trainer.data.batches import permutation
from trainer.data.items import Items
from trainer.data.source import SPLITS, Data, ImageFiles, Samples
from trainer.errors import RunStopped

# Steps, where no length is given.
STEPS = 500
# What of the loss before the first step may be left, where there is no accuracy.
LEFT = 0.01
BEFORE = "overfit/loss_before"


class Few(ImageFiles):
    """Some of the images that lie on disk."""

    def __init__(self, files: ImageFiles, rows: Tensor) -> None:
        self.files, self.rows, self.targets = files, rows.tolist(), files.targets[rows]

    @property
    def channels(self) -> int:
        return self.files.channels

    @channels.setter
    def channels(self, channels: int) -> None:
        self.files.channels = channels

    @property
    def image_size(self) -> int:
        return self.files.image_size

    @image_size.setter
    def image_size(self, image_size: int) -> None:
        self.files.image_size = image_size

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        return self.files[self.rows[row]]


def few(settings: Settings, data: Data) -> Data:
    """With `overfit=64`, data whose three splits are the same 64 samples of the training split, drawn by the seed."""
    if settings.overfit is None:
        return data
    rows = permutation(settings.seed, 0, len(data.train))[: settings.overfit].sort().values
    train = data.train
    samples: Samples | Items | ImageFiles
    if isinstance(train, Samples):
        samples = train.take(rows)
    else:
        samples = train.take(rows, "train") if isinstance(train, Items) else Few(train, rows)
    of_file = None if "train" not in data.rows else data.rows["train"][rows]
    known = {} if of_file is None else dict.fromkeys(SPLITS, of_file)
    note = f"overfit={settings.overfit}: the same {len(rows)} samples are trained on, validated and tested"
    return replace(data, train=samples, val=samples, test=samples, rows=known, notes=(*data.notes, note))


def verdict(settings: Settings, last: Mapping[str, float]) -> str | None:
    """`pass` or `fail` with the numbers; None where nobody asked, or the run has not been tested.

    Args:
        last: the last value of every tag.
    """
    loss, accuracy = last.get("test/loss"), last.get("test/accuracy")
    if settings.overfit is None or loss is None:
        return None
    before = last[BEFORE]
    numbers = f"loss {before:.4g} before the first step, {loss:.4g} after the last"
    numbers = numbers if accuracy is None else f"accuracy {accuracy:.4g}, {numbers}"
    is_learnt = loss <= LEFT * before if accuracy is None else accuracy == 1
    return f"{'pass' if is_learnt else 'fail'}: {numbers}"


def refuse_unlearnt(settings: Settings, result: Mapping[str, object]) -> None:
    """Raises RunStopped where a run was to learn a few samples by heart, and has not."""
    said = str(result.get("overfit", ""))
    if said.startswith("fail"):
        raise RunStopped(
            f"overfit={settings.overfit}: {said}. Try a larger max_steps=, another optimizer.lr=, no dropout and no "
            "augmentation; else look for the fault in model, loss and targets."
        )
