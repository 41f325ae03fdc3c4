"""Names of torch's that stand in no documentation may be gone tomorrow: short cuts step aside, to the same end."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import trainer
from trainer.fast import compiled, recorded, updates
from trainer.fast.hooks import Hooks, is_watched
from trainer.monitor.graph import model_graph
from trainer.stack.architecture import refuse_hooks
from trainer.stack.refusal import CannotStack
from trainer.system import private

WORDS = ["model=lenet", "data.limit=60", "max_steps=3", "threads=1", "monitor=full", "monitor.activations=true"]
WITHOUT = """
import torch
import torch.utils._python_dispatch as dispatch
kept = dispatch.TorchDispatchMode
del dispatch.TorchDispatchMode, torch._fused_adam_, torch._fused_adamw_
from trainer.system import private
dispatch.TorchDispatchMode = kept  # torch's own modules want it
assert not private.has_dispatch_mode()
from trainer.command.main import main
main()
"""


def test_they_are_used_in_one_file_and_listed_there() -> None:
    hooks = "(?:backward|forward|forward_pre|backward_pre)_hooks"
    names = re.compile(
        r"(?:import|from) torch[\w.]*\._\w+|(?<![\"\w])torch\._(?!_)\w+|hydra\._internal"
        rf"|\._(?:apply|version|schema|opt_called|worker_result_queue|index_queues|worker_pids_set|shutdown|{hooks})\b"
    )
    listed = private.__doc__ or ""
    root = Path(trainer.__file__).parent
    for path in root.rglob("*.py"):
        for found in names.findall(re.sub(r" # .*", "", path.read_text(encoding="utf-8"))):
            assert found.split("._")[-1] in listed, (path, found)
            is_typing = found == "from torch._ops"  # behind TYPE_CHECKING
            is_of_torch = "torch" in found and path.name != "private.py"
            assert is_typing or not is_of_torch, (path, found)


@pytest.mark.slow
def test_a_run_without_them_has_the_same_numbers(tmp_path: Path, train: Any) -> None:
    command = [sys.executable, "-c", WITHOUT, *WORDS, "name=without"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "runs/without/result.json").read_text())
    plain = train(*WORDS, "name=plain", "fast=false")
    for tag in ("train/loss", "val/loss", "test/loss"):
        assert found[tag] == plain[tag]


def test_without_a_dispatch_mode_nothing_is_drawn_and_a_line_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(self: object) -> None:
        raise private.Gone("this release of torch has no TorchDispatchMode")

    monkeypatch.setattr(private.TorchDispatchMode, "__init__", gone)
    graph, why = model_graph(nn.Linear(2, 2), torch.zeros(1, 2))
    assert graph is None
    assert "no TorchDispatchMode" in why


def test_hooks_that_nobody_can_look_up_count_as_hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    network = nn.Sequential(nn.Linear(2, 2))
    assert not is_watched(network)
    assert not Hooks(network)
    refuse_hooks([network])
    monkeypatch.setattr(private, "HOOKS", ("_hooks_of_tomorrow",))
    assert is_watched(network)
    assert Hooks(network)
    with pytest.raises(CannotStack, match="has a hook"):
        refuse_hooks([network])
    with pytest.raises(recorded.NotRecorded, match="has a hook"):
        recorded.refuse_others(network, nn.Module())  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_without_the_fused_call_adam_is_torch_s(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert updates.standing_for(name, ["lr"]) is updates.CLASSES[name]
    monkeypatch.delattr(torch, "_fused_adam_")
    monkeypatch.delattr(torch, "_fused_adamw_")
    assert updates.standing_for(name, ["lr"]) is None
    assert updates.standing_for("SGD", ["lr"]) is updates.SGD


def test_a_compiler_that_can_not_be_set_leaves_the_run_uncompiled(
    train: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(private.Gone, match="compiles in another way"):
        private.compiler(a_setting_of_tomorrow=True)
    real = private.compiler
    monkeypatch.setattr(compiled, "compiler", lambda **settings: real(a_setting_of_tomorrow=True))
    with pytest.raises(compiled.NotCompiled):
        compiled.compile_in_place(nn.Linear(2, 2))
    words = ("model=two_layer", "data.limit=60", "max_steps=2", "monitor=off")
    found = train(*words, "name=a", "compile=true")
    assert "compiles in another way" in capsys.readouterr().out
    assert found["val/loss"] == train(*words, "name=b", "fast=false")["val/loss"]


def test_a_model_is_moved_one_tensor_at_a_time_where_there_is_no_other_way(monkeypatch: pytest.MonkeyPatch) -> None:
    def model() -> nn.Module:
        made = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
        made.register_buffer("wave", torch.tensor([1 + 2j]))
        return made

    def doubled(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.double() if tensor.is_floating_point() else tensor

    torch.manual_seed(0)
    ours = private.applied(model(), doubled)
    monkeypatch.delattr(nn.Module, "_apply")
    torch.manual_seed(0)
    others = private.applied(model(), doubled)
    assert ours.state_dict().keys() == others.state_dict().keys()
    for name, tensor in ours.state_dict().items():
        assert tensor.dtype == others.state_dict()[name].dtype
        assert torch.equal(tensor, others.state_dict()[name])


def test_a_tensor_that_does_not_count_its_writes_is_copied_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    from trainer.data import batches

    whole = batches.Batch(torch.ones(2), torch.zeros(2))
    assert next(batches.unspoilt(whole, is_copied=False)) is whole
    monkeypatch.setattr(batches, "version_of", lambda tensor: None)
    assert next(batches.unspoilt(whole, is_copied=False)) is not whole
