"""Labels that a data set keeps apart: its split has the share of every class, and nobody reads all items for it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset, Subset

from trainer.data.given import Asked, as_data
from trainer.data.prepare import Fingerprint
from trainer.data.source import Data
from trainer.errors import UserError

RARE = [int(i % 10 == 0) for i in range(400)]  # 40 of class 1


class Kept(Dataset[Any]):
    """Items of two classes, and how often one was read."""

    num_read = 0

    def __init__(self, attribute: str, kept: Any, shift: int = 0) -> None:
        setattr(self, attribute, kept)
        self.shift = shift

    def __len__(self) -> int:
        return len(RARE)

    def __getitem__(self, i: int) -> Any:
        self.num_read += 1
        return torch.tensor([float(i)]), RARE[i] + self.shift


def shares(data: Data) -> list[int]:
    """How many of the rare class each split has."""
    parts = [getattr(data, split) for split in ("train", "val", "test")]
    return [sum(int(part.load(("it", [row]))[1]) for row in range(len(part))) for part in parts]


@pytest.mark.parametrize(
    ("attribute", "kept"),
    [
        ("targets", RARE),
        ("labels", torch.tensor(RARE)),
        ("_labels", tuple(RARE)),
        ("y", torch.tensor(RARE).to(torch.uint8).numpy()),
        ("samples", [(f"{i}.jpg", label) for i, label in enumerate(RARE)]),
    ],
)
def test_a_set_whose_classes_are_told_has_the_share_of_each(attribute: str, kept: Any) -> None:
    dataset = Kept(attribute, kept)
    data = as_data(dataset, "mine", Asked(num_classes=2))
    assert dataset.num_read < 50
    assert shares(data) == [28, 4, 8]
    assert not data.notes
    part = as_data(Subset(dataset, range(200, 400)), "mine", Asked(num_classes=2))
    assert shares(part) == [14, 2, 4]
    plain = as_data(dataset, "mine", Asked(num_classes=2, stratify=False))
    assert shares(plain) != [28, 4, 8]


@pytest.mark.parametrize(
    ("attribute", "kept", "shift"),
    [
        ("targets", RARE, -1),  # the items have others
        ("targets", [0] * 400, 0),
        ("targets", RARE[:-1], 0),
        ("labels", [str(label) for label in RARE], 0),
        ("nothing", RARE, 0),
    ],
)
def test_an_attribute_that_says_something_else_is_left_alone(attribute: str, kept: Any, shift: int) -> None:
    data = as_data(Kept(attribute, kept, shift), "mine", Asked(num_classes=2))
    assert data.train.known is None
    assert any("nobody has looked at the labels" in note for note in data.notes)
    assert not as_data(Kept(attribute, kept, shift), "mine", Asked(num_classes=2, stratify=False)).notes


def test_a_label_beyond_the_classes_is_found_before_training() -> None:
    with pytest.raises(UserError, match=r"data=mine: the train split has labels from 0 to 2; with 2 classes they go"):
        as_data(Kept("targets", [*RARE[:-2], 2, RARE[-1]]), "mine", Asked(num_classes=2))


def test_a_run_of_an_older_release_continues_as_it_was_split(
    train: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose config says stratify where nobody knew the labels: so its splits were taken whatever the classes."""
    (tmp_path / "keeps.py").write_text(
        "import torch\nfrom torch.utils.data import Dataset\n\n\nclass Kept(Dataset):\n"
        "    def __init__(self):\n        self.targets = [i % 2 for i in range(60)]\n\n"
        "    def __len__(self):\n        return 60\n\n"
        "    def __getitem__(self, i):\n        return torch.tensor([float(i)]), self.targets[i]\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    words = ("data._target_=keeps.Kept", "trust=[keeps]", "data.num_classes=2", "model=two_layer", "monitor=off")
    train(*words, "data.stratify=false", "max_steps=3", "name=old", "threads=1")
    config = Path("runs/old/config.yaml")
    config.write_text(config.read_text().replace("  stratify: false\n", ""))
    with pytest.raises(UserError, match=r"began with .*continues with data\.stratify=false\."):
        train("resume=runs/old", "trust=[keeps]", "max_steps=6")
    assert train("resume=runs/old", "trust=[keeps]", "max_steps=6", "data.stratify=false")["steps"] == 6


def test_splits_whose_targets_were_not_known_then_are_compared_by_their_items() -> None:
    old, new = Fingerprint("9 samples", (1.0, 2.0)), Fingerprint("9 samples, targets 0a0a0a0a", (1.0, 2.0))
    assert old.difference(new) is new.difference(old) is None
    for changed in ({"sums": (1.0, 3.0)}, {"sums": ()}, {"told": "8 samples, targets 0a0a0a0a"}):
        assert new._replace(**changed).difference(old)
