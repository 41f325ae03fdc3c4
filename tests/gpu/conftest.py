"""What somebody with a GPU types: `pytest -m cuda tests/gpu`. It leaves a report to send in, `gpu-report.txt`.

`TRAIN_TEST_DEVICE=cpu` (or mps, cuda:1) before it runs the same tests on that device.
"""

import os
import platform
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import torch

from trainer import __version__
from trainer.run.origin import cpu

DEVICE = os.environ.get("TRAIN_TEST_DEVICE") or ("cuda" if torch.cuda.is_available() else "")
NO_GPU = "torch finds no GPU. TRAIN_TEST_DEVICE=cpu before the command runs these tests on the CPU"
REPORT = Path("gpu-report.txt")
_lines: list[str] = []


@pytest.fixture(scope="session")
def device() -> str:
    """What `device=` gets."""
    if not DEVICE:
        pytest.skip(NO_GPU)
    return DEVICE


@pytest.fixture(scope="session")
def gpu(device: str) -> str:
    """The same, for what a CPU has not."""
    if not device.startswith("cuda"):
        pytest.skip(f"{device} has no CUDA graphs and no nccl")
    return device


@pytest.fixture(autouse=True)
def alone(device: str) -> Iterator[None]:
    """Gives memory that a test leaves back to the GPU."""
    yield
    if device.startswith("cuda"):
        torch.cuda.empty_cache()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Keeps a line for each test of this folder, and the last line of its error."""
    if "gpu/" not in report.nodeid or not (report.when == "call" or report.failed or report.skipped):
        return
    facts = "; ".join(f"{name}: {value}" for name, value in report.user_properties)
    if report.skipped:
        _, _, facts = report.longrepr  # type: ignore[misc]
    name = report.nodeid.rpartition("gpu/")[2]
    _lines.append(f"{report.outcome:8}{report.duration:8.1f} s  {name}{f'  ({facts})' if facts else ''}")
    if report.failed:
        _lines.append(f"{report.longreprtext}\n")
    if DEVICE and "PYTEST_XDIST_WORKER" not in os.environ:
        # After each test: whoever has a GPU for some minutes only has a report, too.
        lines = sorted(_lines, key=lambda line: "\n" in line)  # the list of all tests, then what went wrong
        REPORT.write_text("\n".join([*machine(), "", *lines, ""]), encoding="utf-8")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _lines and DEVICE:
        terminalreporter.write_line(f"the report to send in, as an issue: {REPORT.resolve()}")
    elif _lines:
        terminalreporter.write_line(NO_GPU)


@cache
def machine() -> list[str]:
    """What the tests ran on."""
    lines = [
        f"device   {DEVICE}",
        f"train    {__version__}, git {said('git', 'rev-parse', '--short', 'HEAD') or 'unknown'}",
        f"torch    {torch.__version__}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}",
        f"Python   {platform.python_version()}, {platform.platform()}",
        f"CPU      {cpu()}, {os.cpu_count()} cores",
    ]
    if DEVICE.startswith("cuda"):
        found, query = torch.cuda.get_device_properties(torch.device(DEVICE)), "--query-gpu=driver_version"
        memory, count = f"{found.total_memory / 2**30:.0f} GiB", torch.cuda.device_count()
        lines.append(f"card     {found.name}, {memory}; there are {count}")
        lines.append(f"driver   {said('nvidia-smi', query, '--format=csv,noheader') or 'unknown'}")
    return lines


def said(*command: str) -> str:
    """The first line of what a program says; nothing where it isn't there or fails."""
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return (done.stdout.splitlines() or [""])[0] if done.returncode == 0 else ""
