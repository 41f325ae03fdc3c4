"""Which library multiplies matrices on a CPU: its BLAS (as MKL), which torch takes by itself, or oneDNN, if faster."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import nn

# Multiplications in a model's mean product above which oneDNN is faster where `is_served_badly` holds; it takes 10 us
# to begin. Measured on 2026-11-22, one thread of an AMD EPYC (Zen 5), torch 2.13: 64x1000x100 0.54 of MKL's
# time, 64x400x120 0.65, 64x120x84 1.2, 64x64x32 3; all nine of LeNet together, 1.3 million in the mean, 0.95, for
# which its 7 MiB of kernels are too much.
WORTH = 1 << 21
# The trial: a product of a network 64-1000-100-10, how often each library computes it, and the share of the BLAS's time
# that oneDNN must stay below. Of two that are as quick the BLAS is kept, so that no trial chooses otherwise than the
# last one: results differ in the last places.
TRIED, TURNS, MARGIN = (64, 1000, 100), 20, 1 / 1.3


@contextmanager
def fast_products(model: nn.Module, num_samples: int, num_runs: int = 1, num_places: int = 0) -> Iterator[None]:
    """Has torch multiply by oneDNN, where that is faster for this model and rounds no more than float32 does.

    torch does so where it is allowed to compute with less (`torch.set_float32_matmul_precision("medium")`). oneDNN does
    compute with less where the CPU has instructions for it (AMX), and keeps float32 on others, which is what is looked
    for here. On a Zen 5 the largest product of a network 64-1000-100-10 takes 0.54 of MKL's time (2026-11-22), on a
    Zen 4 1.00 (2026-11-26, one thread, torch 2.13): there MKL is kept.

    Args:
        num_samples: that go through the model at once.
        num_runs: models like this one that are trained together, a product of all of them being one call.
        num_places: of an image, where a compiler may make products of convolutions; each weight counts at each.
    """
    times = {2: 1, 4: num_places}
    weights = [
        parameter.numel() * times[parameter.dim()]
        for module in model.modules()
        if not isinstance(module, nn.Embedding)
        for parameter in module.parameters(recurse=False)
        if times.get(parameter.dim())
    ]
    is_worth = sum(weights) * num_samples * num_runs > WORTH * len(weights)
    if not is_worth or not is_untouched() or not is_served_badly():
        yield
        return
    torch.set_float32_matmul_precision("medium")
    try:
        if not is_float32():
            torch.set_float32_matmul_precision("highest")
        yield
    finally:
        torch.set_float32_matmul_precision("highest")


def is_untouched() -> bool:
    """Whether nobody has asked for another precision."""
    try:
        return torch.get_float32_matmul_precision() == "highest"
    except RuntimeError:  # somebody has, for one library
        return False


@cache
def is_served_badly() -> bool:
    """Whether the BLAS leaves much of this CPU unused, as MKL does on AMD's that have 512 bits: by a trial of 6 ms.

    The least times of both, in turns, by one thread, so that busy neighbours change little: on a Zen 4 the ratio was
    0.99 to 1.02 in 36 trials, in 12 of them beside four busy programs on two cores (2026-11-26).
    """
    num_samples, num_inputs, num_outputs = TRIED
    inputs, weights = torch.ones(num_samples, num_inputs), torch.ones(num_inputs, num_outputs)
    num_threads = torch.get_num_threads()
    least = {"highest": float("inf"), "medium": float("inf")}  # "medium": oneDNN
    torch.set_num_threads(1)
    try:
        for _ in range(TURNS):
            for precision in least:
                torch.set_float32_matmul_precision(precision)
                start = time.perf_counter()
                torch.mm(inputs, weights)
                least[precision] = min(least[precision], time.perf_counter() - start)
    finally:
        torch.set_float32_matmul_precision("highest")
        torch.set_num_threads(num_threads)
    return least["medium"] < MARGIN * least["highest"]


def is_float32() -> bool:
    """Whether a product keeps what bfloat16 and TF32 would round away."""
    number = 1 + 2.0**-12
    product = torch.full((64, 1000), number) @ torch.ones(1000, 100)
    return bool((product.double() == 1000 * number).all())
