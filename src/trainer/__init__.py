"""train: see a network learn. A command-line PyTorch training tool driven by Hydra configs."""

__version__ = "0.1.0"
