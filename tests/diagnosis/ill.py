"""Data and networks for runs that are made ill on purpose, and for healthy ones beside them."""

import itertools
import math

import torch
from torch import Tensor, nn

from trainer import Data, Samples


def _splits(inputs: Tensor, targets: Tensor, num_classes: int | None, said: str, sizes: tuple[int, int]) -> Data:
    val, test = sizes
    parts = [slice(val + test, None), slice(0, val), slice(val, val + test)]
    train, val_, test_ = (Samples(inputs[part].clone(), targets[part].clone()) for part in parts)
    return Data(train, val_, test_, description=said, num_classes=num_classes)


def _spoilt(
    data: Data, num_classes: int, generator: torch.Generator, noise: float, val_labels: str, shift: float
) -> Data:
    """With wrong labels in the training split, other labels in the other splits, or inputs that are shifted there."""
    labels = data.train.targets
    wrong = torch.rand(len(labels), generator=generator) < noise
    labels[wrong] = torch.randint(0, num_classes, (int(wrong.sum()),), generator=generator)
    for split in (data.val, data.test):
        if val_labels == "off":
            split.targets[:] = (split.targets + 1) % num_classes
        elif val_labels == "shuffled":
            split.targets[:] = split.targets[torch.randperm(len(split.targets), generator=generator)]
        split.inputs.add_(shift)
    return data


def blobs(
    num_samples: int = 1200,
    num_classes: int = 5,
    features: int = 12,
    spread: float = 1.0,
    scale: float = 1.0,
    column: float = 1.0,
    largest: float = 0.0,
    noise: float = 0.0,
    val_labels: str = "same",
    shift: float = 0.0,
    seed: int = 0,
) -> Data:
    """A table of numbers: a cloud for each class. `largest`: the share of class 0, beside its own."""
    generator = torch.Generator().manual_seed(seed)
    centres = 1.5 * torch.randn(num_classes, features, generator=generator)
    labels = torch.randint(0, num_classes, (num_samples,), generator=generator)
    inputs = centres[labels] + spread * torch.randn(num_samples, features, generator=generator)
    if largest:
        labels[torch.rand(num_samples, generator=generator) < largest] = 0
    inputs = inputs * scale
    inputs[:, 0] *= column
    data = _splits(inputs, labels, num_classes, "blobs", (num_samples // 6, num_samples // 6))
    return _spoilt(data, num_classes, generator, noise, val_labels, shift)


def rings(
    num_samples: int = 1500,
    num_classes: int = 3,
    scale: float = 1.0,
    noise: float = 0.0,
    val_labels: str = "same",
    shift: float = 0.0,
    fuzz: float = 0.15,
    seed: int = 1,
) -> Data:
    """Points on circles around each other, in four dimensions, the last two of which say nothing."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, num_classes, (num_samples,), generator=generator)
    angles = 2 * math.pi * torch.rand(num_samples, generator=generator)
    radii = 0.5 + labels + fuzz * torch.randn(num_samples, generator=generator)
    points = torch.stack([radii * angles.cos(), radii * angles.sin()], 1)
    inputs = torch.cat([points, torch.randn(num_samples, 2, generator=generator)], 1) * scale
    data = _splits(inputs, labels, num_classes, "rings", (num_samples // 6, num_samples // 6))
    return _spoilt(data, num_classes, generator, noise, val_labels, shift)


def waves(num_samples: int = 900, num_classes: int = 4, length: int = 12, noise: float = 0.0, seed: int = 2) -> Data:
    """Sequences `[length, 2]`: a wave for each class, at any phase."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, num_classes, (num_samples,), generator=generator)
    phase = 2 * math.pi * torch.rand(num_samples, 1, generator=generator)
    time = torch.arange(length)[None] * (0.2 + 0.25 * labels[:, None]) + phase
    inputs = torch.stack([time.sin(), time.cos()], 2) + 0.2 * torch.randn(num_samples, length, 2, generator=generator)
    data = _splits(inputs, labels, num_classes, "waves", (num_samples // 6, num_samples // 6))
    return _spoilt(data, num_classes, generator, noise, "same", 0.0)


def stripes(num_samples: int = 900, num_classes: int = 4, size: int = 12, spread: float = 0.6, seed: int = 3) -> Data:
    """Pictures `[1, size, size]` of stripes that run in one direction for each class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, num_classes, (num_samples,), generator=generator)
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    angle = math.pi * labels / num_classes
    along = x[None] * angle.cos()[:, None, None] + y[None] * angle.sin()[:, None, None]
    phase = 2 * math.pi * torch.rand(num_samples, 1, 1, generator=generator)
    inputs = (along + phase).sin() + spread * torch.randn(num_samples, size, size, generator=generator)
    return _splits(inputs[:, None], labels, num_classes, "stripes", (num_samples // 6, num_samples // 6))


def line(
    num_samples: int = 900,
    features: int = 8,
    scale: float = 1.0,
    offset: float = 0.0,
    noise: float = 0.3,
    inputs_scale: float = 1.0,
    constant: bool = False,
    seed: int = 4,
) -> Data:
    """Regression: a bent function of some numbers."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(num_samples, features, generator=generator)
    weights = torch.randn(features, 1, generator=generator) / features**0.5
    targets = inputs @ weights + (inputs[:, :1] * inputs[:, 1:2]).tanh()
    targets = targets + noise * torch.randn(num_samples, 1, generator=generator)
    targets = torch.full_like(targets, 3.0) if constant else offset + scale * targets
    return _splits(inputs * inputs_scale, targets, None, "line", (num_samples // 6, num_samples // 6))


def spoilt(
    of: str, leak: float = 0.0, order: bool = False, empty: int = 0, mislabelled: float = 0.0, rare: float = 0.0
) -> Data:
    """One of the above, and what may be wrong with its samples.

    Args:
        leak: this share of validation and of test is in training, too.
        order: sorted by label before the splits are cut.
        empty: of the columns, the last ones are constant, and those before them copies of the first.
        mislabelled: the share of class 1 that training calls class 0.
        rare: the share of class 1 that training lacks.
    """
    made = {"blobs": blobs, "rings": rings, "waves": waves, "stripes": stripes}[of]()
    splits = [made.val, made.test, made.train]
    inputs, labels = (torch.cat([getattr(split, name) for split in splits]) for name in ("inputs", "targets"))
    if empty:
        half = inputs.shape[1] - empty // 2
        inputs[:, half:] = 1.0
        inputs[:, inputs.shape[1] - empty : half] = inputs[:, :1]
    if order:
        rows = labels.sort(stable=True).indices
        inputs, labels = inputs[rows], labels[rows]
    num = len(made.val)
    for start in (0, num) if leak else ():
        count = int(leak * num)
        inputs[start : start + count], labels[start : start + count] = inputs[-count:], labels[-count:]
    train = torch.arange(len(labels)) >= 2 * num
    draws = torch.rand(len(labels), generator=torch.Generator().manual_seed(0))
    labels[train & (labels == 1) & (draws < mislabelled)] = 0
    kept = ~(train & (labels == 1) & (draws < rare))
    return _splits(inputs[kept], labels[kept], made.num_classes, of, (num, num))


def in_order() -> Data:
    """Each split sorted by label, with the same shares."""
    data = blobs()
    splits = []
    for split in (data.train, data.val, data.test):
        rows = split.targets.sort(stable=True).indices
        splits.append(Samples(split.inputs[rows], split.targets[rows]))
    return Data(*splits, description="blobs in order", num_classes=5)


class Net(nn.Module):
    """Linear layers with a function between them, and what one may do wrong in them.

    Args:
        start: of the weights: zero, equal (all of a layer's units alike), large, dead (biases far below 0).
        last: a module of torch.nn behind the last layer.
        broken: detached (nothing before the last layer learns), frozen, or unused (a layer that has no part).
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        depth: int = 2,
        width: int = 32,
        function: str = "ReLU",
        start: str = "",
        last: str = "",
        broken: str = "",
        dropout: float = 0.0,
        norm: bool = False,
    ) -> None:
        super().__init__()
        sizes = [in_features, *[width] * depth]
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) if norm else nn.Identity() for _ in self.hidden)
        self.function = getattr(nn, function)()
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, num_classes)
        self.last = getattr(nn, last)(*([1] if last == "Softmax" else [])) if last else nn.Identity()
        self.broken = broken
        if broken == "frozen":
            for layer in self.hidden:
                layer.requires_grad_(False)
                nn.init.zeros_(layer.bias)
                nn.init.normal_(layer.weight, std=0.01)
        if broken == "unused":
            self.extra = nn.Linear(width, width)
        for layer in (*self.hidden, self.head) if start else ():
            assert isinstance(layer, nn.Linear)
            if start == "zero":
                nn.init.zeros_(layer.weight)
            elif start == "equal":
                nn.init.constant_(layer.weight, 0.05)
            elif start == "large":
                nn.init.normal_(layer.weight, std=3.0)
            elif start == "dead" and layer is not self.head:
                nn.init.constant_(layer.bias, -30.0)

    def forward(self, inputs: Tensor) -> Tensor:
        x = inputs.flatten(1)
        for layer, norm in zip(self.hidden, self.norms, strict=True):
            x = self.dropout(self.function(norm(layer(x))))
        if self.broken == "detached":
            x = x.detach()
        return self.last(self.head(x))


class Regression(Net):
    """The same, with a number for each output."""

    def __init__(self, in_features: int, out_features: int, depth: int = 2, width: int = 32) -> None:
        super().__init__(in_features, out_features, depth, width)


class Conv(nn.Module):
    """Convolutions, with batch norms or without."""

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        depth: int = 3,
        width: int = 12,
        norm: bool = True,
        dropout: float = 0.0,
        start: str = "",
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i in range(depth):
            layers.append(nn.Conv2d(width if i else in_channels, width, 3, padding=1))
            layers += [nn.BatchNorm2d(width)] if norm else []
            layers.append(nn.ReLU())
        self.body, self.dropout, self.head = nn.Sequential(*layers), nn.Dropout(dropout), nn.Linear(width, num_classes)
        for module in self.modules() if start == "large" else ():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.normal_(module.weight, std=2.0)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.dropout(self.body(images).mean((2, 3))))


class Recurrent(nn.Module):
    """An LSTM over a sequence `[N, T, C]`."""

    def __init__(self, num_classes: int, channels: int = 2, width: int = 24, layers: int = 1) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(channels, width, layers, batch_first=True), nn.Linear(width, num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.lstm(inputs)[0][:, -1])


class Attention(nn.Module):
    """A small transformer over a sequence `[N, T, C]`."""

    def __init__(
        self,
        num_classes: int,
        channels: int = 2,
        width: int = 16,
        depth: int = 2,
        length: int = 12,
        dropout: float = 0.0,
        norm_first: bool = False,
    ) -> None:
        super().__init__()
        self.embed = nn.Linear(channels, width)
        self.places = nn.Parameter(0.02 * torch.randn(length, width))
        layers = [
            nn.TransformerEncoderLayer(width, 4, 2 * width, dropout, batch_first=True, norm_first=norm_first)
            for _ in range(depth)
        ]
        self.layers, self.head = nn.Sequential(*layers), nn.Linear(width, num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.layers(self.embed(inputs) + self.places).mean(1))


class Trained(Net):
    """Starts from weights that were trained before: by itself, as a user's load in `__init__` would."""

    def __init__(self, in_features: int, num_classes: int) -> None:
        super().__init__(in_features, num_classes)
        data = blobs()
        optimizer = torch.optim.Adam(self.parameters(), 0.01)
        for _ in range(80):
            optimizer.zero_grad()
            nn.functional.cross_entropy(self(data.train.inputs), data.train.targets).backward()
            optimizer.step()
