"""A training as a tutorial writes it, from data to test. `python tutorial.py '{"job": "digits", ...}'` in a folder.

It validates after each epoch, keeps the best weights, tests them, and has TensorBoard show what `train` shows of
numbers by itself: losses, norms, and four statistics of every weight and gradient every 50 steps. No histograms and no
pictures. Nothing of `trainer` is imported here.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torch.utils.tensorboard import SummaryWriter

LOG_EVERY = 50


def lenet() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)),
    )


def digits(path: str) -> tuple[Tensor, Tensor]:
    found = np.load(path)
    inputs, targets = (torch.from_numpy(found[name]) for name in ("images", "labels"))
    images = inputs.float().reshape(-1, 1, 8, 8) / inputs.max()
    return nn.functional.interpolate(images, (32, 32), mode="bilinear"), targets.long()


def table(path: str) -> tuple[Tensor, Tensor]:
    rows = torch.from_numpy(np.loadtxt(path, delimiter=",", skiprows=1, dtype=np.float32))
    inputs = rows[:, :-1]
    return (inputs - inputs.mean(0)) / inputs.std(0), rows[:, -1].long()


def network(question: dict[str, Any], inputs: Tensor) -> nn.Module:
    if question["model"] == "lenet":
        return lenet()
    hidden = question["hidden"]
    return nn.Sequential(
        nn.Flatten(), nn.Linear(inputs[0].numel(), hidden), nn.ReLU(), nn.Linear(hidden, question["classes"])
    )


def evaluate(model: nn.Module, loss_fn: nn.Module, split: "Dataset[Any]") -> tuple[float, float]:
    """Loss and accuracy."""
    model.eval()
    losses, hits, count = 0.0, 0, 0
    with torch.no_grad():
        for inputs, targets in DataLoader(split, batch_size=256):
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


def train(question: dict[str, Any]) -> None:
    torch.manual_seed(question.get("seed", 0))
    inputs, targets = {"digits": digits, "table": table}[question["data"]](question["path"])
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0))
    num_val, num_test = len(order) // 10, len(order) // 5
    parts = order.split([num_val, num_test, len(order) - num_val - num_test])
    val_set, test_set, train_set = (TensorDataset(inputs[rows], targets[rows]) for rows in parts)
    model, loss_fn = network(question, inputs), nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=question.get("lr", 1e-3))
    folder = Path(question["folder"])
    best, step = float("inf"), 0
    with SummaryWriter(folder) as writer:
        for _ in range(question["epochs"]):
            for batch, labels in DataLoader(train_set, batch_size=64, shuffle=True):
                loss = loss_fn(model(batch), labels)
                optimizer.zero_grad()
                loss.backward()
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
