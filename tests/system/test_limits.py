"""What a crowded machine leaves to a run: a container's memory and cores, little shared memory, no home folder."""

import json
import os
import shlex
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from trainer.errors import UserError
from trainer.exits import exit_code
from trainer.run import environment
from trainer.system import limits

STAT = "anon 5\ninactive_file {}\ntotal_inactive_file {}\n"


def group(root: Path, path: str, **files: str) -> None:
    folder = root / path
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


def own(root: Path, text: str) -> Path:
    (root / "self").write_text(text)
    return root / "self"


def test_the_tightest_of_nested_groups_counts(tmp_path: Path) -> None:
    """Version 2: a service within a slice."""
    stat = STAT.format(100, 0)
    group(tmp_path, "a", memory__max="2000", memory__current="900", memory__stat=stat, cpu__max="150000 100000")
    group(tmp_path, "a/b", memory__max="max", memory__current="900", memory__stat=stat, cpu__max="max 100000")
    assert limits.free_in_container(tmp_path, own(tmp_path, "0::/a/b\n")) == 2000 - 900 + 100
    assert limits.cores_of_container(tmp_path, own(tmp_path, "0::/a/b\n")) == 2


def test_the_first_version_has_a_tree_for_each_controller(tmp_path: Path) -> None:
    files = {"memory__limit_in_bytes": "1000000000", "memory__usage_in_bytes": "400000000"}
    group(tmp_path, "memory", memory__stat=STAT.format(0, 0), **files)  # a container sees its own group as the root
    group(tmp_path, "cpu", cpu__cfs_quota_us="50000", cpu__cfs_period_us="100000")
    inside = own(tmp_path, "5:cpu,cpuacct:/docker/1f\n4:memory:/docker/1f\n1:name=systemd:/docker/1f\n")
    assert limits.free_in_container(tmp_path, inside) == 600_000_000
    assert limits.cores_of_container(tmp_path, inside) == 1


def test_where_there_is_no_limit_there_is_none(tmp_path: Path) -> None:
    group(tmp_path, "cpu", cpu__cfs_quota_us="-1", cpu__cfs_period_us="100000")
    for text in ("0::/\n", "4:cpu:/x\n3:memory:/x\n"):
        assert limits.free_in_container(tmp_path, own(tmp_path, text)) is None
        assert limits.cores_of_container(tmp_path, own(tmp_path, text)) is None
    assert 1 <= limits.num_cores() <= (os.cpu_count() or 1)
    free = limits.free_bytes()
    assert free is not None
    assert free > 0


@pytest.mark.parametrize(
    ("typed", "threads", "expected"),
    [(None, None, 1), ("3", None, 2), ("1", None, 1), (None, 2, 2), (None, "auto", 1), ("3", "auto", 2)],
)
def test_threads_are_no_more_than_a_container_s_cores(
    typed: str | None, threads: int | str | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless somebody says how many."""
    monkeypatch.setattr(environment, "num_cores", lambda: 1)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if typed is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", typed)
    before = torch.get_num_threads()
    try:
        monkeypatch.setattr(environment, "TORCHS", 2)
        settings: Any = SimpleNamespace(fast=False, compile=False, threads=threads, deterministic=False)
        environment.set_up_torch(settings)
        assert torch.get_num_threads() == expected
    finally:
        torch.set_num_threads(before)


def test_an_apple_gpu_has_no_float64() -> None:
    settings: Any = SimpleNamespace(dtype="float64")
    with pytest.raises(UserError, match=r"dtype=float64: device=mps has no float64\. Type device=cpu"):
        environment.refuse_float64(settings, torch.device("mps"))
    environment.refuse_float64(settings, torch.device("cpu"))


# As torch 2.13 says it, in aten/src/ATen/mps/MPSFallback.mm; by TORCH_WARN, so with where it was triggered.
FALLBACK = (
    "The operator 'aten::{}' is not currently supported on the MPS backend and will fall back to run on the CPU. This "
    "may have performance implications. (Triggered internally at /Users/runner/work/MPSFallback.mm:14.)"
)
LACKING = (
    "The operator 'aten::svd' is not currently implemented for the MPS device. If you want this op to be considered "
    "for addition please comment on https://github.com/pytorch/pytorch/issues/141287. As a temporary fix, you can set "
    "the environment variable `PYTORCH_ENABLE_MPS_FALLBACK=1` to use the CPU as a fallback for this op."
)


def test_what_apple_s_gpu_lacks_is_named_once(capsys: pytest.CaptureFixture[str]) -> None:
    before, names = torch.is_warn_always_enabled(), ["svd", "nonzero"]
    with warnings.catch_warnings():
        try:
            environment.name_fallbacks(torch.device("cpu"))
            assert torch.is_warn_always_enabled() == before
            environment.name_fallbacks(torch.device("mps"))
            assert torch.is_warn_always_enabled()
            for name in (*names, *names, *names):
                warnings.warn(FALLBACK.format(name), UserWarning, stacklevel=1)
            with pytest.raises(UserWarning, match="another"):
                warnings.warn("another", UserWarning, stacklevel=1)  # the tests' filter is as it was
        finally:
            torch.set_warn_always(before)
    lines = [
        f"warning: device=mps: aten::{name} is computed on the CPU, which is slower" for name in ("svd", "nonzero")
    ]
    assert capsys.readouterr().err.splitlines() == lines


def test_what_apple_s_gpu_lacks_without_a_fallback_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    def task(signals: object) -> None:
        raise NotImplementedError(LACKING)

    assert exit_code(task) == 2
    assert capsys.readouterr().err == (
        "error: device=mps: The operator 'aten::svd' is not currently implemented. Type PYTORCH_ENABLE_MPS_FALLBACK=1 "
        "before the command, which computes it on the CPU, or device=cpu.\n"
    )


@pytest.fixture
def small(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`train` with 64 MB of shared memory, as Docker gives, and a home folder that can't be made."""
    mount = "mount -t tmpfs -o size=64m tmpfs /dev/shm"
    try:
        subprocess.run(["unshare", "-m", "sh", "-c", mount], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("to mount another /dev/shm takes root's rights")

    def train(*words: str, limit: str = "true") -> subprocess.CompletedProcess[str]:
        line = f"{mount} && {limit} && {shlex.join([sys.executable, '-m', 'trainer', *words])}"
        env = {**os.environ, "HOME": "/proc/nobody"}
        for name in ("XDG_CACHE_HOME", "OMP_NUM_THREADS"):
            env.pop(name, None)
        return subprocess.run(
            ["unshare", "-m", "sh", "-c", line], cwd=tmp_path, env=env, capture_output=True, text=True
        )

    return train


def pictures(folder: Path) -> None:
    for name in ("cat", "dog"):
        (folder / "pictures" / name).mkdir(parents=True)
        for i in range(300):
            pixels = np.full((8, 8, 3), i % 256, dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "pictures" / name / f"{i}.png")


@pytest.mark.long
def test_one_core_and_a_gigabyte_are_enough(small: Any, tmp_path: Path) -> None:
    """Of `ulimit -v`: addresses, of which a process asks for more than it uses."""
    pictures(tmp_path)
    limit = f"ulimit -v {2**20} && taskset -p -c 0 $$ >/dev/null"
    first = small("max_epochs=2", "name=first", limit=limit)  # the README's first command, shorter
    assert (first.returncode, first.stderr) == (0, "")
    assert json.loads((tmp_path / "runs/first/origin.json").read_text())[0]["threads"] == 1
    words = ("model=two_layer", "data=image_folder", "data.root=pictures", "data.image_size=32", "data.num_workers=2")
    images = small(*words, "max_steps=20", "name=images", limit=limit)
    assert (images.returncode, images.stderr) == (0, "")
    little = small("max_steps=5", "name=little", limit="ulimit -v 400000")
    assert (little.returncode, little.stderr.count("\n")) == (2, 1), little.stderr
    assert "not enough memory" in little.stderr


@pytest.mark.long
def test_docker_s_shared_memory_is_enough(small: Any, tmp_path: Path) -> None:
    pictures(tmp_path)
    words = ("model=two_layer", "data=image_folder", "data.root=pictures", "max_steps=1", "monitor=off")
    assert small("max_steps=5").returncode == 0  # the README's first command
    enough = small(*words, "data.image_size=32", "data.num_workers=2", "name=small")
    assert enough.returncode == 0, enough.stderr
    large = small(*words, "data.image_size=224", "batch_size=480", "data.num_workers=2", "name=large")
    assert (large.returncode, large.stderr) == (0, "")  # a batch takes 72 MB


@pytest.mark.skipif(sys.platform == "win32", reason="it has no such limit")
def test_the_limit_of_open_files_is_raised_as_far_as_it_may_be() -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    num_open = len(os.listdir("/dev/fd"))
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (num_open + 10, hard))
        assert limits.room_for_files(5) == 5
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == num_open + 10
        assert limits.room_for_files(30) == 30
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == num_open + 30
        if hard != resource.RLIM_INFINITY:
            assert limits.room_for_files(hard + 1) == hard - num_open
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def long_folder(tmp_path: Path) -> dict[str, str]:
    """An environment with a folder for temporary files as a batch system gives one, longer than a socket may be."""
    folder = tmp_path / ("job" * 20) / ("tmp" * 20)
    folder.mkdir(parents=True)
    return {**os.environ, "TMPDIR": str(folder)}


@pytest.mark.skipif(sys.platform == "win32", reason="its pipes have no path")
def test_sockets_find_room_where_the_folder_for_temporary_files_has_a_long_path(long_folder: dict[str, str]) -> None:
    code = (
        "from multiprocessing.connection import Listener\n"
        "from trainer.system.interpreters import shorten_sockets\n"
        "import tempfile; shorten_sockets(); Listener(family='AF_UNIX').close(); print(tempfile.gettempdir())"
    )
    done = subprocess.run([sys.executable, "-c", code], env=long_folder, capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == (long_folder["TMPDIR"], "")


@pytest.mark.slow
@pytest.mark.parametrize("how", ["a sweep", "workers"])
def test_a_long_folder_for_temporary_files(how: str, long_folder: dict[str, str], tmp_path: Path) -> None:
    """The first ended with a traceback, the second waited for a minute and said that its workers hang."""
    words = ["model=two_layer", "max_steps=2", "monitor=off"]
    if how == "a sweep":
        words += ["--multirun", "seed=0,1", "sweep.stack=never"]
    else:
        for i in range(24):
            path = tmp_path / "pictures" / "ab"[i % 2] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((8, 8), i, np.uint8)).save(path)
        words += ["data=image_folder", "data.root=pictures", "data.image_size=8", "data.num_workers=1", "batch_size=4"]
    command = [sys.executable, "-m", "trainer", *words]
    done = subprocess.run(command, cwd=tmp_path, env=long_folder, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
