"""ResNet-18, 34 and 50, with torchvision's parameter names, so that its published ImageNet weights load.

Source: K. He, X. Zhang, S. Ren, J. Sun, "Deep residual learning for image recognition", CVPR 2016, table 1. Two things
are torchvision's: in a bottleneck the 3x3 convolution takes the stride, not the first 1x1 (its "v1.5"), and where a
shortcut changes shape it is a 1x1 convolution (the paper's option B).
"""

import textwrap
from collections.abc import Sequence

from torch import Tensor, nn

from trainer.errors import UserError
from trainer.models.sizes import refuse_no_size
from trainer.models.weights import can_be, fetched, fit_in, read_weights, without_prefixes

# The first eight digits of the file's SHA-256 stand in its name; torch.hub checks them.
IMAGENET = {
    "resnet18": "https://download.pytorch.org/models/resnet18-f37072fd.pth",
    "resnet34": "https://download.pytorch.org/models/resnet34-b627a593.pth",
    "resnet50": "https://download.pytorch.org/models/resnet50-0676ba61.pth",
}
# The second is torchvision's word for the same files: a config that says it fits torchvision's models, too.
IMAGENET_WORDS = ("imagenet", "IMAGENET1K_V1")


def convolution(in_channels: int, channels: int, kernel_size: int, stride: int = 1) -> nn.Conv2d:
    """Padded to keep the size (but for the stride), without the bias that the batch norm after it would undo."""
    return nn.Conv2d(in_channels, channels, kernel_size, stride, padding=kernel_size // 2, bias=False)


def shortcut(in_channels: int, channels: int, stride: int) -> nn.Sequential | None:
    """What the input must pass to be added to the block's output: nothing where the shapes are the same."""
    if stride == 1 and in_channels == channels:
        return None
    return nn.Sequential(convolution(in_channels, channels, 1, stride), nn.BatchNorm2d(channels))


class BasicBlock(nn.Module):
    """3x3, 3x3 and the shortcut around: `[N, in_channels, h, w]` to `[N, channels, h/stride, w/stride]`."""

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = convolution(in_channels, channels, 3, stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = convolution(channels, channels, 3)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = shortcut(in_channels, channels, stride)

    def forward(self, inputs: Tensor) -> Tensor:
        # In place wherever the backward pass does not need what is overwritten: a batch norm keeps its input alone.
        maps = self.bn1(self.conv1(inputs)).relu_()
        maps = self.bn2(self.conv2(maps))
        maps += inputs if self.downsample is None else self.downsample(inputs)
        return maps.relu_()


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 and the shortcut around: `[N, in_channels, h, w]` to `[N, 4 * channels, h/stride, w/stride]`."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = convolution(in_channels, channels, 1)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = convolution(channels, channels, 3, stride)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = convolution(channels, self.expansion * channels, 1)
        self.bn3 = nn.BatchNorm2d(self.expansion * channels)
        self.downsample = shortcut(in_channels, self.expansion * channels, stride)

    def forward(self, inputs: Tensor) -> Tensor:
        maps = self.bn1(self.conv1(inputs)).relu_()
        maps = self.bn2(self.conv2(maps)).relu_()
        maps = self.bn3(self.conv3(maps))
        maps += inputs if self.downsample is None else self.downsample(inputs)
        return maps.relu_()


class ResNet(nn.Module):
    """A stem, four stages of blocks with 64, 128, 256, 512 channels (times the block's expansion), a linear layer.

    Convolutions start from He's normal distribution with the fan of their outputs, as torchvision's do.

    Args:
        block: BasicBlock or Bottleneck.
        num_blocks: how many of them in each of the four stages.
        num_classes: numbers per output.
        in_channels: 3 for colour, 1 for grey.

    Shapes:
        inputs `[N, in_channels, height, width]` to logits `[N, num_classes]`; 224x224 is what it was made for, any size
        works, and a side is divided by 32 on the way.
    """

    is_pretrained = False  # True once `load` has filled it
    fitted: Sequence[str] = ()  # what it said then, see `trainer.models.weights.fit_in`

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        num_blocks: tuple[int, int, int, int],
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        refuse_no_size(num_classes=num_classes, in_channels=in_channels)

        def stage(in_channels: int, channels: int, num: int, stride: int) -> nn.Sequential:
            inner = block.expansion * channels
            first = block(in_channels, channels, stride)
            return nn.Sequential(first, *(block(inner, channels, 1) for _ in range(num - 1)))

        self.conv1 = convolution(in_channels, 64, 7, stride=2)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.layer1 = stage(64, 64, num_blocks[0], stride=1)
        self.layer2 = stage(block.expansion * 64, 128, num_blocks[1], stride=2)
        self.layer3 = stage(block.expansion * 128, 256, num_blocks[2], stride=2)
        self.layer4 = stage(block.expansion * 256, 512, num_blocks[3], stride=2)
        self.fc = nn.Linear(block.expansion * 512, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, inputs: Tensor) -> Tensor:
        maps = self.maxpool(self.bn1(self.conv1(inputs)).relu_())
        maps = self.layer4(self.layer3(self.layer2(self.layer1(maps))))
        return self.fc(maps.mean((2, 3)))


def resnet18(num_classes: int = 1000, in_channels: int = 3, weights: str | None = None) -> ResNet:
    """11,689,512 parameters for 1000 classes.

    Args:
        num_classes: numbers per output.
        in_channels: 3 for colour, 1 for grey.
        weights: None for a random start; `imagenet` for torchvision's published weights (its IMAGENET1K_V1), fetched
            once to torch.hub's cache folder; or the path of a state dict, see `trainer.models.weights`. All names and
            shapes must fit, but for the
            last layer: where the file has another number of classes, `fc` starts at random.

    Raises:
        UserError: the weights cannot be had, cannot be read without running code, or do not fit.
    """
    return load(ResNet(BasicBlock, (2, 2, 2, 2), num_classes, in_channels), "resnet18", weights)


def resnet34(num_classes: int = 1000, in_channels: int = 3, weights: str | None = None) -> ResNet:
    """21,797,672 parameters for 1000 classes; arguments and errors as for `resnet18`."""
    return load(ResNet(BasicBlock, (3, 4, 6, 3), num_classes, in_channels), "resnet34", weights)


def resnet50(num_classes: int = 1000, in_channels: int = 3, weights: str | None = None) -> ResNet:
    """25,557,032 parameters for 1000 classes; arguments and errors as for `resnet18`."""
    return load(ResNet(Bottleneck, (3, 4, 6, 3), num_classes, in_channels), "resnet50", weights)


def load(model: ResNet, architecture: str, weights: str | None) -> ResNet:
    """The model with the weights in it; see `resnet18`."""
    if weights is None:
        return model
    weights = str(weights)
    is_published = weights in IMAGENET_WORDS
    said = f"weights={weights}", "model.weights=<path of that file>, or model.backbone.weights= for a frozen one"
    state = fetched(IMAGENET[architecture], *said) if is_published else read_weights(weights, IMAGENET_WORDS)
    own = model.state_dict()
    state = without_prefixes(state, own, weights)
    if odd := [name for name in own if name in state and not can_be(own[name], state[name])]:
        kinds = f"{odd[0]} is {state[odd[0]].dtype}, here {own[odd[0]].dtype}"
        raise UserError(f"weights={weights}: does not fit {architecture}: {kinds}.")
    is_other_head = "fc.weight" in state and state["fc.weight"].shape[:1] != own["fc.weight"].shape[:1]
    head = {"fc.weight": own["fc.weight"], "fc.bias": own["fc.bias"]} if is_other_head else {}
    try:
        model.load_state_dict(state | head, strict=True)
    except RuntimeError as error:  # its first line is a heading, then come a line or more for what is amiss
        reasons = "; ".join(textwrap.shorten(line, 120, placeholder=" ...") for line in str(error).splitlines()[1:3])
        raise UserError(f"weights={weights}: does not fit {architecture}: {reasons.rstrip('. ')}.") from error
    model.is_pretrained, model.fitted = True, fit_in(model, state, weights)
    return model
