"""The architectures but ResNet (test_resnet.py), how they start, and their configs."""

import math
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, max_pool2d, relu
from torch.testing import assert_close

from trainer.models.finetune import Finetune
from trainer.models.initialise import initialise
from trainer.models.lenet import LeNet
from trainer.models.resnet import resnet18
from trainer.models.sequential import Sequential
from trainer.models.two_layer import GRADIENTS, TwoLayer

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def step(model: nn.Module, inputs: Tensor, num_classes: int) -> None:
    """One step of gradient descent in train mode, of what trains."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    loss = cross_entropy(model.train()(inputs), torch.arange(len(inputs)) % num_classes)
    for parameter, grad in zip(trainable, torch.autograd.grad(loss, trainable), strict=True):
        parameter.data -= 0.1 * grad


def changed(model: nn.Module, before: dict[str, Tensor]) -> set[str]:
    """Names of the state dict's entries that differ from what they were."""
    return {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}


def copied(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


class TestTwoLayer:
    @pytest.mark.parametrize("gradient", GRADIENTS)
    def test_is_what_its_formula_says(self, gradient):
        model = TwoLayer(in_features=6, hidden_features=4, out_features=3, gradient=gradient)
        inputs = torch.randn(5, 2, 3)
        by_entry = torch.zeros(5, 3)
        for n, k in ((n, k) for n in range(5) for k in range(3)):
            hidden = [max(0, inputs[n].flatten() @ model.w1[:, j] + model.b1[j]) for j in range(4)]
            by_entry[n, k] = sum(hidden[j] * model.w2[j, k] for j in range(4)) + model.b2[k]
        assert_close(model(inputs), by_entry)

    @pytest.mark.parametrize("bias", [False, True])
    @pytest.mark.parametrize("gradient", GRADIENTS)
    def test_parameters_are_interchangeable(self, gradient, bias):
        sizes = {"in_features": 6, "hidden_features": 4, "out_features": 3, "bias": bias}
        first, second = TwoLayer(**sizes), TwoLayer(**sizes, gradient=gradient)
        shapes = {"w1": (6, 4), "w2": (4, 3), "b1": (4,), "b2": (3,)}
        expected = {name: shape for name, shape in shapes.items() if bias or name.startswith("w")}
        assert {name: tuple(tensor.shape) for name, tensor in second.state_dict().items()} == expected
        second.load_state_dict(first.state_dict())
        inputs = torch.randn(5, 6)
        assert_close(first(inputs), second(inputs))

    def test_starts_as_linear_layers_do(self):
        model = TwoLayer(in_features=400, hidden_features=100, out_features=50)
        for ours, layer in (((model.w1, model.b1), nn.Linear(400, 100)), ((model.w2, model.b2), nn.Linear(100, 50))):
            for tensor, linears in zip(ours, (layer.weight, layer.bias), strict=True):
                bound = 1 / math.sqrt(layer.in_features)
                assert 0.9 * bound < tensor.abs().max() <= bound
                assert linears.abs().max() <= bound
                assert tensor.std().item() == pytest.approx(linears.std().item(), rel=0.3)

    def test_draws_the_same_for_every_gradient(self):
        starts = []
        for gradient in GRADIENTS:
            torch.manual_seed(0)
            starts.append(TwoLayer(in_features=6, out_features=3, gradient=gradient).w1)
        assert all(torch.equal(start, starts[0]) for start in starts)

    def test_an_unknown_gradient_is_named_with_the_known(self):
        with pytest.raises(ValueError, match=r"^gradient=numpi: .*custom_function\. Did you mean numpy\?$"):
            TwoLayer(in_features=6, out_features=3, gradient="numpi")

    @pytest.mark.parametrize("size", [0, -1, 2.5, None])
    @pytest.mark.parametrize("name", ["in_features", "hidden_features", "out_features"])
    def test_a_size_below_one_is_refused(self, name, size):
        with pytest.raises(ValueError, match=f"^{name}={size}: "):
            TwoLayer(**({"in_features": 6, "out_features": 3} | {name: size}))


class TestLeNet:
    @pytest.mark.parametrize(
        ("kernel_size", "flat", "num_parameters"),
        [
            (5, 16 * 5 * 5, 6 * 26 + 16 * 151 + 120 * 401 + 84 * 121 + 10 * 85),
            (3, 16 * 6 * 6, 6 * 10 + 16 * 55 + 120 * 577 + 84 * 121 + 10 * 85),
        ],
    )
    def test_has_the_papers_sizes(self, kernel_size, flat, num_parameters):
        model = LeNet(num_classes=10, kernel_size=kernel_size)
        assert model.fc1.in_features == flat
        assert sum(parameter.numel() for parameter in model.parameters()) == num_parameters
        assert {name.partition(".")[0] for name in model.state_dict()} == {"conv1", "conv2", "fc1", "fc2", "fc3"}
        assert model(torch.randn(2, 1, 32, 32)).shape == (2, 10)

    def test_is_convolution_relu_pool_twice_and_three_linear_layers(self):
        model = LeNet(num_classes=4, in_channels=3, image_size=28).double()
        inputs = torch.randn(5, 3, 28, 28, dtype=torch.float64, requires_grad=True)
        maps = max_pool2d(relu(model.conv1(inputs)), 2)
        maps = max_pool2d(relu(model.conv2(maps)), 2)
        plain = model.fc3(relu(model.fc2(relu(model.fc1(maps.reshape(5, -1))))))
        outputs = model(inputs)
        assert_close(outputs, plain, rtol=1e-12, atol=1e-12)
        wanted = [inputs, *model.parameters()]
        expected = torch.autograd.grad(plain.square().sum(), wanted)
        for grad, expected_grad in zip(torch.autograd.grad(outputs.square().sum(), wanted), expected, strict=True):
            assert_close(grad, expected_grad, rtol=1e-10, atol=1e-12)

    @pytest.mark.parametrize(("kernel_size", "smallest"), [(5, 16), (3, 10)])
    def test_the_smallest_image_works_and_a_smaller_one_is_refused(self, kernel_size, smallest):
        model = LeNet(num_classes=10, kernel_size=kernel_size, image_size=smallest)
        assert model(torch.randn(2, 1, smallest, smallest)).shape == (2, 10)
        with pytest.raises(ValueError, match=f"^image_size={smallest - 1}: .* at least {smallest}$"):
            LeNet(num_classes=10, kernel_size=kernel_size, image_size=smallest - 1)

    @pytest.mark.parametrize("name", ["num_classes", "kernel_size", "in_channels", "image_size"])
    def test_a_size_below_one_is_refused(self, name):
        with pytest.raises(ValueError, match=f"^{name}=0: "):
            LeNet(**({"num_classes": 10} | {name: 0}))


class Backbone(nn.Module):
    """A small network of another shape: its last layer lies inside a Sequential, behind a dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5))
        self.neck = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1))
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1000))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.classifier(self.neck(self.body(inputs)))


class TestFinetune:
    def test_a_frozen_resnet18_trains_5130_of_11181642_parameters_for_ten_classes(self):
        model = Finetune(resnet18(), 10)
        assert sum(parameter.numel() for parameter in model.parameters()) == 11_181_642
        assert sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad) == 5_130

    def test_a_step_changes_the_head_alone_and_no_batch_norm_buffer(self):
        model = Finetune(resnet18(), 10)
        before = copied(model)
        step(model, torch.randn(4, 3, 32, 32), 10)
        assert changed(model, before) == {"head.weight", "head.bias"}

    def test_what_is_unfrozen_trains_too_with_its_batch_norms(self):
        model = Finetune(resnet18(), 10, unfreeze=["layer4"])
        before = copied(model)
        step(model, torch.randn(4, 3, 64, 64), 10)
        expected = {name for name in before if name.startswith(("head.", "backbone.layer4."))}
        assert changed(model, before) == expected
        assert sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad) == (
            5_130 + 512 * 256 * 9 + 3 * 512 * 512 * 9 + 512 * 256 + 5 * 2 * 512
        )

    def test_outputs_are_the_backbones_where_the_head_is_its_last_layer(self):
        backbone = Backbone().eval()
        last, inputs = backbone.classifier[3], torch.randn(4, 3, 8, 8)
        expected = backbone(inputs)
        model = Finetune(backbone, 1000)
        model.head.load_state_dict(last.state_dict())
        assert torch.equal(model(inputs), expected)  # in train mode: a frozen dropout lets everything through
        assert torch.equal(model.head(model.features(inputs)), expected)
        assert model.features(inputs).shape == (4, 8)
        assert not model.features(inputs).requires_grad

    @pytest.mark.parametrize("unfreeze", ["neck", ["neck"], ("neck",), OmegaConf.create(["neck"])])
    def test_train_and_eval_reach_only_what_trains(self, unfreeze):
        model = Finetune(Backbone(), 10, unfreeze)
        for training in (True, False, True):
            model.train(training)
            modes = {name: module.training for name, module in model.named_modules()}
            assert {name for name, mode in modes.items() if mode} == {
                name for name in modes if training and (name in ("", "head") or name.startswith("backbone.neck"))
            }

    def test_a_nested_part_can_be_unfrozen(self):
        model = Finetune(resnet18(), 10, unfreeze=["layer4.1.bn2"])
        trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        bn2 = "backbone.layer4.1.bn2"
        assert trainable == {"head.weight", "head.bias", f"{bn2}.weight", f"{bn2}.bias"}
        assert [name for name, module in model.named_modules() if module.training] == ["", bn2, "head"]

    @pytest.mark.parametrize("name", ["layer5", "relu", "fc", ""])
    def test_an_unknown_part_is_named_with_the_known(self, name):
        parts = "conv1, bn1, layer1, layer2, layer3 or layer4"
        with pytest.raises(ValueError, match=f"^unfreeze={name}: the backbone's parts are {parts}"):
            Finetune(resnet18(), 10, unfreeze=[name])

    def test_a_backbone_without_a_linear_layer_is_refused(self):
        with pytest.raises(ValueError, match=r"^backbone=Conv2d: has no nn\.Linear"):
            Finetune(nn.Conv2d(1, 1, 1), 10)

    def test_a_size_below_one_is_refused(self):
        with pytest.raises(ValueError, match=r"^num_classes=0: "):
            Finetune(Backbone(), 0)


class TestSequential:
    @pytest.mark.parametrize(
        ("layers", "gives"),
        [
            ([nn.Linear(3, 2)], "logits"),
            ([nn.Linear(3, 2), nn.Softmax(1)], "probabilities"),
            ([nn.Linear(3, 2), nn.Sigmoid()], "probabilities"),
            ([nn.Linear(3, 2), nn.LogSoftmax(1)], "log_probabilities"),
            ([nn.Linear(3, 2), nn.LogSigmoid()], "log_probabilities"),
            ([nn.Softmax(1), nn.Linear(3, 2)], "logits"),
            ([nn.Linear(3, 2), nn.Sequential(nn.ReLU(), nn.Sequential(nn.Softmax(1)))], "probabilities"),
        ],
    )
    def test_knows_what_its_last_layer_gives(self, layers, gives):
        model = Sequential(layers)
        assert model.gives == gives
        assert list(model) == layers
        outputs = model(torch.randn(4, 3))
        if gives == "probabilities":
            assert ((outputs >= 0) & (outputs <= 1)).all()
        if gives == "log_probabilities":
            assert (outputs <= 0).all()

    def test_no_layers_are_refused(self):
        with pytest.raises(ValueError, match=r"^layers=\[\]: "):
            Sequential([])

    def test_what_is_no_layer_is_named(self):
        with pytest.raises(ValueError, match=r"^layers\.1=.*_target_"):
            Sequential([nn.ReLU(), {"in_features": 3}])


def expected_std(scheme: str, fan_in: int, fan_out: int) -> float:
    return {"normal": 0.3, "xavier": math.sqrt(2 / (fan_in + fan_out)), "kaiming": math.sqrt(2 / fan_in)}[scheme]


class TestInitialise:
    @pytest.mark.parametrize("scheme", ["normal", "xavier", "kaiming"])
    @pytest.mark.parametrize(
        ("layer", "fan_in", "fan_out"),
        [
            (nn.Linear(300, 40), 300, 40),
            (nn.Conv2d(20, 30, 5), 20 * 25, 30 * 25),
            (nn.Conv2d(20, 30, (5, 1)), 20 * 5, 30 * 5),
            (nn.ConvTranspose2d(20, 30, 5), 20 * 25, 30 * 25),
        ],
        ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else str(value),
    )
    def test_weights_have_the_schemes_deviation_and_biases_are_zero(self, scheme, layer, fan_in, fan_out):
        initialise(nn.Sequential(nn.ReLU(), layer), scheme, std=0.3)
        assert layer.weight.std().item() == pytest.approx(expected_std(scheme, fan_in, fan_out), rel=0.05)
        assert abs(layer.weight.mean().item()) < 0.05 * layer.weight.std().item()
        assert not layer.bias.any()

    @pytest.mark.parametrize("scheme", ["normal", "xavier", "kaiming"])
    def test_the_two_layer_networks_layout_is_known(self, scheme):
        model = TwoLayer(in_features=500, hidden_features=60, out_features=200)
        initialise(model, scheme, std=0.3)
        assert model.w1.std().item() == pytest.approx(expected_std(scheme, 500, 60), rel=0.05)
        assert model.w2.std().item() == pytest.approx(expected_std(scheme, 60, 200), rel=0.05)
        assert not model.b1.any()
        assert not model.b2.any()
        assert all(parameter.is_leaf and parameter.requires_grad for parameter in model.parameters())
        step(model, torch.randn(4, 500), 200)

    def test_normal_is_standard_normal_unless_told(self):
        model = TwoLayer(in_features=500, hidden_features=60, out_features=200, bias=False)
        initialise(model, "normal")
        assert model.w1.std().item() == pytest.approx(1, rel=0.05)

    def test_default_draws_nothing(self):
        model = LeNet(num_classes=10)
        before, random_state = copied(model), torch.get_rng_state()
        initialise(model, "default")
        assert not changed(model, before)
        assert torch.equal(torch.get_rng_state(), random_state)

    def test_draws_from_torchs_generator(self):
        models = [LeNet(num_classes=10) for _ in range(3)]
        for model, seed in zip(models, (0, 0, 1), strict=True):
            torch.manual_seed(seed)
            initialise(model, "kaiming")
        assert not changed(models[1], models[0].state_dict())
        assert len(changed(models[2], models[0].state_dict())) == 5  # the weights; the biases are zero

    def test_norms_and_other_vectors_are_left_alone(self):
        layers = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.LayerNorm((4, 6, 6)), nn.GroupNorm(2, 4), nn.PReLU(4)]
        model = nn.Sequential(*layers)
        for parameter in model.parameters():
            nn.init.constant_(parameter, 0.25)
        before = copied(model)
        initialise(model, "xavier")
        assert changed(model, before) == {"0.weight", "0.bias"}

    def test_what_is_frozen_is_left_alone(self):
        model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5))
        model[0].requires_grad_(False)
        before = copied(model)
        initialise(model, "xavier")
        assert changed(model, before) == {"1.weight", "1.bias"}

    def test_of_a_finetuned_network_only_the_head_starts_anew(self):
        model = Finetune(Backbone(), 10, unfreeze=["neck", "body"])
        before = copied(model)
        initialise(model, "xavier")
        assert changed(model, before) == {"head.weight", "head.bias"}

    def test_a_model_without_weights_to_draw_is_refused(self):
        with pytest.raises(ValueError, match=r"^init=xavier: .*Try init=default\.$"):
            initialise(LeNet(num_classes=10).requires_grad_(False), "xavier")

    def test_an_unknown_scheme_is_named_with_the_known(self):
        with pytest.raises(ValueError, match=r"^init=xavire: accepted are .*kaiming\. Did you mean xavier\?$"):
            initialise(LeNet(num_classes=10), "xavire")

    @pytest.mark.parametrize("std", [0.0, -1.0, math.inf, math.nan])
    def test_a_deviation_that_is_none_is_refused(self, std):
        with pytest.raises(ValueError, match=r"^init_std="):
            initialise(LeNet(num_classes=10), "normal", std)


def shipped(name: str, *overrides: str, **facts: int) -> nn.Module:
    """The model of `configs/model/<name>.yaml`, sized by these facts where the file leaves them open."""
    with initialize_config_dir(str(CONFIGS / "model"), version_base="1.3"):
        config = OmegaConf.create({"model": compose(name, list(overrides))})
    OmegaConf.set_struct(config.model, False)
    assert (config.model.pop("init"), config.model.pop("init_std")) == ("default", 1.0)
    for fact in [fact for fact in facts if fact in config.model and config.model[fact] is None]:
        config.model[fact] = facts[fact]
    if "resnet" in name:  # the image's size is for whoever prepares the images: a ResNet takes any
        del config.model.image_size
    if name == "frozen_resnet":
        del config.model.in_channels
    return instantiate(config.model)


@pytest.mark.parametrize(
    ("name", "overrides", "num_trainable"),
    [
        ("two_layer", [], 3072 * 100 + 100 + 100 * 7 + 7),
        ("two_layer", ["bias=false", "gradient=numpy", "hidden_features=5"], 3072 * 5 + 5 * 7),
        ("lenet", [], 61_706 - 3 * 85),
        ("lenet", ["kernel_size=3", "in_channels=3"], 6 * 28 + 16 * 55 + 120 * 577 + 84 * 121 + 7 * 85),
        ("resnet18", [], 11_689_512 - 993 * 513),
        ("resnet34", [], 21_797_672 - 993 * 513),
        ("resnet50", [], 25_557_032 - 993 * 2049),
        ("frozen_resnet", ["backbone.weights=null"], 513 * 7),
        ("frozen_resnet", ["backbone.weights=null", "backbone._target_=trainer.models.resnet.resnet50"], 2049 * 7),
        ("sequential", [], 3072 * 5 + 5 + 5 * 20 + 20 + 20 * 7 + 7),
    ],
)
def test_every_config_builds_a_model_that_trains(name, overrides, num_trainable):
    facts = {"in_features": 3072, "out_features": 7, "num_classes": 7, "in_channels": 3, "image_size": 32}
    model = shipped(name, *overrides, **facts)
    assert sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad) == num_trainable
    before = copied(model)
    channels = 1 if name == "lenet" and not overrides else 3
    step(model, torch.randn(4, channels, 32, 32), 7)
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} <= changed(model, before)


def test_the_shipped_sequential_is_the_one_described():
    model = shipped("sequential", in_features=64, num_classes=10)
    assert [type(layer) for layer in model] == [
        *(nn.Flatten, nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear, nn.Dropout, nn.Softmax)
    ]
    assert model.gives == "probabilities"
    assert model[6].p == 0.3
    assert_close(model(torch.randn(4, 1, 8, 8)).sum(1), torch.ones(4))
