"""`train pack`: a run as one file, which gives the same numbers, continues exactly, and in which nothing can run."""

import errno
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trainer import load
from trainer.command import main as cli
from trainer.disk import pack as packs
from trainer.disk.checkpoint import read
from trainer.disk.pack import write_tensors
from trainer.errors import UserError
from trainer.use.evaluate import evaluation
from trainer.use.find import find
from trainer.use.trained import open_run

torch_tensors = pytest.importorskip("safetensors.torch")
Train = Callable[..., dict[str, Any]]
QUIET = ("monitor=off", "model=two_layer")


def test_a_pack_is_the_run(train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = train("name=x", "max_steps=30", *QUIET)
    os.utime("runs/x/config.yaml", (0, 0))  # as in a container's layer; a zip has no such times
    os.utime("runs/x/model.json", (5e9, 5e9))
    assert cli.run_command(["pack", "x", "out=y.zip"]) == 0
    found = evaluation(open_run(find("y.zip")))
    assert found.numbers == found.expected == {n: result[f"test/{n}"] for n in ("loss", "accuracy")}
    with zipfile.ZipFile("y.zip") as archive:
        names = archive.namelist()
        assert not any(name.endswith((".pt", ".pkl", ".pth", ".bin", ".py")) for name in names)
        text = archive.read("README.md").decode()
    assert f"| `test/accuracy` | {result['test/accuracy']:.6g} |" in text
    assert "train name=x max_steps=30 monitor=off model=two_layer" in text
    assert "| mean of classes |" in text
    assert "train evaluate y.zip" in text

    train("resume=y.zip", "max_steps=40")
    train("name=x", "max_steps=40", *QUIET)
    unpacked, continued = (read(Path(f"runs/{name}/checkpoints/last.pt")) for name in ("y", "x"))
    assert packs.as_tree(unpacked["model"], a := {}) == packs.as_tree(continued["model"], b := {})
    assert all(torch.equal(a[name], b[name]) for name in b)
    assert unpacked["step"] == 40
    with pytest.raises(UserError, match=r"runs/y is there already. Type resume=runs/y"):
        train("resume=y.zip", "max_steps=50")
    Path("y.zip").rename("z.zip")
    with pytest.raises(UserError, match=r"optimizer.lr"):
        train("resume=z.zip", "max_steps=50", "optimizer.lr=-1")
    with pytest.raises(UserError):
        train("resume=z.zip", "max_steps=50", "model.hidden_features=7")
    assert cli.run_command(["resume=z.zip", "max_steps=50", "dry_run=true"]) == 0
    assert not Path("runs/z").exists()
    capsys.readouterr()
    assert cli.run_command(["show", "x"]) == 0
    out = capsys.readouterr().out
    for verb in ("evaluate", "predict", "export", "pack"):
        assert f"  train {verb} runs/x" in out
    assert cli.run_command(["evaluate", "z.zip"]) == 0
    assert capsys.readouterr().out.startswith("z.zip at step 30: test split of digits\n")  # not the cache it lies in


def disk_calls(words: list[str]) -> list[str]:
    """Runs a command; in their order, the calls that rename files and have them on the disk."""
    names = {os.fsync: "sync", os.replace: "rename", os.rename: "rename"}
    calls = []

    def look(frame: Any, event: str, arg: Any) -> None:
        if event == "c_call" and isinstance(arg, type(os.fsync)) and arg in names:
            calls.append(names[arg])

    sys.setprofile(look)
    try:
        assert cli.run_command(words) == 0
    finally:
        sys.setprofile(None)
    return calls


@pytest.mark.slow
def test_no_power_cut_leaves_half_of_what_is_written(train: Train, tmp_path: Path) -> None:
    """A name that is there before its content would be of an empty file, in the place of a whole one."""
    train("name=x", "max_steps=3", *QUIET)
    np.save("new.npy", np.zeros((2, 1, 8, 8), np.uint8))
    whole = ["sync", "rename", "sync"]
    assert disk_calls(["pack", "x", "out=y.zip"]) == whole
    assert disk_calls(["export", "x", "format=safetensors", "out=y.safetensors"]) == whole
    assert disk_calls(["predict", "x", "new.npy", "out=y.csv"]) == whole
    assert disk_calls(["predict", "x", "new.npy", "out=y.npz"]) == whole
    assert disk_calls(["evaluate", "y.zip"])[-3:] == whole  # the folder that it is unpacked into


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="bash and ulimit")
@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".npz"])
def test_a_file_that_finds_no_room_is_named(suffix: str, train: Train, tmp_path: Path) -> None:
    train("name=x", "max_steps=3", *QUIET)
    np.save("new.npy", np.zeros((3000, 1, 8, 8), np.uint8))
    command = f'ulimit -f 8; "{sys.executable}" -m trainer predict x new.npy out=y{suffix}'
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=600)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"error: y{suffix}: can't be written: File too large (")
    assert not Path(f"y{suffix}").exists()


def test_a_disk_without_hard_links_will_do(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: Any) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", link)  # as exFAT answers
    train("name=x", "max_steps=5", *QUIET)
    assert cli.run_command(["pack", "x", "out=y.zip"]) == 0
    assert train("resume=y.zip", "max_steps=6")["steps"] == 6
    assert {read(Path(f"runs/y/checkpoints/{name}.pt"))["step"] for name in ("last", "best")} <= {5, 6}


def test_a_full_disk_names_the_word_that_says_where(train: Train) -> None:
    """A limit on the size of files stands in for it. `name=` and `run_dir=` are no words of these."""
    resource = pytest.importorskip("resource")
    train("name=x", "max_steps=5", *QUIET)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for words, how in ((["pack", "out=y.zip"], "out="), (["evaluate", "--png", "pictures"], "folder after --png")):
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
        try:
            with pytest.raises(UserError, match=rf"can't be written: .* Free some room, or type another {how}\.$"):
                cli.run_command([words[0], "x", *words[1:]])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not Path("y.zip").exists()
    assert not list(Path("pictures").iterdir())


def test_the_average_is_what_a_pack_gives(train: Train, tmp_path: Path) -> None:
    result = train("name=x", "max_steps=30", "average.decay=0.9", *QUIET)
    assert cli.run_command(["pack", "x", "out=y.zip", "checkpoint=average"]) == 0
    with zipfile.ZipFile("y.zip") as archive:
        weights = torch_tensors.load(archive.read("model.safetensors"))
        assert 'load("y.zip", checkpoint="average")' in archive.read("README.md").decode()
    model = load("y.zip", "average")
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.network.state_dict().items())
    assert model.evaluate() == {n: result[f"test/average/{n}"] for n in ("loss", "accuracy")}
    assert not torch.equal(weights["w1"], load("x").network.state_dict()["w1"])


def test_a_state_comes_back() -> None:
    state = {"a": [1, (2.5, None)], "b": {3: torch.arange(4), "c": torch.tensor(True)}, "d": "text", "e": float("inf")}
    tensors: dict[str, torch.Tensor] = {}
    tree = json.loads(json.dumps(packs.as_tree(state, tensors)))
    found = packs.from_tree(tree, tensors)
    assert str(found) == str(state)


BAD: dict[str, dict[str, Any]] = {
    "no zip": {},
    "another name": {"config.yaml": "a", "model.json": "{}", "evil.py": "import os"},
    "a way out": {"config.yaml": "a", "model.json": "{}", "../evil": "x"},
    "a text of zeros": {"config.yaml": "a", "model.json": "\0" * (1 << 24)},
    "no config": {"model.json": "{}"},
    "no state": {"config.yaml": "a", "model.json": "{}"},
    "no tensors": {"config.yaml": "a", "model.json": "{}", "checkpoints/last.safetensors": "nothing"},
}


@pytest.mark.parametrize("bad", BAD)
def test_a_foreign_pack_is_a_line(bad: str, tmp_path: Path) -> None:
    path = tmp_path / "p.zip"
    path.write_bytes(b"PK no zip")
    if BAD[bad]:
        with zipfile.ZipFile(path, "w") as archive:
            for name, text in BAD[bad].items():
                kind = zipfile.ZIP_DEFLATED if name in packs.TEXTS else zipfile.ZIP_STORED
                archive.writestr(name, text, kind)
    with pytest.raises(UserError, match=r"p.zip: is no whole pack of train"):
        packs.unpack(path, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["p.zip"]


def test_a_full_disk_is_an_error_of_the_system(tmp_path: Path) -> None:
    """safetensors has one of its own, which would be taken for a fault of ours."""
    pytest.importorskip("safetensors")
    with pytest.raises(OSError, match="No such file"):
        write_tensors({}, tmp_path / "missing/x.safetensors", {})


def test_a_pack_teaches_once_it_is_unpacked(train: Train) -> None:
    train(*QUIET, "max_steps=2", "name=big")
    assert cli.run_command(["pack", "big"]) == 0
    Path("runs").rename("elsewhere")
    words = (*QUIET, "max_steps=2", "model.hidden_features=5", "name=small")
    with pytest.raises(UserError, match=r"Type train resume=big\.zip, which unpacks it to runs/big, and then"):
        train(*words, "loss.teacher=big.zip")
    assert cli.run_command(["resume=big.zip"]) == 0
    assert "test/loss" in train(*words, "loss.teacher=runs/big")
