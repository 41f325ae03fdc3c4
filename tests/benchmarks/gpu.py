"""On a CUDA GPU: a step against the replay of a CUDA graph of it, 32 stacked runs against one."""

from collections.abc import Iterator
from functools import partial
from typing import Any

from processes import Failed, Kept, answer_questions, seconds_per_step
from rounds import Contest, Row
from works import WORKS

NUM_STEPS = 5000
STACK_STEPS = 300


def contests(is_short: bool) -> Iterator[Contest]:
    if is_short:
        return
    graph, stacks = Kept("gpu.py"), Kept("stacks.py")
    lenet = WORKS["lenet"]
    steps = [
        Row(
            f"{lenet.title}, CUDA, cuda_graphs=true: logged at defaults / replay of a CUDA graph",
            "train",
            "graph",
            1.15,
        )
    ]
    stack = [Row(f"{lenet.title}, CUDA: 32 runs as a stack / one run", "stack", "one", 2.0)]
    try:
        is_there = graph.ask({"is": "there"})
    except Failed:  # of a torch that finds a GPU and can't use it, say: the other figures are worth having
        is_there = False
    if not is_there:
        yield Contest([*steps, *stack], {})
    else:
        cuda = {"work": "lenet", "steps": STACK_STEPS, "words": ["device=cuda"]}
        yield Contest(
            steps,
            {
                "train": partial(
                    seconds_per_step, (*lenet.words, "device=cuda", "cuda_graphs=true"), NUM_STEPS, 500, 2
                ),
                "graph": partial(graph.ask, {"steps": NUM_STEPS}),
            },
        )
        yield Contest(
            stack,
            {
                "stack": partial(stacks.ask, {**cuda, "how": "stack"}),
                "one": partial(stacks.ask, {**cuda, "how": "one"}),
            },
        )
    graph.close()
    stacks.close()


def answer(question: dict[str, Any]) -> bool | float:
    """Whether there is a GPU; seconds per step of a replayed graph: forward, backward and update of a new batch."""
    import time

    import torch

    import bare

    if "steps" not in question:
        return torch.cuda.is_available()
    work, num_steps, batch_size = WORKS["lenet"], question["steps"], WORKS["lenet"].batch_size
    model, loss_fn = bare.model_of(work).cuda(), bare.loss_of(work)
    all_inputs, all_targets = (part.cuda() for part in bare.data_of(work))
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
        num_whole = work.num_samples - work.num_samples % inputs.shape[0]
        for i in range(count):
            if i * inputs.shape[0] % num_whole == 0:
                order = torch.randperm(work.num_samples, device="cuda")[:num_whole].split(inputs.shape[0])
            rows = order[i % len(order)]
            torch.index_select(all_inputs, 0, rows, out=inputs)
            torch.index_select(all_targets, 0, rows, out=targets)
            graph.replay()
        torch.cuda.synchronize()

    replay(100)
    start = time.perf_counter()
    replay(num_steps)
    return (time.perf_counter() - start) / num_steps


if __name__ == "__main__":
    answer_questions(answer)
