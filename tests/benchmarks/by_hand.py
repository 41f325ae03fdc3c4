"""Loops on a device as whoever knows it well writes them, which log nothing.

A process that stays: `{"work": "lenet", "device": "cuda", "steps": 3000}` is answered with seconds a step, see `WORKS`.
Nothing of `trainer` is imported here.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import bare
import tutorial
from processes import answer_questions
from works import WORKS as NETWORKS

WARM_UP = 20  # steps that do not count


def lenet(device: torch.device, question: dict[str, Any]) -> float:
    """On a GPU the replay of a CUDA graph: forward, backward and update of a new batch. Elsewhere step by step."""
    work, num_steps = NETWORKS["lenet"], question["steps"]
    if device.type != "cuda":
        times = bare.train(work, num_steps + WARM_UP, work.lr, bare.indexed, is_fused=True)
        return (times[-1] - times[WARM_UP]) / num_steps
    batch_size = work.batch_size
    model, loss_fn = bare.model_of(work).to(device), bare.loss_of(work)
    all_inputs, all_targets = (part.to(device) for part in bare.data_of(work))
    optimizer = torch.optim.SGD(model.parameters(), lr=work.lr, momentum=work.momentum, foreach=True)
    inputs, targets = all_inputs[:batch_size].clone(), all_targets[:batch_size].clone()

    def step() -> None:
        optimizer.zero_grad()
        loss_fn(model(inputs), targets).backward()
        optimizer.step()

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # what is made at first use can't be captured
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()

    def replay(count: int) -> None:
        for rows in batches(work.num_samples, inputs.shape[0], count, device):
            torch.index_select(all_inputs, 0, rows, out=inputs)
            torch.index_select(all_targets, 0, rows, out=targets)
            graph.replay()

    return timed(replay, num_steps, device)


def resnet18(device: torch.device, question: dict[str, Any]) -> float:
    """In bfloat16 and channels_last, the pictures on the device as bytes."""
    found = np.load(question["path"])
    pictures, labels = (torch.from_numpy(found[name]).to(device) for name in ("inputs", "targets"))
    model: nn.Module = tutorial.resnet18(question["classes"])
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, fused=device.type == "cuda")

    def train(count: int) -> None:
        for rows in batches(len(pictures), question["batch_size"], count, device):
            inputs = pictures[rows].float().div(255).sub(0.5).div(0.25).contiguous(memory_format=torch.channels_last)
            with torch.autocast(device.type, torch.bfloat16):
                loss = cross_entropy(model(inputs), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return timed(train, question["steps"], device)


def batches(num_samples: int, batch_size: int, count: int, device: torch.device) -> "list[Tensor]":
    """The rows of so many whole batches, epoch by epoch in another order."""
    per_epoch = num_samples // batch_size
    whole = [
        torch.randperm(num_samples, device=device)[: per_epoch * batch_size] for _ in range(-(-count // per_epoch))
    ]
    return list(torch.cat(whole).split(batch_size)[:count])


def timed(steps: Callable[[int], None], num_steps: int, device: torch.device) -> float:
    steps(WARM_UP)
    wait_for(device)
    start = time.perf_counter()
    steps(num_steps)
    wait_for(device)
    return (time.perf_counter() - start) / num_steps


def wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


WORKS: dict[str, Callable[[torch.device, dict[str, Any]], float]] = {"lenet": lenet, "resnet18": resnet18}


def answer(question: dict[str, Any]) -> float:
    return WORKS[question["work"]](torch.device(question["device"]), question)


if __name__ == "__main__":
    answer_questions(answer)
