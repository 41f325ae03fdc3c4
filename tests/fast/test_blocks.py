"""Maps in oneDNN's layout: another way through memory, the same numbers; whoever looks gets plain tensors."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from trainer.fast import layout
from trainer.fast.layout import in_blocks
from trainer.models.finetune import Finetune
from trainer.models.lenet import LeNet
from trainer.models.resnet import resnet18
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
    quick = in_blocks(model)
    assert quick is not model
    found = [loss_and_gradients(network, model, inputs) for network in (model, quick)]
    assert_close(*found, rtol=1e-5, atol=1e-7)


RESNETS = [resnet18, lambda num_classes: Finetune(resnet18(), num_classes, ["layer4"])]


@pytest.mark.parametrize("make", RESNETS)
def test_of_resnet(make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "has_wide_vectors", lambda: True)
    torch.manual_seed(0)
    model = make(num_classes=10).eval()
    quick = in_blocks(model)
    assert quick is not model
    assert list(quick.state_dict()) == list(model.state_dict())
    inputs = torch.randn(4, 3, 40, 40)
    found = [loss_and_gradients(network, model, inputs) for network in (model, quick)]
    assert_close(*found, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("make", RESNETS)
def test_narrow_vectors_gain_nothing_from_a_resnets_pool_in_blocks(make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "has_wide_vectors", lambda: False)
    model = make(num_classes=10)
    assert in_blocks(model) is model


def test_dropout_draws_what_it_would() -> None:
    model = LeNet(num_classes=10, dropout=0.5)
    outputs = []
    for network in (model, in_blocks(model)):
        torch.manual_seed(1)
        outputs.append(network.train()(torch.ones(4, 1, 32, 32)))
    assert_close(*outputs, rtol=1e-5, atol=1e-6)


def test_of_another_model_nothing_is_known() -> None:
    model = TwoLayer(in_features=3, out_features=2)
    assert in_blocks(model) is model


class Mine(LeNet):
    """A class of the user's, which may do anything."""


def test_a_class_derived_from_ours_is_another() -> None:
    model = Mine(num_classes=10)
    assert in_blocks(model) is model


def test_whoever_looks_at_the_maps_gets_plain_tensors() -> None:
    model, seen = LeNet(num_classes=10), []
    quick, inputs = in_blocks(model), torch.randn(4, 1, 32, 32)
    alone = quick(inputs)
    for module in (model, model.conv1):
        handle = module.register_forward_hook(lambda module, inputs, outputs: seen.append(outputs.mean()))
        assert_close(quick(inputs), alone)
        handle.remove()
    assert torch.equal(quick(inputs), alone)
    assert len(seen) == 2
