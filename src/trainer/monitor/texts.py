"""What stands in the TEXT tab, as Markdown: the config, a table of the model's layers, and what the run ran on."""

import contextlib
import functools
import importlib.metadata
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainer.disk import foreign
from trainer.trees import Tree, called, leaves, num_samples
from trainer.trials import undisturbed

_MAX_LINE = 4096  # bytes of .git/HEAD and its like
_MAX_REFS = 1 << 22  # bytes of .git/packed-refs: some ten thousand branches and tags
_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")  # SHA-1, or SHA-256


def block(text: str, language: str) -> str:
    """The text as it is, in type of one width."""
    fence = "~~~~"
    while fence in text:
        fence += "~"
    return f"{fence}{language}\n{text.rstrip()}\n{fence}\n"


def model_table(model: nn.Module, inputs: Tree) -> str:
    """A row for each module that computes or holds parameters, in the order of their definition: name, kind, output
    shape (N is the batch), its own parameters, and whether they are trained; then the sums.

    Args:
        inputs: a batch as the model sees it; one or two samples are enough.
    """
    rows = model_rows(model, inputs)
    everything = list(model.parameters())
    num_all, num_trained = (sum(p.numel() for p in ps) for ps in (everything, _trained(everything)))
    rows.append(
        ["**all**", "", "", f"**{num_all:,}**", f"**{num_trained:,} trainable, {num_all - num_trained:,} frozen**"]
    )
    return table(["layer", "kind", "output shape", "parameters", ""], rows)


def model_rows(model: nn.Module, inputs: Tensor) -> list[list[str]]:
    """The rows of `model_table` without the sums."""
    shapes = _output_shapes(model, inputs)
    counted: set[int] = set()  # a parameter that two modules share counts once
    rows = []
    for name, module in model.named_modules():
        own = [p for p in module.parameters(recurse=False) if id(p) not in counted]
        counted.update(map(id, own))
        if own or not any(module.children()):
            count = sum(p.numel() for p in own)
            rows.append([name or "(model)", type(module).__name__, shapes.get(module, ""), f"{count:,}", _state(own)])
    return rows


def environment(device: torch.device, version: str) -> dict[str, str]:
    """What a run ran on: versions, machine, device, and the git commit of the working folder if it has one.

    Args:
        version: of train.
    """
    found = {"train": version, "python": platform.python_version(), "torch": torch.__version__}
    found |= {name: number for name in ("hydra-core", "numpy", "tensorboard") if (number := _version(name))}
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


@functools.cache
def _version(package: str) -> str:
    """Of an installed package, empty where it is none. Python reads a long file for each."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def git_commit() -> str | None:
    """The commit that is checked out where the command was typed; None where there is none.

    Git itself is not asked. Almost every command of it obeys the configuration of the repository, which may name
    programs to run, and the repository may be a stranger's. So nothing is said of files that have changed since: to
    compare them, git runs filters that the repository names.
    """
    with contextlib.suppress(OSError, ValueError):
        here = Path.cwd()
        found = next((folder / ".git" for folder in (here, *here.parents) if (folder / ".git").exists()), None)
        if found is None:
            return None
        folder = found if found.is_dir() else found.parent / _after("gitdir: ", found)  # of a worktree, a submodule
        of_branches = folder
        if (folder / "commondir").exists():  # worktrees share them
            of_branches = folder / foreign.text(folder / "commondir", _MAX_LINE).strip()
        head = foreign.text(folder / "HEAD", _MAX_LINE).strip()
        if head.startswith("ref: "):
            return _branch(of_branches, head.removeprefix("ref: "))
        return head if _HASH.fullmatch(head) else None
    return None


def _branch(folder: Path, name: str) -> str | None:
    """The commit of a branch: in a file of its own, or in the table of all."""
    if not name.startswith("refs/") or ".." in name:  # it leads elsewhere
        return None
    with contextlib.suppress(FileNotFoundError):
        commit = foreign.text(folder / name, _MAX_LINE).strip()
        return commit if _HASH.fullmatch(commit) else None
    for line in foreign.text(folder / "packed-refs", _MAX_REFS).splitlines():
        commit, _, of = line.partition(" ")
        if of == name and _HASH.fullmatch(commit):
            return commit
    return None


def _after(mark: str, path: Path) -> str:
    """What stands after a mark in a file of one line."""
    text = foreign.text(path, _MAX_LINE).strip()
    if not text.startswith(mark):
        raise ValueError(f"{path} does not begin with {mark}")
    return text.removeprefix(mark)


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


def _output_shapes(model: nn.Module, inputs: Tree) -> dict[nn.Module, str]:
    """Of every module that one forward pass calls."""
    shapes: dict[nn.Module, str] = {}

    def note(module: nn.Module, args: Any, outputs: Any) -> None:
        tensors = leaves(outputs)
        shapes[module] = ", ".join(_shape(tensor, num_samples(inputs)) for tensor in tensors)

    with contextlib.ExitStack() as stack:
        stack.enter_context(undisturbed(model, leaves(inputs)[0].device))
        for module in model.modules():
            stack.callback(module.register_forward_hook(note).remove)
        called(model, inputs)
    return shapes


def _shape(tensor: Tensor, num_samples: int) -> str:
    sizes = [str(size) for size in tensor.shape]
    if sizes and tensor.shape[0] == num_samples:
        sizes[0] = "N"
    return " x ".join(sizes)
