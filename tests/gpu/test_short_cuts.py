"""On a GPU: what a short cut gives, beside the ordinary way."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from plain import losses

Train = Callable[..., dict[str, Any]]
Command = Callable[..., subprocess.CompletedProcess[str]]
Property = Callable[[str, object], None]
pytestmark = pytest.mark.cuda

QUICK = ("data.limit=119", "batch_size=40", "max_steps=12", "monitor=off", "monitor.every=1", "optimizer.lr=0.01")
DROPOUT = ("model=sequential", "loss=nll")
RESNET = ("model=resnet18", "data.limit=24", "batch_size=8", "max_steps=3", "optimizer.lr=0.0001")
GRAPHED = {"two_layer": ("model=two_layer",), "lenet": ("model=lenet",), "dropout": DROPOUT, "resnet18": RESNET}


def both(train: Train, device: str, words: tuple[str, ...], *other: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The results of the ordinary way and of another; their losses stand in the runs' folders."""
    words = (*QUICK, *words, f"device={device}")
    return train(*words, "fast=false", "name=plain"), train(*words, *other, "name=quick")


def ms(result: dict[str, Any]) -> str:
    return f"{1000 * result['seconds'] / result['steps']:.2f} ms a step, start included"


@pytest.mark.parametrize("case", GRAPHED)
def test_a_recorded_step_has_the_losses_of_autograd(
    case: str, device: str, train: Train, record_property: Property
) -> None:
    """On a GPU as a CUDA graph, if that was found to give the same. Where torch draws, the draws are others."""
    words = ("cuda_graphs=true",) if device.startswith("cuda") else ()
    plain, quick = both(train, device, GRAPHED[case], *words)
    record_property("computed", quick["computed"])
    record_property("plain", ms(plain))
    record_property("quick", ms(quick))
    if case != "dropout" or not device.startswith("cuda"):
        assert losses("quick") == pytest.approx(losses("plain"), rel=1e-2)
    assert case == "resnet18" or losses("quick")[-1] < losses("quick")[0]
    if case == "two_layer" and device != "mps":
        assert "a recorded step" in quick["computed"]


def test_without_being_asked_for_nothing_is_a_graph(gpu: str, train: Train) -> None:
    assert train(*QUICK, "model=two_layer", f"device={gpu}")["computed"] == "autograd"


@pytest.mark.parametrize("model", ["lenet", "two_layer"])
@pytest.mark.parametrize("graphs", ["false", "true"])
def test_a_compiled_step_has_the_losses_of_the_uncompiled(
    model: str, graphs: str, device: str, request: pytest.FixtureRequest, train: Train, record_property: Property
) -> None:
    if graphs == "true":
        request.getfixturevalue("gpu")
    _, quick = both(train, device, (f"model={model}",), "compile=true", f"cuda_graphs={graphs}")
    record_property("computed", quick["computed"])
    assert "a compiled step" in quick["computed"], quick["computed"]
    assert losses("quick") == pytest.approx(losses("plain"), rel=1e-2)


def test_features_are_those_of_the_backbone(
    device: str, train: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Computed once, found by the next run, and refused to a run on another device."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    words = ("model=frozen_resnet", "model.backbone.weights=null", "data.limit=40", "batch_size=16")
    _, quick = both(train, device, words)
    assert "cached features" in quick["computed"]
    assert losses("quick") == pytest.approx(losses("plain"), rel=1e-3)
    capsys.readouterr()
    train(*QUICK, *words, f"device={device}", "name=next")
    assert "found in" in capsys.readouterr().out
    assert losses("next") == losses("quick")
    if device != "cpu":
        train(*QUICK, *words, "device=cpu", "name=here")
        assert "computed once" in capsys.readouterr().out


STACKED = {
    "two_layer": ("model=two_layer", "seed=0,1,2,3"),
    "lenet": ("model=lenet", "optimizer.lr=0.001,0.002,0.005,0.01"),
    "normed": (
        "model=sequential",
        "loss=cross_entropy",
        "model.layers=[{_target_:torch.nn.Flatten},{_target_:torch.nn.Linear,in_features:64,out_features:20},"
        "{_target_:torch.nn.BatchNorm1d,num_features:20},{_target_:torch.nn.Linear,in_features:20,out_features:10}]",
        "seed=0,1,2,3",
    ),
    "regression": ("model=two_layer", "data=random_regression", "loss=mse", "optimizer.lr=0.001,0.002,0.005,0.01"),
    "bce": ("model=two_layer", "loss=bce_with_logits", "seed=0,1,2,3"),
    "frozen": ("model=frozen_resnet", "model.backbone.weights=null", "data.limit=40", "seed=0,1,2,3"),
}


@pytest.mark.parametrize("case", STACKED)
def test_a_stack_has_the_losses_of_its_runs_alone(
    case: str, device: str, command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In processes of their own: an error of the device ends all that a process does there, and names its operation."""
    quick = [word for word in QUICK if case != "regression" or not word.startswith("data.limit")]
    quick = [word for word in quick if not word.startswith("optimizer.lr") or "lr=" not in STACKED[case][-1]]
    words = ("--multirun", *quick, *STACKED[case], f"device={device}")
    env = {"CUDA_LAUNCH_BLOCKING": "1", "PYTHONWARNINGS": "default"}
    for how, name in (("always", "stack"), ("never", "alone")):
        done = command(*words, f"sweep.stack={how}", f"name={name}", env=env)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "one by one" not in done.stdout, done.stdout
    monkeypatch.chdir(tmp_path)
    jobs = [path.parent.name for path in Path("runs/stack").glob("*/result.json")]
    assert len(jobs) == 4
    for job in jobs:
        result = json.loads(Path("runs/stack", job, "result.json").read_text())
        assert "a stack of 4 runs" in result["computed"]
        assert losses(f"stack/{job}") == pytest.approx(losses(f"alone/{job}"), rel=1e-3)


def test_one_run_of_a_stack_that_diverges_leaves_the_others(device: str, command: Command, tmp_path: Path) -> None:
    words = ("--multirun", "model=sequential", "loss=bce", "optimizer=sgd", "optimizer.lr=0.01,0.02,0.05,1e30")
    done = command(*words, *QUICK[:-1], f"device={device}", "sweep.stack=always", "name=s")
    assert done.returncode == 1, done.stderr
    results = json.loads((tmp_path / "runs/s/results.json").read_text())
    rows = results if isinstance(results, list) else results["jobs"]
    assert sorted(row["status"] for row in rows) == ["finished"] * 3 + ["stopped"], rows


# The reduction of gradients that a run of several processes makes, in a group of one: the gradients of one process.
ONE = """
import torch, torch.distributed as dist
from trainer.distributed import Agreement, World

device = torch.device("{device}")
if device.type == "cuda":
    torch.cuda.set_device(0)
dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
world = World(0, 2, 0)  # it reduces where there are two; here they are one
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3)).to(device)
inputs = torch.randn(8, 6).to(device)
model(inputs).square().sum().backward()
expected = [p.grad.clone() for p in model.parameters()]
model.zero_grad()
world.parallel(model, device, False)(inputs).square().sum().backward()
for found, alone in zip(model.parameters(), expected):
    torch.testing.assert_close(found.grad, alone)
agreement = Agreement(world)
agreement(True, False)
assert agreement.wait(2) == [True, False]
dist.destroy_process_group()
print("the same", dist.is_nccl_available())
"""


def test_gradients_are_reduced_by_the_device_s_own_library(device: str, tmp_path: Path) -> None:
    """By nccl on a GPU, by gloo on a CPU."""
    if device == "mps":
        pytest.skip("several processes train on a CPU or on CUDA")
    (tmp_path / "one.py").write_text(ONE.format(device=device))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1", "one.py"]
    done = subprocess.run(launch, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "the same" in done.stdout


def test_two_processes_have_the_losses_of_one(
    device: str, tmp_path: Path, train: Train, record_property: Property
) -> None:
    if device != "cpu" and torch.cuda.device_count() < 2:
        pytest.skip("takes two GPUs")
    words = (*QUICK, "model=lenet", "max_steps=6", f"device={device.partition(':')[0]}")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "trainer"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*launch, *words, "name=two"], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    train(*words, "name=one")
    assert losses("two") == pytest.approx(losses("one"), rel=1e-3)


def test_jobs_of_a_sweep_share_a_gpu(device: str, command: Command, tmp_path: Path) -> None:
    dealt = ("sweep.devices=[0]",) if device.startswith("cuda") else ()
    words = ("--multirun", *QUICK, "model=lenet", "seed=0,1", f"device={device}", "sweep.jobs=2", "name=s")
    done = command(*words, *dealt, env={"PYTHONWARNINGS": "default"})
    assert done.returncode == 0, done.stdout + done.stderr
    for seed in (0, 1):
        assert json.loads((tmp_path / f"runs/s/seed={seed}/result.json").read_text())["status"] == "finished"
