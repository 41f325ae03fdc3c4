"""Quicker ways through a CPU: the same numbers; whoever looks gets plain tensors."""

from collections import Counter

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from trainer.fast import twins
from trainer.fast.twins import ConvOfFewPlaces, twin, without_padding
from trainer.models.finetune import Finetune
from trainer.models.lenet import LeNet
from trainer.models.recompute import recompute
from trainer.models.resnet import convolution, resnet18
from trainer.models.two_layer import TwoLayer


def loss_and_gradients(network: nn.Module, model: nn.Module, inputs: Tensor) -> list[Tensor]:
    """Of the model's parameters, by way of a network that has them."""
    loss = cross_entropy(network(inputs), torch.arange(len(inputs)) % 10)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [loss.detach(), *torch.autograd.grad(loss, parameters)]


@pytest.mark.parametrize("num_samples", [1, 2, 7, 64])
@pytest.mark.parametrize(("kernel_size", "in_channels", "image_size"), [(5, 1, 32), (3, 1, 28), (3, 3, 40)])
def test_of_lenet(kernel_size: int, in_channels: int, image_size: int, num_samples: int) -> None:
    model = LeNet(num_classes=10, kernel_size=kernel_size, in_channels=in_channels, image_size=image_size)
    inputs = torch.randn(num_samples, in_channels, image_size, image_size)
    quick = twin(model)
    assert quick is not model
    found = [loss_and_gradients(network, model, inputs) for network in (model, quick)]
    assert_close(*found, rtol=1e-5, atol=1e-7)


RESNETS = [resnet18, lambda num_classes: Finetune(resnet18(), num_classes, ["layer4"])]


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (17, 33), (32, 32), (33, 20), (40, 40)])
@pytest.mark.parametrize("has_wide_vectors", [True, False])
@pytest.mark.parametrize("make", RESNETS)
def test_of_resnet(make, has_wide_vectors: bool, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(twins, "has_wide_vectors", lambda: has_wide_vectors)
    torch.manual_seed(0)
    model = make(num_classes=10).eval()
    quick = twin(model)
    assert quick is not model
    assert list(quick.state_dict()) == list(model.state_dict())
    inputs = torch.randn(4, 3, *size)
    found = [loss_and_gradients(network, model, inputs) for network in (model, quick)]
    assert_close(*found, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("kernel_size", "stride"), [(1, 1), (1, 2), (3, 1), (3, 2), (7, 2), (5, 3)])
@pytest.mark.parametrize("size", [(1, 1), (2, 2), (1, 2), (3, 2), (3, 3), (1, 6), (5, 5)])
@pytest.mark.parametrize("has_wide_vectors", [True, False])
def test_a_convolution_of_few_places_gives_the_same(
    has_wide_vectors: bool, size: tuple[int, int], kernel_size: int, stride: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(twins, "has_wide_vectors", lambda: has_wide_vectors)
    plain = convolution(4, 128, kernel_size, stride)  # of four places or fewer
    quick = without_padding(plain)
    assert type(quick) is ConvOfFewPlaces
    inputs = torch.randn(5, 4, *size, requires_grad=True)
    found = [layer(inputs) for layer in (plain, quick)]
    assert_close(*found, rtol=1e-5, atol=1e-6)
    weights = torch.randn_like(found[0])
    gradients = [torch.autograd.grad((maps * weights).sum(), [inputs, plain.weight]) for maps in found]
    assert_close(*gradients, rtol=1e-4, atol=1e-5)


def test_whoever_looks_at_a_resnets_convolution_sees_its_maps() -> None:
    model, seen = resnet18(num_classes=10).eval(), []
    model.layer4[1].conv2.register_forward_hook(lambda module, inputs, outputs: seen.append(outputs.shape))
    inputs = torch.randn(2, 3, 32, 32)
    assert_close(twin(model)(inputs), model(inputs), rtol=1e-4, atol=1e-6)
    assert seen == [(2, 512, 1, 1)] * 2


@pytest.mark.parametrize(
    ("has_wide_vectors", "size", "num_quick"),
    [
        (True, 32, 5),  # the last stage's: two in each of two blocks, and a shortcut
        (False, 32, 5 + 4),  # and those of the third stage, but for its shortcut, whose kernel is 1x1
        (False, 64, 4),
        (True, 64, 0),
        (False, 224, 0),
    ],
)
def test_how_many_convolutions_of_a_resnet_are_others(
    has_wide_vectors: bool, size: int, num_quick: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(twins, "has_wide_vectors", lambda: has_wide_vectors)
    network = twin(resnet18(num_classes=10).eval())
    with torch.profiler.profile() as profile:
        network(torch.randn(2, 3, size, size))
    called = Counter(event.name for event in profile.events())
    assert called["aten::conv2d"] == 20 - num_quick


def test_dropout_draws_what_it_would() -> None:
    model = LeNet(num_classes=10, dropout=0.5)
    outputs = []
    for network in (model, twin(model)):
        torch.manual_seed(1)
        outputs.append(network.train()(torch.ones(4, 1, 32, 32)))
    assert_close(*outputs, rtol=1e-5, atol=1e-6)


def test_of_another_model_nothing_is_known() -> None:
    model = TwoLayer(in_features=3, out_features=2)
    assert twin(model) is model


class Mine(LeNet):
    """A class of the user's, which may do anything."""


def test_a_class_derived_from_ours_is_another() -> None:
    model = Mine(num_classes=10)
    assert twin(model) is model


def test_whoever_looks_at_the_maps_gets_plain_tensors() -> None:
    model, seen = LeNet(num_classes=10), []
    quick, inputs = twin(model), torch.randn(4, 1, 32, 32)
    alone = quick(inputs)
    for module in (model, model.conv1):
        handle = module.register_forward_hook(lambda module, inputs, outputs: seen.append(outputs.mean()))
        assert_close(quick(inputs), alone)
        handle.remove()
    assert torch.equal(quick(inputs), alone)
    assert len(seen) == 2


@pytest.mark.parametrize("name", ["layer4.0", "layer4.1.conv2"])
def test_what_is_computed_again_is_the_twin_s(name: str) -> None:
    """The same bits as without, by the same quick convolutions."""
    found = []
    for is_again in (False, True):
        torch.manual_seed(0)
        model = resnet18(num_classes=10)
        if is_again:
            recompute([model.get_submodule(name)])
        found.append(loss_and_gradients(twin(model), model, torch.randn(4, 3, 32, 32)))
    assert_close(*found, rtol=0, atol=0)
