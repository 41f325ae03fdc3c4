"""What the vectors of a CPU can do, as torch sees it: `ATEN_CPU_CAPABILITY=avx2` before a command hides the rest."""

import torch


def has_wide_vectors() -> bool:
    """Whether they have 512 bits."""
    return torch.backends.cpu.get_cpu_capability() == "AVX512"


def imitates_half() -> bool:
    """Whether torch imitates bfloat16 and float16: with AVX2 oneDNN has nothing for them.

    How much longer a step takes than one of float32: bfloat16 5.2 times with 64-100-10, 4.4 with LeNet, 38 with
    ResNet-18 on pictures of 32 pixels; float16 7.4, 5.1, 36 (2026-11-28, AMD EPYC Zen 3, one thread).
    """
    return torch.backends.cpu.get_cpu_capability() == "AVX2"
