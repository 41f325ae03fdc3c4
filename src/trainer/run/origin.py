"""What a run was made with: `origin.json`, an entry for each process that trained it, for whoever makes it again."""

import hashlib
import json
import math
import platform
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainer import __version__
from trainer.config import trust
from trainer.config.settings import Settings
from trainer.data.prepare import Fingerprint
from trainer.disk.files import write_text
from trainer.disk.folder import ORIGIN, read_origin
from trainer.run.parts import Parts
from trainer.system.limits import num_cores

MOST = 100  # entries that are kept, the newest: a batch system may start a run again and again
_CPUINFO = Path("/proc/cpuinfo")
_WHERE = ("cpu", "device", "threads", "processes")


def as_trained(settings: Settings, folder: Path) -> Settings:
    """With `threads=auto` the number that the run in the folder was trained with."""
    return replace(settings, threads=threads_of(folder) or "auto") if settings.threads == "auto" else settings


def origin_of(parts: Parts) -> dict[str, Any]:
    """Plain values: what else than the config may change the bits of a run."""
    device = parts.device
    is_cuda = device.type == "cuda"
    return {
        "from_step": parts.state.step,
        "max_steps": parts.length.max_steps,
        "processes": parts.world.size,
        "device": torch.cuda.get_device_name(device) if is_cuda else device.type,
        "cpu": f"{cpu()}, {torch.backends.cpu.get_cpu_capability()}",
        "threads": torch.get_num_threads(),
        "versions": {
            "train": __version__,
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "numpy": np.__version__,
            **({"cuda": str(torch.version.cuda), "cudnn": str(torch.backends.cudnn.version())} if is_cuda else {}),
        },
        "data": {split: [told, *sums] for split, (told, sums) in parts.state.data.items()},
        "own": own_code(parts.settings.own),
    }


def cpu() -> str:
    """The make of this machine's CPU."""
    try:
        with open(_CPUINFO, encoding="utf-8", errors="replace") as file:
            lines = (line.partition(":") for line in file)
            return next(value.strip() for key, _, value in lines if key.strip() in ("model name", "Model"))
    except (OSError, StopIteration):  # not Linux, or a CPU that has no such line
        return platform.processor() or platform.machine()


def own_code(packages: tuple[str, ...]) -> dict[str, str]:
    """Module to a checksum of its file, of all that have been imported from the user's packages."""
    found = {}
    for name in sorted(name for name in sys.modules if packages and trust.belongs(name, packages)):
        if path := getattr(sys.modules[name], "__file__", None):
            try:
                found[name] = hashlib.blake2b(Path(path).read_bytes(), digest_size=16).hexdigest()
            except OSError:  # it was taken away since it was imported
                found[name] = "unknown"
    return found


def write_origin(folder: Path, parts: Parts) -> None:
    """Adds this process to `origin.json`. Raises OSError."""
    entries, mine = read_origin(folder), origin_of(parts)
    if not entries or {**entries[-1], "from_step": 0} != {**mine, "from_step": 0}:
        write_text(folder / ORIGIN, json.dumps([*entries, mine][-MOST:], indent=1) + "\n")


def threads_of(folder: Path) -> int | None:
    """With how many threads the run in a folder was trained last, for the same bits; no more than there are cores."""
    found = read_origin(folder)[-1:]
    threads = found[0].get("threads") if found else None
    return min(threads, num_cores()) if type(threads) is int and threads > 0 else None


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """In words, what `now` has otherwise than `before`."""
    found = [
        f"{key}: {now.get(key)}, was {before[key]}" for key in _WHERE if key in before and before[key] != now.get(key)
    ]
    for part, what in (("versions", ""), ("own", "own code: ")):
        old, new = _mapping(before.get(part)), _mapping(now.get(part))
        for name in [name for name in {**old, **new} if old.get(name) != new.get(name)]:
            if part == "own":
                said = "has changed" if name in old and name in new else "is new" if name in new else "is gone"
                found.append(f"{what}{name} {said}")
            else:
                found.append(f"{name}: {new.get(name, 'none')}, was {old.get(name, 'none')}")
    return [*found, *_of_data(before.get("data"), now.get("data"))]


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _of_data(before: Any, now: Any) -> list[str]:
    if not isinstance(before, dict) or not isinstance(now, dict):
        return []
    found = []
    for split in now:
        try:
            was, is_ = (Fingerprint(str(told), tuple(map(float, sums))) for told, *sums in (before[split], now[split]))
        except (KeyError, TypeError, ValueError):
            continue
        if all(map(math.isfinite, (*was.sums, *is_.sums))) and (difference := is_.difference(was)) is not None:
            found.append(f"data: the {split} split has {difference}")
    return found
