"""What a run computes on: device, threads, determinism, precision."""

import contextlib
import os
import re
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import torch

from trainer.config.settings import Settings
from trainer.disk.programs import keep_programs_private
from trainer.distributed import ALONE, World
from trainer.draws import random_state, set_random_state
from trainer.errors import UserError, first_line
from trainer.exits import is_out_of_memory
from trainer.loop import Precision
from trainer.system.limits import num_cores
from trainer.system.vectors import imitates_half
from trainer.trees import Tree, leaves

TORCHS = torch.get_num_threads()  # before anybody has set it


def set_up_torch(settings: Settings) -> None:
    """Memory, threads and determinism, before the first tensor."""
    if settings.fast:
        from trainer.fast.heap import keep_freed_memory
        from trainer.fast.neighbours import watch_neighbours

        keep_freed_memory()
        watch_neighbours()
    if settings.compile:
        keep_programs_private()
    torch.set_num_threads(settings.threads if isinstance(settings.threads, int) else most_threads())
    if settings.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is not deterministic without
    if settings.deterministic != torch.are_deterministic_algorithms_enabled():  # the call imports half of torch
        torch.use_deterministic_algorithms(settings.deterministic)


@contextlib.contextmanager
def torch_as_new(keeps_threads: bool = False) -> Iterator[None]:
    """Within it torch is as in a new process, whatever a program has set; afterwards it is as the program has it.

    Or else a run in a notebook would have other numbers than the same words behind `train`: a default dtype of float64
    draws other weights, say. And what the program draws next, of torch, NumPy and `random`, would be a function of the
    run's seed: a search at random would try the same again and again.

    Args:
        keeps_threads: their number stays as it was set within.

    Raises:
        UserError: a default device that can't be taken away, as within `with torch.device("cuda")`.
    """
    device, threads = torch.get_default_device(), torch.get_num_threads()
    dtype, products = torch.get_default_dtype(), torch.get_float32_matmul_precision()
    deterministic, onednn = torch.get_deterministic_debug_mode(), torch.backends.mkldnn.enabled
    gpu = torch.cuda.current_device() if torch.cuda.is_initialized() else 0
    torch.set_default_device(None)
    if torch.get_default_device().type != "cpu":
        raise UserError(f"torch.device({str(device)!r}): run and load can't be called within it. Type device={device}.")
    drawing = torch.device("cuda", gpu) if torch.cuda.is_initialized() else torch.device("cpu")
    random = random_state(drawing)
    try:
        torch.set_default_dtype(torch.float32)
        torch.backends.mkldnn.enabled = True  # type: ignore[assignment]
        if products != "highest":
            torch.set_float32_matmul_precision("highest")
        if deterministic:
            torch.use_deterministic_algorithms(False)
        with contextlib.ExitStack() as settings:
            if torch.is_inference_mode_enabled():
                settings.enter_context(torch.inference_mode(False))
            settings.enter_context(torch.enable_grad())
            settings.enter_context(torch.autograd.set_detect_anomaly(False))
            for kind in {"cpu", "cuda", find_device("auto").type}:
                if torch.is_autocast_enabled(kind):
                    settings.enter_context(torch.autocast(kind, enabled=False))
            yield
    finally:
        torch.set_default_dtype(dtype)
        torch.backends.mkldnn.enabled = onednn
        if torch.get_float32_matmul_precision() != products:
            torch.set_float32_matmul_precision(products)
        if torch.get_deterministic_debug_mode() != deterministic:
            torch.set_deterministic_debug_mode(deterministic)
        if not keeps_threads:
            torch.set_num_threads(threads)
        if torch.cuda.is_initialized():
            torch.cuda.set_device(gpu)
        set_random_state(random, drawing)
        if device.type != "cpu":
            torch.set_default_device(device)


def most_threads() -> int:
    """What torch takes by itself, but no more than this process's share of the cores, or than OMP_NUM_THREADS says.

    A container's share of time is none of what torch looks at: threads beyond it wait for each other.
    """
    typed = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, min(TORCHS, int(typed) if typed.isdecimal() else num_cores()))


def find_device(wanted: str, world: World = ALONE) -> torch.device:
    """The device that `device=` names; `auto` takes a GPU where there is one. Under torchrun each process has its own.

    A GPU with a number is torch's current one from then on: streams, CUDA graphs and pinned memory belong to that.

    Raises:
        UserError: there is no such device; lists those that there are.
    """
    num_cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if world.size > 1:
        if wanted not in ("auto", "cpu", "cuda"):
            raise UserError(f"device={wanted}: torchrun's processes have one each. Type device=cuda or device=cpu.")
        if wanted == "cpu" or not num_cuda:
            wanted = "cuda" if wanted == "cuda" else "cpu"
        elif world.local_rank >= num_cuda:
            raise UserError(
                f"device={wanted}: each process of this machine needs a GPU of its own, and there are {num_cuda}. "
                f"Type torchrun --nproc-per-node={num_cuda}, or device=cpu."
            )
        else:
            wanted = f"cuda:{world.local_rank}"
    has_mps = torch.backends.mps.is_available()
    if wanted == "auto":
        return torch.device("cuda" if num_cuda else "mps" if has_mps else "cpu")
    present = [
        "cpu",
        *(["cuda"] if num_cuda else []),
        *(f"cuda:{i}" for i in range(num_cuda)),
        *(["mps"] if has_mps else []),
    ]
    if wanted not in present:
        raise UserError(
            f"device={wanted}: is not there; there is {', '.join(present)}. Type device=auto for the best of them."
        )
    found = torch.device(wanted)
    if found.type == "cuda" and found.index is not None:
        torch.cuda.set_device(found)
    return found


def refuse_float64(settings: Settings, device: torch.device) -> None:
    """Raises UserError where a device has no float64: Apple's GPUs have none."""
    if device.type == "mps" and settings.dtype == "float64":
        raise UserError("dtype=float64: device=mps has no float64. Type device=cpu, or dtype=float32.")


# What torch says of an operation that Apple's GPU lacks, where PYTORCH_ENABLE_MPS_FALLBACK=1 has it run on the CPU.
_ON_THE_CPU = re.compile(r"The operator '(\S+)' is not currently supported on the MPS backend and will fall back")


def name_fallbacks(device: torch.device) -> None:
    """On Apple's GPU: has what torch warns of operations that run on the CPU be a line for each, once.

    By itself torch names the first of them alone.
    """
    if device.type != "mps":
        return
    torch.set_warn_always(True)
    warnings.filterwarnings("always", message=_ON_THE_CPU.pattern, category=UserWarning)
    show, named = warnings.showwarning, set()

    def shown(message: Warning | str, *rest: Any, **others: Any) -> None:
        found = _ON_THE_CPU.match(str(message))
        if found is None:
            show(message, *rest, **others)
        elif found[1] not in named:
            named.add(found[1])
            print(f"warning: device=mps: {found[1]} is computed on the CPU, which is slower", file=sys.stderr)

    warnings.showwarning = shown


def refuse_graphs(settings: Settings, device: torch.device, world: World) -> None:
    """Raises UserError where `cuda_graphs=true` can't be had."""
    if not settings.cuda_graphs:
        return
    why = ""
    if device.type != "cuda":
        why = f"device={device.type} has no CUDA graphs"
    elif world.size > 1:
        why = "several processes wait for each other within a step"
    elif not settings.fast and not settings.compile:
        why = "fast=false with compile=false computes each step in the ordinary way"
    if why:
        raise UserError(f"cuda_graphs=true: {why}. Type cuda_graphs=false.")


def doubts_of_precision(settings: Settings, device: torch.device) -> list[str]:
    """A line where half precision takes longer than float32."""
    if settings.precision == "float32" or device.type != "cpu" or not imitates_half():
        return []
    return [
        f"warning: precision={settings.precision}: this CPU has no instructions for it, so a step takes 4 to 40 times "
        "as long. Type precision=float32."
    ]


def refuse_channels_last(settings: Settings, inputs: Tree) -> None:
    """Raises UserError where `channels_last=true` has no pictures `[N, C, H, W]` among the inputs."""
    shapes = [list(leaf.shape[1:]) for leaf in leaves(inputs)]
    if settings.channels_last and not any(len(shape) == 3 for shape in shapes):
        raise UserError(
            f"channels_last=true: is of pictures [C, H, W]; an input is {', '.join(map(str, shapes))}. "
            "Type channels_last=false."
        )


def autocast(settings: Settings, device: torch.device) -> Precision:
    """What the forward pass and the loss run under: nothing, or autocast to the precision."""
    precision = settings.precision
    if precision == "float32":
        return contextlib.nullcontext
    if settings.dtype == "float64":
        raise UserError(f"precision={precision}: does not go with dtype=float64. Type precision=float32.")
    dtype = {"bfloat16": torch.bfloat16, "float16": torch.float16}[precision]
    return lambda: torch.autocast(device.type, dtype)


@contextlib.contextmanager
def fitting(device: torch.device) -> Iterator[None]:
    """Says in one line that a device is full before the first step."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(
            f"device={device}: is out of memory before the first step ({first_line(error)}): data or model are too "
            "large for it. Try data.limit=, a smaller data.image_size= or another model."
        ) from error
