"""Two processes of one training, as torchrun starts them."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

WORDS = ("monitor.every=3", "console.every=1", "device=cpu")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def ranks(folder: Path, *words: str, differing: tuple[str, ...] = ()) -> list[subprocess.Popen[str]]:
    """Two processes as torchrun starts them; the second may be told something else."""
    port = str(free_port())
    return [
        subprocess.Popen(
            [sys.executable, "-m", "trainer", *WORDS, *words, *(differing if rank else ())],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "PYTHONWARNINGS": "error",
                **{"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"},
                **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port},
            },
        )
        for rank in range(2)
    ]


def ended(processes: list[subprocess.Popen[str]], seconds: float = 100) -> list[tuple[int, str, str]]:
    """Exit code, stdout and stderr of each."""
    end = time.monotonic() + seconds
    texts = [process.communicate(timeout=max(1, end - time.monotonic())) for process in processes]
    return [(process.returncode, *text) for process, text in zip(processes, texts, strict=True)]
