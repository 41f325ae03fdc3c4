"""Inputs and targets of independent standard normals: nothing to learn but the numbers themselves.

The data of the first PyTorch tutorials (J. Johnson, "Learning PyTorch with Examples").
"""

import torch

from trainer.data.source import Data, Samples


def load(num_samples: int = 64, in_features: int = 1000, out_features: int = 10, split_seed: int = 0) -> Data:
    """`num_samples` pairs to train on and as many each to validate and test, `[N, in_features]` to `[N, out_features]`.

    Args:
        split_seed: seeds the draws of all three splits.
    """
    generator = torch.Generator().manual_seed(split_seed)

    def draw() -> Samples:
        return Samples(
            torch.randn(num_samples, in_features, generator=generator),
            torch.randn(num_samples, out_features, generator=generator),
        )

    return Data(
        draw(),
        draw(),
        draw(),
        description=f"random_regression: {num_samples:,} pairs of standard normals, {in_features} to {out_features}",
        by_chance=("train", "val", "test"),
    )
