"""The loop of a tutorial, which logs nothing unless it is asked to watch each of its parameters in every step.

A process that times it: `python bare.py '{"work": "lenet", "steps": 500, "is_watched": false}'`

Nothing of `trainer` is imported here.
"""

import itertools
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from works import WORKS, Work

WARM_UP = 50  # steps that do not count


class LeNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 5)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        maps = nn.functional.max_pool2d(nn.functional.relu(self.conv1(inputs)), 2)
        maps = nn.functional.max_pool2d(nn.functional.relu(self.conv2(maps)), 2)
        hidden = nn.functional.relu(self.fc1(torch.flatten(maps, 1)))
        return self.fc3(nn.functional.relu(self.fc2(hidden)))


def model_of(work: Work) -> nn.Module:
    if work.name == "lenet":
        return LeNet()
    if work.name == "digits":
        return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    model = nn.Sequential(nn.Linear(1000, 100, bias=False), nn.ReLU(), nn.Linear(100, 10, bias=False))
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model


def data_of(work: Work) -> tuple[Tensor, Tensor]:
    """Inputs and targets, drawn: what the numbers are does not change the time of a step."""
    inputs = torch.randn(work.num_samples, *work.shape)
    shape = (work.num_samples, 10)
    return inputs, torch.randn(shape) if work.is_full_batch else torch.randint(10, shape[:1])


def loss_of(work: Work) -> nn.Module:
    return nn.MSELoss(reduction="sum") if work.is_full_batch else nn.CrossEntropyLoss()


def loaded(work: Work, inputs: Tensor, targets: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of a tutorial, without end."""
    if work.is_full_batch:
        yield from itertools.repeat((inputs, targets))
    loader = DataLoader(TensorDataset(inputs, targets), batch_size=work.batch_size, shuffle=True)
    while True:
        yield from loader


def indexed(work: Work, inputs: Tensor, targets: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The same batches as an index into tensors."""
    if work.batch_size is None:
        yield from itertools.repeat((inputs, targets))
        return
    while True:
        for rows in torch.randperm(len(inputs)).split(work.batch_size):
            yield inputs[rows], targets[rows]


def train(
    work: Work,
    num_steps: int,
    lr: float,
    batches_of: Callable[[Work, Tensor, Tensor], Iterator[tuple[Tensor, Tensor]]] = loaded,
    is_fused: bool | None = None,
    watch: Callable[[nn.Module, int, Callable[[], object]], None] | None = None,
) -> list[float]:
    """Times at the start of each step and after the last.

    Args:
        watch: is given the model, the step and its update, which it makes.
    """
    model, loss_fn = model_of(work), loss_of(work)
    batches = batches_of(work, *data_of(work))
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=work.momentum, fused=is_fused)
    times = []
    for step in range(num_steps):
        times.append(time.perf_counter())
        inputs, targets = next(batches)
        loss = loss_fn(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        if watch is None:
            optimizer.step()
        else:
            watch(model, step, optimizer.step)
    return [*times, time.perf_counter()]


def watched(folder: str) -> Callable[[nn.Module, int, Callable[[], object]], None]:
    """The numbers of `monitor.every=1`, as whoever looks for them on the web would write them into an event file."""
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(folder)

    def watch(model: nn.Module, step: int, update: Callable[[], object]) -> None:
        before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        update()
        for name, parameter in model.named_parameters():
            gradient, weight = parameter.grad, before[name]
            assert gradient is not None
            for kind, x in (("grad", gradient), ("weight", weight)):
                writer.add_scalar(f"{kind}_norm/{name}", x.norm(), step)
                writer.add_scalar(f"{kind}_mean/{name}", x.mean(), step)
                writer.add_scalar(f"{kind}_std/{name}", x.std(correction=0), step)
                writer.add_scalar(f"{kind}_max/{name}", x.abs().max(), step)
                writer.add_scalar(f"{kind}_zeros/{name}", (x == 0).float().mean(), step)
            writer.add_scalar(f"update_ratio/{name}", (parameter.detach() - weight).norm() / weight.norm(), step)

    return watch


def main() -> None:
    """`steps` are timed after `WARM_UP` others; `steps=0`: the process ends after its first step."""
    question = json.loads(sys.argv[1])
    work, num_steps = WORKS[question["work"]], question["steps"]
    with tempfile.TemporaryDirectory() as folder:
        watch = watched(folder) if question.get("is_watched") else None
        times = train(work, WARM_UP + num_steps if num_steps else 1, work.lr, watch=watch)
    ended = time.time()
    print(json.dumps({"seconds": (times[-1] - times[WARM_UP]) / num_steps if num_steps else 0.0, "ended": ended}))


if __name__ == "__main__":
    main()
