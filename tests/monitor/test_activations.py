"""What the layers give: the same numbers reached by hand, and a training that does not notice being watched."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from trainer.models.lenet import LeNet
from trainer.models.resnet import resnet18
from trainer.models.two_layer import TwoLayer
from trainer.monitor.activations import SATURATED_PROBABILITY, SATURATED_TANH, Activations

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def measured(model: nn.Module, inputs: Tensor) -> dict[str, float]:
    activations = Activations(model)
    activations.watch()
    model(inputs)
    return activations.numbers()


class Calls(nn.Module):
    """A layer, and a function that is no module behind it."""

    def __init__(self, function: Callable[[Tensor], Tensor], layer: nn.Module | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = layer or nn.Linear(6, 40)
        self.function = function

    def forward(self, inputs: Tensor) -> Tensor:
        return self.function(self.layer(inputs))


@pytest.mark.parametrize("device", DEVICES)
def test_lenet_by_hand(device: str) -> None:
    torch.manual_seed(0)
    model = LeNet(num_classes=10).to(device)
    with torch.no_grad():
        model.fc1.bias[:50] = -100.0
        model.conv2.bias[3] = -100.0
    inputs = torch.randn(33, 1, 32, 32, device=device)
    numbers = measured(model, inputs)

    given: dict[str, Tensor] = {}
    conv1 = given["conv1"] = model.conv1(inputs)
    maps1 = F.relu(F.max_pool2d(conv1, 2))
    conv2 = given["conv2"] = model.conv2(maps1)
    maps2 = F.relu(F.max_pool2d(conv2, 2))
    given["fc1"] = model.fc1(maps2.flatten(1))
    given["fc2"] = model.fc2(F.relu(given["fc1"]))
    given["fc3"] = model.fc3(F.relu(given["fc2"]))
    expected = {}
    for name, x in given.items():
        std, mean = torch.std_mean(x.double(), correction=0)
        expected |= {f"activation_mean/{name}": mean.item(), f"activation_std/{name}": std.item()}
    shares = {"conv1": maps1, "conv2": maps2, "fc1": F.relu(given["fc1"]), "fc2": F.relu(given["fc2"])}
    for name, x in shares.items():
        is_dead = (x.movedim(1, 0).flatten(1) == 0).all(1)
        expected[f"dead_units/{name}"] = is_dead.double().mean().item()
    assert numbers == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert numbers["dead_units/fc1"] >= 50 / 120 - 1e-6
    assert numbers["dead_units/conv2"] == pytest.approx(1 / 16)


RELUS: dict[str, Callable[[Tensor], Tensor]] = {
    "functional": F.relu,
    "torch": torch.relu,
    "in place": lambda x: x.relu_(),
    "module": nn.ReLU(),
    "module in place": nn.ReLU(inplace=True),
    "clamp": lambda x: x.clamp(min=0),
    "clamp_min": lambda x: x.clamp_min(0),
    "clamp_min in place": lambda x: x.clamp_min_(0),
    "relu6": nn.ReLU6(),
    "threshold": nn.Threshold(0, 0),
}


@pytest.mark.parametrize("form", RELUS)
def test_every_form_of_a_relu(form: str) -> None:
    model = Calls(RELUS[form])
    with torch.no_grad():
        model.layer.bias[:10] = -100.0
    inputs = torch.randn(64, 6)
    alive = (model.layer(inputs) > 0).any(0).double().mean().item()
    assert measured(model, inputs)["dead_units/layer"] == pytest.approx(1 - alive)
    assert 1 - alive >= 0.25


@pytest.mark.parametrize("function", [nn.LeakyReLU(), nn.GELU(), torch.tanh, lambda x: x.clamp(min=-1), nn.Hardtanh()])
def test_no_other_function_has_dead_units(function: Callable[[Tensor], Tensor]) -> None:
    assert not [tag for tag in measured(Calls(function), torch.randn(8, 6)) if tag.startswith("dead_units")]


@pytest.mark.parametrize(
    ("layer", "shape", "units"),
    [
        (nn.Linear(6, 40), (9, 7, 6), 2),
        (nn.LayerNorm(6), (9, 7, 6), 2),
        (nn.Conv1d(6, 8, 1), (9, 6, 7), 1),
        (nn.Conv2d(3, 8, 3), (9, 3, 7, 5), 1),
        (nn.BatchNorm2d(3), (9, 3, 7, 5), 1),
    ],
)
def test_a_unit_is_a_feature_or_a_channel(layer: nn.Module, shape: tuple[int, ...], units: int) -> None:
    assert isinstance(layer.bias, Tensor)
    with torch.no_grad():
        layer.bias[0] = -1000.0
    numbers = measured(Calls(F.relu, layer), torch.randn(shape))
    num_units = layer.bias.numel()
    assert numbers["dead_units/layer"] == pytest.approx(1 / num_units)


def test_saturated_units_by_hand() -> None:
    torch.manual_seed(0)
    inputs = torch.randn(200, 6) * 4
    for function, limit in ((torch.tanh, SATURATED_TANH), (nn.Tanh(), SATURATED_TANH)):
        model = Calls(function)
        share = (model(inputs).abs() > limit).double().mean().item()
        assert 0.1 < share < 0.9
        assert measured(model, inputs)["saturated_units/layer"] == pytest.approx(share)
    # sigmoid(2x) = (1 + tanh(x)) / 2: the same units
    by_sigmoid = measured(Calls(lambda x: torch.sigmoid(2 * x)), inputs)["saturated_units/layer"]
    assert by_sigmoid == pytest.approx(measured(Calls(torch.tanh), inputs)["saturated_units/layer"], abs=1e-3)
    model = Calls(lambda x: (10 * x).softmax(1))
    share = (model(inputs).amax(1) > SATURATED_PROBABILITY).double().mean().item()
    assert 0.1 < share < 0.9
    assert measured(model, inputs)["saturated_units/layer"] == pytest.approx(share)
    assert measured(Calls(lambda x: (10 * x).log_softmax(1)), inputs)["saturated_units/layer"] == pytest.approx(share)


def test_who_multiplies_by_its_parameters_itself_is_seen_too() -> None:
    inputs = torch.randn(20, 30)
    seen = {}
    for gradient in ("autograd", "tensors", "custom_function", "numpy"):
        torch.manual_seed(0)
        model = TwoLayer(in_features=30, hidden_features=50, out_features=4, gradient=gradient)
        with torch.no_grad():
            model.b1[:20] = -100.0
        seen[gradient] = measured(model, inputs)
    assert seen["autograd"]["dead_units/relu"] >= 0.4
    # The other two are the same to rounding; numpy does its work outside of torch.
    assert seen["tensors"] == pytest.approx(seen["autograd"], rel=1e-4)
    assert seen["custom_function"] == pytest.approx(seen["autograd"], rel=1e-4)
    assert seen["numpy"].keys() == {"activation_mean/model", "activation_std/model"}


def test_names_do_not_collide() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(5, 5)

        def forward(self, inputs: Tensor) -> Tensor:
            return torch.relu(self.layer(torch.relu(self.layer(torch.relu(inputs)) - 100)))

    numbers = measured(Twice(), torch.randn(9, 5))
    assert numbers.keys() == {
        "activation_mean/layer",
        "activation_std/layer",
        "dead_units/relu",
        "dead_units/layer",
        "dead_units/layer_2",
    }
    assert numbers["dead_units/layer"] == 1.0

    blocks = measured(resnet18(num_classes=4), torch.randn(4, 3, 32, 32))
    assert sum(tag.startswith("dead_units/") for tag in blocks) == 17  # a ReLU behind every convolution of the paper


def test_half_precision_is_read_in_single() -> None:
    torch.manual_seed(0)
    model, inputs = LeNet(num_classes=10), torch.randn(16, 1, 32, 32)
    with torch.autocast("cpu", torch.bfloat16):
        half = measured(model, inputs)
    assert half == pytest.approx(measured(model, inputs), abs=0.03)


@pytest.mark.parametrize("fails", [False, True])
def test_one_pass_and_nothing_is_left(fails: bool) -> None:
    def function(x: Tensor) -> Tensor:
        if fails:
            raise RuntimeError("on purpose")
        return F.relu(x)

    model, inputs = Calls(function), torch.randn(3, 6)
    activations = Activations(model)
    assert activations.numbers() == {}
    activations.watch()
    if fails:
        with pytest.raises(RuntimeError, match="on purpose"):
            model(inputs)
    else:
        model(inputs)
        first = activations._pass
        assert first is not None
        tags = list(first.measured)
        model(2 * inputs)
        assert list(first.measured) == tags
        assert activations.numbers().keys() == set(tags)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert _get_current_dispatch_mode_stack() == []
    assert activations.numbers() == {} or fails


def test_a_compiled_model_is_watched_uncompiled_and_goes_on_compiled() -> None:
    passes: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            passes.append(1)
            return graph.forward(*args)

        return run

    model, inputs = Calls(F.relu), torch.randn(5, 6)
    expected = measured(model, inputs)
    model.compile(backend=backend)
    model(inputs)
    assert sum(passes) == 1
    assert measured(model, inputs) == pytest.approx(expected)
    assert sum(passes) == 1
    model(inputs)
    assert sum(passes) == 2


def test_a_training_does_not_notice(train: Callable[..., dict[str, Any]]) -> None:
    """With dropout and batch norms: the same bits as unwatched; and the numbers come at the logged steps alone."""
    layers = (
        "model.layers=[{_target_:torch.nn.Flatten},{_target_:torch.nn.Linear,in_features:64,out_features:20},"
        "{_target_:torch.nn.BatchNorm1d,num_features:20},{_target_:torch.nn.ReLU},{_target_:torch.nn.Dropout,p:0.5},"
        "{_target_:torch.nn.Linear,in_features:20,out_features:10}]"
    )
    words = ("model=sequential", "loss=cross_entropy", layers, "max_steps=25", "monitor.every=10", "monitor=scalars")
    plain = train(*words, "name=plain")
    watched = train(*words, "name=watched", "monitor.activations=true")
    losses = ("train/loss", "val/loss", "test/loss", "test/accuracy")
    assert [plain[tag] for tag in losses] == [watched[tag] for tag in losses]

    read = EventAccumulator("runs/watched", size_guidance={"scalars": 0}).Reload()
    steps = [event.step for event in read.Scalars("watch_dead_units/2")]  # behind the batch norm, whose units they are
    assert steps == [event.step for event in read.Scalars("watch_grad_norm/1.weight")] == [1, 10, 20, 25]
    assert {tag for tag in read.Tags()["scalars"] if tag.startswith("watch_activation_std/")} == {
        f"watch_activation_std/{i}" for i in (1, 2, 3, 5)
    }
    assert not any("activation" in line for line in Path("runs/watched/metrics.jsonl").read_text().splitlines())
    assert json.loads(Path("runs/watched/metrics.jsonl").read_text().splitlines()[0])["step"] == 1


def test_a_batch_in_parts_is_seen_by_its_first(train: Callable[..., dict[str, Any]]) -> None:
    words = ("max_steps=2", "monitor.every=1", "monitor=scalars", "monitor.activations=true", "batch_size=20")
    train(*words, "gradient.accumulate=2", "name=parts")
    read = EventAccumulator("runs/parts", size_guidance={"scalars": 0}).Reload()
    assert [event.step for event in read.Scalars("watch_dead_units/fc1")] == [1, 2]
