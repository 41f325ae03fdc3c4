"""A training as a tutorial writes it, from data to test. `python tutorial.py '{"job": "digits", ...}'` in a folder.

It validates after each epoch, keeps the best weights, tests them, and has TensorBoard show what `train` shows of
numbers by itself: losses, norms, and four statistics of every weight and gradient every 50 steps. No histograms and no
pictures. Nothing of `trainer` is imported here.
"""

import gzip
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset
from torch.utils.tensorboard import SummaryWriter

LOG_EVERY = 50
SIDE = 64  # of pictures as they are read

Splits = Sequence["Dataset[Any]"]  # train, val, test


def lenet() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)),
    )


class Block(nn.Module):
    """Of a ResNet-18."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.short: nn.Module = nn.Identity()
        if stride > 1 or before != width:
            self.short = nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.norm1(self.conv1(inputs)).relu()
        return (self.norm2(self.conv2(hidden)) + self.short(inputs)).relu()


def resnet18(num_classes: int) -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 7, 2, padding=3, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    layers.append(nn.MaxPool2d(3, 2, padding=1))
    before = 64
    for width, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        layers += [Block(before, width, stride), Block(width, width, 1)]
        before = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, num_classes))


def parted(samples: "Dataset[Any]", count: int, test: "Dataset[Any] | None" = None) -> Splits:
    """A tenth to validate and, without a test split, a fifth to test."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    num_val, num_test = count // 10, 0 if test is not None else count // 5
    val, tested, trained = order.split([num_val, num_test, count - num_val - num_test])
    if isinstance(samples, TensorDataset):
        of: Callable[[Tensor], Dataset[Any]] = lambda rows: TensorDataset(*(t[rows] for t in samples.tensors))  # noqa: E731
    else:
        of = lambda rows: Subset(samples, rows.tolist())  # noqa: E731
    return of(trained), of(val), test if test is not None else of(tested)


def digits(path: str) -> Splits:
    found = np.load(path)
    inputs, targets = (torch.from_numpy(found[name]) for name in ("images", "labels"))
    images = inputs.float().reshape(-1, 1, 8, 8) / inputs.max()
    images = nn.functional.interpolate(images, (32, 32), mode="bilinear")
    return parted(TensorDataset(images, targets.long()), len(images))


def mnist(path: str) -> Splits:
    def read(name: str, header: int) -> Tensor:
        with gzip.open(Path(path) / f"{name}.gz") as file:
            return torch.from_numpy(np.frombuffer(file.read(), np.uint8, offset=header).copy())

    def part(name: str) -> TensorDataset:
        images = read(f"{name}-images-idx3-ubyte", 16).reshape(-1, 1, 28, 28).float() / 255
        images = nn.functional.interpolate((images - 0.1307) / 0.3081, (32, 32), mode="bilinear")
        return TensorDataset(images, read(f"{name}-labels-idx1-ubyte", 8).long())

    return parted(part("train"), 60_000, part("t10k"))


def table(path: str) -> Splits:
    rows = torch.from_numpy(np.loadtxt(path, delimiter=",", skiprows=1, dtype=np.float32))
    inputs = rows[:, :-1]
    inputs = (inputs - inputs.mean(0)) / inputs.std(0)
    return parted(TensorDataset(inputs, rows[:, -1].long()), len(rows))


class Pictures(Dataset[tuple[Tensor, int]]):
    """A folder for each class."""

    def __init__(self, root: str) -> None:
        self.paths = sorted(Path(root).glob("*/*.jpg"))
        self.classes = sorted({path.parent.name for path in self.paths})

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        from PIL import Image

        path = self.paths[index]
        with Image.open(path) as opened:
            image = opened.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
        return (pixels - 0.5) / 0.25, self.classes.index(path.parent.name)


def pictures(path: str) -> Splits:
    found = Pictures(path)
    return parted(found, len(found))


def network(question: dict[str, Any], inputs: Tensor) -> nn.Module:
    if question["model"] == "lenet":
        return lenet()
    if question["model"] == "resnet18":
        return resnet18(question["classes"])
    hidden = question["hidden"]
    return nn.Sequential(
        nn.Flatten(), nn.Linear(inputs.numel(), hidden), nn.ReLU(), nn.Linear(hidden, question["classes"])
    )


def loader(split: "Dataset[Any]", batch_size: int, shuffle: bool = False) -> "DataLoader[Any]":
    num_workers = 0 if isinstance(split, TensorDataset) else 2
    return DataLoader(split, batch_size, shuffle, num_workers=num_workers)


def evaluate(model: nn.Module, loss_fn: nn.Module, split: "Dataset[Any]") -> tuple[float, float]:
    """Loss and accuracy."""
    model.eval()
    losses, hits, count = 0.0, 0, 0
    with torch.no_grad():
        for inputs, targets in loader(split, 256):
            outputs = model(inputs)
            losses += loss_fn(outputs, targets).item() * len(targets)
            hits += (outputs.argmax(1) == targets).sum().item()
            count += len(targets)
    model.train()
    return losses / count, hits / count


def log(writer: SummaryWriter, model: nn.Module, loss: Tensor, step: int) -> None:
    writer.add_scalar("train/loss", loss.item(), step)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        for kind, tensor in (("weight", parameter.detach()), ("gradient", parameter.grad)):
            writer.add_scalar(f"{kind}_norm/{name}", tensor.norm().item(), step)
            writer.add_scalar(f"{kind}_mean/{name}", tensor.mean().item(), step)
            writer.add_scalar(f"{kind}_std/{name}", tensor.std().item(), step)
            writer.add_scalar(f"{kind}_max/{name}", tensor.abs().max().item(), step)


SOURCES = {"digits": digits, "mnist": mnist, "table": table, "pictures": pictures}


def train(
    question: dict[str, Any],
    wrapped: Callable[..., Any] = lambda *parts: parts,
    backward: Callable[[Tensor], None] = Tensor.backward,
) -> None:
    """
    Args:
        wrapped, backward: what Fabric and accelerate do to model and optimizer, and in place of `loss.backward()`.
    """
    torch.manual_seed(question.get("seed", 0))
    train_set, val_set, test_set = SOURCES[question["data"]](question["path"])
    model, loss_fn = network(question, train_set[0][0]), nn.CrossEntropyLoss()
    model, optimizer = wrapped(model, torch.optim.Adam(model.parameters(), lr=question.get("lr", 1e-3)))
    folder = Path(question["folder"])
    best, step = float("inf"), 0
    with SummaryWriter(folder) as writer:
        for _ in range(question["epochs"]):
            for batch, labels in loader(train_set, 64, shuffle=True):
                loss = loss_fn(model(batch), labels)
                optimizer.zero_grad()
                backward(loss)
                step += 1
                if step % LOG_EVERY == 0:
                    log(writer, model, loss, step)
                optimizer.step()
            val_loss, accuracy = evaluate(model, loss_fn, val_set)
            writer.add_scalar("val/loss", val_loss, step)
            writer.add_scalar("val/accuracy", accuracy, step)
            if val_loss < best:
                best = val_loss
                torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, folder / "best.pt")
        model.load_state_dict(torch.load(folder / "best.pt")["model"])
        test_loss, accuracy = evaluate(model, loss_fn, test_set)
        writer.add_scalar("test/loss", test_loss, step)
        writer.add_scalar("test/accuracy", accuracy, step)
    print(f"test/loss={test_loss:.4f} test/accuracy={accuracy:.4f}")


if __name__ == "__main__":
    train(json.loads(sys.argv[1]))
