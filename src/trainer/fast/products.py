"""Which library multiplies matrices on a CPU: MKL, which torch takes by itself, or oneDNN, where that is faster."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import nn

# Multiplications in a model's mean product above which oneDNN is faster on the CPUs that `is_served_badly` names; it
# takes 10 us to begin. Measured on 2026-11-22, one thread of an AMD EPYC (Zen 5), torch 2.13: 64x1000x100 0.54 of MKL's
# time, 64x400x120 0.65, 64x120x84 1.2, 64x64x32 3; all nine of LeNet together, 1.3 million in the mean, 0.95, for
# which its 7 MiB of kernels are too much.
WORTH = 1 << 21
FIRST_WIDE_FAMILY = 26  # AMD Zen 5


@contextmanager
def fast_products(model: nn.Module, num_samples: int, num_runs: int = 1, num_places: int = 0) -> Iterator[None]:
    """Has torch multiply by oneDNN, where that is faster for this model and rounds no more than float32 does.

    torch does so where it is allowed to compute with less (`torch.set_float32_matmul_precision("medium")`). oneDNN does
    compute with less where the CPU has instructions for it (AMX), and keeps float32 on others, which is what is looked
    for here, and tried, too. Results differ from MKL's in the last places, so the CPU's make decides: a trial would
    choose otherwise on a busy machine (ratios of 0.49 to 0.95 for the same product, 2026-11-26).

    On a Zen 5 the largest product of a network 64-1000-100-10 takes 0.54 of MKL's time (2026-11-22). On a Zen 4 a step
    of it would take 1.15 of MKL's (2026-11-26, one thread, torch 2.13): MKL is kept.

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
    if not is_worth or not is_served_badly() or not is_untouched():
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
    """Whether MKL leaves half of this CPU unused."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            return is_half_unused(file.read(1 << 13))  # the first core's facts are enough
    except OSError:
        return False


def is_half_unused(facts: str) -> bool:
    """As Linux tells them in `/proc/cpuinfo`: MKL takes AVX-512 on Intel's CPUs alone.

    AMD's have it since Zen 4 (family 25), which makes two halves of each operation and loses little: there oneDNN makes
    a step of the two-layer network longer. Since Zen 5 (family 26) they compute all 512 bits at once.
    """
    family = re.search(r"^cpu family\s*: (\d+)$", facts, re.MULTILINE)
    is_wide = family is not None and int(family[1]) >= FIRST_WIDE_FAMILY
    return is_wide and "AuthenticAMD" in facts and "avx512f" in facts and "amx" not in facts


def is_float32() -> bool:
    """Whether a product keeps what bfloat16 and TF32 would round away."""
    number = 1 + 2.0**-12
    product = torch.full((64, 1000), number) @ torch.ones(1000, 100)
    return bool((product.double() == 1000 * number).all())
