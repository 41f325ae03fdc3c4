"""compile=true: the numbers of an uncompiled run, exact resume, and a line where something can't be compiled."""

import json
import re
import subprocess
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.nn.functional import conv2d, max_pool2d
from torch.testing import assert_close

from meanings import meaning_of
from trainer.data.batches import Batch, ResidentBatches, first_samples
from trainer.disk import checkpoint
from trainer.fast.compiled import CompiledPart, NotCompiled
from trainer.fast.windows import LeNetInWindows, Windows, convolved_pooled_relu
from trainer.losses.function import Losses, LossFunction
from trainer.losses.term import Whole
from trainer.models.lenet import LeNet
from trainer.state import Store

NAMES = {"loss": "chosen", "model": "net", "data": "numbers"}
PENALTY = "trainer.losses.criteria.L2Penalty"
LAYERS = (
    "model.layers=[{_target_:torch.nn.Flatten},{_target_:torch.nn.Linear,in_features:64,out_features:20},"
    "{_target_:torch.nn.BatchNorm1d,num_features:20},{_target_:torch.nn.ReLU},{_target_:torch.nn.Dropout,p:0.5},"
    "{_target_:torch.nn.Linear,in_features:20,out_features:10}]"
)
# 95 samples are trained on: three steps of 40, 40 and 15 an epoch.
BASE = ("monitor=scalars", "monitor.every=1", "data.limit=119", "batch_size=40", "max_steps=8", "dtype=float64")
MOMENTUM = ("optimizer=sgd", "optimizer.momentum=0.9", "optimizer.lr=0.05")
TWO_LAYER = ("model=two_layer", "model.hidden_features=7", *MOMENTUM)
CASES = {
    "lenet": ("model=lenet", "model.dropout=0.3", *MOMENTUM),
    "lenet of another size": ("model=lenet", "model.kernel_size=4", "model.image_size=27", *MOMENTUM),
    "batch norm and dropout": ("model=sequential", LAYERS, "loss=cross_entropy", *MOMENTUM),
    "hand-written backward": (*TWO_LAYER, "model.gradient=tensors"),
    "hand-written relu": (*TWO_LAYER, "model.gradient=custom_function"),
    "penalty": (*TWO_LAYER, "loss=composite", f"+loss.terms.l2={{weight:0.01,criterion:{{_target_:{PENALTY}}}}}"),
    "parts and clipping": (*TWO_LAYER, "gradient.accumulate=2", "gradient.clip_norm=0.1", "batch_size=20"),
    "torch's optimizer": (*TWO_LAYER, "fast=false"),
    "watched": (*TWO_LAYER, "monitor.activations=true", "monitor.every=3"),
}


def records(name: str) -> list[dict[str, float]]:
    """What a run wrote, without times."""
    lines = Path("runs", name, "metrics.jsonl").read_text().splitlines()
    return [{tag: x for tag, x in json.loads(line).items() if not tag.startswith("time")} for line in lines]


def state(name: str, step: int = 8) -> dict[str, Any]:
    return checkpoint.read(Path("runs", name, "checkpoints", f"step_{step:08d}.pt"))


def assert_compiled_is_uncompiled(words: tuple[str, ...], train: Callable[..., Any], capsys: Any) -> None:
    train(*BASE, *words, "name=plain")
    capsys.readouterr()
    train(*BASE, *words, "compile=true", "name=compiled")
    said = capsys.readouterr().out
    assert len(re.findall(r"compile=true: it took \d+\.\d s to compile the step\n", said)) == 1
    assert "warning" not in said
    plain, compiled = records("plain"), records("compiled")
    assert len(plain) == len(compiled) > 3
    for a, b in zip(plain, compiled, strict=True):
        assert a == pytest.approx(b, rel=1e-10, abs=1e-12)
    assert_close(state("compiled")["model"], state("plain")["model"], rtol=1e-12, atol=1e-12)


@pytest.mark.slow
def test_a_compiled_run_has_the_numbers_of_an_uncompiled_one(train: Callable[..., Any], capsys: Any) -> None:
    assert_compiled_is_uncompiled(TWO_LAYER, train, capsys)


@pytest.mark.long
@pytest.mark.parametrize("case", CASES)
def test_so_has_every_other_kind(case: str, train: Callable[..., Any], capsys: Any) -> None:
    assert_compiled_is_uncompiled(CASES[case], train, capsys)


@pytest.mark.long
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_in_fewer_digits_it_learns_the_same(precision: str, train: Callable[..., Any], capsys: Any) -> None:
    words = (*BASE, *CASES["lenet"], "dtype=float32", f"precision={precision}")
    plain, compiled = train(*words), train(*words, "compile=true")
    assert "it took" in capsys.readouterr().out
    assert compiled["train/loss"] == pytest.approx(plain["train/loss"], rel=1e-4 if precision == "float32" else 0.02)


@pytest.mark.long
@pytest.mark.parametrize("case", ["lenet", "batch norm and dropout"])
def test_a_compiled_run_goes_on_exactly(case: str, train: Callable[..., Any], capsys: Any) -> None:
    words = (*BASE, *CASES[case], "dtype=float32", "compile=true", "checkpoint.every=1", "checkpoint.keep=100")
    unbroken = train(*words, "name=unbroken")
    train(*words, "name=broken")
    for path in Path("runs/broken/checkpoints").iterdir():
        if path.name > "step_00000005.pt":
            path.unlink()
    Path("runs/broken/result.json").unlink()
    resumed = train(*words, "name=broken")
    assert capsys.readouterr().out.count("it took") == 3
    assert resumed["train/loss"] == unbroken["train/loss"]
    broken, whole = state("broken"), state("unbroken")
    for key in ("model", "optimizer"):
        assert_close(broken[key], whole[key], rtol=0, atol=0)
    assert torch.equal(broken["random"][0]["cpu"], whole["random"][0]["cpu"])
    assert records("broken") == records("unbroken")


@pytest.mark.slow
def test_what_cannot_be_compiled_runs_uncompiled(train: Callable[..., Any], capsys: Any) -> None:
    words = (*BASE, *TWO_LAYER, "model.gradient=numpy")
    train(*words, "name=plain")
    capsys.readouterr()
    train(*words, "compile=true", "name=compiled")
    said = capsys.readouterr().out
    assert len(re.findall(r"^warning: compile=true: .*; the run goes on uncompiled$", said, re.MULTILINE)) == 1
    assert records("plain") == records("compiled")
    assert_close(state("compiled")["model"], state("plain")["model"], rtol=0, atol=0)


@pytest.mark.long
def test_without_a_compiler_for_c_plus_plus_a_run_is_uncompiled(
    tmp_path: Path, command: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    env = {"CXX": "/nonexistent", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    done = command(*TWO_LAYER, "max_steps=2", "compile=true", env=env)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert re.findall(r"^warning: compile=true: .*C\+\+.*; the run goes on uncompiled$", done.stdout, re.MULTILINE)


class Branches(nn.Module):
    """Goes another way for other numbers, which no one program does."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layer(inputs) if inputs.sum() > 0 else self.layer(-inputs)


class Double(nn.Linear):
    """Is something else when it is compiled."""

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs) * (2 if torch.compiler.is_compiling() else 1)


class Slows(nn.Linear):
    """Is another program from its fifth call on."""

    num_calls = 0

    def forward(self, inputs: Tensor) -> Tensor:
        self.num_calls += 1
        return super().forward(inputs) * (0.5 if self.num_calls >= 5 else 1)


def compiled_step(model: nn.Module, notes: list[str] | None = None) -> tuple[CompiledPart, Store, Batch]:
    model.double()
    loss_fn, store = LossFunction(nn.CrossEntropyLoss(), model, meaning_of(3), NAMES), Store(model)
    batch = Batch(torch.randn(4, 6, dtype=torch.float64), torch.arange(4) % 3)
    scaler = GradScaler("cpu", enabled=False)
    note = [] if notes is None else notes
    part = CompiledPart(otherwise, model, loss_fn, store, scaler, nullcontext, batch, 4, False, note.append)
    return part, store, batch


def otherwise(part: Batch, of: Whole) -> Losses:
    """Stands for the ordinary way."""
    return Losses(torch.zeros(()), {"otherwise": torch.zeros(())})


def is_compiled(losses: Losses) -> bool:
    return not losses.terms


def test_a_refusal_leaves_nothing_behind() -> None:
    model = Branches().double().eval()
    model.layer[2].train()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    notes: list[str] = []
    with pytest.raises(NotCompiled, match="branching"):
        compiled_step(model, notes)
    assert_close(dict(model.named_buffers()), before, rtol=0, atol=0)
    assert [module.training for module in model.layer] == [False, False, True]
    assert not model.layer[0].weight.grad.any()
    assert notes == []


@pytest.mark.long
def test_what_compiles_to_something_else_is_refused() -> None:
    with pytest.raises(NotCompiled, match="off by"):
        compiled_step(Double(6, 3))


@pytest.mark.long
def test_a_model_that_changes_is_no_longer_compiled_from_then_on() -> None:
    notes: list[str] = []
    step, _, batch = compiled_step(Slows(6, 3), notes)
    results = [step(batch, Whole(4)) for _ in range(6)]
    assert not is_compiled(results[-1])
    assert [note.partition(": the")[0] for note in notes] == ["warning: compile=true"]


@pytest.mark.long
def test_gradients_are_added_and_other_samples_are_left_to_the_model() -> None:
    model = nn.Linear(6, 3)
    step, store, batch = compiled_step(model)
    assert not store.grads.any()
    random = torch.get_rng_state()
    assert is_compiled(step(batch, Whole(4)))
    assert torch.equal(torch.get_rng_state(), random)
    once = store.grads.clone()
    assert is_compiled(step(batch, Whole(4)))
    assert_close(store.grads, 2 * once)
    assert not is_compiled(step(batch, Whole(8)))
    assert not is_compiled(step(Batch(batch.inputs[:3], batch.targets[:3]), Whole(4)))
    handle = model.register_forward_pre_hook(lambda *_: None)
    assert not is_compiled(step(batch, Whole(4)))
    handle.remove()
    assert is_compiled(step(batch, Whole(4)))


class TestBatchInnermost:
    """The form of LeNet that is compiled is the ordinary one."""

    @pytest.mark.parametrize("kernel_size", [1, 2, 3, 4, 5])
    @pytest.mark.parametrize(("height", "width"), [(12, 12), (11, 14), (13, 9)])
    @pytest.mark.parametrize("has_ties", [False, True])
    def test_is_convolution_pool_relu(self, kernel_size: int, height: int, width: int, has_ties: bool) -> None:
        def numbers(*shape: int) -> Tensor:
            return torch.randint(-1, 2, shape).double() if has_ties else torch.randn(shape, dtype=torch.float64)

        maps, weight, bias = numbers(3, 2, height, width), numbers(4, 2, kernel_size, kernel_size), numbers(4)
        leaves = [tensor.requires_grad_() for tensor in (maps, weight, bias)]
        plain = torch.relu(max_pool2d(conv2d(maps, weight, bias), 2))
        innermost = convolved_pooled_relu(maps.permute(1, 2, 3, 0).contiguous(), weight, bias).permute(3, 0, 1, 2)
        assert_close(innermost, plain, rtol=1e-12, atol=1e-12)
        seed = torch.randn_like(plain)
        expected = torch.autograd.grad(plain, leaves, seed)
        for grad, wanted in zip(torch.autograd.grad(innermost, leaves, seed), expected, strict=True):
            assert_close(grad, wanted, rtol=1e-12, atol=1e-12)

    def test_a_nan_is_not_lost(self) -> None:
        maps = torch.zeros(1, 4, 4, 2)
        maps[0, 1, 2, 1] = torch.nan
        pooled = convolved_pooled_relu(maps, torch.ones(1, 1, 1, 1), torch.zeros(1))
        assert pooled.isnan().nonzero().tolist() == [[0, 0, 1, 1]]

    @pytest.mark.parametrize("side", [2, 3, 5, 6])
    def test_windows_have_the_gradient_of_differences(self, side: int) -> None:
        maps = torch.randn(2, 9, 8, 2, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda maps: Windows.apply(maps, side), maps)

    def test_lenet_has_two_equal_forms(self) -> None:
        model = LeNet(num_classes=10, in_channels=3, kernel_size=4, image_size=27).double()
        inputs = torch.randn(5, 3, 27, 27, dtype=torch.float64)
        assert_close(LeNetInWindows(model)(inputs), model(inputs), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [1, 512, 700])
def test_the_first_samples_are_those_of_the_split(size: int) -> None:
    inputs, targets = torch.randn(1100, 2), torch.arange(1100)
    batch = first_samples(ResidentBatches(inputs, targets), size)
    assert torch.equal(batch.inputs, inputs[:size])
    assert torch.equal(batch.targets, targets[:size])
