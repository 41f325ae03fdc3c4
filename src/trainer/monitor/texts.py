"""What stands in the TEXT tab, as Markdown: the config, a table of the model's layers, and what the run ran on."""

import contextlib
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from trainer.trials import undisturbed


def config_block(yaml: str) -> str:
    """The config as it is, in type of one width."""
    fence = "~~~~"
    while fence in yaml:
        fence += "~"
    return f"{fence}yaml\n{yaml.rstrip()}\n{fence}\n"


def model_table(model: nn.Module, inputs: Tensor) -> str:
    """A row for each module that computes or holds parameters, in the order of their definition: name, kind, output
    shape (N is the batch), its own parameters, and whether they are trained; then the sums.

    Args:
        inputs: a batch as the model sees it; one or two samples are enough.
    """
    shapes = _output_shapes(model, inputs)
    counted: set[int] = set()  # a parameter that two modules share counts once
    rows = []
    for name, module in model.named_modules():
        own = [p for p in module.parameters(recurse=False) if id(p) not in counted]
        counted.update(map(id, own))
        if own or not any(module.children()):
            count = sum(p.numel() for p in own)
            rows.append([name or "(model)", type(module).__name__, shapes.get(module, ""), f"{count:,}", _state(own)])
    everything = list(model.parameters())
    num_all, num_trained = (sum(p.numel() for p in ps) for ps in (everything, _trained(everything)))
    rows.append(
        ["**all**", "", "", f"**{num_all:,}**", f"**{num_trained:,} trainable, {num_all - num_trained:,} frozen**"]
    )
    return table(["layer", "kind", "output shape", "parameters", ""], rows)


def environment(device: torch.device, version: str) -> dict[str, str]:
    """What a run ran on: versions, machine, device, and the git commit of the working folder if it has one.

    Args:
        version: of train.
    """
    found = {"train": version, "python": platform.python_version(), "torch": torch.__version__}
    for package in ("hydra-core", "numpy", "tensorboard"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    found["system"] = platform.platform()
    found["device"] = str(device)
    if device.type == "cuda":
        found["device"] += f", {torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}"
    else:
        threads = torch.get_num_threads()
        found["device"] += f", {threads} thread{'s' * (threads > 1)}"
    if commit := git_commit():
        found["git commit"] = commit
    return found


def git_commit() -> str | None:
    """Of the working folder, with `-dirty` after it where tracked files have changed since; None without git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}  # only look: runs may start side by side
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True, env=environment)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None


def pairs_table(pairs: Mapping[str, str]) -> str:
    return table(["name", "value"], [[name, value] for name, value in pairs.items()])


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def _trained(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    return [p for p in parameters if p.requires_grad]


def _state(parameters: list[nn.Parameter]) -> str:
    num_trained = len(_trained(parameters))
    if not parameters:
        return ""
    return "trainable" if num_trained == len(parameters) else "partly frozen" if num_trained else "frozen"


def _output_shapes(model: nn.Module, inputs: Tensor) -> dict[nn.Module, str]:
    """Of every module that one forward pass calls."""
    shapes: dict[nn.Module, str] = {}

    def note(module: nn.Module, args: Any, outputs: Any) -> None:
        tensors = [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)]
        shapes[module] = ", ".join(_shape(tensor, len(inputs)) for tensor in tensors)

    with contextlib.ExitStack() as stack:
        stack.enter_context(undisturbed(model, inputs.device))
        for module in model.modules():
            stack.callback(module.register_forward_hook(note).remove)
        stack.enter_context(torch.no_grad())
        model(inputs)
    return shapes


def _shape(tensor: Tensor, num_samples: int) -> str:
    sizes = [str(size) for size in tensor.shape]
    if sizes and tensor.shape[0] == num_samples:
        sizes[0] = "N"
    return " x ".join(sizes)
