"""The 1,797 8x8 scans of handwritten digits that are shipped with the package.

Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998,
https://doi.org/10.24432/C50P49, licence CC BY 4.0. These are the 1,797 scans of its test part, the same numbers as
scikit-learn's `load_digits`; here stored as uint8 (0..16) in `digits.npz`.
"""

from importlib.resources import files
from typing import Any

import numpy as np
import torch

from trainer.data.source import SPLITS, Data, Samples, split_indices


def load(split_seed: int = 0) -> Data:
    """70 % to train on (1,258), 10 % to validate (180), 20 % to test (359); ten classes.

    Args:
        split_seed: decides which scan falls into which split.
    """
    with np.load(str(files("trainer.data") / "digits.npz"), allow_pickle=False) as stored:
        images = torch.from_numpy(stored["images"]).unsqueeze(1)
        labels = torch.from_numpy(stored["labels"]).long()
    rows = dict(zip(SPLITS, split_indices(len(images), (0.7, 0.1), split_seed), strict=True))
    splits: dict[str, Any] = {split: Samples(images[i], labels[i]) for split, i in rows.items()}
    return Data(
        **splits,
        description=f"digits: {len(images):,} scans of handwritten digits, 8x8 grey, 10 classes (UCI, CC BY 4.0)",
        num_classes=10,
        class_names=tuple("0123456789"),
        scale=16.0,
        rows=rows,
        by_chance=("val", "test"),
    )
