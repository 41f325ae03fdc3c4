"""LeNet-5, the convolutional network that read handwritten digits.

Source: Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, "Gradient-based learning applied to document recognition",
Proceedings of the IEEE 86(11), 1998, section II.B. What differs from the paper, as is common today: ReLU for the scaled
tanh, max pooling for the trainable average, every map of the second convolution sees all six maps of the first, and a
plain linear layer gives logits in place of the radial basis functions.
"""

from torch import Tensor, nn
from torch.nn.functional import dropout, max_pool2d, relu

from trainer.models.sizes import refuse_no_size


class LeNet(nn.Module):
    """Two convolutions (6 and 16 maps), each pooled 2x2, then linear layers of 120, 84 and num_classes units.

    Args:
        num_classes: numbers per output.
        kernel_size: side of both convolutions' kernels. On 32x32 the first linear layer has 16*5*5 inputs with 5 and
            16*6*6 with 3.
        in_channels: 1 for grey, 3 for colour.
        image_size: side of the square images, in pixels.
        dropout: share of the 120 and of the 84 units that are left out at random while it trains.

    Shapes:
        inputs `[N, in_channels, image_size, image_size]` to logits `[N, num_classes]`.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        kernel_size: int = 5,
        in_channels: int = 1,
        image_size: int = 32,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.dropout = dropout
        refuse_no_size(num_classes=num_classes, in_channels=in_channels, kernel_size=kernel_size, image_size=image_size)
        side = image_size
        for _ in range(2):  # an unpadded convolution takes kernel_size - 1 pixels off, the pool leaves half
            side = (side - kernel_size + 1) // 2
        if side < 1:
            smallest = 3 * kernel_size + 1
            raise ValueError(f"image_size={image_size}: kernel_size={kernel_size} needs at least {smallest}")
        self.conv1 = nn.Conv2d(in_channels, 6, kernel_size)
        self.conv2 = nn.Conv2d(6, 16, kernel_size)
        self.fc1 = nn.Linear(16 * side * side, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        maps = relu(max_pool2d(self.conv1(inputs), 2))
        maps = relu(max_pool2d(self.conv2(maps), 2))
        return self.classified(maps)

    def classified(self, maps: Tensor) -> Tensor:
        """Maps `[N, 16, side, side]` to logits."""
        hidden = relu(self.fc1(maps.flatten(1)))
        hidden = relu(self.fc2(dropout(hidden, self.dropout, self.training)))
        return self.fc3(dropout(hidden, self.dropout, self.training))
