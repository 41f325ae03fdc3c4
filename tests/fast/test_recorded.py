"""A step as calls of torch's operations: the bits of the ordinary way, and left alone where it can't be known."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from meanings import meaning_of
from plain import parts_of, request_of
from trainer.config.settings import settings_of
from trainer.data.batches import Batch
from trainer.disk import checkpoint
from trainer.distributed import ALONE
from trainer.errors import UserError
from trainer.fast import choose
from trainer.fast.recorded import NotRecorded, RecordedStep, distance, is_same, out_overload
from trainer.loop import ForwardBackward
from trainer.losses.criteria import SumSquaredError
from trainer.losses.function import Losses, LossFunction
from trainer.models.sequential import Sequential
from trainer.models.two_layer import TwoLayer
from trainer.run.environment import refuse_graphs
from trainer.run.training import Training
from trainer.signals import Signals
from trainer.state import Store

Train = Callable[..., dict[str, Any]]
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
NAMES = {"loss": "chosen", "model": "net", "data": "numbers"}
# 95 samples are trained on: three steps of 40, 40 and 15 an epoch.
BASE = ("monitor=scalars", "monitor.every=1", "data.limit=119", "batch_size=40", "max_steps=8")
MOMENTUM = ("optimizer=sgd", "optimizer.momentum=0.9", "optimizer.lr=0.05")
TWO_LAYER = ("model=two_layer", "model.hidden_features=7", *MOMENTUM)
LAYERS = (
    "model.layers=[{_target_:torch.nn.Flatten},{_target_:torch.nn.Linear,in_features:64,out_features:20},"
    "{_target_:torch.nn.BatchNorm1d,num_features:20},{_target_:torch.nn.GELU},{_target_:torch.nn.Dropout,p:0.5},"
    "{_target_:torch.nn.Linear,in_features:20,out_features:10}]"
)
CONVOLUTIONS = (
    "model.layers=[{_target_:torch.nn.Conv2d,in_channels:1,out_channels:4,kernel_size:3},"
    "{_target_:torch.nn.BatchNorm2d,num_features:4},{_target_:torch.nn.ReLU,inplace:true},"
    "{_target_:torch.nn.MaxPool2d,kernel_size:2},{_target_:torch.nn.Flatten},"
    "{_target_:torch.nn.Linear,in_features:36,out_features:10},{_target_:torch.nn.LogSoftmax,dim:1}]"
)
PENALTY = "+loss.terms.l2={weight:0.01,criterion:{_target_:trainer.losses.criteria.L2Penalty}}"
CASES = {
    "autograd": TWO_LAYER,
    "tensors": (*TWO_LAYER, "model.gradient=tensors"),
    "custom_function": (*TWO_LAYER, "model.gradient=custom_function"),
    "float64": (*TWO_LAYER, "dtype=float64"),
    "bfloat16": (*TWO_LAYER, "precision=bfloat16"),
    "large": (*TWO_LAYER, "model.hidden_features=1000", "batch_size=full"),
    "adam": ("model=two_layer", "optimizer=adam"),
    "torch's dropout and softmax": ("model=sequential", "loss=nll", *MOMENTUM),
    "batch norm and dropout": ("model=sequential", LAYERS, "loss=cross_entropy", *MOMENTUM),
    "convolutions": ("model=sequential", CONVOLUTIONS, "loss=nll", *MOMENTUM),
    "terms and penalty": (*TWO_LAYER, "loss=composite", PENALTY),
    "clipping": (*TWO_LAYER, "gradient.clip_norm=0.1"),
    "looked at": (*TWO_LAYER, "on_nan=skip"),
    "watched": (*TWO_LAYER, "monitor.activations=true", "monitor.every=3"),
    **{loss: (*TWO_LAYER, f"loss={loss}") for loss in ("mse", "sum_squared_error", "bce_with_logits", "huber", "l1")},
}


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each run of this process was recorded."""
    found: list[bool] = []
    recorded = choose.recorded

    def spied(*arguments: Any) -> tuple[ForwardBackward, str]:
        step, why = recorded(*arguments)
        found.append(isinstance(step, RecordedStep))
        return step, why

    monkeypatch.setattr(choose, "recorded", spied)
    return found


def outcome(name: str) -> list[Any]:
    """What a run wrote, without times, and its last state."""
    lines = Path("runs", name, "metrics.jsonl").read_text().splitlines()
    numbers = [{tag: x for tag, x in json.loads(line).items() if not tag.startswith("time")} for line in lines]
    state = checkpoint.read(Path("runs", name, "checkpoints", "step_00000008.pt"))
    return [numbers, *(state[key] for key in ("model", "optimizer", "random"))]


def is_equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(is_equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(is_equal, a, b))
    return bool(a == b)


@pytest.mark.parametrize("case", CASES)
def test_a_recorded_run_has_the_bits_of_the_ordinary_one(
    case: str, train: Train, recorded: list[bool], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    train(*BASE, *CASES[case], "name=recorded")
    assert recorded == [True]
    assert capfd.readouterr().err == ""  # torch's warnings
    monkeypatch.setattr(choose, "recorded", lambda work, ordinary, *_: (ordinary, "autograd"))
    train(*BASE, *CASES[case], "name=ordinary")
    assert is_equal(outcome("recorded"), outcome("ordinary"))


def test_a_recorded_run_goes_on_exactly(train: Train, recorded: list[bool]) -> None:
    words = (*BASE, *CASES["batch norm and dropout"], "checkpoint.every=1", "checkpoint.keep=100")
    train(*words, "name=whole")
    train(*words, "name=broken")
    for path in Path("runs/broken/checkpoints").iterdir():
        if path.name > "step_00000005.pt":
            path.unlink()
    Path("runs/broken/result.json").unlink()
    train(*words, "name=broken")
    assert recorded == [True] * 3
    assert is_equal(outcome("broken"), outcome("whole"))


@pytest.mark.parametrize(
    "words",
    [
        ("model=two_layer", "model.gradient=numpy"),  # its results come from nowhere that torch knows
        ("model=two_layer", "gradient.accumulate=2"),
        ("model=two_layer", "model.hidden_features=20000"),  # large
        ("model=lenet",),  # in another layout than plain memory
    ],
)
def test_else_it_goes_the_ordinary_way(words: tuple[str, ...], train: Train, recorded: list[bool]) -> None:
    train(*BASE, *words, "max_steps=2")
    assert recorded == [False]


def test_on_a_gpu_a_step_is_recorded_only_where_that_is_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Asked as for a GPU, with tensors that are on the CPU."""
    monkeypatch.chdir(tmp_path)

    def chosen(is_graphed: bool, *words: str) -> ForwardBackward:
        work = Training(parts_of(*BASE, *TWO_LAYER, *words), tmp_path, Signals()).work()
        work = replace(work, device=torch.device("cuda"))
        return choose.choose(work, None, True, False, is_graphed, True, print).forward_backward

    assert not isinstance(chosen(False), RecordedStep)
    assert isinstance(chosen(True), RecordedStep)
    assert capsys.readouterr().out == ""
    chosen(True, "model.gradient=numpy")
    assert capsys.readouterr().out.startswith("warning: cuda_graphs=true: no step is a CUDA graph; autograd (")


@pytest.mark.parametrize(
    ("device", "size", "words", "why"),
    [
        ("mps", 1, (), "device=mps has no CUDA graphs"),
        ("cuda", 2, (), "several processes"),
        ("cuda", 1, ("fast=false",), "fast=false with compile=false"),
    ],
)
def test_a_cuda_graph_that_cannot_be_is_refused(
    device: str, size: int, words: tuple[str, ...], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(request_of("cuda_graphs=true", *words))
    with pytest.raises(UserError, match=rf"^cuda_graphs=true: {why}.*\. Type cuda_graphs=false\.$"):
        refuse_graphs(settings, torch.device(device), replace(ALONE, size=size))


def a_batch(num_samples: int = 4) -> Batch:
    return Batch(torch.randn(num_samples, 6), torch.randn(num_samples, 3))


def otherwise(batch: Batch, of: int) -> Losses:
    """Stands for the ordinary way."""
    return Losses(torch.zeros(()), {"otherwise": torch.zeros(())})


def is_recorded(losses: Losses) -> bool:
    return not losses.terms


def a_step(model: nn.Module, example: Batch) -> RecordedStep:
    return RecordedStep(
        otherwise, model, LossFunction(nn.MSELoss(), model, meaning_of(None), NAMES), Store(model), [example]
    )


VECTORS = (
    *(nn.ReLU(), nn.ReLU(inplace=True), nn.GELU(), nn.SiLU(inplace=True), nn.ELU(), nn.LeakyReLU(), nn.PReLU()),
    *(nn.RReLU(), nn.Sigmoid(), nn.Tanh(), nn.Softplus(), nn.Hardswish(), nn.Mish(), nn.Softmax(1), nn.LogSoftmax(1)),
    *(nn.Dropout(0.5), nn.AlphaDropout(0.5), nn.LayerNorm(12), nn.BatchNorm1d(12), nn.GroupNorm(3, 12), nn.Hardtanh()),
    *(nn.SELU(), nn.CELU(), nn.Threshold(0.1, 0.0), nn.Softsign(), nn.Hardshrink(), nn.GLU(), nn.Unflatten(1, (3, 4))),
)
MAPS = (
    nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2)),
    nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.AvgPool2d(2)),
    nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), nn.AdaptiveAvgPool2d(2)),
    nn.Sequential(nn.ConvTranspose2d(3, 4, 2), nn.InstanceNorm2d(4, affine=True), nn.AdaptiveMaxPool2d(3)),
    nn.Sequential(nn.Conv2d(3, 6, 3, groups=3), nn.Upsample(scale_factor=2), nn.Dropout2d(0.3)),
    nn.Sequential(nn.Conv2d(3, 4, 3), nn.LocalResponseNorm(2)),
)
TIED = nn.Linear(12, 12)
CRITERIA = (
    *(nn.MSELoss(), nn.MSELoss(reduction="sum"), nn.L1Loss(), nn.SmoothL1Loss(), nn.HuberLoss(), nn.PoissonNLLLoss()),
    *(nn.BCEWithLogitsLoss(), nn.SoftMarginLoss(), nn.KLDivLoss(reduction="batchmean"), SumSquaredError()),
)


@pytest.mark.parametrize(
    ("inputs", "layers"),
    [
        *(((12,), layer) for layer in VECTORS),
        *(((3, 16, 16), layers) for layers in MAPS),
        ((6, 12), nn.TransformerEncoderLayer(12, 2, 24, batch_first=True)),
        ((12,), nn.Sequential(TIED, nn.Tanh(), TIED)),
        ((12,), nn.utils.parametrizations.weight_norm(nn.Linear(12, 12))),
        ((12,), nn.utils.parametrizations.spectral_norm(nn.Linear(12, 12))),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, nn.Module) else str(x),
)
def test_torchs_layers_can_be_recorded(
    inputs: tuple[int, ...], layers: nn.Module, capfd: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    first = nn.Linear(12, 12) if len(inputs) == 1 else nn.Identity()
    size = nn.Sequential(first, layers)(torch.randn(2, *inputs)).flatten(1).shape[1]
    model = nn.Sequential(first, layers, nn.Flatten(), nn.Linear(size, 3))
    a_step(model, Batch(torch.randn(16, *inputs), torch.randn(16, 3)))  # which compares
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("criterion", CRITERIA, ids=lambda criterion: type(criterion).__name__)
def test_torchs_losses_can_be_recorded(criterion: nn.Module, capfd: pytest.CaptureFixture[str]) -> None:
    model = nn.Linear(6, 3)
    loss_fn = LossFunction(criterion, model, meaning_of(None), NAMES)
    RecordedStep(otherwise, model, loss_fn, Store(model), [Batch(torch.randn(16, 6), torch.rand(16, 3))])
    assert capfd.readouterr().err == ""


class Counting(nn.Linear):
    """The user's: it does something else every time."""

    calls = 0

    def forward(self, inputs: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(inputs) * self.calls


def test_who_may_do_more_than_torchs_operations_is_not_recorded() -> None:
    with pytest.raises(NotRecorded, match="Counting is not ours"):
        a_step(nn.Sequential(Counting(6, 3)), a_batch())


class Reading(nn.ReLU):
    """Stands for a module of torch's that decides by a number."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs * 2 if inputs.sum().item() > 0 else inputs


class Making(nn.ReLU):
    """Stands for a module of torch's that makes a tensor in Python."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs * torch.from_numpy(inputs.detach().numpy().copy())


def test_what_torch_refuses_is_not_recorded() -> None:
    with pytest.raises(NotRecorded, match="RuntimeError"):
        a_step(nn.Sequential(nn.Linear(7, 3)), a_batch())


def test_the_same_bits() -> None:
    nan, numbers = torch.tensor([1.0, torch.nan]), torch.tensor([1.0, 2.0])
    assert is_same(nan, nan.clone())
    assert is_same(torch.tensor([True]), torch.tensor([True]))
    assert not is_same(nan, numbers)
    assert not is_same(numbers, numbers * (1 + 2**-23))
    zeros = torch.zeros(3)
    assert [distance(a, b) for a, b in ((zeros, zeros), (zeros, zeros + 1))] == [0.0, math.inf]
    assert distance(zeros + 2, zeros + 1) == pytest.approx(0.5)


@pytest.mark.parametrize("kind", [Reading, Making])
def test_what_depends_on_more_than_samples_and_parameters_is_not_recorded(
    kind: type[nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kind, "__module__", "torch.nn.modules.activation")
    model = nn.Sequential(nn.Linear(6, 3), kind())
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(NotRecorded, match=r"gives no plain tensor|comes from elsewhere"):
        a_step(model, a_batch())
    assert all(map(torch.equal, before, model.parameters()))


def test_recording_leaves_nothing_but_zero_gradients() -> None:
    model = nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3), nn.Dropout(0.5)).eval()
    buffers, example = [b.clone() for b in model.buffers()], a_batch()
    random = torch.get_rng_state()
    a_step(model, example)
    assert torch.equal(random, torch.get_rng_state())
    assert not model.training
    assert all(map(torch.equal, buffers, model.buffers()))
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_another_number_of_samples_goes_the_ordinary_way() -> None:
    step = a_step(nn.Sequential(nn.Linear(6, 3)), a_batch(4))
    assert not is_recorded(step(a_batch(5), 5))
    assert is_recorded(step(a_batch(4), 4))


def test_a_parameter_without_a_part_in_the_loss_has_a_gradient_of_zero() -> None:
    model = TwoLayer(in_features=6, hidden_features=5, out_features=3)
    model.register_parameter("idle", nn.Parameter(torch.ones(2)))
    step = a_step(model, a_batch())
    for p in model.parameters():
        assert p.grad is not None
        p.grad.fill_(7.0)
    assert is_recorded(step(a_batch(), 4))
    assert model.idle.grad.tolist() == [0.0, 0.0]  # type: ignore[union-attr]
    assert model.w1.grad is not None
    assert not (model.w1.grad == 7).any()


@pytest.mark.parametrize("device", DEVICES)
def test_losses_and_gradients_are_those_of_each_batch(device: str) -> None:
    """On a GPU, where the calls are a CUDA graph, within rounding."""
    torch.manual_seed(0)
    model = Sequential([nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3)]).to(device)
    loss_fn, store = LossFunction(nn.MSELoss(), model, meaning_of(None), NAMES), Store(model)
    close = partial(torch.testing.assert_close, **({"rtol": 0, "atol": 0} if device == "cpu" else {}))

    def batch() -> Batch:
        return Batch(*(tensor.to(device) for tensor in a_batch()))

    step = RecordedStep(otherwise, model, loss_fn, store, [batch()])
    kept = []
    for _ in range(3):
        samples = batch()
        losses = step(samples, 4)
        assert is_recorded(losses)
        gradients = store.grads.clone()
        store.zero_grad()
        expected = loss_fn(model(samples.inputs), samples.targets).total
        expected.backward()
        close(gradients, store.grads)
        kept.append((losses.total, expected.detach()))
    for found, expected in kept:  # no later step has written over an earlier one's
        close(found, expected)
    assert len({found.item() for found, _ in kept}) == 3


def test_the_form_that_writes_to_given_memory() -> None:
    aten = torch.ops.aten
    assert out_overload(aten.mm.default) is aten.mm.out
    assert out_overload(aten.sum.dim_IntList) is aten.sum.IntList_out
    assert out_overload(aten.threshold_backward.default) is aten.threshold_backward.grad_input
    assert out_overload(aten.zeros_like.default) is aten.zeros_like.out
    assert out_overload(aten.mse_loss.default) is None
