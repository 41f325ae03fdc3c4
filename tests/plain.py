"""A run's parts for a plain PyTorch loop beside it, runs in a stack, and what a run wrote."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from trainer.command.composing import composer
from trainer.command.words import sorted_words
from trainer.config.request import Request
from trainer.config.settings import settings_of
from trainer.data.batches import permutation
from trainer.disk import checkpoint
from trainer.run.parts import Parts, build
from trainer.signals import Signals
from trainer.sweep.together import train_together


def request_of(*words: str) -> Request:
    with composer(list(words), sorted_words(list(words))) as made:
        return made.request()


def parts_of(*words: str) -> Parts:
    """What `train WORDS` would train, before its first step."""
    return build(settings_of(request_of(*words)))


def together(runs: Sequence[Sequence[str]]) -> None:
    """Trains runs, each with a name, as one program in this process."""
    train_together([request_of(*words) for words in runs], [Path(f"{i}.log") for i in range(len(runs))], Signals())


def losses(name: str) -> list[float]:
    """Of every step that a run wrote down."""
    lines = map(json.loads, Path("runs", name, "metrics.jsonl").read_text().splitlines())
    return [line["train/loss"] for line in lines if "train/loss" in line]


def weights(name: str) -> dict[str, Tensor]:
    """Of a run's last checkpoint."""
    found: dict[str, Tensor] = checkpoint.read(Path("runs", name, "checkpoints/last.pt"))["model"]
    return found


def cut_loose(parts: Parts) -> nn.Module:
    """The model with parameters of its own: no gradient is kept in a buffer."""
    for parameter in parts.model.parameters():
        parameter.data, parameter.grad = parameter.data.clone(), None
    return parts.model


def plain_losses(
    parts: Parts, optimizer: torch.optim.Optimizer, begin: Callable[[int], None] | None = None, batch_size: int = 40
) -> list[float]:
    """Of the steps of three epochs of a plain loop with cross-entropy; `begin` is called with every epoch."""
    split, found = parts.splits.train, []
    for epoch in range(3):
        if begin is not None:
            begin(epoch)
        for rows in permutation(0, epoch, len(split)).split(batch_size):
            optimizer.zero_grad(set_to_none=True)
            loss = nn.functional.cross_entropy(parts.model(split.inputs[rows]), split.targets[rows])
            loss.backward()
            optimizer.step()
            found.append(loss.item())
    return found
