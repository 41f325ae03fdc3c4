"""Checkpoints and weights that somebody sent: nothing in them runs, none fills the memory or writes elsewhere.

Each kind of weapon is fired once where it hits, so that a test which sees nothing happen says something.
"""

import contextlib
import copy
import io
import itertools
import json
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from torch import nn

from trainer.command import main as cli
from trainer.disk import checkpoint
from trainer.disk.checkpoint import Checkpoints
from trainer.disk.tensors import load_tensors
from trainer.errors import UserError
from trainer.models.weights import read_weights


class Weapon:
    """Makes a folder when it is unpickled: what could be any other call."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def state(**more: Any) -> dict[str, Any]:
    return {"model": {"weight": torch.arange(4.0)}, "optimizer": {}, "step": 1, "last": {}, **more}


def whole(**more: Any) -> dict[str, Any]:
    """What a checkpoint holds, with checksums that fit."""
    made = state(**more)
    return {"state": made, "checksums": [checkpoint.checksum(t) for t in checkpoint.tensors(made)]}


def archive(path: Path, data: bytes, records: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> None:
    """An archive as torch.save lays it out, around any pickle."""
    with zipfile.ZipFile(path, "w", compression, compresslevel=1) as file:
        for name, content in {"data.pkl": data, "byteorder": b"little", **records, "version": b"3\n"}.items():
            file.writestr(f"archive/{name}", content)


# --- what runs code ------------------------------------------------------------------------------------------------


def in_an_archive(path: Path, marker: Path) -> None:
    torch.save(whole(last=Weapon(marker)), path)


def in_the_old_format(path: Path, marker: Path) -> None:
    torch.save(whole(last=Weapon(marker)), path, _use_new_zipfile_serialization=False)


def in_a_plain_pickle(path: Path, marker: Path) -> None:
    path.write_bytes(pickle.dumps(whole(last=Weapon(marker))))


def in_a_tar(path: Path, marker: Path) -> None:
    """torch's oldest format: the first pickle that is read is that of the storages."""
    with tarfile.open(path, "w:") as tar:
        for name in ("sys_info", "storages", "tensors", "pickle"):
            content = pickle.dumps(Weapon(marker), 2)
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def in_the_class_of_a_storage(path: Path, marker: Path) -> None:
    """Where the pickle says of which class a record is."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, item: object) -> object:
            return ("storage", Weapon(marker), "0", "cpu", 4) if item == "a record" else None

    data = io.BytesIO()
    Pickler(data, 2).dump({"state": "a record"})
    archive(path, data.getvalue(), {"data/0": bytes(16)})


class Script(nn.Module):
    """TorchScript can't call Python, but its `__setstate__` may write files."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs

    @torch.jit.export
    def __getstate__(self):
        return (torch.zeros(1), self.training, self.path)

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, bool, str]):
        self.training = state[1]
        self.path = state[2]
        torch.save(state[0], state[2])


def in_torchscript(path: Path, marker: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(Script(str(marker))), str(path))


def in_a_package(path: Path, marker: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with torch.package.PackageExporter(str(path)) as package:
            package.save_source_string("weapon", f"import os\nos.mkdir({str(marker)!r})\n")


def in_distributed_metadata(path: Path, marker: Path) -> None:
    """A folder of torch.distributed.checkpoint, whose `.metadata` is a pickle."""
    path.mkdir()
    (path / ".metadata").write_bytes(pickle.dumps(Weapon(marker)))
    (path / "__0_0.distcp").write_bytes(b"")


def in_a_pickle_that_says_it_is_another(path: Path, marker: Path) -> None:
    """Two records of one name: which of them is looked at, and which is read?"""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = pickle.dumps(whole(last=Weapon(marker)), 2)
        with zipfile.ZipFile(path, "w") as file:
            for content in (data, pickle.dumps({}, 2), b"3\n"):
                file.writestr("archive/version" if content == b"3\n" else "archive/data.pkl", content)


def naively(path: Path) -> None:
    """As a script loads what it takes for its own."""
    with warnings.catch_warnings(), contextlib.suppress(Exception):
        warnings.simplefilter("ignore")
        torch.load(path, weights_only=False)


def read_package(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.package.PackageImporter(str(path)).import_module("weapon")


def read_metadata(path: Path) -> None:
    pickle.loads((path / ".metadata").read_bytes())  # as FileSystemReader.read_metadata does


# How each is made, and what sets it off.
WEAPONS: dict[str, tuple[Callable[[Path, Path], None], Callable[[Path], object]]] = {
    "archive": (in_an_archive, naively),
    "old format": (in_the_old_format, naively),
    "plain pickle": (in_a_plain_pickle, lambda path: pickle.loads(path.read_bytes())),
    "tar": (in_a_tar, naively),
    "class of a storage": (in_the_class_of_a_storage, naively),
    "TorchScript": (in_torchscript, naively),
    "torch.package": (in_a_package, read_package),
    "distributed checkpoint": (in_distributed_metadata, read_metadata),
    "two pickles": (in_a_pickle_that_says_it_is_another, naively),
}


def as_checkpoint(path: Path) -> object:
    return Checkpoints(path.parent, keep=1).newest(pytest.fail)


def as_weights(path: Path) -> object:
    return read_weights(str(path))


def everything(folder: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def is_refused(read: Callable[[Path], object], path: Path) -> None:
    """In one line that names the file; nothing around it changes."""
    before = everything(path.parents[1])
    with pytest.raises(UserError) as caught:
        read(path)
    message = str(caught.value)
    assert str(path) in message
    assert message.isprintable()  # one line, and nothing that a terminal obeys
    assert "weights_only" not in message  # nobody is told how to run it
    assert everything(path.parents[1]) == before


def are_alone(path: Path) -> None:
    """Weights are read, and of what lies beside them nothing is made."""
    before = everything(path.parents[1])
    assert torch.equal(read_weights(str(path))["weight"], torch.arange(4.0))
    assert everything(path.parents[1]) == before


@pytest.mark.parametrize("read", [as_checkpoint, as_weights])
@pytest.mark.parametrize("weapon", WEAPONS)
def test_a_file_that_would_run_code_is_refused_and_runs_none(tmp_path, weapon, read):
    make, set_off = WEAPONS[weapon]
    marker, path = tmp_path / "it_ran", tmp_path / "checkpoints" / "step_00000001.pt"
    path.parent.mkdir()
    make(path, marker)
    if read is as_weights and make is in_an_archive:
        are_alone(path)
    else:
        is_refused(read, path)
    assert not marker.exists()

    set_off(path)
    assert marker.exists()


@pytest.mark.parametrize("read", [as_checkpoint, as_weights])
def test_the_environment_can_not_have_it_run(tmp_path, monkeypatch, read):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    marker, path = tmp_path / "it_ran", tmp_path / "checkpoints" / "step_00000001.pt"
    path.parent.mkdir()
    in_an_archive(path, marker)
    if read is as_weights:
        are_alone(path)
    else:
        is_refused(read, path)
    assert not marker.exists()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.load(path)
    assert marker.exists()


def test_names_that_torch_calls_but_we_do_not(tmp_path):
    """Its list has functions whose results grow, and classes of which it makes objects of any size."""
    for name in ("_codecs.encode", "__builtin__.bytearray", "torch.Tensor", "torch.storage.UntypedStorage"):
        module, _, called = name.rpartition(".")
        path = tmp_path / "step_00000001.pt"
        archive(path, f"\x80\x02c{module}\n{called}\n.".encode("latin1"), {})
        torch.load(path, weights_only=True)
        with pytest.raises(pickle.UnpicklingError, match=called):
            load_tensors(path)


def test_all_that_torch_keeps_in_its_states_is_read(tmp_path):
    made = {
        "kinds": [torch.zeros(2, dtype=d) for d in (torch.bfloat16, torch.float16, torch.int8, torch.bool)],
        "others": [torch.zeros(2, dtype=torch.complex64), nn.Parameter(torch.zeros(2)), torch.zeros(0)],
        "milestones": torch.optim.lr_scheduler.Counter([3, 3, 5]),
        "plain": [None, True, 1, -(2**70), 0.5, "word", (1, 2), {"a": {1: 2}}, torch.Size([1, 2]), torch.float32],
        "module": nn.BatchNorm1d(3).state_dict(),
    }
    for is_archive in (True, False):
        torch.save(made, tmp_path / "a.pt", _use_new_zipfile_serialization=is_archive)
        assert str(load_tensors(tmp_path / "a.pt", may_be_old=True)) == str(
            torch.load(tmp_path / "a.pt", weights_only=True)
        )


def test_what_could_not_be_read_again_is_not_saved(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=1)
    checkpoints.save(state())
    with pytest.raises(UserError, match="could not be read again"):
        checkpoints.save(state(optimizer={"kept": Path("a")}, step=2))
    assert [path.name for path in checkpoints.files()] == ["step_00000001.pt"]


# --- words in it ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of one step, `it`."""
    words = ["model=two_layer", "monitor=off", "data.limit=40", "max_steps=1", "scheduler=step", "name=it"]
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert cli.run_command(words) == 0
    return folder / "runs"


@pytest.fixture
def run(trained: Path, train: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """A run of one step in `runs/it`; gives what goes on with it after its state has been changed."""
    shutil.copytree(trained, "runs")

    def go_on(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        path = Path("runs/it/checkpoints/step_00000001.pt")
        state = copy.deepcopy(checkpoint.read(path))
        change(state)
        checkpoint.write(path, state)
        return train("resume=runs/it", "max_steps=2")

    return go_on


def test_a_target_in_it_is_a_word_and_nothing_is_imported(run, tmp_path, monkeypatch):
    """CVE-2026-58659: a string of the checkpoint named what was called after a safe load."""
    marker = tmp_path / "it_ran"
    (tmp_path / "weapon.py").write_text(f"import os\nos.mkdir({str(marker)!r})\ndef fire(**_): pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    call = {"_target_": "weapon.fire", "_instantiator": "weapon.fire", "__class__": "weapon.fire"}

    def add(state: dict[str, Any]) -> None:
        state |= {"hyper_parameters": call, "config": call, **call}
        state["diagnosis"] |= call
        state["optimizer"]["param_groups"][0] |= call
        state["schedule"]["scheduler"] |= call

    assert run(add)["steps"] == 2
    assert not marker.exists()
    assert "weapon" not in sys.modules

    instantiate(call)
    assert marker.exists()
    del sys.modules["weapon"]


def test_a_path_in_it_leads_nowhere(run, tmp_path):
    """As a record of the archive, as a key and as a tag."""
    outside = {path for path in tmp_path.parent.rglob("*") if tmp_path not in (path, *path.parents)}

    def add(state: dict[str, Any]) -> None:
        state["last"]["../../../it_ran"] = 0.5
        state["/it_ran"] = "../../../it_ran"

    run(add)
    assert {path for path in tmp_path.parent.rglob("*") if tmp_path not in (path, *path.parents)} == outside
    assert not list(tmp_path.rglob("it_ran*"))


@pytest.mark.parametrize("name", ["step_00000001/../../it_ran", "/it_ran", "it_ran", "other/data/0"])
def test_a_record_outside_the_archives_folder_is_refused(tmp_path, name):
    path = tmp_path / "checkpoints" / "step_00000001.pt"
    path.parent.mkdir()
    torch.save(whole(), path)
    with zipfile.ZipFile(path, "a") as file:
        file.writestr(name, b"here")
    is_refused(as_checkpoint, path)


def test_what_a_terminal_would_obey_is_not_printed(run, capsys):
    title = "\x1b]0;it ran\x07\x1b[2J\r\n\u202e"

    def add(state: dict[str, Any]) -> None:
        finding = {"rule": title, "step": 1, "layer": title, "meaning": title, "advice": title, "numbers": {title: 1.0}}
        state["diagnosis"]["findings"] = [finding]
        state["last"] |= {f"val/{title}": 1.0}

    with contextlib.suppress(UserError):
        run(add)
    said = "".join(capsys.readouterr())
    assert said.replace("\n", "").isprintable()


GARBAGE = {
    "a negative step": lambda s: s.update(step=-1),
    "a step of true": lambda s: s.update(step=True),
    "a step of text": lambda s: s.update(step="1"),
    "a step without end": lambda s: s.update(step=float("inf")),
    "times of text": lambda s: s.update(seconds=[]),
    "metrics of lists": lambda s: s.update(last={"val/loss": []}),
    "no metrics": lambda s: s.update(last=None),
    "no model": lambda s: s.update(model=None),
    "another model": lambda s: s.update(model={"weight": torch.zeros(1)}),
    "no optimizer": lambda s: s.update(optimizer=[1]),
    "an optimizer of tensors": lambda s: s["optimizer"].update(param_groups=[torch.zeros(1)]),
    "no schedule": lambda s: s["schedule"].update(scheduler=None),
    "no draws": lambda s: s.update(random=None),
    "draws of text": lambda s: s.update(random=["a"]),
    "a validation of text": lambda s: s.update(evaluated="7"),
    "a validation at half a step": lambda s: s.update(evaluated=0.5),
    "no count of skipped steps": lambda s: s.update(num_skipped=None),
    "skipped steps of text": lambda s: s.update(num_skipped_in_row="many"),
    "endless seconds": lambda s: s.update(seconds=float("inf")),
    "a learning rate of text": lambda s: s["optimizer"]["param_groups"][0].update(lr="0.1"),
    "no learning rate": lambda s: s["optimizer"]["param_groups"][0].update(lr=None),
    "averages of text": lambda s: s["optimizer"]["param_groups"][0].update(betas="ab"),
    "averages of texts": lambda s: s["optimizer"]["param_groups"][0].update(betas=["a", "b"]),
    "one average": lambda s: s["optimizer"]["param_groups"][0].update(betas=[0.9]),
    "two groups": lambda s: s["optimizer"].update(param_groups=2 * s["optimizer"]["param_groups"]),
    "a schedule of numbers": lambda s: s.update(schedule=5),
    "an epoch of text": lambda s: s["schedule"]["scheduler"].update(last_epoch="x"),
    "rates of text": lambda s: s["schedule"]["scheduler"].update(base_lrs=["x"]),
    "other data": lambda s: s.update(data={"train": 5}),
    "a diagnosis of numbers": lambda s: s.update(diagnosis=5),
    "findings of numbers": lambda s: s["diagnosis"].update(findings=[5]),
}


# One of each part of a state.
EVERYDAY = {
    "a negative step",
    "metrics of lists",
    "no model",
    "an optimizer of tensors",
    "no draws",
    "a schedule of numbers",
}
EVERYDAY |= {"a validation of text", "a learning rate of text", "other data", "a diagnosis of numbers"}


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(change, id=name, marks=[pytest.mark.slow] * (name not in EVERYDAY))
        for name, change in GARBAGE.items()
    ],
)
def test_a_state_of_something_else_is_one_line(run, change):
    with pytest.raises(UserError, match=r"^[^\n]*runs/it[^\n]*$"):
        run(change)


# --- what fills the memory -----------------------------------------------------------------------------------------


MB = 1_000_000
SIZE = 200 * MB  # of what some kB grow to


def tensor_pickle(size: str, numel: int) -> bytes:
    """A state of one tensor, as pickle's opcodes: `_rebuild_tensor_v2` of record 0."""
    storage = f"(U\x07storagectorch\nFloatStorage\nU\x010U\x03cpuJ{numel.to_bytes(4, 'little').decode('latin1')}tQ"
    return f"\x80\x02}}U\x01actorch._utils\n_rebuild_tensor_v2\n({storage}K\x00{size}\x89}}tRs.".encode("latin1")


def inflating(path: Path) -> None:
    numel = SIZE // 4
    size = f"J{numel.to_bytes(4, 'little').decode('latin1')}\x85K\x01\x85"
    archive(path, tensor_pickle(size, numel), {"data/0": bytes(SIZE)}, zipfile.ZIP_DEFLATED)


def overlapping(path: Path) -> None:
    """Fifty records that are the same bytes."""
    torch.save({str(i): torch.zeros(MB) + i for i in range(50)}, path)
    with zipfile.ZipFile(path) as file:
        records = {name.split("/", 1)[1]: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w") as file:
        for name, content in records.items():
            if not name.startswith("data/") or name == "data/0":
                file.writestr(f"archive/{name}", content)
        first = file.getinfo("archive/data/0")
        for i in range(1, 50):
            again = copy.copy(first)
            again.filename = again.orig_filename = f"archive/data/{i}"
            file.filelist.append(again)


def expanded(path: Path) -> None:
    torch.save({"model": torch.zeros(1).expand(SIZE // 4)}, path)


def growing(path: Path) -> None:
    """A text that each call makes twice as long."""
    text = "c_codecs\nencode\n" * 26 + "X\x08\x00\x00\x00AAAAAAAAU\x06latin1\x86R" + "U\x03hex\x86R" * 25
    archive(path, f"\x80\x02{text}.".encode("latin1"), {})


def unfolding(path: Path) -> None:
    """Lists that hold the list before them twice: 2^30 tensors in some hundred bytes."""
    made: Any = torch.zeros(1)
    for _ in range(30):
        made = [made, made]
    torch.save({"state": made, "checksums": []}, path)


def promising(path: Path) -> None:
    """A storage of 4 GB whose record has 16 bytes."""
    archive(path, tensor_pickle("J\x00\x00\x00\x3f\x85K\x01\x85", 2**30), {"data/0": bytes(16)})


def lying(path: Path) -> None:
    """A record of which the table says that it has 2 GB."""
    torch.save({"a": torch.zeros(MB)}, path)
    content = bytearray(path.read_bytes())
    entry = content.rindex(b"PK\x01\x02", 0, content.index(b"data/0", content.index(b"PK\x01\x02")))
    content[entry + 24 : entry + 28] = (2**31 - 1).to_bytes(4, "little")
    path.write_bytes(content)


def describing(path: Path) -> None:
    """17 MB of nothing but empty dicts, 64 bytes each."""
    archive(path, b"\x80\x02](" + b"}" * (17 * MB) + b"e.", {})


class Note:
    """Of no class that weights have."""


def noted_expanded(path: Path) -> None:
    torch.save({"note": Note(), "model": torch.zeros(1).expand(SIZE // 4)}, path)


def noted_unfolding(path: Path) -> None:
    made: Any = torch.zeros(1)
    for _ in range(30):
        made = [made, made]
    torch.save({"note": Note(), "state": made}, path)


def remembering(path: Path) -> None:
    """An object, and a place in the unpickler's memory that is far away."""
    archive(path, b"\x80\x02cmine\nNote\n)Rr\xff\xff\xff\x3f.", {})


def endless(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def recursive(path: Path) -> None:
    made: list[Any] = []
    made.append(made)
    torch.save({"state": {"model": made, "optimizer": {}, "step": 1}, "checksums": []}, path)


BOMBS = (
    *(inflating, overlapping, expanded, growing, unfolding, noted_expanded, noted_unfolding, remembering),
    *(promising, lying, describing, endless, device, recursive),
)
GROWING = ("inflating", "overlapping", "expanded", "growing")  # those whose naive load takes all of it

# Measures the largest memory of a load: the kernel's count is set back before each. Naive loads come last.
MEASURE = """
import itertools, json, resource, sys, warnings
from pathlib import Path
import torch
from trainer.command import main as cli
from trainer.disk import checkpoint
from trainer.errors import UserError
from trainer.models.weights import read_weights

torch.set_num_threads(1)
resource.setrlimit(resource.RLIMIT_AS, (12 << 30, 12 << 30))

def peak():
    return 1024 * int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])

def measured(read, path):
    open("/proc/self/clear_refs", "w").write("5")
    before = peak()
    try:
        read(path)
        said = None
    except UserError as error:
        said = str(error)
    return {"said": said, "grown": peak() - before}

def naive(path):
    content = torch.load(path, weights_only=True)
    for tensor in itertools.islice(checkpoint.tensors(content), 1000):
        checkpoint.checksum(tensor)

folder, growing = Path(sys.argv[1]), sys.argv[2:]
found = {}
for path in sorted(folder.iterdir()):
    found[path.stem] = [measured(checkpoint.read, path), measured(lambda path: read_weights(str(path)), path)]
for path in (folder / f"{name}.pt" for name in growing):
    found[path.stem].append(measured(naive, path))
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """What two readers said of every bomb and how much memory they took; and a naive reader."""
    folder = tmp_path_factory.mktemp("bombs")
    for make in BOMBS:
        make(folder / f"{make.__name__}.pt")
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(folder), *GROWING], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, list[dict[str, Any]]] = json.loads(done.stdout)
    for name, results in found.items():
        path = folder / f"{name}.pt"
        for result in results:
            result["size"] = path.stat().st_size if path.is_file() else 0
    shutil.rmtree(folder)
    return found


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is measured by Linux")
@pytest.mark.parametrize("name", [make.__name__ for make in BOMBS])
def test_a_small_file_does_not_fill_the_memory(measured, name):
    for result in measured[name][:2]:
        assert result["said"] is not None
        assert f"{name}.pt" in result["said"]
        assert result["said"].isprintable()
        assert result["grown"] < 2 * result["size"] + 32 * MB  # the pickle of 16 MB that is looked through
    if name in GROWING:
        assert measured[name][2]["grown"] > SIZE / 2


def test_lists_that_unfold_would_have_been_walked_for_ever(tmp_path):
    unfolding(tmp_path / "a.pt")
    assert (tmp_path / "a.pt").stat().st_size < 5000
    content = torch.load(tmp_path / "a.pt", weights_only=True)
    assert sum(1 for _ in itertools.islice(checkpoint.tensors(content), 100_000)) == 100_000
